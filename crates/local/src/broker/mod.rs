//! The rendezvous: one process a directory, which brings the two ends of a connection together.
//!
//! One thread, one loop, and nothing in it waits for anybody: what a member does not take at
//! once it does not get, and its connection stays on TCP. The bytes of a connection never
//! come by here; a broker that dies takes nothing with it but the next pairs.
//!
//! Members are not trusted. A packet that is no request ends the member that sent it; tables
//! and memory are bounded, for one member and for one user as well as for all; and a turn of
//! the loop serves each a few packets, so a flood waits in its sender's own socket.
//!
//! What it does not do: it takes a member's word for its own sockets against others of the same
//! user. Processes of one user could read each other's memory anyway; where they could not,
//! in containers that all run as root, whoever can reach the directory can claim any connection
//! of that user's in the network. So a directory is for those who trust each other.
//!
//! The files by concern: [`directory`] where it sits, [`claim`] and [`table`] who belongs
//! together, [`policy`] what may pair, `sockets` whose socket it is, `memory` and `pairs` what
//! they get, [`control`] and [`status`] what operators ask, [`detach`] what it leaves behind,
//! `serve` the loop.

pub mod claim;
pub mod control;
pub mod detach;
pub mod directory;
mod memory;
mod pairs;
pub mod policy;
mod serve;
mod sockets;
pub mod status;
pub mod table;

pub use claim::Scope;
pub use control::{Answer, Ask, ControlError, ask, expect};
pub use serve::Broker;

use std::path::PathBuf;
use std::time::Duration;

/// How a broker is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How far an address is a name.
    pub scope: Scope,
    /// How long it stays without a member, and without a policy that somebody has set.
    pub linger: Duration,
    /// What it holds at most.
    pub limits: Limits,
}

impl Options {
    /// The usual ones.
    pub fn new(scope: Scope) -> Self {
        Self { scope, linger: Duration::from_secs(30), limits: Limits::default() }
    }
}

/// What a broker holds at most. A user's share is half of everything, so that one leaves
/// room for the others.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections to it: members, and operators.
    pub connections: usize,
    /// Announcements of one member that wait for their other end.
    pub waiting_of_member: usize,
    /// The same of all.
    pub waiting: usize,
    /// Pairs at a time.
    pub pairs: usize,
    /// Bytes of memory of all pairs.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            waiting_of_member: 1 << 14,
            waiting: 1 << 17,
            pairs: 8192,
            memory_bytes: 2 << 30,
        }
    }
}

/// Why a broker cannot be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another one has the directory.
    #[error("{0}: another broker has this directory")]
    Taken(PathBuf),
    /// Its owner could replace the broker.
    #[error("{dir}: it belongs to the user with the number {uid}: use a directory of your own or root's", dir = .dir.display())]
    Foreign {
        /// The directory, or the one that it is in.
        dir: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Others could replace the broker.
    #[error("{0}: others can write to it (chmod go-w it)")]
    Open(PathBuf),
    /// It would mean another place to each program.
    #[error("{0}: the directory's path is not absolute")]
    Relative(PathBuf),
    /// A unix socket's path has 107 bytes.
    #[error("{0}: the path is too long for a socket in it (95 bytes at most)")]
    TooLong(PathBuf),
    /// What the system says of it.
    #[error("{0}: {1}")]
    Directory(PathBuf, #[source] std::io::Error),
    /// The loop itself failed.
    #[error("broker: {0}")]
    System(#[from] rustix::io::Errno),
}
