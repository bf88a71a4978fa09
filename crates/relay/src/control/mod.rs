//! The control socket: how `sosplice ctl` and `sosplice top` see a running service and steer it.
//!
//! A unix socket that nobody but its owner may open (`socket`), and a protocol of one JSON
//! object a line ([`protocol`]), each with the version that it is written in. The types are those
//! of both sides, so that what is written is what is read. It is served on the control thread's
//! runtime: a client can make no worker wait for longer than it takes to copy the list of its
//! sessions, and a worker of datagrams to look at a line's worth of them.
//!
//! What a client sends is bounded in length, how long it takes is bounded in time, and so is the
//! number of clients. It does not tell one client what another has asked, sends nothing unasked,
//! and trusts whoever can open the socket: the file's mode is all the protection that there is.

mod answer;
mod client;
#[cfg(any(test, fuzzing))]
pub(crate) mod examine;
pub mod protocol;
mod serve;
mod sessions;
mod snapshot;
mod socket;

pub use client::{AskError, Client};
pub use snapshot::{
    Bytes, Datagrams, RelaySnapshot, RuleSnapshot, SessionSnapshot, StageWord, Stats, Statuses,
};
pub use socket::BindError;

pub(crate) use snapshot::stats;
pub(crate) use socket::Socket;

/// Where the command looks for the socket when it is not told: the place that the examples have.
pub const DEFAULT_PATH: &str = "/run/sosplice/control.sock";
