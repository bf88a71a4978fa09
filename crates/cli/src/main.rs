//! The `sosplice` command.

mod bench;
mod doctor;
mod relay;

use clap::Parser;

/// Socket splicing for Linux.
#[derive(Parser)]
#[command(name = "sosplice", version)]
enum Command {
    /// Relay TCP connections
    Relay(relay::Args),
    /// Measure this relay against its peers, side by side
    Bench(bench::Args),
    /// Say what this kernel and these limits allow, and what to change
    Doctor(doctor::Args),
}

fn main() -> std::process::ExitCode {
    match Command::parse() {
        Command::Relay(args) => relay::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
    }
}
