//! The pairs that run: their memory, who has them, and what has become of the others.

use super::claim::Claim;
use super::memory::{self, Page};
use super::status::{Ended, directions};
use super::table::PairId;
use crate::layout::{Header, pair_bytes};
use crate::wire::Reason;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// A pair that runs.
#[derive(Debug)]
pub struct Pair {
    /// The first end writes the first lane.
    pub ends: [Claim; 2],
    /// Size of each ring.
    pub ring_bytes: usize,
    /// Kept for `status`, and to refuse on behalf of an end that cannot be reached.
    pub header: Page<Header>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Pairs {
    running: BTreeMap<PairId, Pair>,
    /// The sums of those that are over.
    pub ended: Ended,
    /// Why announced connections stayed on TCP, and how many ends of them.
    pub on_tcp: BTreeMap<Reason, u64>,
    made: u64,
    memory_bytes: u64,
}

impl Pairs {
    /// Makes the memory of a new pair, which is not among the others yet.
    pub fn make(ends: [Claim; 2]) -> Result<(Pair, OwnedFd), Errno> {
        // Nobody gets more than he has asked for.
        let ring_bytes = ends[0].ring_bytes.min(ends[1].ring_bytes);
        let (header, memory) = memory::pair(ring_bytes)?;
        Ok((Pair { ends, ring_bytes, header }, memory))
    }

    /// The pair runs.
    pub fn add(&mut self, pair: Pair) -> PairId {
        self.made += 1;
        self.memory_bytes += pair_bytes(pair.ring_bytes) as u64;
        self.running.insert(PairId(self.made), pair);
        PairId(self.made)
    }

    /// It is over, and counts among the ended, or among those that an end has refused.
    pub fn end(&mut self, id: PairId) -> Option<Pair> {
        let pair = self.running.remove(&id)?;
        self.memory_bytes -= pair_bytes(pair.ring_bytes) as u64;
        if pair.header.refused.load(Ordering::Relaxed) == 0 {
            self.ended.add(&pair.header);
        } else {
            pair.ends.iter().for_each(|_| self.stays(Reason::RefusedByEnd));
        }
        Some(pair)
    }

    /// What was announced stays on TCP.
    pub fn stays(&mut self, reason: Reason) {
        *self.on_tcp.entry(reason).or_default() += 1;
    }

    /// How many run.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Memory that they may use, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Those that run, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.running.values()
    }

    /// Those whose ends have both closed, though nobody has said so: what an end could not
    /// say in time is lost.
    pub fn closed(&self) -> Vec<PairId> {
        let is_closed = |pair: &Pair| {
            pair.header.closed.iter().all(|closed| closed.load(Ordering::Relaxed) != 0)
        };
        self.running.iter().filter(|(_, pair)| is_closed(pair)).map(|(id, _)| *id).collect()
    }
}

impl Pair {
    /// Both ends stay on TCP: an offer could not be delivered.
    pub fn refuse(&self) {
        self.header.refused.store(1, Ordering::Release);
    }

    /// For `status`.
    pub fn traffic(&self) -> [super::status::Traffic; 2] {
        directions(&self.header)
    }
}
