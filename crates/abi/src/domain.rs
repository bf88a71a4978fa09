//! The memory that a process, its forked relatives and their carrier share: what each call
//! must know of a socket's splice without asking.
//!
//! It is mapped over its own place in the library's data when the library is loaded, so a
//! fork hands it on, and a call that asks whether any splice exists reads one word at a
//! fixed address. The carrier writes the records; the others read them, and take a
//! pending error (one exchange), so a process that dies at any instruction leaves them
//! whole.

use crate::sys::{self, enter};
use std::sync::atomic::{AtomicI32, AtomicIsize, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Sockets that may take part in splices at a time, in one domain.
pub const SLOTS: usize = 1 << 16;
const INDEX: usize = SLOTS * 2;
/// Processes whose descriptors are searched when nobody known holds a socket.
const RELATIVES: usize = 1024;

/// A place in the index that was used: a search goes on behind it.
const TOMBSTONE: u32 = u32::MAX;

/// Memory that is only pages of zeroes at first.
#[repr(C, align(65536))]
pub struct Domain {
    /// Not zero when calls must look closer: a splice has been set up, or this process or a
    /// relative has threads.
    pub loud: AtomicU32,
    /// Not zero once the option was used.
    pub active: AtomicU32,
    /// Splices set up so far, by anybody.
    pub setups: AtomicU32,
    /// The process that is making the carrier; zero when nobody is.
    pub making: AtomicU32,
    /// Where the carrier listens (an abstract name made of this number); zero for nowhere.
    pub address: AtomicU64,
    /// The carrier's thread, as a robust futex; zero when its death was seen to. The kernel
    /// marks it when the carrier dies, however it dies.
    pub life: AtomicU32,
    /// One past the highest record that was ever in use.
    used: AtomicU32,
    will: Will,
    /// Process ids.
    relatives: [AtomicU32; RELATIVES],
    index: [AtomicU32; INDEX],
    slots: [Slot; SLOTS],
}

/// The robust list of the carrier (set_robust_list(2)): a head and its only entry, beside which
/// the kernel finds `life`. In shared memory, which the kernel's killer of processes that use
/// too much leaves alone.
#[repr(C)]
struct Will {
    first: AtomicUsize,
    offset: AtomicIsize,
    pending: AtomicUsize,
    entry: AtomicUsize,
}

/// Somebody may sleep on the word: the kernel wakes one of them.
const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;

/// What a source is told whose carrier has died.
pub const DEATH: i32 = libc::EIO;

/// What a socket's splice is doing.
#[repr(C)]
pub struct Slot {
    /// The socket; zero for a free record.
    pub inode: AtomicU64,
    /// Changes with every end and beginning; sleepers wait on it.
    pub turn: AtomicU32,
    /// Splices that run from this socket: zero or one.
    pub source: AtomicU32,
    /// Splices that run to this socket: zero or one.
    pub drain: AtomicU32,
    /// An errno to be told once, behind the buffered data.
    error: AtomicI32,
    /// Bytes taken from this socket and not given to the drain.
    pub residue: AtomicU32,
    /// Why the last splice from this socket ended, as an errno; zero for its end of file or
    /// its owner's wish. It stays after the error was told.
    pub cause: AtomicI32,
    /// Bytes that the last ended splice moved.
    pub count: AtomicU64,
    /// SO_RCVLOWAT as the program set it; while a splice runs the kernel has another.
    pub low_water: AtomicI32,
    /// The urgent byte that the stream was freed of, above [`URGENT`]; zero for none.
    pub urgent: AtomicU32,
}

/// Marks an urgent byte as there.
pub const URGENT: u32 = 1 << 8;

/// A record's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

pub static DOMAIN: Domain = Domain {
    loud: AtomicU32::new(0),
    active: AtomicU32::new(0),
    setups: AtomicU32::new(0),
    making: AtomicU32::new(0),
    address: AtomicU64::new(0),
    life: AtomicU32::new(0),
    used: AtomicU32::new(0),
    will: Will {
        first: AtomicUsize::new(0),
        offset: AtomicIsize::new(0),
        pending: AtomicUsize::new(0),
        entry: AtomicUsize::new(0),
    },
    relatives: [const { AtomicU32::new(0) }; RELATIVES],
    index: [const { AtomicU32::new(0) }; INDEX],
    slots: [const { Slot::free() }; SLOTS],
};

/// No splice and no thread: the call is the kernel's business alone.
#[inline(always)]
pub fn quiet() -> bool {
    DOMAIN.loud.load(Ordering::Relaxed) == 0
}

/// Some splice exists, or did.
#[inline]
pub fn active() -> bool {
    DOMAIN.active.load(Ordering::Relaxed) != 0
}

/// Puts shared pages in the place of the private ones. Called once, before any use.
pub fn share() {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the pages are exactly DOMAIN's (its alignment is the largest page size, its
    // size a multiple of it); they hold zeroes and so do the new ones. If the kernel
    // refuses, the private pages stay, and relatives are on their own.
    unsafe {
        enter!(SYS_mmap, &raw const DOMAIN, size_of::<Domain>(), protection, flags, -1isize, 0);
    }
    join();
}

/// Writes this process down as a relative.
pub fn join() {
    enter_relative(sys::pid());
}

/// Writes a process down.
pub fn enter_relative(pid: u32) {
    let free = |place: &&AtomicU32| {
        let seen = place.load(Ordering::Relaxed);
        seen == pid || (seen == 0 && take(place, 0, pid))
    };
    // One that is gone leaves its place, which is asked only when no other is left.
    let left = |place: &&AtomicU32| {
        let seen = place.load(Ordering::Relaxed);
        !is_alive(seen) && take(place, seen, pid)
    };
    let _ = DOMAIN.relatives.iter().find(free).or_else(|| DOMAIN.relatives.iter().find(left));
}

/// Strikes out a process that is gone.
pub fn part(pid: u32) {
    if let Some(place) = DOMAIN.relatives.iter().find(|p| p.load(Ordering::Relaxed) == pid) {
        take(place, pid, 0);
    }
}

fn take(place: &AtomicU32, seen: u32, pid: u32) -> bool {
    place.compare_exchange(seen, pid, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

pub fn is_alive(pid: u32) -> bool {
    // SAFETY: signal zero only asks.
    unsafe { enter!(SYS_kill, pid, 0) != -(libc::ESRCH as isize) }
}

/// The processes that have written themselves down.
pub fn relatives() -> impl Iterator<Item = u32> {
    DOMAIN.relatives.iter().map(|place| place.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
}

impl Slot {
    const fn free() -> Self {
        Self {
            inode: AtomicU64::new(0),
            turn: AtomicU32::new(0),
            source: AtomicU32::new(0),
            drain: AtomicU32::new(0),
            error: AtomicI32::new(0),
            residue: AtomicU32::new(0),
            cause: AtomicI32::new(0),
            count: AtomicU64::new(0),
            low_water: AtomicI32::new(1),
            urgent: AtomicU32::new(0),
        }
    }

    /// Takes part in a splice, or has something to tell of one.
    pub fn matters(&self) -> bool {
        self.is_source()
            || self.drain.load(Ordering::Acquire) != 0
            || self.owes()
            || self.urgent.load(Ordering::Acquire) != 0
    }

    pub fn is_source(&self) -> bool {
        self.source.load(Ordering::Acquire) != 0
    }

    pub fn is_drain(&self) -> bool {
        self.drain.load(Ordering::Acquire) != 0
    }

    /// Has an error or bytes that the kernel knows nothing of.
    pub fn owes(&self) -> bool {
        self.error() != 0 || self.residue.load(Ordering::Acquire) != 0
    }

    /// The pending error, left where it is.
    pub fn error(&self) -> i32 {
        self.error.load(Ordering::Acquire)
    }

    /// The pending error, told once.
    pub fn take_error(&self) -> i32 {
        if self.error() == 0 { 0 } else { self.error.swap(0, Ordering::AcqRel) }
    }

    pub fn set_error(&self, errno: i32) {
        self.error.store(errno, Ordering::Release);
    }

    /// Tells sleepers that the record has changed.
    pub fn announce(&self) {
        self.turn.fetch_add(1, Ordering::AcqRel);
        sys::futex_wake(&self.turn, i32::MAX);
    }

    fn clear(&self, inode: u64) {
        self.source.store(0, Ordering::Relaxed);
        self.drain.store(0, Ordering::Relaxed);
        self.error.store(0, Ordering::Relaxed);
        self.residue.store(0, Ordering::Relaxed);
        self.cause.store(0, Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
        self.low_water.store(1, Ordering::Relaxed);
        self.urgent.store(0, Ordering::Relaxed);
        self.inode.store(inode, Ordering::Release);
    }
}

impl SlotId {
    pub fn slot(self) -> &'static Slot {
        &DOMAIN.slots[self.0 as usize % SLOTS]
    }
}

fn first_place(inode: u64) -> usize {
    (inode.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize % INDEX
}

fn places(inode: u64) -> impl Iterator<Item = &'static AtomicU32> {
    let first = first_place(inode);
    (0..INDEX).map(move |step| &DOMAIN.index[(first + step) % INDEX])
}

/// The record of a socket.
pub fn find(inode: u64) -> Option<SlotId> {
    for place in places(inode) {
        match place.load(Ordering::Acquire) {
            0 => return None,
            TOMBSTONE => {}
            number => {
                let id = SlotId(number - 1);
                if id.slot().inode.load(Ordering::Acquire) == inode {
                    return Some(id);
                }
            }
        }
    }
    None
}

/// Enters a socket into the index under a free record. Only the carrier does.
pub fn enter_socket(inode: u64, id: SlotId) {
    DOMAIN.used.fetch_max(id.0 + 1, Ordering::AcqRel);
    id.slot().clear(inode);
    enter_index(inode, id);
}

fn enter_index(inode: u64, id: SlotId) {
    if let Some(place) =
        places(inode).find(|place| matches!(place.load(Ordering::Relaxed), 0 | TOMBSTONE))
    {
        place.store(id.0 + 1, Ordering::Release);
    }
}

/// Frees a socket's record. Only the carrier does.
pub fn remove_socket(inode: u64, id: SlotId) {
    leave_index(inode, id);
    id.slot().clear(0);
    id.slot().announce();
}

/// A place that was used becomes free again when nothing stands behind it: otherwise the
/// index would fill with such places, and every search for a stranger go through all.
fn leave_index(inode: u64, id: SlotId) {
    let Some(step) = places(inode).position(|place| place.load(Ordering::Relaxed) == id.0 + 1)
    else {
        return;
    };
    let at = |place: usize| &DOMAIN.index[place % INDEX];
    let mut place = first_place(inode) + step;
    at(place).store(TOMBSTONE, Ordering::Release);
    if at(place + 1).load(Ordering::Relaxed) != 0 {
        return;
    }
    while at(place).load(Ordering::Relaxed) == TOMBSTONE {
        at(place).store(0, Ordering::Release);
        place = (place + INDEX - 1) % INDEX;
    }
}

/// The calling thread is the carrier: its death is marked, and wakes one sleeper.
pub fn live() {
    let will = &DOMAIN.will;
    let entry = &raw const will.entry;
    let offset = (&raw const DOMAIN.life).addr().wrapping_sub(entry.addr());
    will.entry.store((&raw const DOMAIN.will).addr(), Ordering::Relaxed);
    will.offset.store(offset as isize, Ordering::Relaxed);
    will.pending.store(0, Ordering::Relaxed);
    will.first.store(entry.addr(), Ordering::Relaxed);
    // SAFETY: the list is whole, and stays where it is as long as the process lives.
    unsafe {
        let thread = enter!(SYS_gettid) as u32;
        DOMAIN.life.store(thread | FUTEX_WAITERS, Ordering::Release);
        enter!(SYS_set_robust_list, &raw const DOMAIN.will, 3 * size_of::<usize>());
    }
}

/// The carrier has died, and nobody has seen to it yet.
pub fn is_orphaned() -> bool {
    DOMAIN.life.load(Ordering::Acquire) & FUTEX_OWNER_DIED != 0
}

/// A carrier lives; it may be out of reach, in another network namespace.
pub fn is_carried() -> bool {
    DOMAIN.life.load(Ordering::Acquire) != 0 && !is_orphaned()
}

/// The carrier goes, and leaves nothing behind.
pub fn retire() {
    DOMAIN.life.store(0, Ordering::Release);
    DOMAIN.address.store(0, Ordering::Release);
}

fn records() -> impl Iterator<Item = (SlotId, &'static Slot)> {
    (0..DOMAIN.used.load(Ordering::Acquire)).map(|number| (SlotId(number), SlotId(number).slot()))
}

/// Every splice of a carrier that has died counts as ended. What it had taken and not given is
/// lost, so its sources are told an error. Only who has `making` does, or the next carrier.
pub fn bury() {
    for (_, slot) in records().filter(|(_, slot)| slot.inode.load(Ordering::Acquire) != 0) {
        let has_taken = slot.residue.swap(0, Ordering::AcqRel) > 0;
        if slot.is_source() || has_taken {
            slot.cause.store(DEATH, Ordering::Relaxed);
            slot.set_error(DEATH);
        }
        slot.drain.store(0, Ordering::Release);
        slot.source.store(0, Ordering::Release);
        slot.announce();
    }
    DOMAIN.life.store(0, Ordering::Release);
}

/// For a carrier that begins: the sockets that an earlier one left, under the numbers that
/// processes know. The index is made anew: it may have died in the middle of a change.
pub fn inherit() -> Vec<(SlotId, u64)> {
    bury();
    let mut heritage = Vec::new();
    for place in DOMAIN.index.iter().filter(|_| DOMAIN.used.load(Ordering::Relaxed) > 0) {
        if place.load(Ordering::Relaxed) != 0 {
            place.store(0, Ordering::Relaxed);
        }
    }
    for (id, slot) in records() {
        let inode = slot.inode.load(Ordering::Relaxed);
        if inode != 0 && find(inode).is_none() {
            enter_index(inode, id);
            heritage.push((id, inode));
        } else if inode != 0 {
            slot.clear(0);
        }
    }
    // Whoever looked in the meantime looks again.
    DOMAIN.setups.fetch_add(u32::from(!heritage.is_empty()), Ordering::AcqRel);
    heritage
}

/// How many records were ever in use.
pub fn used() -> u32 {
    DOMAIN.used.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_are_gone_leave_no_trace_in_the_index() {
        for round in 0..8u64 {
            let inode = |n: u64| 1 + round * 20_000 + n;
            for n in 0..20_000 {
                enter_socket(inode(n), SlotId(n as u32));
            }
            for n in 0..20_000 {
                assert_eq!(find(inode(n)), Some(SlotId(n as u32)));
                if n % 2 == 0 {
                    remove_socket(inode(n), SlotId(n as u32));
                }
            }
            for n in (1..20_000).step_by(2) {
                assert_eq!(find(inode(n)), Some(SlotId(n as u32)));
                remove_socket(inode(n), SlotId(n as u32));
                assert_eq!(find(inode(n)), None);
            }
        }
        assert!(DOMAIN.index.iter().all(|place| place.load(Ordering::Relaxed) == 0));
    }
}
