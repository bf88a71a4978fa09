//! One end of a pair: what it may put into the ring or must send over TCP, what it finds in
//! which order, and when it rings.
//!
//! No system call is made here. A caller asks ([`Reading::look`], [`Writing::way`]), does what
//! the answer says, and reports it. So the same code runs over real sockets, in a simulator
//! with a TCP of its own, and under a model checker.
//!
//! # The protocol of a direction
//!
//! A direction is a TCP stream at first, and the writer's *route* says where its next byte goes.
//!
//! * **TCP to ring.** The reader *grants* it by publishing how many bytes of data it has taken from
//!   TCP. A writer that has sent exactly as many knows that nothing is on the way, and takes the grant
//!   with one compare-and-swap. A reader takes its grant back in the same way before it reads from
//!   TCP, and gives it again behind. So a byte on TCP is never behind one in the ring that
//!   was written later.
//! * **Ring to TCP** needs no grant: all bytes in the ring come before all that are then sent over
//!   TCP. The writer goes there when the ring is full, so that a socket's own buffer, EAGAIN,
//!   writability and time limits do their work.
//! * **Doorbells.** While the route is the ring, a byte on TCP is a doorbell. A reader that is about to
//!   sleep in the kernel says from which position on it wants one ([`Reading::arm`]); the writer
//!   counts a doorbell, then sends it. So a reader knows how many bytes on TCP are none of the stream's:
//!   in the ring route it takes no byte more than these, and on the way to data all of these first.
//! * **Pinned** is TCP for good.
//! * **Leaving.** A reader that cannot use the ring any more asks for everything over TCP: the writer
//!   sends again what the ring holds. That keeps the order only as long as nothing has been sent over TCP behind
//!   it; who is first, the reader with its wish or the writer with its overflow, one compare-and-swap
//!   decides ([`Reading::leave`]). Behind an overflow the writer stops and says how much it has sent over TCP; the reader
//!   takes all of it, ring and TCP, and gives it back through the ring's memory; the writer sends it again. The reader
//!   has left when everything that was written is in the kernel's hands.
//!
//! The writer publishes bytes by one store, last. A killed writer leaves whole bytes in order.
//!
//! # Who sleeps
//!
//! Threads and relatives may sleep for one end, each in its own way, and only one wish is there. So as long as
//! somebody may be asleep ([`Asleep`]): the ring is empty and a doorbell is wished for, or a doorbell is on
//! TCP, or about to be. A reader takes a doorbell only behind a wish for the next one and a look at the ring; a
//! read that finds no more than it took wishes before it returns; a sooner wish stays.
//!
//! One who would be alone may *park* instead: sleep at a word of the shared memory, which the writer wakes behind each message
//! and when it leaves the ring, at a fraction of a doorbell's cost. Nothing that the kernel alone knows of (a killed
//! peer, a reset) wakes there, so it is for a short while, and then the sleeper goes to the socket.
//!
//! # Who dies
//!
//! Relatives share an end, and one may be killed where the lock is held. What it had copied is published for it; but
//! a change that concerns the other end (a doorbell counted and sent, a grant given or
//! taken, a route) is marked. Who finds the mark under the lock takes the change to its end (`mending.rs`); where
//! nobody can tell how far it came, that is [`Broken`]: a reset, not bytes that are shifted by one.
//!
//! An end's own state ([`Own`]) is not in the memory that the peer can write. The peer's words are
//! taken as claims: [`Broken`] is what a claim is called that cannot be.
//!
//! `sim/` tries whole runs, `tests/loom.rs` the orders of accesses, `tests/hostile.rs` a peer that
//! claims anything.

mod mending;
mod own;
mod reading;
mod writing;

pub use mending::{Carried, Mended};
pub use own::{Own, OwnReading, OwnWriting};
pub use reading::{Arm, Found, Leave, Reading};
pub use writing::{InKernel, Recall, Way, Writing};

use crate::layout::{ASKED, BACK, Header, Lane, NEVER, ROUTE_RING};
use crate::lock::{Reentered, Threads};
use crate::ring::Store;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// The peer's words contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// One end of a pair.
#[derive(Debug, Clone, Copy)]
pub struct End<'a, S> {
    /// Its own state.
    pub own: &'a Own,
    /// The shared words.
    pub header: &'a Header,
    /// Which end: 0 or 1.
    pub role: usize,
    /// Where incoming bytes are.
    pub incoming: S,
    /// Where outgoing bytes go.
    pub outgoing: S,
}

const fn kind(route: u64) -> u64 {
    route & 3
}

impl<'a, S: Store> End<'a, S> {
    fn lane_in(&self) -> &'a Lane {
        &self.header.lanes[1 - self.role]
    }

    fn lane_out(&self) -> &'a Lane {
        &self.header.lanes[self.role]
    }

    /// Takes the reading side.
    #[inline]
    pub fn reading(&self, threads: &impl Threads) -> Result<Reading<'a, S>, Reentered>
    where
        S: Copy,
    {
        let held = self.own.reading.lock.take(threads)?;
        let Lane { written, taken, bell } = self.lane_in();
        if held.is_stolen {
            taken.tail.store(self.own.reading.tail.load(Ordering::Relaxed), Ordering::Release);
        }
        Ok(Reading {
            own: &self.own.reading,
            written,
            taken,
            bell,
            store: self.incoming,
            _held: held,
        })
    }

    /// Takes the writing side.
    #[inline]
    pub fn writing(&self, threads: &impl Threads) -> Result<Writing<'a, S>, Reentered>
    where
        S: Copy,
    {
        let held = self.own.writing.lock.take(threads)?;
        let Lane { written, taken, bell } = self.lane_out();
        if held.is_stolen {
            // He may have copied his bytes, and not have said so.
            written.head.store(self.own.writing.head.load(Ordering::Relaxed), Ordering::Release);
        }
        Ok(Writing {
            own: &self.own.writing,
            written,
            taken,
            bell,
            store: self.outgoing,
            _held: held,
        })
    }

    /// What the socket has carried so far, before this end is used: nothing of it is going on.
    pub fn begin(&self, carried: Option<Carried>) {
        let Own { reading, writing } = self.own;
        mending::keep_base(&writing.base, carried.map(|it| it.sent), &writing.tcp_data);
        mending::keep_base(&reading.base, carried.map(|it| it.taken), &reading.tcp_data);
    }

    /// This end looks at the ring from now on.
    pub fn attach(&self) {
        self.lane_in().bell.attached.store(1, Ordering::Release);
    }

    /// This thread is about to sleep in the kernel until the end is readable, however: to be had
    /// before the doorbell is asked for, and until it is awake again.
    pub fn asleep(&self) -> Asleep<'a> {
        self.own.reading.sleepers.fetch_add(1, Ordering::SeqCst);
        Asleep(&self.own.reading)
    }

    /// The word at which a reader of this end sleeps ([`Reading::park`]).
    pub fn place(&self) -> &'a AtomicU32 {
        &self.lane_in().bell.parked
    }

    /// Both ends' readers are to look again: the words at which they sleep, if they do. Behind whatever they are to see.
    #[must_use]
    pub fn unpark(&self) -> [Option<&'a AtomicU32>; 2] {
        // Either a reader sees what was done, or that it is parked is seen here.
        fence(Ordering::SeqCst);
        [0, 1].map(|lane| unparked(&self.header.lanes[lane].bell.parked))
    }

    /// Bytes in the incoming ring, without the lock: a glance for one who spins.
    #[inline]
    pub fn glance(&self) -> bool {
        let head = self.lane_in().written.head.load(Ordering::Acquire);
        head != self.own.reading.tail.load(Ordering::Relaxed)
    }

    /// So many bytes are in the incoming ring, without the lock.
    #[inline]
    pub fn has(&self, count: usize) -> bool {
        let head = self.lane_in().written.head.load(Ordering::Acquire);
        let queued = head.wrapping_sub(self.own.reading.tail.load(Ordering::Relaxed));
        queued >= count.clamp(1, self.incoming.size()) as u64
    }

    /// Bytes put into the incoming ring so far.
    pub fn arrived(&self) -> u64 {
        self.lane_in().written.head.load(Ordering::Acquire)
    }

    /// A doorbell will be sent, when more bytes are there than are now.
    #[inline]
    pub fn is_armed(&self) -> bool {
        let Lane { written, bell, .. } = self.lane_in();
        let wish = bell.bell_at.load(Ordering::Relaxed);
        wish != NEVER && wish.wrapping_sub(written.head.load(Ordering::Relaxed)) as i64 > 0
    }

    /// The peer's claim that everything goes over TCP is not settled by the ring: a glance
    /// for one who spins.
    #[inline]
    pub fn is_tcp(&self) -> bool {
        kind(self.lane_in().written.route.load(Ordering::Relaxed)) != ROUTE_RING
    }

    /// A reader spun.
    pub fn note_spin(&self) {
        bump(&self.lane_in().taken.spins, 1);
    }

    /// The peer wants what it has not taken from the ring over TCP.
    pub fn is_asked_to_leave(&self) -> bool {
        let bell = &self.lane_out().bell;
        matches!(bell.leaves.load(Ordering::Relaxed), ASKED | BACK)
            && bell.left.load(Ordering::Relaxed) == 0
    }

    /// A doorbell has been sent for bytes that were taken without it, or is about to be: a glance.
    #[inline]
    pub fn is_rung_for_nothing(&self) -> bool {
        let own = &self.own.reading;
        own.has_wished.load(Ordering::Relaxed) != 0
            && self.lane_in().bell.bell_at.load(Ordering::Relaxed) == NEVER
            && !self.glance()
    }

    /// The connection was reset: whether doorbells are the only reason that there can be.
    ///
    /// A kernel resets where TCP alone would have ended the stream when the peer dies over a doorbell that it
    /// had no more use for. So it was if the peer had taken all our data and not all our doorbells; and all that the
    /// peer has written is in the ring, for what was on TCP may have gone with the reset.
    pub fn is_reset_by_bells(&self) -> bool {
        let own = &self.own.writing;
        let taken = &self.lane_out().taken;
        own.bells.load(Ordering::Relaxed) != taken.bells.load(Ordering::Acquire)
            && own.head.load(Ordering::Relaxed) == taken.tail.load(Ordering::Acquire)
            && own.tcp_data.load(Ordering::Relaxed) == own.settled.load(Ordering::Relaxed)
            && own.in_kernel() == 0
            && !self.is_tcp()
            && !self.is_peer_closed()
    }

    /// The peer has closed its socket.
    pub fn is_peer_closed(&self) -> bool {
        self.header.closed[1 - self.role].load(Ordering::Acquire) != 0
    }

    /// This end is closed: the last descriptor of it anywhere.
    pub fn close(&self) {
        self.header.closed[self.role].store(1, Ordering::Release);
    }

    /// The peer goes on writing, into the ring, as far as it says.
    pub fn is_going_on(&self) -> bool {
        !self.is_tcp() && !self.is_peer_closed()
    }
}

/// A thread that may be asleep for an end. As long as there is one, a thread that reads leaves behind
/// what wakes it: a doorbell that is not taken, or the wish for one. A thread that was killed asleep
/// is counted for ever, which costs its relatives some doorbells.
#[derive(Debug)]
#[must_use]
pub struct Asleep<'a>(&'a OwnReading);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Takes the word from one who sleeps at it, and is then to be woken there; behind a fence.
#[inline]
fn unparked(word: &AtomicU32) -> Option<&AtomicU32> {
    (word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::AcqRel) != 0).then_some(word)
}

/// Adds to a count that only this end writes.
fn bump(count: &AtomicU64, by: u64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}
