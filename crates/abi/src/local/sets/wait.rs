//! What a wait on a set does: it looks at the connections that are live, arms them before it sleeps, and behind
//! the sleep takes out what was only a doorbell.

use super::{Inner, KICK, Set, made, set};
use crate::interpose::next;
use crate::local::connections::{self, Used};
use crate::local::socket::{Family, now_ns};
use crate::local::spin_ns;
use crate::local::waits::{prepare, prepare_behind, settle, spin};
use crate::sys::{Raw, enter};
use libc::{c_int, epoll_event, sigset_t};
use std::sync::atomic::Ordering;

const DATA: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
/// What is not data, and no matter of how it is told.
const OTHERS: u32 = 0xffff & !(DATA | libc::EPOLLRDHUP as u32);
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
const EDGE: u32 = libc::EPOLLET as u32;
const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;

/// Waits that may find something in a ring without asking the kernel, in a row.
const RINGS_IN_A_ROW: u32 = 8;

/// So many sleeps without news leave a connection armed.
const SILENCE: u8 = 4;

impl Inner {
    /// A sleep is over: those that were lively before it are looked at again without their doorbells.
    fn awake(&mut self) {
        let mut armed = std::mem::take(&mut self.armed);
        for key in armed.drain(..) {
            let Some(found) = self.paired(key) else { continue };
            disarm(&found);
            found.here.is_live.store(1, Ordering::SeqCst);
            if !self.live.contains(&key) {
                self.live.push(key);
            }
        }
        // Its memory is kept for the next sleep.
        self.armed = armed;
    }
}

/// Something is in a ring of the set, as far as one can see without a lock.
pub fn glance(epoll: c_int) -> bool {
    let Some(set) = set(epoll) else { return false };
    set.with(|inner| inner.live.iter().any(|fd| has_news(inner, *fd))).unwrap_or(false)
}

/// A live connection has what its registration is to be told.
fn has_news(inner: &Inner, fd: c_int) -> bool {
    let Some(registration) = inner.registrations.get(&fd) else { return false };
    if registration.events & DATA == 0 || registration.is_spent {
        return false;
    }
    let Some(found) = inner.paired(fd) else { return false };
    let end = &found.end;
    end.has(found.low_water())
        && (registration.events & EDGE == 0 || registration.told != end.arrived())
}

/// Before a sleep on the set by way of another: arms what is live. True when something is there.
pub fn prepare_set(epoll: c_int) -> bool {
    set(epoll).is_some_and(|set| arm_all(set, false))
}

/// As [`prepare_set`]; what is armed is remembered for the one who sleeps.
fn arm_all(set: &Set, is_remembered: bool) -> bool {
    set.with(|inner| {
        let mut live = std::mem::take(&mut inner.live);
        // Where it is the only one, what rings is what wakes in any case.
        let is_remembered = is_remembered && (spin_ns() > 0 || live.len() > 1);
        let mut ready = false;
        live.retain(|&fd| {
            if !inner.registrations.contains_key(&fd) {
                return false;
            }
            if has_news(inner, fd) || !arm(inner, fd) {
                ready |= has_news(inner, fd);
                return true;
            }
            if is_remembered
                && let Some(registration) = inner.registrations.get_mut(&fd)
                && registration.silence < SILENCE
            {
                registration.silence += 1;
                inner.armed.push(fd);
            }
            false
        });
        inner.live = live;
        ready
    })
    .unwrap_or(false)
}

/// Asks for a doorbell. False when the connection has news instead.
fn arm(inner: &Inner, fd: c_int) -> bool {
    let Some(found) = inner.paired(fd) else { return true };
    let end = &found.end;
    let Some(registration) = inner.registrations.get(&fd) else { return true };
    found.here.is_live.store(0, Ordering::SeqCst);
    // Readers of an edge that was told want the next byte, not those that are there.
    let is_told = registration.events & EDGE != 0 && registration.told == end.arrived();
    let is_deaf = registration.events & DATA == 0 || registration.is_spent;
    if (is_told || is_deaf) && end.glance() {
        return prepare_behind(&found) && !has_news(inner, fd);
    }
    !prepare(&found)
}

/// As epoll_pwait(2) on a set with paired connections. None for any other.
///
/// # Safety
/// `mask` is null or the program's.
pub unsafe fn wait(
    epoll: c_int,
    events: &mut [epoll_event],
    timeout: Option<u64>,
    mask: *const sigset_t,
) -> Option<Raw> {
    let set = made(epoll)?;
    if !connections::any_paired() {
        // A connection of the set may be paired while this sleeps.
        let asleep = set.asleep();
        let limit =
            timeout.map_or(-1, |ns| c_int::try_from(ns.div_ceil(1_000_000)).unwrap_or(c_int::MAX));
        // SAFETY: the mask is the caller's.
        let found = unsafe { sleep(epoll, events, limit, mask) };
        drop(asleep);
        if found <= 0 || !connections::any_paired() {
            return Some(found);
        }
        let kept = set.with(|inner| translate(inner, epoll, events, 0, found as usize))?;
        if kept > 0 {
            return Some(kept as Raw);
        }
    }
    let deadline = timeout.map(|timeout| now_ns().saturating_add(timeout));
    let spin_until = match spin_ns().min(timeout.unwrap_or(u64::MAX)) {
        0 => 0,
        limit => now_ns().saturating_add(limit),
    };
    loop {
        let told = set.with(|inner| tell(inner, epoll, events))?;
        if told > 0 {
            // Others in the set have their turn as well.
            let in_a_row = set.rings_in_a_row.fetch_add(1, Ordering::Relaxed);
            if in_a_row < RINGS_IN_A_ROW && set.with(|inner| inner.is_all_told)? {
                return Some(told as Raw);
            }
            let is_full = told == events.len();
            if is_full || set.with(|inner| inner.is_edge_told)? {
                set.with(|inner| complete(inner, &mut events[..told]))?;
            }
            if is_full {
                return Some(told as Raw);
            }
        } else if spin_until > 0
            && let left @ 1.. = spin_until.saturating_sub(now_ns())
        {
            let has_live = set.with(|inner| !inner.live.is_empty())?;
            let mut count = 0u32;
            // SAFETY: room for so many; a time of zero.
            let kernel = |events: &mut [epoll_event]| unsafe {
                enter!(SYS_epoll_pwait, epoll, events.as_mut_ptr(), events.len(), 0, 0, 8)
            };
            let mut found = 0;
            let there = has_live
                && spin(&set.patience, left, || {
                    count += 1;
                    if glance(epoll) {
                        return true;
                    }
                    if count.is_multiple_of(16) {
                        found = kernel(events);
                    }
                    found != 0
                });
            if found > 0 {
                let kept = set.with(|inner| translate(inner, epoll, events, 0, found as usize))?;
                if kept > 0 {
                    return Some(kept as Raw);
                }
            }
            if there {
                continue;
            }
        }
        set.rings_in_a_row.store(0, Ordering::Relaxed);
        let asleep = (told == 0).then(|| set.asleep());
        let is_ready = told > 0 || arm_all(set, true) | prepare_inner_sets(set);
        let left = match deadline {
            _ if is_ready => 0,
            Some(deadline) => {
                let left = deadline.saturating_sub(now_ns());
                c_int::try_from(left.div_ceil(1_000_000)).unwrap_or(c_int::MAX)
            }
            None => -1,
        };
        let begun = if is_ready || spin_ns() == 0 { 0 } else { now_ns() };
        // SAFETY: the mask is the caller's.
        let found = unsafe { sleep(epoll, &mut events[told..], left, mask) };
        if begun != 0 {
            set.patience.waited(now_ns() - begun, spin_ns());
        }
        if let Some(asleep) = asleep {
            drop(asleep);
            set.with(|inner| {
                // Another thread may rely on what was asked for.
                if set.sleepers.load(Ordering::SeqCst) == 0 {
                    inner.awake();
                }
            });
        }
        if found < 0 {
            return Some(if told > 0 { told as Raw } else { found });
        }
        let kept = set.with(|inner| translate(inner, epoll, events, told, found as usize))?;
        let is_late = deadline.is_some_and(|deadline| now_ns() >= deadline);
        if kept > 0 || (found == 0 && !is_ready && is_late) {
            return Some(kept as Raw);
        }
    }
}

/// In libc's function, inside which a thread can be cancelled.
///
/// # Safety
/// `mask` is null or the program's.
unsafe fn sleep(
    epoll: c_int,
    events: &mut [epoll_event],
    limit: c_int,
    mask: *const sigset_t,
) -> Raw {
    let room = c_int::try_from(events.len()).unwrap_or(c_int::MAX);
    // SAFETY: room for so many; the mask is the caller's.
    next::raw(|| unsafe {
        next::epoll_pwait(epoll, events.as_mut_ptr(), room, limit, mask) as isize
    })
}

/// Sets in the set that have something, or are armed now.
fn prepare_inner_sets(outer: &'static Set) -> bool {
    let inner_sets = outer.with(|inner| inner.sets.clone());
    inner_sets.unwrap_or_default().into_iter().fold(false, |any, fd| prepare_set(fd) | any)
}

/// Writes down what the rings have to tell. How many there are.
fn tell(inner: &mut Inner, epoll: c_int, events: &mut [epoll_event]) -> usize {
    let mut count = 0;
    let mut place = 0;
    inner.is_all_told = true;
    inner.is_edge_told = false;
    while place < inner.live.len() && count < events.len() {
        let fd = inner.live[place];
        if inner.paired(fd).is_none() {
            inner.live.swap_remove(place);
            continue;
        }
        if has_news(inner, fd)
            && let Some(found) = inner.paired(fd)
            && let Some(registration) = inner.registrations.get_mut(&fd)
        {
            registration.told = found.end.arrived();
            registration.silence = 0;
            inner.is_edge_told |= registration.events & EDGE != 0;
            inner.is_all_told &= registration.events & OTHERS == 0 && found.end.is_going_on();
            if registration.events & ONE_SHOT != 0 {
                registration.is_spent = true;
                change(epoll, fd, registration.events & (ONE_SHOT | EDGE), registration.data);
            }
            events[count] =
                epoll_event { events: registration.events & DATA, u64: registration.data };
            count += 1;
        }
        place += 1;
    }
    for place in 0..inner.sets.len() {
        let fd = inner.sets[place];
        if count < events.len()
            && glance(fd)
            && let Some(registration) = inner.registrations.get(&fd)
            && registration.events & DATA != 0
        {
            let events_of = registration.events & DATA;
            events[count] = epoll_event { events: events_of, u64: registration.data };
            count += 1;
        }
    }
    // Those at the end of a long list are first the next time.
    if count == events.len() && place < inner.live.len() {
        inner.live.rotate_left(place);
    }
    count
}

/// Adds what the kernel knows of connections that are told of for their ring: room to write, the end.
fn complete(inner: &mut Inner, told: &mut [epoll_event]) {
    const MANY: usize = 32;
    for told in told.chunks_mut(MANY) {
        let mut fds = [libc::pollfd { fd: -1, events: 0, revents: 0 }; MANY];
        for (place, event) in fds.iter_mut().zip(&*told) {
            let key = inner.by_data.get(&{ event.u64 });
            if let Some(one) = key.and_then(|key| inner.registrations.get(key)) {
                // poll's events have epoll's values (eventpoll.h).
                place.events = (one.events & 0xffff & !DATA) as libc::c_short;
                place.fd = one.fd;
            }
        }
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the records live through the call.
        unsafe { enter!(SYS_ppoll, fds.as_mut_ptr(), told.len(), &raw const now, 0, 8) };
        for (event, fd) in told.iter_mut().zip(&fds) {
            event.events |= u32::from(fd.revents as u16);
        }
    }
}

fn disarm(found: &Used) {
    if let Ok(mut reading) = found.end.reading(&Family)
        && reading.sleepers() == 0
    {
        reading.disarm();
    }
}

fn change(epoll: c_int, fd: c_int, events: u32, data: u64) {
    let event = epoll_event { events, u64: data };
    // SAFETY: the record lives through the call.
    unsafe { enter!(SYS_epoll_ctl, epoll, libc::EPOLL_CTL_MOD, fd, &raw const event) };
}

/// Takes out of the kernel's events what was only a doorbell; `told` were written before them.
/// How many are left in all.
fn translate(
    inner: &mut Inner,
    epoll: c_int,
    events: &mut [epoll_event],
    told: usize,
    found: usize,
) -> usize {
    let mut kept = told;
    for place in told..told + found {
        let mut event = events[place];
        let data = event.u64;
        if data == KICK {
            continue;
        }
        if let Some(fd) = inner.by_data.get(&data).copied()
            && let Some(connection) = inner.paired(fd)
        {
            let end = &connection.end;
            if event.events & DATA != 0 {
                let is_there = end.has(connection.low_water()) || settle(&connection);
                if !is_there {
                    // This wait looks by itself; what it asks for before it sleeps is enough.
                    disarm(&connection);
                }
                if let Some(registration) = inner.registrations.get_mut(&fd) {
                    if is_there {
                        registration.silence = 0;
                        registration.told = end.arrived();
                    } else {
                        event.events &= !DATA;
                    }
                    if registration.events & ONE_SHOT != 0 {
                        if event.events == 0 {
                            // The kernel has spent it on a doorbell.
                            change(epoll, fd, registration.events, data);
                        } else {
                            registration.is_spent = true;
                        }
                    }
                }
            }
            if event.events & RDHUP != 0
                && let Some(registration) = inner.registrations.get_mut(&fd)
                && registration.events & EDGE != 0
            {
                let is_again = std::mem::replace(&mut registration.is_end_told, true);
                if is_again && event.events & !(DATA | RDHUP) == 0 {
                    event.events = 0;
                }
            }
            if !inner.live.contains(&fd) && !end.is_armed() {
                connection.here.is_live.store(1, Ordering::SeqCst);
                inner.live.push(fd);
            }
            if event.events == 0 {
                continue;
            }
        }
        if let Some(same) = events[..told].iter_mut().find(|same| { same.u64 } == data) {
            same.events |= event.events;
            continue;
        }
        events[kept] = event;
        kept += 1;
    }
    kept
}
