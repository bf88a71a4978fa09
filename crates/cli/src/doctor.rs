//! `sosplice doctor`: what this kernel, these limits and sysctls allow, and
//! what to change.
//!
//! What can be tried is tried on loopback, on the smallest scale; the rest is
//! read from /proc; what neither shows is told by the kernel's release, and
//! says so. Nothing is changed and nothing is exhausted. Readings
//! ([`readings`], [`probe`]) are taken first and judged by a pure function
//! ([`judge`]) after, so that every piece of advice has its test.

mod judge;
mod probe;
mod readings;
mod report;

use std::io::Write;
use std::process::ExitCode;

/// Arguments of `sosplice doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// Print a JSON list of objects: name, level, value, why, change
    #[arg(long)]
    json: bool,
}

/// Runs `sosplice doctor`: 0 when nothing prevents running, 1 when splice(2)
/// does not work here or the kernel is too old.
pub fn run(args: Args) -> ExitCode {
    let rows = judge::judge(&readings::take());
    let text = match args.json {
        true => report::json(&rows),
        false => report::text(&rows),
    };
    // A reader that has gone away (`| head`) does not change the verdict.
    let _gone = std::io::stdout().lock().write_all(text.as_bytes());
    match rows.iter().any(|row| row.level == judge::Level::Stop) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}
