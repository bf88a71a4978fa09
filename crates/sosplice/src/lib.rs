//! Socket splicing for Linux.
//!
//! A *splice* joins two sockets in one direction: what arrives on the *source*
//! goes out on the *drain*, with an optional byte limit, an optional idle limit,
//! a live count and a typed end. It is what OpenBSD and FreeBSD offer as the
//! socket option `SO_SPLICE` (see sosplice(9)), built from what an unmodified
//! Linux kernel has: splice(2) through a pipe for bulk, a worker's buffer for
//! small messages; and for UDP, whose datagrams keep their boundaries, batches that the
//! kernel joins and cuts.
//!
//! * [`Splicer`] moves bytes on worker threads of its own, for programs that use
//!   blocking calls; [`splice_both`] joins two sockets both ways and blocks.
//! * `sosplice::tokio` (feature `tokio`) does the same inside the caller's task;
//!   its `copy_bidirectional` takes the place of tokio's.
//! * [`mover`] and [`datagram`] are the state machines under both, for streams and for
//!   datagrams: no loop, no thread, no clock.
//!
//! The defaults and their reasons are in [`manual`].

#![deny(unsafe_code)]

mod completion;
pub mod datagram;
mod duplex;
mod end;
mod error;
mod lane;
pub mod manual;
pub mod mover;
mod nonblock;
#[cfg(test)]
mod sim;
mod splicer;
pub mod store;
pub mod sys;
#[cfg(feature = "tokio")]
pub mod tokio;
mod worker;

pub use duplex::{BothEnds, OnMax};
pub use end::{Carried, Cause, End, OsError};
pub use error::Error;
pub use mover::{EngineChoice, Limits};
pub use splicer::{Both, Splice, Splicer, splice_both};
