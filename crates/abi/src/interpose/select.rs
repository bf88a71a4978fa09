//! select and pselect, by way of poll's watch when a set has a socket that matters.

use super::poll::{FEW, limit_of, watch};
use super::{hot, interposed, next};
use crate::descriptors;
use crate::local;
use crate::sys::{self, Raw, enter, ret};
use libc::{c_int, c_short, fd_set, pollfd, sigset_t, timespec, timeval};

/// As the kernel reads poll's events for select (fs/select.c).
const IN: c_short = libc::POLLIN | libc::POLLRDNORM;
const OUT: c_short = libc::POLLOUT | libc::POLLWRNORM;
const READABLE: c_short = IN | libc::POLLRDBAND | libc::POLLHUP | libc::POLLERR;
const WRITABLE: c_short = OUT | libc::POLLWRBAND | libc::POLLERR;

/// A set as the kernel has it: a bit a descriptor, however many.
struct Set(*mut u64);

impl Set {
    /// # Safety
    /// The set has room for the descriptor.
    unsafe fn has(&self, fd: c_int) -> bool {
        // SAFETY: the caller's.
        !self.0.is_null() && unsafe { *self.0.add(fd as usize / 64) } >> (fd as usize % 64) & 1 != 0
    }

    /// # Safety
    /// The set has room for so many descriptors.
    unsafe fn clear(&self, count: c_int) {
        if !self.0.is_null() {
            for word in 0..(count as usize).div_ceil(64) {
                // SAFETY: the caller's.
                unsafe { *self.0.add(word) = 0 };
            }
        }
    }

    /// # Safety
    /// The set has room for the descriptor.
    unsafe fn set(&self, fd: c_int) {
        // SAFETY: the caller's.
        unsafe { *self.0.add(fd as usize / 64) |= 1 << (fd as usize % 64) };
    }
}

/// None if no descriptor matters: the kernel's business.
unsafe fn watch_sets(
    count: c_int,
    sets: [*mut fd_set; 3],
    timeout: Option<u64>,
    mask: *const sigset_t,
) -> Option<Raw> {
    if !(1..1 << 20).contains(&count) {
        return None;
    }
    let [read, write, except] = sets.map(|set| Set(set.cast()));
    // SAFETY: the program says that its sets have so many.
    unsafe {
        let events = |fd| {
            (if read.has(fd) { IN | libc::POLLRDBAND } else { 0 })
                | (if write.has(fd) { OUT | libc::POLLWRBAND } else { 0 })
                | (if except.has(fd) { libc::POLLPRI } else { 0 })
        };
        let asked = || (0..count).filter(|fd| events(*fd) != 0);
        let matters = |fd| descriptors::of(fd).is_some() || local::waits::concerns(fd);
        if !asked().any(matters) {
            return None;
        }
        // Small sets without an allocation: a handler may be in the middle of one.
        let mut few = [pollfd { fd: -1, events: 0, revents: 0 }; FEW];
        let mut many;
        let fds = match asked().count() {
            all @ 0..=FEW => &mut few[..all],
            all => {
                many = vec![few[0]; all];
                &mut many[..]
            }
        };
        for (place, fd) in fds.iter_mut().zip(asked()) {
            *place = pollfd { fd, events: events(fd), revents: 0 };
        }
        let found = watch(fds, timeout, mask)?;
        if found < 0 {
            return Some(found);
        }
        if fds.iter().any(|fd| fd.revents & libc::POLLNVAL != 0) {
            return Some(-(libc::EBADF as Raw));
        }
        let asked = |fd: &pollfd, kind: c_short| fd.events & kind != 0;
        for set in [&read, &write, &except] {
            set.clear(count);
        }
        let mut told = 0;
        for fd in &*fds {
            if asked(fd, IN) && fd.revents & READABLE != 0 {
                read.set(fd.fd);
                told += 1;
            }
            if asked(fd, OUT) && fd.revents & WRITABLE != 0 {
                write.set(fd.fd);
                told += 1;
            }
            if asked(fd, libc::POLLPRI) && fd.revents & libc::POLLPRI != 0 {
                except.set(fd.fd);
                told += 1;
            }
        }
        Some(told)
    }
}

/// # Safety
/// As select(2).
#[inline(always)]
pub unsafe fn select_call(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *mut timeval,
) -> Raw {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's.
    unsafe {
        enter!(SYS_select, count, read, write, except, timeout)
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's; the time lives through the call.
    unsafe {
        if timeout.is_null() {
            return enter!(SYS_pselect6, count, read, write, except, 0, 0);
        }
        let mut time = timespec { tv_sec: (*timeout).tv_sec, tv_nsec: (*timeout).tv_usec * 1000 };
        let found = enter!(SYS_pselect6, count, read, write, except, &raw mut time, 0);
        *timeout = timeval { tv_sec: time.tv_sec, tv_usec: time.tv_nsec / 1000 };
        found
    }
}

/// # Safety
/// As pselect(2).
#[inline(always)]
pub unsafe fn pselect_call(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> Raw {
    // SAFETY: the caller's; the copies live through the call.
    unsafe {
        let mut copy;
        let mut time = std::ptr::null_mut();
        if !timeout.is_null() {
            copy = *timeout;
            time = &raw mut copy;
        }
        let mask_and_size = [mask as usize, 8];
        enter!(SYS_pselect6, count, read, write, except, time, mask_and_size.as_ptr())
    }
}

unsafe extern "C" fn select_loud(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let limit = if timeout.is_null() {
            Some(None)
        } else {
            let seconds = u64::try_from((*timeout).tv_sec).ok();
            let us = u64::try_from((*timeout).tv_usec).ok();
            seconds.zip(us).map(|(s, us)| {
                Some(s.saturating_mul(1_000_000_000).saturating_add(us.saturating_mul(1000)))
            })
        };
        let begun = sys::now_ns();
        let watched = limit
            .and_then(|limit| watch_sets(count, [read, write, except], limit, std::ptr::null()));
        let Some(result) = watched else {
            return next::select(count, read, write, except, timeout);
        };
        // Linux tells what is left of the time.
        if let Some(Some(limit)) = limit {
            let left = limit.saturating_sub(sys::now_ns() - begun);
            *timeout = timeval {
                tv_sec: (left / 1_000_000_000) as i64,
                tv_usec: (left % 1_000_000_000 / 1000) as i64,
            };
        }
        ret(result) as c_int
    }
}

unsafe fn pselect_loud(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let limit = limit_of(timeout);
        let watched = limit.and_then(|limit| watch_sets(count, [read, write, except], limit, mask));
        match watched {
            Some(result) => ret(result) as c_int,
            None => next::pselect(count, read, write, except, timeout, mask),
        }
    }
}

hot! {
    fn select(
        count: c_int,
        read: *mut fd_set,
        write: *mut fd_set,
        except: *mut fd_set,
        timeout: *mut timeval,
    ) -> c_int {
        number SYS_select; prepare ["mov r10, rcx"];
        quiet ret(select_call(count, read, write, except, timeout)); loud select_loud
    }
}

interposed! {
    fn pselect(
        count: c_int,
        read: *mut fd_set,
        write: *mut fd_set,
        except: *mut fd_set,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        quiet ret(pselect_call(count, read, write, except, timeout, mask));
        loud pselect_loud(count, read, write, except, timeout, mask)
    }
}
