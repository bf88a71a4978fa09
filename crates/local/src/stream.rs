//! An end of a pair as a stream socket: the system calls around what `end.rs` decides.
//!
//! Reads and writes are what they are on a TCP socket, with two differences that no caller can
//! see: a byte may have come by the ring, and a wait may spin first. All sleeping is done
//! by the kernel on the TCP socket, so time limits, signals, resets and the end work as ever.

use crate::end::{Arm, Broken, End, Found, Reading, Way, Writing};
use crate::lock::{Reentered, Threads};
use crate::ring::Store;
use crate::sync::Ordering;
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
    /// As [`Tcp::sleep`] of a call that has something already: a signal ends it, whatever its handler
    /// says of restarting (SA_RESTART).
    fn sleep_for_more(&self) -> Result<usize, Errno> {
        self.sleep()
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

/// How long a call waits for the socket to have room, for a doorbell or for what must be there before a FIN, in
/// nanoseconds. An acknowledgement that was lost on the way between two network namespaces is
/// repeated within this; a peer that breaks the rules costs a call no more.
const ROOM_NS_MAX: u64 = 2_000_000_000;
/// A message that is no smaller, nor smaller than the ring, is bulk.
const BULK_BYTES: usize = 32 * 1024;
/// Looks of one read, most of them at doorbells.
const ROUNDS_MAX: u32 = 1000;

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
    let mut done = 0;
    for _ in 0..ROUNDS_MAX {
        let (more, result) = gather(end, tcp, &mut reading, to, skip + done, peek);
        done += more;
        if let Err(error) = result
            && error != Errno::AGAIN
        {
            return partly(end, done, error);
        }
        let is_short = skip + done < room && !peek;
        if is_short && reading.sleepers() > 0 && reading.arm(1)? == Arm::Ready {
            // Nobody rings for what came meanwhile.
            continue;
        }
        return if done > 0 { Ok(done) } else { result.map(|()| 0) };
    }
    // A peer that does what it says needs a few.
    partly(end, done, Errno::CONNRESET)
}

/// Reads until a place is empty: how much, and what ended it. Nothing and no error is the
/// end, where there was room.
fn gather<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    reading: &mut Reading<'_, S>,
    to: &mut [IoSliceMut<'_>],
    begin: usize,
    peek: bool,
) -> (usize, Result<(), Errno>) {
    let room = room(to);
    let mut skip = begin;
    for _ in 0..ROUNDS_MAX {
        let found = match reading.look() {
            Ok(found) => found,
            Err(broken) => return (skip - begin, Err(broken.into())),
        };
        if let Found::Ring(queued) = found {
            if skip == room && room > 0 {
                break;
            }
            // What was peeked is still there.
            skip = if peek { begin } else { skip };
            let count = take(reading, queued, to, skip, peek);
            skip += count;
            if count == queued
                && !peek
                && let Err(error) = drop_bells(end, tcp, reading)
            {
                return (skip - begin, Err(error));
            }
            if skip == room || !reading.is_on_tcp() {
                return (skip - begin, Ok(()));
            }
            // The ring had its last bytes before the stream went on over TCP.
            if peek && reading.peek() == Ok(found) {
                return (skip - begin + peek_behind(end, reading, tcp, to, skip), Ok(()));
            }
            continue;
        }
        if skip > begin && found == Found::Empty {
            return (skip - begin, Ok(()));
        }
        // A read does not go over the mark.
        if skip > begin && reading.bells_due() == 0 && tcp.is_at_mark() {
            return (skip - begin, Ok(()));
        }
        match beyond(end, tcp, reading, found, to, skip, peek) {
            Ok(None) => {}
            Ok(Some(count)) => return (skip - begin + count, Ok(())),
            Err(error) => return (skip - begin, Err(error)),
        }
    }
    (skip - begin, Err(Errno::CONNRESET))
}

/// The ring is empty: what TCP has. None when one has to look again.
fn beyond<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    reading: &mut Reading<'_, S>,
    found: Found,
    to: &mut [IoSliceMut<'_>],
    skip: usize,
    peek: bool,
) -> Result<Option<usize>, Errno> {
    match end.own.reading.error.swap(0, Ordering::Relaxed) {
        0 => {}
        error => return Err(Errno::from_raw_os_error(error as i32)),
    }
    let due = reading.bells_due();
    let result = if due > 0 {
        // The bytes that a doorbell was rung for come before it is taken: others may sleep.
        if found == Found::Empty && has_come(reading)? {
            return Ok(None);
        }
        reading.take_bells(|| tcp.discard(due)).map(|count| (count == 0).then_some(0))
    } else if found == Found::Tcp {
        let result =
            if skip == 0 { tcp.recv(to, peek) } else { tcp.recv(&mut behind(to, skip), peek) };
        let count = *result.as_ref().unwrap_or(&0);
        if !peek {
            reading.took_tcp(count);
        }
        if count < room(to) - skip && result != Ok(0) {
            reading.grant();
        }
        return result.map(Some);
    } else {
        // A byte that came meanwhile: what it is, the words say by now.
        tcp.probe().map(|count| (count == 0).then_some(0))
    };
    match result {
        // The end; bytes of the ring come before it.
        Ok(Some(_)) => Ok(if is_in_ring(reading)? { None } else { Some(0) }),
        Ok(None) => Ok(None),
        Err(Errno::AGAIN) => {
            reading.grant();
            Err(Errno::AGAIN)
        }
        Err(error) => {
            if is_in_ring(reading)? {
                keep(end, error);
                return Ok(None);
            }
            Err(error)
        }
    }
}

/// The ring is empty: a doorbell has nothing to say any more. It is taken at once, for a socket that
/// is closed over unread bytes is reset.
fn drop_bells<S: Store>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    reading: &mut Reading<'_, S>,
) -> Result<(), Errno> {
    let due = reading.bells_due();
    if due > 0
        && !has_come(reading)?
        && let Err(error) = reading.take_bells(|| tcp.discard(due))
    {
        keep(end, error);
    }
    Ok(())
}

/// Whether something has come into the ring; and from now on a doorbell is rung for it, if
/// somebody sleeps.
fn has_come<S: Store>(reading: &mut Reading<'_, S>) -> Result<bool, Broken> {
    if reading.sleepers() > 0 { Ok(reading.arm(1)? == Arm::Ready) } else { is_in_ring(reading) }
}

fn is_in_ring<S: Store>(reading: &Reading<'_, S>) -> Result<bool, Broken> {
    Ok(matches!(reading.peek()?, Found::Ring(_)))
}

/// Peeks at what TCP has behind the ring's bytes and the doorbells, which all stay.
fn peek_behind<S: Store>(
    end: &End<'_, S>,
    reading: &Reading<'_, S>,
    tcp: &impl Tcp,
    to: &mut [IoSliceMut<'_>],
    skip: usize,
) -> usize {
    let due = reading.bells_due();
    let mut bytes = vec![0; due + room(to) - skip];
    let count = match tcp.recv(&mut [IoSliceMut::new(&mut bytes)], true) {
        Ok(count) => count,
        Err(error) => {
            keep(end, error);
            0
        }
    };
    let mut data = &bytes[due.min(count)..count];
    let found = data.len();
    for mut buffer in behind(to, skip) {
        let (piece, rest) = data.split_at(buffer.len().min(data.len()));
        buffer[..piece.len()].copy_from_slice(piece);
        data = rest;
    }
    found
}

/// What a call tells that was stopped by an error behind `done` bytes: the next one tells it.
fn partly<S>(end: &End<'_, S>, done: usize, error: Errno) -> Result<usize, Errno> {
    if done == 0 {
        return Err(error);
    }
    keep(end, error);
    Ok(done)
}

/// Keeps an error of the socket's for the next call. What was only this call's is none.
fn keep<S>(end: &End<'_, S>, error: Errno) {
    if error != Errno::AGAIN && error != Errno::INTR {
        end.own.reading.error.store(error.raw_os_error() as u32, Ordering::Relaxed);
    }
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
fn sleep<S: Store>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    done: usize,
    limit_ns: u64,
) -> Result<usize, Errno> {
    let sleep = || if done > 0 { tcp.sleep_for_more() } else { tcp.sleep() };
    if limit_ns == 0 {
        return sleep();
    }
    let begun = tcp.now_ns();
    let slept = sleep();
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
    let enough = if how.all { room } else { how.low_water.clamp(1, room.max(1)) };
    let mut done = 0;
    let mut is_over = false;
    loop {
        // What can be had without a system call comes first.
        if !how.now && !end.glance() {
            spin(end, tcp, how.spin_ns);
        }
        // A read from the beginning that was peeked sees the same bytes again.
        let skip = if how.peek { 0 } else { done };
        match attempt(end, tcp, threads, to, skip, how.peek) {
            Ok(0) => return Ok(done),
            Ok(count) if how.peek => {
                if count >= enough || how.now || is_over {
                    return Ok(count);
                }
                // If it is, then one more look sees all that there will ever be.
                is_over = tcp.is_over();
                if is_over {
                    continue;
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
            Err(Errno::AGAIN) if how.now => return partly(end, done, Errno::AGAIN),
            Err(Errno::AGAIN) => {}
            Err(error) => return partly(end, done, error),
        }
        let asleep = end.asleep();
        if prepare(end, tcp, threads, enough - done)? {
            continue;
        }
        let result = sleep(end, tcp, done, how.spin_ns);
        drop(asleep);
        match result {
            Ok(_) => {}
            Err(error) => {
                if !is_in_ring(&end.reading(threads)?)?
                    || matches!(error, Errno::AGAIN | Errno::INTR)
                {
                    return partly(end, done, error);
                }
                // It comes behind what the ring holds.
                keep(end, error);
                is_over = true;
            }
        }
    }
}

/// Before a sleep in the kernel, of whatever kind: true when `low_water` bytes are there
/// already. Otherwise the socket will become readable when they are. The sleeper has called [`End::asleep`].
pub fn prepare<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    low_water: usize,
) -> Result<bool, Errno> {
    if end.is_asked_to_leave() {
        // A full socket is no reason not to sleep, and a broken one wakes.
        let _ = oblige(end, tcp, threads);
    }
    let mut reading = end.reading(threads)?;
    ready(end, &mut reading, tcp, low_water)
}

/// True when there is no reason to sleep. Asks for a doorbell, and takes those that were rung for bytes which are gone. In this order: a
/// doorbell that is taken while bytes are there, or before another is asked for, may be the
/// one that somebody else sleeps for.
fn ready<S: Store + Copy>(
    end: &End<'_, S>,
    reading: &mut Reading<'_, S>,
    tcp: &impl Tcp,
    low_water: usize,
) -> Result<bool, Errno> {
    if let Found::Ring(queued) = reading.peek()?
        && queued >= low_water.clamp(1, end.incoming.size())
    {
        return Ok(true);
    }
    let due = reading.bells_due();
    if reading.arm(low_water)? == Arm::Ready {
        return Ok(true);
    }
    // Fewer bytes than are waited for here may be what somebody else is rung for.
    if due > 0 && (reading.sleepers() <= 1 || !is_in_ring(reading)?) {
        match reading.take_bells(|| tcp.discard(due)) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => {
                // The kernel has told it, and will not wake anybody for it again.
                keep(end, error);
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The kernel says that the socket is readable: false when that was a doorbell whose bytes
/// somebody has taken already, so that the kernel must be asked again. What came behind the
/// doorbell is seen here: the kernel may have told of both at once, and not tell again.
pub fn settle<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    low_water: usize,
) -> Result<bool, Errno> {
    if end.is_asked_to_leave() {
        // A full socket is no reason not to sleep, and a broken one wakes.
        let _ = oblige(end, tcp, threads);
    }
    let mut reading = end.reading(threads)?;
    if reading.bells_due() == 0 {
        return Ok(true);
    }
    for _ in 0..ROUNDS_MAX {
        if ready(end, &mut reading, tcp, low_water)? {
            return Ok(true);
        }
        match tcp.probe() {
            Err(Errno::AGAIN) => return Ok(false),
            // Data, unless it is the doorbell for which it was just armed.
            Ok(1..) if reading.bells_due() > 0 => {}
            Ok(_) => return Ok(true),
            Err(error) => {
                keep(end, error);
                return Ok(true);
            }
        }
    }
    Ok(true)
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
        resend(&mut writing, tcp)?;
    }
    if end.is_peer_closed() || (writing.is_suspicious() && tcp.has_failed()) {
        // What becomes of bytes for a closed socket is TCP's to say.
        writing.pin();
    }
    let mut done = 0;
    let mut until = None;
    // Where nobody spins, the processors that TCP keeps busy at once are worth more than the ring.
    let is_bulk = how.spin_ns == 0 && len >= end.outgoing.size().max(BULK_BYTES);
    if is_bulk && writing.is_on_ring() {
        overflow(&mut writing, tcp)?;
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
                Err(_) if done > 0 => return Ok(done),
                result => result?,
            }
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

/// The reader may have so many bytes that were copied, and is woken if it sleeps.
pub fn publish<S: Store>(
    writing: &mut Writing<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    count: usize,
) -> Result<(), Errno> {
    if writing.publish(count) {
        ring(tcp, threads)?;
        writing.has_rung();
    }
    Ok(())
}

/// The ring is full: the stream goes on over TCP.
pub fn overflow<S: Store>(writing: &mut Writing<'_, S>, tcp: &impl Tcp) -> Result<(), Errno> {
    if writing.overflow() { Ok(()) } else { resend(writing, tcp) }
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

/// Does what the peer asks for when it leaves; nothing when it does not. For one who is about to wait.
pub fn oblige<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
) -> Result<(), Errno> {
    let mut writing = end.writing(threads)?;
    if writing.must_leave() { resend(&mut writing, tcp) } else { Ok(()) }
}

/// The stream is to stay on TCP for good, and what the peer is owed of the ring is there already. For one who
/// is about to send a FIN, or to write in a way that the ring does not know.
pub fn pin<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
) -> Result<(), Errno> {
    let mut until = None;
    loop {
        let mut writing = end.writing(threads)?;
        if writing.pin() {
            return Ok(());
        }
        match resend(&mut writing, tcp) {
            Ok(()) => return Ok(()),
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error),
        }
        drop(writing);
        let now = tcp.now_ns();
        if now >= *until.get_or_insert(now + ROOM_NS_MAX) {
            return Err(Errno::AGAIN);
        }
        threads.yield_now();
    }
}

/// The peer wants everything over TCP: sends it again what it has not taken from the ring. When
/// the socket is full, the rest is for the next call.
fn resend<S: Store>(writing: &mut Writing<'_, S>, tcp: &impl Tcp) -> Result<(), Errno> {
    let mut unread = [0; 4096];
    loop {
        let count = writing.recall(&mut unread)?;
        if count == 0 {
            return Ok(());
        }
        writing.resend(|| tcp.send(&[IoSlice::new(&unread[..count])]))?;
    }
}
