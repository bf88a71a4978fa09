//! What one call has received: up to [`MESSAGES_MAX`] messages in slots of one buffer.

use super::plan::Position;
use crate::end::End;
use std::net::{IpAddr, SocketAddr};

/// Messages of one recvmmsg(2).
pub const MESSAGES_MAX: usize = 64;

/// No message is longer: what UDP_GRO has joined, or a datagram (65,507 bytes over IPv4,
/// 65,527 over IPv6).
pub const MESSAGE_BYTES_MAX: usize = 65_535;

/// From one slot to the next. Not a power of two: all slots would begin in the same cache
/// set, and a batch of small datagrams would not fit it.
const STRIDE: usize = 65_536 + 33 * 64;

/// A received message: one datagram, or several that the kernel has joined (UDP_GRO), all
/// of `segment` bytes but the last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it begins in the buffer.
    pub(crate) at: u32,
    /// Bytes in all.
    pub(crate) len: u32,
    /// Bytes of each datagram in it; `len` for a single one.
    pub(crate) segment: u32,
}

impl Message {
    /// Bytes in all.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.len as usize
    }

    /// Bytes of its longest datagram.
    #[must_use]
    pub const fn longest(self) -> usize {
        self.segment as usize
    }

    /// Datagrams in it: at least one, which may be empty.
    #[must_use]
    pub const fn datagrams(self) -> usize {
        if self.len == 0 { 1 } else { self.len.div_ceil(self.segment) as usize }
    }
}

/// Whom a message came from, and which of our addresses it was sent to, where the socket
/// tells (a wildcard listener with IP_PKTINFO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The sender.
    pub from: SocketAddr,
    /// Our address; None where the socket does not tell.
    pub to: Option<IpAddr>,
}

/// Buffers for one receive call and what it received. About 4 MiB of address space, of
/// which memory is used where bytes have been.
#[derive(Debug)]
pub struct Batch {
    pub(crate) buffer: Box<[u8]>,
    pub(crate) messages: Vec<Message>,
    pub(crate) origins: Vec<Origin>,
}

impl Batch {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: vec![0; MESSAGES_MAX * STRIDE].into_boxed_slice(),
            messages: Vec::with_capacity(MESSAGES_MAX),
            origins: Vec::with_capacity(MESSAGES_MAX),
        }
    }

    /// What it holds, in the order of arrival.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Where each message came from; empty unless the receiver was told to ask.
    #[must_use]
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// Where the slot `index` begins.
    pub(crate) const fn slot(index: usize) -> usize {
        index * STRIDE
    }

    /// What lies behind a position, in a buffer of just its size.
    pub(crate) fn behind(&self, from: Position) -> Self {
        let mut rest = Self { buffer: Box::default(), messages: Vec::new(), origins: Vec::new() };
        let mut bytes = Vec::new();
        let mut offset = from.offset;
        for message in self.messages.get(from.message..).unwrap_or_default() {
            let from = (message.at + offset) as usize;
            let len = message.len - offset;
            let segment = message.segment.min(len);
            rest.messages.push(Message { at: bytes.len() as u32, len, segment });
            bytes.extend_from_slice(&self.buffer[from..from + len as usize]);
            offset = 0;
        }
        rest.buffer = bytes.into_boxed_slice();
        rest
    }

    /// Adds what it holds to the residue of an end, datagram by datagram.
    pub(crate) fn append_to(&self, end: &mut End) {
        for message in &self.messages {
            let bytes = &self.buffer[message.at as usize..][..message.bytes()];
            end.residue.extend_from_slice(bytes);
            if bytes.is_empty() {
                end.boundaries.push(0);
            }
            let cuts = bytes.chunks(message.segment.max(1) as usize);
            end.boundaries.extend(cuts.map(<[u8]>::len));
        }
    }

    /// Whether it has the slots that a receive call needs.
    pub(crate) fn has_slots(&self) -> bool {
        self.buffer.len() == MESSAGES_MAX * STRIDE
    }

    /// Forgets what it holds.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.origins.clear();
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}
