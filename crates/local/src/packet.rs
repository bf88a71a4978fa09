//! Packets between members and the broker: to connect, to send one, to receive one, each
//! with at most one descriptor beside it.

use crate::descriptor::Descriptor;
use crate::wire::SOCKET;
use rustix::fd::{BorrowedFd, IntoRawFd, RawFd};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Duration;

/// A connection to the broker of the directory; connecting, and calls without
/// MSG_DONTWAIT, wait no longer than `patience`.
pub fn connect(dir: &Path, patience: Duration) -> Result<Descriptor, Errno> {
    let address = SocketAddrUnix::new(dir.join(SOCKET).as_path())?;
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let socket = Descriptor::from(socket);
    // The send side's limit is also that of a connect behind a full queue.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Sends one packet, never raising SIGPIPE.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = &fd {
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
    }
    let bytes = [IoSlice::new(bytes)];
    rustix::net::sendmsg(socket, &bytes, &mut control, flags | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// One packet: its length, zero when the other side has hung up, and the descriptor
/// beside it.
pub fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    flags: RecvFlags,
) -> Result<(usize, Option<Descriptor>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let bytes = &mut [IoSliceMut::new(bytes)];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(socket, bytes, &mut control, flags)?;
    let mut kept = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            // There is room for one. Whatever else is closed here, and not by the iterator, through libc.
            fds.for_each(|fd| drop(kept.replace(own(fd.into_raw_fd()))));
        }
    }
    Ok((got.bytes, kept))
}

fn own(fd: RawFd) -> Descriptor {
    // SAFETY: the kernel has just made it for this process.
    unsafe { Descriptor::from_raw(fd) }
}
