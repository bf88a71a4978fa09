//! What a run consists of: the pair's memory, both ends' own state, the wire, and what was
//! written and read so far.

use super::actor::{Pause, below, chance, id, lives, pass, pause, step};
use super::tcp::{Socket, Wire};
use crate::end::{End, Own};
use crate::layout::{Header, Lane};
use crate::lock::Threads;
use crate::ring::Store;
use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// What one end has done.
pub struct Log {
    /// Bytes that its sends have reported.
    pub written: Cell<u64>,
    /// It has sent its FIN behind so many.
    pub ended: Cell<Option<u64>>,
    /// Bytes that it has read of the other's.
    pub read: Cell<u64>,
    pub saw_end: Cell<bool>,
    pub saw_error: Cell<bool>,
    /// Several threads read: in which order is not known.
    pub is_shared: Cell<bool>,
    /// Its reads may want more than there is.
    pub is_greedy: Cell<bool>,
    sums: Cell<[u64; 256]>,
}

pub struct World {
    pub header: Header,
    pub own: [Own; 2],
    rings: [Rc<RefCell<Vec<u8>>>; 2],
    pub wire: Rc<Wire>,
    pub log: [Log; 2],
    pub is_dead: [Cell<bool>; 2],
    /// How far what an end reads was published when the reset reached it.
    at_reset: [Cell<Option<u64>>; 2],
    /// A doorbell may have been the reason of the reset.
    is_by_bells: [Cell<bool>; 2],
    doomed: Cell<Option<(usize, u64)>>,
    /// It reads from TCP alone.
    pub has_left: [Cell<bool>; 2],
}

/// A ring whose copies others may interrupt.
#[derive(Clone, Copy)]
pub struct Bytes<'a>(&'a RefCell<Vec<u8>>);

impl Store for Bytes<'_> {
    fn size(&self) -> usize {
        self.0.borrow().len()
    }

    fn put(&self, position: u64, bytes: &[u8]) {
        for (at, piece) in bytes.chunks(7).enumerate() {
            step();
            let mut ring = self.0.borrow_mut();
            let size = ring.len() as u64;
            for (offset, byte) in piece.iter().enumerate() {
                let place = position.wrapping_add((at * 7 + offset) as u64) & (size - 1);
                ring[place as usize] = *byte;
            }
        }
    }

    fn take(&self, position: u64, bytes: &mut [u8]) {
        for (at, piece) in bytes.chunks_mut(7).enumerate() {
            step();
            let ring = self.0.borrow();
            let size = ring.len() as u64;
            for (offset, byte) in piece.iter_mut().enumerate() {
                let place = position.wrapping_add((at * 7 + offset) as u64) & (size - 1);
                *byte = ring[place as usize];
            }
        }
    }
}

/// An actor as a thread.
pub struct Thread;

impl Threads for Thread {
    fn own(&self) -> u32 {
        id()
    }

    fn yield_now(&self) {
        pause(Pause::Anywhere);
    }

    fn nap(&self) {
        pass(1_000_000);
        pause(Pause::Anywhere);
    }

    fn lives(&self, id: u32) -> bool {
        lives(id)
    }
}

/// The byte at a position of what `end` writes.
pub fn byte(end: usize, position: u64) -> u8 {
    ((position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % 250 + end) as u8
}

impl Log {
    fn new() -> Self {
        Self {
            written: Cell::new(0),
            ended: Cell::new(None),
            read: Cell::new(0),
            saw_end: Cell::new(false),
            saw_error: Cell::new(false),
            is_shared: Cell::new(false),
            is_greedy: Cell::new(false),
            sums: Cell::new([0; 256]),
        }
    }
}

impl World {
    pub fn new() -> Rc<Self> {
        Self::with_room([8, 60, 500, 5000][below(4) as usize])
    }

    /// With so much room in the socket's buffers.
    pub fn with_room(room: usize) -> Rc<Self> {
        let size = [8, 64, 256][below(3) as usize];
        let world = Self {
            header: Header::new(size),
            own: Default::default(),
            rings: [0, 1].map(|_| Rc::new(RefCell::new(vec![0; size as usize]))),
            wire: Rc::new(Wire::new(room)),
            log: [Log::new(), Log::new()],
            is_dead: Default::default(),
            at_reset: Default::default(),
            is_by_bells: Default::default(),
            doomed: Cell::new(None),
            has_left: Default::default(),
        };
        world.end(0).attach();
        world.end(1).attach();
        Rc::new(world)
    }

    pub fn end(&self, role: usize) -> End<'_, Bytes<'_>> {
        End {
            own: &self.own[role],
            header: &self.header,
            role,
            incoming: Bytes(&self.rings[1 - role]),
            outgoing: Bytes(&self.rings[role]),
        }
    }

    pub fn socket(&self, end: usize, is_blocking: bool) -> Socket {
        Socket { wire: self.wire.clone(), end, is_blocking }
    }

    /// One of the ends will be killed.
    pub fn doom(&self) {
        let turns = below([10, 100, 1000][below(3) as usize]);
        self.doomed.set(Some((below(2) as usize, turns)));
    }

    /// Whether `end` dies at this turn of its own.
    pub fn dooms(&self, end: usize) -> bool {
        match self.doomed.get() {
            Some((doomed, 0)) if doomed == end => {
                self.doomed.set(None);
                true
            }
            Some((doomed, turns)) if doomed == end => {
                self.doomed.set(Some((doomed, turns - 1)));
                false
            }
            _ => false,
        }
    }

    /// The kernel closes what a killed process had.
    pub fn die(&self, end: usize) {
        self.is_dead[end].set(true);
        self.wire.close(end);
        if chance(2) {
            self.end(end).close();
        }
    }

    /// Behind each turn.
    pub fn note_reset(&self) {
        for (end, at_reset) in self.at_reset.iter().enumerate() {
            let Lane { written, taken, .. } = &self.header.lanes[end];
            let taken = taken.bells.load(Ordering::Relaxed);
            if self.wire.is_reset(end) && written.bells.load(Ordering::Relaxed) != taken {
                self.is_by_bells[end].set(true);
            }
            if at_reset.get().is_none() && self.wire.is_reset(end) {
                let head = &self.header.lanes[1 - end].written.head;
                at_reset.set(Some(head.load(Ordering::Relaxed)));
            }
        }
    }

    /// `end` has read bytes.
    pub fn has_read(&self, end: usize, bytes: &[u8], peek: bool) {
        let from = 1 - end;
        let position = self.log[end].read.get();
        if self.log[end].is_shared.get() {
            let mut sums = self.log[end].sums.get();
            bytes.iter().for_each(|byte| sums[usize::from(*byte)] += 1);
            self.log[end].sums.set(sums);
            self.log[end].read.set(position + bytes.len() as u64);
            return;
        }
        for (at, got) in bytes.iter().enumerate() {
            let at = position + at as u64;
            assert_eq!(*got, byte(from, at), "byte {at} of end {from}\n{}", self.state());
        }
        assert!(bytes.is_empty() || !self.log[end].saw_end.get(), "bytes behind the end");
        if !peek {
            self.log[end].read.set(position + bytes.len() as u64);
        }
    }

    /// `end` was told that the stream is over.
    pub fn has_seen_end(&self, end: usize) {
        let read = self.log[end].read.get();
        self.log[end].saw_end.set(true);
        // A reset that a doorbell may have caused is told as the end.
        let is_told = self.log[end].is_shared.get() || self.is_by_bells[end].get();
        let is_owed = self.wire.owes_error(end) && !is_told;
        assert!(!is_owed, "a reset that no read has told\n{}", self.state());
        let from = &self.log[1 - end];
        if self.log[end].is_shared.get() {
            // Another thread may have the last bytes, and not have said so.
        } else if let Some(ended) = from.ended.get() {
            assert!(
                read == ended || self.wire.is_reset(end),
                "the end after {read} of {ended} bytes\n{}",
                self.state()
            );
        } else if self.is_dead[1 - end].get() {
            assert!(read >= from.written.get() || self.wire.is_reset(end), "bytes were lost");
        } else {
            assert!(self.wire.is_reset(end), "an end that nobody made");
        }
    }

    pub fn has_seen_error(&self, end: usize) {
        assert!(self.wire.is_reset(end), "an error of nobody\n{}", self.state());
        self.log[end].saw_error.set(true);
    }

    /// Behind a run: messages, overflows, doorbells, bytes over TCP.
    pub fn audit(&self) -> [u64; 4] {
        for end in 0..2 {
            if self.is_dead[end].get() {
                continue;
            }
            let log = &self.log[end];
            assert!(log.saw_end.get() || log.saw_error.get(), "end {end} has not seen the end");
            if log.is_shared.get() {
                let mut sums = [0; 256];
                (0..log.read.get()).for_each(|at| sums[usize::from(byte(1 - end, at))] += 1);
                assert!(log.sums.get() == sums, "bytes were garbled\n{}", self.state());
                let written = self.log[1 - end].ended.get();
                let is_all = written.is_none_or(|written| written == log.read.get());
                assert!(is_all || self.wire.is_reset(end), "bytes were lost\n{}", self.state());
            }
            let lane = &self.header.lanes[1 - end].written;
            let head = lane.head.load(Ordering::Relaxed);
            let ring = self.at_reset[end].get().unwrap_or(head);
            let taken = self.header.lanes[1 - end].taken.tail.load(Ordering::Relaxed);
            assert!(
                taken >= ring || self.has_left[end].get(),
                "bytes were left in the ring\n{}",
                self.state()
            );
        }
        let mut counts = [0; 4];
        for lane in &self.header.lanes {
            let written = &lane.written;
            let words = [&written.messages, &written.overflows, &written.bells, &written.tcp_bytes];
            counts
                .iter_mut()
                .zip(words)
                .for_each(|(count, word)| *count += word.load(Ordering::Relaxed));
        }
        counts
    }

    /// For a message about a failure.
    pub fn state(&self) -> String {
        let mut text = String::new();
        for (from, lane) in self.header.lanes.iter().enumerate() {
            let (log, reader) = (&self.log[from], &self.log[1 - from]);
            let _ = writeln!(
                text,
                "{from}: {lane:?}\n   written {}, ended {:?}, read {}, on the wire: {}",
                log.written.get(),
                log.ended.get(),
                reader.read.get(),
                self.wire.describe(from),
            );
        }
        text
    }
}
