//! `sosplice bench`: measures the relay and its peers side by side, as ratios.
//!
//! One run holds product and peers on the same machine in the same minutes,
//! taking turns, because absolute numbers on a shared machine drift by more
//! than the differences that matter. What is published is therefore a ratio of
//! medians; nothing here is a timed test, and no build depends on it.
//!
//! The kernel forwarding packets is the bound of what a relay of streams can
//! reach. Of single datagrams it is none: it does all its work for each, on the
//! sender's processor, and a relay that gathers them has one of its own.
//!
//! * [`tcp`], [`udp`], [`http`] the commands: what they can be asked
//! * [`rounds`] which runs, in which order, and what is printed
//! * [`netns`] three network namespaces, and the janitor that removes them
//! * [`trial`] one run of one contestant on one workload
//! * [`company`] other programs on the machine
//! * [`local`] two ends on one host, with and without the library between
//! * [`child`] processes with a deadline, inside a namespace
//! * [`contestants`] how each relay is started
//! * [`plain`] the UDP relay that everybody writes first, to compare with
//! * [`workload`] what is asked of it, and what is read off
//! * [`load`] the light load generators (this binary, re-executed)
//! * [`origin`], [`wrk`] the server and the load of HTTP
//! * [`reading`] what they said, as numbers
//! * [`cpu`] what /proc says a relay cost
//! * [`engine`] which engine carried the bytes
//! * [`report`], [`verdict`], [`plot`] medians, tables, goals, picture

mod child;
mod company;
mod contestants;
mod cpu;
mod engine;
mod http;
mod load;
mod local;
mod netns;
mod origin;
mod plain;
mod plot;
mod reading;
mod report;
mod rounds;
mod tcp;
mod trial;
mod udp;
mod verdict;
mod workload;
mod wrk;

use std::process::ExitCode;

/// Arguments of `sosplice bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// TCP relays: streams, request/response, new connections, idle ones
    Tcp(tcp::Args),
    /// UDP relays: datagrams one way, request/response, many sessions
    Udp(udp::Args),
    /// HTTP relays: requests and bodies on connections that are kept
    Http(http::Args),
    /// Two programs on this host: through memory, and over plain TCP
    Local(local::Args),
    /// A simple UDP relay, to compare with (started by `bench udp` inside its namespaces)
    #[command(hide = true)]
    Plain(plain::Args),
    /// A load generator (started by the benchmark inside its namespaces)
    #[command(hide = true)]
    Load(load::Args),
    /// Removes the namespaces once the benchmark has ended, however it ended
    #[command(hide = true)]
    Janitor(netns::JanitorArgs),
}

/// Runs `sosplice bench`.
pub fn run(args: Args) -> ExitCode {
    let done = match args.what {
        What::Tcp(args) => tcp::run(&args),
        What::Udp(args) => udp::run(&args),
        What::Http(args) => http::run(&args),
        What::Local(args) => local::run(&args),
        What::Plain(args) => plain::run(&args),
        What::Load(args) => load::run(args),
        What::Janitor(args) => netns::run_janitor(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sosplice bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why a benchmark, or one run of it, could not be done.
///
/// Each variant ends as one line on stderr, so each names its culprit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program that was started did not do its part.
    #[error("{program}: {said}")]
    Program {
        /// Its name.
        program: String,
        /// What it did instead, with the last line of its stderr.
        said: String,
    },
    /// A program is missing.
    #[error("{program} is not installed: apt install {package}")]
    NotInstalled {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// Not enough privilege for network namespaces.
    #[error("needs root (CAP_SYS_ADMIN) to make its network namespaces")]
    Privilege,
    /// The arguments ask for something that does not exist.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Attaches what was attempted to what the system said.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}
