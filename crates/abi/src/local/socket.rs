//! The TCP socket of a pair, and this process's threads, for the stream code.
//!
//! The calls that sleep are libc's, inside which a thread can be cancelled: no lock is held there, and what the
//! frames above have to put back they put back as they are unwound.

use crate::interpose::next;
use crate::sys::{self, Raw, Waiter, enter};
use libc::{c_int, msghdr};
use rustix::io::Errno;
use sosplice_local::end::Carried;
use sosplice_local::lock::Threads;
use sosplice_local::stream::Tcp;
use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The kernel has a sleep at a word that it restarts (futex_waitv(2)).
static CAN_PARK: AtomicBool = AtomicBool::new(true);

/// A socket, and the flags of the program's call on it.
#[derive(Clone, Copy)]
pub struct Socket {
    pub fd: c_int,
    /// For sends.
    pub flags: c_int,
}

/// A result of the kernel.
fn result(raw: Raw) -> Result<usize, Errno> {
    if raw < 0 { Err(Errno::from_raw_os_error(-raw as i32)) } else { Ok(raw as usize) }
}

fn message(pieces: *const libc::iovec, count: usize) -> msghdr {
    // SAFETY: zeroes are a valid message without address, room and control data.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.cast_mut();
    message.msg_iovlen = count as _;
    message
}

impl Socket {
    /// One of the events, or a failure, which poll(2) tells unasked.
    fn has_now(&self, events: libc::c_short) -> bool {
        let mut fd = libc::pollfd { fd: self.fd, events, revents: 0 };
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both records live through the call.
        unsafe { enter!(SYS_ppoll, &raw mut fd, 1, &raw const now, 0, 8) > 0 }
    }
}

impl Tcp for Socket {
    fn recv(&self, to: &mut [IoSliceMut<'_>], peek: bool) -> Result<usize, Errno> {
        let flags = libc::MSG_DONTWAIT | if peek { libc::MSG_PEEK } else { 0 };
        // std promises that the slices are iovecs.
        let mut message = message(to.as_ptr().cast(), to.len());
        // SAFETY: the message describes the buffers.
        result(unsafe { enter!(SYS_recvmsg, self.fd, &raw mut message, flags) })
    }

    fn discard(&self, count: usize) -> Result<usize, Errno> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: with MSG_TRUNC a TCP socket writes nothing (tcp(7)).
        result(unsafe { enter!(SYS_recvfrom, self.fd, 0, count, flags, 0, 0) })
    }

    fn probe(&self) -> Result<usize, Errno> {
        let mut byte = 0u8;
        let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
        // SAFETY: room for one byte.
        result(unsafe { enter!(SYS_recvfrom, self.fd, &raw mut byte, 1, flags, 0, 0) })
    }

    fn sleep(&self) -> Result<usize, Errno> {
        let mut byte = 0u8;
        let at = (&raw mut byte).cast();
        // SAFETY: room for one byte.
        result(next::raw(|| unsafe { next::recv(self.fd, at, 1, libc::MSG_PEEK) }))
    }

    fn sleep_for_more(&self) -> Result<usize, Errno> {
        // poll(2) is never restarted; the time limit is the socket's.
        let limit = sys::receive_limit(self.fd);
        let at = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let mut fd = libc::pollfd { fd: self.fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: both records live through the call.
        let found =
            next::raw(|| unsafe { next::ppoll(&raw mut fd, 1, at, std::ptr::null()) as isize });
        match result(found)? {
            0 => Err(Errno::AGAIN),
            _ => Ok(1),
        }
    }

    fn park(&self, word: &AtomicU32, until_ns: u64, is_restarted: bool) -> Result<(), Errno> {
        // Whether a kernel restarts it or not, the time is the same.
        let slept = if is_restarted {
            if !CAN_PARK.load(Ordering::Relaxed) {
                return Err(Errno::NOSYS);
            }
            sys::futex_waitv(&[Waiter::new(word, 1)], Some(&sys::timespec_of(until_ns)))
        } else {
            let left_ns = until_ns.saturating_sub(now_ns());
            sys::futex_wait(word, 1, Some(&sys::timespec_of(left_ns)))
        };
        match result(slept) {
            // It was no longer one.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => {
                if is_restarted && errno != Errno::INTR && errno != Errno::TIMEDOUT {
                    CAN_PARK.store(false, Ordering::Relaxed);
                }
                Err(errno)
            }
        }
    }

    fn unpark(&self, word: &AtomicU32) -> bool {
        // As many as there are: one that was killed may still be counted as asleep.
        sys::futex_wake(word, c_int::MAX) > 0
    }

    fn carried(&self) -> Option<Carried> {
        // Acknowledgements may come in between the questions; not many times in a row.
        const TRIES: u32 = 100;
        let queued = |request| sys::queued(self.fd, request);
        let counts = || {
            let (acked, received) = sys::tcp_counts(self.fd)?;
            // What is to be sent, and of it what has not been acknowledged; what came, and of it what is unread. A FIN is counted
            // as a byte that came, and not as one that is unread.
            let sent = acked + queued(libc::TIOCOUTQ)?;
            let fin = u64::from(self.is_over());
            let taken = received.checked_sub(queued(libc::FIONREAD)? + fin)?;
            Some((acked, received, fin, Carried { sent, taken }))
        };
        let mut before = counts()?;
        for _ in 0..TRIES {
            let now = counts()?;
            if now == before {
                return Some(now.3);
            }
            before = now;
        }
        None
    }

    fn is_over(&self) -> bool {
        self.has_now(libc::POLLRDHUP)
    }

    fn has_failed(&self) -> bool {
        self.has_now(0)
    }

    fn is_at_mark(&self) -> bool {
        sys::at_mark(self.fd)
    }

    fn ring(&self) -> Result<(), Errno> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: one byte is read.
        result(unsafe { enter!(SYS_sendto, self.fd, b"!".as_ptr(), 1, flags, 0, 0) }).map(drop)
    }

    fn send(&self, from: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let message = message(from.as_ptr().cast(), from.len());
        // SAFETY: the message describes the buffers, which are only read.
        result(unsafe { enter!(SYS_sendmsg, self.fd, &raw const message, self.flags) })
    }

    fn send_now(&self, from: &[u8]) -> Result<usize, Errno> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the bytes are only read.
        result(unsafe { enter!(SYS_sendto, self.fd, from.as_ptr(), from.len(), flags, 0, 0) })
    }

    fn now_ns(&self) -> u64 {
        now_ns()
    }
}

/// The same clock as `sys::now_ns`, without entering the kernel.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the record lives through the call; libc's name is not interposed.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

thread_local! {
    static ID: Cell<u32> = const { Cell::new(0) };
}

/// The threads of this process and its relatives.
pub struct Family;

impl Threads for Family {
    #[inline]
    fn own(&self) -> u32 {
        ID.try_with(|id| {
            if id.get() == 0 {
                // SAFETY: no arguments, cannot fail.
                id.set(unsafe { enter!(SYS_gettid) } as u32);
            }
            id.get()
        })
        // A thread that is being taken down.
        .unwrap_or(u32::MAX)
    }

    fn yield_now(&self) {
        // SAFETY: no arguments.
        unsafe { enter!(SYS_sched_yield) };
    }

    fn nap(&self) {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 200_000 };
        // SAFETY: the time lives through the call.
        unsafe { enter!(SYS_nanosleep, &raw const time, 0) };
    }

    fn lives(&self, id: u32) -> bool {
        // SAFETY: signal zero only asks.
        unsafe { enter!(SYS_tkill, id, 0) != -(libc::ESRCH as Raw) }
    }
}

/// The only thread of a forked child has another id than the one that it was copied from.
pub fn forget_id() {
    let _ = ID.try_with(|id| id.set(0));
}
