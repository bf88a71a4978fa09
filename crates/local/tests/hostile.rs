//! A peer that writes anything into the shared memory at any time: the end that meets it does
//! not panic, does not touch memory outside of the ring, and comes back from each call. What it gets is a
//! broken connection, or garbage in the place of its own bytes.

use proptest::prelude::*;
use rustix::io::Errno;
use sosplice_local::end::{End, Own};
use sosplice_local::layout::{ASKED, FLIPPED, Header, Lane};
use sosplice_local::lock::Threads;
use sosplice_local::ring::{Ring, Store};
use sosplice_local::stream::{self, ReadHow, Tcp, WriteHow};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const RING_BYTES: usize = 4096;
const GUARD_BYTES: usize = 64;
const GUARD: u8 = 0xa5;
/// Calls of the kernel's in one call of the program's, at most. The longest wait for room is some
/// thousand of them here.
const CALLS_MAX: u32 = 30_000;

/// Where the peer writes what.
#[derive(Debug, Clone, Copy)]
struct Scribble {
    word: usize,
    value: u64,
}

#[derive(Debug, Clone)]
enum Step {
    Scribble(Scribble),
    /// Bytes arrive on TCP; none are the end.
    Arrive(usize),
    Drain(usize),
    Recv {
        len: usize,
        peek: bool,
        all: bool,
        now: bool,
        low_water: usize,
    },
    Send {
        len: usize,
        spins: bool,
    },
    Prepare(usize),
    Settle(usize),
    Queued,
    Oblige,
    Pin,
    Leave,
    Call,
}

const WORDS: usize = size_of::<Header>() / 8;

fn scribbles() -> impl Strategy<Value = Scribble> {
    let value = prop_oneof![
        Just(0),
        Just(FLIPPED),
        Just(u64::from(ASKED)),
        0..16u64,
        0..3 * RING_BYTES as u64,
        any::<u64>(),
        any::<i16>().prop_map(|near| near as i64 as u64),
        // Both halves of a word of two.
        (0..4u64, 0..4u64).prop_map(|(low, high)| high << 32 | low),
    ];
    let lane = offset_of!(Header, lanes) / 8;
    let written = lane + offset_of!(Lane, written) / 8;
    let taken = lane + offset_of!(Lane, taken) / 8;
    let bell = lane + offset_of!(Lane, bell) / 8;
    // Those that steer: head, route and doorbells, tail, wish, grant and what is behind them.
    let steering = vec![
        written,
        written + 1,
        written + 2,
        written + 3,
        written + 4,
        written + 5,
        taken,
        bell,
        bell + 1,
        bell + 2,
        bell + 3,
        bell + 4,
        bell + 5,
    ];
    let steering = (prop::sample::select(steering), 0..2usize)
        .prop_map(|(word, lane)| word + lane * size_of::<Lane>() / 8);
    let word = prop_oneof![4 => steering, 1 => 0..WORDS];
    (word, value).prop_map(|(word, value)| Scribble { word, value })
}

fn steps() -> impl Strategy<Value = Step> {
    let len = prop_oneof![0..4usize, 0..600usize, 0..3 * RING_BYTES];
    prop_oneof![
        4 => scribbles().prop_map(Step::Scribble),
        2 => prop_oneof![0..3usize, 0..200usize].prop_map(Step::Arrive),
        1 => (0..500usize).prop_map(Step::Drain),
        4 => (len.clone(), any::<bool>(), any::<bool>(), any::<bool>(), 0..6000usize)
            .prop_map(|(len, peek, all, now, low_water)| Step::Recv { len, peek, all, now, low_water }),
        4 => (len, any::<bool>()).prop_map(|(len, spins)| Step::Send { len, spins }),
        1 => (0..6000usize).prop_map(Step::Prepare),
        1 => (0..6000usize).prop_map(Step::Settle),
        1 => Just(Step::Queued),
        1 => Just(Step::Oblige),
        1 => Just(Step::Pin),
        1 => Just(Step::Leave),
        1 => Just(Step::Call),
    ]
}

/// The shared memory, and what the peer will do to it.
struct Peer<'a> {
    header: &'a Header,
    script: RefCell<VecDeque<Scribble>>,
    calls: Cell<u32>,
}

impl Peer<'_> {
    fn scribble(&self, scribble: Scribble) {
        let words = std::ptr::from_ref(self.header).cast::<AtomicU64>();
        // SAFETY: the word is inside the header, which consists of atomics.
        unsafe { (*words.add(scribble.word)).store(scribble.value, Ordering::SeqCst) };
    }

    /// Between any two things that the end does.
    fn turn(&self) {
        self.calls.set(self.calls.get() + 1);
        assert!(self.calls.get() < CALLS_MAX, "a call that does not come back");
        if let Some(scribble) = self.script.borrow_mut().pop_front() {
            self.scribble(scribble);
        }
    }
}

/// A ring with guards around it.
#[derive(Clone, Copy)]
struct Guarded<'a> {
    ring: Ring,
    peer: &'a Peer<'a>,
}

impl Store for Guarded<'_> {
    fn size(&self) -> usize {
        self.ring.size()
    }

    fn put(&self, position: u64, bytes: &[u8]) {
        self.peer.turn();
        self.ring.put(position, bytes);
    }

    fn take(&self, position: u64, bytes: &mut [u8]) {
        self.peer.turn();
        self.ring.take(position, bytes);
    }
}

struct Socket<'a> {
    peer: &'a Peer<'a>,
    incoming: Cell<usize>,
    is_over: Cell<bool>,
    room: Cell<usize>,
    clock: Cell<u64>,
}

impl Socket<'_> {
    fn take(&self, count: usize, peek: bool) -> Result<usize, Errno> {
        self.peer.turn();
        let count = count.min(self.incoming.get());
        if self.incoming.get() == 0 {
            return if self.is_over.get() { Ok(0) } else { Err(Errno::AGAIN) };
        }
        if !peek {
            self.incoming.set(self.incoming.get() - count);
        }
        Ok(count)
    }
}

impl Tcp for Socket<'_> {
    fn recv(&self, to: &mut [IoSliceMut<'_>], peek: bool) -> Result<usize, Errno> {
        self.take(to.iter().map(|buffer| buffer.len()).sum(), peek)
    }

    fn discard(&self, count: usize) -> Result<usize, Errno> {
        self.take(count, false)
    }

    fn probe(&self) -> Result<usize, Errno> {
        self.take(1, true)
    }

    /// A limit of time ends the sleep.
    fn sleep(&self) -> Result<usize, Errno> {
        self.take(1, true)
    }

    fn is_over(&self) -> bool {
        self.is_over.get()
    }

    fn ring(&self) -> Result<(), Errno> {
        self.send(&[IoSlice::new(&[0])]).map(drop)
    }

    fn send(&self, from: &[IoSlice<'_>]) -> Result<usize, Errno> {
        self.peer.turn();
        let len = from.iter().map(|buffer| buffer.len()).sum::<usize>();
        let count = len.min(self.room.get());
        self.room.set(self.room.get() - count);
        if count == 0 && len > 0 { Err(Errno::AGAIN) } else { Ok(count) }
    }

    fn send_now(&self, from: &[u8]) -> Result<usize, Errno> {
        self.send(&[IoSlice::new(from)])
    }

    fn now_ns(&self) -> u64 {
        self.peer.turn();
        self.clock.set(self.clock.get() + 1_000_000);
        self.clock.get()
    }
}

struct Alone(Cell<u32>);

impl Threads for Alone {
    fn own(&self) -> u32 {
        7
    }

    fn yield_now(&self) {
        self.0.set(self.0.get() + 1);
        assert!(self.0.get() < CALLS_MAX, "a call that does not come back");
    }

    fn lives(&self, _: u32) -> bool {
        true
    }
}

fn guarded(memory: &mut [u8]) -> Ring {
    memory.fill(GUARD);
    memory[GUARD_BYTES..GUARD_BYTES + RING_BYTES].fill(0);
    let base = NonNull::from(&mut memory[GUARD_BYTES]);
    // SAFETY: so many bytes are there, and nobody else uses them meanwhile.
    unsafe { Ring::new(base, RING_BYTES) }
}

fn play(role: usize, room: usize, script: Vec<Scribble>, steps: Vec<Step>) {
    let header = Header::new(RING_BYTES as u64);
    let own = Own::default();
    let peer = Peer { header: &header, script: RefCell::new(script.into()), calls: Cell::new(0) };
    let mut memories = [0, 1].map(|_| vec![0; RING_BYTES + 2 * GUARD_BYTES]);
    let [incoming, outgoing] =
        memories.each_mut().map(|memory| Guarded { ring: guarded(memory), peer: &peer });
    let end = End { own: &own, header: &header, role, incoming, outgoing };
    let socket = Socket {
        peer: &peer,
        incoming: Cell::new(0),
        is_over: Cell::new(false),
        room: Cell::new(room),
        clock: Cell::new(0),
    };
    let threads = Alone(Cell::new(0));
    end.attach();
    // The peer begins as one that keeps the rules.
    header.lanes[role].bell.attached.store(1, Ordering::SeqCst);
    header.lanes[role].bell.grant.store(1, Ordering::SeqCst);
    for step in steps {
        peer.calls.set(0);
        threads.0.set(0);
        match step {
            Step::Scribble(scribble) => peer.scribble(scribble),
            Step::Arrive(0) => socket.is_over.set(true),
            Step::Arrive(count) => socket.incoming.set(socket.incoming.get() + count),
            Step::Drain(count) => socket.room.set((socket.room.get() + count).min(500)),
            Step::Recv { len, peek, all, now, low_water } => {
                let mut bytes = vec![0; len];
                let (first, second) = bytes.split_at_mut(len / 3);
                let to = &mut [IoSliceMut::new(first), IoSliceMut::new(second)];
                // A peek that waits for more than TCP has yields until it comes.
                let all = all && !peek;
                let low_water = if peek { 1 } else { low_water };
                let how = ReadHow { peek, all, now, spin_ns: 5_000_000, low_water, may_park: true };
                let read = stream::recv(&end, &socket, &threads, to, how);
                assert!(read.is_err() || read.is_ok_and(|count| count <= len));
            }
            Step::Send { len, spins } => {
                let bytes = vec![1; len];
                let how = WriteHow { spin_ns: if spins { 5_000_000 } else { 0 }, waits: false };
                let sent = stream::send(&end, &socket, &threads, &[IoSlice::new(&bytes)], how);
                assert!(sent.is_err() || sent.is_ok_and(|count| count <= len));
            }
            Step::Prepare(low_water) => {
                let _asleep = end.asleep();
                let _ = stream::prepare(&end, &socket, &threads, low_water);
            }
            Step::Settle(low_water) => {
                let _ = stream::settle(&end, &socket, &threads, low_water);
            }
            Step::Queued => {
                let queued = stream::queued(&end, &threads);
                assert!(queued.is_err() || queued.is_ok_and(|(ring, _)| ring <= RING_BYTES));
            }
            Step::Oblige => drop(stream::oblige(&end, &socket, &threads)),
            Step::Pin => drop(stream::pin(&end, &socket, &threads)),
            Step::Leave => {
                let _ = stream::leave(&end, &socket, &threads, 100_000_000);
            }
            Step::Call => {
                if let Ok(mut writing) = end.writing(&threads) {
                    let _ = stream::call(&mut writing, &socket, &threads);
                }
            }
        }
    }
    for memory in &memories {
        let (before, rest) = memory.split_at(GUARD_BYTES);
        let around = before.iter().chain(&rest[RING_BYTES..]);
        assert!(around.copied().all(|byte| byte == GUARD), "memory beside the ring was written");
    }
}

/// PROPTEST_CASES, or what takes a few seconds.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_peer_that_scribbles_breaks_only_its_own_connection(
        role in 0..2usize,
        room in prop_oneof![0..3usize, 0..500usize],
        script in proptest::collection::vec(scribbles(), 0..60),
        steps in proptest::collection::vec(steps(), 1..50),
    ) {
        play(role, room, script, steps);
    }
}
