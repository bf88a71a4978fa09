//! `sosplice local`: what programs started by `sosplice run` may do with each other, and what
//! they have done.

mod broker;
mod report;
pub mod start;

use self::start::{Place, Rendezvous, StartError};
use sosplice_local::broker::policy::Policy;
use sosplice_local::broker::{Answer, Ask, ControlError, ask};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Same-host connections of the programs that `sosplice run` has started
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Say what may pair from now on, and keep the broker running
    Enable(Enable),
    /// Show the pairs, what went through them, and why other connections stayed on TCP
    Status(Status),
    /// Make no new pairs; running ones go on to their end
    Disable(Rendezvous),
    /// Be the broker of a directory
    #[command(hide = true)]
    Broker(broker::Args),
}

#[derive(clap::Args)]
struct Enable {
    /// Only processes in this control group, or below it (as /system.slice/redis.service or
    /// its directory); more than one may be given
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<String>,

    /// Only connections with one of these ports at either end
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,

    /// Only connections between loopback addresses
    #[arg(long)]
    loopback_only: bool,

    #[command(flatten)]
    rendezvous: Rendezvous,
}

#[derive(clap::Args)]
struct Status {
    /// As one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    rendezvous: Rendezvous,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{dir}: {error}", dir = .dir.display())]
    Control { dir: PathBuf, error: ControlError },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("stdout: {0}")]
    Output(#[from] std::io::Error),
}

/// Runs `sosplice local`.
pub fn run(args: Args) -> ExitCode {
    let done = match args.what {
        What::Enable(enable) => self::enable(enable),
        What::Status(status) => self::status(&status),
        What::Disable(rendezvous) => Place::of(&rendezvous)
            .map_err(Error::from)
            .and_then(|place| tell(&place, &Ask::Disable)),
        What::Broker(args) => return broker::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "sosplice: {error}");
            ExitCode::FAILURE
        }
    }
}

fn enable(args: Enable) -> Result<(), Error> {
    let place = Place::of(&args.rendezvous)?;
    place.ensure()?;
    let Enable { cgroup: cgroups, ports, loopback_only, .. } = args;
    tell(&place, &Ask::Enable(Policy { enabled: true, cgroups, ports, loopback_only }))
}

fn tell(place: &Place, what: &Ask) -> Result<(), Error> {
    match put(place, what)? {
        Answer::Done => Ok(()),
        _ => Err(Error::Control { dir: place.dir.clone(), error: ControlError::Foreign }),
    }
}

fn put(place: &Place, question: &Ask) -> Result<Answer, Error> {
    ask(&place.dir, question).map_err(|error| Error::Control { dir: place.dir.clone(), error })
}

fn status(args: &Status) -> Result<(), Error> {
    let place = Place::of(&args.rendezvous)?;
    let Answer::Status(status) = put(&place, &Ask::Status)? else {
        return Err(Error::Control { dir: place.dir, error: ControlError::Foreign });
    };
    let text = if args.json {
        serde_json::to_string_pretty(&status).map_err(std::io::Error::from)? + "\n"
    } else {
        report::text(&status)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // A closed pipe (`| head`) is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
