//! The mover's ends on two tokio sockets: each call under the readiness that it
//! consumes.

use super::Socket;
use crate::error::Error;
use crate::mover::{Ends, Need};
use crate::sys::{self, Kind, LowWater, Pipe, Put, Take};
use std::io;
use std::task::Context;
use tokio::io::Interest;

pub(super) struct TokioEnds<'s, S: Socket + ?Sized, D: Socket + ?Sized> {
    pub(super) source: &'s S,
    pub(super) drain: &'s D,
    source_kind: Kind,
    drain_kind: Kind,
    can_pipe: bool,
    mark: LowWater,
}

impl<'s, S: Socket + ?Sized, D: Socket + ?Sized> TokioEnds<'s, S, D> {
    pub(super) fn new(source: &'s S, drain: &'s D) -> io::Result<Self> {
        let (source_kind, drain_kind) = (source.kind()?, drain.kind()?);
        if let Kind::Message(kind) = source_kind {
            return Err(Error::NotAStream { end: "source", kind }.into());
        }
        if let Kind::Message(kind) = drain_kind {
            return Err(Error::NotAStream { end: "drain", kind }.into());
        }
        let can_pipe = source_kind.can_pipe()
            && drain_kind.can_pipe()
            && source.is_nonblocking()
            && drain.is_nonblocking();
        Ok(Self { source, drain, source_kind, drain_kind, can_pipe, mark: LowWater::default() })
    }

    pub(super) fn reversed(&self) -> TokioEnds<'s, D, S> {
        TokioEnds {
            source: self.drain,
            drain: self.source,
            source_kind: self.drain_kind,
            drain_kind: self.source_kind,
            can_pipe: self.can_pipe,
            mark: LowWater::default(),
        }
    }

    pub(super) fn can_pipe(&self) -> bool {
        self.can_pipe
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

impl<S: Socket + ?Sized, D: Socket + ?Sized> Drop for TokioEnds<'_, S, D> {
    fn drop(&mut self) {
        // A socket that is gone needs no mark.
        let _ = self.mark.set(self.source, self.source_kind, None);
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
