//! A running splice: what a step does with it, and how it ends.

use super::datagram::{self, Datagrams, Desk};
use super::port::Port;
use super::stream::{Marks, StreamEnds};
use crate::checks::Protocol;
use crate::domain::SlotId;
use crate::personality::Personality;
use crate::sys;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;
use rustix::net::SendFlags;
use sosplice::mover::{Limits, Mover, Need, STEP_BUDGET_BYTES, Then};
use sosplice::store::Store;
use sosplice::{Cause, End};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub struct Flow {
    source_id: SlotId,
    pub drain_id: SlotId,
    pub source: Rc<Port>,
    pub drain: Rc<Port>,
    carrier: Mode,
    /// Made when there is a time to think of.
    clock: Option<Box<Clock>>,
    /// The drain has been seen connected.
    connected: bool,
    /// The last step waits for the drain.
    pub waits_for_drain: bool,
    /// Part of a ring of splices: bytes that come in may have been here before.
    pub is_ring: bool,
    /// Stands in the queue.
    pub is_queued: bool,
}

#[derive(Default)]
struct Clock {
    idle: Option<Duration>,
    /// When the idle limit is reached.
    due: Option<Instant>,
    /// The time for which the heap has an entry.
    timer: Option<Instant>,
}

impl Clock {
    fn rearm(&mut self, now: Instant) {
        self.due = self.idle.and_then(|idle| now.checked_add(idle));
    }
}

enum Mode {
    Stream { mover: Mover, marks: Marks },
    Datagrams(Datagrams),
}

/// How a splice ends, in the terms of the option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// What the source's program is told; zero for nothing.
    pub error: i32,
    /// An error that was taken from the source and is its own.
    pub is_sources: bool,
    /// An error that was taken from the drain: it keeps it.
    pub of_drain: i32,
}

pub enum Stepped {
    Wait,
    Turn,
    Ended(Ending),
}

const DONE: Ending = Ending { error: 0, is_sources: false, of_drain: 0 };

fn fails(errno: Errno) -> Ending {
    Ending { error: errno.raw_os_error(), ..DONE }
}

impl Flow {
    #[allow(clippy::too_many_arguments, reason = "one caller")]
    pub fn new(
        source_id: SlotId,
        drain_id: SlotId,
        source: Rc<Port>,
        drain: Rc<Port>,
        protocol: Protocol,
        max: u64,
        idle: Option<Duration>,
        now: Instant,
    ) -> Self {
        let carrier = match protocol {
            Protocol::Tcp => {
                let limits = Limits { max: (max != 0).then_some(max), ..Limits::default() };
                Mode::Stream { mover: Mover::new(limits, true, now), marks: Marks::default() }
            }
            Protocol::Udp => Mode::Datagrams(Datagrams::new(max)),
        };
        let mut clock = Clock { idle, ..Clock::default() };
        clock.rearm(now);
        set_own_low_water(source_id, &source);
        // What was told was told before this splice: somebody else may have read it.
        source.take_certainty();
        Self {
            source_id,
            drain_id,
            source,
            drain,
            carrier,
            clock: idle.map(|_| Box::new(clock)),
            connected: protocol == Protocol::Udp,
            waits_for_drain: false,
            is_ring: false,
            is_queued: false,
        }
    }

    pub fn moved(&self) -> u64 {
        match &self.carrier {
            Mode::Stream { mover, .. } => mover.carried().total(),
            Mode::Datagrams(datagrams) => datagrams.moved,
        }
    }

    /// The splice the other way has moved bytes: this is a dialogue, and not to be batched.
    pub fn answered(&mut self) {
        if let Mode::Stream { mover, .. } = &mut self.carrier {
            mover.answered();
        }
    }

    /// When a step is due at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let guard = match &self.carrier {
            Mode::Stream { mover, .. } => mover.deadline(),
            Mode::Datagrams(_) => None,
        };
        let due = self.clock.as_ref().and_then(|clock| clock.due);
        [due, guard].into_iter().flatten().min()
    }

    /// The time for which the heap has an entry.
    pub fn timer(&self) -> Option<Instant> {
        self.clock.as_ref()?.timer
    }

    pub fn set_timer(&mut self, timer: Option<Instant>) {
        self.clock.get_or_insert_default().timer = timer;
    }

    /// Moves what can be moved, or finds that it is over. The order of the questions is
    /// sosplice(9)'s: the source's error, the drain's, room and data, the idle limit.
    pub fn step(
        &mut self,
        personality: Personality,
        store: &mut Store,
        desk: &mut Desk,
        now: Instant,
    ) -> Stepped {
        if let Some(ending) = self.found_over(personality) {
            return Stepped::Ended(ending);
        }
        if self.clock.as_ref().is_some_and(|clock| clock.due.is_some_and(|due| now >= due)) {
            return Stepped::Ended(match personality {
                Personality::OpenBsd => fails(Errno::TIMEDOUT),
                Personality::FreeBsd => DONE,
            });
        }
        let stepped = if self.is_drain_connected() {
            self.step_mover(personality, store, desk, now)
        } else {
            Stepped::Wait
        };
        if personality == Personality::OpenBsd
            && !matches!(stepped, Stepped::Ended(_))
            && let Some(clock) = &mut self.clock
        {
            clock.rearm(now);
        }
        stepped
    }

    /// What no call on the way would meet, or too late.
    fn found_over(&mut self, personality: Personality) -> Option<Ending> {
        if personality == Personality::OpenBsd
            && let Some(errno) = self.source.take_error()
        {
            return Some(Ending { is_sources: true, ..fails(errno) });
        }
        if let Some(errno) = self.drain.take_error() {
            return Some(drain_failed(personality, errno));
        }
        if self.drain.ready().dead && self.is_drain_connected() {
            return Some(closed(personality));
        }
        None
    }

    /// A connecting drain takes nothing, and is no error.
    fn is_drain_connected(&mut self) -> bool {
        if !self.connected {
            self.connected = !crate::checks::is_connecting(self.drain.as_fd().as_raw_fd());
        }
        self.connected
    }

    /// The drain was connected at the last look.
    pub fn has_begun(&self) -> bool {
        self.connected
    }

    /// The program has shut the drain down for writing, or it was so from the beginning.
    pub fn probe_drain(&self, personality: Personality) -> Option<Ending> {
        if matches!(self.carrier, Mode::Datagrams(_)) {
            return None;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(&*self.drain, &[], flags) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => None,
            Err(Errno::PIPE) => Some(closed(personality)),
            Err(errno) => Some(drain_failed(personality, errno)),
        }
    }

    fn step_mover(
        &mut self,
        personality: Personality,
        store: &mut Store,
        desk: &mut Desk,
        now: Instant,
    ) -> Stepped {
        let Self { source, drain, carrier, .. } = self;
        let (mover, marks) = match carrier {
            Mode::Stream { mover, marks } => (mover, marks),
            Mode::Datagrams(datagrams) => {
                let then = datagrams.step(source, drain, desk);
                self.waits_for_drain = matches!(then, datagram::Then::WaitDrain);
                return datagrams_then(personality, then);
            }
        };
        let mut ends =
            StreamEnds { slot: self.source_id.slot(), source, drain, marks, knows_room: false };
        let step = mover.step(&mut ends, store, now, STEP_BUDGET_BYTES);
        self.waits_for_drain = step.then == Then::Wait(Need::Drain);
        match step.then {
            Then::Wait(Need::Source) => Stepped::Wait,
            // It has room again already.
            Then::Wait(Need::Drain) if self.drain.ready().write => Stepped::Turn,
            Then::Wait(Need::Drain) => Stepped::Wait,
            Then::Wait(Need::Turn) => Stepped::Turn,
            Then::End(cause) => Stepped::Ended(ending(personality, cause)),
        }
    }

    /// Bytes that were taken and not given, in order.
    pub fn into_residue(self) -> Vec<u8> {
        match self.carrier {
            Mode::Stream { mover, mut marks } => {
                marks.restore(&self.source);
                restore_low_water(self.source_id, &self.source);
                let End { residue, .. } = mover.into_end();
                residue
            }
            Mode::Datagrams(_) => Vec::new(),
        }
    }
}

/// The program's low-water mark is for its own reads: the splice goes on below it.
fn set_own_low_water(id: SlotId, source: &Port) {
    let fd = source.as_fd().as_raw_fd();
    let own = sys::int_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT).unwrap_or(1);
    id.slot().low_water.store(own, Ordering::Release);
    if own > 1 {
        sys::set_int_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1);
    }
}

fn restore_low_water(id: SlotId, source: &Port) {
    let own = id.slot().low_water.load(Ordering::Acquire);
    if own > 1 {
        let fd = source.as_fd().as_raw_fd();
        sys::set_int_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, own);
    }
}

fn closed(personality: Personality) -> Ending {
    match personality {
        Personality::OpenBsd => fails(Errno::PIPE),
        Personality::FreeBsd => DONE,
    }
}

/// OpenBSD copies the error to the source, and the drain keeps its own; on FreeBSD the send
/// that meets it takes it away.
fn drain_failed(personality: Personality, errno: Errno) -> Ending {
    match personality {
        Personality::OpenBsd => Ending { of_drain: errno.raw_os_error(), ..fails(errno) },
        Personality::FreeBsd => DONE,
    }
}

fn ending(personality: Personality, cause: Cause) -> Ending {
    match (personality, cause) {
        (_, Cause::SourceError(error)) => {
            Ending { error: error.raw(), is_sources: true, of_drain: 0 }
        }
        (Personality::OpenBsd, Cause::Max) => fails(Errno::FBIG),
        (_, Cause::DrainClosed) => closed(personality),
        (_, Cause::DrainError(error)) => {
            drain_failed(personality, Errno::from_raw_os_error(error.raw()))
        }
        _ => DONE,
    }
}

fn datagrams_then(personality: Personality, then: datagram::Then) -> Stepped {
    use datagram::Then;
    Stepped::Ended(match then {
        Then::WaitSource | Then::WaitDrain => return Stepped::Wait,
        Then::Turn => return Stepped::Turn,
        Then::Max => fails(Errno::FBIG),
        Then::Over => DONE,
        Then::SourceError(errno) => Ending { is_sources: true, ..fails(errno) },
        Then::DrainError(Errno::PIPE) => closed(personality),
        Then::DrainError(errno) => drain_failed(personality, errno),
        Then::TooLong => fails(Errno::MSGSIZE),
    })
}

#[cfg(test)]
mod tests {
    use super::super::sockets::Socket;
    use super::*;

    /// The bulk of what an idle splice costs in user memory: two sockets, two ports, a flow.
    #[test]
    fn an_idle_splice_is_small() {
        assert!(size_of::<Option<(SlotId, Socket)>>() <= 96);
        assert!(size_of::<Port>() <= 24);
        assert!(size_of::<Flow>() <= 192, "{}", size_of::<Flow>());
    }
}
