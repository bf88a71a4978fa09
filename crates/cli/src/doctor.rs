//! `sosplice doctor`: what this kernel and these limits allow, and what to change.

/// Arguments of `sosplice doctor`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `sosplice doctor`.
pub fn run(_args: Args) -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
