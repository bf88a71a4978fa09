//! What is told of relays and sessions: numbers as of now, read while sessions go on, so that
//! they need not fit each other to the last session. Counts only grow, as long as the relay is in
//! the configuration.

use crate::graph::{ByEngine, Count, Relay, Tally};
use crate::live::Live;
use crate::plan::Protocol;
use crate::service::{Stage, State};
use crate::udp::Look;
use serde::{Deserialize, Serialize};
use sosplice::Carried;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes by the engine that carried them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bytes {
    /// Through a worker's buffer.
    pub copy: u64,
    /// By splice(2): these never were in user space.
    pub pipe: u64,
    /// As datagrams that the kernel cut.
    pub gso: u64,
    /// As datagrams of which one call sent several.
    pub mmsg: u64,
    /// As datagrams sent by a call each.
    pub plain: u64,
}

impl Bytes {
    /// Of all engines.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.copy + self.pipe + self.gso + self.mmsg + self.plain
    }

    /// Each engine's name, and its bytes.
    #[must_use]
    pub const fn by_engine(self) -> [(&'static str, u64); 5] {
        let Self { copy, pipe, gso, mmsg, plain } = self;
        [("copy", copy), ("pipe", pipe), ("gso", gso), ("mmsg", mmsg), ("plain", plain)]
    }
}

impl From<Carried> for Bytes {
    fn from(carried: Carried) -> Self {
        let Carried { copy, pipe, gso, mmsg, plain, .. } = carried;
        Self { copy, pipe, gso, mmsg, plain }
    }
}

/// A running session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSnapshot {
    /// Its number, for a kill. No other session of this process has it, or had it.
    pub id: u64,
    /// Its relay's name.
    pub relay: String,
    /// Its client, as a PROXY header says where one is believed.
    pub client: SocketAddr,
    /// The server's address; None while there is none.
    pub upstream: Option<SocketAddr>,
    /// How long it runs, in milliseconds.
    pub age_ms: u64,
    /// To the server so far. With HTTP the bodies of requests that have ended.
    pub up: Bytes,
    /// To the client so far. With HTTP the bodies of answers that have ended.
    pub down: Bytes,
    /// Of a session of datagrams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams: Option<Datagrams>,
}

/// What is told of a session of datagrams alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagrams {
    /// Sent to the server so far.
    pub up: u64,
    /// Sent to the client so far.
    pub down: u64,
    /// For how long none has come either way, in milliseconds.
    pub idle_ms: u64,
}

/// A relay's counts since the process began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelaySnapshot {
    /// Its name.
    pub relay: String,
    /// `tcp`, `udp` or `http`.
    pub protocol: String,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Sessions that were accepted, those among them that were then refused included.
    pub accepted: u64,
    /// Sessions that got no server, or were one too many of their client.
    pub refused: u64,
    /// Sessions that are there now.
    pub running: u64,
    /// Sessions that had a server and have ended.
    pub ended: u64,
    /// UDP: sessions that have made room for others.
    pub evicted: u64,
    /// UDP: datagrams that were lost here.
    pub dropped: u64,
    /// To servers, running sessions included; with UDP those that have ended, with HTTP the
    /// bodies of requests that have ended.
    pub up: Bytes,
    /// From servers, likewise.
    pub down: Bytes,
    /// HTTP: requests that have ended.
    pub requests: u64,
    /// HTTP: their answers.
    pub statuses: Statuses,
    /// HTTP: the rules, in their order.
    pub rules: Vec<RuleSnapshot>,
}

/// Answers by their status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statuses {
    /// 100 to 199 as last answer: connections that were upgraded.
    #[serde(rename = "1xx")]
    pub informational: u64,
    /// 200 to 299.
    #[serde(rename = "2xx")]
    pub successful: u64,
    /// 300 to 399.
    #[serde(rename = "3xx")]
    pub redirection: u64,
    /// 400 to 499.
    #[serde(rename = "4xx")]
    pub client_error: u64,
    /// 500 to 599.
    #[serde(rename = "5xx")]
    pub server_error: u64,
}

impl Statuses {
    /// Each class, and its answers.
    #[must_use]
    pub const fn by_class(self) -> [(&'static str, u64); 5] {
        [
            ("1xx", self.informational),
            ("2xx", self.successful),
            ("3xx", self.redirection),
            ("4xx", self.client_error),
            ("5xx", self.server_error),
        ]
    }
}

/// A rule's counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSnapshot {
    /// Its name.
    pub rule: String,
    /// Requests that it has matched.
    pub matched: u64,
}

/// The service as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub program: String,
    /// Since when it runs, in milliseconds since 1970.
    pub began_ms: u64,
    /// How long it runs, in milliseconds.
    pub uptime_ms: u64,
    /// Whether it accepts.
    pub stage: StageWord,
    /// Threads that serve TCP and HTTP.
    pub workers: usize,
    /// Reloads that were done.
    pub reloads: u64,
    /// Reloads that were refused: the file was wrong, or asked for what cannot be had.
    pub reloads_refused: u64,
    /// In the order of the configuration.
    pub relays: Vec<RelaySnapshot>,
}

/// How far a service has come towards its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageWord {
    /// It accepts.
    Running,
    /// It accepts no more, and lets what runs end.
    Draining,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn session(live: &Live) -> SessionSnapshot {
    let (up, down) = live.load();
    SessionSnapshot {
        id: live.id,
        relay: live.relay.plan.name.clone(),
        client: live.client(),
        upstream: live.upstream(),
        age_ms: ms(live.began.elapsed()),
        up: up.into(),
        down: down.into(),
        datagrams: None,
    }
}

pub(super) fn datagram_session(look: Look) -> SessionSnapshot {
    let (up, down) = look.carried;
    let idle_ms = ms(look.idle);
    SessionSnapshot {
        id: look.id,
        relay: look.relay.plan.name.clone(),
        client: look.client,
        upstream: Some(look.upstream),
        age_ms: ms(look.age),
        up: up.into(),
        down: down.into(),
        datagrams: Some(Datagrams { up: up.datagrams, down: down.datagrams, idle_ms }),
    }
}

/// The service now.
pub(crate) fn stats(state: &State) -> Stats {
    let listeners = state.listeners();
    let relays = state.graph().relays.iter().map(|relay| self::relay(relay, &listeners)).collect();
    let (reloads, reloads_refused) = state.reloads();
    Stats {
        pid: std::process::id(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        began_ms: ms(state.began.duration_since(UNIX_EPOCH).unwrap_or_default()),
        uptime_ms: ms(SystemTime::now().duration_since(state.began).unwrap_or_default()),
        stage: match state.stage() {
            Stage::Running => StageWord::Running,
            Stage::Draining | Stage::Cut => StageWord::Draining,
        },
        workers: state.sessions.len(),
        reloads,
        reloads_refused,
        relays,
    }
}

fn relay(relay: &Relay, listeners: &[(String, SocketAddr)]) -> RelaySnapshot {
    let (plan, counts) = (&relay.plan, &relay.counts);
    let sum = |count: fn(&Tally) -> &Count| -> u64 {
        counts.tallies.iter().map(|tally| count(tally).get()).sum()
    };
    let bytes = |bytes: fn(&Tally) -> &ByEngine| -> Bytes {
        let mut all = Carried::default();
        counts.tallies.iter().for_each(|tally| all += bytes(tally).get());
        all.into()
    };
    // Before those that were accepted, or there would seem to be fewer than none.
    let ended = sum(|tally| &tally.ended);
    let accepted = sum(|tally| &tally.accepted);
    let mine = |(name, _): &&(String, SocketAddr)| *name == plan.name;
    RelaySnapshot {
        relay: plan.name.clone(),
        protocol: match plan.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp { .. } => "udp",
            Protocol::Http(_) => "http",
        }
        .to_owned(),
        listen: listeners.iter().filter(mine).map(|(_, addr)| *addr).collect(),
        accepted,
        refused: sum(|tally| &tally.refused),
        running: if relay.is_udp() { accepted.saturating_sub(ended) } else { counts.gate.inside() },
        ended,
        evicted: sum(|tally| &tally.evicted),
        dropped: sum(|tally| &tally.dropped),
        up: bytes(|tally| &tally.up),
        down: bytes(|tally| &tally.down),
        requests: sum(|tally| &tally.requests),
        statuses: Statuses {
            informational: sum(|tally| &tally.statuses[0]),
            successful: sum(|tally| &tally.statuses[1]),
            redirection: sum(|tally| &tally.statuses[2]),
            client_error: sum(|tally| &tally.statuses[3]),
            server_error: sum(|tally| &tally.statuses[4]),
        },
        rules: relay
            .rule_counts()
            .map(|(rule, matched)| RuleSnapshot { rule: rule.to_owned(), matched })
            .collect(),
    }
}
