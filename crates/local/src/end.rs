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
//!   decides ([`Reading::leave`]).
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
//! # Who dies
//!
//! Relatives share an end, and one may be killed where the lock is held. What it had copied is published for it; but
//! in the middle of a change that concerns the other end (a doorbell counted and sent, a grant given or
//! taken, a route) nobody can tell how far it came. Such a change is marked, and a mark that is found
//! under the lock is [`Broken`]: a reset, not bytes that are shifted by one.
//!
//! An end's own state ([`Own`]) is not in the memory that the peer can write. The peer's words are
//! taken as claims: [`Broken`] is what a claim is called that cannot be.
//!
//! `sim/` tries whole runs, `tests/loom.rs` the orders of accesses, `tests/hostile.rs` a peer that
//! claims anything.

use crate::layout::{
    ASKED, BEYOND, Bell, FLIPPED, Header, Lane, NEVER, ROUTE_PINNED, ROUTE_RING, ROUTE_TCP, STAYS,
    Taken, Written,
};
use crate::lock::{Held, Lock, Reentered, Threads};
use crate::patience::Patience;
use crate::ring::Store;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// The peer's words contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// State of an end's reading side. All zero is the beginning. Guarded by its lock.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct OwnReading {
    lock: Lock,
    /// The grant has been given, and not been taken back.
    granted: AtomicU32,
    /// The route's count of changes when it was given.
    granted_at: AtomicU64,
    tail: AtomicU64,
    bells: AtomicU64,
    /// Bytes of data taken from TCP since the connection was made.
    pub tcp_data: AtomicU64,
    /// An error that was met while the ring still held bytes; zero for none.
    pub error: AtomicU32,
    /// Whether its waits spin.
    pub patience: Patience,
    /// Who may be asleep in the kernel for this end: see [`Asleep`].
    sleepers: AtomicU32,
    /// As [`OwnWriting::in_doubt`].
    in_doubt: AtomicU32,
    /// Everything comes over TCP, or will.
    has_left: AtomicU32,
}

/// State of an end's writing side. All zero is the beginning. Guarded by its lock.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct OwnWriting {
    lock: Lock,
    /// Sends over TCP that are in the kernel.
    in_kernel: AtomicU32,
    /// Not zero while what is known of the other end is not what it is: in the middle of a
    /// change that takes two steps. Who finds it so has the lock of one who was killed there, and
    /// cannot know how far he came.
    in_doubt: AtomicU32,
    /// As [`Written::route`].
    route: AtomicU64,
    head: AtomicU64,
    /// The reader's tail as last seen.
    tail: AtomicU64,
    bells: AtomicU64,
    /// Up to where the ring's bytes have been sent again, while the reader leaves.
    recalled: AtomicU64,
    is_recalling: AtomicU32,
    /// Doorbells in a row that nobody has answered by reading.
    unanswered: AtomicU32,
    /// Bytes of data sent over TCP since the connection was made.
    pub tcp_data: AtomicU64,
}

/// An end's own state, out of its peer's reach, shared with forked relatives.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Own {
    /// What concerns the incoming direction.
    pub reading: OwnReading,
    /// What concerns the outgoing direction.
    pub writing: OwnWriting,
}

impl Own {
    /// The beginning again, for another connection.
    pub fn reset(&self) {
        let OwnReading {
            lock,
            granted,
            granted_at,
            tail,
            bells,
            tcp_data,
            error,
            patience,
            sleepers,
            in_doubt,
            has_left,
        } = &self.reading;
        lock.reset();
        patience.reset();
        for word in [granted, error, sleepers, in_doubt, has_left] {
            word.store(0, Ordering::Relaxed);
        }
        for word in [granted_at, tail, bells, tcp_data] {
            word.store(0, Ordering::Relaxed);
        }
        let OwnWriting {
            lock,
            in_kernel,
            in_doubt,
            route,
            head,
            tail,
            bells,
            recalled,
            is_recalling,
            unanswered,
            tcp_data,
        } = &self.writing;
        lock.reset();
        in_kernel.store(0, Ordering::Relaxed);
        in_doubt.store(0, Ordering::Relaxed);
        is_recalling.store(0, Ordering::Relaxed);
        unanswered.store(0, Ordering::Relaxed);
        for word in [route, head, tail, bells, recalled, tcp_data] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

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

/// Where a writer's next byte goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Into the ring, which has room for so many.
    Ring(usize),
    /// Over TCP.
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

/// Wishes that a writer looks at behind one message.
const WISHES_MAX: u32 = 8;

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
        bell.leaves.load(Ordering::Relaxed) == ASKED && bell.left.load(Ordering::Relaxed) == 0
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

/// Adds to a count that only this end writes.
fn bump(count: &AtomicU64, by: u64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// The reading side, held.
#[derive(Debug)]
pub struct Reading<'a, S> {
    own: &'a OwnReading,
    written: &'a Written,
    taken: &'a Taken,
    bell: &'a Bell,
    store: S,
    _held: Held<'a>,
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
        if self.own.in_doubt.load(Ordering::Relaxed) != 0 {
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
            Ok(_) => {
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
        self.own.in_doubt.store(1, Ordering::Relaxed);
        self.own.granted_at.store(route >> 2, Ordering::Relaxed);
        self.own.granted.store(1, Ordering::Relaxed);
        self.bell.grant.store(given, Ordering::Release);
        self.own.in_doubt.store(0, Ordering::Relaxed);
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
        (rung.wrapping_sub(self.own.bells.load(Ordering::Relaxed)) as u32 as i32).clamp(0, 64)
            as usize
    }

    /// Takes doorbells from TCP: `discard` does, and tells how many.
    pub fn take_bells<E>(
        &mut self,
        discard: impl FnOnce() -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.own.in_doubt.store(1, Ordering::Relaxed);
        let result = discard();
        bump(&self.own.bells, *result.as_ref().unwrap_or(&0) as u64);
        self.own.in_doubt.store(0, Ordering::Relaxed);
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
            self.bell.bell_at.store(want, Ordering::Relaxed);
        }
        // Either the writer sees the wish, or its byte is seen here.
        fence(Ordering::SeqCst);
        Ok(if self.queued()? >= low_water { Arm::Ready } else { Arm::Armed })
    }

    /// How many threads may be asleep.
    pub fn sleepers(&self) -> u32 {
        self.own.sleepers.load(Ordering::SeqCst)
    }

    /// No doorbell is wanted: this end looks by itself.
    pub fn disarm(&mut self) {
        self.bell.bell_at.store(NEVER, Ordering::Relaxed);
    }

    /// From now on everything is to come over TCP. To be called until it says [`Leave::Left`]; then
    /// [`Reading::bells_due`] doorbells are still in front.
    pub fn leave(&mut self) -> Result<Leave, Broken> {
        if !self.has_left() {
            if let Found::Ring(_) | Found::Empty = self.look()? {
                let leaves = &self.bell.leaves;
                let order = (Ordering::AcqRel, Ordering::Acquire);
                if leaves.compare_exchange(STAYS, ASKED, order.0, order.1) == Err(BEYOND) {
                    return Ok(Leave::Beyond);
                }
            }
            self.own.has_left.store(1, Ordering::Relaxed);
        }
        Ok(if self.route() == ROUTE_RING { Leave::Asked } else { Leave::Left })
    }

    fn has_left(&self) -> bool {
        self.own.has_left.load(Ordering::Relaxed) != 0
    }
}

/// How far a reader is that leaves the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The writer has been asked, and has not answered.
    Asked,
    /// Everything that comes is on TCP.
    Left,
    /// Bytes in the ring are followed by others on TCP: while that is so nobody can leave but by reading.
    Beyond,
}

/// The writing side, held.
#[derive(Debug)]
pub struct Writing<'a, S> {
    own: &'a OwnWriting,
    written: &'a Written,
    taken: &'a Taken,
    bell: &'a Bell,
    store: S,
    _held: Held<'a>,
}

impl<'a, S: Store> Writing<'a, S> {
    fn kind(&self) -> u64 {
        kind(self.own.route.load(Ordering::Relaxed))
    }

    fn set_route(&self, to: u64) {
        let changes = (self.own.route.load(Ordering::Relaxed) >> 2) + 1;
        let route = changes << 2 | to;
        self.own.route.store(route, Ordering::Relaxed);
        self.written.route.store(route, Ordering::Release);
    }

    /// Where `wanted` bytes go. The room is looked up anew only when what is known of is less.
    #[inline]
    pub fn way(&mut self, wanted: usize) -> Result<Way, Broken> {
        if self.own.in_doubt.load(Ordering::Relaxed) != 0 {
            return Err(Broken);
        }
        if self.kind() != ROUTE_RING && !self.flip() {
            return Ok(Way::Tcp);
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
        self.own.in_doubt.store(1, Ordering::Relaxed);
        let taken = word.compare_exchange(grant, FLIPPED, Ordering::AcqRel, Ordering::Relaxed);
        if taken.is_ok() {
            // It may be that the reader, who knows by the grant, has asked already.
            let order = (Ordering::AcqRel, Ordering::Relaxed);
            let _ = self.bell.leaves.compare_exchange(BEYOND, STAYS, order.0, order.1);
            self.set_route(ROUTE_RING);
        }
        self.own.in_doubt.store(0, Ordering::Relaxed);
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

    /// The reader may have them. True if it sleeps: a doorbell was counted, and must be sent, and
    /// [`Writing::has_rung`] be told, before this is let go of.
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

    fn is_wanted(&self, head: u64) -> bool {
        let bell_at = &self.bell.bell_at;
        let mut wish = bell_at.load(Ordering::Relaxed);
        // The wish of one sleeper may take the place of another's meanwhile; not often.
        for _ in 0..WISHES_MAX {
            if wish == NEVER || (head.wrapping_sub(wish) as i64) < 0 {
                return false;
            }
            self.own.in_doubt.store(1, Ordering::Relaxed);
            match bell_at.compare_exchange(wish, NEVER, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    self.count_bell();
                    return true;
                }
                Err(other) => {
                    self.own.in_doubt.store(0, Ordering::Relaxed);
                    wish = other;
                }
            }
        }
        false
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
        // Looked up here: what is compared with later is the tail from before the doorbell.
        let tail = self.taken.tail.load(Ordering::Acquire);
        if self.room(tail).is_ok() {
            self.own.tail.store(tail, Ordering::Relaxed);
        }
        self.own.unanswered.store(1, Ordering::Relaxed);
        self.own.in_doubt.store(0, Ordering::Relaxed);
    }

    /// Wakes the peer, which has something to be told: as after [`Writing::publish`]. False where a byte on
    /// TCP would be data.
    #[must_use]
    pub fn call(&mut self) -> bool {
        if self.kind() != ROUTE_RING {
            return false;
        }
        self.own.in_doubt.store(1, Ordering::Relaxed);
        self.count_bell();
        true
    }

    fn count_bell(&self) {
        let bells = self.own.bells.load(Ordering::Relaxed).wrapping_add(1);
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

    fn change_to_tcp(&self, to: u64) {
        let bells = self.own.bells.load(Ordering::Relaxed);
        self.own.in_doubt.store(1, Ordering::Relaxed);
        self.written.bells_before_tcp.store(bells, Ordering::Release);
        self.set_route(to);
        self.own.in_doubt.store(0, Ordering::Relaxed);
    }

    /// A send over TCP begins. It may sleep, so the lock is let go of; until it has ended
    /// ([`InKernel::sent`]) the route stays TCP.
    pub fn enter_kernel(self) -> InKernel<'a> {
        self.own.enter_kernel();
        InKernel { own: self.own, written: self.written }
    }

    /// The reader wants everything over TCP, and what it has not taken from the ring again.
    pub fn must_leave(&self) -> bool {
        self.bell.leaves.load(Ordering::Acquire) == ASKED
            && self.bell.left.load(Ordering::Relaxed) == 0
    }

    /// Goes to TCP for good, and copies bytes of the ring that are to be sent there before anything else. None
    /// are left when zero is returned.
    pub fn recall(&mut self, to: &mut [u8]) -> Result<usize, Broken> {
        if self.own.in_doubt.load(Ordering::Relaxed) != 0 {
            return Err(Broken);
        }
        if self.own.is_recalling.load(Ordering::Relaxed) == 0 {
            let tail = self.taken.tail.load(Ordering::Acquire);
            self.room(tail)?;
            self.own.recalled.store(tail, Ordering::Relaxed);
            self.own.is_recalling.store(1, Ordering::Relaxed);
            self.change_to_tcp(ROUTE_PINNED);
        }
        let from = self.own.recalled.load(Ordering::Relaxed);
        let count = (self.store.size() - self.room(from)?).min(to.len());
        self.store.take(from, &mut to[..count]);
        if count == 0 {
            self.bell.left.store(1, Ordering::Release);
        }
        Ok(count)
    }

    /// Sends what was recalled: `send` does, and tells how much.
    pub fn resend<E>(&mut self, send: impl FnOnce() -> Result<usize, E>) -> Result<usize, E> {
        self.own.in_doubt.store(1, Ordering::Relaxed);
        let result = send();
        bump(&self.own.recalled, *result.as_ref().unwrap_or(&0) as u64);
        self.own.in_doubt.store(0, Ordering::Relaxed);
        result
    }
}

impl OwnWriting {
    /// A send over TCP begins.
    pub fn enter_kernel(&self) {
        self.in_kernel.fetch_add(1, Ordering::SeqCst);
    }

    /// A send over TCP has ended.
    pub fn leave_kernel(&self, sent: usize) {
        self.tcp_data.fetch_add(sent as u64, Ordering::Relaxed);
        self.in_kernel.fetch_sub(1, Ordering::SeqCst);
    }

    /// Sends over TCP that are in the kernel.
    pub fn in_kernel(&self) -> u32 {
        self.in_kernel.load(Ordering::SeqCst)
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
