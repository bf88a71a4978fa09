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
    /// A goal that more is better for.
    pub fn at_least(goal: String, value: Option<f64>, bound: f64) -> Verdict {
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
            Workload::Rr { .. } => list.push(against_the_best(results, workload, 1.0)),
            Workload::Http { size, .. } => http(results, workload, size, &mut list),
            Workload::Conn => {
                let ratio = results.ratio(workload, "nginx", Metric::Rate);
                list.push(Verdict::at_least("conn >= 1.10 x nginx".to_owned(), ratio, 1.1));
            }
            Workload::Idle => idle(results, workload, &mut list),
            Workload::Single { .. } => singles(results, workload, &mut list),
            Workload::Gso { .. } => segmented(results, workload, &mut list),
            Workload::Ask { clients: 1 } => {
                let ratio = results.ratio(workload, "plain", Metric::P50);
                let goal = format!("{} p50 <= 1.00 x plain", workload.name());
                list.push(Verdict::at_most(goal, ratio, 1.0));
            }
            // Shown beside its peers, and held to nothing.
            Workload::Ask { .. } => {}
            Workload::Sessions => {
                let own = results.median(workload, PRODUCT, Metric::Memory);
                let goal = "sessions user memory per session <= 1024 B".to_owned();
                list.push(Verdict::at_most(goal, own, 1024.0));
            }
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

/// The relay that did best, the product apart.
fn best_peer(results: &Results, workload: Workload) -> Option<&'static str> {
    let rate = |peer: &&str| results.median(workload, peer, Metric::Rate);
    let rates = RELAYS.into_iter().filter_map(|peer| rate(&peer).map(|rate| (peer, rate)));
    rates.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(peer, _)| peer)
}

/// Request/response is held against whichever relay did best.
fn against_the_best(results: &Results, workload: Workload, bound: f64) -> Verdict {
    let name = workload.name();
    match best_peer(results, workload) {
        Some(peer) => {
            let goal = format!("{name} >= {bound:.2} x the best peer ({peer})");
            Verdict::at_least(goal, results.ratio(workload, peer, Metric::Rate), bound)
        }
        None => Verdict::at_least(format!("{name} >= {bound:.2} x the best peer"), None, bound),
    }
}

/// Small bodies must cost no throughput, large ones must gain from staying in the kernel;
/// what lies between is shown, and held to no rate.
fn http(results: &Results, workload: Workload, size: usize, list: &mut Vec<Verdict>) {
    let name = workload.name();
    let best = best_peer(results, workload);
    let ratio = |metric| best.and_then(|peer| results.ratio(workload, peer, metric));
    let peer = best.map(|peer| format!(" ({peer})")).unwrap_or_default();
    if !workload.is_bulk() {
        list.push(against_the_best(results, workload, 1.0));
    } else if size >= 1 << 20 {
        list.push(against_the_best(results, workload, 1.1));
        let goal = format!("{name} relay CPU per GB <= 0.85 x the best peer{peer}");
        list.push(Verdict::at_most(goal, ratio(Metric::RelayCpu), 0.85));
        let goal = format!("{name} share of bytes by the pipe engine >= 0.99");
        list.push(Verdict::at_least(goal, results.engine_share(workload, "pipe"), 0.99));
    }
    let goal = format!("{name} p99 <= 1.00 x the best peer{peer}");
    list.push(Verdict::at_most(goal, ratio(Metric::P99), 1.0));
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

/// A call a datagram at the sender: the relay may gather, nobody does it for it.
fn singles(results: &Results, workload: Workload, list: &mut Vec<Verdict>) {
    let name = workload.name();
    for (peer, bound) in [("plain", 1.35), ("forward", 0.85)] {
        let goal = format!("{name} >= {bound:.2} x {peer}");
        let rate = results.ratio(workload, peer, Metric::Rate);
        list.push(Verdict::at_least(goal, rate, bound));
    }
    let goal = format!("{name} relay CPU per million <= 0.60 x plain");
    let cpu = results.ratio(workload, "plain", Metric::RelayCpu);
    list.push(Verdict::at_most(goal, cpu, 0.6));
}

/// A sender with UDP_SEGMENT: who does not keep its bursts together pays for
/// each datagram again.
fn segmented(results: &Results, workload: Workload, list: &mut Vec<Verdict>) {
    let name = workload.name();
    for peer in ["plain", "nginx"] {
        let rate = results.ratio(workload, peer, Metric::Rate);
        list.push(Verdict::at_least(format!("{name} >= 6.00 x {peer}"), rate, 6.0));
    }
    for peer in ["plain", "nginx"] {
        let cpu = results.ratio(workload, peer, Metric::RelayCpu);
        let goal = format!("{name} relay CPU per million <= 1/6 x {peer}");
        list.push(Verdict::at_most(goal, cpu, 1.0 / 6.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::engine::Engines;
    use crate::bench::workload::{Sample, Verb};

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
    fn large_bodies_are_held_to_rate_cost_latency_and_engine() {
        let get = Workload::Http { verb: Verb::Get, size: 1 << 20, connections: 8 };
        let mut results = Results::new(vec![get], Vec::new());
        for (who, rate, cpu, p99) in [
            (PRODUCT, 1200.0, 80.0, 90.0),
            ("haproxy-splice", 1000.0, 100.0, 100.0),
            ("nginx", 800.0, 1.0, 1.0),
            ("forward", 9000.0, 1.0, 1.0),
        ] {
            let sample = [(Metric::Rate, rate), (Metric::RelayCpu, cpu), (Metric::P99, p99)].into();
            results.add(get, who, sample);
        }
        results.add_engines(
            get,
            Engines::read(r#"{"down_pipe":97,"down_copy":3}"#, &["pipe", "copy"]),
        );
        let lines: Vec<String> = verdicts(&results).iter().map(Verdict::line).collect();
        assert_eq!(
            lines,
            [
                "get1mx8 >= 1.10 x the best peer (haproxy-splice): 1.20 ok",
                "get1mx8 relay CPU per GB <= 0.85 x the best peer (haproxy-splice): 0.80 ok",
                "get1mx8 share of bytes by the pipe engine >= 0.99: 0.97 MISSED",
                "get1mx8 p99 <= 1.00 x the best peer (haproxy-splice): 0.90 ok",
            ]
        );
    }

    #[test]
    fn small_bodies_are_held_to_rate_and_latency() {
        let get = Workload::Http { verb: Verb::Get, size: 1 << 10, connections: 64 };
        let mut results = Results::new(vec![get], Vec::new());
        for (who, rate, p99) in [(PRODUCT, 10.0, 3.0), ("nginx", 11.0, 2.0)] {
            results.add(get, who, Sample::from([(Metric::Rate, rate), (Metric::P99, p99)]));
        }
        let lines: Vec<String> = verdicts(&results).iter().map(Verdict::line).collect();
        assert_eq!(
            lines,
            [
                "get1kx64 >= 1.00 x the best peer (nginx): 0.91 MISSED",
                "get1kx64 p99 <= 1.00 x the best peer (nginx): 1.50 MISSED",
            ]
        );
    }

    #[test]
    fn the_bound_is_no_peer() {
        let found = verdicts(&results(RR, &[(PRODUCT, 10.0), ("forward", 99.0), ("nginx", 10.0)]));
        assert_eq!(found[0].line(), "rr64x1 >= 1.00 x the best peer (nginx): 1.00 ok");
    }

    #[test]
    fn a_datagram_goal_may_be_less_than_its_bound() {
        let single = Workload::Single { size: 64 };
        let rates = [(PRODUCT, 90.0), ("forward", 100.0), ("plain", 80.0)];
        let lines: Vec<String> =
            verdicts(&results(single, &rates)).iter().map(Verdict::line).collect();
        assert_eq!(
            lines,
            [
                "single64 >= 1.35 x plain: 1.12 MISSED",
                "single64 >= 0.85 x forward: 0.90 ok",
                "single64 relay CPU per million <= 0.60 x plain: not measured",
            ]
        );
    }

    #[test]
    fn less_processor_time_and_less_latency_are_better() {
        let goal = |workload, metric, ours, theirs| {
            let mut results = Results::new(vec![workload], Vec::new());
            results.add(workload, PRODUCT, Sample::from([(metric, ours)]));
            results.add(workload, "plain", Sample::from([(metric, theirs)]));
            let list = verdicts(&results);
            list.into_iter().find(|verdict| verdict.value.is_some()).map(|found| found.line())
        };
        let gso = goal(Workload::Gso { size: 1400 }, Metric::RelayCpu, 1.0, 5.0);
        let expected = "gso1400 relay CPU per million <= 1/6 x plain: 0.20 MISSED";
        assert_eq!(gso.as_deref(), Some(expected));
        let lone = goal(Workload::Ask { clients: 1 }, Metric::P50, 40.0, 50.0);
        assert_eq!(lone.as_deref(), Some("lone p50 <= 1.00 x plain: 0.80 ok"));
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let stream = Workload::Stream { streams: 8 };
        let found = verdicts(&results(stream, &[("haproxy-splice", 12.0)]));
        assert!(found.iter().all(|verdict| verdict.reached.is_none()));
        assert_eq!(found[0].line(), "stream8 >= 1.05 x haproxy-splice: not measured");
    }
}
