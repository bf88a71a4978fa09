//! Threads that are cancelled (pthread_cancel(3)) as they sleep in a call, on a connection that is paired and on one
//! that is not.

use crate::calls::*;
use crate::cases;
use crate::duplicates::trips;
use crate::end::End;
use crate::waits::*;
use libc::{EPOLLIN, POLLIN, c_int, c_void, pthread_t};

cases! {
    PROCESSES as_it_reads;
    PROCESSES as_it_waits_for_all;
    PROCESSES as_it_polls;
    PROCESSES as_it_waits_on_a_set;
}

type Sleeper = extern "C-unwind" fn(*mut c_void) -> *mut c_void;

unsafe extern "C-unwind" {
    fn recv(fd: c_int, buf: *mut c_void, len: usize, flags: c_int) -> isize;
    fn poll(fds: *mut libc::pollfd, count: libc::nfds_t, ms: c_int) -> c_int;
    fn epoll_wait(set: c_int, events: *mut libc::epoll_event, count: c_int, ms: c_int) -> c_int;
    fn pthread_cancel(thread: pthread_t) -> c_int;
}

extern "C-unwind" fn reads(fd: *mut c_void) -> *mut c_void {
    let mut bytes = [0u8; 4];
    // SAFETY: room for four.
    while unsafe { recv(fd as c_int, bytes.as_mut_ptr().cast(), 4, 0) } < 0 {}
    std::ptr::null_mut()
}

extern "C-unwind" fn reads_all(fd: *mut c_void) -> *mut c_void {
    let mut bytes = [0u8; 4];
    // SAFETY: room for four.
    while unsafe { recv(fd as c_int, bytes.as_mut_ptr().cast(), 4, libc::MSG_WAITALL) } < 0 {}
    std::ptr::null_mut()
}

extern "C-unwind" fn polls(fd: *mut c_void) -> *mut c_void {
    let mut asked = libc::pollfd { fd: fd as c_int, events: POLLIN, revents: 0 };
    // SAFETY: the record lives through the call.
    while unsafe { poll(&raw mut asked, 1, -1) } < 0 {}
    std::ptr::null_mut()
}

extern "C-unwind" fn waits(set: *mut c_void) -> *mut c_void {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for one.
    while unsafe { epoll_wait(set as c_int, &raw mut event, 1, -1) } < 0 {}
    std::ptr::null_mut()
}

/// Starts the thread, cancels it as it sleeps, and waits for its end: whether it was cancelled.
fn cancelled(body: Sleeper, argument: c_int) -> bool {
    // SAFETY: a C function without frames of ours behind it takes the same arguments.
    let body =
        unsafe { std::mem::transmute::<Sleeper, extern "C" fn(*mut c_void) -> *mut c_void>(body) };
    let mut thread: pthread_t = 0;
    let mut result = std::ptr::null_mut();
    let argument = argument as usize as *mut c_void;
    // SAFETY: the outputs live through the calls; the body has nothing that must be dropped.
    unsafe {
        assert_eq!(libc::pthread_create(&raw mut thread, std::ptr::null(), body, argument), 0);
        // Wherever it is then, it ends.
        pause_ms(30);
        assert_eq!(pthread_cancel(thread), 0);
        assert_eq!(libc::pthread_join(thread, &raw mut result), 0);
    }
    result as isize == -1
}

/// On the end's connection, which is paired where it can be, and on a new one, which is not yet.
fn both(end: &mut End, is_cancelled: impl Fn(c_int) -> bool) {
    let other = end.another();
    for fd in [end.fd, other] {
        if end.far() {
            end.saw("cancelled", is_cancelled(fd));
        }
        end.meet();
        trips(end, fd, 20);
        end.meet();
    }
}

fn as_it_reads(end: &mut End) {
    both(end, |fd| cancelled(reads, fd));
}

fn as_it_waits_for_all(end: &mut End) {
    both(end, |fd| cancelled(reads_all, fd));
}

fn as_it_polls(end: &mut End) {
    both(end, |fd| cancelled(polls, fd));
}

fn as_it_waits_on_a_set(end: &mut End) {
    both(end, |fd| {
        let set = epoll();
        add(set, fd, EPOLLIN, 1);
        let is_cancelled = cancelled(waits, set);
        close(set);
        is_cancelled
    });
}
