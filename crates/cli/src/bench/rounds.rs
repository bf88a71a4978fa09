//! The rounds of one benchmark: which runs, in which order, and what is printed.
//!
//! In each round every contestant runs once, the order rotated from round to
//! round, so that drift of the machine and the warmth left by a predecessor
//! fall on all alike.

use std::path::PathBuf;

use serde_json::json;

use super::Error;
use super::contestants::Contestant;
use super::engine::Engines;
use super::netns::{Lab, Topology, installed, progress, raise_descriptor_limit, say};
use super::report::{PRODUCT, Results};
use super::trial::Bench;
use super::verdict::verdicts;
use super::workload::{Protocol, Workload};
use super::{engine, origin, plot, wrk};

/// Arguments that every benchmark takes.
#[derive(clap::Args)]
pub struct Options {
    /// How often each contestant runs each workload; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each run loads the relay
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Also draw the throughput ratios, as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Further arguments for `sosplice relay`, separated by spaces
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    relay_args: String,
    /// A second sosplice binary, measured as sosplice-other
    #[arg(long, value_name = "PATH")]
    sosplice: Option<PathBuf>,
}

/// Runs the workloads of these names, all if none is named, with these peers.
pub fn run(
    protocol: Protocol,
    workloads: &[String],
    peers: &[String],
    options: &Options,
) -> Result<(), Error> {
    let relay_args: Vec<String> =
        options.relay_args.split_whitespace().map(str::to_owned).collect();
    let contestants = Contestant::list(protocol, peers, &relay_args, options.sosplice.as_deref())?;
    let mut results = Results::new(chosen(protocol, workloads)?, Vec::new());

    let lab = Lab::new(Topology::Routed)?;
    let descriptors = raise_descriptor_limit();
    if protocol == Protocol::Http {
        origin::available()?;
        wrk::available()?;
    }
    let contestants = present(contestants, protocol, &mut results);
    if protocol == Protocol::Tcp && !installed("iperf3") {
        note(
            &mut results,
            "iperf3 is not installed: apt install iperf3; streams are left out".to_owned(),
        );
        results.workloads.retain(|workload| !matches!(workload, Workload::Stream { .. }));
    }
    let machine = machine();
    let bench = Bench::new(&lab, descriptors);
    if !options.json {
        say(&format!(
            "{} processors, Linux {}, {}, {} rounds of {} s, medians\n",
            machine["processors"],
            machine["kernel"].as_str().unwrap_or("?"),
            machine["congestion_control"].as_str().unwrap_or("?"),
            options.rounds,
            options.seconds
        ))?;
    }
    for workload in results.workloads.clone() {
        measure(&bench, &contestants, workload, options, &mut results);
        if !options.json {
            say(&results.table(workload))?;
        }
    }
    if let Some(disturbance) = bench.disturbance() {
        note(&mut results, disturbance);
    }
    drop(lab);

    let verdicts = verdicts(&results);
    if options.json {
        say(&format!("{:#}", results.json(&machine, &verdicts)))?;
    } else {
        for verdict in &verdicts {
            say(&verdict.line())?;
        }
    }
    if let Some(path) = &options.plot {
        std::fs::write(path, plot::svg(&results))
            .map_err(Error::io(format!("write {}", path.display())))?;
    }
    Ok(())
}

/// All rounds of one workload. A run that fails is noted; a contestant that
/// has yet to succeed is not tried again on this workload.
fn measure(
    bench: &Bench,
    contestants: &[Contestant],
    workload: Workload,
    options: &Options,
    results: &mut Results,
) {
    let mut able: Vec<&Contestant> = contestants
        .iter()
        // Without a relay, idle connections cost no relay anything.
        .filter(|who| !workload.rests() || **who != Contestant::Forward)
        .collect();
    for round in 0..options.rounds {
        let mut failed = Vec::new();
        for turn in 0..able.len() {
            let who = able[(turn + round as usize) % able.len()];
            let name = who.name();
            match bench.trial(who, workload, f64::from(options.seconds)) {
                Ok(sample) => {
                    let (metric, unit, decimals) = workload.columns()[0];
                    let value = sample.get(&metric).copied().unwrap_or(0.0);
                    progress(&format!(
                        "{} {}/{} {name}: {value:.decimals$} {unit}",
                        workload.name(),
                        round + 1,
                        options.rounds
                    ));
                    results.add(workload, name, sample);
                }
                Err(error) => {
                    note(results, format!("{} {name}: {error}", workload.name()));
                    if results.median(workload, name, workload.main_metric()).is_none() {
                        failed.push(name);
                    }
                }
            }
        }
        able.retain(|who| !failed.contains(&who.name()));
    }
    // A connection of `conn` is over before a flow could choose.
    if !workload.rests() && workload != Workload::Conn {
        let product = able.iter().find(|who| who.name() == PRODUCT);
        let log = product.and_then(|who| bench.connection_log(who, workload).ok());
        let engines = log.as_deref();
        let engines = engines.and_then(|log| Engines::read(log, workload.protocol().engines()));
        progress(&format!("{} {}", workload.name(), engine::line(engines.as_ref())));
        results.add_engines(workload, engines);
    }
}

/// Those that can run here; the others are noted with what to install.
fn present(
    contestants: Vec<Contestant>,
    protocol: Protocol,
    results: &mut Results,
) -> Vec<Contestant> {
    let mut able = Vec::new();
    for who in contestants {
        match who.available(protocol) {
            Ok(()) => {
                results.contestants.push(who.name());
                able.push(who);
            }
            Err(error) => note(results, format!("{}: {error}", who.name())),
        }
    }
    able
}

/// The workloads by name or kind, each once, in the order of the report.
fn chosen(protocol: Protocol, names: &[String]) -> Result<Vec<Workload>, Error> {
    let meant = |workload: Workload, name: &String| {
        name == "all" || name == workload.name() || workload.kind() == Some(name.as_str())
    };
    for name in names {
        if !protocol.workloads().any(|workload| meant(workload, name)) {
            let mut known: Vec<&str> = protocol.workloads().map(Workload::name).collect();
            let mut kinds: Vec<&str> = protocol.workloads().filter_map(Workload::kind).collect();
            kinds.dedup();
            known.append(&mut kinds);
            let known = known.join(", ");
            return Err(Error::Usage(format!("no workload '{name}'; there are {known}, all")));
        }
    }
    let wanted =
        |workload: &Workload| names.is_empty() || names.iter().any(|name| meant(*workload, name));
    Ok(protocol.workloads().filter(wanted).collect())
}

fn note(results: &mut Results, text: String) {
    progress(&format!("sosplice bench: {text}"));
    results.notes.push(text);
}

/// What the numbers depend on.
pub fn machine() -> serde_json::Value {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
    json!({
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::WORKLOADS;

    fn names(protocol: Protocol, wanted: &[&str]) -> Option<Vec<&'static str>> {
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        Some(chosen(protocol, &wanted).ok()?.into_iter().map(Workload::name).collect())
    }

    #[test]
    fn workloads_by_kind_and_name_each_once() {
        let tcp = names(Protocol::Tcp, &["conn", "stream", "stream8"]);
        assert_eq!(tcp, Some(vec!["stream1", "stream8", "conn"]));
        let udp = names(Protocol::Udp, &["lone", "single"]);
        assert_eq!(udp, Some(vec!["single64", "single512", "single1400", "lone"]));
        assert_eq!(names(Protocol::Udp, &["nonsense"]), None);
        let http = names(Protocol::Http, &["get1k", "put1m"]);
        assert_eq!(http, Some(vec!["get1kx32", "get1kx64", "put1mx8"]));
    }

    #[test]
    fn each_protocol_has_its_own_workloads() {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Http];
        let all = protocols.map(|protocol| names(protocol, &[]));
        let count: usize = all.iter().flatten().map(Vec::len).sum();
        assert_eq!(count, WORKLOADS.len());
        assert_eq!(names(Protocol::Udp, &["stream1"]), None);
    }
}
