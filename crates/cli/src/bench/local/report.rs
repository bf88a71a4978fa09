//! Medians, ratios to plain TCP, and what the project set itself to reach.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::trial::{Contestant, Sample};
use super::workload::{Place, Work, Workload};
use crate::bench::report::{align, median};
use crate::bench::verdict::Verdict;

/// Everything that one benchmark found.
#[derive(Default)]
pub struct Results {
    /// In the order of the report.
    pub workloads: Vec<Workload>,
    samples: BTreeMap<(Workload, Contestant), Vec<Sample>>,
    /// What was left out or failed, and why.
    pub notes: Vec<String>,
}

/// One number of a sample.
type Reading = fn(&Sample) -> f64;

impl Results {
    /// Adds what one run gave.
    pub fn add(&mut self, workload: Workload, who: Contestant, sample: Sample) {
        self.samples.entry((workload, who)).or_default().push(sample);
    }

    /// Whether any run gave something.
    pub fn has(&self, workload: Workload, who: Contestant) -> bool {
        self.samples.contains_key(&(workload, who))
    }

    fn values(&self, workload: Workload, who: Contestant, reading: Reading) -> Vec<f64> {
        let samples = self.samples.get(&(workload, who));
        samples.map(|samples| samples.iter().map(reading).collect()).unwrap_or_default()
    }

    fn median(&self, workload: Workload, who: Contestant, reading: Reading) -> Option<f64> {
        median(&mut self.values(workload, who, reading))
    }

    /// The rate of one as a multiple of another's.
    fn ratio(&self, workload: Workload, who: Contestant, other: Contestant) -> Option<f64> {
        let rate: Reading = |sample| sample.rate;
        let other = self.median(workload, other, rate).filter(|rate| *rate > 0.0)?;
        Some(self.median(workload, who, rate)? / other)
    }

    fn contestants(&self, workload: Workload) -> impl Iterator<Item = Contestant> {
        self.samples.keys().filter(move |(of, _)| *of == workload).map(|(_, who)| *who)
    }

    /// One workload as an aligned table.
    pub fn table(&self, workload: Workload) -> String {
        let decimals = usize::from(workload.unit() == "Gbit/s") * 2;
        let (latency, work) = match workload.work {
            Work::Stream(_) => (false, "system ms/GB"),
            _ => (true, "system ms/1000"),
        };
        let name = workload.to_string();
        let mut rows = vec![
            [name.as_str(), workload.unit(), "min..max", "x tcp", work].map(str::to_owned).to_vec(),
        ];
        if latency {
            rows[0].extend(["p50 us", "p99 us"].map(str::to_owned));
        }
        for who in self.contestants(workload) {
            let mut rates = self.values(workload, who, |sample| sample.rate);
            let Some(rate) = median(&mut rates) else { continue };
            // Sorted by then.
            let (low, high) = (rates[0], rates[rates.len() - 1]);
            let number = |value: Option<f64>, decimals: usize| {
                value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
            };
            let mut row = vec![
                who.to_string(),
                format!("{rate:.decimals$}"),
                format!("{low:.decimals$}..{high:.decimals$}"),
                number(self.ratio(workload, who, Contestant::Tcp), 2),
                number(self.median(workload, who, |sample| sample.system_ms), 2),
            ];
            if latency {
                row.push(number(self.median(workload, who, |sample| sample.p50_us), 2));
                row.push(number(self.median(workload, who, |sample| sample.p99_us), 2));
            }
            rows.push(row);
        }
        align(&rows)
    }

    /// Everything, for programs.
    pub fn json(&self, machine: &Value, verdicts: &[Verdict]) -> Value {
        let mut workloads = Map::new();
        for &workload in &self.workloads {
            let mut contestants = Map::new();
            for who in self.contestants(workload) {
                let readings: [(&str, Reading); 4] = [
                    ("rate", |sample| sample.rate),
                    ("system_ms", |sample| sample.system_ms),
                    ("p50_us", |sample| sample.p50_us),
                    ("p99_us", |sample| sample.p99_us),
                ];
                let entry = readings.map(|(key, reading)| {
                    let rounds = self.values(workload, who, reading);
                    let middle = median(&mut rounds.clone());
                    (key.to_owned(), json!({"median": middle, "rounds": rounds}))
                });
                let mut entry = Map::from_iter(entry);
                let ratio = self.ratio(workload, who, Contestant::Tcp);
                entry.insert("this_over_tcp".to_owned(), json!(ratio));
                contestants.insert(who.to_string(), Value::Object(entry));
            }
            let entry = json!({"unit": workload.unit(), "contestants": contestants});
            workloads.insert(workload.to_string(), entry);
        }
        let verdicts: Vec<Value> = verdicts.iter().map(Verdict::json).collect();
        json!({"machine": machine, "workloads": workloads, "verdicts": verdicts, "notes": self.notes})
    }
}

/// The busy polling that the goals speak of.
const BUSY: u32 = 50;

/// The goals of the workloads that were run.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let mut list = Vec::new();
    for &workload in &results.workloads {
        let mut goal = |busy, other: Contestant, bound: f64| {
            let who = Contestant::Ring { busy };
            let ratio = results.ratio(workload, who, other);
            let goal = format!("{workload} {who} >= {bound:.2} x {other}");
            list.push(Verdict::at_least(goal, ratio, bound));
        };
        match (workload.place, workload.work) {
            (Place::Loopback, Work::RoundTrips(size)) if size <= 1 << 10 => {
                goal(BUSY, Contestant::Tcp, 50.0);
                goal(BUSY, Contestant::TcpSpin, 10.0);
            }
            (_, Work::RoundTrips(size)) if size > 1 << 10 => goal(BUSY, Contestant::Tcp, 10.0),
            (Place::Bridge, Work::RoundTrips(_)) => goal(BUSY, Contestant::Tcp, 50.0),
            (Place::Bridge, Work::Stream(size)) if size <= 4 << 10 => {
                goal(BUSY, Contestant::Tcp, 6.0);
            }
            (_, Work::Get(1)) => goal(BUSY, Contestant::Tcp, 8.0),
            (_, Work::Get(_)) => goal(BUSY, Contestant::Tcp, 1.6),
            _ => goal(BUSY, Contestant::Tcp, 1.0),
        }
        // Without busy polling nothing is slower.
        goal(0, Contestant::Tcp, 1.0);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64) -> Sample {
        Sample { rate, system_ms: 1.0, p50_us: 2.0, p99_us: 3.0 }
    }

    fn results(workload: Workload, rates: &[(Contestant, f64)]) -> Results {
        let mut results = Results { workloads: vec![workload], ..Results::default() };
        for &(who, rate) in rates {
            results.add(workload, who, sample(rate));
        }
        results
    }

    const RR1: Workload = Workload { place: Place::Loopback, work: Work::RoundTrips(1) };

    #[test]
    fn goals_are_ratios_to_plain_tcp() {
        let ring = Contestant::Ring { busy: 50 };
        let rates = [(Contestant::Tcp, 10.0), (ring, 600.0), (Contestant::TcpSpin, 100.0)];
        let lines: Vec<String> =
            verdicts(&results(RR1, &rates)).iter().map(Verdict::line).collect();
        let expected = [
            "rr1 ring-busy50 >= 50.00 x tcp: 60 ok",
            "rr1 ring-busy50 >= 10.00 x tcp-spin: 6.00 MISSED",
            "rr1 ring >= 1.00 x tcp: not measured",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        let rates = [(Contestant::Ring { busy: 0 }, 15.0), (Contestant::Tcp, 10.0)];
        let table = results(RR1, &rates).table(RR1);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].starts_with("tcp ") && lines[1].contains("1.00"), "{table}");
        assert!(lines[2].starts_with("ring ") && lines[2].contains("1.50"), "{table}");
    }
}
