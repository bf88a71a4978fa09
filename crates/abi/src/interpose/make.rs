//! What makes sockets that can be spliced: noted is which are this process's alone.

use super::{interposed, next};
use crate::domain;
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

interposed! {
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int {
        quiet ret(enter!(SYS_socket, family, kind, protocol));
        loud noted(|| ret(enter!(SYS_socket, family, kind, protocol)) as c_int)
    }
    fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
        quiet ret(enter!(SYS_accept, fd, addr, len));
        loud noted(|| next::accept(fd, addr, len))
    }
    fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
        quiet ret(enter!(SYS_accept4, fd, addr, len, flags));
        loud noted(|| next::accept4(fd, addr, len, flags))
    }
}
