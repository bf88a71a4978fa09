//! `sosplice run -- CMD`: a program with the library preloaded, which makes its same-host
//! connections fast, or with `--so-splice` gives it the socket option of that name.

mod library;
mod same_host;
mod seccomp;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Run a program whose TCP connections with other such programs on this host go through memory
///
/// Both ends must run so. Whatever cannot be served stays on plain TCP, and `sosplice local
/// status` says why.
#[derive(clap::Args)]
pub struct Args {
    /// Instead of that, give it the socket option SO_SPLICE of OpenBSD and FreeBSD (setsockopt
    /// and getsockopt)
    #[arg(long, conflicts_with_all = same_host::FLAGS)]
    so_splice: bool,

    /// Whose rules hold where the two systems differ (else SOSPLICE_PERSONALITY, else openbsd)
    #[arg(long, value_enum, requires = "so_splice")]
    personality: Option<Personality>,

    #[command(flatten)]
    same_host: same_host::Flags,

    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "lower")]
enum Personality {
    OpenBsd,
    FreeBsd,
}

/// Becomes the program; returns only if that fails.
pub fn run(args: Args) -> ExitCode {
    let library = match library::find() {
        Ok(library) => library,
        Err(message) => return fail(&message, 2),
    };
    let [program, rest @ ..] = &args.command[..] else { return ExitCode::from(2) };
    let mut command = Command::new(program);
    command.args(rest);
    if args.so_splice {
        match args.personality {
            // As the environment says.
            None => {}
            Some(Personality::OpenBsd) => drop(command.env("SOSPLICE_PERSONALITY", "openbsd")),
            Some(Personality::FreeBsd) => drop(command.env("SOSPLICE_PERSONALITY", "freebsd")),
        }
    } else if let Err(why) = same_host::prepare(&args.same_host, &mut command) {
        // Better slow than not at all.
        warn(&format!("{why}; {} runs on plain TCP", program.display()));
        return become_it(command, program);
    }
    command.env("LD_PRELOAD", library::preload(&library, std::env::var_os("LD_PRELOAD")));
    become_it(command, program)
}

fn become_it(mut command: Command, program: &OsString) -> ExitCode {
    let error = command.exec();
    // As shells have it: 127 for a program that is not there, 126 for one that does not run.
    let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    fail(&format!("{}: {error}", program.display()), status)
}

fn warn(message: &str) {
    let _ = writeln!(std::io::stderr(), "sosplice: {message}");
}

fn fail(message: &str, status: u8) -> ExitCode {
    warn(message);
    ExitCode::from(status)
}
