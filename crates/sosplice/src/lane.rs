//! What carries one direction: a stream's bytes, or messages with their boundaries.
//!
//! Both movers have the same life, so that flows, pairs and tasks need not know which of
//! them they hold. Which it is follows from the two sockets, here and nowhere else: two
//! UDP sockets, or two ends without message boundaries. The rare one is boxed: a relay of
//! TCP keeps two lanes a connection.

use crate::datagram;
use crate::end::{Cause, End};
use crate::error::Error;
use crate::mover::{self, Limits, Mover, Step};
use crate::store::Store;
use crate::sys::{self, Kind};
use rustix::fd::BorrowedFd;
use std::time::Instant;

/// The two sockets of a direction, whatever it carries.
pub(crate) trait Ends: mover::Ends + datagram::Ends {}

impl<E: mover::Ends + datagram::Ends> Ends for E {}

/// One socket as its driver knows it, for the set-up.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint<'e> {
    pub(crate) fd: BorrowedFd<'e>,
    pub(crate) kind: Kind,
    /// splice(2) may be tried.
    pub(crate) can_pipe: bool,
    /// For the caller's errors: `source`, `first socket`.
    pub(crate) name: &'static str,
}

#[derive(Debug)]
pub(crate) enum Lane {
    Stream(Mover),
    Messages(Box<datagram::Mover>),
}

impl Lane {
    /// The lane for these two sockets.
    ///
    /// # Errors
    /// One carries bytes and the other messages; or the drain is a datagram socket that
    /// is not connected.
    pub(crate) fn new(
        limits: Limits,
        source: Endpoint<'_>,
        drain: Endpoint<'_>,
        now: Instant,
    ) -> Result<Self, Error> {
        match (source.kind, drain.kind) {
            (Kind::Udp, Kind::Udp) => {
                // A source takes from anyone, but where to send must be known.
                if rustix::net::getpeername(drain.fd).is_err() {
                    return Err(Error::NotConnected { end: drain.name });
                }
                let room = sys::send_buffer(drain.fd).map_err(Error::setup("getsockopt"))?;
                Ok(Self::Messages(Box::new(datagram::Mover::new(limits, room, now))))
            }
            (Kind::Udp, _) => Err(Error::Mixed { messages: source.name, stream: drain.name }),
            (_, Kind::Udp) => Err(Error::Mixed { messages: drain.name, stream: source.name }),
            _ => {
                let can_pipe = source.can_pipe && drain.can_pipe;
                Ok(Self::Stream(Mover::new(limits, can_pipe, now)))
            }
        }
    }

    /// Boundaries are kept. There is no half-close then, and an error of a socket is no
    /// end of one direction: whichever call comes first is told of it, once.
    pub(crate) fn keeps_messages(&self) -> bool {
        matches!(self, Self::Messages(_))
    }

    /// Whether the source may be told to join datagrams.
    pub(crate) fn takes_joined(&self) -> bool {
        match self {
            Self::Stream(_) => false,
            Self::Messages(mover) => mover.takes_joined(),
        }
    }

    pub(crate) fn step(
        &mut self,
        ends: &mut impl Ends,
        store: &mut Store,
        now: Instant,
        budget: usize,
    ) -> Step {
        match self {
            Self::Stream(mover) => mover.step(ends, store, now, budget),
            Self::Messages(mover) => mover.step(ends, store, now, budget),
        }
    }

    pub(crate) fn cause(&self) -> Option<Cause> {
        match self {
            Self::Stream(mover) => mover.cause(),
            Self::Messages(mover) => mover.cause(),
        }
    }

    #[cfg(any(test, feature = "tokio"))]
    pub(crate) fn carried(&self) -> crate::end::Carried {
        match self {
            Self::Stream(mover) => mover.carried(),
            Self::Messages(mover) => mover.carried(),
        }
    }

    /// The last movement; before it, the beginning.
    pub(crate) fn last(&self) -> Instant {
        match self {
            Self::Stream(mover) => mover.last(),
            Self::Messages(mover) => mover.last(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Stream(mover) => mover.deadline(),
            Self::Messages(mover) => mover.deadline(),
        }
    }

    /// Something went the other way between the same sockets.
    pub(crate) fn answered(&mut self) {
        match self {
            Self::Stream(mover) => mover.answered(),
            // Batches are what has come, and wait for nothing.
            Self::Messages(_) => {}
        }
    }

    pub(crate) fn unsplice(&mut self) {
        match self {
            Self::Stream(mover) => mover.unsplice(),
            Self::Messages(mover) => mover.unsplice(),
        }
    }

    pub(crate) fn end_now(&mut self, cause: Cause) {
        match self {
            Self::Stream(mover) => mover.end_now(cause),
            Self::Messages(mover) => mover.end_now(cause),
        }
    }

    pub(crate) fn into_end(self) -> End {
        match self {
            Self::Stream(mover) => mover.into_end(),
            Self::Messages(mover) => mover.into_end(),
        }
    }
}
