//! Every way to wait for a descriptor.

// Each table uses its part.
#![allow(dead_code)]

use crate::calls::*;
use libc::{EPOLLET, EPOLLIN, POLLIN, c_int};

pub fn epoll() -> c_int {
    // SAFETY: no pointers.
    let fd = unsafe { libc::epoll_create1(0) };
    assert!(fd >= 0);
    fd
}

pub fn control(epoll: c_int, op: c_int, fd: c_int, events: c_int, data: u64) {
    let mut event = libc::epoll_event { events: events as u32, u64: data };
    // SAFETY: the event lives through the call.
    assert_eq!(unsafe { libc::epoll_ctl(epoll, op, fd, &raw mut event) }, 0, "{}", errno());
}

pub fn add(epoll: c_int, fd: c_int, events: c_int, data: u64) {
    control(epoll, libc::EPOLL_CTL_ADD, fd, events, data);
}

pub fn wait(epoll: c_int, ms: c_int) -> Vec<(u32, u64)> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
    // SAFETY: room for so many.
    let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), 16, ms) };
    assert!(count >= 0, "{}", errno());
    events[..count as usize].iter().map(|event| (event.events, event.u64)).collect()
}

pub fn select(fd: c_int, ms: i64) -> bool {
    // SAFETY: zeroes are an empty set; the set and time live through the calls.
    unsafe {
        let mut set: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(fd, &raw mut set);
        let mut time = libc::timeval { tv_sec: ms / 1000, tv_usec: ms % 1000 * 1000 };
        let null = std::ptr::null_mut();
        let found = libc::select(fd + 1, &raw mut set, null, null, &raw mut time);
        assert!(found >= 0, "{}", errno());
        assert_eq!(found == 1, libc::FD_ISSET(fd, &raw const set));
        found == 1
    }
}

pub fn pselect(fd: c_int, ms: i64) -> bool {
    // SAFETY: as above.
    unsafe {
        let mut set: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(fd, &raw mut set);
        let time = libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
        let null = std::ptr::null_mut();
        let mask = std::ptr::null();
        libc::pselect(fd + 1, &raw mut set, null, null, &raw const time, mask) == 1
    }
}

pub fn ppoll(fd: c_int, ms: i64) -> bool {
    let mut fds = [libc::pollfd { fd, events: POLLIN, revents: 0 }];
    let time = libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    // SAFETY: set and time live through the call.
    unsafe { libc::ppoll(fds.as_mut_ptr(), 1, &raw const time, std::ptr::null()) == 1 }
}

/// Whether a descriptor is readable, waiting so many milliseconds for it.
pub type Waiter = fn(c_int, i64) -> bool;

/// Every way to ask whether a descriptor is readable: each waits so long.
pub fn waiters() -> Vec<(&'static str, Waiter)> {
    vec![
        ("poll", |fd, ms| poll(fd, POLLIN, ms as c_int) & POLLIN != 0),
        ("ppoll", ppoll),
        ("select", select),
        ("pselect", pselect),
        ("epoll level", |fd, ms| by_epoll(fd, ms, EPOLLIN)),
        ("epoll edge", |fd, ms| by_epoll(fd, ms, EPOLLIN | EPOLLET)),
    ]
}

fn by_epoll(fd: c_int, ms: i64, events: c_int) -> bool {
    let epoll = epoll();
    add(epoll, fd, events, 1);
    let found = wait(epoll, ms as c_int);
    close(epoll);
    found.iter().any(|(events, _)| events & EPOLLIN as u32 != 0)
}
