//! The ways around the ring: stdio, exec, descriptors that are passed on. A connection that goes
//! such a way is brought back to TCP first, whole and for good.

use super::connections::{self, Connection, State};
use super::socket::{Family, Socket, now_ns};
use super::{calls, pairing};
use crate::sys::enter;
use libc::{c_int, msghdr};
use sosplice_local::end::End;
use sosplice_local::ring::Ring;
use sosplice_local::stream;

/// How long peers may take to send again what they had put into the ring.
const PATIENCE_NS: u64 = 5_000_000_000;
/// What is left to one whose turn comes behind others that have taken their time.
const PATIENCE_NS_MIN: u64 = 200_000_000;

/// A shutdown(2) is about to be made.
pub fn shutting_down(fd: c_int, how: c_int) {
    if how == libc::SHUT_RD {
        return;
    }
    // What follows is the kernel's to refuse; what was written before is in the ring already.
    if let Some(found) = connections::paired(fd) {
        calls::pin(&found);
    }
}

/// It has been made: whoever sleeps at a word of the ring's is to look at the socket.
pub fn has_shut_down(fd: c_int) {
    if let Some(found) = connections::paired(fd) {
        stream::unpark_all(&found.end, &Socket { fd, flags: libc::MSG_NOSIGNAL });
    }
}

/// Brings a connection back to TCP. What the peer has in the ring for us it sends again.
pub fn leave(found: Connection, fd: c_int) {
    leave_until(found, fd, now_ns() + PATIENCE_NS);
}

fn leave_until(found: Connection, fd: c_int, until_ns: u64) {
    if let Some(used) = found.used() {
        leave_ring(&used.end, fd, until_ns.saturating_sub(now_ns()).max(PATIENCE_NS_MIN));
        pairing::restore(&found, fd);
    }
    found.give_up();
    pairing::withdraw(found);
}

fn leave_ring(end: &End<'static, Ring>, fd: c_int, patience_ns: u64) {
    let socket = Socket { fd, flags: libc::MSG_NOSIGNAL };
    if stream::leave(end, &socket, &Family, patience_ns).is_ok() {
        return;
    }
    // The peer cannot, or does not, send again what is unread. The connection ends here: with a hole in
    // it, it would be worse than none.
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    let len = size_of::<libc::sockaddr>();
    // SAFETY: the address lives through the call. It dissolves the connection (connect(2)).
    unsafe { enter!(SYS_connect, socket.fd, &raw const nobody, len) };
}

/// A descriptor is about to be written to in a way that nobody sees.
pub fn written_unseen(fd: c_int) {
    if !super::is_on() {
        return;
    }
    let Some(found) = connections::of(fd) else { return };
    match found.used() {
        Some(used) => calls::pin(&used),
        None => leave(found, fd),
    }
}

/// A descriptor is about to be used in a way that nobody sees.
pub fn unseen(fd: c_int) {
    if super::is_on()
        && let Some(found) = connections::of(fd)
    {
        leave(found, fd);
    }
}

/// Another program is about to get what is not closed by exec(2).
pub extern "C" fn before_exec() {
    if !super::is_on() {
        return;
    }
    let kept: Vec<(c_int, Connection)> = connections::all()
        .filter(|(fd, found)| {
            // SAFETY: no pointers.
            let flags = unsafe { enter!(SYS_fcntl, *fd, libc::F_GETFD) };
            flags >= 0 && flags & libc::FD_CLOEXEC as isize == 0 && found.state() != State::Given
        })
        .collect();
    // One peer's time is every peer's, not one behind the other.
    let until_ns = now_ns() + PATIENCE_NS;
    for (fd, found) in kept {
        leave_until(found, fd, until_ns);
    }
}

/// A message is about to be sent: descriptors in it go to another process.
///
/// # Safety
/// The message is the program's.
pub unsafe fn passing(msg: *const msghdr) {
    if !super::is_on() || msg.is_null() {
        return;
    }
    // SAFETY: the caller's; the macros read what the message describes.
    unsafe {
        if (*msg).msg_controllen == 0 {
            return;
        }
        let mut part = libc::CMSG_FIRSTHDR(msg);
        while let Some(header) = part.as_ref() {
            if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(part).cast::<c_int>();
                let bytes = header.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                for place in 0..bytes / size_of::<c_int>() {
                    unseen(data.add(place).read_unaligned());
                }
            }
            part = libc::CMSG_NXTHDR(msg, part);
        }
    }
}
