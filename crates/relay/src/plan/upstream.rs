//! The plan of an upstream: its servers, and how one is chosen and watched.

use crate::upstream::Target;
use std::time::Duration;

/// Servers that can stand for each other.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamPlan {
    /// Unique among the upstreams. Letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// How one is chosen.
    pub balance: Balance,
    /// At least one.
    pub servers: Vec<ServerPlan>,
    /// How their health is watched; None for not at all: then all are up.
    pub check: Option<Check>,
    /// How often names are resolved again; None for only at the start and at a reload.
    pub resolve_interval: Option<Duration>,
    /// Sessions that may wait for a place when all servers have as many as they may.
    pub queue_max: usize,
    /// How long one may wait there.
    pub queue_timeout: Duration,
    /// HTTP: unused connections that each worker keeps for each server.
    pub idle_connections_max: usize,
}

impl UpstreamPlan {
    /// Servers at `targets`, all alike, neither watched nor limited; nobody waits in a queue.
    #[must_use]
    pub fn plain(name: &str, targets: &[Target], balance: Balance) -> Self {
        let name_of = |index: usize, target: &Target| match targets
            .iter()
            .take(index)
            .filter(|other| *other == target)
            .count()
        {
            0 => target.to_string(),
            earlier => format!("{target}#{}", earlier + 1),
        };
        let server = |(index, target): (usize, &Target)| ServerPlan {
            name: name_of(index, target),
            target: target.clone(),
            weight: 1,
            is_backup: false,
            max_connections: None,
        };
        let servers = targets.iter().enumerate().map(server).collect();
        Self { balance, queue_max: 0, ..Self::new(name.to_owned(), servers) }
    }

    /// [`queue_max`](Self::queue_max) where nothing else is said.
    pub const QUEUE_MAX: usize = 1024;
    /// [`queue_timeout`](Self::queue_timeout) where nothing else is said.
    pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
    /// [`idle_connections_max`](Self::idle_connections_max) where nothing else is said.
    pub const IDLE_CONNECTIONS_MAX: usize = 32;

    /// With the default of everything else.
    #[must_use]
    pub fn new(name: String, servers: Vec<ServerPlan>) -> Self {
        Self {
            name,
            balance: Balance::default(),
            servers,
            check: None,
            resolve_interval: None,
            queue_max: Self::QUEUE_MAX,
            queue_timeout: Self::QUEUE_TIMEOUT,
            idle_connections_max: Self::IDLE_CONNECTIONS_MAX,
        }
    }
}

/// One of an upstream's servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPlan {
    /// Unique in its upstream; the target as given if it was given no name.
    pub name: String,
    /// Where it is.
    pub target: Target,
    /// Its share, 1 to 1000, against the others' weights. Random, round-robin and source go by
    /// it; least-connections and two choices compare sessions divided by it.
    pub weight: u32,
    /// Chosen only while no other server is to be had.
    pub is_backup: bool,
    /// Sessions (HTTP: requests) at a time; None for no limit.
    pub max_connections: Option<u64>,
}

impl ServerPlan {
    /// With the default of everything else.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let name = target.to_string();
        Self { name, target, weight: 1, is_backup: false, max_connections: None }
    }
}

/// How a server is chosen for a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The one with the fewest sessions; ties in turn.
    LeastConnections,
    /// Of two chosen at random the one with fewer sessions.
    TwoChoices,
    /// Any, evenly.
    Random,
    /// By the client's address: the same client goes to the same server, and most keep theirs
    /// when servers come or go (consistent hashing).
    Source,
}

/// How a server's health is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// From the end of one check to the next.
    pub interval: Duration,
    /// Up to so much is added to each interval, at random.
    pub jitter: Duration,
    /// The whole of one check.
    pub timeout: Duration,
    /// Passed checks in a row that bring a server up.
    pub rise: u32,
    /// Failed ones that bring it down.
    pub fall: u32,
}

impl Check {
    /// [`interval`](Self::interval) where nothing else is said.
    pub const INTERVAL: Duration = Duration::from_secs(5);
    /// The [`jitter`](Self::jitter) is this part of the interval where nothing else is said: enough
    /// that the servers of a restarted service are not asked in step for long.
    pub const JITTER_PART: u32 = 10;
    /// [`timeout`](Self::timeout) where nothing else is said.
    pub const TIMEOUT: Duration = Duration::from_secs(2);
    /// [`rise`](Self::rise) where nothing else is said.
    pub const RISE: u32 = 2;
    /// [`fall`](Self::fall) where nothing else is said.
    pub const FALL: u32 = 3;
}

/// What a check asks of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// It accepts a connection.
    Tcp,
    /// It answers `send` with something that contains `expect`.
    SendExpect {
        /// May be empty.
        send: Vec<u8>,
        /// Not empty; looked for in the first 16 KiB.
        expect: Vec<u8>,
    },
    /// It answers a request with a status that is wanted.
    Http {
        /// GET, HEAD or another token.
        method: String,
        /// The request target, as `/health`.
        path: String,
        /// The Host field; None for the server's address.
        host: Option<String>,
        /// What is wanted.
        statuses: Statuses,
    },
}

/// Statuses that are wanted: ranges, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(pub Vec<(u16, u16)>);

impl Statuses {
    /// Whether `status` is among them.
    #[must_use]
    pub fn has(&self, status: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![(200, 399)])
    }
}
