//! What a UDP relay is to do, and the sockets that it listens on.

use crate::error::Error;
use crate::listener::bind_group;
use crate::plan::Balance;
use crate::upstream::Target;
use socket2::{Domain, Protocol, Socket, Type};
use sosplice::EngineChoice;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// What a UDP relay is to do.
#[derive(Clone, Debug)]
pub struct Udp {
    /// Where to listen. Port 0 lets the kernel choose one.
    pub listen: SocketAddr,
    /// Where sessions go, at least one.
    pub targets: Vec<Target>,
    /// How to choose among the targets; a session keeps its own.
    pub balance: Balance,
    /// A session ends when no datagram came either way for so long.
    pub idle: Duration,
    /// Sessions at a time; a further one takes the place of the least recently used. None
    /// for as many as the limit on descriptors allows.
    pub max_sessions: Option<u64>,
    /// How long running sessions may go on after the first SIGTERM.
    pub drain_timeout: Duration,
    /// How long a worker keeps looking for datagrams before it sleeps.
    pub busy_poll: Duration,
    /// `Auto` for batches, `Copy` for a call a datagram.
    pub engine: EngineChoice,
    /// Threads, each with a listening socket of its own.
    pub workers: usize,
}

/// Asked for each listening socket, in bytes: what a worker may find when it comes back
/// from another one's burst.
const LISTENER_BUFFER_BYTES: i32 = 4 << 20;

/// The listening sockets of a UDP relay, one a worker.
pub(crate) fn bind(config: &Udp, workers: usize) -> Result<Vec<Socket>, Error> {
    bind_group(config.listen, workers, |addr, shared| socket(addr, shared, config.engine))
}

fn socket(addr: SocketAddr, shared: bool, engine: EngineChoice) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    if addr.ip().is_unspecified() {
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // An answer must come from the address that was asked.
        sosplice::sys::tell_address(&socket, addr.is_ipv6())?;
    }
    prepare(&socket, engine, LISTENER_BUFFER_BYTES);
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// What the kernel does not grant is done without: a smaller buffer, no joined datagrams,
/// no count of what was dropped.
pub(super) fn prepare<Fd: rustix::fd::AsFd>(socket: &Fd, engine: EngineChoice, buffer: i32) {
    let _ = sosplice::sys::set_receive_buffer(socket, buffer);
    let _ = sosplice::sys::tell_drops(socket);
    if engine != EngineChoice::Copy {
        let _ = sosplice::sys::set_gro(socket, true);
    }
}
