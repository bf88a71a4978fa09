//! Which descriptors of this process are sockets of the domain, and which are our own.
//!
//! A fork copies this memory together with the descriptor table that it describes. A
//! descriptor can be closed behind our back (a raw system call, stdio), so whoever acts on
//! an entry compares the inode first; [`of`] does.

use crate::client;
use crate::connection;
use crate::domain::{self, DOMAIN, Slot, SlotId};
use crate::lock::{self, Guard};
use crate::sys::{self, enter};
use std::ffi::c_int;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// Descriptors above are not served (the kernel's default for fs.nr_open).
pub const MAX: usize = 1 << 20;

/// One word a descriptor: the record's number plus one in the low half; in the high half the
/// set-up count at which the descriptor was last found to be none of the domain's.
static TABLE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());

/// One past the highest descriptor entered.
static TOP: AtomicU32 = AtomicU32::new(0);

/// Set-ups that this process has made or looked into: a higher count in the domain means
/// that a relative has spliced sockets that may be ours as well.
static ACCOUNTED: AtomicU32 = AtomicU32::new(0);

/// Descriptors that were duplicated, or are duplicates.
static TWINS: [AtomicU64; MAX / 64] = [const { AtomicU64::new(0) }; MAX / 64];

/// Our own: a bit each.
static HIDDEN: [AtomicU64; MAX / 64] = [const { AtomicU64::new(0) }; MAX / 64];

/// One past the highest of our own that there was.
static HIDDEN_TOP: AtomicU32 = AtomicU32::new(0);

/// Makes the table. ENOMEM.
pub fn prepare(_: &Guard) -> Result<(), c_int> {
    if !TABLE.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping.
    let table = unsafe { enter!(SYS_mmap, 0, MAX * 8, protection, flags, -1isize, 0) };
    if table < 0 {
        return Err(-table as c_int);
    }
    TABLE.store(table as *mut AtomicU64, Ordering::Release);
    Ok(())
}

fn entry(fd: c_int) -> Option<&'static AtomicU64> {
    let table = TABLE.load(Ordering::Acquire);
    let fd = usize::try_from(fd).ok().filter(|fd| *fd < MAX)?;
    // SAFETY: the mapping has MAX zeroed words and is never unmapped.
    (!table.is_null()).then(|| unsafe { &*table.add(fd) })
}

fn id_in(word: u64) -> Option<SlotId> {
    (word as u32).checked_sub(1).map(SlotId)
}

/// The record of the descriptor's socket if that record matters to a call on it.
#[inline]
pub fn of(fd: c_int) -> Option<&'static Slot> {
    known(fd).map(SlotId::slot).filter(|slot| slot.matters())
}

/// The record's number, whatever its state.
#[inline]
pub fn known(fd: c_int) -> Option<SlotId> {
    if TABLE.load(Ordering::Relaxed).is_null() {
        begin()?;
    }
    if lock::is_mine() {
        return known_quickly(fd);
    }
    let word = entry(fd)?.load(Ordering::Acquire);
    match id_in(word) {
        Some(id) => verified(fd, id),
        None if DOMAIN.setups.load(Ordering::Acquire) == ACCOUNTED.load(Ordering::Relaxed) => None,
        None => look(fd, word),
    }
}

/// A relative uses the option: this process needs the table from now on.
#[cold]
fn begin() -> Option<()> {
    if !domain::active() || lock::is_mine() {
        return None;
    }
    prepare(&lock::hold()).ok()
}

/// The entry may be of a descriptor that was closed behind our back.
fn verified(fd: c_int, id: SlotId) -> Option<SlotId> {
    if id.slot().inode.load(Ordering::Acquire) == sys::socket_inode(fd)? {
        return Some(id);
    }
    // A child of vfork has the table of its parent, and descriptors of its own.
    if connection::is_owner() {
        let guard = lock::hold();
        forget(&guard, fd);
    }
    None
}

/// A relative has spliced something since the descriptor was last looked at.
#[cold]
fn look(fd: c_int, word: u64) -> Option<SlotId> {
    let setups = DOMAIN.setups.load(Ordering::Acquire);
    if (word >> 32) as u32 == setups {
        return None;
    }
    let found = sys::socket_inode(fd).and_then(domain::find);
    match found {
        Some(id) => {
            let guard = lock::hold();
            // Without the carrier there is nobody to hold it for.
            client::hold(&guard, id).ok()?;
            learn(&guard, fd, id);
        }
        None => {
            if let Some(entry) = entry(fd) {
                entry.store(u64::from(setups) << 32, Ordering::Release);
            }
        }
    }
    found
}

/// A descriptor came from another process.
pub fn arrived(fd: c_int) {
    if let Some(id) = sys::socket_inode(fd).and_then(domain::find) {
        mark_twin(fd);
        let guard = lock::hold();
        // Without the carrier there is nobody to hold it for.
        if client::hold(&guard, id).is_ok() {
            learn(&guard, fd, id);
        }
    }
}

/// Enters a descriptor. Its twins are entered too.
pub fn learn(_: &Guard, fd: c_int, id: SlotId) {
    enter_one(fd, id);
    if !is_twin(fd) {
        return;
    }
    let inode = id.slot().inode.load(Ordering::Acquire);
    for (place, word) in TWINS.iter().enumerate() {
        let mut bits = word.load(Ordering::Relaxed);
        while bits != 0 {
            let twin = (place * 64) as c_int + bits.trailing_zeros() as c_int;
            bits &= bits - 1;
            if sys::socket_inode(twin) == Some(inode) {
                enter_one(twin, id);
            }
        }
    }
}

fn enter_one(fd: c_int, id: SlotId) {
    if let Some(entry) = entry(fd) {
        entry.store(u64::from(id.0) + 1, Ordering::Release);
        TOP.fetch_max(fd as u32 + 1, Ordering::AcqRel);
    }
}

/// A duplicate was made.
pub fn duplicated(guard: &Guard, old: c_int, new: c_int) {
    for fd in [old, new] {
        mark_twin(fd);
    }
    if let Some(id) = entry(old).and_then(|entry| id_in(entry.load(Ordering::Acquire))) {
        learn(guard, new, id);
    }
}

pub fn mark_twin(fd: c_int) {
    if let Some(word) = TWINS.get(fd as usize / 64) {
        word.fetch_or(1 << (fd as u32 % 64), Ordering::Relaxed);
    }
}

fn is_twin(fd: c_int) -> bool {
    let word = TWINS.get(fd as usize / 64).map_or(0, |word| word.load(Ordering::Relaxed));
    word >> (fd as u32 % 64) & 1 != 0
}

/// The descriptor is about to be closed, or is found to be another's. If it was the last
/// of its socket here, the carrier is told, and has closed its own when this returns.
pub fn forget(guard: &Guard, fd: c_int) {
    let Some(entry) = entry(fd) else { return };
    let Some(id) = id_in(entry.swap(0, Ordering::AcqRel)) else { return };
    let twin = is_twin(fd);
    if let Some(word) = TWINS.get(fd as usize / 64) {
        word.fetch_and(!(1 << (fd as u32 % 64)), Ordering::Relaxed);
    }
    if !twin || !all_of(id).any(|_| true) {
        // A carrier that is gone has closed everything.
        let _ = client::forget(guard, id);
    }
}

/// The descriptors of a socket here.
pub fn all_of(id: SlotId) -> impl Iterator<Item = c_int> {
    entered(0, c_int::MAX).filter(move |(_, of)| *of == id).map(|(fd, _)| fd)
}

/// The descriptors in a range that are entered.
pub fn entered(first: c_int, last: c_int) -> impl Iterator<Item = (c_int, SlotId)> {
    let top = TOP.load(Ordering::Acquire) as c_int;
    (first.max(0)..top.min(last.saturating_add(1))).filter_map(|fd| {
        let word = entry(fd)?.load(Ordering::Acquire);
        id_in(word).map(|id| (fd, id))
    })
}

pub fn has_entry(fd: c_int) -> bool {
    entry(fd).is_some_and(|entry| id_in(entry.load(Ordering::Acquire)).is_some())
}

/// Takes note of set-ups of this process.
pub fn account(setups: u32) {
    let before = ACCOUNTED.load(Ordering::Relaxed);
    if setups == before.wrapping_add(1) {
        ACCOUNTED.store(setups, Ordering::Relaxed);
    }
}

/// Takes a descriptor of ours out of the program's sight and reach.
pub fn hide(fd: c_int) -> c_int {
    let hidden = sys::hide(fd);
    if let Some(word) = HIDDEN.get(hidden as usize / 64) {
        HIDDEN_TOP.fetch_max(hidden as u32 + 1, Ordering::AcqRel);
        word.fetch_or(1 << (hidden as u32 % 64), Ordering::AcqRel);
    }
    hidden
}

/// Closes a descriptor of ours.
pub fn close_hidden(fd: c_int) {
    forget_hidden(fd);
    sys::close(fd);
}

/// It is not ours any more.
pub fn forget_hidden(fd: c_int) {
    if let Some(word) = HIDDEN.get(fd as usize / 64) {
        word.fetch_and(!(1 << (fd as u32 % 64)), Ordering::AcqRel);
    }
}

pub fn is_hidden(fd: c_int) -> bool {
    let word = HIDDEN.get(fd as usize / 64).map_or(0, |word| word.load(Ordering::Relaxed));
    word >> (fd as u32 % 64) & 1 != 0
}

/// Our own descriptors, in order.
pub fn hidden() -> impl Iterator<Item = c_int> {
    let top = HIDDEN_TOP.load(Ordering::Acquire) as c_int;
    let words = (0..top).step_by(64).zip(&HIDDEN);
    words.flat_map(|(first, word)| {
        let bits = word.load(Ordering::Relaxed);
        (0..64).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| first + bit)
    })
}

/// As [`known`], under the lock: by the table alone.
pub fn known_quickly(fd: c_int) -> Option<SlotId> {
    let id = entry(fd).and_then(|entry| id_in(entry.load(Ordering::Acquire)))?;
    let inode = sys::socket_inode(fd)?;
    (id.slot().inode.load(Ordering::Acquire) == inode).then_some(id)
}
