//! What keeps a relay from starting. What ends a session is in its log line.

use std::io;
use std::net::SocketAddr;

/// Why the relay could not start or go on.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listening address cannot be had.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A target's name does not resolve.
    #[error("cannot resolve target {target}: {source}")]
    Resolve {
        /// The target as given.
        target: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// A target is the relay itself: one connection would become a chain of them.
    #[error("target {target} is this relay itself, which listens on {addr}")]
    SelfTarget {
        /// The target's address.
        target: SocketAddr,
        /// Where the relay listens.
        addr: SocketAddr,
    },
    /// The congestion control is unknown here, or not allowed to this user.
    #[error(
        "cannot use congestion control '{name}': {source}; allowed are: {allowed} (sysctl net.ipv4.tcp_allowed_congestion_control)"
    )]
    Congestion {
        /// The name as given.
        name: String,
        /// Names that any user may choose.
        allowed: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A worker thread or its runtime cannot be had.
    #[error("cannot start worker {worker}: {source}")]
    Worker {
        /// Its number, from 0.
        worker: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The limit on open files cannot be read or raised.
    #[error("cannot raise the limit on open files: {source}")]
    Limit {
        /// What the kernel said.
        source: io::Error,
    },
    /// The limit on open files is too low for what was asked.
    #[error(transparent)]
    Budget(#[from] crate::budget::BudgetError),
    /// Signals cannot be caught.
    #[error("cannot catch signals: {source}")]
    Signals {
        /// What the kernel said.
        source: io::Error,
    },
    /// The control socket cannot be had.
    #[error(transparent)]
    Control(#[from] crate::control::BindError),
    /// No worker is left; each has logged its reason.
    #[error("every worker has failed, see the log")]
    WorkersFailed,
    /// The built-in origin cannot listen on loopback.
    #[error("cannot start the built-in origin: {source}")]
    Origin {
        /// What the kernel said.
        source: io::Error,
    },
}
