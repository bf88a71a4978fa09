//! The sockets of the domain: their records, who holds them, and how a splice on them
//! begins and ends.

use super::flow::{Ending, Flow};
use super::port::Port;
use super::rings::{self, Name};
use super::table::Holders;
use super::{Carrier, FIRST_STEPS};
use crate::checks::{self, Protocol};
use crate::domain::{self, DOMAIN, SLOTS, SlotId};
use crate::personality::Personality;
use crate::sys;
use crate::wire::Own;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A socket that takes part in a splice, or did, as long as somebody holds it.
pub struct Socket {
    pub inode: u64,
    /// While a splice runs.
    pub port: Option<Rc<Port>>,
    /// The splice that runs from it.
    pub flow: Option<Box<Flow>>,
    /// The source of the splice that runs to it.
    pub drain_of: Option<SlotId>,
    /// Members that have a descriptor of it.
    pub holders: Holders,
    /// A process that does not talk to us has one.
    pub is_held: bool,
    /// Nobody but its holders can have one: there is nobody to be searched for.
    pub is_own: bool,
    /// Bytes taken from it and not given.
    pub residue: Box<[u8]>,
    /// How often the bytes that came last have been moved in a ring.
    pub hops: u32,
    /// Hashes of its own end and of its peer's.
    pub names: Option<(Name, Name)>,
}

impl Socket {
    /// One that takes part in nothing yet.
    pub fn new(inode: u64) -> Self {
        Self {
            inode,
            port: None,
            flow: None,
            drain_of: None,
            holders: Holders::default(),
            is_held: false,
            is_own: false,
            residue: Box::default(),
            hops: 0,
            names: None,
        }
    }
}

impl Socket {
    /// No splice runs from it or to it.
    pub fn is_idle(&self) -> bool {
        self.flow.is_none() && self.drain_of.is_none()
    }
}

/// A set-up as it was asked for.
pub struct Setup {
    pub source: OwnedFd,
    pub drain: OwnedFd,
    pub max: u64,
    pub idle: Option<Duration>,
    pub own: Own,
}

impl Carrier {
    /// Begins a splice and moves what is there already. EBUSY is the last row of the table.
    pub fn set_up(&mut self, member: usize, setup: Setup) -> Result<(SlotId, SlotId), i32> {
        let Setup { source, drain, max, idle, own } = setup;
        let inode = |fd: &OwnedFd| sys::socket_inode(fd.as_raw_fd()).ok_or(libc::ENOTSOCK);
        let (source_inode, drain_inode) = (inode(&source)?, inode(&drain)?);
        let protocol = checks::source(Personality::OpenBsd, source.as_raw_fd())?;
        if let Some(id) = domain::find(source_inode)
            && self.sockets.get(&id).is_some_and(|socket| socket.flow.is_some())
        {
            return Err(libc::EBUSY);
        }
        if let Some(id) = domain::find(drain_inode)
            && self.sockets.get(&id).is_some_and(|socket| socket.drain_of.is_some())
        {
            return Err(libc::EBUSY);
        }
        let source_id = self.enroll(member, source_inode, own.source)?;
        let drain_id = self.enroll(member, drain_inode, own.drain)?;
        let now = Instant::now();
        let source = self.port(source_id, source, protocol).map_err(Errno::raw_os_error)?;
        let drain = self.port(drain_id, drain, protocol).map_err(Errno::raw_os_error)?;
        let flow = Flow::new(source_id, drain_id, source, drain, protocol, max, idle, now);
        self.begin_flow(source_id, drain_id, flow);
        Ok((source_id, drain_id))
    }

    fn begin_flow(&mut self, source_id: SlotId, drain_id: SlotId, flow: Flow) {
        if let Some(socket) = self.sockets.get_mut(&source_id) {
            socket.flow = Some(Box::new(flow));
        }
        if let Some(socket) = self.sockets.get_mut(&drain_id) {
            socket.drain_of = Some(source_id);
        }
        let slot = source_id.slot();
        slot.count.store(0, Ordering::Relaxed);
        slot.cause.store(0, Ordering::Relaxed);
        slot.source.store(1, Ordering::Release);
        drain_id.slot().drain.store(1, Ordering::Release);
        DOMAIN.setups.fetch_add(1, Ordering::AcqRel);
        self.mark_ring(source_id);
        if let Some(flow) = self.sockets.get(&source_id).and_then(|s| s.flow.as_ref())
            && let Some(ending) = flow.probe_drain(self.personality)
        {
            self.end(source_id, ending);
            return;
        }
        // What is buffered moves inside the call.
        for _ in 0..FIRST_STEPS {
            self.step(source_id);
            if !self.take_from_queue(source_id) {
                return;
            }
        }
        self.enqueue(source_id);
    }

    /// Whether the splice has asked for another turn at once.
    fn take_from_queue(&mut self, id: SlotId) -> bool {
        let Some(flow) = self.sockets.get_mut(&id).and_then(|s| s.flow.as_mut()) else {
            return false;
        };
        if !flow.is_queued {
            return false;
        }
        flow.is_queued = false;
        self.queue.retain(|queued| *queued != id);
        true
    }

    /// The socket's record, made if there is none. ENOBUFS when all are in use.
    fn enroll(&mut self, member: usize, inode: u64, is_own: bool) -> Result<SlotId, i32> {
        let id = match domain::find(inode) {
            Some(id) => id,
            None => {
                let id = self.free.pop().or_else(|| {
                    self.unused += 1;
                    (self.unused as usize <= SLOTS).then(|| SlotId(self.unused - 1))
                });
                let id = id.ok_or(libc::ENOBUFS)?;
                domain::enter_socket(inode, id);
                self.sockets.insert(id, Socket { is_own, ..Socket::new(inode) });
                id
            }
        };
        self.hold(member, id);
        Ok(id)
    }

    pub fn hold(&mut self, member: usize, id: SlotId) {
        let member = member as u16;
        if let Some(socket) = self.sockets.get_mut(&id)
            && !socket.holders.contains(&member)
        {
            socket.holders.push(member);
            socket.is_held = false;
        }
    }

    fn port(
        &mut self,
        id: SlotId,
        fd: OwnedFd,
        protocol: Protocol,
    ) -> rustix::io::Result<Rc<Port>> {
        let names = rings::names(&fd, protocol);
        let Some(socket) = self.sockets.get_mut(&id) else { return Err(Errno::NOBUFS) };
        if let Some(port) = &socket.port {
            return Ok(Rc::clone(port));
        }
        let port = Rc::new(Port::new(fd, &self.epoll, id)?);
        socket.port = Some(Rc::clone(&port));
        socket.names = names;
        if let Some((own, _)) = names {
            self.names.insert(own, id);
        }
        Ok(port)
    }

    /// Ends the splice that runs from a socket: puts the sockets back as they were, writes
    /// the record, and then wakes whoever waits.
    pub fn end(&mut self, id: SlotId, ending: Ending) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let Some(flow) = socket.flow.take() else { return };
        let (moved, drain_id) = (flow.moved(), flow.drain_id);
        if flow.is_ring {
            self.break_ring(id, drain_id);
        }
        let residue = flow.into_residue();
        let slot = id.slot();
        if let Some(socket) = self.sockets.get_mut(&id) {
            if !residue.is_empty() {
                socket.residue = [&*socket.residue, &residue].concat().into();
            }
            slot.residue.store(socket.residue.len() as u32, Ordering::Release);
        }
        if let Some(drain) = self.sockets.get_mut(&drain_id) {
            drain.drain_of = None;
        }
        self.close_unused(id);
        self.close_unused(drain_id);
        slot.count.store(moved, Ordering::Relaxed);
        slot.cause.store(ending.error, Ordering::Relaxed);
        if ending.error != 0 {
            slot.set_error(ending.error);
        }
        if ending.of_drain != 0 && drain_id != id {
            drain_id.slot().set_error(ending.of_drain);
        }
        drain_id.slot().drain.store(0, Ordering::Release);
        slot.source.store(0, Ordering::Release);
        slot.announce();
        self.tell_end(id);
    }

    /// A socket without a splice is the program's alone.
    fn close_unused(&mut self, id: SlotId) {
        if let Some(socket) = self.sockets.get_mut(&id)
            && socket.flow.is_none()
            && socket.drain_of.is_none()
        {
            socket.port = None;
            if let Some((own, _)) = socket.names.take() {
                self.names.remove(&own);
            }
        }
    }

    /// Nobody holds the socket any more: its splices end, and its record is free.
    pub fn discard(&mut self, id: SlotId) {
        self.end(id, Ending::default());
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if let Some(source) = socket.drain_of {
            let error = match self.personality {
                Personality::OpenBsd => libc::EPIPE,
                Personality::FreeBsd => 0,
            };
            self.end(source, Ending { error, ..Ending::default() });
        }
        if let Some(socket) = self.sockets.remove(&id) {
            domain::remove_socket(socket.inode, id);
            self.free.push(id);
        }
    }

    pub fn take_back(&mut self, id: SlotId) -> Result<(), i32> {
        if self.sockets.get(&id).is_some_and(|socket| socket.flow.is_some()) {
            self.end(id, Ending::default());
            return Ok(());
        }
        Err(match self.personality {
            Personality::OpenBsd => libc::EPROTO,
            Personality::FreeBsd => libc::ENOTCONN,
        })
    }

    /// The program has shut a socket down. As a source it has no more to give, and what it
    /// holds is void; as a drain it takes no more.
    pub fn shut_down(&mut self, id: SlotId, read: bool, write: bool) {
        let Some(socket) = self.sockets.get(&id) else { return };
        let (is_source, drain_of) = (socket.flow.is_some(), socket.drain_of);
        if read && is_source {
            if let Some(port) = socket.port.clone() {
                super::stream::discard(&port);
            }
            self.enqueue(id);
        }
        if let Some(source) = drain_of.filter(|_| write)
            && let Some(flow) = self.sockets.get(&source).and_then(|s| s.flow.as_ref())
            && let Some(ending) = flow.probe_drain(self.personality)
        {
            self.end(source, ending);
        }
    }

    pub fn count(&self, id: SlotId) -> u64 {
        let running = self.sockets.get(&id).and_then(|socket| socket.flow.as_ref());
        running.map_or_else(|| id.slot().count.load(Ordering::Relaxed), |flow| flow.moved())
    }
}
