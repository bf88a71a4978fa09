//! epoll: registrations are noted, and a set with a masked one is waited for in turns.

use super::poll::limit_of;
use super::{hot, interposed, next};
use crate::connection;
use crate::domain;
use crate::local;
use crate::lock;
use crate::registrations;
use crate::sys::{self, Raw, enter, fail, ret};
use libc::{c_int, epoll_event, sigset_t, timespec};

unsafe fn ctl_loud(epoll: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    if local::is_on() {
        // SAFETY: the caller's.
        return unsafe { ctl_of_ring(epoll, op, fd, event) };
    }
    if !domain::active() {
        // SAFETY: the caller's.
        return unsafe { ret(enter!(SYS_epoll_ctl, epoll, op, fd, event)) as c_int };
    }
    if event.is_null() && op != libc::EPOLL_CTL_DEL {
        return fail(libc::EFAULT) as c_int;
    }
    // SAFETY: not null, and the program's.
    let event = (!event.is_null()).then(|| unsafe { ((*event).events, (*event).u64) });
    // A relative may have spliced it.
    crate::descriptors::known(fd);
    let guard = lock::hold();
    ret(registrations::control(&guard, epoll, op, fd, event)) as c_int
}

/// The kernel has the registration, and what has to know of it knows it as well.
unsafe fn ctl_of_ring(epoll: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let done = enter!(SYS_epoll_ctl, epoll, op, fd, event);
        if done == 0 {
            // The kernel has read it.
            let asked = (!event.is_null()).then(|| ((*event).events, (*event).u64));
            local::sets::controlled(epoll, op, fd, asked);
        }
        ret(done) as c_int
    }
}

/// Waits on a set that may have paired connections; None for any other.
unsafe fn wait_of_ring(
    epoll: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout: Option<u64>,
    mask: *const sigset_t,
) -> Option<Raw> {
    if !local::is_on() || events.is_null() || count <= 0 {
        return None;
    }
    // SAFETY: the program says that it has room for so many.
    let events = unsafe { std::slice::from_raw_parts_mut(events, count as usize) };
    // SAFETY: the caller's.
    unsafe { local::sets::wait(epoll, events, timeout, mask) }
}

/// Waits on a set with masked registrations.
unsafe fn wait(
    epoll: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout: Option<u64>,
    mask: *const sigset_t,
) -> Raw {
    // SAFETY: the program says that it has room for so many.
    let events = unsafe { std::slice::from_raw_parts_mut(events, count as usize) };
    let deadline = timeout.map(|timeout| sys::now_ns().saturating_add(timeout));
    loop {
        let owed = {
            let guard = lock::hold();
            registrations::unmask_ended(&guard, epoll);
            registrations::owed(&guard, epoll, events)
        };
        let left = match deadline {
            _ if owed > 0 => 0,
            Some(deadline) => {
                let left = deadline.saturating_sub(sys::now_ns());
                c_int::try_from(left.div_ceil(1_000_000)).unwrap_or(c_int::MAX)
            }
            None => -1,
        };
        let mut found = 0;
        if owed < events.len() {
            let room = events.len() - owed;
            let at = events[owed..].as_mut_ptr();
            // SAFETY: room for so many.
            found = unsafe { enter!(SYS_epoll_pwait, epoll, at, room, left, mask, 8) };
        }
        if found < 0 {
            return if owed > 0 { owed as Raw } else { found };
        }
        let all = owed + found as usize;
        let kept = if found > 0 { sort(epoll, &mut events[..all], owed) } else { owed };
        let is_late = deadline.is_some_and(|deadline| sys::now_ns() >= deadline);
        if kept > 0 || (found == 0 && is_late) {
            return kept as Raw;
        }
    }
}

/// Leaves the program's events; how many. The carrier's death is seen to.
fn sort(epoll: c_int, events: &mut [epoll_event], owed: usize) -> usize {
    let guard = lock::hold();
    if registrations::has_died(&events[owed..]) {
        connection::mourn(&guard);
    }
    registrations::translate(&guard, epoll, events, owed)
}

fn is_ours(epoll: c_int, events: *mut epoll_event, count: c_int) -> bool {
    !events.is_null() && count > 0 && registrations::is_hooked(epoll)
}

unsafe fn pwait_loud(
    epoll: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let limit = u64::try_from(timeout).ok().map(|ms| ms * 1_000_000);
        if let Some(result) = wait_of_ring(epoll, events, count, limit, mask) {
            return ret(result) as c_int;
        }
        if !is_ours(epoll, events, count) {
            let found = next::epoll_pwait(epoll, events, count, timeout, mask);
            // A splice may have begun meanwhile, and what was found be its business.
            if found <= 0 {
                return found;
            }
            let found = std::slice::from_raw_parts_mut(events, found as usize);
            if !registrations::is_hooked(epoll) && !found.iter().any(registrations::is_ours) {
                return found.len() as c_int;
            }
            let kept = sort(epoll, found, 0);
            if kept > 0 {
                return kept as c_int;
            }
        }
        ret(wait(epoll, events, count, limit, mask)) as c_int
    }
}

unsafe fn pwait2_loud(
    epoll: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        let limit = limit_of(timeout);
        if let Some(result) =
            limit.and_then(|limit| wait_of_ring(epoll, events, count, limit, mask))
        {
            return ret(result) as c_int;
        }
        match limit.filter(|_| is_ours(epoll, events, count)) {
            Some(limit) => ret(wait(epoll, events, count, limit, mask)) as c_int,
            None => ret(enter!(SYS_epoll_pwait2, epoll, events, count, timeout, mask, 8)) as c_int,
        }
    }
}

unsafe extern "C" fn wait_loud(
    epoll: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout: c_int,
) -> c_int {
    // SAFETY: the caller's.
    unsafe { pwait_loud(epoll, events, count, timeout, std::ptr::null()) }
}

hot! {
    fn epoll_wait(epoll: c_int, events: *mut epoll_event, count: c_int, timeout: c_int) -> c_int {
        number SYS_epoll_wait; prepare ["mov r10, rcx"];
        quiet ret(enter!(SYS_epoll_pwait, epoll, events, count, timeout, 0, 8)); loud wait_loud
    }
}

interposed! {
    fn epoll_ctl(epoll: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
        quiet ret(enter!(SYS_epoll_ctl, epoll, op, fd, event)); loud ctl_loud(epoll, op, fd, event)
    }
    fn epoll_pwait(
        epoll: c_int,
        events: *mut epoll_event,
        count: c_int,
        timeout: c_int,
        mask: *const sigset_t,
    ) -> c_int {
        quiet ret(enter!(SYS_epoll_pwait, epoll, events, count, timeout, mask, 8));
        loud pwait_loud(epoll, events, count, timeout, mask)
    }
    fn epoll_pwait2(
        epoll: c_int,
        events: *mut epoll_event,
        count: c_int,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        quiet ret(enter!(SYS_epoll_pwait2, epoll, events, count, timeout, mask, 8));
        loud pwait2_loud(epoll, events, count, timeout, mask)
    }
}
