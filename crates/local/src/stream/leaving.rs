//! Back to TCP: what one end does that leaves the ring, and the other for it.
//!
//! When [`leave`] has said so, everything that the peer had written is in the kernel's hands, in order and
//! behind no doorbell, and so is whatever it writes later. Where that cannot be had the connection is to be
//! reset by the caller: with a hole in it, it would be worse than none. Neither end waits for the other without an end, and
//! both may leave at once, for each does its part for the other between two looks at its own.
//!
//! It does not serve a peer that cannot send again: one that has shut down its side, or has gone.

use super::waits::hush;
use super::writing::{call, unpark};
use super::{ROOM_NS_MAX, ROUNDS_MAX, Tcp, held_reading, held_writing};
use crate::end::{End, Leave, Reading, Recall, Writing};
use crate::lock::Threads;
use crate::ring::Store;
use rustix::io::Errno;
use std::io::IoSliceMut;

/// More than any socket's buffers hold is not given back.
const BACK_BYTES_MAX: usize = 64 << 20;
/// Taken from TCP at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Brings this end back to TCP, both directions, within `patience_ns`.
pub fn leave<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    patience_ns: u64,
) -> Result<(), Errno> {
    let left = leave_both(end, tcp, threads, patience_ns);
    if left.is_err()
        && let Ok(mut reading) = end.reading(threads)
    {
        // Threads that read meanwhile are not to wait for what was taken.
        reading.give_up();
    }
    left
}

fn leave_both<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    patience_ns: u64,
) -> Result<(), Errno> {
    let until = tcp.now_ns() + patience_ns;
    let mut back = Vec::new();
    let mut has_called = false;
    loop {
        // What the peer did before it went is seen behind this.
        let is_over = tcp.is_over() || end.is_peer_closed();
        let is_late = tcp.now_ns() >= until;
        if progress(end, tcp, threads, &mut back, is_over)? {
            break;
        }
        if is_over || is_late {
            return Err(Errno::CONNRESET);
        }
        if !has_called {
            has_called = true;
            call(&mut held_writing(end, tcp, threads)?, tcp, threads)?;
        }
        // It may be leaving as well, and wait for the same.
        match oblige_now(end, tcp, threads) {
            Ok(()) | Err(Errno::AGAIN) => {}
            Err(error) => return Err(error),
        }
        threads.nap();
    }
    pin(end, tcp, threads)
}

/// A step of the reading side. True when it has left.
fn progress<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    back: &mut Vec<u8>,
    is_over: bool,
) -> Result<bool, Errno> {
    let mut reading = held_reading(end, tcp, threads)?;
    if reading.is_drained(threads)? {
        return Ok(false);
    }
    match reading.leave(threads)? {
        Leave::Asked => Ok(false),
        Leave::Back => drain(&mut reading, tcp, back).map(|()| false),
        Leave::Left => {
            take_bells(&mut reading, tcp)?;
            // Behind the end comes none.
            Ok(reading.is_quiet() || is_over)
        }
    }
}

/// Takes what is in the ring, and behind it on TCP; gives it back when that is all.
fn drain<S: Store>(
    reading: &mut Reading<'_, S>,
    tcp: &impl Tcp,
    back: &mut Vec<u8>,
) -> Result<(), Errno> {
    reading.drain(back)?;
    loop {
        if !reading.is_on_tcp() {
            return Ok(());
        }
        take_bells(reading, tcp)?;
        if reading.bells_due() > 0 {
            return Ok(());
        }
        let count = reading.to_drain(PIECE_BYTES)?;
        if count == 0 {
            return reading.give_back(back).map(drop).map_err(Errno::from);
        }
        let begin = back.len();
        if begin + count > BACK_BYTES_MAX {
            return Err(Errno::NOBUFS);
        }
        back.resize(begin + count, 0);
        let taken = tcp.recv(&mut [IoSliceMut::new(&mut back[begin..])], false);
        let count = *taken.as_ref().unwrap_or(&0);
        back.truncate(begin + count);
        reading.took_tcp(count);
        match taken {
            // Nobody is there who could take it back.
            Ok(0) => return Err(Errno::CONNRESET),
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn take_bells<S: Store>(reading: &mut Reading<'_, S>, tcp: &impl Tcp) -> Result<(), Errno> {
    let due = reading.bells_due();
    if due == 0 {
        return Ok(());
    }
    match reading.take_bells(|| tcp.discard(due)) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Does what the peer asks for when it leaves; nothing when it does not. For one who is about to wait, or to write.
pub fn oblige<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
) -> Result<(), Errno> {
    let mut until = None;
    loop {
        match oblige_now(end, tcp, threads) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
        let now = tcp.now_ns();
        let is_late = now >= *until.get_or_insert(now + ROOM_NS_MAX);
        if is_late || end.is_peer_closed() || tcp.has_failed() {
            let mut writing = held_writing(end, tcp, threads)?;
            if writing.must_leave() && writing.is_forsaken() {
                writing.give_up();
                return Err(Errno::CONNRESET);
            }
            return Err(Errno::AGAIN);
        }
        threads.nap();
    }
}

/// As far as can be done at once.
fn oblige_now<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
) -> Result<(), Errno> {
    let mut writing = held_writing(end, tcp, threads)?;
    if writing.must_leave() { resend(&mut writing, tcp) } else { Ok(()) }
}

/// The stream is to stay on TCP for good, and what the peer is owed of the ring is there already. For one who
/// is about to send a FIN, or to write in a way that the ring does not know.
pub fn pin<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
) -> Result<(), Errno> {
    hush(end, tcp, threads);
    for _ in 0..ROUNDS_MAX {
        let mut writing = held_writing(end, tcp, threads)?;
        if writing.pin() {
            unpark(&mut writing, tcp);
            return Ok(());
        }
        drop(writing);
        oblige(end, tcp, threads)?;
    }
    // A peer that does what it says asks once.
    Err(Errno::CONNRESET)
}

/// The peer wants everything over TCP: sends again what it has not taken, or has given back. EAGAIN when that is
/// not all.
pub(super) fn resend<S: Store>(writing: &mut Writing<'_, S>, tcp: &impl Tcp) -> Result<(), Errno> {
    let mut unread = [0; 4096];
    loop {
        let recalled = writing.recall(&mut unread)?;
        unpark(writing, tcp);
        match recalled {
            Recall::All => return Ok(()),
            Recall::Later => return Err(Errno::AGAIN),
            Recall::Bytes(count) => {
                writing.resend(|| tcp.send_now(&unread[..count]))?;
            }
        }
    }
}
