//! epoll sets with paired connections.
//!
//! A connection that is armed needs nobody: its doorbell makes the kernel report it. One that is not
//! (it is being read, or spun for) is *live*: it stands in the list of each set that has it, and
//! a wait on the set looks at it itself, and arms it before it sleeps. So a set of many idle
//! connections costs what it costs the kernel.

mod wait;

pub use wait::{glance, prepare_set, wait};

use super::connections::{self, Used};
use super::socket::Family;
use super::waits::prepare;
use crate::sys::{Raw, enter};
use libc::{c_int, epoll_event};
use sosplice_local::lock::{Held, Lock};
use sosplice_local::patience::Patience;
use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

/// Descriptors above are not served.
const DESCRIPTORS: usize = 1 << 20;

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
        let new = event.filter(|_| op != libc::EPOLL_CTL_DEL).map(|(events, data)| Registration {
            fd,
            events,
            data,
            told: 0,
            is_spent: false,
            is_end_told: false,
            silence: 0,
        });
        match (inner.registrations.get_mut(&fd), new) {
            // As programs do that wait for room now and then; nothing is allocated for it.
            (Some(old), Some(new)) if old.data == new.data => {
                *old = new;
                if !inner.live.contains(&fd) {
                    inner.live.push(fd);
                }
            }
            (_, new) => {
                inner.take(fd);
                if let Some(new) = new {
                    inner.put(fd, new);
                }
            }
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
