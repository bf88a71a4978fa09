//! Which descriptors no other process can have: made by this one since it last forked, and not
//! passed on since.
//!
//! When such a socket is closed nobody has to be searched for. Noted is what is made once the
//! option is in use; what libc does not see (pidfd_getfd(2), a bare clone) is not served.

use crate::client;
use crate::descriptors::{self, MAX};
use crate::lock;
use crate::sys;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One word a descriptor: the number of forks until it was made in the high half, and in the
/// low half its inode: the number may have become another's unseen.
static MADE: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];

/// One past the highest that was noted.
static TOP: AtomicU32 = AtomicU32::new(0);

/// Forks of this process and its forebears, and one: it may be in the middle of one.
static FORKS: AtomicU32 = AtomicU32::new(1);

/// Taken before a descriptor is made: a fork in between may have copied it.
#[derive(Clone, Copy)]
pub struct Before(u32);

pub fn before() -> Before {
    Before(FORKS.load(Ordering::Acquire))
}

/// The process is about to fork: what it has it shares.
pub fn fork() {
    FORKS.fetch_add(1, Ordering::AcqRel);
}

fn word(forks: u32, inode: u64) -> u64 {
    u64::from(forks) << 32 | (inode & u64::from(u32::MAX))
}

/// A socket was made.
pub fn made(fd: c_int, before: Before) {
    if let Some(place) = MADE.get(fd as usize)
        && let Some(inode) = sys::socket_inode(fd)
    {
        place.store(word(before.0, inode), Ordering::Release);
        TOP.fetch_max(fd as u32 + 1, Ordering::AcqRel);
    }
}

pub fn is_own(fd: c_int) -> bool {
    let Some(place) = MADE.get(fd as usize) else { return false };
    let noted = place.load(Ordering::Acquire);
    noted != 0
        && sys::socket_inode(fd)
            .is_some_and(|inode| noted == word(FORKS.load(Ordering::Acquire), inode))
}

/// A duplicate is as much its own.
pub fn duplicated(old: c_int, new: c_int) {
    if let (Some(from), Some(to)) = (MADE.get(old as usize), MADE.get(new as usize)) {
        to.store(from.load(Ordering::Acquire), Ordering::Release);
        TOP.fetch_max(new as u32 + 1, Ordering::AcqRel);
    }
}

/// A descriptor is about to be passed to another process.
pub fn passed(fd: c_int) {
    let Some(inode) = sys::socket_inode(fd) else { return };
    // Nobody sets a splice up on it meanwhile.
    let guard = lock::hold();
    // Its duplicates are the same socket.
    for place in MADE.iter().take(TOP.load(Ordering::Acquire) as usize) {
        if place.load(Ordering::Relaxed) as u32 == inode as u32 {
            place.store(0, Ordering::Release);
        }
    }
    if let Some(id) = descriptors::known_quickly(fd) {
        // Without the carrier there is nobody to tell.
        let _ = client::share(&guard, id);
    }
}
