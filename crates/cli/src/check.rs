//! `sosplice check`: whether a configuration file is right.
//!
//! It reads what `sosplice serve` would read and starts nothing. Whether names resolve and
//! addresses can be had is not asked: that is so or not at another time, on another machine.

use sosplice_relay::plan::Plan;
use sosplice_relay::{config, counted};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `sosplice check`.
#[derive(clap::Args)]
pub struct Args {
    /// The file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,

    /// Print the whole configuration, with every default in it, as a file that means the same
    #[arg(long)]
    print: bool,
}

/// Runs `sosplice check`: 0 and a line when the file is right, 1 and a line for each problem when
/// it is not.
pub fn run(args: Args) -> ExitCode {
    match config::load(&args.config) {
        Ok(plan) => {
            let text = if args.print {
                config::print(&plan)
            } else {
                format!("{}\n", verdict(&args.config, &plan))
            };
            // A reader that has gone away (`| head`) does not change the verdict.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Nobody is left to tell if stderr is gone.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn verdict(file: &Path, plan: &Plan) -> String {
    let relays = counted(plan.relays.len() as u64, "relay");
    let upstreams = counted(plan.upstreams.len() as u64, "upstream");
    format!("{}: {relays}, {upstreams}: fine", file.display())
}
