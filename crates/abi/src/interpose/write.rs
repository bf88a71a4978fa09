//! The writing calls: on a socket that has an error to tell, they tell it, once. Otherwise a
//! splice changes nothing for a writer.

use super::{interposed, next};
use crate::descriptors;
use crate::sys::{enter, fail, ret};
use libc::{c_int, c_uint, c_void, iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t};

/// The pending error, taken; None if there is none.
fn owed(fd: c_int) -> Option<isize> {
    let slot = descriptors::of(fd)?;
    match slot.take_error() {
        0 => None,
        errno => Some(fail(errno)),
    }
}

interposed! {
    fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
        quiet ret(enter!(SYS_write, fd, buf, len));
        loud owed(fd).unwrap_or_else(|| next::write(fd, buf, len))
    }
    fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
        quiet ret(enter!(SYS_writev, fd, iov, count));
        loud owed(fd).unwrap_or_else(|| next::writev(fd, iov, count))
    }
    fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t {
        quiet ret(enter!(SYS_sendto, fd, buf, len, flags, 0, 0));
        loud owed(fd).unwrap_or_else(|| next::send(fd, buf, len, flags))
    }
    fn sendto(
        fd: c_int,
        buf: *const c_void,
        len: size_t,
        flags: c_int,
        addr: *const sockaddr,
        addr_len: socklen_t,
    ) -> ssize_t {
        quiet ret(enter!(SYS_sendto, fd, buf, len, flags, addr, addr_len));
        loud owed(fd).unwrap_or_else(|| next::sendto(fd, buf, len, flags, addr, addr_len))
    }
    fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
        quiet ret(enter!(SYS_sendmsg, fd, msg, flags));
        loud owed(fd).unwrap_or_else(|| next::sendmsg(fd, msg, flags))
    }
    fn sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
        quiet ret(enter!(SYS_sendmmsg, fd, msgs, count, flags));
        loud owed(fd).map_or_else(|| next::sendmmsg(fd, msgs, count, flags), |e| e as c_int)
    }
}
