//! One case a row of what SO_SPLICE promises, for each of the two systems, in unmodified
//! use: setsockopt, getsockopt and the calls of libc, with the library preloaded.
//!
//! Each case is a process of its own with a time limit, so one that hangs or dies is one
//! failure. `rows NAME` runs the cases whose name contains it.

#![allow(clippy::unwrap_used, missing_docs)]

mod chains;
mod datagrams;
mod deaths;
mod ends;
mod events;
mod library;
mod running;
mod setup;
mod sharing;
mod sockets;

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

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
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--case", &format!("{system:?}"), case.name])
        .env("LD_PRELOAD", library)
        .env("SOSPLICE_PERSONALITY", personality)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let limit = Instant::now() + TIME_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break Some(status);
        }
        if Instant::now() > limit {
            // SAFETY: the group of this child alone: with the children that it has made.
            unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) if status.signal().is_some() => Err(format!("{status}")),
        Some(_) => Err(reader.join().unwrap_or_default()),
        None => Err("the time limit".to_owned()),
    }
}
