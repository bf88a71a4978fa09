//! The mover's ends on two tokio sockets: each call under the readiness that it
//! consumes.

use super::Socket;
use super::socket::Failed;
use crate::end::OsError;
use crate::error::Error;
use crate::mover::{Ends, Need};
use crate::sys::{self, Kind, LowWater, Pipe, Put, Take};
use rustix::net::sockopt;
use std::io;
use std::task::Context;
use tokio::io::Interest;

/// A socket and what a splice keeps about it.
pub(super) struct End<'s, S: Socket + ?Sized> {
    pub(super) socket: &'s S,
    kind: Kind,
    /// Set while it is the source of a flow in bulk.
    mark: LowWater,
    /// Made when first its drain was full, and kept.
    failed: Option<Failed<'s>>,
}

impl<'s, S: Socket + ?Sized> End<'s, S> {
    pub(super) fn new(socket: &'s S, end: &'static str) -> io::Result<Self> {
        let kind = socket.kind()?;
        if let Some(kind) = kind.keeps_messages() {
            return Err(Error::NotAStream { end, kind }.into());
        }
        Ok(Self { socket, kind, mark: LowWater::default(), failed: None })
    }

    pub(super) fn can_pipe(&self) -> bool {
        self.kind.can_pipe() && self.socket.is_nonblocking()
    }

    /// The error of this source, whose drain is full; the task is woken when there is one.
    pub(super) fn poll_failure(&mut self, cx: &mut Context<'_>) -> Option<OsError> {
        let socket = self.socket;
        let failed = self.failed.get_or_insert_with(|| socket.failed());
        if failed.as_mut().poll(cx).is_pending() {
            return None;
        }
        // One that was met elsewhere is gone, and the next call on the socket says so.
        self.failed = Some(Box::pin(std::future::pending()));
        sockopt::socket_error(socket).ok().and_then(Result::err).map(OsError::from)
    }
}

impl<S: Socket + ?Sized> Drop for End<'_, S> {
    fn drop(&mut self) {
        // A socket that is gone needs no mark.
        let _ = self.mark.set(self.socket, self.kind, None);
    }
}

/// One direction between two ends.
pub(super) struct TokioEnds<'e, S: Socket + ?Sized, D: Socket + ?Sized> {
    source: &'e S,
    drain: &'e D,
    source_kind: Kind,
    drain_kind: Kind,
    mark: &'e mut LowWater,
}

impl<'e, S: Socket + ?Sized, D: Socket + ?Sized> TokioEnds<'e, S, D> {
    pub(super) fn one_way(source: &'e mut End<'_, S>, drain: &'e mut End<'_, D>) -> Self {
        TokioEnds {
            source: source.socket,
            drain: drain.socket,
            source_kind: source.kind,
            drain_kind: drain.kind,
            mark: &mut source.mark,
        }
    }

    pub(super) fn both_ways(
        a: &'e mut End<'_, S>,
        b: &'e mut End<'_, D>,
    ) -> (Self, TokioEnds<'e, D, S>) {
        let there = TokioEnds {
            source: a.socket,
            drain: b.socket,
            source_kind: a.kind,
            drain_kind: b.kind,
            mark: &mut a.mark,
        };
        let back = TokioEnds {
            source: b.socket,
            drain: a.socket,
            source_kind: b.kind,
            drain_kind: a.kind,
            mark: &mut b.mark,
        };
        (there, back)
    }

    /// Arranges the wake-up; true when the need is met already.
    pub(super) fn poll_need(&self, need: Need, cx: &mut Context<'_>) -> bool {
        match need {
            // An error of the runtime shows again in the call that follows.
            Need::Source => self.source.poll_read_ready(cx).is_ready(),
            Need::Drain => self.drain.poll_write_ready(cx).is_ready(),
            Need::Turn => {
                cx.waker().wake_by_ref();
                false
            }
        }
    }
}

impl<S: Socket + ?Sized, D: Socket + ?Sized> Ends for TokioEnds<'_, S, D> {
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Take> {
        let believed = self.source.short_read_is_dry();
        take(self.source, || match sys::recv(self.source, self.source_kind, buf)? {
            Take::Bytes { count, .. } if count < buf.len() && believed => {
                Ok(Take::Bytes { count, dry: true })
            }
            taken => Ok(taken),
        })
    }

    fn fill(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Take> {
        take(self.source, || sys::fill(self.source, pipe, len))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<Put> {
        put(self.drain, || sys::send(self.drain, self.drain_kind, bytes))
    }

    fn drain(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Put> {
        put(self.drain, || sys::drain(self.drain, pipe, len))
    }

    fn low_water(&mut self, bytes: Option<u32>) -> io::Result<()> {
        self.mark.set(self.source, self.source_kind, bytes)
    }
}

/// Reads under the source's readiness, and clears it when the source is found empty.
fn take<S: Socket + ?Sized>(
    source: &S,
    call: impl FnOnce() -> io::Result<Take>,
) -> io::Result<Take> {
    let mut taken = Take::Empty;
    let result = source.try_io(Interest::READABLE, || {
        taken = call()?;
        match taken {
            Take::Empty | Take::Bytes { dry: true, .. } => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(taken),
    }
}

/// Writes under the drain's readiness, and clears it when the drain is found full.
fn put<D: Socket + ?Sized>(drain: &D, call: impl FnOnce() -> io::Result<Put>) -> io::Result<Put> {
    let mut given = Put::Full;
    let result = drain.try_io(Interest::WRITABLE, || {
        given = call()?;
        match given {
            Put::Full => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(given),
    }
}
