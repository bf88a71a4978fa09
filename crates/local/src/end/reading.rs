//! The reading side: what is next and where, the grant, the doorbells that were rung, and leaving.

use super::mending::{BELLS_MAX, GRANTING, LEAVING, RINGING, SURE};
use super::own::OwnReading;
use super::{Broken, bump, kind};
use crate::layout::{
    ASKED, BACK, BEYOND, Bell, FLIPPED, NEVER, ROUTE_RING, ROUTE_TCP, STAYS, Taken, UNCOUNTED,
    Written,
};
use crate::lock::{Held, Threads};
use crate::ring::Store;
use crate::sync::{Ordering, fence};

/// What a reader finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// So many bytes of the ring are next.
    Ring(usize),
    /// Nothing in the ring; the next byte of data will be in the ring, or on TCP behind doorbells.
    Empty,
    /// The next bytes are on TCP, behind [`Reading::bells_due`] doorbells.
    Tcp,
}

/// What a reader that wants to sleep is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// There is something: do not sleep.
    Ready,
    /// A doorbell, data or the end will come on TCP.
    Armed,
}

/// How far a reader is that leaves the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The writer has been asked, and has not done it yet.
    Asked,
    /// What is in the ring and on TCP is to be taken, and given back.
    Back,
    /// Everything that was written is on TCP, behind the doorbells that [`Reading::is_quiet`] knows of.
    Left,
}

/// The reading side, held.
#[derive(Debug)]
pub struct Reading<'a, S> {
    pub(super) own: &'a OwnReading,
    pub(super) written: &'a Written,
    pub(super) taken: &'a Taken,
    pub(super) bell: &'a Bell,
    pub(super) store: S,
    pub(super) _held: Held<'a>,
}

impl<S: Store> Reading<'_, S> {
    fn tail(&self) -> u64 {
        self.own.tail.load(Ordering::Relaxed)
    }

    fn granted(&self) -> bool {
        self.own.granted.load(Ordering::Relaxed) != 0
    }

    /// The route as it is for this reader: a grant that the writer has taken is a way to the ring,
    /// whether or not the writer has lived to say so.
    fn route(&self) -> u64 {
        let route = self.written.route.load(Ordering::Acquire);
        if !self.granted() {
            return kind(route);
        }
        if route >> 2 != self.own.granted_at.load(Ordering::Relaxed) {
            self.own.granted.store(0, Ordering::Relaxed);
            return kind(route);
        }
        match self.bell.grant.load(Ordering::Acquire) {
            FLIPPED => ROUTE_RING,
            _ => kind(route),
        }
    }

    /// Bytes in the ring. The route must have been read before.
    fn queued(&self) -> Result<usize, Broken> {
        if self.own.in_doubt.load(Ordering::Relaxed) != SURE {
            return Err(Broken);
        }
        if self.has_left() {
            return Ok(0);
        }
        let head = self.written.head.load(Ordering::Acquire);
        let queued = head.wrapping_sub(self.tail());
        if queued > self.store.size() as u64 { Err(Broken) } else { Ok(queued as usize) }
    }

    /// What is next. If that is TCP, the grant has been taken back: report with
    /// [`Reading::took_tcp`], and [`Reading::grant`] when nothing more was there.
    #[inline]
    pub fn look(&mut self) -> Result<Found, Broken> {
        loop {
            let route = self.route();
            let queued = self.queued()?;
            if queued > 0 {
                return Ok(Found::Ring(queued));
            }
            if route == ROUTE_RING {
                return Ok(Found::Empty);
            }
            if self.take_grant_back()? {
                return Ok(Found::Tcp);
            }
        }
    }

    /// As [`Reading::look`], and the grant stays.
    pub fn peek(&self) -> Result<Found, Broken> {
        let route = self.route();
        Ok(match self.queued()? {
            0 if route == ROUTE_RING => Found::Empty,
            0 => Found::Tcp,
            queued => Found::Ring(queued),
        })
    }

    /// False when the writer has taken it meanwhile.
    fn take_grant_back(&self) -> Result<bool, Broken> {
        if !self.granted() {
            return Ok(true);
        }
        let given = self.own.tcp_data.load(Ordering::Relaxed) + 1;
        match self.bell.grant.compare_exchange(given, 0, Ordering::AcqRel, Ordering::Acquire) {
            // Or a relative that was killed had just taken it back.
            Ok(_) | Err(0) => {
                self.own.granted.store(0, Ordering::Relaxed);
                Ok(true)
            }
            Err(FLIPPED) => Ok(false),
            Err(_) => Err(Broken),
        }
    }

    /// The writer may go to the ring if it has sent nothing more.
    pub fn grant(&mut self) {
        let route = self.written.route.load(Ordering::Acquire);
        if self.granted() || kind(route) != ROUTE_TCP || self.has_left() {
            return;
        }
        let given = self.own.tcp_data.load(Ordering::Relaxed) + 1;
        // What is left of the last one says nothing of this.
        self.bell.grant.store(0, Ordering::Relaxed);
        self.own.in_doubt.store(GRANTING, Ordering::Relaxed);
        self.own.granted_at.store(route >> 2, Ordering::Relaxed);
        self.own.granted.store(1, Ordering::Relaxed);
        self.bell.grant.store(given, Ordering::Release);
        self.own.in_doubt.store(SURE, Ordering::Relaxed);
    }

    /// The writer has left the ring: what follows the ring's bytes is on TCP.
    pub fn is_on_tcp(&self) -> bool {
        self.route() != ROUTE_RING
    }

    /// Copies the ring's bytes from `skip` on, without taking them.
    #[inline]
    pub fn copy(&self, skip: usize, to: &mut [u8]) {
        self.store.take(self.tail().wrapping_add(skip as u64), to);
    }

    /// Position of the next byte in the ring.
    pub fn position(&self) -> u64 {
        self.tail()
    }

    /// Takes bytes that were copied.
    #[inline]
    pub fn took(&mut self, count: usize) {
        let tail = self.tail().wrapping_add(count as u64);
        self.own.tail.store(tail, Ordering::Relaxed);
        self.taken.tail.store(tail, Ordering::Release);
    }

    /// Doorbells that are on TCP, or about to be, in front of anything else.
    pub fn bells_due(&self) -> usize {
        let route = self.written.route.load(Ordering::Acquire);
        let rung = if kind(route) == ROUTE_RING {
            self.written.bells.load(Ordering::Acquire)
        } else {
            self.written.bells_before_tcp.load(Ordering::Acquire)
        };
        // More than one at a time is rare; what a peer claims beyond is its own loss.
        (rung.wrapping_sub(self.own.bells.load(Ordering::Relaxed)) as u32 as i32)
            .clamp(0, BELLS_MAX as i32) as usize
    }

    /// Takes doorbells from TCP: `discard` does, and tells how many.
    pub fn take_bells<E>(
        &mut self,
        discard: impl FnOnce() -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.own.in_doubt.store(RINGING, Ordering::Relaxed);
        let result = discard();
        bump(&self.own.bells, *result.as_ref().unwrap_or(&0) as u64);
        self.taken.bells.store(self.own.bells.load(Ordering::Relaxed), Ordering::Release);
        self.own.in_doubt.store(SURE, Ordering::Relaxed);
        result
    }

    /// So many bytes of data were taken from TCP.
    pub fn took_tcp(&mut self, count: usize) {
        bump(&self.own.tcp_data, count as u64);
    }

    /// Before sleeping until `low_water` bytes are there: asks for a doorbell, and looks once more.
    /// Doorbells that were due before may be taken behind it. The wish of another sleeper stays
    /// if it is for fewer bytes; and the wish stays when there is something, for it may be his.
    pub fn arm(&mut self, low_water: usize) -> Result<Arm, Broken> {
        self.grant();
        let low_water = low_water.clamp(1, self.store.size());
        let wish = self.bell.bell_at.load(Ordering::Relaxed);
        let others = wish.wrapping_sub(self.tail());
        if wish == NEVER || others == 0 || others > low_water as u64 {
            let want = self.tail().wrapping_add(low_water as u64);
            // What was seen above may have been taken meanwhile.
            self.note_wish(self.bell.bell_at.swap(want, Ordering::AcqRel));
            self.own.has_wished.store(1, Ordering::Relaxed);
        }
        // Either the writer sees the wish, or its byte is seen here.
        fence(Ordering::SeqCst);
        Ok(if self.queued()? >= low_water { Arm::Ready } else { Arm::Armed })
    }

    /// Before sleeping at [`Bell::parked`]: false where the socket alone can tell what there is to come, or something is
    /// there. Once somebody sleeps so, others sleep at the socket.
    pub fn park(&mut self) -> Result<bool, Broken> {
        if self.sleepers() > 1 || self.bells_due() > 0 || self.route() != ROUTE_RING {
            return Ok(false);
        }
        self.bell.parked.swap(1, Ordering::AcqRel);
        // Either the writer sees that somebody is parked, or what it has done is seen here.
        fence(Ordering::SeqCst);
        let is_to_sleep = self.queued()? == 0 && self.route() == ROUTE_RING;
        if !is_to_sleep {
            self.bell.parked.store(0, Ordering::Relaxed);
        }
        Ok(is_to_sleep)
    }

    /// How many threads may be asleep.
    pub fn sleepers(&self) -> u32 {
        self.own.sleepers.load(Ordering::SeqCst)
    }

    /// No doorbell is wanted: this end looks by itself.
    pub fn disarm(&mut self) {
        self.note_wish(self.bell.bell_at.swap(NEVER, Ordering::AcqRel));
    }

    /// The last wish is over; `left` is what was there of it.
    fn note_wish(&self, left: u64) {
        if self.own.has_wished.load(Ordering::Relaxed) != 0 {
            self.own.has_wished.store(0, Ordering::Relaxed);
            bump(&self.own.rung_for, u64::from(left == NEVER));
        }
    }

    /// Whether no doorbell is on TCP, or about to be. The wish stays if there is one.
    pub fn is_quiet(&mut self) -> bool {
        if self.bell.bell_at.load(Ordering::Acquire) == NEVER {
            self.note_wish(NEVER);
        }
        let known = self.own.rung_for.load(Ordering::Relaxed);
        (self.own.bells.load(Ordering::Relaxed).wrapping_sub(known) as i64) >= 0
            && self.bells_due() == 0
    }

    /// The writer does not send the doorbells that it owes: they are not waited for again.
    pub fn forgive(&mut self) {
        self.own.rung_for.store(self.own.bells.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// From now on everything is to come over TCP. To be called until it says [`Leave::Left`].
    pub fn leave(&mut self, threads: &impl Threads) -> Result<Leave, Broken> {
        if self.has_left() {
            return self.leaving();
        }
        if self.look()? != Found::Tcp {
            // A relative that goes on must not read both what is here and what is sent again.
            self.own.in_doubt.store(LEAVING, Ordering::Relaxed);
            let is_asked = self.ask(threads)?;
            self.own.has_left.store(u32::from(is_asked), Ordering::Relaxed);
            self.own.in_doubt.store(SURE, Ordering::Relaxed);
            if !is_asked {
                return Ok(Leave::Asked);
            }
            self.disarm();
        }
        self.own.has_left.store(1, Ordering::Relaxed);
        // Either the writer sees that it is asked, or its bytes and doorbells are seen here.
        fence(Ordering::SeqCst);
        self.leaving()
    }

    /// False where it is to be tried again: the writer is just going to the ring.
    fn ask(&self, threads: &impl Threads) -> Result<bool, Broken> {
        let leaves = &self.bell.leaves;
        let swap = |from, to| {
            leaves.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
        };
        if swap(STAYS, ASKED) {
            return Ok(true);
        }
        // A grant may be out while bytes are in the ring; what is drained would belie it. A writer that has just taken the grant says so before it puts anything into the ring.
        let is_beyond = self.take_grant_back()? && self.unread()? > 0;
        self.own.drainer.store(threads.own(), Ordering::Relaxed);
        let is_asked = is_beyond && swap(BEYOND, BACK);
        if !is_asked {
            self.own.drainer.store(0, Ordering::Relaxed);
        }
        Ok(is_asked)
    }

    fn leaving(&self) -> Result<Leave, Broken> {
        let is_in_ring = self.unread()? > 0;
        let has_left = self.bell.left.load(Ordering::Acquire) != 0;
        Ok(match self.bell.leaves.load(Ordering::Acquire) {
            BACK if self.own.drainer.load(Ordering::Relaxed) != 0 => Leave::Back,
            ASKED | BACK if !has_left && (is_in_ring || self.is_back()) => Leave::Asked,
            _ => Leave::Left,
        })
    }

    fn is_back(&self) -> bool {
        self.bell.leaves.load(Ordering::Relaxed) == BACK
    }

    /// Bytes in the ring, whoever is to have them.
    fn unread(&self) -> Result<usize, Broken> {
        let head = self.written.head.load(Ordering::Acquire);
        let count = head.wrapping_sub(self.tail());
        if count > self.store.size() as u64 { Err(Broken) } else { Ok(count as usize) }
    }

    /// Takes the ring's bytes, to give them back.
    pub fn drain(&mut self, to: &mut Vec<u8>) -> Result<(), Broken> {
        let count = self.unread()?;
        let begin = to.len();
        to.resize(begin + count, 0);
        self.copy(0, &mut to[begin..]);
        self.took(count);
        Ok(())
    }

    /// Bytes of data that are still to be taken from TCP: none when the writer has stopped, and they are
    /// all taken. At most `most`, and so many while that is not known.
    pub fn to_drain(&self, most: usize) -> Result<usize, Broken> {
        let taken = self.own.tcp_data.load(Ordering::Relaxed);
        match self.written.stopped.load(Ordering::Acquire) {
            0 => Ok(most),
            UNCOUNTED => Err(Broken),
            stopped => match (stopped - 1).checked_sub(taken) {
                Some(left) => Ok(left.min(most as u64) as usize),
                None => Err(Broken),
            },
        }
    }

    /// Gives back as much of `all` as there is room for. True when that was the rest.
    pub fn give_back(&mut self, all: &[u8]) -> Result<bool, Broken> {
        let returned = self.bell.returned.load(Ordering::Relaxed);
        let kept = returned.wrapping_sub(self.written.retaken.load(Ordering::Acquire));
        let room = (self.store.size() as u64).checked_sub(kept).ok_or(Broken)? as usize;
        let rest = all.get(returned as usize..).ok_or(Broken)?;
        let piece = &rest[..rest.len().min(room)];
        self.store.put(returned, piece);
        self.bell.returning.store(all.len() as u64 + 1, Ordering::Relaxed);
        self.bell.returned.store(returned + piece.len() as u64, Ordering::Release);
        let is_all = piece.len() == rest.len();
        if is_all {
            self.own.drainer.store(0, Ordering::Relaxed);
        }
        Ok(is_all)
    }

    /// What was written cannot be had: from now on each call fails.
    pub fn give_up(&mut self) {
        self.own.in_doubt.store(LEAVING, Ordering::Relaxed);
        self.own.drainer.store(0, Ordering::Relaxed);
    }

    /// Whether the next bytes are in another thread's hands, which gives them back. They are lost with it.
    pub fn is_drained(&self, threads: &impl Threads) -> Result<bool, Broken> {
        match self.own.drainer.load(Ordering::Relaxed) {
            0 => Ok(false),
            id if id == threads.own() => Ok(false),
            id if threads.lives(id) => Ok(true),
            _ => Err(Broken),
        }
    }

    fn has_left(&self) -> bool {
        self.own.has_left.load(Ordering::Relaxed) != 0
    }
}
