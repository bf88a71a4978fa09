//! `sosplice bench tcp`: which runs, in which order, and what is printed.
//!
//! In each round every contestant runs once, the order rotated from round to
//! round, so that drift of the machine and the warmth left by a predecessor
//! fall on all alike.

use std::path::PathBuf;

use serde_json::json;

use super::Error;
use super::contestants::{Contestant, DEFAULT_PEERS};
use super::engine::Engines;
use super::netns::{Lab, installed, progress, raise_descriptor_limit, say};
use super::report::{PRODUCT, Results};
use super::trial::Bench;
use super::verdict::verdicts;
use super::workload::{WORKLOADS, Workload};
use super::{engine, plot};

/// Arguments of `sosplice bench tcp`.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure: stream1 stream8 rr64x1 rr64x32 rr16kx1 rr16kx32 conn
    /// idle, or stream, rr for all of that kind [default: all]
    workloads: Vec<String>,
    /// Whom to measure beside sosplice: forward (the kernel forwarding
    /// packets: the bound), haproxy-splice, haproxy-copy (haproxy: both),
    /// nginx, socat, sosplice-copy, sosplice-pipe, sosplice-reno (with --congestion reno), or none
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_PEERS)]
    peers: Vec<String>,
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

/// Runs `sosplice bench tcp`.
pub fn run(args: Args) -> Result<(), Error> {
    let relay_args: Vec<String> = args.relay_args.split_whitespace().map(str::to_owned).collect();
    let contestants = Contestant::list(&args.peers, &relay_args, args.sosplice.as_deref())?;
    let mut results = Results::new(chosen(&args.workloads)?, Vec::new());

    let lab = Lab::new()?;
    let descriptors = raise_descriptor_limit();
    let contestants = present(contestants, &mut results);
    if !installed("iperf3") {
        note(
            &mut results,
            "iperf3 is not installed: apt install iperf3; streams are left out".to_owned(),
        );
        results.workloads.retain(|workload| !matches!(workload, Workload::Stream { .. }));
    }
    let machine = machine();
    let bench = Bench::new(&lab, descriptors);
    if !args.json {
        say(&format!(
            "{} processors, Linux {}, {}, {} rounds of {} s, medians\n",
            machine["processors"],
            machine["kernel"].as_str().unwrap_or("?"),
            machine["congestion_control"].as_str().unwrap_or("?"),
            args.rounds,
            args.seconds
        ))?;
    }
    for workload in results.workloads.clone() {
        measure(&bench, &contestants, workload, &args, &mut results);
        if !args.json {
            say(&results.table(workload))?;
        }
    }
    if let Some(disturbance) = bench.disturbance() {
        note(&mut results, disturbance);
    }
    drop(lab);

    let verdicts = verdicts(&results);
    if args.json {
        say(&format!("{:#}", results.json(&machine, &verdicts)))?;
    } else {
        for verdict in &verdicts {
            say(&verdict.line())?;
        }
    }
    if let Some(path) = args.plot {
        std::fs::write(&path, plot::svg(&results))
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
    args: &Args,
    results: &mut Results,
) {
    let mut able: Vec<&Contestant> = contestants
        .iter()
        // Without a relay, idle connections cost no relay anything.
        .filter(|who| workload != Workload::Idle || **who != Contestant::Forward)
        .collect();
    for round in 0..args.rounds {
        let mut failed = Vec::new();
        for turn in 0..able.len() {
            let who = able[(turn + round as usize) % able.len()];
            let name = who.name();
            match bench.trial(who, workload, f64::from(args.seconds)) {
                Ok(sample) => {
                    let (metric, unit, decimals) = workload.columns()[0];
                    let value = sample.get(&metric).copied().unwrap_or(0.0);
                    progress(&format!(
                        "{} {}/{} {name}: {value:.decimals$} {unit}",
                        workload.name(),
                        round + 1,
                        args.rounds
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
    if matches!(workload, Workload::Stream { .. } | Workload::Rr { .. }) {
        let product = able.iter().find(|who| who.name() == PRODUCT);
        let log = product.and_then(|who| bench.connection_log(who, workload).ok());
        let engines = log.as_deref().and_then(Engines::read);
        progress(&format!("{} {}", workload.name(), engine::line(engines)));
        results.add_engines(workload, engines);
    }
}

/// Those that can run here; the others are noted with what to install.
fn present(contestants: Vec<Contestant>, results: &mut Results) -> Vec<Contestant> {
    let mut able = Vec::new();
    for who in contestants {
        match who.available() {
            Ok(()) => {
                results.contestants.push(who.name());
                able.push(who);
            }
            Err(error) => note(results, format!("{}: {error}", who.name())),
        }
    }
    able
}

/// The workloads by name, each once, in the order of the report.
fn chosen(names: &[String]) -> Result<Vec<Workload>, Error> {
    let mut wanted = Vec::new();
    for name in names {
        let before = wanted.len();
        wanted.extend(WORKLOADS.iter().map(|(_, workload)| *workload).filter(|workload| {
            match name.as_str() {
                "stream" => matches!(workload, Workload::Stream { .. }),
                "rr" => matches!(workload, Workload::Rr { .. }),
                "all" => true,
                name => Workload::named(name) == Some(*workload),
            }
        }));
        if wanted.len() == before {
            let known = WORKLOADS.map(|(name, _)| name).join(", ");
            return Err(Error::Usage(format!(
                "no workload '{name}'; there are {known}, and stream, rr, all"
            )));
        }
    }
    let all = names.is_empty();
    Ok(WORKLOADS
        .iter()
        .map(|(_, workload)| *workload)
        .filter(|w| all || wanted.contains(w))
        .collect())
}

fn note(results: &mut Results, text: String) {
    progress(&format!("sosplice bench: {text}"));
    results.notes.push(text);
}

/// What the numbers depend on.
fn machine() -> serde_json::Value {
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

    fn names(wanted: &[&str]) -> Option<Vec<&'static str>> {
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        Some(chosen(&wanted).ok()?.into_iter().map(Workload::name).collect())
    }

    #[test]
    fn workloads_by_kind_and_name_each_once() {
        assert_eq!(names(&["conn", "stream", "stream8"]), Some(vec!["stream1", "stream8", "conn"]));
        assert_eq!(names(&[]).map(|all| all.len()), Some(WORKLOADS.len()));
        assert_eq!(names(&["nonsense"]), None);
    }
}
