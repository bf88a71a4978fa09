//! The sockets that a UDP relay listens on.

use crate::error::Error;
use crate::listener::bind_group;
use socket2::{Domain, Protocol, Socket, Type};
use sosplice::EngineChoice;
use std::io;
use std::net::SocketAddr;

/// Asked for each listening socket, in bytes: what a worker may find when it comes back
/// from another one's burst.
const LISTENER_BUFFER_BYTES: i32 = 4 << 20;

/// The listening sockets of a UDP relay, one a worker.
pub(crate) fn bind(
    addr: SocketAddr,
    engine: EngineChoice,
    workers: usize,
) -> Result<Vec<Socket>, Error> {
    bind_group(addr, workers, |addr, shared| socket(addr, shared, engine))
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
