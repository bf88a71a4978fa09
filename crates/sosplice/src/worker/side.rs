//! One socket of a flow: its descriptor, and what epoll has said of it.

use crate::datagram::Joining;
use crate::end::End;
use crate::error::Error;
use crate::lane::Endpoint;
use crate::nonblock::Nonblock;
use crate::sys::{self, Kind, LowWater, Put, Received, Take};
use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::io;

/// A socket with a descriptor of its own: the caller may close his while the splice
/// runs. Both directions of a pair share it, hence the cell.
#[derive(Debug)]
pub(crate) struct Side {
    fd: OwnedFd,
    kind: Kind,
    ready: Cell<Ready>,
    nonblock: Nonblock,
    /// For the caller's errors.
    name: &'static str,
    room: Cell<Room>,
    /// Set while this side is the source of a flow in bulk.
    mark: RefCell<LowWater>,
    /// Begun when this side is the source of datagrams.
    joining: RefCell<Joining>,
}

/// Whether epoll is to tell of room to write.
///
/// A datagram socket tells of it whenever a datagram has left its buffer: a wake-up for
/// each, and for nothing as long as it is never full. So it is asked only from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Unasked,
    /// It was found full, and epoll is not told yet.
    Wanted,
    Asked,
}

/// What may be tried. Kept until a call finds otherwise.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    read: bool,
    write: bool,
    /// The peer has sent its end, or the connection is gone: a short read proves
    /// nothing, for no further edge will come.
    hung_up: bool,
    /// Urgent data was seen: a short read proves nothing.
    urgent: bool,
    /// An error is pending.
    error: bool,
    /// It was shut down for reading; of datagrams, what is queued comes still.
    over: bool,
    /// Both directions of the connection are over: nothing can be sent.
    dead: bool,
    /// Not to be waited for (a regular file).
    always: bool,
}

impl Side {
    /// What epoll is to tell.
    pub(super) fn interest(&self) -> EventFlags {
        let always = EventFlags::IN | EventFlags::RDHUP | EventFlags::PRI | EventFlags::ET;
        match self.room.get() {
            Room::Unasked => always,
            Room::Wanted | Room::Asked => always | EventFlags::OUT,
        }
    }

    /// True once, when the [`interest`](Self::interest) has grown. Telling epoll of it
    /// brings an event where there is room already.
    pub(super) fn wants_more(&self) -> bool {
        self.room.get() == Room::Wanted && {
            self.room.set(Room::Asked);
            true
        }
    }

    /// Duplicates `fd`, checks that it can be `end` of a splice, and sets O_NONBLOCK
    /// until the side is dropped; not on a datagram socket, which no call here sleeps on.
    pub(crate) fn new(fd: BorrowedFd<'_>, end: &'static str) -> Result<Self, Error> {
        let kind = sys::kind(fd).map_err(Error::setup("getsockopt"))?;
        if let Some(kind) = kind.keeps_messages() {
            return Err(Error::NotAStream { end, kind });
        }
        if !matches!(kind, Kind::File | Kind::Udp) {
            if sys::is_listening(fd).map_err(Error::setup("getsockopt"))? {
                return Err(Error::Listening { end });
            }
            if !is_connected(fd) {
                return Err(Error::NotConnected { end });
            }
        }
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(Error::setup("fcntl"))?;
        let nonblock = match kind {
            Kind::Udp => Nonblock::default(),
            _ => Nonblock::hold(&fd).map_err(Error::setup("fcntl"))?,
        };
        let (room, write) = match kind {
            Kind::Udp => (Room::Unasked, true),
            _ => (Room::Asked, false),
        };
        Ok(Self {
            fd,
            kind,
            ready: Cell::new(Ready { write, ..Ready::default() }),
            nonblock,
            name: end,
            room: Cell::new(room),
            mark: RefCell::default(),
            joining: RefCell::default(),
        })
    }

    pub(crate) fn endpoint(&self) -> Endpoint<'_> {
        let can_pipe = self.kind.can_pipe();
        Endpoint { fd: self.as_fd(), kind: self.kind, can_pipe, name: self.name }
    }

    /// Lets the kernel join datagrams here, until [`part`](Self::part).
    pub(crate) fn join(&self) {
        self.joining.borrow_mut().begin(&self.fd);
    }

    /// The splice that reads here has ended so.
    pub(super) fn part(&self, end: &mut End) {
        self.joining.borrow_mut().end(&self.fd, Some(end));
    }

    pub(super) fn note(&self, flags: EventFlags) {
        let mut ready = self.ready.get();
        let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        ready.read |= flags.intersects(EventFlags::IN | EventFlags::PRI | gone);
        ready.write |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
        ready.hung_up |= flags.intersects(gone);
        ready.urgent |= flags.contains(EventFlags::PRI);
        ready.error |= flags.contains(EventFlags::ERR);
        ready.over |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
        ready.dead |= flags.contains(EventFlags::HUP);
        self.ready.set(ready);
    }

    pub(super) fn always_ready(&self) {
        self.ready.set(Ready { read: true, write: true, always: true, ..Ready::default() });
    }

    /// The connection's pending error, if epoll has told of one. It is told once.
    pub(super) fn pending_error(&self) -> Option<Errno> {
        let mut ready = self.ready.get();
        if !std::mem::take(&mut ready.error) {
            return None;
        }
        self.ready.set(ready);
        rustix::net::sockopt::socket_error(&self.fd).ok().and_then(Result::err)
    }

    /// What is wrong with this side as a drain, seen without sending: its pending error,
    /// or EPIPE where the connection is over.
    pub(super) fn drain_failure(&self) -> Option<Errno> {
        self.pending_error().or_else(|| self.ready.get().dead.then_some(Errno::PIPE))
    }

    /// Runs a read if the side may be readable.
    pub(super) fn take(
        &self,
        room: usize,
        call: impl FnOnce(&OwnedFd) -> io::Result<Take>,
    ) -> io::Result<Take> {
        let mut ready = self.ready.get();
        if !ready.read {
            return Ok(Take::Empty);
        }
        let mut taken = call(&self.fd)?;
        if let Take::Bytes { count, dry } = &mut taken {
            *dry = *count < room && !ready.hung_up && !ready.urgent && !ready.always;
        }
        if matches!(taken, Take::Empty | Take::Bytes { dry: true, .. }) {
            ready.read = false;
            self.ready.set(ready);
        }
        Ok(taken)
    }

    /// Runs a write if the side may be writable.
    pub(super) fn put(&self, call: impl FnOnce(&OwnedFd) -> io::Result<Put>) -> io::Result<Put> {
        let mut ready = self.ready.get();
        if !ready.write {
            return Ok(Put::Full);
        }
        let given = call(&self.fd)?;
        if given == Put::Full {
            ready.write = false;
            self.ready.set(ready);
        }
        Ok(given)
    }

    /// Runs a receive call if datagrams may be there.
    pub(super) fn receive(
        &self,
        call: impl FnOnce(&OwnedFd) -> io::Result<Received>,
    ) -> io::Result<Received> {
        let mut ready = self.ready.get();
        if !ready.read {
            return Ok(Received { dry: true, dropped: None });
        }
        let received = call(&self.fd)?;
        if received.dry {
            ready.read = false;
            self.ready.set(ready);
        }
        Ok(received)
    }

    /// Runs a call that gives messages, and answers how many were taken, if the side may
    /// be writable.
    pub(super) fn give(
        &self,
        call: impl FnOnce(&OwnedFd) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut ready = self.ready.get();
        if !ready.write {
            return Ok(0);
        }
        let count = call(&self.fd)?;
        if count == 0 {
            ready.write = false;
            self.ready.set(ready);
            if self.room.get() == Room::Unasked {
                self.room.set(Room::Wanted);
            }
        }
        Ok(count)
    }

    /// It was shut down for reading.
    pub(super) fn is_over(&self) -> bool {
        self.ready.get().over
    }

    pub(super) fn low_water(&self, bytes: Option<u32>) -> io::Result<()> {
        self.mark.borrow_mut().set(&self.fd, self.kind, bytes)
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
}

impl AsFd for Side {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // A socket that is gone needs no mark.
        let _ = self.low_water(None);
        self.joining.borrow_mut().end(&self.fd, None);
        self.nonblock.release(&self.fd);
    }
}

/// Connected or connecting. A stream socket that is neither polls as hung up.
fn is_connected(fd: BorrowedFd<'_>) -> bool {
    if rustix::net::getpeername(fd).is_ok() {
        return true;
    }
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&now)) {
        Ok(_) => !fds[0].revents().contains(PollFlags::HUP),
        Err(_) => false,
    }
}
