//! The functions that the interposed names stand in front of.
//!
//! They are looked up once, when the option is first used or the first thread is made:
//! before that the calls go to the kernel directly, and a program that does neither does
//! not pay for the search at its start. libc's are needed because a thread can be cancelled
//! inside them: then libc unwinds the frames between them and the program, so they are declared as
//! functions that may.

use crate::sys::{Raw, enter, ret};
use libc::{
    c_int, c_ulong, c_void, iovec, mmsghdr, msghdr, nfds_t, pollfd, size_t, sockaddr, socklen_t,
    ssize_t, timespec,
};
use std::sync::atomic::{AtomicPtr, Ordering};

macro_rules! next {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $ret:ty = $call:expr;)*) => {
        $(
            /// # Safety
            /// As libc's function of this name.
            #[allow(clippy::too_many_arguments, reason = "libc's signature")]
            pub unsafe fn $name($($arg: $kind),*) -> $ret {
                let found = table::$name.load(Ordering::Relaxed);
                if found.is_null() {
                    // SAFETY: the caller's.
                    return ret(unsafe { $call }) as $ret;
                }
                type Function = unsafe extern "C-unwind" fn($($kind),*) -> $ret;
                // SAFETY: dlsym gave it for this name; the caller's for the rest.
                unsafe { std::mem::transmute::<*mut c_void, Function>(found)($($arg),*) }
            }
        )*

        #[allow(non_upper_case_globals, reason = "named after the functions")]
        mod table {
            use super::*;
            $(pub static $name: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());)*
        }

        /// Looks all of them up.
        pub fn resolve() {
            $(
                let name = concat!(stringify!($name), "\0");
                table::$name.store(find(name), Ordering::Relaxed);
            )*
        }

        /// They were looked up before.
        pub fn is_resolved() -> bool {
            !table::read.load(Ordering::Relaxed).is_null()
        }
    };
}

next! {
    read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t = enter!(SYS_read, fd, buf, len);
    readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t
        = enter!(SYS_readv, fd, iov, count);
    recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t
        = enter!(SYS_recvfrom, fd, buf, len, flags, 0, 0);
    recvfrom(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, addr: *mut sockaddr,
        addr_len: *mut socklen_t) -> ssize_t
        = enter!(SYS_recvfrom, fd, buf, len, flags, addr, addr_len);
    recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t
        = enter!(SYS_recvmsg, fd, msg, flags);
    recvmmsg(fd: c_int, msgs: *mut mmsghdr, count: libc::c_uint, flags: c_int,
        timeout: *mut timespec) -> c_int
        = enter!(SYS_recvmmsg, fd, msgs, count, flags, timeout);
    write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t
        = enter!(SYS_write, fd, buf, len);
    writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t
        = enter!(SYS_writev, fd, iov, count);
    send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t
        = enter!(SYS_sendto, fd, buf, len, flags, 0, 0);
    sendto(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, addr: *const sockaddr,
        addr_len: socklen_t) -> ssize_t
        = enter!(SYS_sendto, fd, buf, len, flags, addr, addr_len);
    sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t
        = enter!(SYS_sendmsg, fd, msg, flags);
    sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: libc::c_uint, flags: c_int) -> c_int
        = enter!(SYS_sendmmsg, fd, msgs, count, flags);
    poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int
        = super::poll::poll_call(fds, count, timeout);
    ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec,
        mask: *const libc::sigset_t) -> c_int
        = super::poll::ppoll_call(fds, count, timeout, mask);
    select(count: c_int, read: *mut libc::fd_set, write: *mut libc::fd_set,
        except: *mut libc::fd_set, timeout: *mut libc::timeval) -> c_int
        = super::select::select_call(count, read, write, except, timeout);
    pselect(count: c_int, read: *mut libc::fd_set, write: *mut libc::fd_set,
        except: *mut libc::fd_set, timeout: *const timespec, mask: *const libc::sigset_t) -> c_int
        = super::select::pselect_call(count, read, write, except, timeout, mask);
    epoll_pwait(epoll: c_int, events: *mut libc::epoll_event, count: c_int, timeout: c_int,
        mask: *const libc::sigset_t) -> c_int
        = enter!(SYS_epoll_pwait, epoll, events, count, timeout, mask, 8);
    connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int
        = enter!(SYS_connect, fd, addr, len);
    accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int
        = enter!(SYS_accept, fd, addr, len);
    accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int
        = enter!(SYS_accept4, fd, addr, len, flags);
    close(fd: c_int) -> c_int = enter!(SYS_close, fd);
    fcntl(fd: c_int, command: c_int, arg: c_ulong) -> c_int
        = enter!(SYS_fcntl, fd, command, arg);
}

/// What a function of libc says, as the kernel would: errno stays as it was.
#[inline]
pub fn raw(call: impl FnOnce() -> isize) -> Raw {
    // SAFETY: the address of this thread's errno.
    let errno_at = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno_at };
    let result = call();
    if result >= 0 {
        return result;
    }
    // SAFETY: as above.
    -(unsafe { errno_at.replace(before) } as Raw)
}

/// The next definition of a name behind ours. `name` ends with a zero byte.
pub fn find(name: &str) -> *mut c_void {
    debug_assert!(name.ends_with('\0'));
    // SAFETY: a string that ends with a zero byte.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast()) }
}

/// What a fortified name does where the room is smaller than asked: ends the program.
pub fn chk_fail() -> ! {
    let chk_fail = find("__chk_fail\0");
    if !chk_fail.is_null() {
        // SAFETY: libc's, without arguments; it does not return.
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> !>(chk_fail)() };
    }
    // SAFETY: does not return.
    unsafe { libc::abort() }
}
