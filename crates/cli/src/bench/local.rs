//! `sosplice bench local`: two programs on one host that talk through memory, against the
//! same two over plain TCP.
//!
//! Both ends are this binary (or redis-server and redis-benchmark), with plain
//! blocking calls, once as they are and once under `sosplice run`; they take
//! turns, each end on a processor of its own where there are two. `tcp-spin` is the
//! other thing that one can do about wake-ups: both ends ask again and again,
//! over plain TCP. That a pair was made and bytes went through it is checked in each run:
//! a connection that has silently stayed on TCP is no result.
//!
//! * [`workload`] what the two do
//! * [`trial`] one run
//! * [`report`] tables, goals, JSON

mod report;
mod trial;
mod workload;

use std::path::Path;

use super::Error;
use super::netns::{Lab, Topology, installed, progress, say};
use super::rounds::machine;
use report::Results;
use trial::{Bench, Contestant};
use workload::{Place, Workload};

/// Arguments of `sosplice bench local`.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure: rr1 rr64 rr1k rr16k stream1k stream4k stream64k stream1m (over loopback),
    /// the same with bridge- in front (two network namespaces on a bridge), redis1 redis50
    /// (redis-benchmark GET with so many clients), or rr, stream, bridge, redis for all of
    /// that kind [default: all]
    workloads: Vec<String>,
    /// How long waits look before they sleep, each measured by itself
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "0,50")]
    busy_poll_us: Vec<u32>,
    /// Memory each way of a connection
    #[arg(long, value_name = "N")]
    ring_kbytes: Option<u32>,
    /// How often each is measured, in turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each run takes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// Runs `sosplice bench local`.
pub fn run(args: &Args) -> Result<(), Error> {
    let mut workloads = workload::chosen(&args.workloads)?;
    let mut results = Results::default();
    if !["redis-server", "redis-benchmark"].iter().all(|program| installed(program)) {
        let before = workloads.len();
        workloads.retain(|workload| workload.place != Place::Redis);
        if workloads.len() < before {
            note(&mut results, "redis is not installed: apt install redis-server".to_owned());
        }
    }
    let lab = Lab::new(Topology::Bridged)?;
    let bench = Bench::new(&lab, args.ring_kbytes, f64::from(args.seconds));
    let machine = machine();
    if !args.json {
        say(&format!(
            "{} processors, Linux {}, {} rounds of {} s, medians\n",
            machine["processors"],
            machine["kernel"].as_str().unwrap_or("?"),
            args.rounds,
            args.seconds
        ))?;
    }
    for workload in workloads {
        results.workloads.push(workload);
        measure(&bench, workload, args, &mut results);
        if !args.json {
            say(&results.table(workload))?;
        }
    }
    if let Some(disturbance) = bench.disturbance() {
        note(&mut results, disturbance);
    }
    drop(lab);
    let verdicts = report::verdicts(&results);
    if args.json {
        return say(&format!("{:#}", results.json(&machine, &verdicts)));
    }
    verdicts.iter().try_for_each(|verdict| say(&verdict.line()))
}

/// All rounds of one workload, in turns. Who has yet to succeed is not tried again.
fn measure(bench: &Bench, workload: Workload, args: &Args, results: &mut Results) {
    let mut able = Contestant::list(workload, &args.busy_poll_us);
    for round in 0..args.rounds {
        let mut failed = Vec::new();
        for turn in 0..able.len() {
            let who = able[(turn + round as usize) % able.len()];
            let told = format!("{workload} {}/{} {who}", round + 1, args.rounds);
            match bench.trial(who, workload) {
                Ok(sample) => {
                    progress(&format!("{told}: {:.1} {}", sample.rate, workload.unit()));
                    results.add(workload, who, sample);
                }
                Err(error) => {
                    note(results, format!("{workload} {who}: {error}"));
                    if !results.has(workload, who) {
                        failed.push(who);
                    }
                }
            }
        }
        able.retain(|who| !failed.contains(who));
    }
}

fn note(results: &mut Results, text: String) {
    progress(&format!("sosplice bench: {text}"));
    results.notes.push(text);
}

/// A program of ours under the library, if there is one.
fn accelerated(
    argv: Vec<String>,
    busy_poll_us: u32,
    ring_kbytes: Option<u32>,
    dir: &Path,
) -> Vec<String> {
    let own = super::contestants::own_binary();
    let mut all = vec![own.to_string_lossy().into_owned(), "run".to_owned()];
    all.extend(["--rendezvous".to_owned(), dir.to_string_lossy().into_owned()]);
    all.extend(["--busy-poll-us".to_owned(), busy_poll_us.to_string()]);
    if let Some(kbytes) = ring_kbytes {
        all.extend(["--ring-kbytes".to_owned(), kbytes.to_string()]);
    }
    all.push("--".to_owned());
    all.extend(argv);
    all
}
