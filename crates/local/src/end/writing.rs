//! The writing side: where the next byte goes, doorbells that must be rung, and what is sent again.

use super::mending::{GRANTING, LEAVING, RINGING, ROUTING, SURE};
use super::own::OwnWriting;
use super::{Broken, bump, kind, unparked};
use crate::layout::{
    ASKED, BACK, BEYOND, Bell, FLIPPED, NEVER, ROUTE_PINNED, ROUTE_RING, ROUTE_TCP, STAYS, Taken,
    UNCOUNTED, Written,
};
use crate::lock::Held;
use crate::ring::Store;
use crate::sync::{AtomicU32, Ordering, fence};

/// Where a writer's next byte goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Into the ring, which has room for so many.
    Ring(usize),
    /// Over TCP.
    Tcp,
}

/// What is to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// So many bytes.
    Bytes(usize),
    /// Something, when a send has come out of the kernel, or the reader has given it back.
    Later,
    /// Nothing more.
    All,
}

/// Wishes that a writer looks at behind one message.
const WISHES_MAX: u32 = 8;

/// The writing side, held.
#[derive(Debug)]
pub struct Writing<'a, S> {
    pub(super) own: &'a OwnWriting,
    pub(super) written: &'a Written,
    pub(super) taken: &'a Taken,
    pub(super) bell: &'a Bell,
    pub(super) store: S,
    pub(super) _held: Held<'a>,
}

impl<'a, S: Store> Writing<'a, S> {
    fn kind(&self) -> u64 {
        kind(self.own.route.load(Ordering::Relaxed))
    }

    pub(super) fn set_route(&self, to: u64) {
        let changes = (self.own.route.load(Ordering::Relaxed) >> 2) + 1;
        let route = changes << 2 | to;
        self.own.route.store(route, Ordering::Relaxed);
        self.written.route.store(route, Ordering::Release);
    }

    /// Where `wanted` bytes go. The room is looked up anew only when what is known of is less.
    #[inline]
    pub fn way(&mut self, wanted: usize) -> Result<Way, Broken> {
        if self.own.in_doubt.load(Ordering::Relaxed) != SURE {
            return Err(Broken);
        }
        if self.kind() != ROUTE_RING && !self.flip() {
            // What is to be sent again comes first.
            return Ok(if self.must_leave() { Way::Ring(0) } else { Way::Tcp });
        }
        let room = self.room(self.own.tail.load(Ordering::Relaxed))?;
        if room >= wanted {
            return Ok(Way::Ring(room));
        }
        let tail = self.taken.tail.load(Ordering::Acquire);
        let room = self.room(tail)?;
        self.own.tail.store(tail, Ordering::Relaxed);
        Ok(Way::Ring(room))
    }

    fn room(&self, tail: u64) -> Result<usize, Broken> {
        let used = self.own.head.load(Ordering::Relaxed).wrapping_sub(tail);
        (self.store.size() as u64).checked_sub(used).map(|room| room as usize).ok_or(Broken)
    }

    /// The next byte goes into the ring, if it has room.
    pub fn is_on_ring(&self) -> bool {
        self.kind() == ROUTE_RING
    }

    /// Goes from TCP to the ring if the reader has taken everything and says so.
    fn flip(&mut self) -> bool {
        if self.kind() != ROUTE_TCP || self.own.in_kernel.load(Ordering::Acquire) != 0 {
            return false;
        }
        let grant = self.own.tcp_data.load(Ordering::Relaxed).wrapping_add(1);
        let word = &self.bell.grant;
        if word.load(Ordering::Relaxed) != grant || self.bell.attached.load(Ordering::Acquire) == 0
        {
            return false;
        }
        self.own.in_doubt.store(GRANTING, Ordering::Relaxed);
        let taken = word.compare_exchange(grant, FLIPPED, Ordering::AcqRel, Ordering::Relaxed);
        if taken.is_ok() {
            self.take_grant();
        }
        self.own.in_doubt.store(SURE, Ordering::Relaxed);
        taken.is_ok()
    }

    /// Copies bytes behind those that were copied since the last [`Writing::publish`]. There must
    /// be room.
    #[inline]
    pub fn copy(&self, skip: usize, bytes: &[u8]) {
        let head = self.own.head.load(Ordering::Relaxed);
        self.store.put(head.wrapping_add(skip as u64), bytes);
    }

    /// Position of the next byte.
    pub fn position(&self) -> u64 {
        self.own.head.load(Ordering::Relaxed)
    }

    /// The reader may have them; behind this [`Writing::unpark`] is to be asked. True if it sleeps at the socket: a
    /// doorbell was counted, and must be sent, and [`Writing::has_rung`] be told, before this is let go of.
    #[inline]
    #[must_use]
    pub fn publish(&mut self, count: usize) -> bool {
        let head = self.own.head.load(Ordering::Relaxed).wrapping_add(count as u64);
        self.own.head.store(head, Ordering::Relaxed);
        self.written.head.store(head, Ordering::Release);
        bump(&self.written.messages, 1);
        // Either the reader sees the bytes, or its wish is seen here.
        fence(Ordering::SeqCst);
        self.is_wanted(head)
    }

    fn is_wanted(&mut self, head: u64) -> bool {
        let bell_at = &self.bell.bell_at;
        let mut wish = bell_at.load(Ordering::Relaxed);
        // The wish of one sleeper may take the place of another's meanwhile; not often.
        for _ in 0..WISHES_MAX {
            if wish == NEVER || (head.wrapping_sub(wish) as i64) < 0 {
                return false;
            }
            self.own.in_doubt.store(RINGING, Ordering::Relaxed);
            match bell_at.compare_exchange(wish, NEVER, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    self.suspect();
                    self.count_bells(1);
                    return true;
                }
                Err(other) => {
                    self.own.in_doubt.store(SURE, Ordering::Relaxed);
                    wish = other;
                }
            }
        }
        false
    }

    /// Behind [`Writing::publish`], and where the ring was left: the word at which the reader sleeps, if it does and is to be woken there.
    #[inline]
    #[must_use]
    pub fn unpark(&self) -> Option<&'a AtomicU32> {
        unparked(&self.bell.parked)
    }

    /// Nobody knows whether the reader lives. What is compared with later is the tail from before it is woken.
    pub fn suspect(&mut self) {
        let tail = self.taken.tail.load(Ordering::Acquire);
        if self.room(tail).is_ok() {
            self.own.tail.store(tail, Ordering::Relaxed);
        }
        self.own.unanswered.store(1, Ordering::Relaxed);
    }

    /// Somebody was woken, so it lives.
    pub fn trust(&mut self) {
        self.own.unanswered.store(0, Ordering::Relaxed);
    }

    /// The reader was woken and has not read since. True now and then: whether it lives is to be asked.
    /// A reader that needs no doorbell is not suspected, and its line not looked at.
    pub fn is_suspicious(&mut self) -> bool {
        let calls = self.own.unanswered.load(Ordering::Relaxed);
        if calls == 0 {
            return false;
        }
        let tail = self.taken.tail.load(Ordering::Acquire);
        if tail != self.own.tail.load(Ordering::Relaxed) {
            self.own.unanswered.store(0, Ordering::Relaxed);
            return false;
        }
        self.own.unanswered.store(calls.saturating_add(1), Ordering::Relaxed);
        calls.is_power_of_two()
    }

    /// The doorbell was sent.
    pub fn has_rung(&mut self) {
        self.own.in_doubt.store(SURE, Ordering::Relaxed);
    }

    /// Wakes the peer, which has something to be told: as after [`Writing::publish`]. False where a byte on
    /// TCP would be data.
    #[must_use]
    pub fn call(&mut self) -> bool {
        if self.kind() != ROUTE_RING {
            return false;
        }
        self.own.in_doubt.store(RINGING, Ordering::Relaxed);
        self.count_bells(1);
        // Either this sees that the reader leaves, or the reader sees that it is rung for.
        fence(Ordering::SeqCst);
        let may_ring = !self.must_leave();
        if !may_ring {
            self.count_bells(u64::MAX);
            self.own.in_doubt.store(SURE, Ordering::Relaxed);
        }
        may_ring
    }

    fn count_bells(&self, more: u64) {
        let bells = self.own.bells.load(Ordering::Relaxed).wrapping_add(more);
        self.own.bells.store(bells, Ordering::Relaxed);
        self.written.bells.store(bells, Ordering::Release);
    }

    /// The ring is full: the stream goes on over TCP. False if the reader leaves: see [`Writing::recall`].
    #[must_use]
    pub fn overflow(&mut self) -> bool {
        bump(&self.written.overflows, 1);
        self.go_to_tcp(ROUTE_TCP)
    }

    /// The stream stays on TCP for good. False if the reader leaves: see [`Writing::recall`].
    pub fn pin(&mut self) -> bool {
        self.go_to_tcp(ROUTE_PINNED)
    }

    fn go_to_tcp(&self, to: u64) -> bool {
        if self.must_leave() {
            return false;
        }
        if self.kind() == ROUTE_RING {
            let leaves = &self.bell.leaves;
            let order = (Ordering::AcqRel, Ordering::Acquire);
            if leaves.compare_exchange(STAYS, BEYOND, order.0, order.1) == Err(ASKED) {
                return false;
            }
            self.change_to_tcp(to);
        } else if self.kind() != to {
            self.set_route(to);
        }
        true
    }

    pub(super) fn change_to_tcp(&self, to: u64) {
        let bells = self.own.bells.load(Ordering::Relaxed);
        self.own.in_doubt.store(ROUTING, Ordering::Relaxed);
        self.written.bells_before_tcp.store(bells, Ordering::Release);
        self.set_route(to);
        self.own.in_doubt.store(SURE, Ordering::Relaxed);
        // As behind [`Writing::publish`].
        fence(Ordering::SeqCst);
    }

    /// A send over TCP begins. It may sleep, so the lock is let go of; until it has ended
    /// ([`InKernel::sent`]) the route stays TCP.
    pub fn enter_kernel(self) -> InKernel<'a> {
        self.own.enter_kernel();
        InKernel { own: self.own, written: self.written }
    }

    /// The reader wants everything over TCP, and what it has not taken from the ring again.
    pub fn must_leave(&self) -> bool {
        matches!(self.bell.leaves.load(Ordering::Acquire), ASKED | BACK)
            && self.bell.left.load(Ordering::Relaxed) == 0
    }

    /// Goes to TCP for good, and copies bytes that are to be sent there before anything else.
    pub fn recall(&mut self, to: &mut [u8]) -> Result<Recall, Broken> {
        if self.own.in_doubt.load(Ordering::Relaxed) != SURE {
            return Err(Broken);
        }
        let is_back = self.bell.leaves.load(Ordering::Relaxed) == BACK;
        if self.own.is_recalling.load(Ordering::Relaxed) == 0 {
            let is_begun = if is_back { self.stop() } else { self.begin_recall()? };
            if !is_begun {
                return Ok(Recall::Later);
            }
            self.own.is_recalling.store(1, Ordering::Relaxed);
        }
        let from = self.own.recalled.load(Ordering::Relaxed);
        let end = if is_back {
            self.bell.returned.load(Ordering::Acquire)
        } else {
            self.own.head.load(Ordering::Relaxed)
        };
        let there = end.wrapping_sub(from);
        if there > self.store.size() as u64 {
            return Err(Broken);
        }
        if there == 0 {
            if is_back && self.bell.returning.load(Ordering::Acquire) != from + 1 {
                return Ok(Recall::Later);
            }
            self.bell.left.store(1, Ordering::Release);
            return Ok(Recall::All);
        }
        let count = to.len().min(there as usize);
        self.store.take(from, &mut to[..count]);
        Ok(Recall::Bytes(count))
    }

    /// The reader has not given back what it took: it has been killed, or stopped.
    pub fn is_forsaken(&self) -> bool {
        self.own.in_kernel() == 0
            && self.bell.leaves.load(Ordering::Relaxed) == BACK
            && self.bell.returned.load(Ordering::Acquire)
                == self.own.recalled.load(Ordering::Relaxed)
    }

    /// What was written cannot be sent again: from now on each call fails.
    pub fn give_up(&mut self) {
        self.own.in_doubt.store(LEAVING, Ordering::Relaxed);
    }

    fn begin_recall(&self) -> Result<bool, Broken> {
        let tail = self.taken.tail.load(Ordering::Acquire);
        self.room(tail)?;
        self.own.recalled.store(tail, Ordering::Relaxed);
        self.change_to_tcp(ROUTE_PINNED);
        Ok(true)
    }

    /// Says how much is on TCP. False while a send is in the kernel, and where bytes went by unseen.
    fn stop(&self) -> bool {
        if self.own.in_kernel() > 0 {
            return false;
        }
        if self.kind() != ROUTE_TCP {
            self.written.stopped.store(UNCOUNTED, Ordering::Release);
            return false;
        }
        self.own.recalled.store(0, Ordering::Relaxed);
        let sent = self.own.tcp_data.load(Ordering::Relaxed);
        self.written.stopped.store(sent + 1, Ordering::Release);
        true
    }

    /// Sends what was recalled: `send` does, and tells how much.
    pub fn resend<E>(&mut self, send: impl FnOnce() -> Result<usize, E>) -> Result<usize, E> {
        self.own.in_doubt.store(LEAVING, Ordering::Relaxed);
        let result = send();
        bump(&self.own.recalled, *result.as_ref().unwrap_or(&0) as u64);
        let recalled = self.own.recalled.load(Ordering::Relaxed);
        self.written.retaken.store(recalled, Ordering::Release);
        self.own.in_doubt.store(SURE, Ordering::Relaxed);
        result
    }
}

/// A send over TCP that is in the kernel.
#[derive(Debug)]
#[must_use]
pub struct InKernel<'a> {
    own: &'a OwnWriting,
    written: &'a Written,
}

impl InKernel<'_> {
    /// It has ended, and the kernel has taken so many bytes.
    pub fn sent(self, count: usize) {
        self.written.tcp_bytes.fetch_add(count as u64, Ordering::Relaxed);
        self.own.leave_kernel(count);
    }
}
