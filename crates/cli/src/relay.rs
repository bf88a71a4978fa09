//! `sosplice relay`: the flags, and what they become.

use crate::log;
use sosplice::EngineChoice;
use sosplice_relay::config::spelling;
use sosplice_relay::plan::{
    Balance, HttpPlan, ListenerPlan, LogPlan, Plan, Protocol, ProxyVersion, RelayPlan, Timeouts,
    UpstreamId, UpstreamPlan,
};
use sosplice_relay::{Congestion, Error, Service, Target};
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Arguments of `sosplice relay`.
#[derive(clap::Args)]
pub struct Args {
    /// Where to listen: ADDRESS:PORT, or :PORT for every address; port 0 for any
    #[arg(value_parser = spelling::listen)]
    listen: SocketAddr,

    /// Where to go: HOST:PORT, one or more; none for a built-in origin to try it with
    #[arg(required_if_eq("udp", "true"))]
    targets: Vec<Target>,

    /// Relay datagrams: a session for each client address
    #[arg(long)]
    udp: bool,

    /// Relay HTTP/1.1: requests are balanced one by one, bodies are spliced
    #[arg(long, conflicts_with = "udp", conflicts_with = "max")]
    http: bool,

    /// Tell each target who the client is, by a PROXY header in front of the bytes
    #[arg(long, value_name = "VERSION", value_enum, conflicts_with = "udp")]
    proxy_protocol: Option<Version>,

    /// End a connection when a direction has carried so many bytes (as 1000, 10MB, 1GiB)
    #[arg(long, value_name = "BYTES", value_parser = bytes, conflicts_with = "udp")]
    max: Option<u64>,

    /// End a connection when nothing moved either way for so long (as 90s, 5m) [default: none,
    /// with --udp and --http 60s]
    #[arg(long, value_name = "TIME", value_parser = time_limit)]
    idle: Option<Duration>,

    /// Give up on an upstream that does not answer for so long
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time_limit)]
    #[arg(conflicts_with = "udp")]
    connect_timeout: Duration,

    /// After SIGTERM let running connections go on for at most so long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = spelling::time)]
    drain_timeout: Duration,

    /// What carries the bytes: auto lets each flow decide, pipe is splice(2), copy a buffer (with
    /// --udp auto is batches, copy a call a datagram)
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,

    /// How an upstream is chosen
    #[arg(long, value_enum, default_value_t)]
    balance: Policy,

    /// Threads, each with a listener of its own [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,

    /// Look for events so long before sleeping: less latency for more CPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    busy_poll_us: u32,

    /// The congestion control of all connections, as reno or cubic: inside a host or a data
    /// centre bulk costs less than with bbr, which paces [default: the system's]
    #[arg(long, value_name = "NAME", conflicts_with = "udp")]
    congestion: Option<String>,

    /// Connections at a time; more wait [default: what the descriptor limit allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[arg(conflicts_with = "udp")]
    max_connections: Option<u64>,

    /// With --udp: sessions at a time; the least recently used makes room for a new one
    /// [default: what the descriptor limit allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[arg(requires = "udp")]
    max_sessions: Option<u64>,

    #[command(flatten)]
    log: log::Flags,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Engine {
    #[default]
    Auto,
    Pipe,
    Copy,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Policy {
    /// Each upstream in turn
    #[default]
    RoundRobin,
    /// The upstream with the fewest connections
    LeastConn,
    /// Of two chosen at random the one with fewer connections
    TwoChoices,
    /// Any upstream, evenly
    Random,
    /// By the client's address
    Source,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Version {
    /// A line of text
    V1,
    /// Binary
    V2,
}

/// A limit on bytes, which zero would not be.
fn bytes(text: &str) -> Result<u64, String> {
    match spelling::bytes(text)? {
        0 => {
            Err("0 would end every connection at once: leave the flag out for no limit".to_owned())
        }
        bytes => Ok(bytes),
    }
}

/// A limit on time, which zero would not be.
fn time_limit(text: &str) -> Result<Duration, String> {
    match spelling::time(text)? {
        Duration::ZERO => Err("0 would end every connection at once".to_owned()),
        time => Ok(time),
    }
}

/// Runs `sosplice relay`.
pub fn run(args: Args) -> ExitCode {
    if args.udp && matches!(args.engine, Engine::Pipe) {
        let _ = writeln!(
            std::io::stderr(),
            "error: --engine pipe is for streams: with --udp there are auto and copy"
        );
        return ExitCode::from(2);
    }
    let log = args.log.start();
    let end = start(args).and_then(Service::run);
    // The log first, so that the error is the last word.
    drop(log);
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if stderr is gone.
            let _ = writeln!(std::io::stderr(), "sosplice: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> Result<Service, Error> {
    let plan = args.plan();
    let (workers, trial) = (plan.workers, plan.upstreams.is_empty());
    let service = Service::start(plan, None)?;
    for (_, addr) in service.listeners() {
        tracing::info!(%addr, workers, "listening");
        if trial {
            // On stdout whatever the log level: this is what the user is to do next. A
            // closed stdout is no reason to stop.
            let _ = write!(std::io::stdout(), "{}", try_this(addr));
        }
    }
    Ok(service)
}

impl Args {
    /// The same as a configuration file of one relay and one upstream.
    fn plan(self) -> Plan {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let upstreams: Vec<_> = self.upstream().map(Arc::new).into_iter().collect();
        let protocol = if self.udp {
            Protocol::Udp { max_sessions: self.max_sessions }
        } else if self.http {
            Protocol::Http(HttpPlan::default())
        } else {
            Protocol::Tcp
        };
        let listener = ListenerPlan { address: self.listen, accept_proxy_from: Vec::new() };
        let plain = RelayPlan::new(String::new(), protocol, vec![listener]);
        let relay = RelayPlan {
            upstream: (!upstreams.is_empty()).then_some(UpstreamId(0)),
            send_proxy: self.proxy_protocol.map(|version| match version {
                Version::V1 => ProxyVersion::V1,
                Version::V2 => ProxyVersion::V2,
            }),
            timeouts: Timeouts {
                connect: self.connect_timeout,
                idle: self.idle.or(plain.timeouts.idle),
                ..plain.timeouts
            },
            max_bytes: self.max,
            engine: match self.engine {
                Engine::Auto => EngineChoice::Auto,
                Engine::Pipe => EngineChoice::Pipe,
                Engine::Copy => EngineChoice::Copy,
            },
            congestion: self.congestion.map(Congestion),
            ..plain
        };
        Plan {
            workers: self.workers.map_or_else(cores, usize::from),
            busy_poll: Duration::from_micros(self.busy_poll_us.into()),
            drain_timeout: self.drain_timeout,
            max_connections: self.max_connections,
            admin: None,
            control: None,
            log: LogPlan::default(),
            relays: vec![Arc::new(relay)],
            upstreams,
        }
    }

    fn upstream(&self) -> Option<UpstreamPlan> {
        let balance = match self.balance {
            Policy::RoundRobin => Balance::RoundRobin,
            Policy::LeastConn => Balance::LeastConnections,
            Policy::TwoChoices => Balance::TwoChoices,
            Policy::Random => Balance::Random,
            Policy::Source => Balance::Source,
        };
        let plan = UpstreamPlan::plain("targets", &self.targets, balance);
        (!self.targets.is_empty()).then_some(plan)
    }
}

/// What to type with the built-in origin behind.
fn try_this(addr: SocketAddr) -> String {
    let host = if addr.ip().is_unspecified() {
        format!("localhost:{}", addr.port())
    } else {
        addr.to_string()
    };
    format!(
        "No TARGET: a built-in origin answers behind this relay. Try, in another terminal:\n\
         \n    curl http://{host}/bytes/100000000 -o /dev/null http://{host}/\n\n\
         It fetches 100 MB through the relay, and then, on the same connection, what carried them.\n"
    )
}
