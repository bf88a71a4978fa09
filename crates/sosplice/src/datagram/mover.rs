//! One direction of one datagram splice as a state machine: no loop of its own, no
//! thread, no clock, no descriptor.
//!
//! What always holds, whatever the sockets do:
//! * Datagrams leave in the order they came, each once, with its length; empty ones too.
//! * With a byte limit, or a drain whose send buffer is small, each datagram is looked at
//!   before it is taken: one that would not go stays on the source.
//! * A batch is held only while datagrams are in it; what a full drain leaves over is
//!   kept in as many bytes as it has.

use super::batch::{Batch, MESSAGE_BYTES_MAX, MESSAGES_MAX};
use super::plan::{Ability, Plan, Position};
use crate::end::{Carried, Cause, End, OsError};
use crate::mover::{EngineChoice, Limits, Need, Step, Then, deadline_after, is_due};
use crate::store::Store;
use crate::sys::Received;
use rustix::io::Errno;
use std::io;
use std::time::{Duration, Instant};

/// The two sockets of one direction, as the mover sees them. No call may sleep; EINTR is
/// not reported. [`crate::sys`] has the calls for real descriptors.
pub trait Ends {
    /// Receives at most `max` messages into `batch`.
    ///
    /// # Errors
    /// The source's error; it ends the splice.
    fn receive(&mut self, batch: &mut Batch, max: usize) -> io::Result<Received>;

    /// The length of the next datagram, which stays; None where there is none.
    ///
    /// # Errors
    /// The source's error; it ends the splice.
    fn next_len(&mut self) -> io::Result<Option<usize>>;

    /// Sends the groups of `plan`; how many were taken, none for a full drain.
    ///
    /// # Errors
    /// That of the first group, which was not sent.
    fn send(&mut self, batch: &Batch, plan: &Plan) -> io::Result<usize>;

    /// Whether the source will give no more (it was shut down for reading): asked when it
    /// is empty, for a datagram socket reports its end in no other way.
    fn is_over(&self) -> bool;
}

/// One direction: from source to drain.
#[derive(Debug)]
pub struct Mover {
    phase: Phase,
    held: Option<Held>,
    ability: Ability,
    carried: Carried,
    /// Bytes that may still be taken; `u64::MAX` stands for no limit.
    allowance: u64,
    /// A longer datagram does not fit the drain's send buffer.
    message_max: usize,
    idle: Option<Duration>,
    last: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Running,
    Finishing(Cause),
    Ended(Cause),
}

#[derive(Debug)]
struct Held {
    batch: Box<Batch>,
    /// How much of it is out.
    sent: Position,
}

impl Held {
    /// The same in as many bytes as it has; the batch goes back.
    fn compact(self, store: &mut Store) -> Self {
        if !self.batch.has_slots() {
            return self;
        }
        let rest = self.batch.behind(self.sent);
        store.give_batch(self.batch);
        Self { batch: Box::new(rest), sent: Position::default() }
    }
}

impl Mover {
    /// A mover that has moved nothing. `message_max` is the drain's send buffer in bytes.
    #[must_use]
    pub fn new(limits: Limits, message_max: usize, now: Instant) -> Self {
        let ability = match limits.engine {
            EngineChoice::Auto | EngineChoice::Pipe => Ability::ALL,
            EngineChoice::Copy => Ability::PLAIN,
        };
        Self {
            phase: Phase::Running,
            held: None,
            ability,
            carried: Carried::default(),
            allowance: limits.max.unwrap_or(u64::MAX),
            message_max,
            idle: limits.idle,
            last: now,
        }
    }

    /// Moves until an end blocks, about `budget` bytes have moved, or the splice ends.
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
        let before = self.carried;
        let mut then = self.run(ends, store, budget as u64);
        if self.carried.datagrams > before.datagrams {
            self.last = now;
        } else if matches!(then, Then::Wait(_)) && is_due(self.idle_deadline(), now) {
            then = self.end(Cause::Idle);
        }
        Step { moved: self.carried.total() - before.total(), then }
    }

    fn run(&mut self, ends: &mut impl Ends, store: &mut Store, budget: u64) -> Then {
        let begun = self.carried;
        // The source is known to be empty: no call is needed to learn it again.
        let mut dry = false;
        loop {
            match self.pour(ends, store) {
                Ok(true) => {}
                Ok(false) => return Then::Wait(Need::Drain),
                Err(cause) => return self.end(cause),
            }
            if let Phase::Finishing(cause) = self.phase {
                return self.end(cause);
            }
            if self.allowance == 0 {
                return self.end(Cause::Max);
            }
            if dry {
                return if ends.is_over() {
                    self.end(Cause::Eof)
                } else {
                    Then::Wait(Need::Source)
                };
            }
            let moved = self.carried.total() - begun.total();
            let datagrams = self.carried.datagrams - begun.datagrams;
            if moved >= budget || datagrams >= DATAGRAMS_A_STEP {
                return Then::Wait(Need::Turn);
            }
            match self.take(ends, store) {
                Ok(now_dry) => dry = now_dry,
                Err(cause) => return self.end(cause),
            }
        }
    }

    /// Gives what is held; false when the drain is full.
    fn pour(&mut self, ends: &mut impl Ends, store: &mut Store) -> Result<bool, Cause> {
        let Some(mut held) = self.held.take() else { return Ok(true) };
        loop {
            store.plan.fill(&held.batch.messages, held.sent, self.ability);
            if store.plan.is_empty() {
                store.give_batch(held.batch);
                return Ok(true);
            }
            let result = ends.send(&held.batch, &store.plan);
            let error = match result {
                Ok(0) => {
                    self.held = Some(held.compact(store));
                    return Ok(false);
                }
                Ok(count) => {
                    self.carried += store.plan.carried(count);
                    held.sent = store.plan.behind(count);
                    continue;
                }
                Err(error) => error,
            };
            if !self.ability.lower(&error, &store.plan) {
                self.held = Some(held.compact(store));
                return Err(drain_cause(&error));
            }
        }
    }

    /// One receive call; true when the source is empty now.
    fn take(&mut self, ends: &mut impl Ends, store: &mut Store) -> Result<bool, Cause> {
        let failed = |error: io::Error| Cause::SourceError(OsError::from(&error));
        let longest = MESSAGE_BYTES_MAX as u64;
        let careful = self.allowance < longest || self.some_do_not_fit();
        if careful {
            let Some(len) = ends.next_len().map_err(failed)? else { return Ok(true) };
            if len as u64 > self.allowance {
                return Err(Cause::MaxInside);
            }
            if len > self.message_max {
                return Err(Cause::MessageTooLong);
            }
        }
        let fit = usize::try_from(self.allowance / longest).unwrap_or(usize::MAX);
        let max = if careful { 1 } else { fit.min(MESSAGES_MAX) };
        let mut batch = store.batch();
        let received = match ends.receive(&mut batch, max) {
            Ok(received) => received,
            Err(error) => {
                store.give_batch(batch);
                return Err(failed(error));
            }
        };
        if batch.messages.is_empty() {
            store.give_batch(batch);
            return Ok(true);
        }
        if self.allowance != u64::MAX {
            let bytes: u64 = batch.messages.iter().map(|message| message.bytes() as u64).sum();
            self.allowance = self.allowance.saturating_sub(bytes);
        }
        self.held = Some(Held { batch, sent: Position::default() });
        Ok(received.dry)
    }

    /// Whether the source may be told to join datagrams (UDP_GRO): not where each must be
    /// looked at before it is taken, for the look shows the joined ones as one, and not
    /// where each is sent by a call of its own.
    #[must_use]
    pub const fn takes_joined(&self) -> bool {
        self.ability.many && self.allowance == u64::MAX && !self.some_do_not_fit()
    }

    /// A datagram may be longer than what the drain's send buffer takes.
    const fn some_do_not_fit(&self) -> bool {
        self.message_max < MESSAGE_BYTES_MAX
    }

    fn end(&mut self, cause: Cause) -> Then {
        self.phase = Phase::Ended(cause);
        Then::End(cause)
    }

    /// Takes no more from the source; ends with [`Cause::Unspliced`] when what is held has
    /// been given. After an end it changes nothing.
    pub fn unsplice(&mut self) {
        if matches!(self.phase, Phase::Running) {
            self.phase = match self.held {
                None => Phase::Ended(Cause::Unspliced),
                Some(_) => Phase::Finishing(Cause::Unspliced),
            };
        }
    }

    /// Ends at once with `cause`; what is held becomes residue. After an end it changes
    /// nothing.
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

    /// What the drain accepted so far.
    #[must_use]
    pub const fn carried(&self) -> Carried {
        self.carried
    }

    /// The last movement; before it, the beginning.
    pub(crate) const fn last(&self) -> Instant {
        self.last
    }

    /// When the driver must step at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ended(_) => None,
            _ => self.idle_deadline(),
        }
    }

    fn idle_deadline(&self) -> Option<Instant> {
        deadline_after(self.last, self.idle)
    }

    /// The end with its residue; [`Cause::Unspliced`] for a mover that had not ended.
    #[must_use]
    pub fn into_end(mut self) -> End {
        self.end_now(Cause::Unspliced);
        let mut end = End {
            cause: self.cause().unwrap_or(Cause::Unspliced),
            bytes: self.carried.total(),
            carried: self.carried,
            residue: Vec::new(),
            boundaries: Vec::new(),
        };
        if let Some(held) = self.held {
            held.batch.behind(held.sent).append_to(&mut end);
        }
        end
    }
}

/// Datagrams that one flow may move before the next one has its turn, about.
const DATAGRAMS_A_STEP: u64 = 1024;

fn drain_cause(error: &io::Error) -> Cause {
    match Errno::from_io_error(error) {
        Some(Errno::PIPE) => Cause::DrainClosed,
        Some(Errno::MSGSIZE) => Cause::MessageTooLong,
        _ => Cause::DrainError(OsError::from(error)),
    }
}

#[cfg(test)]
mod tests;
