//! What a service is to do, checked and complete: the meaning of a configuration file, or of the
//! arguments of `sosplice relay`.
//!
//! A plan is only made by [`crate::config`] or by a command line, holds no socket and no state,
//! and never changes: a reload makes another one. Names are resolved to places in it, so that
//! whoever holds a plan need not look anything up that could be missing.

mod http;
mod log;
mod upstream;

pub use http::{Action, Condition, Field, HeaderEdit, HttpPlan, Match, PathMatch, Rule, SetOrAdd};
pub use log::{LogFormat, LogLevel, LogPlan};
pub use upstream::{Balance, Check, CheckKind, ServerPlan, Statuses, UpstreamPlan};

use crate::upstream::Congestion;
use ipnet::IpNet;
use sosplice::EngineChoice;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// All that one process is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Threads, each with listeners of its own. Not changed by a reload.
    pub workers: usize,
    /// How long a worker keeps looking for events before it sleeps; zero for not at all. Not
    /// changed by a reload.
    pub busy_poll: Duration,
    /// How long running sessions may go on after the first SIGTERM.
    pub drain_timeout: Duration,
    /// Sessions at a time, all TCP and HTTP relays together; further clients wait in the backlog.
    /// None for as many as the limit on descriptors allows. Not changed by a reload.
    pub max_connections: Option<u64>,
    /// Where metrics and health are told; None for nowhere.
    pub admin: Option<SocketAddr>,
    /// The unix socket of `sosplice ctl`; None for none.
    pub control: Option<PathBuf>,
    /// What is logged. Not changed by a reload.
    pub log: LogPlan,
    /// At least one.
    pub relays: Vec<Arc<RelayPlan>>,
    /// Those that a relay or a rule names, and any others.
    pub upstreams: Vec<Arc<UpstreamPlan>>,
}

impl Plan {
    /// [`drain_timeout`](Self::drain_timeout) where nothing else is said.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
}

impl Plan {
    /// Whether a session of any relay can come to the built-in origin.
    #[must_use]
    pub fn uses_origin(&self) -> bool {
        self.relays.iter().any(|relay| relay.uses_origin())
    }
}

/// A place in [`Plan::upstreams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamId(pub usize);

/// Listeners, and where their clients go.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayPlan {
    /// Unique among the relays. Letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What is spoken.
    pub protocol: Protocol,
    /// At least one.
    pub listeners: Vec<ListenerPlan>,
    /// Where its sessions go unless a rule says otherwise; None stands for the built-in origin, or for
    /// nowhere if the rules decide everything.
    pub upstream: Option<UpstreamId>,
    /// Sessions of this relay at a time; further clients wait in the backlog.
    pub max_connections: Option<u64>,
    /// Sessions of one client address at a time; further ones are reset.
    pub max_per_client: Option<u64>,
    /// A PROXY header goes first to each upstream.
    pub send_proxy: Option<ProxyVersion>,
    /// How long what may take.
    pub timeouts: Timeouts,
    /// What each direction may carry before the connection ends, in bytes; TCP only.
    pub max_bytes: Option<u64>,
    /// What carries the bytes.
    pub engine: EngineChoice,
    /// The congestion control of all connections; None for the system's.
    pub congestion: Option<Congestion>,
}

impl RelayPlan {
    /// With the default of everything else.
    #[must_use]
    pub fn new(name: String, protocol: Protocol, listeners: Vec<ListenerPlan>) -> Self {
        Self {
            name,
            timeouts: Timeouts::of(&protocol),
            protocol,
            listeners,
            upstream: None,
            max_connections: None,
            max_per_client: None,
            send_proxy: None,
            max_bytes: None,
            engine: EngineChoice::default(),
            congestion: None,
        }
    }

    /// Whether a session can come to the built-in origin.
    #[must_use]
    pub fn uses_origin(&self) -> bool {
        let decides_all = matches!(&self.protocol, Protocol::Http(http) if http.decides_all());
        self.upstream.is_none() && !decides_all
    }

    /// The name, if it was given one: that of `sosplice relay` has none.
    #[must_use]
    pub fn told_name(&self) -> Option<&str> {
        Some(&*self.name).filter(|name| !name.is_empty())
    }
}

/// What a relay speaks.
#[derive(Clone, Debug, PartialEq)]
pub enum Protocol {
    /// Bytes.
    Tcp,
    /// Datagrams.
    Udp {
        /// Sessions at a time; None for as many as the limit on descriptors allows.
        max_sessions: Option<u64>,
    },
    /// HTTP/1.1.
    Http(HttpPlan),
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerPlan {
    /// Port 0 lets the kernel choose one.
    pub address: SocketAddr,
    /// A client of these networks begins with a PROXY header (version 1 or 2), and is who it says.
    /// Nobody else is believed: what another client sends is data.
    pub accept_proxy_from: Vec<IpNet>,
}

/// The version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// How long what may take. None for without end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// One connect to one address of an upstream.
    pub connect: Duration,
    /// Nothing moved either way. With UDP the end of a session; with HTTP the wait for an
    /// answer's head and for each piece of a body.
    pub idle: Option<Duration>,
    /// One side has sent its end, and the other nothing for so long.
    pub half_closed: Option<Duration>,
    /// The whole of a request's head, or of a PROXY header, from its first byte on; with the
    /// connection's first request from accept on.
    pub head: Duration,
    /// Between two requests on a client's connection, and of an unused one to an upstream.
    pub keep_alive: Duration,
}

impl Timeouts {
    /// Of datagrams and of HTTP: such a session has no other end, or waits for a server that
    /// may have forgotten it.
    pub const IDLE: Duration = Duration::from_secs(60);

    /// The defaults for a protocol.
    #[must_use]
    pub fn of(protocol: &Protocol) -> Self {
        let idle = match protocol {
            Protocol::Tcp => None,
            Protocol::Udp { .. } | Protocol::Http(_) => Some(Self::IDLE),
        };
        Self { idle, ..Self::default() }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            idle: None,
            half_closed: None,
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
        }
    }
}
