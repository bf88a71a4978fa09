//! poll, ppoll and their fortified names.
//!
//! A running source is taken out of the set, a thread's notice of ends is put in, and the
//! call goes on until something that the program asked for is so.

use super::{hot, interposed, next};
use crate::descriptors;
use crate::local;
use crate::notice;
use crate::personality::Personality;
use crate::sys::{self, Raw, enter, ret};
use libc::{c_int, c_short, nfds_t, pollfd, sigset_t, timespec};

const READ: c_short =
    libc::POLLIN | libc::POLLPRI | libc::POLLRDNORM | libc::POLLRDBAND | libc::POLLRDHUP;
const DATA: c_short = libc::POLLIN | libc::POLLRDNORM;
const WRITE: c_short = libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND;

/// Sets so small are watched without an allocation.
pub const FEW: usize = 64;

/// How the program is to see a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    Plain,
    /// A running source: not readable.
    Source,
    /// Has an error or bytes that the kernel does not know of.
    Owes,
    /// A running drain of FreeBSD: not writable.
    Drain,
}

fn sight(fd: c_int) -> Sight {
    let Some(slot) = descriptors::of(fd) else { return Sight::Plain };
    if slot.is_source() {
        Sight::Source
    } else if slot.owes() {
        Sight::Owes
    } else if slot.is_drain() && Personality::current() == Personality::FreeBsd {
        Sight::Drain
    } else {
        Sight::Plain
    }
}

/// What the kernel is asked for in the place of `asked`.
fn shown(asked: &pollfd, sight: Sight) -> pollfd {
    let hidden = match sight {
        Sight::Plain | Sight::Owes => 0,
        Sight::Source if Personality::current() == Personality::FreeBsd => READ & !libc::POLLPRI,
        Sight::Source => READ,
        Sight::Drain => WRITE,
    };
    let events = asked.events & !hidden;
    // The kernel reports a hang-up whatever is asked, unless the descriptor is negative.
    let fd = if hidden != 0 && events == 0 { -1 } else { asked.fd };
    pollfd { fd, events, revents: 0 }
}

/// What the program is told.
fn told(asked: &pollfd, found: &pollfd, sight: Sight) -> c_short {
    match sight {
        Sight::Plain => found.revents,
        Sight::Source | Sight::Drain => found.revents & asked.events,
        Sight::Owes => found.revents | (asked.events & DATA),
    }
}

/// Watches a set with sockets that matter. None if there are none: the kernel's business.
///
/// # Safety
/// `mask` is null or the program's.
pub unsafe fn watch(
    fds: &mut [pollfd],
    timeout: Option<u64>,
    mask: *const sigset_t,
) -> Option<Raw> {
    if local::is_on() {
        // SAFETY: the caller's.
        return unsafe { local::waits::poll(fds, timeout, mask) };
    }
    if fds.iter().all(|asked| sight(asked.fd) == Sight::Plain) {
        return None;
    }
    let deadline = timeout.map(|timeout| sys::now_ns().saturating_add(timeout));
    let empty = pollfd { fd: -1, events: 0, revents: 0 };
    let mut few = ([empty; FEW + 1], [Sight::Plain; FEW]);
    let mut many;
    let (shadow, sights) = if fds.len() <= FEW {
        (&mut few.0[..=fds.len()], &mut few.1[..fds.len()])
    } else {
        many = (vec![empty; fds.len() + 1], vec![Sight::Plain; fds.len()]);
        (&mut many.0[..], &mut many.1[..])
    };
    loop {
        let (mut owes, mut waits) = (false, false);
        for ((asked, shadow), place) in fds.iter().zip(&mut *shadow).zip(&mut *sights) {
            *place = sight(asked.fd);
            *shadow = shown(asked, *place);
            owes |= *place == Sight::Owes && asked.events & DATA != 0;
            waits |= matches!(*place, Sight::Source | Sight::Drain);
        }
        // A carrier that has died has another behind it, and a thread another notice.
        let notice = if waits { notice::descriptor().ok()? } else { -1 };
        shadow[fds.len()] = pollfd { fd: notice, events: libc::POLLIN, revents: 0 };
        let left = match deadline {
            _ if owes => Some(0),
            Some(deadline) => Some(deadline.saturating_sub(sys::now_ns())),
            None => None,
        };
        let left = left.map(sys::timespec_of);
        let left_at = left.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the shadow lives through the call; the mask is the caller's.
        let found =
            unsafe { enter!(SYS_ppoll, shadow.as_mut_ptr(), shadow.len(), left_at, mask, 8) };
        if found < 0 {
            return Some(found);
        }
        if shadow[fds.len()].revents & libc::POLLNVAL != 0 {
            notice::abandon();
            continue;
        }
        let mut count = 0;
        for ((asked, shadow), sight) in fds.iter_mut().zip(&*shadow).zip(&*sights) {
            asked.revents = told(asked, shadow, *sight);
            count += Raw::from(asked.revents != 0);
        }
        let has_ended = shadow[fds.len()].revents != 0;
        if has_ended {
            notice::clear(notice);
        }
        let is_late = deadline.is_some_and(|deadline| sys::now_ns() >= deadline);
        if count > 0 || (is_late && !has_ended) {
            return Some(count);
        }
        // A hang-up that is not to be told would be found again at once.
        if found > 0 && !has_ended {
            nap();
        }
    }
}

fn nap() {
    let time = timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    // SAFETY: the time lives through the call.
    unsafe { enter!(SYS_nanosleep, &raw const time, 0) };
}

/// The time limit in nanoseconds, a null one being none; None for a time that is invalid,
/// which the kernel is left to say.
///
/// # Safety
/// `time` is null or points to one.
pub unsafe fn limit_of(time: *const timespec) -> Option<Option<u64>> {
    // SAFETY: the caller's.
    match unsafe { time.as_ref() } {
        None => Some(None),
        Some(time) => ns_of(time).map(Some),
    }
}

fn ns_of(time: &timespec) -> Option<u64> {
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let ns = u64::try_from(time.tv_nsec).ok().filter(|ns| *ns < 1_000_000_000)?;
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(ns))
}

/// # Safety
/// As poll(2).
#[inline(always)]
pub unsafe fn poll_call(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> Raw {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's.
    unsafe {
        enter!(SYS_poll, fds, count, timeout)
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's; the time lives through the call.
    unsafe {
        let time = sys::timespec_of(timeout.max(0) as u64 * 1_000_000);
        let time = if timeout < 0 { std::ptr::null() } else { &raw const time };
        enter!(SYS_ppoll, fds, count, time, 0, 8)
    }
}

/// The kernel writes back what is left of the time; libc's callers keep theirs.
///
/// # Safety
/// As ppoll(2).
#[inline(always)]
pub unsafe fn ppoll_call(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> Raw {
    // SAFETY: the caller's; the copy lives through the call.
    unsafe {
        let mut copy;
        let mut time = std::ptr::null_mut();
        if !timeout.is_null() {
            copy = *timeout;
            time = &raw mut copy;
        }
        enter!(SYS_ppoll, fds, count, time, mask, 8)
    }
}

unsafe fn slice<'a>(fds: *mut pollfd, count: nfds_t) -> Option<&'a mut [pollfd]> {
    // More than anybody may have open: the kernel says EINVAL.
    let sound = !fds.is_null() && count > 0 && count < 1 << 20;
    // SAFETY: the program says that it has so many.
    sound.then(|| unsafe { std::slice::from_raw_parts_mut(fds, count as usize) })
}

unsafe extern "C" fn poll_loud(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let limit = u64::try_from(timeout).ok().map(|ms| ms * 1_000_000);
        if !local::has_none()
            && let Some(result) =
                slice(fds, count).and_then(|fds| watch(fds, limit, std::ptr::null()))
        {
            return ret(result) as c_int;
        }
        let found = next::poll(fds, count, timeout);
        if found <= 0 || local::has_none() {
            return found;
        }
        // A splice may have begun meanwhile, and what was found be its business.
        match slice(fds, count).and_then(|fds| watch(fds, limit, std::ptr::null())) {
            Some(result) => ret(result) as c_int,
            None => found,
        }
    }
}

unsafe fn ppoll_loud(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let limit = limit_of(timeout);
        let watched = limit.and_then(|limit| watch(slice(fds, count)?, limit, mask));
        match watched {
            Some(result) => ret(result) as c_int,
            None => next::ppoll(fds, count, timeout, mask),
        }
    }
}

/// The fortified names end the program when the set is smaller than its count.
fn check_set(count: nfds_t, room: usize) {
    if room / size_of::<pollfd>() < count as usize {
        next::chk_fail();
    }
}

hot! {
    fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
        number SYS_poll; prepare []; quiet ret(poll_call(fds, count, timeout)); loud poll_loud
    }
}

interposed! {
    fn ppoll(
        fds: *mut pollfd,
        count: nfds_t,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        quiet ret(ppoll_call(fds, count, timeout, mask));
        loud ppoll_loud(fds, count, timeout, mask)
    }
    fn __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, room: usize) -> c_int {
        quiet {
            check_set(count, room);
            ret(poll_call(fds, count, timeout))
        };
        loud {
            check_set(count, room);
            poll_loud(fds, count, timeout)
        }
    }
    fn __ppoll_chk(
        fds: *mut pollfd,
        count: nfds_t,
        timeout: *const timespec,
        mask: *const sigset_t,
        room: usize,
    ) -> c_int {
        quiet {
            check_set(count, room);
            ret(ppoll_call(fds, count, timeout, mask))
        };
        loud {
            check_set(count, room);
            ppoll_loud(fds, count, timeout, mask)
        }
    }
}
