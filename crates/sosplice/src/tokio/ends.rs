//! The ends of either mover on two tokio sockets: each call under the readiness that it
//! consumes.

use super::Socket;
use super::socket::Failed;
use crate::datagram::{self, Batch, Joining, Plan};
use crate::end::{self, OsError};
use crate::error::Error;
use crate::lane::Endpoint;
use crate::mover::{self, Need};
use crate::sys::{self, Kind, LowWater, Pipe, Put, Received, Take};
use rustix::net::sockopt;
use std::io;
use std::task::Context;
use tokio::io::Interest;

/// A socket and what a splice keeps about it.
pub(super) struct End<'s, S: Socket + ?Sized> {
    pub(super) socket: &'s S,
    kind: Kind,
    /// Begun when it is the source of datagrams.
    joining: Joining,
    /// Set while it is the source of a flow in bulk.
    mark: LowWater,
    /// Made when it is first needed, and kept.
    failed: Option<Failed<'s>>,
}

impl<'s, S: Socket + ?Sized> End<'s, S> {
    pub(super) fn new(socket: &'s S, end: &'static str) -> io::Result<Self> {
        let kind = socket.kind()?;
        if let Some(kind) = kind.keeps_messages() {
            return Err(Error::NotAStream { end, kind }.into());
        }
        let joining = Joining::default();
        Ok(Self { socket, kind, joining, mark: LowWater::default(), failed: None })
    }

    pub(super) fn endpoint(&self, name: &'static str) -> Endpoint<'_> {
        let can_pipe = self.kind.can_pipe() && self.socket.is_nonblocking();
        Endpoint { fd: self.socket.as_fd(), kind: self.kind, can_pipe, name }
    }

    /// Lets the kernel join datagrams here, until [`part`](Self::part).
    pub(super) fn join(&mut self) {
        self.joining.begin(self.socket);
    }

    /// The splice that reads here has ended so.
    pub(super) fn part(&mut self, end: &mut end::End) {
        self.joining.end(self.socket, Some(end));
    }

    /// The error of this socket; the task is woken when there is one. For a source whose
    /// drain is full, and for datagrams.
    pub(super) fn poll_failure(&mut self, cx: &mut Context<'_>) -> Option<OsError> {
        let socket = self.socket;
        // An error that a call has met is gone; the next one, which only datagrams know,
        // is waited for anew.
        for _ in 0..2 {
            let failed = self.failed.get_or_insert_with(|| socket.failed());
            if failed.as_mut().poll(cx).is_pending() {
                return None;
            }
            self.failed = None;
            let error = socket.try_io(Interest::ERROR, || {
                let error = sockopt::socket_error(socket)?.err();
                error.ok_or_else(|| io::ErrorKind::WouldBlock.into())
            });
            if let Ok(error) = error {
                return Some(error.into());
            }
        }
        // The runtime goes on telling of it: it is shutting down.
        self.failed = Some(Box::pin(std::future::pending()));
        None
    }
}

impl<S: Socket + ?Sized> Drop for End<'_, S> {
    fn drop(&mut self) {
        // A socket that is gone needs no mark.
        let _ = self.mark.set(self.socket, self.kind, None);
        self.joining.end(self.socket, None);
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

impl<S: Socket + ?Sized, D: Socket + ?Sized> mover::Ends for TokioEnds<'_, S, D> {
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

impl<S: Socket + ?Sized, D: Socket + ?Sized> datagram::Ends for TokioEnds<'_, S, D> {
    fn receive(&mut self, batch: &mut Batch, max: usize) -> io::Result<Received> {
        let nothing = Received { dry: true, dropped: None };
        let receive = || Ok(sys::receive(self.source, batch, max, false)?);
        ready(self.source, Interest::READABLE, nothing, receive, |received| received.dry)
    }

    fn next_len(&mut self) -> io::Result<Option<usize>> {
        let next_len = || Ok(sys::next_len(self.source)?);
        ready(self.source, Interest::READABLE, None, next_len, Option::is_none)
    }

    fn send(&mut self, batch: &Batch, plan: &Plan) -> io::Result<usize> {
        let send = || plan.send(self.drain, batch, None);
        ready(self.drain, Interest::WRITABLE, 0, send, |count| *count == 0)
    }

    fn is_over(&self) -> bool {
        // The source was found empty, which cleared its readiness; but the runtime never
        // forgets a shutdown. So the kernel is asked only where there may be one.
        self.source.try_io(Interest::READABLE, || Ok(())).is_ok() && sys::is_over(self.source)
    }
}

/// Reads under the source's readiness, and clears it when the source is found empty.
fn take<S: Socket + ?Sized>(
    source: &S,
    call: impl FnOnce() -> io::Result<Take>,
) -> io::Result<Take> {
    ready(source, Interest::READABLE, Take::Empty, call, |taken| {
        matches!(taken, Take::Empty | Take::Bytes { dry: true, .. })
    })
}

/// Writes under the drain's readiness, and clears it when the drain is found full.
fn put<D: Socket + ?Sized>(drain: &D, call: impl FnOnce() -> io::Result<Put>) -> io::Result<Put> {
    ready(drain, Interest::WRITABLE, Put::Full, call, |given| *given == Put::Full)
}

/// Calls under the readiness of `interest`, and clears it when the call says that it is
/// `spent`; the answer is `blocked` where there is no readiness.
fn ready<S: Socket + ?Sized, R>(
    socket: &S,
    interest: Interest,
    blocked: R,
    call: impl FnOnce() -> io::Result<R>,
    spent: impl FnOnce(&R) -> bool,
) -> io::Result<R> {
    let mut answer = blocked;
    let result = socket.try_io(interest, || {
        answer = call()?;
        if spent(&answer) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(answer),
    }
}
