//! `sosplice local broker`: the broker's process. `sosplice run` and `sosplice local enable`
//! start it; nobody needs to call it by hand.

use super::start::{READY, START_WITHIN};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sosplice_local::broker::{Broker, Error, Options, Scope, detach};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

/// Descriptors that are not connections: the listener and the like.
const DESCRIPTORS_BESIDE: u64 = 32;

#[derive(clap::Args)]
pub struct Args {
    /// The directory
    #[arg(long, value_name = "DIR")]
    rendezvous: PathBuf,

    /// Addresses mean the same to all who can reach the directory
    #[arg(long)]
    one_network: bool,

    /// Start a broker that belongs to nobody, and end when it listens
    #[arg(long)]
    detach: bool,
}

pub fn run(args: &Args) -> ExitCode {
    let done = if args.detach { start(args) } else { serve(args) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // To whoever waits for the word that it listens.
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The process between: what it prints is what the broker said.
fn start(args: &Args) -> Result<(), Error> {
    detach::keep_descriptors()?;
    let failed = |error| Error::Directory(args.rendezvous.clone(), error);
    let own = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(own);
    command.args(["local", "broker", "--rendezvous"]).arg(&args.rendezvous);
    if args.one_network {
        command.arg("--one-network");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // It must not keep a file system busy.
    let mut child = command.current_dir("/").spawn().map_err(failed)?;
    say(&first_line(&mut child).map_err(failed)?);
    Ok(())
}

/// Empty if nothing came in time.
fn first_line(child: &mut Child) -> std::io::Result<String> {
    let Some(stdout) = child.stdout.take() else { return Ok(String::new()) };
    let limit = START_WITHIN.try_into().map_err(std::io::Error::other)?;
    let ready = rustix::io::retry_on_intr(|| {
        poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&limit))
    });
    let mut line = String::new();
    if ready? > 0 {
        // It writes whole lines.
        BufReader::new(stdout).read_line(&mut line)?;
    }
    Ok(line.trim_end().to_owned())
}

fn serve(args: &Args) -> Result<(), Error> {
    // No terminal's hang-up or interrupt reaches it. It leads a group already if it was
    // started by hand, and stays there then.
    let _ = rustix::process::setsid();
    let scope = if args.one_network { Scope::Network } else { Scope::Namespace };
    let mut options = Options::new(scope);
    let descriptors = raise_descriptor_limit().saturating_sub(DESCRIPTORS_BESIDE) as usize;
    // An expected program and a connection have one each.
    options.limits.connections = options.limits.connections.min(descriptors / 2).max(1);
    let broker = match Broker::bind(&args.rendezvous, options) {
        // Another was faster, and will do.
        Err(Error::Taken(_)) => {
            say(READY);
            return Ok(());
        }
        other => other?,
    };
    say(READY);
    // Whoever waits for the line's end has it.
    if let Ok(nowhere) = File::options().write(true).open("/dev/null") {
        rustix::stdio::dup2_stdout(&nowhere)?;
    }
    broker.run()
}

fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
