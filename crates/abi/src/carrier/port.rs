//! One socket as the carrier has it: a duplicate of its own, and what epoll has said of it.

use crate::domain::SlotId;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::cell::Cell;
use std::rc::Rc;

/// Shared by the splice that runs from the socket and the one that runs to it. Closed with
/// the last of them: an ended splice holds nothing.
pub struct Port {
    fd: OwnedFd,
    epoll: Rc<OwnedFd>,
    ready: Cell<Ready>,
    /// Urgent data has come since it was last looked for.
    has_news: Cell<bool>,
    /// Epoll has told of bytes or of the end since the source was last read.
    is_certain: Cell<bool>,
}

/// What may be tried. Kept until a call finds otherwise.
#[derive(Clone, Copy)]
pub struct Ready {
    pub read: bool,
    pub write: bool,
    /// The peer has sent its end, or the connection is gone: a short read proves nothing.
    pub hung_up: bool,
    /// Urgent data was seen.
    pub urgent: bool,
    /// An error is pending.
    pub error: bool,
    /// Both directions of the connection are over.
    pub dead: bool,
}

impl Port {
    /// Registers the socket, edge-triggered, for as long as the port lives.
    pub fn new(fd: OwnedFd, epoll: &Rc<OwnedFd>, id: SlotId) -> rustix::io::Result<Self> {
        let interest =
            EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::PRI | EventFlags::ET;
        epoll::add(&**epoll, &fd, EventData::new_u64(super::SOCKET | u64::from(id.0)), interest)?;
        // Nothing is known, so everything may be tried.
        let ready = Ready {
            read: true,
            write: true,
            hung_up: false,
            urgent: false,
            error: false,
            dead: false,
        };
        let port = Self {
            fd,
            epoll: Rc::clone(epoll),
            ready: Cell::new(ready),
            has_news: Cell::new(false),
            is_certain: Cell::new(false),
        };
        port.note(port.poll());
        Ok(port)
    }

    /// What is so now, without waiting for epoll to tell.
    fn poll(&self) -> EventFlags {
        let asked = PollFlags::RDHUP | PollFlags::PRI;
        let mut fds = [PollFd::new(&self.fd, asked)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(1) => EventFlags::from_bits_truncate(fds[0].revents().bits().into()),
            _ => EventFlags::empty(),
        }
    }

    pub fn note(&self, flags: EventFlags) {
        let mut ready = self.ready.get();
        let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        ready.read |= flags.intersects(EventFlags::IN | EventFlags::PRI | gone);
        ready.write |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
        ready.hung_up |= flags.intersects(gone);
        ready.urgent |= flags.contains(EventFlags::PRI);
        self.has_news.set(self.has_news.get() | flags.contains(EventFlags::PRI));
        self.is_certain.set(self.is_certain.get() | flags.contains(EventFlags::IN));
        ready.error |= flags.contains(EventFlags::ERR);
        ready.dead |= flags.contains(EventFlags::HUP);
        self.ready.set(ready);
    }

    pub fn ready(&self) -> Ready {
        self.ready.get()
    }

    pub fn set_read(&self, read: bool) {
        self.ready.set(Ready { read, ..self.ready.get() });
    }

    pub fn set_write(&self, write: bool) {
        self.ready.set(Ready { write, ..self.ready.get() });
    }

    /// Urgent data has come since this was last asked.
    pub fn take_urgent_news(&self) -> bool {
        self.has_news.take()
    }

    /// A read would find something: asked by whoever is about to read, and then no more.
    pub fn take_certainty(&self) -> bool {
        self.is_certain.take()
    }

    /// The pending error, if epoll has told of one. The kernel tells it once: who takes it
    /// must see to it that the program still hears of it.
    pub fn take_error(&self) -> Option<Errno> {
        let ready = self.ready.get();
        if !ready.error {
            return None;
        }
        self.ready.set(Ready { error: false, ..ready });
        rustix::net::sockopt::socket_error(&self.fd).ok().and_then(Result::err)
    }

    /// Asks the kernel for an edge when there is room, without a write that would fail
    /// (net/ipv4/tcp.c, `tcp_poll`). True when there is room now.
    pub fn wants_room(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // The program has a duplicate, so closing alone would not end the registration.
        let _ = epoll::delete(&*self.epoll, &self.fd);
    }
}
