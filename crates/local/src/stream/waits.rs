//! Waits in the kernel, of whatever kind: what is to be done before, and what is to be told behind.

use super::leaving::oblige;
use super::reading::drop_bells;
use super::{ROUNDS_MAX, Tcp, held_reading, is_in_ring, keep};
use crate::end::{Arm, End, Found, Reading};
use crate::lock::Threads;
use crate::ring::Store;
use crate::sync::Ordering;
use rustix::io::Errno;

/// How long a sleep at the word may take, in nanoseconds: so late is seen what does not wake there (a killed peer, a
/// reset, a request to cancel this thread).
pub const PARK_NS: u64 = 10_000_000;

/// Sleeps at the word of the pair's memory, if that has been over soon lately: for at most `limit_ns`. True when it was woken, and is
/// to look again; then it is the socket's turn. For a sleep that any byte ends. `is_restarted` as in [`Tcp::park`].
pub fn park<S: Store + Copy>(
    end: &End<'_, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
    limit_ns: u64,
    is_restarted: bool,
) -> Result<bool, Errno> {
    let own = &end.own.reading;
    if end.is_asked_to_leave() || !own.parking.is_there() || own.error.load(Ordering::Relaxed) != 0
    {
        return Ok(false);
    }
    let _asleep = end.asleep();
    if !held_reading(end, tcp, threads)?.park()? {
        return Ok(false);
    }
    let word = end.place();
    let result = if end.is_peer_closed() {
        Err(Errno::TIMEDOUT)
    } else {
        tcp.park(word, tcp.now_ns() + limit_ns, is_restarted)
    };
    word.store(0, Ordering::Relaxed);
    match result {
        Ok(()) => Ok(true),
        Err(Errno::INTR) => Err(Errno::INTR),
        // What is in the way, the socket tells.
        Err(_) => Ok(false),
    }
}

/// Both ends' readers are to look again: the socket has something to tell that nobody writes.
pub fn unpark_all<S: Store>(end: &End<'_, S>, tcp: &impl Tcp) {
    for word in end.unpark().into_iter().flatten() {
        tcp.unpark(word);
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
    let mut reading = obliging(end, tcp, threads)?;
    ready(end, &mut reading, tcp, low_water)
}

/// The reading side, when the peer has what it asks for to leave.
fn obliging<'e, S: Store + Copy>(
    end: &End<'e, S>,
    tcp: &impl Tcp,
    threads: &impl Threads,
) -> Result<Reading<'e, S>, Errno> {
    if end.is_asked_to_leave() {
        // A full socket is no reason not to sleep, and a broken one wakes.
        let _ = oblige(end, tcp, threads);
    }
    held_reading(end, tcp, threads)
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

/// How long a doorbell is waited for that has been counted and not been sent, in nanoseconds.
const BELL_NS_MAX: u64 = 100_000_000;

/// Takes doorbells that were rung for bytes which are gone. For one who is about to send over TCP, or to close: a
/// process that dies over an unread doorbell is reset by the kernel, and what it had sent goes with it.
pub fn hush<S: Store + Copy>(end: &End<'_, S>, tcp: &impl Tcp, threads: &impl Threads) {
    if !end.is_rung_for_nothing() {
        return;
    }
    let Ok(mut reading) = end.reading(threads) else { return };
    let until = tcp.now_ns() + BELL_NS_MAX;
    while !reading.is_quiet() && is_in_ring(&reading) == Ok(false) {
        if drop_bells(end, tcp, &mut reading).is_err() {
            return;
        }
        if tcp.now_ns() >= until || tcp.is_over() {
            return reading.forgive();
        }
        threads.yield_now();
    }
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
    let mut reading = obliging(end, tcp, threads)?;
    // Where there is nothing else, another thread that was about to send may have taken the doorbell ([`hush`]).
    if reading.bells_due() == 0 && (reading.peek()? != Found::Empty || tcp.is_over()) {
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
