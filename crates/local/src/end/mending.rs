//! What one does who has the lock of a relative that was killed in the middle of a change.
//!
//! A change that concerns the other end takes more than one step: it is marked before the first and cleared behind the
//! last. Who finds the mark takes the change to its end, from what its steps leave behind; for doorbells, of
//! which nobody in the pair knows whether the kernel has them, the kernel's count of the socket's bytes tells.
//! What cannot be told stays marked, and is [`Broken`](super::Broken).

use super::{Reading, Writing, bump, kind};
use crate::layout::{BEYOND, FLIPPED, ROUTE_PINNED, ROUTE_RING, STAYS};
use crate::ring::Store;
use crate::sync::{AtomicU64, Ordering, fence};

/// In no doubt.
pub(super) const SURE: u32 = 0;
/// Writing: takes the grant. Reading: gives it.
pub(super) const GRANTING: u32 = 1;
/// A doorbell is counted and sent, or taken and counted.
pub(super) const RINGING: u32 = 2;
/// The stream goes from the ring to TCP.
pub(super) const ROUTING: u32 = 3;
/// What was written is sent again, or given back: nobody mends that.
pub(super) const LEAVING: u32 = 4;

/// No base: the kernel does not count.
const UNCOUNTED: u64 = u64::MAX;

/// Doorbells that are taken at a time.
pub(super) const BELLS_MAX: u64 = 64;

/// Bytes that a socket has carried, from wherever the kernel begins to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// That were given to it.
    pub sent: u64,
    /// That were taken from it.
    pub taken: u64,
}

/// What a mended writer has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// Nothing more.
    Whole,
    /// Send a doorbell: it was counted.
    Ring,
}

/// Keeps what the socket had carried beside what is counted here.
pub(super) fn keep_base(base: &AtomicU64, carried: Option<u64>, counted: &AtomicU64) {
    let counted = counted.load(Ordering::Relaxed);
    let beside = carried.map_or(UNCOUNTED, |carried| carried.wrapping_sub(counted));
    base.store(beside, Ordering::Relaxed);
}

/// Doorbells that the kernel has seen; None where it does not say.
fn bells_of(carried: u64, base: &AtomicU64, tcp_data: &AtomicU64) -> Option<u64> {
    let base = base.load(Ordering::Relaxed);
    let data = tcp_data.load(Ordering::Relaxed);
    (base != UNCOUNTED).then(|| carried.wrapping_sub(base).wrapping_sub(data))
}

impl<S: Store> Writing<'_, S> {
    /// A relative was killed in the middle of a change.
    #[inline]
    pub fn is_in_doubt(&self) -> bool {
        self.own.in_doubt.load(Ordering::Relaxed) != SURE
    }

    /// Takes the change to its end.
    pub fn mend(&mut self, carried: impl FnOnce() -> Option<Carried>) -> Mended {
        match self.own.in_doubt.load(Ordering::Relaxed) {
            GRANTING => self.finish_flip(),
            ROUTING => self.finish_route(),
            RINGING => return self.finish_bell(carried()),
            _ => return Mended::Whole,
        }
        self.own.in_doubt.store(SURE, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Mended::Whole
    }

    fn finish_flip(&self) {
        let route = self.own.route.load(Ordering::Relaxed);
        if kind(route) == ROUTE_RING {
            self.written.route.store(route, Ordering::Release);
        } else if self.bell.grant.load(Ordering::Acquire) == FLIPPED {
            self.take_grant();
        }
    }

    /// Behind the compare-and-swap that takes the grant.
    pub(super) fn take_grant(&self) {
        // It may be that the reader, who knows by the grant, has asked already.
        let order = (Ordering::AcqRel, Ordering::Relaxed);
        let _ = self.bell.leaves.compare_exchange(BEYOND, STAYS, order.0, order.1);
        let sent = self.own.tcp_data.load(Ordering::Relaxed);
        self.own.settled.store(sent, Ordering::Relaxed);
        self.set_route(ROUTE_RING);
    }

    fn finish_route(&self) {
        let route = self.own.route.load(Ordering::Relaxed);
        if kind(route) == ROUTE_RING {
            // Whether for good is not known.
            self.change_to_tcp(ROUTE_PINNED);
        } else {
            self.written.route.store(route, Ordering::Release);
        }
    }

    /// One doorbell more than the kernel has does no harm, and one that is missing might.
    fn finish_bell(&self, carried: Option<Carried>) -> Mended {
        let counted = self.own.bells.load(Ordering::Relaxed);
        let sent = carried
            .and_then(|carried| bells_of(carried.sent, &self.own.base, &self.own.tcp_data))
            .filter(|sent| counted.wrapping_sub(*sent) <= 1 && !self.must_leave());
        let Some(sent) = sent else { return Mended::Whole };
        self.own.bells.store(sent + 1, Ordering::Relaxed);
        self.written.bells.store(sent + 1, Ordering::Release);
        Mended::Ring
    }
}

impl<S: Store> Reading<'_, S> {
    /// As [`Writing::is_in_doubt`].
    #[inline]
    pub fn is_in_doubt(&self) -> bool {
        self.own.in_doubt.load(Ordering::Relaxed) != SURE
    }

    /// Takes the change to its end.
    pub fn mend(&mut self, carried: impl FnOnce() -> Option<Carried>) {
        let is_mended = match self.own.in_doubt.load(Ordering::Relaxed) {
            GRANTING => {
                let is_out = self.bell.grant.load(Ordering::Acquire) != 0;
                self.own.granted.store(u32::from(is_out), Ordering::Relaxed);
                true
            }
            RINGING => self.finish_bells(carried()),
            _ => false,
        };
        if is_mended {
            self.own.in_doubt.store(SURE, Ordering::Relaxed);
        }
    }

    fn finish_bells(&self, carried: Option<Carried>) -> bool {
        let known = self.own.bells.load(Ordering::Relaxed);
        let taken = carried
            .and_then(|carried| bells_of(carried.taken, &self.own.base, &self.own.tcp_data))
            .filter(|taken| taken.wrapping_sub(known) <= BELLS_MAX);
        let Some(taken) = taken else { return false };
        bump(&self.own.bells, taken.wrapping_sub(known));
        self.taken.bells.store(taken, Ordering::Release);
        true
    }
}
