//! An end of a pair as a stream socket: the system calls around what `end/` decides.
//!
//! Reads and writes are what they are on a TCP socket, with two differences that no caller can
//! see: a byte may have come by the ring, and a wait may spin first, or sleep at a word of the ring's for a few
//! milliseconds. All longer sleeping is done by the kernel on the TCP socket, so time limits, signals, resets
//! and the end work as ever.

mod leaving;
mod reading;
mod waits;
mod writing;

pub use leaving::{leave, oblige, pin};
pub use reading::{ReadHow, queued, recv};
pub use waits::{PARK_NS, hush, park, prepare, settle, unpark_all};
pub use writing::{WriteHow, call, overflow, publish, send};

use crate::end::{Broken, Carried, End, Found, Reading, Writing};
use crate::lock::{Reentered, Threads};
use crate::ring::Store;
use crate::sync::{AtomicU32, Ordering};
use rustix::io::Errno;
use std::io::{IoSlice, IoSliceMut};

/// The TCP socket of an end, and the word in the pair's memory that is a place to sleep for a while. Only
/// [`Tcp::sleep`], [`Tcp::park`] and [`Tcp::send`] may sleep.
pub trait Tcp {
    /// recv(2) without waiting; with `peek` the bytes stay. Zero is the end.
    fn recv(&self, to: &mut [IoSliceMut<'_>], peek: bool) -> Result<usize, Errno>;
    /// As [`Tcp::recv`] of at most `count` bytes that nobody wants.
    fn discard(&self, count: usize) -> Result<usize, Errno>;
    /// Whether a byte is there (one), or the end (zero); without waiting.
    fn probe(&self) -> Result<usize, Errno>;
    /// As [`Tcp::probe`], and waits as recv(2) on this socket waits.
    fn sleep(&self) -> Result<usize, Errno>;
    /// As [`Tcp::sleep`] of a call that has something already: a signal ends it, whatever its handler
    /// says of restarting (SA_RESTART).
    fn sleep_for_more(&self) -> Result<usize, Errno> {
        self.sleep()
    }
    /// Sleeps while the word is one, until `until_ns` of [`Tcp::now_ns`] (ETIMEDOUT), as a call sleeps that reads here without a
    /// time limit; `is_restarted`: a signal ends that only if its handler says so (SA_RESTART). ENOSYS where this
    /// is not to be had.
    fn park(&self, _word: &AtomicU32, _until_ns: u64, _is_restarted: bool) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }
    /// Wakes who sleeps at the word. False when nobody does.
    fn unpark(&self, _word: &AtomicU32) -> bool {
        false
    }
    /// What the socket has carried; None where the kernel does not count.
    fn carried(&self) -> Option<Carried> {
        None
    }
    /// Whether the peer's FIN or a reset has come, whatever is to be read before it (POLLRDHUP);
    /// without waiting.
    fn is_over(&self) -> bool;
    /// Whether the connection has failed (POLLERR or POLLHUP); without waiting.
    fn has_failed(&self) -> bool {
        false
    }
    /// Whether the next byte is the urgent one, at which a read stops (SIOCATMARK).
    fn is_at_mark(&self) -> bool {
        false
    }
    /// Sends one doorbell, without waiting. EAGAIN is tried again.
    fn ring(&self) -> Result<(), Errno>;
    /// send(2), as the program wants it: it waits if the program's call does.
    fn send(&self, from: &[IoSlice<'_>]) -> Result<usize, Errno>;
    /// send(2) without waiting, and without SIGPIPE.
    fn send_now(&self, from: &[u8]) -> Result<usize, Errno>;
    /// A clock that only goes forward, in nanoseconds.
    fn now_ns(&self) -> u64;
}

impl From<Broken> for Errno {
    /// A peer that breaks the rules is a connection that breaks.
    fn from(_: Broken) -> Self {
        Errno::CONNRESET
    }
}

impl From<Reentered> for Errno {
    /// A handler that has interrupted the same call on the same socket finds nothing.
    fn from(_: Reentered) -> Self {
        Errno::AGAIN
    }
}

/// How long a call waits for the socket to have room, for a doorbell or for what must be there before a FIN, in
/// nanoseconds. An acknowledgement that was lost on the way between two network namespaces is
/// repeated within this; a peer that breaks the rules costs a call no more.
const ROOM_NS_MAX: u64 = 2_000_000_000;
/// Looks of one read, most of them at doorbells.
const ROUNDS_MAX: u32 = 1000;

/// Takes the reading side. What a relative was killed in the middle of is taken to its end first.
#[inline]
pub fn held_reading<'e, S: Store + Copy>(
    end: &End<'e, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
) -> Result<Reading<'e, S>, Errno> {
    let mut reading = end.reading(threads)?;
    if reading.is_in_doubt() {
        reading.mend(|| tcp.carried());
    }
    Ok(reading)
}

/// Takes the writing side, as [`held_reading`].
#[inline]
pub fn held_writing<'e, S: Store + Copy>(
    end: &End<'e, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
) -> Result<Writing<'e, S>, Errno> {
    let mut writing = end.writing(threads)?;
    if writing.is_in_doubt() {
        writing::mend(&mut writing, tcp, threads)?;
    }
    Ok(writing)
}

fn is_in_ring<S: Store>(reading: &Reading<'_, S>) -> Result<bool, Broken> {
    Ok(matches!(reading.peek()?, Found::Ring(_)))
}

/// Whether an error of the socket's is the end of the stream and no more.
pub fn is_end<S: Store>(end: &End<'_, S>, error: Errno) -> bool {
    error == Errno::CONNRESET && end.is_reset_by_bells()
}

/// Keeps an error of the socket's for the next call. What was only this call's is none, and the end tells
/// the kernel again.
fn keep<S: Store>(end: &End<'_, S>, error: Errno) {
    if error != Errno::AGAIN && error != Errno::INTR && !is_end(end, error) {
        end.own.reading.error.store(error.raw_os_error() as u32, Ordering::Relaxed);
    }
}
