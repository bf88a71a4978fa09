//! Splices that form a ring, in which bytes would run for ever.
//!
//! A kernel counts the hops of each packet. Here the bytes have no label, but all splices of
//! a domain are known: the drain of one leads, by the address of its peer, to the source of
//! the next. In a closed ring each splice counts one hop more than the bytes that came to
//! it had, and a source whose bytes have come 128 times keeps them. A chain that does not
//! close is not counted, however long.

use super::Carrier;
use super::port::Port;
use crate::checks::Protocol;
use crate::domain::SlotId;
use crate::personality::Personality;
use rustix::fd::AsFd;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::num::NonZeroU64;

/// As M_MAXLOOP of OpenBSD (sys/mbuf.h).
pub const HOPS_MAX: u32 = 128;

/// The hash of a connection as one of its ends sees it.
pub type Name = NonZeroU64;

/// Hashes of a connection as seen from this end and from the other; None for a socket
/// without a peer.
pub fn names<Fd: AsFd>(fd: Fd, protocol: Protocol) -> Option<(Name, Name)> {
    let local = canonical(rustix::net::getsockname(&fd).ok()?.try_into().ok()?);
    let peer = canonical(rustix::net::getpeername(&fd).ok()??.try_into().ok()?);
    let hash = |from: SocketAddr, to: SocketAddr| {
        let mut hasher = DefaultHasher::new();
        (from, to, protocol == Protocol::Udp).hash(&mut hasher);
        Name::MIN | hasher.finish()
    };
    Some((hash(local, peer), hash(peer, local)))
}

/// A v4 address has two spellings, and its two ends may differ in them.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

pub fn has_bytes(port: &Port) -> bool {
    rustix::io::ioctl_fionread(port).unwrap_or(0) > 0
}

impl Carrier {
    /// The source that gets what is written to this drain, if it is spliced on.
    fn next(&self, drain: SlotId) -> Option<SlotId> {
        let (_, peer) = self.sockets.get(&drain)?.names?;
        let next = *self.names.get(&peer)?;
        self.sockets.get(&next)?.flow.is_some().then_some(next)
    }

    /// The ring that a splice is part of, from its source on; empty if it leads nowhere.
    fn ring(&self, first: SlotId) -> Vec<SlotId> {
        let mut ring = vec![first];
        let mut at = first;
        loop {
            let flow = self.sockets.get(&at).and_then(|socket| socket.flow.as_ref());
            match flow.and_then(|flow| self.next(flow.drain_id)) {
                Some(next) if next == first => return ring,
                // Longer than there are splices: it closes elsewhere.
                Some(next) if ring.len() <= self.sockets.len() => ring.push(next),
                _ => return Vec::new(),
            }
            at = *ring.last().unwrap_or(&first);
        }
    }

    /// A splice was added: perhaps it closes a ring.
    pub fn mark_ring(&mut self, id: SlotId) {
        // FreeBSD lets it run.
        if self.personality == Personality::OpenBsd {
            self.set_ring(self.ring(id), true);
        }
    }

    fn set_ring(&mut self, ring: Vec<SlotId>, is_ring: bool) {
        for id in ring {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.hops = 0;
                if let Some(flow) = &mut socket.flow {
                    flow.is_ring = is_ring;
                }
            }
        }
    }

    /// A splice of a ring has ended: what led around leads no more.
    pub fn break_ring(&mut self, first: SlotId, drain: SlotId) {
        let mut rest = vec![first];
        let mut at = self.next(drain);
        while let Some(id) = at.filter(|id| !rest.contains(id)) {
            rest.push(id);
            let flow = self.sockets.get(&id).and_then(|socket| socket.flow.as_ref());
            at = flow.and_then(|flow| self.next(flow.drain_id));
        }
        self.set_ring(rest, false);
    }

    /// Bytes with so many hops are on their way to the next source.
    pub fn hand_on(&mut self, drain: SlotId, hops: u32) {
        if let Some(next) = self.next(drain)
            && let Some(socket) = self.sockets.get_mut(&next)
        {
            socket.hops = hops;
        }
    }
}
