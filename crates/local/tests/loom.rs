//! The parts of the protocol that rest on the order of memory accesses, in every order that the memory model has:
//!
//!     RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p sosplice-local --release --test loom
//!
//! The bytes of the rings are loom's cells, so a byte that is read while it is written is a failure,
//! and so is a thread that sleeps for ever. Whole runs with kills and resets are the
//! simulator's (`src/sim/`).

#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use rustix::io::Errno;
use sosplice_local::end::{Arm, End, Found, Own, Way};
use sosplice_local::layout::{FLIPPED, Header};
use sosplice_local::lock::{Lock, Threads};
use sosplice_local::ring::Store;
use sosplice_local::stream::{self, ReadHow, Tcp, WriteHow};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};

const BELL: u8 = 255;

/// A ring whose bytes must not be touched by two at once.
#[derive(Clone, Copy)]
struct Cells<'a>(&'a [UnsafeCell<u8>]);

impl Store for Cells<'_> {
    fn size(&self) -> usize {
        self.0.len()
    }

    fn put(&self, position: u64, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            let place = (position as usize + at) & (self.0.len() - 1);
            // SAFETY: loom finds out when another thread is here.
            self.0[place].with_mut(|cell| unsafe { *cell = *byte });
        }
    }

    fn take(&self, position: u64, bytes: &mut [u8]) {
        for (at, byte) in bytes.iter_mut().enumerate() {
            let place = (position as usize + at) & (self.0.len() - 1);
            // SAFETY: as above.
            *byte = self.0[place].with(|cell| unsafe { *cell });
        }
    }
}

/// TCP of one direction. The kernel's lock orders what was done before a send before what is
/// done behind the receive.
#[derive(Default)]
struct Wire {
    queue: Mutex<(VecDeque<u8>, bool)>,
    arrived: Condvar,
}

impl Wire {
    fn push(&self, bytes: impl IntoIterator<Item = u8>) {
        self.queue.lock().expect("a lock").0.extend(bytes);
        self.arrived.notify_all();
    }

    fn finish(&self) {
        self.queue.lock().expect("a lock").1 = true;
        self.arrived.notify_all();
    }
}

struct Socket<'a> {
    incoming: &'a Wire,
    outgoing: &'a Wire,
    futex: &'a Futex,
}

/// Where readers sleep at a word, without a time limit: who is not woken sleeps for ever.
#[derive(Default)]
struct Futex {
    lock: Mutex<()>,
    woken: Condvar,
}

impl Socket<'_> {
    fn take(&self, to: &mut [u8], peek: bool) -> Result<usize, Errno> {
        let mut queue = self.incoming.queue.lock().expect("a lock");
        let count = to.len().min(queue.0.len());
        if count == 0 {
            return if queue.1 { Ok(0) } else { Err(Errno::AGAIN) };
        }
        for (place, byte) in to.iter_mut().zip(&queue.0) {
            *place = *byte;
        }
        if !peek {
            queue.0.drain(..count);
        }
        Ok(count)
    }
}

impl Tcp for Socket<'_> {
    fn recv(&self, to: &mut [IoSliceMut<'_>], peek: bool) -> Result<usize, Errno> {
        self.take(&mut to[0], peek)
    }

    fn discard(&self, count: usize) -> Result<usize, Errno> {
        let mut bytes = vec![0; count];
        let count = self.take(&mut bytes, false)?;
        assert!(bytes[..count].iter().all(|byte| *byte == BELL), "data was taken for a doorbell");
        Ok(count)
    }

    fn probe(&self) -> Result<usize, Errno> {
        self.take(&mut [0], true)
    }

    fn sleep(&self) -> Result<usize, Errno> {
        let mut queue = self.incoming.queue.lock().expect("a lock");
        while queue.0.is_empty() && !queue.1 {
            queue = self.incoming.arrived.wait(queue).expect("a lock");
        }
        Ok(usize::from(!queue.0.is_empty()))
    }

    fn park(&self, word: &AtomicU32, _: u64, _: bool) -> Result<(), Errno> {
        let mut held = self.futex.lock.lock().expect("a lock");
        while word.load(Ordering::Relaxed) == 1 {
            held = self.futex.woken.wait(held).expect("a lock");
        }
        Ok(())
    }

    fn unpark(&self, _: &AtomicU32) -> bool {
        drop(self.futex.lock.lock().expect("a lock"));
        self.futex.woken.notify_all();
        true
    }

    fn is_over(&self) -> bool {
        self.incoming.queue.lock().expect("a lock").1
    }

    fn ring(&self) -> Result<(), Errno> {
        self.outgoing.push([BELL]);
        Ok(())
    }

    fn send(&self, from: &[IoSlice<'_>]) -> Result<usize, Errno> {
        self.outgoing.push(from[0].iter().copied());
        Ok(from[0].len())
    }

    fn send_now(&self, from: &[u8]) -> Result<usize, Errno> {
        self.send(&[IoSlice::new(from)])
    }

    fn now_ns(&self) -> u64 {
        0
    }
}

struct Thread(u32);

impl Threads for Thread {
    fn own(&self) -> u32 {
        self.0
    }

    fn yield_now(&self) {
        loom::thread::yield_now();
    }

    fn lives(&self, _: u32) -> bool {
        true
    }
}

struct Pair {
    header: Header,
    own: [Own; 2],
    rings: [Vec<UnsafeCell<u8>>; 2],
    wires: [Wire; 2],
    futex: Futex,
}

impl Pair {
    fn new(ring_bytes: usize) -> Self {
        let pair = Self {
            header: Header::new(ring_bytes as u64),
            own: Default::default(),
            rings: [0, 1].map(|_| (0..ring_bytes).map(|_| UnsafeCell::new(0)).collect()),
            wires: Default::default(),
            futex: Futex::default(),
        };
        pair.end(1).attach();
        pair
    }

    /// The direction from the first end to the second goes through the ring already.
    fn in_ring(ring_bytes: usize) -> Self {
        let pair = Self::new(ring_bytes);
        pair.end(1).reading(&Thread(1)).expect("a lock").grant();
        let way = pair.end(0).writing(&Thread(1)).expect("a lock").way(1);
        assert_eq!(way, Ok(Way::Ring(ring_bytes)));
        pair
    }

    fn end(&self, role: usize) -> End<'_, Cells<'_>> {
        End {
            own: &self.own[role],
            header: &self.header,
            role,
            incoming: Cells(&self.rings[1 - role]),
            outgoing: Cells(&self.rings[role]),
        }
    }

    fn socket(&self, role: usize) -> Socket<'_> {
        let (incoming, outgoing) = (&self.wires[1 - role], &self.wires[role]);
        Socket { incoming, outgoing, futex: &self.futex }
    }

    fn send(&self, thread: u32, byte: u8) {
        let (end, socket) = (self.end(0), self.socket(0));
        let from = [IoSlice::new(std::slice::from_ref(&byte))];
        let sent = stream::send(&end, &socket, &Thread(thread), &from, WriteHow::default());
        assert_eq!(sent, Ok(1));
    }

    fn recv(&self, thread: u32, now: bool) -> Result<Option<u8>, Errno> {
        self.recv_as(thread, ReadHow { now, low_water: 1, ..ReadHow::default() })
    }

    /// A read that sleeps at the word first.
    fn recv_parked(&self, thread: u32) -> Result<Option<u8>, Errno> {
        self.recv_as(thread, ReadHow { low_water: 1, may_park: true, ..ReadHow::default() })
    }

    fn recv_as(&self, thread: u32, how: ReadHow) -> Result<Option<u8>, Errno> {
        let (end, socket) = (self.end(1), self.socket(1));
        let mut byte = [0];
        let to = &mut [IoSliceMut::new(&mut byte)];
        let count = stream::recv(&end, &socket, &Thread(thread), to, how)?;
        Ok((count > 0).then_some(byte[0]))
    }

    /// Reads until the end: the bytes.
    fn recv_all(&self, thread: u32) -> Vec<u8> {
        std::iter::from_fn(|| self.recv(thread, false).expect("a connection")).collect()
    }
}

fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(run);
}

/// The writer's look at the wish against the reader's look at the ring.
#[test]
fn a_reader_that_arms_and_sleeps_is_rung() {
    model(4, || {
        let pair = Arc::new(Pair::in_ring(2));
        let theirs = pair.clone();
        let writer = loom::thread::spawn(move || {
            let end = theirs.end(0);
            let mut writing = end.writing(&Thread(2)).expect("a lock");
            writing.copy(0, &[7]);
            if writing.publish(1) {
                theirs.wires[0].push([BELL]);
                writing.has_rung();
            }
        });
        let end = pair.end(1);
        let armed = end.reading(&Thread(3)).expect("a lock").arm(1);
        if armed == Ok(Arm::Armed) {
            assert_eq!(pair.socket(1).sleep(), Ok(1));
        }
        let mut reading = end.reading(&Thread(3)).expect("a lock");
        assert_eq!(reading.look(), Ok(Found::Ring(1)));
        let mut byte = [0];
        reading.copy(0, &mut byte);
        reading.took(1);
        assert_eq!(byte, [7]);
        drop(reading);
        writer.join().expect("a thread");
    });
}

/// A room that the reader makes is used again only when the reader has the bytes that were there.
#[test]
fn a_byte_is_not_overwritten_before_it_is_read() {
    model(3, || {
        let pair = Arc::new(Pair::in_ring(2));
        let theirs = pair.clone();
        let writer = loom::thread::spawn(move || {
            let end = theirs.end(0);
            let mut writing = end.writing(&Thread(2)).expect("a lock");
            let mut next = 1;
            for _ in 0..3 {
                if let Ok(Way::Ring(1..)) = writing.way(1) {
                    writing.copy(0, &[next]);
                    let _ = writing.publish(1);
                    writing.has_rung();
                    next += 1;
                }
            }
        });
        let end = pair.end(1);
        let mut reading = end.reading(&Thread(3)).expect("a lock");
        let mut expected = 1;
        for _ in 0..2 {
            if let Ok(Found::Ring(queued)) = reading.look() {
                let mut bytes = vec![0; queued];
                reading.copy(0, &mut bytes);
                for byte in bytes {
                    assert_eq!(byte, expected);
                    expected += 1;
                }
                reading.took(queued);
            }
        }
        drop(reading);
        writer.join().expect("a thread");
    });
}

/// From TCP to the ring, against a reader that gives its grant and takes it back.
#[test]
fn a_grant_does_not_let_the_ring_overtake_tcp() {
    model(3, || {
        let pair = Arc::new(Pair::new(2));
        let theirs = pair.clone();
        let writer = loom::thread::spawn(move || {
            theirs.send(2, 1);
            theirs.send(2, 2);
            theirs.wires[0].finish();
        });
        assert_eq!(pair.recv_all(3), [1, 2]);
        writer.join().expect("a thread");
    });
}

/// The same, begun with the grant out.
#[test]
fn a_grant_that_is_out_does_not_let_the_ring_overtake_tcp() {
    model(3, || {
        let pair = Arc::new(Pair::new(2));
        pair.end(1).reading(&Thread(1)).expect("a lock").grant();
        let theirs = pair.clone();
        let writer = loom::thread::spawn(move || {
            theirs.send(2, 1);
            theirs.send(2, 2);
            theirs.wires[0].finish();
        });
        assert_eq!(pair.recv_all(3), [1, 2]);
        writer.join().expect("a thread");
    });
}

/// A writer that has taken the grant and is killed before it says so: its end is seen.
#[test]
fn a_writer_that_dies_with_the_grant_leaves_the_end() {
    model(4, || {
        let pair = Arc::new(Pair::new(2));
        pair.end(1).reading(&Thread(1)).expect("a lock").grant();
        let theirs = pair.clone();
        let writer = loom::thread::spawn(move || {
            let grant = &theirs.header.lanes[0].bell.grant;
            let _ = grant.compare_exchange(1, FLIPPED, Ordering::AcqRel, Ordering::Relaxed);
            theirs.wires[0].finish();
        });
        assert_eq!(pair.recv_all(3), []);
        writer.join().expect("a thread");
    });
}

/// From the ring to TCP when it is full, and back.
#[test]
fn an_overflow_keeps_the_order_both_ways() {
    model(2, || {
        let pair = Arc::new(Pair::in_ring(1));
        let theirs = pair.clone();
        let writer = loom::thread::spawn(move || {
            for byte in 1..=3 {
                theirs.send(2, byte);
            }
            theirs.wires[0].finish();
        });
        assert_eq!(pair.recv_all(3), [1, 2, 3]);
        writer.join().expect("a thread");
    });
}

/// Two threads sleep for the same socket, and each byte wakes one that takes it.
#[test]
fn two_sleepers_are_both_woken_in_the_end() {
    model(2, || {
        let pair = Arc::new(Pair::in_ring(2));
        let theirs = pair.clone();
        let reader = loom::thread::spawn(move || theirs.recv(4, false));
        pair.send(2, 1);
        pair.send(2, 2);
        let mut got = [pair.recv(3, false), reader.join().expect("a thread")];
        got.sort_by_key(|got| got.ok().flatten());
        assert_eq!(got, [Ok(Some(1)), Ok(Some(2))]);
    });
}

/// The writer's look at the parked reader against the reader's look at the ring, and at the route.
#[test]
fn a_reader_that_parks_is_woken() {
    model(3, || {
        let pair = Arc::new(Pair::in_ring(2));
        let theirs = pair.clone();
        let reader = loom::thread::spawn(move || {
            [theirs.recv_parked(3), theirs.recv_parked(3)].map(|got| got.expect("a connection"))
        });
        pair.send(2, 1);
        stream::pin(&pair.end(0), &pair.socket(0), &Thread(2)).expect("a route");
        pair.wires[0].finish();
        assert_eq!(reader.join().expect("a thread"), [Some(1), None]);
    });
}

/// Two threads sleep for the same socket, one of them at the word.
#[test]
fn a_parked_reader_and_a_sleeping_one_are_both_woken() {
    model(2, || {
        let pair = Arc::new(Pair::in_ring(2));
        let theirs = pair.clone();
        let reader = loom::thread::spawn(move || theirs.recv_parked(4));
        pair.send(2, 1);
        pair.send(2, 2);
        let mut got = [pair.recv_parked(3), reader.join().expect("a thread")];
        got.sort_by_key(|got| got.ok().flatten());
        assert_eq!(got, [Ok(Some(1)), Ok(Some(2))]);
    });
}

/// The writer closes while the reader parks.
#[test]
fn a_close_wakes_a_parked_reader() {
    model(4, || {
        let pair = Arc::new(Pair::in_ring(2));
        let theirs = pair.clone();
        let reader = loom::thread::spawn(move || theirs.recv_parked(3));
        pair.end(0).close();
        stream::unpark_all(&pair.end(0), &pair.socket(0));
        pair.wires[0].finish();
        assert_eq!(reader.join().expect("a thread"), Ok(None));
    });
}

/// One sleeps until two bytes are there; another asks for one at the moment in which three come, and takes one.
/// The doorbell that the first is owed is not lost between the two wishes.
#[test]
fn a_wish_that_replaces_another_is_rung_for() {
    model(4, || {
        let pair = Arc::new(Pair::in_ring(4));
        assert_eq!(pair.end(1).reading(&Thread(1)).expect("a lock").arm(2), Ok(Arm::Armed));
        let theirs = pair.clone();
        let writer = loom::thread::spawn(move || {
            let end = theirs.end(0);
            let mut writing = end.writing(&Thread(2)).expect("a lock");
            writing.copy(0, &[1, 2, 3]);
            if writing.publish(3) {
                theirs.wires[0].push([BELL]);
                writing.has_rung();
            }
        });
        if pair.end(1).reading(&Thread(3)).expect("a lock").arm(1) == Ok(Arm::Ready) {
            pair.end(1).reading(&Thread(3)).expect("a lock").took(1);
        }
        writer.join().expect("a thread");
        assert_eq!(pair.socket(1).probe(), Ok(1));
    });
}

/// Holds the lock and writes to what it guards.
struct Guarded {
    lock: Lock,
    value: UnsafeCell<u32>,
    is_dead: AtomicBool,
}

struct Family<'a>(u32, &'a AtomicBool);

impl Threads for Family<'_> {
    fn own(&self) -> u32 {
        self.0
    }

    fn yield_now(&self) {
        loom::thread::yield_now();
    }

    fn lives(&self, id: u32) -> bool {
        id != DOOMED || !self.1.load(Ordering::Acquire)
    }
}

const DOOMED: u32 = 9;

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: Lock::new(),
            value: UnsafeCell::new(0),
            is_dead: AtomicBool::new(false),
        })
    }

    fn add(&self, id: u32) {
        let held = self.lock.take(&Family(id, &self.is_dead)).expect("not twice");
        // SAFETY: loom finds out when another thread is here.
        self.value.with_mut(|value| unsafe { *value += 1 });
        if id == DOOMED {
            std::mem::forget(held);
            self.is_dead.store(true, Ordering::Release);
        }
    }

    fn value(&self) -> u32 {
        // SAFETY: all others have ended.
        self.value.with(|value| unsafe { *value })
    }
}

/// A holder dies with the lock while another waits.
#[test]
fn a_dead_holder_is_followed() {
    model(2, || {
        let guarded = Guarded::new();
        let theirs = guarded.clone();
        let doomed = loom::thread::spawn(move || theirs.add(DOOMED));
        guarded.add(1);
        doomed.join().expect("a thread");
        assert_eq!(guarded.value(), 2);
    });
}

/// Two want the lock of a dead holder: they have it one behind the other.
#[test]
fn a_dead_holder_is_followed_by_one_at_a_time() {
    model(2, || {
        let guarded = Guarded::new();
        guarded.add(DOOMED);
        let theirs = guarded.clone();
        let other = loom::thread::spawn(move || theirs.add(1));
        guarded.add(2);
        other.join().expect("a thread");
        assert_eq!(guarded.value(), 3);
    });
}
