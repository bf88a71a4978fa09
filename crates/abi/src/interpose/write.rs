//! The writing calls: on a socket that has an error to tell, they tell it, once. Otherwise a
//! splice changes nothing for a writer.

use super::read::passed_in;
use super::{hot, interposed, next};
use crate::descriptors;
use crate::domain;
use crate::local;
use crate::own;
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

/// A connection's that may be paired, from one buffer; `kernels` is the call as the program made it.
unsafe fn of_ring(
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
    kernels: impl Fn() -> ssize_t,
) -> Option<isize> {
    let iov = iovec { iov_base: buf.cast_mut(), iov_len: len };
    // SAFETY: the program's own buffer.
    unsafe { local::calls::write(fd, &raw const iov, 1, flags, &|| next::raw(&kernels)) }
}

unsafe extern "C" fn write_loud(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
    if local::is_none_of_ours(fd) {
        // SAFETY: the caller's.
        return unsafe { next::write(fd, buf, len) };
    }
    // SAFETY: the caller's.
    let kernels = || unsafe { next::write(fd, buf, len) };
    // SAFETY: the caller's.
    if let Some(result) = unsafe { of_ring(fd, buf, len, 0, kernels) } {
        return ret(result);
    }
    // SAFETY: the caller's.
    owed(fd).unwrap_or_else(|| unsafe { next::write(fd, buf, len) })
}

unsafe extern "C" fn writev_loud(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    if local::is_none_of_ours(fd) {
        // SAFETY: the caller's.
        return unsafe { next::writev(fd, iov, count) };
    }
    // SAFETY: the caller's.
    let kernels = || next::raw(|| unsafe { next::writev(fd, iov, count) });
    if count >= 0
        // SAFETY: the caller's.
        && let Some(result) = unsafe { local::calls::write(fd, iov, count as usize, 0, &kernels) }
    {
        return ret(result);
    }
    // SAFETY: the caller's.
    owed(fd).unwrap_or_else(|| unsafe { next::writev(fd, iov, count) })
}

unsafe extern "C" fn send_loud(
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    if local::is_none_of_ours(fd) {
        // SAFETY: the caller's.
        return unsafe { next::send(fd, buf, len, flags) };
    }
    // SAFETY: the caller's.
    let kernels = || unsafe { next::send(fd, buf, len, flags) };
    // SAFETY: the caller's.
    if let Some(result) = unsafe { of_ring(fd, buf, len, flags, kernels) } {
        return ret(result);
    }
    // SAFETY: the caller's.
    owed(fd).unwrap_or_else(|| unsafe { next::send(fd, buf, len, flags) })
}

unsafe extern "C" fn sendto_loud(
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
) -> ssize_t {
    if local::is_none_of_ours(fd) {
        // SAFETY: the caller's.
        return unsafe { next::sendto(fd, buf, len, flags, addr, addr_len) };
    }
    // SAFETY: the caller's.
    let kernels = || unsafe { next::sendto(fd, buf, len, flags, addr, addr_len) };
    // SAFETY: the caller's.
    if let Some(result) = unsafe { of_ring(fd, buf, len, flags, kernels) } {
        return ret(result);
    }
    // SAFETY: the caller's.
    owed(fd).unwrap_or_else(|| unsafe { next::sendto(fd, buf, len, flags, addr, addr_len) })
}

unsafe extern "C" fn sendmsg_loud(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller's.
    let kernels = || next::raw(|| unsafe { next::sendmsg(fd, msg, flags) });
    // SAFETY: the caller's.
    if let Some(result) = unsafe { local::calls::write_message(fd, msg, flags, &kernels) } {
        return ret(result);
    }
    // SAFETY: the caller's.
    owed(fd).unwrap_or_else(|| unsafe {
        note_passed(msg);
        next::sendmsg(fd, msg, flags)
    })
}

/// Sockets that go to another process are not this one's alone any more.
unsafe fn note_passed(msg: *const msghdr) {
    // SAFETY: the caller's.
    unsafe {
        if domain::active() && !msg.is_null() && (*msg).msg_controllen > 0 {
            passed_in(&*msg).for_each(own::passed);
        }
    }
}

/// To a connection of ours one message at a time.
unsafe fn sendmmsg_loud(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let mut sent = 0;
        while sent < count && !msgs.is_null() {
            let message = &mut *msgs.add(sent as usize);
            let message_at = &raw const message.msg_hdr;
            let kernels = || next::raw(|| next::sendmsg(fd, message_at, flags));
            match local::calls::write_message(fd, message_at, flags, &kernels) {
                None => break,
                Some(failed) if failed < 0 && sent == 0 => return ret(failed) as c_int,
                Some(failed) if failed < 0 => return sent as c_int,
                Some(length) => message.msg_len = length as c_uint,
            }
            sent += 1;
        }
        if sent > 0 {
            return sent as c_int;
        }
        owed(fd).map_or_else(
            || {
                if !msgs.is_null() {
                    (0..count as usize)
                        .for_each(|place| note_passed(&raw const (*msgs.add(place)).msg_hdr));
                }
                next::sendmmsg(fd, msgs, count, flags)
            },
            |errno| errno as c_int,
        )
    }
}

hot! {
    fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
        number SYS_write; prepare []; quiet ret(enter!(SYS_write, fd, buf, len)); loud write_loud
    }
    fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
        number SYS_writev; prepare []; quiet ret(enter!(SYS_writev, fd, iov, count));
        loud writev_loud
    }
    fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t {
        number SYS_sendto; prepare ["mov r10, rcx", "xor r8d, r8d", "xor r9d, r9d"];
        quiet ret(enter!(SYS_sendto, fd, buf, len, flags, 0, 0)); loud send_loud
    }
    fn sendto(
        fd: c_int,
        buf: *const c_void,
        len: size_t,
        flags: c_int,
        addr: *const sockaddr,
        addr_len: socklen_t,
    ) -> ssize_t {
        number SYS_sendto; prepare ["mov r10, rcx"];
        quiet ret(enter!(SYS_sendto, fd, buf, len, flags, addr, addr_len)); loud sendto_loud
    }
    fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
        number SYS_sendmsg; prepare []; quiet ret(enter!(SYS_sendmsg, fd, msg, flags));
        loud sendmsg_loud
    }
}

interposed! {
    fn sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
        quiet ret(enter!(SYS_sendmmsg, fd, msgs, count, flags));
        loud sendmmsg_loud(fd, msgs, count, flags)
    }
}
