//! The connect: a socket made ahead of its session, and what every TCP socket of a session has.

use crate::error::Error;
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use sosplice::sys::Kind;
use sosplice::tokio::Registered;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Stands for the address that a socket is made for while it is not known.
const UNSPECIFIED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A socket that is to be connected. Each worker has one before it accepts a client, so
/// that no client is accepted with the last descriptor and then turned away.
#[derive(Debug)]
pub(crate) struct Unconnected {
    fd: OwnedFd,
    family: AddressFamily,
}

impl Unconnected {
    /// Of the address's family.
    ///
    /// # Errors
    /// What socket(2) answers: EMFILE or ENFILE where descriptors have run out.
    pub(crate) fn new(addr: SocketAddr) -> io::Result<Self> {
        let family = family(addr);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Self { fd: rustix::net::socket_with(family, SocketType::STREAM, flags, None)?, family })
    }

    /// For the address that is likely to come first ([`super::Upstream::socket_hint`]).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn likely(hint: Option<SocketAddr>) -> io::Result<Self> {
        Self::new(hint.unwrap_or(UNSPECIFIED))
    }

    /// Connects without blocking.
    ///
    /// # Errors
    /// What connect(2) answers, at once or later (SO_ERROR).
    pub(crate) async fn connect(
        self,
        addr: SocketAddr,
        congestion: Option<&Congestion>,
    ) -> io::Result<Registered> {
        let Self { fd, .. } = self.of(addr)?;
        set_options(&fd, congestion)?;
        match rustix::net::connect(&fd, &addr) {
            Ok(()) => return Registered::with_kind(fd, Kind::Tcp),
            Err(rustix::io::Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Registered only now: epoll reports a socket that was never connected as hung up.
        let stream = Registered::with_kind(fd, Kind::Tcp)?;
        stream.connected().await?;
        Ok(stream)
    }

    /// Itself, or another in its place where the family is not the address's.
    fn of(self, addr: SocketAddr) -> io::Result<Self> {
        if self.family == family(addr) {
            return Ok(self);
        }
        // First closed, so that its descriptor is there to be had.
        drop(self);
        Self::new(addr)
    }
}

/// A congestion control, by the kernel's name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Congestion(pub String);

impl Congestion {
    /// Whether this kernel has it and this user may choose it.
    ///
    /// # Errors
    /// [`Error::Congestion`] with what could be chosen instead.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let set = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_tcp_congestion(self.0.as_bytes())
        };
        set().map_err(|source| Error::Congestion {
            name: self.0.clone(),
            allowed: std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
                .map_or_else(|_| "unknown".to_owned(), |names| names.trim().to_owned()),
            source,
        })
    }
}

/// What every TCP socket of a session has.
pub(crate) fn set_options<Fd: AsFd>(
    socket: &Fd,
    congestion: Option<&Congestion>,
) -> io::Result<()> {
    let socket = SockRef::from(socket);
    // What came in one piece is not held back for the next.
    socket.set_tcp_nodelay(true)?;
    // A peer that vanished is found in the end, and its session with it.
    socket.set_keepalive(true)?;
    if let Some(Congestion(name)) = congestion {
        socket.set_tcp_congestion(name.as_bytes())?;
    }
    Ok(())
}

pub(crate) fn family(addr: SocketAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}
