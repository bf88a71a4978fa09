//! What is told of upstreams to who asks from outside, now and as a whole.
//!
//! The counts are read one after the other while sessions go on, so they need not fit each
//! other to the last session. One definition is what is written and what is read.

use super::server::{Admin, Server};
use super::{Upstream, Upstreams};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// A server as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSnapshot {
    /// Its upstream's name.
    pub upstream: String,
    /// Its own.
    pub server: String,
    /// Where it is, as configured.
    pub target: String,
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
    /// Its health.
    pub state: Health,
    /// How long it is in that state, in milliseconds.
    pub state_for_ms: u64,
    /// What the administrator has said.
    pub admin: Admin,
    /// Its share.
    pub weight: u32,
    /// Chosen only while no other is to be had.
    pub backup: bool,
    /// Running sessions (HTTP: requests).
    pub sessions: u64,
    /// How many it may have; None for no limit.
    pub max_connections: Option<u64>,
    /// Sessions that wait for a place at any server of the upstream.
    pub queued: usize,
    /// Sessions so far, running ones included.
    pub total: u64,
    /// Connects that failed and datagrams that were refused.
    pub failures: u64,
    /// To the server, by sessions that have ended.
    pub bytes_up: u64,
    /// From the server, by sessions that have ended.
    pub bytes_down: u64,
    /// None where there was none yet.
    pub last_check: Option<CheckSnapshot>,
}

/// Whether a server is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Checked and well, as far as is known.
    Up,
    /// Checked and not well.
    Down,
    /// Not checked, and taken for well.
    Unchecked,
}

/// A check that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSnapshot {
    /// How long ago, in milliseconds.
    pub ago_ms: u64,
    /// Why it failed; None for passed.
    pub failure: Option<String>,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Upstreams {
    /// Every server of every upstream, in their order.
    pub(crate) fn snapshot(&self) -> Vec<ServerSnapshot> {
        self.iter().flat_map(|upstream| upstream.snapshot()).collect()
    }
}

impl Upstream {
    fn snapshot(&self) -> impl Iterator<Item = ServerSnapshot> {
        self.servers().iter().map(|server| server.snapshot(self.queued()))
    }
}

impl Server {
    fn snapshot(&self, queued: usize) -> ServerSnapshot {
        let (state_for, last) = self.state().health.reading();
        let (bytes_up, bytes_down) = self.bytes();
        ServerSnapshot {
            upstream: self.upstream_name().to_owned(),
            server: self.name().to_owned(),
            target: self.target().to_string(),
            addresses: self.addrs().to_vec(),
            state: match (self.is_checked(), self.is_up()) {
                (false, _) => Health::Unchecked,
                (true, true) => Health::Up,
                (true, false) => Health::Down,
            },
            state_for_ms: ms(state_for),
            admin: self.admin(),
            weight: self.plan().weight,
            backup: self.plan().is_backup,
            sessions: self.sessions(),
            max_connections: self.plan().max_connections,
            queued,
            total: self.total(),
            failures: self.failures(),
            bytes_up,
            bytes_down,
            last_check: last.map(|last| CheckSnapshot {
                ago_ms: ms(last.at.elapsed()),
                failure: last.result.err(),
            }),
        }
    }
}
