//! Medians, tables, and the machine-readable report.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::engine::{self, Engines};
use super::verdict::Verdict;
use super::workload::{FAULTS, Metric, Sample, Workload};

/// The contestant that ratios are made to.
pub const PRODUCT: &str = "sosplice";

/// Everything one benchmark found.
#[derive(Default)]
pub struct Results {
    /// Contestants in the order of the report.
    pub contestants: Vec<&'static str>,
    /// Workloads in the order of the report.
    pub workloads: Vec<Workload>,
    /// Samples by workload and contestant, a sample a round.
    samples: BTreeMap<(&'static str, &'static str), Vec<Sample>>,
    /// Bytes by engine, by workload.
    engines: BTreeMap<&'static str, Option<Engines>>,
    /// What was left out or failed, and why.
    pub notes: Vec<String>,
}

impl Results {
    /// Nothing yet, about these.
    pub fn new(workloads: Vec<Workload>, contestants: Vec<&'static str>) -> Results {
        Results { workloads, contestants, ..Results::default() }
    }

    /// Adds what one run gave.
    pub fn add(&mut self, workload: Workload, contestant: &'static str, sample: Sample) {
        self.samples.entry((workload.name(), contestant)).or_default().push(sample);
    }

    /// Adds which engine carried a workload.
    pub fn add_engines(&mut self, workload: Workload, engines: Option<Engines>) {
        self.engines.insert(workload.name(), engines);
    }

    /// The share of a workload's bytes that one engine of the product carried.
    pub fn engine_share(&self, workload: Workload, engine: &str) -> Option<f64> {
        self.engines.get(workload.name())?.as_ref()?.share(engine)
    }

    /// The median over the rounds.
    pub fn median(&self, workload: Workload, contestant: &str, metric: Metric) -> Option<f64> {
        median(&mut self.values(workload, contestant, metric))
    }

    /// The product's median over a contestant's: above 1 the product has more.
    pub fn ratio(&self, workload: Workload, contestant: &str, metric: Metric) -> Option<f64> {
        let product = self.median(workload, PRODUCT, metric)?;
        let other = self.median(workload, contestant, metric)?;
        (other > 0.0).then(|| product / other)
    }

    fn values(&self, workload: Workload, contestant: &str, metric: Metric) -> Vec<f64> {
        let samples =
            self.samples.iter().find(|((w, c), _)| *w == workload.name() && *c == contestant);
        samples
            .map(|(_, samples)| samples.iter().filter_map(|s| s.get(&metric).copied()).collect())
            .unwrap_or_default()
    }

    /// One workload as an aligned table.
    pub fn table(&self, workload: Workload) -> String {
        let columns = workload.columns();
        let main = workload.main_metric();
        let mut rows = vec![vec![workload.name().to_owned()]];
        for (metric, heading, _) in columns {
            rows[0].push((*heading).to_owned());
            if *metric == main {
                rows[0].extend(["min..max".to_owned(), format!("{PRODUCT}/this")]);
            } else if *metric == Metric::RelayCpu {
                rows[0].push(format!("{PRODUCT}/this"));
            }
        }
        for contestant in &self.contestants {
            if self.median(workload, contestant, main).is_none() {
                continue;
            }
            let mut row = vec![(*contestant).to_owned()];
            for (metric, _, decimals) in columns {
                let cell = |value: Option<f64>| {
                    value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
                };
                let ratio = || {
                    let ratio = self.ratio(workload, contestant, *metric);
                    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
                };
                row.push(cell(self.median(workload, contestant, *metric)));
                if *metric == main {
                    let values = self.values(workload, contestant, *metric);
                    let low = values.iter().copied().reduce(f64::min);
                    let high = values.iter().copied().reduce(f64::max);
                    row.extend([format!("{}..{}", cell(low), cell(high)), ratio()]);
                } else if *metric == Metric::RelayCpu {
                    row.push(ratio());
                }
            }
            rows.push(row);
        }
        let mut text = align(&rows);
        if let Some(engines) = self.engines.get(workload.name()) {
            let _ = writeln!(text, "{}", engine::line(engines.as_ref()));
        }
        for fault in self.faults(workload) {
            let _ = writeln!(text, "{fault}");
        }
        text
    }

    /// A line for each contestant that delivered what was not sent, or not so.
    fn faults(&self, workload: Workload) -> Vec<String> {
        let told = |contestant: &&'static str| {
            let told: Vec<String> = FAULTS
                .into_iter()
                .map(|(fault, words)| (self.values(workload, contestant, fault), words))
                .map(|(values, words)| (values.iter().sum::<f64>(), words))
                .filter(|(sum, _)| *sum > 0.0)
                .map(|(sum, words)| format!("{sum:.0} datagrams {words}"))
                .collect();
            let told = told.join(", ");
            (!told.is_empty()).then(|| format!("{contestant}: {told}, in all rounds together"))
        };
        self.contestants.iter().filter_map(told).collect()
    }

    /// Everything, for programs.
    pub fn json(&self, machine: &Value, verdicts: &[Verdict]) -> Value {
        let mut workloads = Map::new();
        for &workload in &self.workloads {
            let mut contestants = Map::new();
            for &contestant in &self.contestants {
                let mut metrics = Map::new();
                let columns = workload.columns().iter().map(|(metric, ..)| *metric);
                for metric in columns.chain(FAULTS.map(|(metric, _)| metric)) {
                    let values = self.values(workload, contestant, metric);
                    if let Some(middle) = median(&mut values.clone()) {
                        let ratio = self.ratio(workload, contestant, metric);
                        let entry = json!({"median": middle, "rounds": values, "sosplice_over_this": ratio});
                        metrics.insert(metric.key().to_owned(), entry);
                    }
                }
                if !metrics.is_empty() {
                    contestants.insert(contestant.to_owned(), Value::Object(metrics));
                }
            }
            let engines = self.engines.get(workload.name()).and_then(Option::as_ref);
            let engines = engines.map(Engines::json);
            let entry = json!({"contestants": contestants, "engine": engines});
            workloads.insert(workload.name().to_owned(), entry);
        }
        let verdicts: Vec<Value> = verdicts.iter().map(Verdict::json).collect();
        json!({
            "machine": machine,
            "workloads": workloads,
            "verdicts": verdicts,
            "notes": self.notes,
        })
    }
}

/// The middle value; of two middles, their mean.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values) {
        (_, []) => None,
        (1, values) => Some(values[middle]),
        (_, values) => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// Columns as wide as their widest cell; names to the left, numbers to the right.
pub fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        rows.iter()
            .filter_map(|row| row.get(at))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            let width = widths[at];
            let _ = match at {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0]), Some(3.0));
        assert_eq!(median(&mut [9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn ratios_are_of_medians_and_missing_ones_stay_missing() {
        let stream = Workload::Stream { streams: 1 };
        let mut results = Results::default();
        for rate in [10.0, 12.0, 50.0] {
            results.add(stream, PRODUCT, Sample::from([(Metric::Rate, rate)]));
            results.add(stream, "socat", Sample::from([(Metric::Rate, rate / 2.0)]));
        }
        assert_eq!(results.ratio(stream, "socat", Metric::Rate), Some(2.0));
        assert_eq!(results.ratio(stream, "socat", Metric::RelayCpu), None);
        assert_eq!(results.ratio(stream, "nginx", Metric::Rate), None);
    }

    #[test]
    fn a_corrupted_datagram_of_any_round_is_shown() {
        let single = Workload::Single { size: 64 };
        let mut results = Results::new(vec![single], vec![PRODUCT, "socat"]);
        for corrupt in [0.0, 0.0, 2.0] {
            results.add(single, PRODUCT, Sample::from([(Metric::Rate, 1.0), (Metric::Late, 0.0)]));
            results.add(
                single,
                "socat",
                Sample::from([(Metric::Rate, 1.0), (Metric::Corrupt, corrupt)]),
            );
        }
        let told = ["socat: 2 datagrams corrupted, in all rounds together"];
        assert_eq!(results.faults(single), told);
        assert!(results.table(single).contains(told[0]));
    }

    #[test]
    fn tables_line_up() {
        let rows = [["a", "1"], ["long", "10.5"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(align(&rows), "a        1\nlong  10.5\n");
    }
}
