//! Both directions between two sockets, as a pure value over two lanes.
//!
//! What it adds to them: the half-close is carried (the end of file of one side
//! becomes a FIN to the other, behind the last byte, while the other direction runs
//! on), a failed source fails the opposite direction, and one idle limit serves
//! both, so that a download does not end because nothing is uploaded. Datagrams have no
//! half-close, and a socket that fails is of no use either way.

use crate::end::{Cause, End, OsError};
use crate::error::Error;
use crate::lane::{Endpoint, Ends, Lane};
use crate::mover::{Limits, Need, Step, Then, deadline_after, earlier, is_due};
use crate::store::Store;
use std::time::{Duration, Instant};

/// What happens to the other direction when one has reached its byte limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMax {
    /// It runs on to an end of its own.
    #[default]
    EndDirection,
    /// It gives what it holds and ends with [`Cause::Unspliced`].
    EndBoth,
}

/// How both directions ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BothEnds {
    /// From the first socket to the second.
    pub a_to_b: End,
    /// From the second socket to the first.
    pub b_to_a: End,
}

impl BothEnds {
    /// The first cause worth telling: a failure or a limit before `Eof`.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self.a_to_b.cause {
            Cause::Eof | Cause::Unspliced => self.b_to_a.cause,
            cause => cause,
        }
    }
}

/// A direction of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    AToB,
    BToA,
}

/// How a step left the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DuplexThen {
    /// Each direction that still runs waits for what it needs.
    Wait { a_to_b: Option<Need>, b_to_a: Option<Need> },
    /// Both directions have ended.
    End,
}

#[derive(Debug)]
pub(crate) struct Duplex {
    a_to_b: Lane,
    b_to_a: Lane,
    idle: Option<Duration>,
    /// Once one direction has ended.
    half_closed: HalfClosed,
    on_max: OnMax,
}

/// How long the second direction may be silent when the first has ended.
#[derive(Clone, Copy, Debug, Default)]
struct HalfClosed {
    limit: Option<Duration>,
    since: Option<Instant>,
}

impl Duplex {
    /// Joins two lanes, which `one_way` makes with the limits of a direction: the idle
    /// limit is the pair's.
    ///
    /// # Errors
    /// Those of `one_way`.
    pub(crate) fn new<E>(
        limits: Limits,
        on_max: OnMax,
        mut one_way: impl FnMut(Direction, Limits) -> Result<Lane, E>,
    ) -> Result<Self, E> {
        let each = Limits { idle: None, ..limits };
        Ok(Self {
            a_to_b: one_way(Direction::AToB, each)?,
            b_to_a: one_way(Direction::BToA, each)?,
            idle: limits.idle,
            half_closed: HalfClosed::default(),
            on_max,
        })
    }

    /// Joins two sockets, each the source of one direction and the drain of the other.
    ///
    /// # Errors
    /// Those of [`Lane::new`].
    pub(crate) fn between(
        limits: Limits,
        on_max: OnMax,
        a: Endpoint<'_>,
        b: Endpoint<'_>,
        now: Instant,
    ) -> Result<Self, Error> {
        Self::new(limits, on_max, |direction, limits| match direction {
            Direction::AToB => Lane::new(limits, a, b, now),
            Direction::BToA => Lane::new(limits, b, a, now),
        })
    }

    /// See [`Both::half_closed`](crate::tokio::Both::half_closed).
    #[cfg(any(test, feature = "tokio"))]
    pub(crate) fn set_half_closed(&mut self, limit: Option<Duration>) {
        self.half_closed.limit = limit;
    }

    /// See [`Lane::keeps_messages`]: both directions do, or none.
    #[cfg(feature = "tokio")]
    pub(crate) fn keeps_messages(&self) -> bool {
        self.a_to_b.keeps_messages()
    }

    /// See [`Lane::takes_joined`], for the source of each direction.
    pub(crate) fn takes_joined(&self) -> (bool, bool) {
        (self.a_to_b.takes_joined(), self.b_to_a.takes_joined())
    }

    /// Steps each direction that still runs. `fin(direction, last)` is called when a
    /// direction has reached its end of file and all of it is out: it is to shut down
    /// that direction's drain for writing; `last` says that the other direction had
    /// ended before, so that closing both would do as well.
    pub(crate) fn step(
        &mut self,
        a_to_b: &mut impl Ends,
        b_to_a: &mut impl Ends,
        store: &mut Store,
        now: Instant,
        budget: usize,
        mut fin: impl FnMut(Direction, bool),
    ) -> DuplexThen {
        let (mut moved_up, mut moved_down) = (0, 0);
        let up = step_one(
            &mut self.a_to_b,
            &mut self.b_to_a,
            self.on_max,
            &mut moved_up,
            |lane| lane.step(a_to_b, store, now, budget),
            |last| fin(Direction::AToB, last),
        );
        let down = step_one(
            &mut self.b_to_a,
            &mut self.a_to_b,
            self.on_max,
            &mut moved_down,
            |lane| lane.step(b_to_a, store, now, budget),
            |last| fin(Direction::BToA, last),
        );
        if moved_up > 0 {
            self.b_to_a.answered();
        }
        if moved_down > 0 {
            self.a_to_b.answered();
        }
        // The second direction's end may have ended the first.
        let up = if self.a_to_b.cause().is_some() { None } else { up };
        if up.is_none() && down.is_none() {
            return DuplexThen::End;
        }
        if (up.is_none() || down.is_none()) && self.half_closed.since.is_none() {
            self.half_closed.since = Some(now);
        }
        if moved_up + moved_down == 0 && is_due(self.idle_deadline(), now) {
            self.end_now(Cause::Idle);
            return DuplexThen::End;
        }
        DuplexThen::Wait { a_to_b: up, b_to_a: down }
    }

    /// When the driver must step at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let lanes = earlier(self.a_to_b.deadline(), self.b_to_a.deadline());
        earlier(self.idle_deadline(), lanes)
    }

    /// Counts from the last movement either way, and the half-closed limit also from the end
    /// of the first direction.
    fn idle_deadline(&self) -> Option<Instant> {
        let last = self.a_to_b.last().max(self.b_to_a.last());
        let idle = deadline_after(last, self.idle);
        let HalfClosed { limit, since } = self.half_closed;
        earlier(idle, since.and_then(|since| deadline_after(last.max(since), limit)))
    }

    #[cfg(any(test, feature = "tokio"))]
    pub(crate) fn carried(&self) -> (crate::end::Carried, crate::end::Carried) {
        (self.a_to_b.carried(), self.b_to_a.carried())
    }

    /// Takes no more from either side; what is held is still given.
    pub(crate) fn unsplice(&mut self) {
        self.a_to_b.unsplice();
        self.b_to_a.unsplice();
    }

    /// The source of a direction has failed, which no read has met: both are over.
    pub(crate) fn source_failed(&mut self, direction: Direction, error: OsError) {
        let (failed, other) = match direction {
            Direction::AToB => (&mut self.a_to_b, &mut self.b_to_a),
            Direction::BToA => (&mut self.b_to_a, &mut self.a_to_b),
        };
        failed.end_now(Cause::SourceError(error));
        other.end_now(Cause::DrainError(error));
    }

    /// Ends both directions at once with `cause`; what is held becomes residue.
    pub(crate) fn end_now(&mut self, cause: Cause) {
        self.a_to_b.end_now(cause);
        self.b_to_a.end_now(cause);
    }

    pub(crate) fn into_ends(self) -> BothEnds {
        BothEnds { a_to_b: self.a_to_b.into_end(), b_to_a: self.b_to_a.into_end() }
    }
}

fn step_one(
    lane: &mut Lane,
    other: &mut Lane,
    on_max: OnMax,
    moved: &mut u64,
    step: impl FnOnce(&mut Lane) -> Step,
    fin: impl FnOnce(bool),
) -> Option<Need> {
    if lane.cause().is_some() {
        return None;
    }
    let step = step(lane);
    *moved += step.moved;
    let cause = match step.then {
        Then::Wait(need) => return Some(need),
        Then::End(cause) => cause,
    };
    match cause {
        // There is no message that would tell the peer.
        Cause::Eof if lane.keeps_messages() => {}
        Cause::Eof => fin(other.cause().is_some()),
        // Nobody is left to read what the other direction brings.
        Cause::SourceError(error) => other.end_now(Cause::DrainError(error)),
        // Whether send or recv is told of a refusal is chance; to both it means the same.
        Cause::DrainError(error) if lane.keeps_messages() => {
            other.end_now(Cause::SourceError(error));
        }
        Cause::Max | Cause::MaxInside if on_max == OnMax::EndBoth => other.unsplice(),
        // A drain that takes no more may still have bytes to give: the other
        // direction finds its own end.
        _ => {}
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::{self, Batch, Message, Plan};
    use crate::mover;
    use crate::sys::{Pipe, Put, Received, Take};
    use std::convert::Infallible;
    use std::io;

    /// A source with so many empty datagrams, and a drain that takes them.
    struct Empties(usize);

    impl datagram::Ends for Empties {
        fn receive(&mut self, batch: &mut Batch, max: usize) -> io::Result<Received> {
            batch.clear();
            for _ in 0..self.0.min(max) {
                batch.messages.push(Message { at: 0, len: 0, segment: 0 });
            }
            self.0 -= batch.messages.len();
            Ok(Received { dry: self.0 == 0, dropped: None })
        }

        fn next_len(&mut self) -> io::Result<Option<usize>> {
            Ok((self.0 > 0).then_some(0))
        }

        fn send(&mut self, _: &Batch, plan: &Plan) -> io::Result<usize> {
            Ok(plan.groups.len())
        }

        fn is_over(&self) -> bool {
            false
        }
    }

    impl mover::Ends for Empties {
        fn recv(&mut self, _: &mut [u8]) -> io::Result<Take> {
            unreachable!()
        }

        fn fill(&mut self, _: &mut Pipe, _: usize) -> io::Result<Take> {
            unreachable!()
        }

        fn send(&mut self, _: &[u8]) -> io::Result<Put> {
            unreachable!()
        }

        fn drain(&mut self, _: &mut Pipe, _: usize) -> io::Result<Put> {
            unreachable!()
        }

        fn low_water(&mut self, _: Option<u32>) -> io::Result<()> {
            unreachable!()
        }
    }

    #[test]
    fn a_pair_that_carries_empty_datagrams_is_not_idle() {
        let (second, begin) = (Duration::from_secs(1), Instant::now());
        let limits = Limits { idle: Some(second), ..Limits::default() };
        let one_way =
            |_, limits| Ok(Lane::Messages(Box::new(datagram::Mover::new(limits, 1 << 20, begin))));
        let Ok(mut pair) = Duplex::new::<Infallible>(limits, OnMax::EndDirection, one_way);
        let mut store = Store::default();
        let mut step = |pair: &mut Duplex, count, now| {
            let (mut up, mut down) = (Empties(count), Empties(0));
            pair.step(&mut up, &mut down, &mut store, now, 1, |_, _| unreachable!())
        };
        let waits = DuplexThen::Wait { a_to_b: Some(Need::Source), b_to_a: Some(Need::Source) };
        assert_eq!(step(&mut pair, 1, begin + second), waits);
        assert_eq!(pair.deadline(), Some(begin + 2 * second));
        assert_eq!(step(&mut pair, 0, begin + 2 * second), DuplexThen::End);
        assert_eq!(pair.into_ends().cause(), Cause::Idle);
    }

    #[test]
    fn a_half_closed_pair_waits_so_long_for_the_other_side() {
        let (second, begin) = (Duration::from_secs(1), Instant::now());
        let one_way =
            |_, limits| Ok(Lane::Messages(Box::new(datagram::Mover::new(limits, 1 << 20, begin))));
        let limits = Limits { idle: Some(10 * second), ..Limits::default() };
        let Ok(mut pair) = Duplex::new::<Infallible>(limits, OnMax::EndDirection, one_way);
        pair.set_half_closed(Some(second));
        let mut store = Store::default();
        let mut step = |pair: &mut Duplex, count, now| {
            let (mut up, mut down) = (Empties(0), Empties(count));
            pair.step(&mut up, &mut down, &mut store, now, 1, |_, _| {})
        };
        step(&mut pair, 0, begin);
        assert_eq!(pair.deadline(), Some(begin + 10 * second), "both are open");
        pair.a_to_b.end_now(Cause::Eof);
        step(&mut pair, 0, begin + second);
        assert_eq!(pair.deadline(), Some(begin + 2 * second), "counts from the half-close");
        let half_closed = DuplexThen::Wait { a_to_b: None, b_to_a: Some(Need::Source) };
        assert_eq!(step(&mut pair, 1, begin + 2 * second), half_closed, "what moves keeps it");
        assert_eq!(pair.deadline(), Some(begin + 3 * second));
        assert_eq!(step(&mut pair, 0, begin + 3 * second), DuplexThen::End);
        assert_eq!(pair.into_ends().cause(), Cause::Idle);
    }
}
