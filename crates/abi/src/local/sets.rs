//! epoll sets with paired connections.
//!
//! A connection that is armed needs nobody: its doorbell makes the kernel report it. One that is not
//! (it is being read, or spun for) is *live*: it stands in the list of each set that has it, and
//! a wait on the set looks at it itself, and arms it before it sleeps. So a set of many idle
//! connections costs what it costs the kernel.

use super::connections::{self, Used};
use super::socket::{Family, now_ns};
use super::spin_ns;
use super::waits::{prepare, prepare_behind, settle, spin};
use crate::interpose::next;
use crate::sys::{Raw, enter};
use libc::{c_int, epoll_event, sigset_t};
use sosplice_local::lock::{Held, Lock};
use sosplice_local::patience::Patience;
use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

const DATA: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
/// What is not data, and no matter of how it is told.
const OTHERS: u32 = 0xffff & !(DATA | libc::EPOLLRDHUP as u32);
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
const EDGE: u32 = libc::EPOLLET as u32;
const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;

/// Descriptors above are not served.
const DESCRIPTORS: usize = 1 << 20;

/// Waits that may find something in a ring without asking the kernel, in a row.
const RINGS_IN_A_ROW: u32 = 8;

/// What the program has asked for.
#[derive(Clone, Copy)]
struct Registration {
    /// A descriptor of what is registered: the one that the program named, as long as it is open.
    fd: c_int,
    events: u32,
    data: u64,
    /// An edge was told up to this byte of the ring.
    told: u64,
    /// A one-shot that has been told.
    is_spent: bool,
    /// Its peer's end was told as an edge: nothing more comes behind it that would be one.
    is_end_told: bool,
    /// Sleeps since it was told of: one that is seldom told of stays armed between them.
    silence: u8,
}

/// So many sleeps without news leave a connection armed.
const SILENCE: u8 = 4;

#[derive(Default)]
struct Inner {
    /// By the descriptor that the program named, or a number of ours below zero when that is closed
    /// and another of the same connection keeps the registration alive (epoll(7)).
    registrations: BTreeMap<c_int, Registration>,
    /// Their keys.
    by_data: BTreeMap<u64, c_int>,
    live: Vec<c_int>,
    /// Members that are sets themselves.
    sets: Vec<c_int>,
    /// Of what was told last the kernel has nothing to add: nobody asked for more than data, and
    /// no peer is at its end.
    is_all_told: bool,
    /// Of what was told last the kernel does not tell the rest by itself: it has told its edge.
    is_edge_told: bool,
    /// Armed for the sleep that is going on.
    armed: Vec<c_int>,
}

struct Set {
    lock: Lock,
    inner: UnsafeCell<Inner>,
    /// Threads that sleep in the kernel on it.
    sleepers: AtomicU32,
    patience: Patience,
    rings_in_a_row: AtomicU32,
}

// SAFETY: `inner` is reached by `Set::with` only, which has the lock.
unsafe impl Sync for Set {}

/// The sets by their descriptors, of which several may have one. None is ever freed.
static SETS: AtomicPtr<AtomicPtr<Set>> = AtomicPtr::new(std::ptr::null_mut());
/// One past the highest set.
static TOP: AtomicU32 = AtomicU32::new(0);

/// Makes the table.
pub fn begin() -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping.
    let at = unsafe { enter!(SYS_mmap, 0, DESCRIPTORS * 8, protection, flags, -1isize, 0) };
    if at <= 0 {
        return false;
    }
    SETS.store(at as *mut AtomicPtr<Set>, Ordering::Release);
    true
}

fn place(epoll: c_int) -> Option<&'static AtomicPtr<Set>> {
    let epoll = usize::try_from(epoll).ok().filter(|epoll| *epoll < DESCRIPTORS)?;
    let table = SETS.load(Ordering::Relaxed);
    // SAFETY: the mapping has so many zeroed places and is never unmapped.
    (!table.is_null()).then(|| unsafe { &*table.add(epoll) })
}

fn set(epoll: c_int) -> Option<&'static Set> {
    // SAFETY: a leaked box, or null.
    unsafe { place(epoll)?.load(Ordering::Acquire).as_ref() }
}

fn made(epoll: c_int) -> Option<&'static Set> {
    if let Some(set) = set(epoll) {
        return Some(set);
    }
    let new = Box::into_raw(Box::new(Set {
        lock: Lock::default(),
        inner: UnsafeCell::new(Inner::default()),
        sleepers: AtomicU32::new(0),
        patience: Patience::new(),
        rings_in_a_row: AtomicU32::new(0),
    }));
    let null = std::ptr::null_mut();
    if place(epoll)?.compare_exchange(null, new, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // SAFETY: made above, and nobody has seen it.
        drop(unsafe { Box::from_raw(new) });
    }
    TOP.fetch_max(epoll as u32 + 1, Ordering::AcqRel);
    set(epoll)
}

impl Set {
    /// None for a signal handler that interrupts its own thread in here.
    fn with<R>(&self, act: impl FnOnce(&mut Inner) -> R) -> Option<R> {
        let _held = self.lock.take(&Family).ok()?;
        // SAFETY: the lock is held, and `act` cannot come back here: it calls nothing that asks
        // for this set's lock.
        Some(act(unsafe { &mut *self.inner.get() }))
    }
}

/// A thread that sleeps in the kernel on a set.
struct Asleep<'a>(&'a Set);

impl Set {
    fn asleep(&self) -> Asleep<'_> {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        Asleep(self)
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

fn all() -> impl Iterator<Item = (c_int, &'static Set)> {
    (0..TOP.load(Ordering::Acquire) as c_int).filter_map(|epoll| Some((epoll, set(epoll)?)))
}

/// Before a fork: nobody is inside a set as long as this lives, so the child gets them whole. One that this very
/// thread is inside of, whom a signal has made fork, is let be.
pub fn hold() -> Vec<Held<'static>> {
    all().filter_map(|(_, set)| set.lock.take(&Family).ok()).collect()
}

/// The threads that sleep on the sets are the parent's.
pub fn after_fork_in_child() {
    all().for_each(|(_, set)| set.sleepers.store(0, Ordering::SeqCst));
}

/// The descriptors of all sets that we know, or knew.
pub fn known() -> impl Iterator<Item = c_int> {
    all().map(|(epoll, _)| epoll)
}

/// Whether the descriptor is a set that we know.
pub fn is_set(fd: c_int) -> bool {
    set(fd).is_some()
}

/// epoll_ctl(2) has been done by the kernel.
pub fn controlled(epoll: c_int, op: c_int, fd: c_int, event: Option<(u32, u64)>) {
    let Some(set) = made(epoll) else { return };
    let is_inner_set = op == libc::EPOLL_CTL_ADD
        && connections::of(fd).is_none()
        && is_epoll(fd, epoll)
        && made(fd).is_some();
    set.with(|inner| {
        if is_inner_set || op == libc::EPOLL_CTL_DEL {
            inner.sets.retain(|inner| *inner != fd);
        }
        if is_inner_set {
            inner.sets.push(fd);
        }
        inner.take(fd);
        if let Some((events, data)) = event.filter(|_| op != libc::EPOLL_CTL_DEL) {
            let registration = Registration {
                fd,
                events,
                data,
                told: 0,
                is_spent: false,
                is_end_told: false,
                silence: 0,
            };
            inner.put(fd, registration);
        }
    });
    if event.is_some() && set.sleepers.load(Ordering::SeqCst) > 0 && prepare_set(epoll) {
        kick(epoll);
    }
}

/// The kernel looks at what a set is first, and then does not find `other` in it.
fn is_epoll(fd: c_int, other: c_int) -> bool {
    let absent = -(libc::ENOENT as Raw);
    // SAFETY: no pointers.
    unsafe { enter!(SYS_epoll_ctl, fd, libc::EPOLL_CTL_DEL, other, 0) == absent }
}

/// A duplicate was made: of a set it is the same one.
pub fn duplicated(old: c_int, new: c_int) {
    let Some(found) = place(old).map(|place| place.load(Ordering::Acquire)) else { return };
    if !found.is_null()
        && connections::is_owner()
        && let Some(place) = place(new)
    {
        place.store(found, Ordering::Release);
        TOP.fetch_max(new as u32 + 1, Ordering::AcqRel);
    }
}

/// A descriptor is closed: as a member of sets, and as a set. `twin` is another descriptor of the same
/// connection: then the kernel keeps the registration.
pub fn closed(fd: c_int, twin: Option<c_int>) {
    if TOP.load(Ordering::Relaxed) == 0 || !connections::is_owner() {
        return;
    }
    if let Some(gone) = set(fd) {
        let is_it = |(epoll, other): (c_int, &Set)| epoll != fd && std::ptr::eq(other, gone);
        if all().any(is_it) {
            if let Some(place) = place(fd) {
                place.store(std::ptr::null_mut(), Ordering::Release);
            }
        } else {
            gone.with(|inner| *inner = Inner::default());
        }
    }
    for (_, set) in all() {
        set.with(|inner| {
            inner.sets.retain(|set| *set != fd);
            match twin {
                Some(twin) => inner.keep(fd, twin),
                None => inner.drop_all(fd),
            }
        });
    }
}

impl Inner {
    /// Takes a registration out.
    fn take(&mut self, key: c_int) -> Option<Registration> {
        let old = self.registrations.remove(&key)?;
        if self.by_data.get(&old.data) == Some(&key) {
            self.by_data.remove(&old.data);
        }
        self.live.retain(|live| *live != key);
        Some(old)
    }

    fn put(&mut self, key: c_int, registration: Registration) {
        self.by_data.insert(registration.data, key);
        self.registrations.insert(key, registration);
        self.live.push(key);
    }

    /// The descriptor is closed, and the registration is another's from now on.
    fn keep(&mut self, fd: c_int, twin: c_int) {
        if let Some(old) = self.take(fd) {
            let lowest = self.registrations.keys().next().copied().unwrap_or(0);
            self.put(lowest.min(0) - 1, Registration { fd: twin, ..old });
        }
        for other in self.registrations.values_mut().filter(|other| other.fd == fd) {
            other.fd = twin;
        }
    }

    fn drop_all(&mut self, fd: c_int) {
        let keys: Vec<c_int> = self
            .registrations
            .iter()
            .filter(|(_, one)| one.fd == fd)
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.take(key);
        }
    }

    /// A sleep is over: those that were lively before it are looked at again without their doorbells.
    fn awake(&mut self) {
        for key in std::mem::take(&mut self.armed) {
            let Some(found) = self.paired(key) else { continue };
            disarm(&found);
            found.here.is_live.store(1, Ordering::SeqCst);
            if !self.live.contains(&key) {
                self.live.push(key);
            }
        }
    }

    /// A registration of this connection.
    fn has(&self, found: &Used) -> bool {
        self.registrations
            .values()
            .any(|one| connections::of(one.fd).is_some_and(|other| other.is(found)))
    }

    /// The connection of a registration, if it is paired.
    fn paired(&self, key: c_int) -> Option<Used> {
        connections::paired(self.registrations.get(&key)?.fd)
    }
}

/// The connection is not armed any more: each set that has it looks by itself. Where somebody
/// sleeps on such a set already, it is armed again.
pub fn enliven(found: &Used) {
    found.here.is_live.store(1, Ordering::SeqCst);
    let mut is_slept_for = false;
    for (_, set) in all() {
        let has = set.with(|inner| {
            let Inner { registrations, live, .. } = inner;
            for (key, one) in registrations.iter() {
                let is_it = connections::of(one.fd).is_some_and(|other| other.is(found));
                if is_it && !live.contains(key) {
                    live.push(*key);
                }
            }
            inner.has(found)
        });
        is_slept_for |= has == Some(true) && set.sleepers.load(Ordering::SeqCst) > 0;
    }
    if is_slept_for && prepare(found) {
        for (epoll, set) in all().filter(|(_, set)| set.sleepers.load(Ordering::SeqCst) > 0) {
            if set.with(|inner| inner.has(found)) == Some(true) {
                kick(epoll);
            }
        }
    }
}

/// In the data of our own event.
const KICK: u64 = 0x736f_7370_6c69_6365;

/// Always readable; none until it is needed.
static ALARM: AtomicI32 = AtomicI32::new(-1);

/// The program puts its own descriptor there: the alarm is made anew when it is needed.
pub fn make_way(fd: c_int) {
    if ALARM.compare_exchange(fd, -1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        crate::descriptors::forget_hidden(fd);
    }
}

/// Wakes one who sleeps on the set, to look again.
fn kick(epoll: c_int) {
    let mut alarm = ALARM.load(Ordering::Acquire);
    if alarm < 0 {
        // SAFETY: no pointers.
        let made = unsafe { enter!(SYS_eventfd2, 1, libc::EFD_CLOEXEC) };
        if made < 0 {
            return;
        }
        alarm = crate::descriptors::hide(made as c_int);
        ALARM.store(alarm, Ordering::Release);
    }
    let events = (libc::EPOLLIN | libc::EPOLLONESHOT) as u32;
    let event = epoll_event { events, u64: KICK };
    for op in [libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_MOD] {
        // SAFETY: the record lives through the call.
        unsafe { enter!(SYS_epoll_ctl, epoll, op, alarm, &raw const event) };
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
        let live = std::mem::take(&mut inner.live);
        let mut ready = false;
        for fd in live {
            if !inner.registrations.contains_key(&fd) {
                continue;
            }
            if has_news(inner, fd) || !arm(inner, fd) {
                ready |= has_news(inner, fd);
                inner.live.push(fd);
            } else if is_remembered
                && let Some(registration) = inner.registrations.get_mut(&fd)
                && registration.silence < SILENCE
            {
                registration.silence += 1;
                inner.armed.push(fd);
            }
        }
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
