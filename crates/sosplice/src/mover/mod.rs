//! One direction of one splice as a state machine: no loop of its own, no thread,
//! no clock, no descriptor.
//!
//! A driver owns the sockets, knows the time and waits; it calls [`Mover::step`]
//! when something that the mover needed has happened. A step takes bytes from the
//! source and gives them to the drain until one of them blocks, the budget is used
//! up, or the splice ends.
//!
//! What always holds, whatever the sockets do:
//! * Bytes leave in the order they came, each exactly once. The mover takes again
//!   only after everything that it took has been given, so one EAGAIN has one meaning.
//! * It never takes more than `max` in all: what lies beyond stays on the source.
//! * `Eof`, `Max` and `Unspliced` are reported only when nothing is held, so a driver
//!   that forwards the FIN then forwards it behind the last byte.
//! * A pipe or buffer is held only while bytes are in it; a pipe is handed back only
//!   empty, and closed otherwise.

mod bulk;
mod engine;
mod vessel;

use bulk::Bulk;
pub use bulk::LOW_WATER_BYTES;
pub use engine::EngineChoice;
use engine::{Engine, Gait};
use vessel::Vessel;

use crate::end::{Carried, Cause, End, OsError};
use crate::store::Store;
use crate::sys::{Pipe, Put, Take};
use std::io;
use std::time::{Duration, Instant};

/// Bytes that one flow may move before the next one has its turn.
pub const STEP_BUDGET_BYTES: usize = 1 << 20;

/// The limits of one splice. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// End with [`Cause::Max`] after exactly so many bytes. `Some(0)` ends at once. A
    /// datagram that would go beyond it is left alone: [`Cause::MaxInside`].
    pub max: Option<u64>,
    /// End with [`Cause::Idle`] when nothing moved for so long.
    pub idle: Option<Duration>,
    /// Which engine may carry the bytes.
    pub engine: EngineChoice,
    /// Take at most so many bytes at a time into a pipe; None for as many as there are. splice(2) gives
    /// 16 pages to a socket at once and says of each such message but the last that more follows
    /// (fs/splice.c, `splice_to_socket`), which a drain that paces (bbr) holds back: where a source has its bytes in single pages, as a
    /// server has that sends files, less than 64 KiB at a time costs less. Of larger pieces it costs more.
    pub piece: Option<u32>,
}

/// The two sockets of one direction, as the mover sees them. No call may sleep;
/// EINTR is not reported. [`crate::sys`] has the calls for real descriptors.
pub trait Ends {
    /// Reads from the source into `buf`, which is not empty.
    ///
    /// # Errors
    /// The source's error; it ends the splice.
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Take>;

    /// Moves at most `len` bytes from the source into `pipe`, which is empty.
    ///
    /// # Errors
    /// The source's error; it ends the splice.
    fn fill(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Take>;

    /// Writes to the drain from `bytes`, which is not empty.
    ///
    /// # Errors
    /// The drain's error; it ends the splice.
    fn send(&mut self, bytes: &[u8]) -> io::Result<Put>;

    /// Moves from `pipe`, which holds `len` bytes, to the drain.
    ///
    /// # Errors
    /// The drain's error; it ends the splice.
    fn drain(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Put>;

    /// Tells the kernel not to report the source readable below so many bytes
    /// (SO_RCVLOWAT); None puts back what was set before the splice. An end of file, an
    /// error, and bytes that are above the new mark must still be reported. At the end of
    /// a splice the driver puts it back.
    ///
    /// # Errors
    /// Where the source knows no such mark; it is then not asked again.
    fn low_water(&mut self, bytes: Option<u32>) -> io::Result<()>;

    /// At most so many bytes are taken next; with zero the mover waits for the drain
    /// first. For a driver that must not hold what the drain does not take: its bytes stay
    /// on the source.
    ///
    /// # Errors
    /// The drain's error; it ends the splice.
    fn room(&mut self) -> io::Result<usize> {
        Ok(usize::MAX)
    }
}

/// What a mover waits for when a step has returned without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The source to become readable (data, end or error).
    Source,
    /// The drain to become writable (room or error).
    Drain,
    /// Nothing: the budget is used up, another flow may go first.
    Turn,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes that the drain accepted in this step.
    pub moved: u64,
    /// What to wait for, or how it ended.
    pub then: Then,
}

/// How a step left the splice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It runs on, when `Need` is met or, with an idle limit, at [`Mover::deadline`].
    Wait(Need),
    /// It is over; [`Mover::into_end`] has the rest. Further steps repeat the cause.
    End(Cause),
}

/// One direction: from source to drain.
#[derive(Debug)]
pub struct Mover {
    phase: Phase,
    vessel: Vessel,
    gait: Gait,
    carried: Tally,
    /// Bytes that may still be taken; `u64::MAX` stands for no limit.
    allowance: u64,
    /// Bytes that may be taken into a pipe at a time.
    piece: u32,
    idle: Option<Duration>,
    /// The last movement; before it, the beginning.
    last: Instant,
    bulk: Bulk,
}

/// What a stream's engines have carried, in bytes: a part of [`Carried`], for a relay
/// keeps two of them a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    copy: u64,
    pipe: u64,
}

impl Tally {
    const fn total(self) -> u64 {
        self.copy + self.pipe
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Takes and gives.
    Running,
    /// Takes no more; ends with this cause when nothing is held.
    Finishing(Cause),
    Ended(Cause),
}

impl Mover {
    /// A mover that has moved nothing; `can_pipe` says whether both ends may be
    /// given to splice(2). The idle limit counts from `now`.
    #[must_use]
    pub fn new(limits: Limits, can_pipe: bool, now: Instant) -> Self {
        Self {
            phase: Phase::Running,
            vessel: Vessel::Empty,
            gait: Gait::new(limits.engine, can_pipe),
            carried: Tally::default(),
            allowance: limits.max.unwrap_or(u64::MAX),
            piece: limits.piece.unwrap_or(u32::MAX),
            idle: limits.idle,
            last: now,
            bulk: Bulk::new(),
        }
    }

    /// Moves until an end blocks, `budget` bytes have moved, or the splice ends.
    pub fn step(
        &mut self,
        ends: &mut impl Ends,
        store: &mut Store,
        now: Instant,
        budget: usize,
    ) -> Step {
        if let Phase::Ended(cause) = self.phase {
            return Step { moved: 0, then: Then::End(cause) };
        }
        if self.vessel.is_empty() {
            self.bulk.before(ends, self.last, now);
        }
        let before = self.carried.total();
        let mut then = self.run(ends, store, before.saturating_add(budget as u64));
        let moved = self.carried.total() - before;
        if let Then::Wait(need) = then {
            let piping = self.gait.next() == Engine::Pipe && self.allowance > BULK_ALLOWANCE_MIN;
            let silence = now.saturating_duration_since(self.last);
            self.bulk.after(ends, moved, need == Need::Source, piping, silence);
        }
        if moved > 0 {
            self.last = now;
        } else if matches!(then, Then::Wait(_)) && is_due(self.idle_deadline(), now) {
            then = self.end(Cause::Idle);
        }
        Step { moved, then }
    }

    fn run(&mut self, ends: &mut impl Ends, store: &mut Store, stop_at: u64) -> Then {
        // The source is known to be empty: no call is needed to learn it again.
        let mut dry = false;
        loop {
            if !self.vessel.is_empty() {
                match self.vessel.pour(ends, store, &mut self.gait, &mut self.carried) {
                    Ok(true) => {}
                    Ok(false) => return Then::Wait(Need::Drain),
                    Err(error) => return self.end(drain_cause(&error)),
                }
            }
            if let Phase::Finishing(cause) = self.phase {
                return self.end(cause);
            }
            if self.allowance == 0 {
                return self.end(Cause::Max);
            }
            if dry {
                return Then::Wait(Need::Source);
            }
            let total = self.carried.total();
            if total >= stop_at {
                return Then::Wait(Need::Turn);
            }
            let room = match ends.room() {
                Ok(0) => return Then::Wait(Need::Drain),
                Ok(room) => room as u64,
                Err(error) => return self.end(drain_cause(&error)),
            };
            let len = self.allowance.min(stop_at - total).min(room);
            match self.take(ends, store, usize::try_from(len).unwrap_or(usize::MAX)) {
                Ok(Take::Bytes { count, dry: now_dry }) => {
                    debug_assert!(count as u64 <= self.allowance);
                    if self.allowance != u64::MAX {
                        self.allowance -= count as u64;
                    }
                    dry = now_dry;
                }
                Ok(Take::Eof) => return self.end(Cause::Eof),
                Ok(Take::Empty) => return Then::Wait(Need::Source),
                // The engine has been told; the next turn of the loop reads with recv.
                Ok(Take::Stuck) => {}
                Err(error) => return self.end(Cause::SourceError(OsError::from(&error))),
            }
        }
    }

    /// One read, at most `len` bytes, into a vessel lent by the store.
    fn take(&mut self, ends: &mut impl Ends, store: &mut Store, len: usize) -> io::Result<Take> {
        if self.gait.next() == Engine::Pipe {
            match store.pipe() {
                Some(pipe) => {
                    let len = len.min(self.piece as usize);
                    return self.vessel.fill(pipe, ends, store, &mut self.gait, len);
                }
                // The copy engine needs none.
                None => self.gait.no_pipe(),
            }
        }
        self.vessel.recv(ends, store, &mut self.gait, len)
    }

    fn end(&mut self, cause: Cause) -> Then {
        self.phase = Phase::Ended(cause);
        Then::End(cause)
    }

    /// Takes no more from the source: ends with [`Cause::Unspliced`], at once if nothing is
    /// held, and otherwise when the next steps have given it. After an end it changes
    /// nothing.
    pub fn unsplice(&mut self) {
        if matches!(self.phase, Phase::Running) {
            self.phase = if self.vessel.is_empty() {
                Phase::Ended(Cause::Unspliced)
            } else {
                Phase::Finishing(Cause::Unspliced)
            };
        }
    }

    /// Ends at once with `cause`; what is held becomes residue. After an end it
    /// changes nothing.
    pub fn end_now(&mut self, cause: Cause) {
        if self.cause().is_none() {
            self.end(cause);
        }
    }

    /// How it ended, if it did.
    #[must_use]
    pub const fn cause(&self) -> Option<Cause> {
        match self.phase {
            Phase::Ended(cause) => Some(cause),
            _ => None,
        }
    }

    /// Bytes that the drain accepted so far, by engine.
    #[must_use]
    pub fn carried(&self) -> Carried {
        Carried { copy: self.carried.copy, pipe: self.carried.pipe, ..Carried::default() }
    }

    /// Bytes taken and not yet given.
    #[must_use]
    pub fn held(&self) -> usize {
        self.vessel.held()
    }

    /// When the driver must step at the latest: for the idle limit, or to look after
    /// bytes that lie below the low-water mark of bulk.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ended(_) => None,
            // While the drain is full nothing is to be looked after on the source.
            _ if self.held() > 0 => self.idle_deadline(),
            _ => earlier(self.idle_deadline(), self.bulk.guard(self.last)),
        }
    }

    fn idle_deadline(&self) -> Option<Instant> {
        deadline_after(self.last, self.idle)
    }

    /// The last movement; before it, the beginning.
    pub(crate) const fn last(&self) -> Instant {
        self.last
    }

    /// Bytes went the other way between the same sockets: this is a dialogue, not bulk. The
    /// driver tells, for the mover knows one direction.
    pub fn answered(&mut self) {
        self.bulk.interrupt();
    }

    /// The end with its residue; [`Cause::Unspliced`] for a mover that had not ended.
    #[must_use]
    pub fn into_end(mut self) -> End {
        self.end_now(Cause::Unspliced);
        let cause = self.cause().unwrap_or(Cause::Unspliced);
        End {
            cause,
            bytes: self.carried.total(),
            carried: self.carried(),
            residue: self.vessel.into_residue(),
            boundaries: Vec::new(),
        }
    }
}

/// Below this the end of the splice is near, and a mark would only delay it.
const BULK_ALLOWANCE_MIN: u64 = 4 * LOW_WATER_BYTES as u64;

/// When an idle limit is reached if nothing moves before; none without a limit, or where
/// it lies beyond what the clock can say.
pub(crate) fn deadline_after(last: Instant, limit: Option<Duration>) -> Option<Instant> {
    limit.and_then(|limit| last.checked_add(limit))
}

pub(crate) fn is_due(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|deadline| now >= deadline)
}

/// The earlier of two deadlines that may be missing.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn drain_cause(error: &io::Error) -> Cause {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Cause::DrainClosed
    } else {
        Cause::DrainError(OsError::from(error))
    }
}

#[cfg(test)]
mod tests;
