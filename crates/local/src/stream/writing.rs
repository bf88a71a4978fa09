//! Writes: into the ring, over TCP when it is full, again over TCP for a peer that leaves; and the doorbells.

use super::leaving::{oblige, resend};
use super::waits::hush;
use super::{ROOM_NS_MAX, Tcp, held_writing, is_end};
use crate::end::{End, Mended, Way, Writing};
use crate::lock::Threads;
use crate::ring::Store;
use rustix::io::Errno;
use std::io::IoSlice;

/// A message that is no smaller, nor smaller than the ring, is bulk.
const BULK_BYTES: usize = 32 * 1024;

/// How a write is meant.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteHow {
    /// How long a full ring is waited for, in nanoseconds. Zero where the caller does not wait.
    pub spin_ns: u64,
    /// Neither MSG_DONTWAIT nor O_NONBLOCK.
    pub waits: bool,
}

/// Writes, as send(2) does.
pub fn send<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    from: &[IoSlice<'_>],
    how: WriteHow,
) -> Result<usize, Errno> {
    loop {
        if let Some(count) = send_unless_asked(end, tcp, threads, from, how)? {
            return Ok(count);
        }
    }
}

/// None when the peer has asked in the middle for what must be sent first, and this call may wait for that.
fn send_unless_asked<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    from: &[IoSlice<'_>],
    how: WriteHow,
) -> Result<Option<usize>, Errno> {
    let len = from.iter().map(|buffer| buffer.len()).sum::<usize>();
    let mut writing = held_writing(end, tcp, threads)?;
    while writing.must_leave() {
        drop(writing);
        match oblige(end, tcp, threads) {
            Err(Errno::AGAIN) if how.waits => {}
            result => result?,
        }
        writing = held_writing(end, tcp, threads)?;
    }
    if end.is_peer_closed() || (writing.is_suspicious() && tcp.has_failed()) {
        // What becomes of bytes for a closed socket is TCP's to say.
        writing.pin();
        unpark(&mut writing, tcp);
    }
    let mut done = 0;
    let mut until = None;
    // Where nobody spins, the processors that TCP keeps busy at once are worth more than the ring.
    let is_bulk = how.spin_ns == 0 && len >= end.outgoing.size().max(BULK_BYTES);
    if is_bulk && writing.is_on_ring() {
        match overflow(&mut writing, tcp) {
            Err(Errno::AGAIN) if how.waits => return Ok(None),
            result => result?,
        }
    }
    while (done < len || len == 0) && !is_bulk {
        let fitting = (len - done).min(end.outgoing.size());
        let room = match writing.way(fitting)? {
            Way::Tcp => break,
            Way::Ring(room) => room,
        };
        if len == 0 {
            break;
        }
        if room >= fitting || (done > 0 && room >= end.outgoing.size() / 4) {
            let count = room.min(len - done);
            put(&writing, from, done, count);
            publish(&mut writing, tcp, threads, count)?;
            done += count;
            until = None;
            continue;
        }
        // Full: a little patience, and then the way on which the kernel waits.
        let now = tcp.now_ns();
        if how.spin_ns == 0 || now >= *until.get_or_insert_with(|| now + how.spin_ns) {
            match overflow(&mut writing, tcp) {
                Err(_) if done > 0 => return Ok(Some(done)),
                Err(Errno::AGAIN) if how.waits => return Ok(None),
                result => result?,
            }
            break;
        }
        (0..32).for_each(|_| std::hint::spin_loop());
    }
    if done == len && len > 0 {
        return Ok(Some(len));
    }
    hush(end, tcp, threads);
    let kernel = writing.enter_kernel();
    let result = if done == 0 { tcp.send(from) } else { tcp.send(&rest(from, done)) };
    kernel.sent(*result.as_ref().unwrap_or(&0));
    match result {
        Ok(count) => Ok(Some(done + count)),
        Err(_) if done > 0 => Ok(Some(done)),
        // The reset has been told with this, and the kernel says what becomes of writes.
        Err(error) if is_end(end, error) => tcp.send(from).map(Some),
        Err(error) => Err(error),
    }
}

/// The reader may have so many bytes that were copied, and is woken if it sleeps.
pub fn publish<S: Store>(
    writing: &mut Writing<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    count: usize,
) -> Result<(), Errno> {
    let is_rung = writing.publish(count);
    unpark(writing, tcp);
    if is_rung {
        ring(tcp, threads)?;
        writing.has_rung();
    }
    if writing.must_leave() {
        // It may have looked before this was there, and be gone.
        match resend(writing, tcp) {
            Err(Errno::AGAIN) => {}
            result => result?,
        }
    }
    Ok(())
}

/// The ring is full: the stream goes on over TCP.
pub fn overflow<S: Store>(writing: &mut Writing<'_, S>, tcp: &impl Tcp) -> Result<(), Errno> {
    if writing.overflow() {
        unpark(writing, tcp);
        Ok(())
    } else {
        resend(writing, tcp)
    }
}

/// A reader that sleeps at the word has something to see.
#[inline]
pub(super) fn unpark<S: Store>(writing: &mut Writing<'_, S>, tcp: &impl Tcp) {
    if let Some(word) = writing.unpark() {
        writing.suspect();
        if tcp.unpark(word) {
            writing.trust();
        }
    }
}

/// Wakes the peer, which has something to be told. False where a byte on TCP would be data.
pub fn call<S: Store>(
    writing: &mut Writing<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
) -> Result<bool, Errno> {
    let may_ring = writing.call();
    if may_ring {
        ring(tcp, threads)?;
        writing.has_rung();
    }
    Ok(may_ring)
}

/// See [`super::held_writing`].
#[cold]
pub(super) fn mend<S: Store>(
    writing: &mut Writing<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
) -> Result<(), Errno> {
    if writing.mend(|| tcp.carried()) == Mended::Ring {
        ring(tcp, threads)?;
        writing.has_rung();
    }
    unpark(writing, tcp);
    Ok(())
}

/// Sends a doorbell. The reader has taken all data, so what fills the socket's buffer is bytes that
/// have arrived and of which the kernel has not yet heard: room comes soon, whatever the reader does. A doorbell that was
/// counted and cannot be sent would be taken for data, so the connection ends with it.
fn ring(tcp: &impl Tcp, threads: &impl Threads) -> Result<(), Errno> {
    let mut until = None;
    loop {
        match tcp.ring() {
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => {}
            // The connection is gone: that is for the next call to tell.
            Ok(()) | Err(_) => return Ok(()),
        }
        let now = tcp.now_ns();
        if now >= *until.get_or_insert(now + ROOM_NS_MAX) {
            return Err(Errno::CONNRESET);
        }
        threads.yield_now();
    }
}

/// Copies `count` bytes of the buffers, from `skip` on.
#[inline]
fn put<S: Store>(writing: &Writing<'_, S>, from: &[IoSlice<'_>], skip: usize, count: usize) {
    let mut before = skip;
    let mut done = 0;
    for buffer in from {
        if before >= buffer.len() {
            before -= buffer.len();
            continue;
        }
        let piece = &buffer[before..];
        before = 0;
        let piece = &piece[..piece.len().min(count - done)];
        writing.copy(done, piece);
        done += piece.len();
        if done == count {
            break;
        }
    }
}

fn rest<'b>(buffers: &'b [IoSlice<'_>], skip: usize) -> Vec<IoSlice<'b>> {
    let mut before = skip;
    let mut rest = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let cut = before.min(buffer.len());
        before -= cut;
        if cut < buffer.len() {
            rest.push(IoSlice::new(&buffer[cut..]));
        }
    }
    rest
}
