//! A worker's own listening socket.

use crate::error::Error;
use crate::upstream::{self, Congestion};
use rustix::fd::OwnedFd;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use sosplice::sys::Kind;
use sosplice::tokio::{Registered, Socket as _};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use tokio::io::Interest;

/// As many as the kernel allows: it caps this at net.core.somaxconn.
const BACKLOG: i32 = i32::MAX;

/// Binds one socket a worker to the same address, as `socket` makes them of the address
/// and of whether it is shared (SO_REUSEPORT). Port 0 is chosen once, for all.
pub(crate) fn bind_group(
    addr: SocketAddr,
    workers: usize,
    socket: impl Fn(SocketAddr, bool) -> io::Result<Socket>,
) -> Result<Vec<Socket>, Error> {
    let listen = |source| Error::Listen { addr, source };
    // SO_REUSEPORT would let a second relay of the same user take part of the clients
    // unnoticed; a bind without it tells whether the port is free.
    drop(socket(addr, false).map_err(listen)?);
    let mut group = Vec::with_capacity(workers);
    let mut addr = addr;
    for _ in 0..workers {
        let member = socket(addr, true).map_err(listen)?;
        if addr.port() == 0 {
            let bound = member.local_addr().map_err(listen)?;
            addr = bound.as_socket().unwrap_or(addr);
        }
        group.push(member);
    }
    Ok(group)
}

/// The listeners of a TCP relay, one a worker.
pub(crate) fn bind(
    addr: SocketAddr,
    workers: usize,
    congestion: Option<&Congestion>,
) -> Result<Vec<Socket>, Error> {
    let listeners = bind_group(addr, workers, |addr, shared| socket(addr, shared, congestion))?;
    // Only now: a connection must find the whole group, or it would be given to a
    // part of the workers.
    for listener in &listeners {
        listener.listen(BACKLOG).map_err(|source| Error::Listen { addr, source })?;
    }
    Ok(listeners)
}

fn socket(addr: SocketAddr, shared: bool, congestion: Option<&Congestion>) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if addr.ip().is_unspecified() && addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted sockets inherit all of it: so many calls less for each connection.
    upstream::set_options(&socket, congestion)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// A listening socket on a worker's runtime.
pub(crate) struct Listener {
    socket: Registered,
    /// Dropped behind the socket.
    closed: OnceLock<Closed>,
}

/// Gone when all that hold it are: who waits for that has the other end.
pub(crate) type Closed = std::sync::mpsc::Sender<Infallible>;

impl Listener {
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        let socket = Registered::with_kind(socket.into(), Kind::Tcp)?;
        Ok(Self { socket, closed: OnceLock::new() })
    }

    /// Lets go of it when the socket is closed.
    pub(crate) fn tell(&self, closed: Closed) {
        // It is asked for once, when it goes.
        let _ = self.closed.set(closed);
    }

    /// A reload: what further connections have. Those of whom the kernel has heard already keep
    /// what they have.
    pub(crate) fn set_congestion(&self, before: Option<Congestion>, now: Option<Congestion>) {
        if now == before {
            return;
        }
        // It was checked, or is the system's own; and it is only the speed.
        let usual = || std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
        if let Some(name) = now.map(|now| now.0).or_else(|| usual().ok()) {
            let _ = SockRef::from(&self.socket).set_tcp_congestion(name.trim().as_bytes());
        }
    }

    /// The next connection, non-blocking and close-on-exec.
    pub(crate) async fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        loop {
            match self.socket.try_io(Interest::READABLE, || self.accept_now()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.readable().await?
                }
                accepted => return accepted,
            }
        }
    }

    /// The next connection if there is one.
    ///
    /// # Errors
    /// WouldBlock where there is none, or what accept(2) says.
    pub(crate) fn accept_now(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, peer) = rustix::net::acceptfrom_with(&self.socket, flags)?;
        let peer = peer.and_then(|any| SocketAddr::try_from(any).ok());
        Ok((fd, peer.unwrap_or(UNKNOWN)))
    }
}

/// Stands for a client whose address the kernel did not tell.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
