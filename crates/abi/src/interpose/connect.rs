//! Where a connection begins.

use super::{hot, interposed, next};
use crate::local;
use crate::sys::{enter, ret};
use libc::{c_int, sockaddr, socklen_t};

unsafe extern "C" fn connect_loud(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the caller's.
    let done = unsafe { next::connect(fd, addr, len) };
    if local::is_on() {
        // SAFETY: the address of this thread's errno.
        let errno = unsafe { *libc::__errno_location() };
        if done == 0 || errno == libc::EINPROGRESS {
            local::pairing::begin(fd);
            // SAFETY: as above.
            unsafe { *libc::__errno_location() = errno };
        }
    }
    done
}

unsafe fn accept_loud(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
    // SAFETY: the caller's.
    let accepted = unsafe { next::accept4(fd, addr, len, flags) };
    if accepted >= 0 && local::is_on() {
        local::pairing::begin(accepted);
    }
    accepted
}

hot! {
    fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
        number SYS_connect; prepare []; quiet ret(enter!(SYS_connect, fd, addr, len));
        loud connect_loud
    }
}

interposed! {
    fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
        quiet ret(enter!(SYS_accept4, fd, addr, len, 0)); loud accept_loud(fd, addr, len, 0)
    }
    fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
        quiet ret(enter!(SYS_accept4, fd, addr, len, flags));
        loud accept_loud(fd, addr, len, flags)
    }
}
