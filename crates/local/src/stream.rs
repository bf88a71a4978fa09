//! An end of a pair as a stream socket: the system calls around what `end.rs` decides.
//!
//! Reads and writes are what they are on a TCP socket, with two differences that no caller can
//! see: a byte may have come by the ring, and a wait may spin first. All sleeping is done
//! by the kernel on the TCP socket, so time limits, signals, resets and the end work as ever.

use crate::end::{Arm, Broken, End, Found, Reading, Way};
use crate::lock::{Reentered, Threads};
use crate::ring::Store;
use crate::sync::{AtomicU32, Ordering};
use rustix::io::Errno;
use std::io::{IoSlice, IoSliceMut};

/// The TCP socket of an end. Only [`Tcp::sleep`] and [`Tcp::send`] may sleep.
pub trait Tcp {
    /// recv(2) without waiting; with `peek` the bytes stay. Zero is the end.
    fn recv(&self, to: &mut [IoSliceMut<'_>], peek: bool) -> Result<usize, Errno>;
    /// As [`Tcp::recv`] of at most `count` bytes that nobody wants.
    fn discard(&self, count: usize) -> Result<usize, Errno>;
    /// Whether a byte is there (one), or the end (zero); without waiting.
    fn probe(&self) -> Result<usize, Errno>;
    /// As [`Tcp::probe`], and waits as recv(2) on this socket waits.
    fn sleep(&self) -> Result<usize, Errno>;
    /// Sends one doorbell, without waiting. What goes wrong is for the next call to find.
    fn ring(&self);
    /// send(2), as the program wants it: it waits if the program's call does.
    fn send(&self, from: &[IoSlice<'_>]) -> Result<usize, Errno>;
    /// A clock that only goes forward, in nanoseconds.
    fn now_ns(&self) -> u64;
}

/// How a read is meant.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadHow {
    /// MSG_PEEK.
    pub peek: bool,
    /// MSG_WAITALL.
    pub all: bool,
    /// MSG_DONTWAIT or O_NONBLOCK.
    pub now: bool,
    /// How long a wait may spin before it sleeps, in nanoseconds.
    pub spin_ns: u64,
    /// SO_RCVLOWAT.
    pub low_water: usize,
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

/// Whether spinning has been of use lately. A wait that was over soon, awake or asleep, says that it
/// is; long ones, that it is not. Zero is the beginning.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Patience(AtomicU32);

/// Long waits in a row after which an end does not spin.
const LONG_WAITS: u32 = 4;
/// A wait of so many times the limit was soon over.
const SOON: u64 = 4;

impl Patience {
    /// The beginning.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Whether to spin.
    pub fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed) < LONG_WAITS
    }

    /// A wait has ended that took so long, of which it may spin `limit_ns`.
    pub fn waited(&self, ns: u64, limit_ns: u64) {
        let long = self.0.load(Ordering::Relaxed);
        let now = if ns < limit_ns.saturating_mul(SOON) { 0 } else { (long + 1).min(LONG_WAITS) };
        if now != long {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    /// The beginning again.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Bytes in the buffers.
fn room(buffers: &[IoSliceMut<'_>]) -> usize {
    buffers.iter().map(|buffer| buffer.len()).sum()
}

/// Takes what the ring holds; None when it holds nothing.
#[inline]
fn take<S: Store>(
    reading: &mut Reading<'_, S>,
    queued: usize,
    to: &mut [IoSliceMut<'_>],
    skip: usize,
    peek: bool,
) -> usize {
    let mut done = 0;
    let mut before = skip;
    for buffer in to {
        if before >= buffer.len() {
            before -= buffer.len();
            continue;
        }
        let buffer = &mut buffer[before..];
        before = 0;
        let count = buffer.len().min(queued - done);
        reading.copy(done, &mut buffer[..count]);
        done += count;
        if done == queued {
            break;
        }
    }
    if !peek {
        reading.took(done);
    }
    done
}

/// The buffers behind their first `skip` bytes, for the kernel.
fn behind<'b>(buffers: &'b mut [IoSliceMut<'_>], skip: usize) -> Vec<IoSliceMut<'b>> {
    let mut before = skip;
    let mut rest = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let cut = before.min(buffer.len());
        before -= cut;
        if cut < buffer.len() {
            rest.push(IoSliceMut::new(&mut buffer[cut..]));
        }
    }
    rest
}

/// One attempt to read into the buffers behind `skip`. What is in two places is read from both:
/// a short read must mean that there was no more.
fn attempt<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    to: &mut [IoSliceMut<'_>],
    skip: usize,
    peek: bool,
) -> Result<usize, Errno> {
    let mut reading = end.reading(threads)?;
    let room = room(to);
    let mut skip = skip;
    let mut done = 0;
    // A byte on TCP that is neither doorbell nor data is a lie; one look may be too early.
    let mut strange = 0;
    let result = loop {
        let mut found = reading.look()?;
        if let Found::Ring(queued) = found {
            if skip == room && room > 0 {
                break Ok(0);
            }
            let count = take(&mut reading, queued, to, skip, peek);
            (skip, done) = (skip + count, done + count);
            if count == queued && !peek {
                take_bells(&mut reading, tcp);
            }
            if skip == room || !reading.is_on_tcp() {
                break Ok(0);
            }
            if !peek {
                continue;
            }
            found = Found::Tcp;
        }
        if done > 0 && found == Found::Empty {
            break Ok(0);
        }
        match end.own.reading.error.swap(0, Ordering::Relaxed) {
            0 => {}
            error => break Err(Errno::from_raw_os_error(error as i32)),
        }
        let due = reading.bells_due();
        if due > 0 {
            match tcp.discard(due) {
                // The end, in place of a doorbell: its sender is gone.
                Ok(0) if !matches!(reading.peek()?, Found::Ring(_)) => break Ok(0),
                Ok(count) => {
                    reading.took_bells(count);
                    continue;
                }
                Err(Errno::AGAIN) if found == Found::Tcp => {
                    reading.grant();
                    break Err(Errno::AGAIN);
                }
                Err(Errno::AGAIN) => {}
                Err(error) => break failed(end, &reading, error),
            }
        }
        if found == Found::Tcp {
            let result =
                if skip == 0 { tcp.recv(to, peek) } else { tcp.recv(&mut behind(to, skip), peek) };
            let count = *result.as_ref().unwrap_or(&0);
            if !peek {
                reading.took_tcp(count);
            }
            if count < room - skip && !matches!(result, Ok(0)) {
                reading.grant();
            }
            break result;
        }
        match tcp.probe() {
            Ok(0) if reading.peek()? == Found::Empty => break Ok(0),
            Ok(0) => {}
            Ok(_) => {
                strange += 1;
                if strange > 2 && reading.peek()? == Found::Empty && reading.bells_due() == 0 {
                    break Err(Errno::CONNRESET);
                }
            }
            Err(Errno::AGAIN) => break Err(Errno::AGAIN),
            Err(error) => break failed(end, &reading, error),
        }
    };
    match result {
        Ok(count) => Ok(done + count),
        Err(error) if done > 0 => {
            if error != Errno::AGAIN {
                end.own.reading.error.store(error.raw_os_error() as u32, Ordering::Relaxed);
            }
            Ok(done)
        }
        error => error,
    }
}

/// The ring is empty: a doorbell has nothing to say any more. It is taken at once, for a socket that
/// is closed over unread bytes is reset.
fn take_bells<S: Store>(reading: &mut Reading<'_, S>, tcp: &impl Tcp) {
    let due = reading.bells_due();
    if due > 0
        && let Ok(count) = tcp.discard(due)
    {
        reading.took_bells(count);
    }
}

/// The socket has told its error, once: if the ring has bytes, they come first.
fn failed<S: Store>(
    end: &End<'_, S>,
    reading: &Reading<'_, S>,
    error: Errno,
) -> Result<usize, Errno> {
    if matches!(reading.peek()?, Found::Ring(_)) {
        end.own.reading.error.store(error.raw_os_error() as u32, Ordering::Relaxed);
        return Err(Errno::AGAIN);
    }
    Err(error)
}

/// Looks at the ring for a while. True when something is there.
fn spin<S: Store>(end: &End<'_, S>, tcp: &impl Tcp, limit_ns: u64) -> bool {
    if limit_ns == 0 || end.is_tcp() || !end.own.reading.patience.is_there() {
        return false;
    }
    end.note_spin();
    let until = tcp.now_ns() + limit_ns;
    loop {
        for _ in 0..64 {
            if end.glance() {
                return true;
            }
            std::hint::spin_loop();
        }
        if tcp.now_ns() >= until {
            return false;
        }
    }
}

/// Sleeps in the kernel, and learns from how long that took.
fn sleep<S: Store>(end: &End<'_, S>, tcp: &impl Tcp, limit_ns: u64) -> Result<usize, Errno> {
    if limit_ns == 0 {
        return tcp.sleep();
    }
    let begun = tcp.now_ns();
    let slept = tcp.sleep();
    end.own.reading.patience.waited(tcp.now_ns().saturating_sub(begun), limit_ns);
    slept
}

/// Reads, as recv(2) does.
pub fn recv<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    to: &mut [IoSliceMut<'_>],
    how: ReadHow,
) -> Result<usize, Errno> {
    let room = room(to);
    let mut done = 0;
    loop {
        // What can be had without a system call comes first.
        if !how.now && !end.glance() {
            spin(end, tcp, how.spin_ns);
        }
        // A read from the beginning that was peeked sees the same bytes again.
        let skip = if how.peek { 0 } else { done };
        let enough = if how.all { room } else { how.low_water.clamp(1, room.max(1)) };
        match attempt(end, tcp, threads, to, skip, how.peek) {
            Ok(0) => return Ok(done),
            Ok(count) if how.peek => {
                if count >= enough || how.now {
                    return Ok(count);
                }
                // What is there already ends no sleep.
                threads.yield_now();
            }
            Ok(count) => {
                done += count;
                if done >= enough {
                    return Ok(done);
                }
                continue;
            }
            Err(Errno::AGAIN) if how.now => {
                return if done > 0 { Ok(done) } else { Err(Errno::AGAIN) };
            }
            Err(Errno::AGAIN) => {}
            Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
        }
        let missing = if how.peek { enough } else { enough - done };
        if prepare(end, tcp, threads, missing)? {
            continue;
        }
        match sleep(end, tcp, how.spin_ns) {
            Ok(_) => {}
            Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
        }
    }
}

/// Before a sleep in the kernel, of whatever kind: true when `low_water` bytes are there
/// already. Otherwise the socket will become readable when they are.
pub fn prepare<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    low_water: usize,
) -> Result<bool, Errno> {
    if end.is_asked_to_leave() {
        oblige(end, tcp, threads)?;
    }
    let mut reading = end.reading(threads)?;
    if let Found::Ring(queued) = reading.peek()?
        && queued >= low_water.clamp(1, end.incoming.size())
    {
        return Ok(true);
    }
    take_bells(&mut reading, tcp);
    Ok(reading.arm(low_water)? == Arm::Ready)
}

/// The kernel says that the socket is readable: false when that was a doorbell whose bytes
/// somebody has taken already, so that the kernel must be asked again.
pub fn settle<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    low_water: usize,
) -> Result<bool, Errno> {
    if end.is_asked_to_leave() {
        oblige(end, tcp, threads)?;
    }
    let mut reading = end.reading(threads)?;
    if let Found::Ring(queued) = reading.peek()?
        && queued >= low_water.clamp(1, end.incoming.size())
    {
        return Ok(true);
    }
    let due = reading.bells_due();
    if due == 0 {
        return Ok(true);
    }
    match tcp.discard(due) {
        Ok(count @ 1..) => {
            reading.took_bells(count);
            Ok(reading.arm(low_water)? == Arm::Ready)
        }
        _ => Ok(true),
    }
}

/// Bytes in the ring, for FIONREAD; and how many of the bytes on TCP are doorbells.
pub fn queued<S: Store + Copy>(
    end: &End<'_, S>,
    threads: &impl Threads,
) -> Result<(usize, usize), Errno> {
    let reading = end.reading(threads)?;
    let queued = match reading.peek()? {
        Found::Ring(queued) => queued,
        _ => 0,
    };
    Ok((queued, reading.bells_due()))
}

/// How a write is meant.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteHow {
    /// How long a full ring is waited for, in nanoseconds. Zero where the caller does not wait.
    pub spin_ns: u64,
}

/// Writes, as send(2) does.
pub fn send<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    from: &[IoSlice<'_>],
    how: WriteHow,
) -> Result<usize, Errno> {
    let len = from.iter().map(|buffer| buffer.len()).sum::<usize>();
    let mut writing = end.writing(threads)?;
    if writing.must_leave() {
        resend(end, &mut writing, tcp)?;
    }
    if end.is_peer_closed() {
        // What becomes of bytes for a closed socket is TCP's to say.
        writing.pin();
    }
    let mut done = 0;
    let mut until = None;
    while done < len || len == 0 {
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
            if writing.publish(count) {
                tcp.ring();
            }
            done += count;
            until = None;
            continue;
        }
        // Full: a little patience, and then the way on which the kernel waits.
        let now = tcp.now_ns();
        if how.spin_ns == 0 || now >= *until.get_or_insert_with(|| now + how.spin_ns) {
            writing.overflow();
            break;
        }
        (0..32).for_each(|_| std::hint::spin_loop());
    }
    if done == len && len > 0 {
        return Ok(len);
    }
    let kernel = writing.enter_kernel();
    let result = if done == 0 { tcp.send(from) } else { tcp.send(&rest(from, done)) };
    kernel.sent(*result.as_ref().unwrap_or(&0));
    match result {
        Ok(count) => Ok(done + count),
        Err(_) if done > 0 => Ok(done),
        Err(error) => Err(error),
    }
}

/// Copies `count` bytes of the buffers, from `skip` on.
#[inline]
fn put<S: Store>(
    writing: &crate::end::Writing<'_, S>,
    from: &[IoSlice<'_>],
    skip: usize,
    count: usize,
) {
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

/// Does what the peer asks for when it leaves; nothing when it does not. For one who is about to wait.
pub fn oblige<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
) -> Result<(), Errno> {
    let mut writing = end.writing(threads)?;
    if writing.must_leave() { resend(end, &mut writing, tcp) } else { Ok(()) }
}

/// The peer wants everything over TCP: sends it again what it has not taken from the ring.
fn resend<S: Store>(
    end: &End<'_, S>,
    writing: &mut crate::end::Writing<'_, S>,
    tcp: &impl Tcp,
) -> Result<(), Errno> {
    let mut unread = vec![0; end.outgoing.size()];
    let count = writing.recall(0, &mut unread)?;
    let mut sent = 0;
    while sent < count {
        match tcp.send(&[IoSlice::new(&unread[sent..count])]) {
            Ok(more) => sent += more,
            Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
            // The connection is gone, and nobody waits for its bytes.
            Err(_) => break,
        }
    }
    writing.left();
    Ok(())
}
