//! What a worker steps: a splice, or a pair of them.

use super::{FlowId, Side};
use crate::completion::Completion;
use crate::datagram::{self, Batch, Plan};
use crate::duplex::{BothEnds, Direction, Duplex, DuplexThen};
use crate::end::{Carried, Cause, End, OsError};
use crate::lane::Lane;
use crate::mover::{self, Need, STEP_BUDGET_BYTES, Then};
use crate::store::Store;
use crate::sys::{self, Pipe, Put, Received, Take};
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How a step left a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stepped {
    Wait,
    Turn,
    Ended,
}

/// A flow on a worker.
pub(crate) trait Flow: Send {
    fn id(&self) -> FlowId;
    fn sides(&self) -> [&Side; 2];
    fn step(&mut self, store: &mut Store, now: Instant) -> Stepped;
    fn deadline(&self) -> Option<Instant>;
    fn unsplice(&mut self, force: bool);
    /// Closes the sides and tells the end; by force if it had none.
    fn finish(self: Box<Self>);
    /// The worker could not take the flow.
    fn fail(self: Box<Self>, errno: Errno);
}

/// A live count of one direction.
///
/// Whoever reads it waits for the write in flight: a byte that the far receiver has
/// seen is in the count.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<Carried>);

impl Counts {
    pub(crate) fn read(&self) -> Carried {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Carried> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ends of either mover on two sides.
struct SideEnds<'f> {
    source: &'f Side,
    drain: &'f Side,
    counts: &'f Counts,
}

impl mover::Ends for SideEnds<'_> {
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Take> {
        let kind = self.source.kind();
        self.source.take(buf.len(), |fd| sys::recv(fd, kind, buf))
    }

    fn fill(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Take> {
        // A short move proves nothing: the pipe may be full by its slots.
        self.source.take(0, |fd| sys::fill(fd, pipe, len))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<Put> {
        let mut counts = self.counts.lock();
        let kind = self.drain.kind();
        let put = self.drain.put(|fd| sys::send(fd, kind, bytes))?;
        if let Put::Bytes(count) = put {
            counts.copy += count as u64;
        }
        Ok(put)
    }

    fn drain(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Put> {
        let mut counts = self.counts.lock();
        let put = self.drain.put(|fd| sys::drain(fd, pipe, len))?;
        if let Put::Bytes(count) = put {
            counts.pipe += count as u64;
        }
        Ok(put)
    }

    fn low_water(&mut self, bytes: Option<u32>) -> io::Result<()> {
        self.source.low_water(bytes)
    }
}

impl datagram::Ends for SideEnds<'_> {
    fn receive(&mut self, batch: &mut Batch, max: usize) -> io::Result<Received> {
        self.source.receive(|fd| Ok(sys::receive(fd, batch, max, false)?))
    }

    fn next_len(&mut self) -> io::Result<Option<usize>> {
        let mut len = None;
        self.source.receive(|fd| {
            len = sys::next_len(fd)?;
            Ok(Received { dry: len.is_none(), dropped: None })
        })?;
        Ok(len)
    }

    fn send(&mut self, batch: &Batch, plan: &Plan) -> io::Result<usize> {
        let mut counts = self.counts.lock();
        let count = self.drain.give(|fd| plan.send(fd, batch, None))?;
        *counts += plan.carried(count);
        Ok(count)
    }

    fn is_over(&self) -> bool {
        self.source.is_over()
    }
}

/// One direction.
pub(crate) struct OneWay {
    pub(crate) id: FlowId,
    pub(crate) source: Side,
    pub(crate) drain: Side,
    pub(crate) lane: Lane,
    pub(crate) counts: Arc<Counts>,
    pub(crate) done: Arc<Completion<End>>,
}

impl Flow for OneWay {
    fn id(&self) -> FlowId {
        self.id
    }

    fn sides(&self) -> [&Side; 2] {
        [&self.source, &self.drain]
    }

    fn step(&mut self, store: &mut Store, now: Instant) -> Stepped {
        let mut ends = SideEnds { source: &self.source, drain: &self.drain, counts: &self.counts };
        let step = self.lane.step(&mut ends, store, now, STEP_BUDGET_BYTES);
        match step.then {
            Then::End(_) => Stepped::Ended,
            // What no call would meet is only seen here: a drain that fails while the
            // source is silent, a source that fails while the drain is full.
            Then::Wait(need) => {
                match self.drain.drain_failure() {
                    Some(Errno::PIPE) => return self.over(Cause::DrainClosed),
                    Some(errno) => return self.over(Cause::DrainError(errno.into())),
                    None => {}
                }
                if need == Need::Drain
                    && let Some(errno) = self.source.pending_error()
                {
                    return self.over(Cause::SourceError(errno.into()));
                }
                if need == Need::Turn { Stepped::Turn } else { Stepped::Wait }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.lane.deadline()
    }

    fn unsplice(&mut self, force: bool) {
        if force {
            self.lane.end_now(Cause::Unspliced);
        } else {
            self.lane.unsplice();
        }
    }

    fn finish(self: Box<Self>) {
        let Self { source, drain, lane, done, .. } = *self;
        let mut end = lane.into_end();
        source.part(&mut end);
        // Before the end is told: whoever hears of it finds its sockets as they were.
        drop((source, drain));
        done.complete(end);
    }

    fn fail(mut self: Box<Self>, errno: Errno) {
        self.lane.end_now(Cause::SourceError(OsError::from(errno)));
        self.finish();
    }
}

impl OneWay {
    fn over(&mut self, cause: Cause) -> Stepped {
        self.lane.end_now(cause);
        Stepped::Ended
    }
}

/// Both directions, with the half-close carried.
pub(crate) struct TwoWay {
    pub(crate) id: FlowId,
    pub(crate) a: Side,
    pub(crate) b: Side,
    pub(crate) duplex: Duplex,
    pub(crate) counts: Arc<[Counts; 2]>,
    pub(crate) done: Arc<Completion<BothEnds>>,
}

impl Flow for TwoWay {
    fn id(&self) -> FlowId {
        self.id
    }

    fn sides(&self) -> [&Side; 2] {
        [&self.a, &self.b]
    }

    fn step(&mut self, store: &mut Store, now: Instant) -> Stepped {
        let (a, b) = (&self.a, &self.b);
        let mut a_to_b = SideEnds { source: a, drain: b, counts: &self.counts[0] };
        let mut b_to_a = SideEnds { source: b, drain: a, counts: &self.counts[1] };
        let fin = |direction, _last| {
            // The peer may be gone already (ENOTCONN), and then knows.
            let _ = sys::shutdown_write(match direction {
                Direction::AToB => b.as_fd(),
                Direction::BToA => a.as_fd(),
            });
        };
        let budget = STEP_BUDGET_BYTES;
        match self.duplex.step(&mut a_to_b, &mut b_to_a, store, now, budget, fin) {
            DuplexThen::End => Stepped::Ended,
            DuplexThen::Wait { a_to_b: there, b_to_a: back } => {
                for (need, side, direction) in
                    [(there, a, Direction::AToB), (back, b, Direction::BToA)]
                {
                    if need == Some(Need::Drain)
                        && let Some(errno) = side.pending_error()
                    {
                        self.duplex.source_failed(direction, errno.into());
                        return Stepped::Ended;
                    }
                }
                if there == Some(Need::Turn) || back == Some(Need::Turn) {
                    Stepped::Turn
                } else {
                    Stepped::Wait
                }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.duplex.deadline()
    }

    fn unsplice(&mut self, force: bool) {
        if force {
            self.duplex.end_now(Cause::Unspliced);
        } else {
            self.duplex.unsplice();
        }
    }

    fn finish(self: Box<Self>) {
        let Self { a, b, duplex, done, .. } = *self;
        let mut ends = duplex.into_ends();
        a.part(&mut ends.a_to_b);
        b.part(&mut ends.b_to_a);
        drop((a, b));
        done.complete(ends);
    }

    fn fail(mut self: Box<Self>, errno: Errno) {
        self.duplex.end_now(Cause::SourceError(OsError::from(errno)));
        self.finish();
    }
}
