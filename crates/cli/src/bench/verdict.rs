//! What the project set itself to reach, and whether this run reached it.
//!
//! The goals are ratios to peers in the same run, so they mean the same on
//! another machine; memory is the exception, being bytes.

use serde_json::{Value, json};

use super::report::{PRODUCT, Results};
use super::workload::{Metric, Workload};

/// One goal and what came of it.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    /// The goal in words.
    pub goal: String,
    /// What was measured against the bound; none if either side is missing.
    pub value: Option<f64>,
    /// Whether the goal holds, if it was measured.
    pub reached: Option<bool>,
}

impl Verdict {
    fn at_least(goal: String, value: Option<f64>, bound: f64) -> Verdict {
        Verdict { goal, value, reached: value.map(|value| value >= bound) }
    }

    fn at_most(goal: String, value: Option<f64>, bound: f64) -> Verdict {
        Verdict { goal, value, reached: value.map(|value| value <= bound) }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        match (self.value, self.reached) {
            (Some(value), Some(reached)) => {
                let value =
                    if value.abs() < 20.0 { format!("{value:.2}") } else { format!("{value:.0}") };
                format!("{}: {value} {}", self.goal, if reached { "ok" } else { "MISSED" })
            }
            _ => format!("{}: not measured", self.goal),
        }
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        json!({"goal": self.goal, "value": self.value, "reached": self.reached})
    }
}

const COPYING: [&str; 3] = ["haproxy-copy", "nginx", "socat"];
const RELAYS: [&str; 4] = ["haproxy-splice", "haproxy-copy", "nginx", "socat"];

/// The goals of the workloads that were run.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let mut list = Vec::new();
    for &workload in &results.workloads {
        match workload {
            Workload::Stream { .. } => streams(results, workload, &mut list),
            Workload::Rr { .. } => list.push(best_peer(results, workload)),
            Workload::Conn => {
                let ratio = results.ratio(workload, "nginx", Metric::Rate);
                list.push(Verdict::at_least("conn >= 1.00 x nginx".to_owned(), ratio, 1.0));
            }
            Workload::Idle => idle(results, workload, &mut list),
        }
    }
    list
}

fn streams(results: &Results, workload: Workload, list: &mut Vec<Verdict>) {
    let name = workload.name();
    let rate = |peer: &str| results.ratio(workload, peer, Metric::Rate);
    let cpu = |peer: &str| results.ratio(workload, peer, Metric::RelayCpu);
    let goal = format!("{name} >= 1.05 x haproxy-splice");
    list.push(Verdict::at_least(goal, rate("haproxy-splice"), 1.05));
    for peer in COPYING {
        list.push(Verdict::at_least(format!("{name} >= 1.20 x {peer}"), rate(peer), 1.2));
    }
    for (peer, bound) in [("haproxy-splice", 0.95), ("nginx", 0.6)] {
        let goal = format!("{name} relay CPU per GB <= {bound:.2} x {peer}");
        list.push(Verdict::at_most(goal, cpu(peer), bound));
    }
}

/// Request/response is held against whichever relay did best.
fn best_peer(results: &Results, workload: Workload) -> Verdict {
    let rate = |peer: &&str| results.median(workload, peer, Metric::Rate);
    let best = RELAYS
        .into_iter()
        .filter_map(|peer| rate(&peer).map(|rate| (peer, rate)))
        .max_by(|(_, a), (_, b)| a.total_cmp(b));
    let name = workload.name();
    match best {
        Some((peer, _)) => {
            let goal = format!("{name} >= 1.00 x the best peer ({peer})");
            Verdict::at_least(goal, results.ratio(workload, peer, Metric::Rate), 1.0)
        }
        None => Verdict::at_least(format!("{name} >= 1.00 x the best peer"), None, 1.0),
    }
}

fn idle(results: &Results, workload: Workload, list: &mut Vec<Verdict>) {
    let own = |metric| results.median(workload, PRODUCT, metric);
    for (goal, metric, bound) in [
        ("idle user memory per connection <= 2048 B", Metric::Memory, 2048.0),
        // "No CPU" to the accuracy of the clock of older kernels: one tick.
        ("idle CPU over 3 s <= 10 ms", Metric::IdleCpu, 10.0),
        ("idle pipe descriptors held <= 0", Metric::Pipes, 0.0),
    ] {
        list.push(Verdict::at_most(goal.to_owned(), own(metric), bound));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::Sample;

    const RR: Workload = Workload::Rr { size: 64, connections: 1 };

    fn results(workload: Workload, rates: &[(&'static str, f64)]) -> Results {
        let mut results = Results::new(vec![workload], Vec::new());
        for &(who, rate) in rates {
            results.add(workload, who, Sample::from([(Metric::Rate, rate)]));
        }
        results
    }

    #[test]
    fn the_best_peer_is_the_one_to_equal() {
        let found = verdicts(&results(RR, &[(PRODUCT, 10.0), ("nginx", 8.0), ("socat", 20.0)]));
        assert_eq!(found[0].line(), "rr64x1 >= 1.00 x the best peer (socat): 0.50 MISSED");
    }

    #[test]
    fn the_bound_is_no_peer() {
        let found = verdicts(&results(RR, &[(PRODUCT, 10.0), ("forward", 99.0), ("nginx", 10.0)]));
        assert_eq!(found[0].line(), "rr64x1 >= 1.00 x the best peer (nginx): 1.00 ok");
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let stream = Workload::Stream { streams: 8 };
        let found = verdicts(&results(stream, &[("haproxy-splice", 12.0)]));
        assert!(found.iter().all(|verdict| verdict.reached.is_none()));
        assert_eq!(found[0].line(), "stream8 >= 1.05 x haproxy-splice: not measured");
    }
}
