//! The same-host tier against its oracle: a table of small programs with two ends, each run
//! over plain TCP and again with the bytes in a shared ring. What the ends saw, as text, must
//! be the same.
//!
//! Plain TCP decides, not this table: a case may only write down what TCP makes certain, so
//! each case is run over TCP in every arrangement first, and those texts must agree already.
//! That a connection did pair is asserted as it is warmed up (`end.rs`).
//!
//! Each run is a process of its own with a time limit. `local NAME` runs the cases whose name
//! contains it; `local --oracle` leaves the ring out, `local --times` says how long each takes.

#![allow(clippy::unwrap_used, missing_docs)]

mod arrangement;
#[path = "../preloaded/calls.rs"]
mod calls;
mod cancelled;
#[path = "../preloaded/child.rs"]
mod child;
mod closing;
mod connections;
mod deaths;
mod doors;
mod duplicates;
mod edges;
mod end;
mod epolls;
mod forks;
#[path = "../preloaded/library.rs"]
mod library;
mod modes;
#[path = "../preloaded/needs.rs"]
mod needs;
mod options;
mod pieces;
mod programs;
mod readiness;
mod receiving;
mod rendezvous;
mod signals;
mod transfer;
#[path = "../preloaded/waits.rs"]
mod waits;

use arrangement::Arrangement::{self, Apart, Forked, Threads};
use end::End;
use modes::{Mode, Setting};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub struct Case {
    pub name: &'static str,
    pub plan: Plan,
    pub run: fn(&mut End),
}

/// How a case's two ends live, and whether they get a connection.
pub struct Plan {
    pub arrangements: &'static [Arrangement],
    /// Warmed up, and certain to be paired; else the case makes its own.
    pub connected: bool,
}

pub const EVERY: Plan = Plan { arrangements: &[Forked, Apart, Threads], connected: true };
/// It sends signals, forks or executes: an end must be a process.
pub const PROCESSES: Plan = Plan { arrangements: &[Forked, Apart], connected: true };
pub const OWN: Plan = Plan { connected: false, ..EVERY };
pub const OWN_PROCESSES: Plan = Plan { connected: false, ..PROCESSES };

/// A table of cases: `EVERY name`, in the order of the file.
#[macro_export]
macro_rules! cases {
    ($($plan:ident $name:ident;)*) => {
        pub const CASES: &[$crate::Case] = &[
            $($crate::Case {
                name: concat!(module_path!(), "::", stringify!($name)),
                plan: $crate::$plan,
                run: $name,
            }),*
        ];
    };
}

const TIME_LIMIT: Duration = Duration::from_secs(60);

/// So many failed runs of a case tell enough; a fault that hangs would hang in all of them.
const FAILURES_MAX: usize = 2;

fn all() -> impl Iterator<Item = &'static Case> {
    [
        transfer::CASES,
        receiving::CASES,
        pieces::CASES,
        doors::CASES,
        readiness::CASES,
        epolls::CASES,
        edges::CASES,
        closing::CASES,
        signals::CASES,
        options::CASES,
        connections::CASES,
        duplicates::CASES,
        forks::CASES,
        cancelled::CASES,
        programs::CASES,
        deaths::CASES,
    ]
    .into_iter()
    .flatten()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = arrangement::is_part_of_a_case(&args) {
        return code;
    }
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let chosen: Vec<&Case> =
        all().filter(|case| filter.is_none_or(|part| case.name.contains(part.as_str()))).collect();
    let setting = Setting::new(!args.iter().any(|arg| arg == "--oracle"));
    let times = args.iter().any(|arg| arg == "--times");
    let failures = on_every_processor(&chosen, |case| {
        let start = Instant::now();
        let failures = all_runs(&setting, case);
        // At once: a table that hangs elsewhere has told what it knows.
        failures.iter().for_each(|failure| println!("FAILED {failure}"));
        if times {
            println!("{:6} ms {}", start.elapsed().as_millis(), case.name);
        }
        failures.len()
    });
    let failed = failures.iter().filter(|failures| **failures > 0).count();
    println!("test result: {} passed; {failed} failed", chosen.len() - failed);
    if failed == 0 && (!chosen.is_empty() || filter.is_some()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// As many cases at once as there are processors.
fn on_every_processor<Found: Send>(
    cases: &[&Case],
    run: impl Fn(&Case) -> Found + Sync,
) -> Vec<Found> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = run(case);
                    found.lock().unwrap().push(one);
                }
            });
        }
    });
    found.into_inner().unwrap()
}

/// One case in every mode and arrangement, each against the first.
fn all_runs(setting: &Setting, case: &Case) -> Vec<String> {
    let first = case.plan.arrangements[0];
    let oracle = match run(setting, case, Mode::Plain, first) {
        Ok(text) => text,
        Err(why) => return vec![format!("{} over TCP, {first:?}: {why}", case.name)],
    };
    let mut failures = Vec::new();
    for (mode, arrangement) in setting.runs(case.plan.arrangements) {
        if failures.len() == FAILURES_MAX {
            break;
        }
        let what = || format!("{}, {mode:?}, {arrangement:?}", case.name);
        match run(setting, case, mode, arrangement) {
            Ok(text) if text == oracle => {}
            Ok(text) => failures.push(format!("{}: {}", what(), difference(&oracle, &text))),
            Err(why) => failures.push(format!("{}: {}", what(), why.trim_end())),
        }
    }
    failures
}

fn run(
    setting: &Setting,
    case: &Case,
    mode: Mode,
    arrangement: Arrangement,
) -> Result<String, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--case", &format!("{arrangement:?}"), case.name]);
    setting.prepare(&mut command, mode);
    child::finish(&mut command, TIME_LIMIT)
}

/// The first line that is not the same.
fn difference(oracle: &str, text: &str) -> String {
    let (mut expected, mut found) = (oracle.lines(), text.lines());
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return "the texts differ in their line ends".to_owned(),
            (one, other) if one == other => {}
            (one, other) => {
                let line = |line: Option<&str>| line.unwrap_or("nothing").to_owned();
                return format!("TCP: {}\n    here: {}", line(one), line(other));
            }
        }
    }
}
