//! One session: a client, its upstream, and the socket between the relay and that one.

use super::listener::prepare;
use crate::graph::Binding;
use crate::upstream::{Place, Tried, family};
use crate::worker;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType};
use sosplice::datagram::{Ability, Batch, Destination, Message, Origin, Plan, Position};
use sosplice::{Carried, EngineChoice};
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

/// Asked for the socket of a session, in bytes; memory is used where datagrams wait.
const SESSION_BUFFER_BYTES: i32 = 1 << 20;

/// A client's session.
pub(super) struct Session {
    /// For whoever asks about it.
    pub(super) id: u64,
    pub(super) socket: OwnedFd,
    /// Where answers go.
    pub(super) client: Destination,
    pub(super) upstream: SocketAddr,
    place: Place,
    pub(super) began: Instant,
    /// The last datagram either way.
    pub(super) used: Instant,
    /// Stands in its worker's queue.
    pub(super) queued: bool,
    up: Outlet,
    down: Outlet,
    /// Dropped by the kernel on this session's socket, as far as it told.
    kernel_drops: u32,
}

/// One direction's way out: what the path can do, and what went.
struct Outlet {
    ability: Ability,
    carried: Carried,
    /// Datagrams that could not be sent.
    dropped: u64,
}

impl Outlet {
    fn new(engine: EngineChoice) -> Self {
        let ability = match engine {
            EngineChoice::Copy => Ability::PLAIN,
            _ => Ability::ALL,
        };
        Self { ability, carried: Carried::default(), dropped: 0 }
    }

    /// Sends all of `messages`, or drops what cannot be sent: nobody is waited for. True
    /// when the peer's host has refused a datagram (ICMP).
    fn give<Fd: AsFd>(
        &mut self,
        socket: &Fd,
        batch: &Batch,
        messages: &[Message],
        plan: &mut Plan,
        to: Option<&Destination>,
    ) -> bool {
        let mut at = Position::default();
        let mut refused = false;
        // An error of an earlier datagram is told in place of sending this one: once more.
        let mut again = true;
        loop {
            plan.fill(messages, at, self.ability);
            if plan.is_empty() {
                return refused;
            }
            let error = match plan.send(socket, batch, to) {
                Ok(count) if count > 0 => {
                    self.carried += plan.carried(count);
                    at = plan.behind(count);
                    again = true;
                    continue;
                }
                Ok(_) => io::ErrorKind::WouldBlock.into(),
                Err(error) => error,
            };
            if self.ability.lower(&error, plan) {
                continue;
            }
            if is_refusal(&error) {
                refused = true;
                if std::mem::take(&mut again) {
                    continue;
                }
            }
            self.dropped += plan.first_datagrams();
            at = plan.behind(1);
            again = true;
        }
    }
}

/// An ICMP answer to something sent before (udp(7), ip(7)).
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNREFUSED
                | Errno::HOSTUNREACH
                | Errno::NETUNREACH
                | Errno::NOPROTOOPT
                | Errno::PROTO
                | Errno::HOSTDOWN
                | Errno::NONET
        )
    )
}

impl Session {
    /// Makes its socket and connects it: to the upstream that the balance chooses, but
    /// not to one that has just refused while there is another.
    ///
    /// # Errors
    /// No descriptor or no port left; no server to be had, or no route to any.
    pub(super) fn new(
        id: u64,
        origin: &Origin,
        binding: &Binding,
        now: Instant,
    ) -> io::Result<Self> {
        let mut last = io::Error::other("every server is down, disabled or full");
        let client = origin.from.ip().to_canonical();
        let mut tried = Tried::default();
        let engine = binding.relay.plan.engine;
        // A UDP relay has one: there is no built-in origin for datagrams.
        let upstream = binding.relay.upstream();
        while let Some(place) = upstream.and_then(|upstream| upstream.pick(client, &mut tried)) {
            for addr in place.server().addrs().iter() {
                match connected(*addr, engine) {
                    Ok(socket) => {
                        return Ok(Self {
                            id,
                            socket,
                            client: Destination { addr: origin.from, from: origin.to },
                            upstream: *addr,
                            place,
                            began: now,
                            used: now,
                            queued: false,
                            up: Outlet::new(engine),
                            down: Outlet::new(engine),
                            kernel_drops: 0,
                        });
                    }
                    Err(error) if is_exhausted(&error) => return Err(error),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    /// To the upstream.
    pub(super) fn send_up(&mut self, batch: &Batch, messages: &[Message], plan: &mut Plan) {
        if self.up.give(&self.socket, batch, messages, plan, None) {
            self.refused();
        }
    }

    /// To the client, through the listening socket.
    pub(super) fn send_down<Fd: AsFd>(&mut self, listener: &Fd, batch: &Batch, plan: &mut Plan) {
        let Self { down, client, .. } = self;
        let _ = down.give(listener, batch, batch.messages(), plan, Some(client));
    }

    /// The upstream's host has answered by ICMP that nobody takes the datagrams. The
    /// session goes on: the upstream may come back.
    pub(super) fn refused(&self) {
        self.place.server().connect_failed();
        tracing::debug!(client = %self.client_name(), upstream = %self.upstream, "upstream refused");
    }

    pub(super) fn kernel_dropped(&mut self, count: u32) {
        self.kernel_drops = count;
    }

    pub(super) fn client_name(&self) -> SocketAddr {
        SocketAddr::new(self.client.addr.ip().to_canonical(), self.client.addr.port())
    }

    /// What it has sent so far: to its upstream, and to its client.
    pub(super) fn carried(&self) -> (Carried, Carried) {
        (self.up.carried, self.down.carried)
    }

    /// Datagrams that this session lost here.
    pub(super) fn dropped(&self) -> u64 {
        self.up.dropped + self.down.dropped + u64::from(self.kernel_drops)
    }

    /// The one line a session.
    pub(super) fn account(&self, cause: &str) {
        let (up, down) = (self.up.carried, self.down.carried);
        let mut both = up;
        both += down;
        self.place.server().carried(up.total(), down.total());
        tracing::info!(
            client = %self.client_name(),
            upstream = %self.upstream,
            up = up.total(),
            down = down.total(),
            up_datagrams = up.datagrams,
            down_datagrams = down.datagrams,
            engine = both.engine(),
            up_gso = up.gso,
            up_mmsg = up.mmsg,
            up_plain = up.plain,
            down_gso = down.gso,
            down_mmsg = down.mmsg,
            down_plain = down.plain,
            dropped = self.dropped(),
            ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            cause,
            "session closed"
        );
    }
}

fn connected(addr: SocketAddr, engine: EngineChoice) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family(addr), SocketType::DGRAM, flags, None)?;
    prepare(&socket, engine, SESSION_BUFFER_BYTES);
    rustix::net::connect(&socket, &addr)?;
    Ok(socket)
}

/// Nothing is left to make a session from: descriptors, memory, or ports to send from.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    worker::is_exhausted(error) || error.kind() == io::ErrorKind::WouldBlock
}
