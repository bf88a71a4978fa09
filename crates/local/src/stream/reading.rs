//! Reads: what comes from the ring, what from the socket, and in which order.

use super::waits::{PARK_NS, park, prepare};
use super::{ROUNDS_MAX, Tcp, held_reading, is_end, is_in_ring, keep};
use crate::end::{Arm, Broken, End, Found, Reading};
use crate::lock::Threads;
use crate::patience::ALONE_NS;
use crate::ring::Store;
use crate::sync::Ordering;
use rustix::io::Errno;
use std::io::IoSliceMut;

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
    /// A sleep may begin at the word in the pair's memory: it has no time limit (SO_RCVTIMEO).
    pub may_park: bool,
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
    let mut reading = held_reading(end, tcp, threads)?;
    if reading.is_drained(threads)? {
        // It is sent again.
        return Err(Errno::AGAIN);
    }
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
        // If the writer has sent more, the grant is none.
        if result != Ok(0) {
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
            if is_end(end, error) { Ok(Some(0)) } else { Err(error) }
        }
    }
}

/// The ring is empty: a doorbell has nothing to say any more. It is taken at once, for a socket that
/// is closed over unread bytes is reset.
pub(super) fn drop_bells<S: Store>(
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
fn partly<S: Store>(end: &End<'_, S>, done: usize, error: Errno) -> Result<usize, Errno> {
    if done == 0 {
        return Err(error);
    }
    keep(end, error);
    Ok(done)
}

/// Looks at the ring for a while. True when something is there.
fn spin<S: Store>(end: &End<'_, S>, tcp: &impl Tcp, threads: &impl Threads, limit_ns: u64) -> bool {
    if limit_ns == 0 || end.is_tcp() || !end.own.reading.patience.is_there() {
        return false;
    }
    end.note_spin();
    let begun = tcp.now_ns();
    loop {
        for _ in 0..64 {
            if end.glance() {
                return true;
            }
            std::hint::spin_loop();
        }
        let spun = tcp.now_ns() - begun;
        if spun >= limit_ns {
            return false;
        }
        if spun >= ALONE_NS {
            threads.yield_now();
        }
    }
}

/// Sleeps at the socket until `wanted` bytes are there, or the kernel has something to tell.
fn sleep<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    has_begun: bool,
    wanted: usize,
) -> Result<(), Errno> {
    let _asleep = end.asleep();
    if !prepare(end, tcp, threads, wanted)? {
        let sleep = if has_begun { Tcp::sleep_for_more } else { Tcp::sleep };
        sleep(tcp)?;
    }
    Ok(())
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
    let may_park = how.may_park && !how.now && how.low_water <= 1 && room > 0;
    let mut parks = may_park;
    // Since when it sleeps.
    let mut begun = None;
    let mut done = 0;
    let mut is_over = false;
    loop {
        // What can be had without a system call comes first.
        let is_there = how.now || end.glance() || spin(end, tcp, threads, how.spin_ns);
        if parks && !is_there {
            // Once: what wakes there and leaves nothing in the ring is for the socket to tell.
            parks = false;
            begun = Some(tcp.now_ns());
            match park(end, tcp, threads, PARK_NS, done == 0) {
                Ok(true) => end.own.reading.parking.reset(),
                Ok(false) => {}
                Err(error) => return partly(end, done, error),
            }
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
                parks = may_park;
                if done >= enough {
                    return Ok(done);
                }
                continue;
            }
            Err(Errno::AGAIN) if how.now => return partly(end, done, Errno::AGAIN),
            Err(Errno::AGAIN) => {}
            Err(error) => return partly(end, done, error),
        }
        let begun = begun.take().unwrap_or_else(|| tcp.now_ns());
        let result = sleep(end, tcp, threads, done > 0, enough - done);
        let took_ns = tcp.now_ns().saturating_sub(begun);
        end.own.reading.parking.waited(took_ns, PARK_NS);
        if how.spin_ns > 0 {
            end.own.reading.patience.waited(took_ns, how.spin_ns);
        }
        match result {
            Ok(()) => parks = may_park,
            Err(error) if is_end(end, error) => {}
            Err(error) => {
                let is_behind = end.reading(threads).is_ok_and(|it| is_in_ring(&it) == Ok(true));
                if !is_behind || matches!(error, Errno::AGAIN | Errno::INTR) {
                    return partly(end, done, error);
                }
                // It comes behind what the ring holds.
                keep(end, error);
                is_over = true;
            }
        }
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
