//! What makes sockets and connections: noted is which can be spliced and are this process's alone, and which
//! may be paired.

use super::{hot, interposed, next};
use crate::domain;
use crate::local;
use crate::own;
use crate::sys::{enter, ret};
use libc::{c_int, sockaddr, socklen_t};

fn noted(make: impl FnOnce() -> c_int) -> c_int {
    if !domain::active() {
        return make();
    }
    let before = own::before();
    let fd = make();
    if fd >= 0 {
        own::made(fd, before);
    }
    fd
}

/// A connection begins.
fn accepted(accept: impl FnOnce() -> c_int) -> c_int {
    let fd = noted(accept);
    if fd >= 0 && local::is_on() {
        local::pairing::begin(fd);
    }
    fd
}

unsafe extern "C" fn connect_loud(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the caller's.
    let done = unsafe { next::connect(fd, addr, len) };
    if local::is_on() {
        // SAFETY: the address of this thread's errno.
        let errno = unsafe { *libc::__errno_location() };
        if done == 0 || errno == libc::EINPROGRESS {
            // SAFETY: the kernel has just read it there.
            let family = unsafe { addr.cast::<libc::sa_family_t>().read_unaligned() };
            local::pairing::connected(fd, c_int::from(family) == libc::AF_UNSPEC);
            // SAFETY: as above.
            unsafe { *libc::__errno_location() = errno };
        }
    }
    done
}

hot! {
    fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
        number SYS_connect; prepare []; quiet ret(enter!(SYS_connect, fd, addr, len));
        loud connect_loud
    }
}

interposed! {
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int {
        quiet ret(enter!(SYS_socket, family, kind, protocol));
        loud noted(|| ret(enter!(SYS_socket, family, kind, protocol)) as c_int)
    }
    fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
        quiet ret(enter!(SYS_accept, fd, addr, len));
        loud accepted(|| next::accept(fd, addr, len))
    }
    fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
        quiet ret(enter!(SYS_accept4, fd, addr, len, flags));
        loud accepted(|| next::accept4(fd, addr, len, flags))
    }
}
