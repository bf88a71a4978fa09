//! Datagrams: splices that keep message boundaries, and the batches that make them cheap.
//!
//! The cost of a datagram is the call and the walk through the network stack, not its
//! bytes, so whatever has arrived is taken in one call ([`Batch`]), joined by the kernel
//! where it can (UDP_GRO), and sent in as few messages as its boundaries allow ([`Plan`]):
//! runs of equal size as one that the kernel cuts (UDP_SEGMENT), the rest by sendmmsg(2).

mod batch;
mod gro;
mod mover;
mod plan;

pub(crate) use gro::Joining;

pub use batch::{Batch, MESSAGE_BYTES_MAX, MESSAGES_MAX, Message, Origin};
pub use mover::{Ends, Mover};
pub use plan::{Ability, GROUP_BYTES_MAX, Group, Piece, Plan, Position, SEGMENTS_MAX};

use std::net::{IpAddr, SocketAddr};

/// Where to send from a socket that is not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The receiver.
    pub addr: SocketAddr,
    /// Which of our addresses to send from; None lets the kernel choose.
    pub from: Option<IpAddr>,
}
