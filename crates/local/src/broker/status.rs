//! What `sosplice local status` shows.

use super::policy::Policy;
use crate::layout::{Header, Lane, ROUTE_PINNED, ROUTE_RING};
use crate::sync::{AtomicU64, Ordering};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A broker's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The rendezvous directory.
    pub rendezvous: PathBuf,
    /// The broker's process.
    pub pid: u32,
    /// Whether routable addresses name one connection across network namespaces.
    pub one_network: bool,
    /// What may pair.
    pub policy: Policy,
    /// Whether somebody has said so, or these are the defaults.
    pub policy_was_set: bool,
    /// The running pairs, oldest first.
    pub pairs: Vec<PairStatus>,
    /// Of the pairs that have ended.
    pub ended: Ended,
    /// How many announcements stayed on TCP, by reason; a connection that both ends have
    /// announced counts twice. "peer has not announced" has also those that may still be.
    pub on_tcp: BTreeMap<String, u64>,
    /// The processes that take part.
    pub members: Vec<MemberStatus>,
    /// Memory of the running pairs, in bytes: so much at most.
    pub memory_bytes: u64,
}

/// A running pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairStatus {
    /// Both ends; the first one's bytes are the first direction.
    pub ends: [EndStatus; 2],
    /// Size of each ring.
    pub ring_bytes: u64,
    /// Its memory, in bytes: so much at most.
    pub memory_bytes: u64,
    /// From the first end to the second, and back.
    pub directions: [Traffic; 2],
}

/// One end of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndStatus {
    /// Its address of the connection.
    pub address: SocketAddr,
    /// Its process; 0 if the broker cannot see it.
    pub pid: u32,
    /// The process's name.
    pub command: String,
    /// Its user; none if the broker has no number for it.
    pub uid: Option<u32>,
}

/// What has gone one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Where the bytes go now.
    pub route: Route,
    /// Bytes through the ring.
    pub bytes: u64,
    /// Calls that put them there.
    pub messages: u64,
    /// Times that the reader was woken over TCP.
    pub doorbells: u64,
    /// Waits that were spent spinning, of the writer and of the reader.
    pub spins: u64,
    /// Times that the ring was full and the stream went on over TCP.
    pub overflows: u64,
    /// Bytes that went over TCP since the pair was made.
    pub tcp_bytes: u64,
}

/// Where a direction's bytes go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// Over TCP, for now.
    #[default]
    Tcp,
    /// Through the ring.
    Ring,
    /// Over TCP for good.
    Pinned,
}

/// The sums over pairs that have ended, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How many.
    pub pairs: u64,
    /// See [`Traffic`].
    pub bytes: u64,
    /// See [`Traffic`].
    pub messages: u64,
    /// See [`Traffic`].
    pub doorbells: u64,
    /// See [`Traffic`].
    pub spins: u64,
    /// See [`Traffic`].
    pub overflows: u64,
    /// See [`Traffic`].
    pub tcp_bytes: u64,
}

/// A process that takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// 0 if the broker cannot see it.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// Its user; none if the broker has no number for it.
    pub uid: Option<u32>,
    /// Ends of running pairs that are its own.
    pub pairs: u64,
    /// Connections that it has announced and whose other end nobody has.
    pub waiting: u64,
}

/// Both directions of a pair. The words are the ends' own; a broken end shows nonsense.
pub fn directions(header: &Header) -> [Traffic; 2] {
    [traffic(&header.lanes[0]), traffic(&header.lanes[1])]
}

fn traffic(lane: &Lane) -> Traffic {
    let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let written = &lane.written;
    Traffic {
        route: match written.route.load(Ordering::Relaxed) {
            ROUTE_RING => Route::Ring,
            ROUTE_PINNED => Route::Pinned,
            _ => Route::Tcp,
        },
        bytes: load(&written.head),
        messages: load(&written.messages),
        doorbells: load(&written.bells),
        spins: load(&written.spins).saturating_add(load(&lane.taken.spins)),
        overflows: load(&written.overflows),
        tcp_bytes: load(&written.tcp_bytes),
    }
}

impl Ended {
    /// One more pair.
    pub fn add(&mut self, header: &Header) {
        self.pairs += 1;
        for one in directions(header) {
            let sums = [
                (&mut self.bytes, one.bytes),
                (&mut self.messages, one.messages),
                (&mut self.doorbells, one.doorbells),
                (&mut self.spins, one.spins),
                (&mut self.overflows, one.overflows),
                (&mut self.tcp_bytes, one.tcp_bytes),
            ];
            for (sum, more) in sums {
                *sum = sum.saturating_add(more);
            }
        }
    }
}
