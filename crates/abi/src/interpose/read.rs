//! The reading calls. One on a socket that matters becomes a recvmsg of the same room.

use super::{hot, interposed, next};
use crate::descriptors;
use crate::domain;
use crate::local;
use crate::source;
use crate::sys::{Raw, enter, ret};
use libc::{
    c_int, c_uint, c_void, iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec,
};

fn message(iov: *mut iovec, count: usize) -> msghdr {
    // SAFETY: zeroes are a valid message without address, room and control data.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iov;
    message.msg_iovlen = count as _;
    message
}

/// None where the kernel alone decides.
unsafe fn into_buffer(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> Option<Raw> {
    let slot = descriptors::of(fd)?;
    let mut iov = iovec { iov_base: buf, iov_len: len };
    // SAFETY: the program's own buffer.
    unsafe { source::receive(fd, slot, &mut message(&raw mut iov, 1), flags) }
}

/// A connection's that may be paired, into one buffer; `kernels` is the call as the program made it.
unsafe fn of_ring(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    kernels: impl Fn() -> ssize_t,
) -> Option<Raw> {
    let mut iov = iovec { iov_base: buf, iov_len: len };
    // SAFETY: the program's own buffer.
    unsafe { local::calls::read(fd, &raw mut iov, 1, flags, &|| next::raw(&kernels)) }
}

unsafe extern "C" fn read_loud(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t {
    // SAFETY: the caller's.
    unsafe {
        if local::is_none_of_ours(fd) {
            return next::read(fd, buf, len);
        }
        // Nothing is read of nothing, whatever is there.
        if len > 0
            && let Some(result) = of_ring(fd, buf, len, 0, || next::read(fd, buf, len))
        {
            return ret(result);
        }
        match into_buffer(fd, buf, len, 0) {
            Some(result) => ret(result),
            None => next::read(fd, buf, len),
        }
    }
}

unsafe extern "C" fn readv_loud(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller's.
    unsafe {
        if local::is_none_of_ours(fd) {
            return next::readv(fd, iov, count);
        }
        if count >= 0
            && let Some(result) = local::calls::read(fd, iov.cast_mut(), count as usize, 0, &|| {
                next::raw(|| next::readv(fd, iov, count))
            })
        {
            return ret(result);
        }
        let taken = descriptors::of(fd).filter(|_| count >= 0).and_then(|slot| {
            source::receive(fd, slot, &mut message(iov.cast_mut(), count as usize), 0)
        });
        match taken {
            Some(result) => ret(result),
            None => next::readv(fd, iov, count),
        }
    }
}

unsafe extern "C" fn recv_loud(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    // SAFETY: the caller's.
    unsafe {
        if local::is_none_of_ours(fd) {
            return next::recv(fd, buf, len, flags);
        }
        if let Some(result) = of_ring(fd, buf, len, flags, || next::recv(fd, buf, len, flags)) {
            return ret(result);
        }
        match into_buffer(fd, buf, len, flags) {
            Some(result) => ret(result),
            None => next::recv(fd, buf, len, flags),
        }
    }
}

unsafe extern "C" fn recvfrom_loud(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    // SAFETY: the caller's.
    unsafe {
        if local::is_none_of_ours(fd) {
            return next::recvfrom(fd, buf, len, flags, addr, addr_len);
        }
        let kernels = || next::recvfrom(fd, buf, len, flags, addr, addr_len);
        if let Some(result) = of_ring(fd, buf, len, flags, kernels) {
            if result >= 0 && !addr.is_null() && !addr_len.is_null() {
                *addr_len = 0;
            }
            return ret(result);
        }
        let Some(slot) = descriptors::of(fd) else {
            return next::recvfrom(fd, buf, len, flags, addr, addr_len);
        };
        let mut iov = iovec { iov_base: buf, iov_len: len };
        let mut message = message(&raw mut iov, 1);
        if !addr.is_null() && !addr_len.is_null() {
            message.msg_name = addr.cast();
            message.msg_namelen = *addr_len;
        }
        match source::receive(fd, slot, &mut message, flags) {
            Some(result) => {
                if result >= 0 && !message.msg_name.is_null() {
                    *addr_len = message.msg_namelen;
                }
                ret(result)
            }
            None => next::recvfrom(fd, buf, len, flags, addr, addr_len),
        }
    }
}

unsafe extern "C" fn recvmsg_loud(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller's.
    unsafe {
        if let Some(result) = local::calls::read_message(fd, msg, flags, &|| {
            next::raw(|| next::recvmsg(fd, msg, flags))
        }) {
            return ret(result);
        }
        let taken = descriptors::of(fd)
            .filter(|_| !msg.is_null())
            .and_then(|slot| source::receive(fd, slot, &mut *msg, flags));
        match taken {
            Some(result) => ret(result),
            None => {
                let count = next::recvmsg(fd, msg, flags);
                if count >= 0 && domain::active() && (*msg).msg_controllen > 0 {
                    // They may be of spliced sockets.
                    passed_in(&*msg).for_each(descriptors::arrived);
                }
                count
            }
        }
    }
}

/// The descriptors in a message's control data.
///
/// # Safety
/// The control data is as sendmsg(2) takes it or recvmsg(2) has written it.
pub unsafe fn passed_in(msg: &msghdr) -> impl Iterator<Item = c_int> {
    // SAFETY: the caller's.
    let first = unsafe { libc::CMSG_FIRSTHDR(msg) };
    // SAFETY: as above; behind the last there is null.
    let next = move |part: &*mut libc::cmsghdr| unsafe {
        (!part.is_null()).then(|| libc::CMSG_NXTHDR(msg, *part))
    };
    std::iter::successors(Some(first), next)
        .take_while(|part| !part.is_null())
        // SAFETY: not null, and inside the control data.
        .map(|part| unsafe { (*part, libc::CMSG_DATA(part).cast::<c_int>()) })
        .filter(|(part, _)| {
            part.cmsg_level == libc::SOL_SOCKET && part.cmsg_type == libc::SCM_RIGHTS
        })
        .flat_map(|(part, data)| {
            // SAFETY: no pointers.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = part.cmsg_len.saturating_sub(head) / size_of::<c_int>();
            // SAFETY: so many follow the head.
            (0..count).map(move |place| unsafe { data.add(place).read_unaligned() })
        })
}

/// As recvmmsg(2) on a connection of ours.
unsafe fn messages_of_ring(
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> Option<Raw> {
    if msgs.is_null() || count == 0 {
        return None;
    }
    // SAFETY: null or the program's.
    let limit = unsafe { super::poll::limit_of(timeout) }?;
    let until = limit.map(|limit| crate::sys::now_ns().saturating_add(limit));
    let only_the_first_waits = flags & libc::MSG_WAITFORONE != 0;
    let mut flags = flags & !libc::MSG_WAITFORONE;
    let mut got: c_uint = 0;
    while got < count {
        // SAFETY: the program says that it has so many.
        let message = unsafe { &mut *msgs.add(got as usize) };
        let message_at = &raw mut message.msg_hdr;
        // SAFETY: the caller's.
        let kernels = || next::raw(|| unsafe { next::recvmsg(fd, message_at, flags) });
        // SAFETY: the caller's.
        let result = unsafe { local::calls::read_message(fd, message_at, flags, &kernels) };
        match result {
            None if got == 0 => return None,
            Some(failed) if failed < 0 && got == 0 => return Some(failed),
            Some(length) if length >= 0 => message.msg_len = length as c_uint,
            _ => break,
        }
        got += 1;
        if only_the_first_waits {
            flags |= libc::MSG_DONTWAIT;
        }
        // The time is looked at behind each message (recvmmsg(2)).
        if until.is_some_and(|until| crate::sys::now_ns() >= until) {
            break;
        }
    }
    Some(got as Raw)
}

/// From a socket that matters one message at a time.
unsafe fn recvmmsg_loud(
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        if let Some(result) = messages_of_ring(fd, msgs, count, flags, timeout) {
            return ret(result) as c_int;
        }
        let taken = descriptors::of(fd)
            .filter(|_| count > 0 && !msgs.is_null())
            .and_then(|slot| source::receive(fd, slot, &mut (*msgs).msg_hdr, flags));
        match taken {
            Some(length) if length >= 0 => {
                (*msgs).msg_len = length as c_uint;
                1
            }
            Some(failed) => ret(failed) as c_int,
            None => next::recvmmsg(fd, msgs, count, flags, timeout),
        }
    }
}

/// The fortified names end the program when the room is smaller than asked.
fn check_room(len: size_t, room: size_t) {
    if len > room {
        next::chk_fail();
    }
}

hot! {
    fn read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t {
        number SYS_read; prepare []; quiet ret(enter!(SYS_read, fd, buf, len)); loud read_loud
    }
    fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
        number SYS_readv; prepare []; quiet ret(enter!(SYS_readv, fd, iov, count));
        loud readv_loud
    }
    fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
        number SYS_recvfrom; prepare ["mov r10, rcx", "xor r8d, r8d", "xor r9d, r9d"];
        quiet ret(enter!(SYS_recvfrom, fd, buf, len, flags, 0, 0)); loud recv_loud
    }
    fn recvfrom(
        fd: c_int,
        buf: *mut c_void,
        len: size_t,
        flags: c_int,
        addr: *mut sockaddr,
        addr_len: *mut socklen_t,
    ) -> ssize_t {
        number SYS_recvfrom; prepare ["mov r10, rcx"];
        quiet ret(enter!(SYS_recvfrom, fd, buf, len, flags, addr, addr_len)); loud recvfrom_loud
    }
    fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
        number SYS_recvmsg; prepare []; quiet ret(enter!(SYS_recvmsg, fd, msg, flags));
        loud recvmsg_loud
    }
}

interposed! {
    fn recvmmsg(
        fd: c_int,
        msgs: *mut mmsghdr,
        count: c_uint,
        flags: c_int,
        timeout: *mut timespec,
    ) -> c_int {
        quiet ret(enter!(SYS_recvmmsg, fd, msgs, count, flags, timeout));
        loud recvmmsg_loud(fd, msgs, count, flags, timeout)
    }
    fn __read_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t) -> ssize_t {
        quiet {
            check_room(len, room);
            ret(enter!(SYS_read, fd, buf, len))
        };
        loud {
            check_room(len, room);
            read_loud(fd, buf, len)
        }
    }
    fn __recv_chk(
        fd: c_int,
        buf: *mut c_void,
        len: size_t,
        room: size_t,
        flags: c_int,
    ) -> ssize_t {
        quiet {
            check_room(len, room);
            ret(enter!(SYS_recvfrom, fd, buf, len, flags, 0, 0))
        };
        loud {
            check_room(len, room);
            recv_loud(fd, buf, len, flags)
        }
    }
    fn __recvfrom_chk(
        fd: c_int,
        buf: *mut c_void,
        len: size_t,
        room: size_t,
        flags: c_int,
        addr: *mut sockaddr,
        addr_len: *mut socklen_t,
    ) -> ssize_t {
        quiet {
            check_room(len, room);
            ret(enter!(SYS_recvfrom, fd, buf, len, flags, addr, addr_len))
        };
        loud {
            check_room(len, room);
            recvfrom_loud(fd, buf, len, flags, addr, addr_len)
        }
    }
}
