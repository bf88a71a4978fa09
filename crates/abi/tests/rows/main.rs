//! One case a row of what SO_SPLICE promises, for each of the two systems, in unmodified
//! use: setsockopt, getsockopt and the calls of libc, with the library preloaded.
//!
//! Each case is a process of its own with a time limit, so one that hangs or dies is one
//! failure. `rows NAME` runs the cases whose name contains it.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../preloaded/calls.rs"]
mod calls;
mod chains;
#[path = "../preloaded/child.rs"]
mod child;
mod datagrams;
mod deaths;
mod ends;
mod events;
#[path = "../preloaded/library.rs"]
mod library;
mod running;
mod setup;
mod sharing;
mod sockets;
#[path = "../preloaded/waits.rs"]
mod waits;

use std::process::{Command, ExitCode};
use std::time::Duration;

/// Which rules a case is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    OpenBsd,
    FreeBsd,
}

use System::{FreeBsd, OpenBsd};

pub const BOTH: &[System] = &[OpenBsd, FreeBsd];
pub const OPENBSD: &[System] = &[OpenBsd];
pub const FREEBSD: &[System] = &[FreeBsd];

pub struct Case {
    pub name: &'static str,
    pub systems: &'static [System],
    pub run: fn(System),
}

/// A table of cases: `BOTH name`, in the order of the file.
#[macro_export]
macro_rules! cases {
    ($($systems:ident $name:ident;)*) => {
        pub const CASES: &[$crate::Case] = &[
            $($crate::Case {
                name: concat!(module_path!(), "::", stringify!($name)),
                systems: $crate::$systems,
                run: $name,
            }),*
        ];
    };
}

const TIME_LIMIT: Duration = Duration::from_secs(30);

fn all() -> impl Iterator<Item = &'static Case> {
    [
        setup::CASES,
        running::CASES,
        ends::CASES,
        events::CASES,
        sharing::CASES,
        deaths::CASES,
        datagrams::CASES,
        chains::CASES,
    ]
    .into_iter()
    .flatten()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, system, name] = &args[..]
        && flag == "--case"
    {
        let case = all().find(|case| case.name == name).unwrap();
        (case.run)(if system == "FreeBsd" { FreeBsd } else { OpenBsd });
        return ExitCode::SUCCESS;
    }
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let library = library::path();
    let (mut passed, mut failed) = (0, 0);
    for case in all().filter(|case| filter.is_none_or(|part| case.name.contains(part.as_str()))) {
        for system in case.systems {
            match run(&library, case, *system) {
                Ok(()) => passed += 1,
                Err(why) => {
                    println!("FAILED {} ({system:?}): {why}", case.name);
                    failed += 1;
                }
            }
        }
    }
    println!("test result: {passed} passed; {failed} failed");
    if failed == 0 && (passed > 0 || filter.is_some()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(library: &std::path::Path, case: &Case, system: System) -> Result<(), String> {
    let personality = if system == FreeBsd { "freebsd" } else { "openbsd" };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--case", &format!("{system:?}"), case.name])
        .env("LD_PRELOAD", library)
        .env("SOSPLICE_PERSONALITY", personality);
    child::finish(&mut command, TIME_LIMIT).map(drop)
}
