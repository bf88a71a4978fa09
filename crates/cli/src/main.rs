//! The `sosplice` command.

mod bench;
mod doctor;

use clap::Parser;

/// Socket splicing for Linux.
#[derive(Parser)]
#[command(name = "sosplice", version)]
enum Command {
    /// Measure this relay against its peers, side by side
    Bench(bench::Args),
    /// Say what this kernel and these limits allow, and what to change
    Doctor(doctor::Args),
}

fn main() -> std::process::ExitCode {
    match Command::parse() {
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
    }
}
