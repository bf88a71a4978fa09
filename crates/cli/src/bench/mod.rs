//! `sosplice bench`: measures the relay and its peers side by side, as ratios.

/// Arguments of `sosplice bench`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `sosplice bench`.
pub fn run(_args: Args) -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
