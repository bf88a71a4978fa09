//! `sosplice ctl`: what a running service does, and what it is to do.
//!
//! Each command is one question on the service's control socket. The answer comes as a table, or
//! as the JSON that the service sent.

pub mod report;

use sosplice_relay::config;
use sosplice_relay::control::protocol::{Answer, Request, Setting};
use sosplice_relay::control::{AskError, Client, DEFAULT_PATH};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `sosplice ctl`.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage.")]
pub struct Args {
    #[command(subcommand)]
    what: What,

    #[command(flatten)]
    place: Place,

    /// As JSON
    #[arg(long, global = true)]
    json: bool,
}

/// Where the service listens.
#[derive(clap::Args)]
pub struct Place {
    /// The service's control socket [default: /run/sosplice/control.sock]
    #[arg(long, value_name = "PATH", global = true, conflicts_with = "config")]
    socket: Option<PathBuf>,

    /// The service's configuration file, which says where the socket is (`control`)
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the running sessions, and what they have carried: by which engine, or in how many datagrams
    Sessions,
    /// End sessions at once: both peers of each see a reset, those of datagrams see nothing
    Kill {
        /// Numbers, as `sessions` lists them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
    },
    /// List the servers of all upstreams: health, word of the administrator, sessions, counts
    Upstreams,
    /// Let servers have sessions again
    Enable(Servers),
    /// Give servers no new sessions; running ones go on
    Disable(Servers),
    /// The same, and the service's log tells when a server's last session has ended
    Drain(Servers),
    /// Count sessions, bytes and requests of each relay, since the service began
    Stats,
    /// Have the service read its configuration again; a wrong one changes nothing
    Reload,
}

#[derive(clap::Args)]
struct Servers {
    /// An upstream, or one of its servers, by the names that `upstreams` lists
    #[arg(value_name = "UPSTREAM[/SERVER]")]
    name: String,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{0}")]
    Config(#[from] config::Error),
    #[error("{file} has no `control`, so its service has no control socket: add `control = \"{DEFAULT_PATH}\"` and restart it", file = .0.display())]
    NoControl(PathBuf),
    #[error("no running session has {}", numbers(.0))]
    Unknown(Vec<u64>),
    #[error("top needs a terminal; for programs there is `sosplice ctl stats --json`")]
    NoTerminal,
    #[error("the terminal, or what the output goes to: {0}")]
    Output(#[from] std::io::Error),
}

/// Runs `sosplice ctl`.
pub fn run(args: &Args) -> ExitCode {
    let done = args.place.path().and_then(|path| {
        let mut client = Client::connect(&path)?;
        match &args.what {
            What::Kill { ids } => kill(&mut client, ids, args.json),
            what => {
                let answer = client.ask(what.request())?;
                show(&answer, args.json)
            }
        }
    });
    ended(done)
}

/// The exit code, and the line that explains it.
pub fn ended(done: Result<(), Error>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if stderr is gone. A file's problems name the file.
            let _ = match error {
                Error::Config(error) => writeln!(std::io::stderr(), "{error}"),
                error => writeln!(std::io::stderr(), "sosplice: {error}"),
            };
            ExitCode::FAILURE
        }
    }
}

impl Place {
    /// The socket's path.
    pub fn path(&self) -> Result<PathBuf, Error> {
        let Some(file) = &self.config else {
            return Ok(self.socket.clone().unwrap_or_else(|| DEFAULT_PATH.into()));
        };
        config::load(file)?.control.ok_or_else(|| Error::NoControl(file.clone()))
    }
}

impl What {
    fn request(&self) -> Request {
        let server = |servers: &Servers, set| {
            // No upstream has a slash in its name.
            let (upstream, server) = match servers.name.split_once('/') {
                Some((upstream, server)) => (upstream, Some(server.to_owned())),
                None => (servers.name.as_str(), None),
            };
            Request::Server { upstream: upstream.to_owned(), server, set }
        };
        match self {
            Self::Sessions => Request::Sessions,
            Self::Kill { ids } => Request::Kill { ids: ids.clone() },
            Self::Upstreams => Request::Upstreams,
            Self::Enable(servers) => server(servers, Setting::Enable),
            Self::Disable(servers) => server(servers, Setting::Disable),
            Self::Drain(servers) => server(servers, Setting::Drain),
            Self::Stats => Request::Stats,
            Self::Reload => Request::Reload,
        }
    }
}

/// So many fit into a request.
const IDS_A_REQUEST: usize = 1000;

fn kill(client: &mut Client, ids: &[u64], json: bool) -> Result<(), Error> {
    let (mut killed, mut unknown) = (Vec::new(), Vec::new());
    for ids in ids.chunks(IDS_A_REQUEST) {
        match client.ask(Request::Kill { ids: ids.to_vec() })? {
            Answer::Killed { killed: more, unknown: others } => {
                killed.extend(more);
                unknown.extend(others);
            }
            other => return Err(client.foreign(format!("{other:?}")).into()),
        }
    }
    let missing = unknown.clone();
    // The error says it all where nothing was done, unless a program reads the answer.
    if json || !killed.is_empty() {
        show(&Answer::Killed { killed, unknown }, json)?;
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::Unknown(missing)) }
}

fn numbers(numbers: &[u64]) -> String {
    let all: Vec<_> = numbers.iter().map(u64::to_string).collect();
    format!("the number{} {}", if all.len() == 1 { "" } else { "s" }, all.join(", "))
}

fn show(answer: &Answer, json: bool) -> Result<(), Error> {
    let text = if json { self::json(answer)? } else { report::text(answer) };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // A closed pipe (`| head`) is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// What the answer says, without the word that says what it is.
fn json(answer: &Answer) -> Result<String, Error> {
    let text = match answer {
        Answer::Sessions(sessions) => serde_json::to_string_pretty(sessions),
        Answer::Killed { killed, unknown } => serde_json::to_string_pretty(
            &serde_json::json!({ "killed": killed, "unknown": unknown }),
        ),
        Answer::Servers(servers) => serde_json::to_string_pretty(servers),
        Answer::Stats(stats) => serde_json::to_string_pretty(stats),
        Answer::Reloaded(told) => {
            serde_json::to_string_pretty(&serde_json::json!({ "reloaded": told }))
        }
        Answer::Refused(why) => {
            serde_json::to_string_pretty(&serde_json::json!({ "refused": why }))
        }
    };
    Ok(text.map_err(std::io::Error::from)? + "\n")
}
