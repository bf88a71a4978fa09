//! A TCP connection between the two ends: bounded buffers, bytes that arrive late, a FIN behind
//! them, a reset at any time.

use super::actor::{below, chance, has_killed, pass, step, until};
use crate::end::Carried;
use crate::stream::Tcp;
use crate::sync::AtomicU32;
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// What a doorbell is; no byte of a stream is the same.
pub const BELL: u8 = 255;

/// One direction.
#[derive(Default)]
struct Lane {
    flying: VecDeque<u8>,
    arrived: VecDeque<u8>,
    has_ended: bool,
    has_fin_arrived: bool,
    /// For the receiver, told once.
    error: Option<Errno>,
    is_reset: bool,
    /// A send has told it.
    is_told_to_sender: bool,
    /// How often something has arrived: what EPOLLET tells.
    edges: u64,
    /// Bytes that were given to it, and taken from it.
    sent: u64,
    taken: u64,
}

/// The connection.
pub struct Wire {
    /// `lanes[0]` is from the first end to the second.
    lanes: [RefCell<Lane>; 2],
    pub room: usize,
    gone: [Cell<bool>; 2],
}

impl Wire {
    pub fn new(room: usize) -> Self {
        Self { lanes: Default::default(), room, gone: Default::default() }
    }

    /// Something in flight arrives, if there is something.
    pub fn deliver(&self, from: usize) {
        let mut lane = self.lanes[from].borrow_mut();
        let flying = lane.flying.len();
        if flying > 0 {
            let count = if chance(2) { flying } else { below(flying as u64) as usize + 1 };
            if self.gone[1 - from].get() {
                drop(lane);
                return self.reset(from);
            }
            let Lane { flying, arrived, .. } = &mut *lane;
            arrived.extend(flying.drain(..count));
            lane.edges += 1;
        } else if lane.has_ended && !lane.has_fin_arrived && !lane.is_reset {
            lane.has_fin_arrived = true;
            lane.edges += 1;
        }
    }

    pub fn is_moving(&self, from: usize) -> bool {
        let lane = self.lanes[from].borrow();
        !lane.flying.is_empty() || lane.has_ended && !lane.has_fin_arrived && !lane.is_reset
    }

    /// A reset reaches `end`.
    pub fn reset(&self, end: usize) {
        let mut incoming = self.lanes[1 - end].borrow_mut();
        if incoming.is_reset {
            return;
        }
        incoming.flying.clear();
        incoming.error = Some(Errno::CONNRESET);
        incoming.is_reset = true;
        incoming.edges += 1;
        self.lanes[end].borrow_mut().flying.clear();
    }

    pub fn is_reset(&self, end: usize) -> bool {
        self.lanes[1 - end].borrow().is_reset
    }

    /// shutdown(2) for writing.
    pub fn finish(&self, end: usize) {
        self.lanes[end].borrow_mut().has_ended = true;
    }

    /// The last descriptor of `end` is closed.
    pub fn close(&self, end: usize) {
        self.gone[end].set(true);
        let unread = {
            let incoming = self.lanes[1 - end].borrow();
            !incoming.arrived.is_empty() || !incoming.flying.is_empty()
        };
        self.finish(end);
        if unread {
            self.reset(1 - end);
        }
    }

    pub fn is_readable(&self, end: usize) -> bool {
        let lane = self.lanes[1 - end].borrow();
        !lane.arrived.is_empty() || lane.has_fin_arrived || lane.is_reset
    }

    /// A read of `end` has to tell of a reset, once.
    pub fn owes_error(&self, end: usize) -> bool {
        let lane = self.lanes[1 - end].borrow();
        lane.is_reset && !lane.has_fin_arrived && !lane.is_told_to_sender
    }

    /// The end of what `end` reads has come.
    pub fn has_ended(&self, end: usize) -> bool {
        let lane = self.lanes[1 - end].borrow();
        lane.has_fin_arrived || lane.is_reset
    }

    pub fn describe(&self, from: usize) -> String {
        let lane = self.lanes[from].borrow();
        let (flying, arrived) = (&lane.flying, &lane.arrived);
        let (fin, reset) = (lane.has_fin_arrived, lane.is_reset);
        format!("{flying:?} {arrived:?} fin {fin} reset {reset}, room {}", self.room)
    }

    /// How often something has arrived for `end`.
    pub fn edges(&self, end: usize) -> u64 {
        self.lanes[1 - end].borrow().edges
    }

    pub fn is_writable(&self, end: usize) -> bool {
        let room = self.room_of(end);
        room * 3 > self.room || self.is_reset(end)
    }

    fn room_of(&self, end: usize) -> usize {
        let lane = self.lanes[end].borrow();
        self.room.saturating_sub(lane.flying.len() + lane.arrived.len())
    }

    fn receive(
        &self,
        end: usize,
        mut to: Option<&mut [u8]>,
        count: usize,
        peek: bool,
    ) -> Result<usize, Errno> {
        let mut lane = self.lanes[1 - end].borrow_mut();
        let count = count.min(lane.arrived.len());
        if count > 0 {
            for (at, byte) in lane.arrived.iter().take(count).enumerate() {
                match &mut to {
                    Some(to) => to[at] = *byte,
                    None => assert_eq!(*byte, BELL, "data was taken for a doorbell"),
                }
            }
            if !peek {
                lane.arrived.drain(..count);
                lane.taken += count as u64;
            }
            return Ok(count);
        }
        if let Some(error) = lane.error.take() {
            return Err(error);
        }
        if lane.is_reset || lane.has_fin_arrived { Ok(0) } else { Err(Errno::AGAIN) }
    }
}

/// A word of the world's, in a condition that is looked at as long as the actor lives.
struct Word(*const AtomicU32);

impl Word {
    fn is_one(&self) -> bool {
        // SAFETY: the actor that sleeps at it has the world, and the conditions of one that was killed are not asked.
        unsafe { (*self.0).is(1) }
    }
}

/// An end's socket.
#[derive(Clone)]
pub struct Socket {
    pub wire: Rc<Wire>,
    pub end: usize,
    pub is_blocking: bool,
}

impl Tcp for Socket {
    fn recv(&self, to: &mut [IoSliceMut<'_>], peek: bool) -> Result<usize, Errno> {
        step();
        let room = to.iter().map(|buffer| buffer.len()).sum();
        let mut bytes = vec![0; room];
        let count = self.wire.receive(self.end, Some(&mut bytes), room, peek)?;
        let mut from = &bytes[..count];
        for buffer in to {
            let piece = buffer.len().min(from.len());
            buffer[..piece].copy_from_slice(&from[..piece]);
            from = &from[piece..];
        }
        step();
        Ok(count)
    }

    fn discard(&self, count: usize) -> Result<usize, Errno> {
        step();
        self.wire.receive(self.end, None, count, false)
    }

    fn probe(&self) -> Result<usize, Errno> {
        step();
        self.wire.receive(self.end, Some(&mut [0]), 1, true)
    }

    fn sleep(&self) -> Result<usize, Errno> {
        step();
        loop {
            match self.wire.receive(self.end, Some(&mut [0]), 1, true) {
                Err(Errno::AGAIN) => {}
                result => return result,
            }
            let (wire, end) = (self.wire.clone(), self.end);
            until(move || wire.is_readable(end));
        }
    }

    fn park(&self, word: &AtomicU32, _: u64, _: bool) -> Result<(), Errno> {
        step();
        let (wire, end, word) = (self.wire.clone(), self.end, Word(word));
        let is_late = Rc::new(Cell::new(false));
        let told = is_late.clone();
        // Only what wakes nobody is found out by the time limit: a wake that is missing is a sleep for ever.
        until(move || {
            told.set(has_killed() || wire.is_reset(end));
            !word.is_one() || told.get()
        });
        if is_late.get() { Err(Errno::TIMEDOUT) } else { Ok(()) }
    }

    fn unpark(&self, word: &AtomicU32) -> bool {
        step();
        word.load(Ordering::Relaxed) == 0
    }

    fn carried(&self) -> Option<Carried> {
        step();
        let [mine, theirs] = [self.end, 1 - self.end].map(|end| self.wire.lanes[end].borrow());
        Some(Carried { sent: mine.sent, taken: theirs.taken })
    }

    fn is_over(&self) -> bool {
        step();
        self.wire.has_ended(self.end)
    }

    fn ring(&self) -> Result<(), Errno> {
        step();
        // Acknowledgements are late.
        if chance(5) {
            return Err(Errno::AGAIN);
        }
        let mut lane = self.wire.lanes[self.end].borrow_mut();
        if lane.has_ended || self.wire.is_reset(self.end) {
            return Err(Errno::PIPE);
        }
        lane.flying.push_back(BELL);
        lane.sent += 1;
        drop(lane);
        step();
        Ok(())
    }

    fn send(&self, from: &[IoSlice<'_>]) -> Result<usize, Errno> {
        step();
        let bytes = from.iter().flat_map(|buffer| buffer.iter().copied()).collect::<Vec<_>>();
        let mut sent = 0;
        loop {
            if self.wire.is_reset(self.end) {
                let mut lane = self.wire.lanes[1 - self.end].borrow_mut();
                let error = lane.error.take();
                lane.is_told_to_sender |= error.is_some();
                return if sent > 0 { Ok(sent) } else { Err(error.unwrap_or(Errno::PIPE)) };
            }
            let count = self.wire.room_of(self.end).min(bytes.len() - sent);
            let piece = &bytes[sent..sent + count];
            let mut lane = self.wire.lanes[self.end].borrow_mut();
            lane.flying.extend(piece);
            lane.sent += count as u64;
            drop(lane);
            sent += count;
            let interrupted = self.is_blocking && sent > 0 && chance(20);
            if sent == bytes.len() || !self.is_blocking || interrupted {
                step();
                return if sent > 0 || bytes.is_empty() { Ok(sent) } else { Err(Errno::AGAIN) };
            }
            let (wire, end) = (self.wire.clone(), self.end);
            until(move || wire.is_writable(end));
        }
    }

    fn send_now(&self, from: &[u8]) -> Result<usize, Errno> {
        Self { is_blocking: false, ..self.clone() }.send(&[IoSlice::new(from)])
    }

    fn has_failed(&self) -> bool {
        step();
        self.wire.is_reset(self.end)
    }

    fn now_ns(&self) -> u64 {
        pass(100)
    }
}
