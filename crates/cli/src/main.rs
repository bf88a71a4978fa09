//! The `sosplice` command: a table of modes.

#![deny(unsafe_code)]

mod bench;
mod check;
mod ctl;
mod doctor;
mod generate;
mod local;
mod log;
mod relay;
mod run;
mod serve;
mod table;
mod top;

use clap::Parser;
use clap::error::ErrorKind;
use std::io::Write;
use std::process::ExitCode;

/// Socket splicing for Linux: a relay whose payload stays in the kernel.
#[derive(Parser)]
#[command(name = "sosplice", version)]
enum Command {
    /// Relay TCP connections to one or more targets
    Relay(relay::Args),
    /// Say whether a configuration file is right, and what is not
    Check(check::Args),
    /// Relay as a configuration file says: TCP, UDP and HTTP/1.1, any number of relays
    Serve(serve::Args),
    /// See a running service and steer it: sessions, servers, counts, reload
    Ctl(ctl::Args),
    /// Watch a running service in the terminal
    Top(top::Args),
    Run(run::Args),
    Local(local::Args),
    /// Measure this relay against its peers, side by side in one run
    Bench(bench::Args),
    /// Say what this kernel and these limits allow, and what to change
    Doctor(doctor::Args),
    /// Write the man pages or a shell's completions
    Generate(generate::Args),
}

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => return usage(&error),
    };
    match command {
        Command::Relay(args) => relay::run(args),
        Command::Check(args) => check::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Run(args) => run::run(args),
        Command::Local(args) => local::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Generate(args) => generate::run(args),
    }
}

/// Help and version go out as they are; an error becomes one line that names the culprit.
fn usage(error: &clap::Error) -> ExitCode {
    let help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if help {
        // A closed pipe (`| head`) is no failure.
        let _ = error.print();
        return if error.exit_code() == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) };
    }
    let text = error.render().to_string();
    // The first paragraph is the error; what follows is advice and usage.
    let error: Vec<&str> = text.split("\n\n").next().unwrap_or(&text).split_whitespace().collect();
    let line = error.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let _ = writeln!(std::io::stderr(), "sosplice: {line} (see sosplice --help)");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_table_of_commands_and_flags_is_sound() {
        super::Command::command().debug_assert();
    }
}
