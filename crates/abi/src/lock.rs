//! The process's lock around its tables and its talk with the carrier.
//!
//! Signals are blocked while it is held: a handler that calls an interposed name would
//! wait for its own thread. It is its own forty lines and not std's Mutex because a fork
//! must let go of it in the child without the guard.

use crate::sys;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody sleeps.
const WANTED: u32 = 2;

static WORD: AtomicU32 = AtomicU32::new(FREE);

/// Which thread has it, by the address of its mark.
static HOLDER: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MARK: u8 = const { 0 };
}

fn own_mark() -> usize {
    // A thread that is being taken down has none, and holds nothing.
    MARK.try_with(|mark| std::ptr::from_ref(mark) as usize).unwrap_or(0)
}

/// This thread has it: an interposed call comes from our own code (std closes a descriptor
/// by libc's name), and is the kernel's alone.
pub fn is_mine() -> bool {
    let holder = HOLDER.load(Ordering::Relaxed);
    holder != 0 && holder == own_mark()
}

/// The lock is held and signals are blocked as long as this lives.
#[must_use]
pub struct Guard {
    mask: u64,
}

/// Blocks signals and takes the lock.
pub fn hold() -> Guard {
    let mask = sys::block_signals();
    if WORD.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
        while WORD.swap(WANTED, Ordering::Acquire) != FREE {
            sys::futex_wait(&WORD, WANTED, None);
        }
    }
    HOLDER.store(own_mark(), Ordering::Relaxed);
    Guard { mask }
}

impl Drop for Guard {
    fn drop(&mut self) {
        HOLDER.store(0, Ordering::Relaxed);
        if WORD.swap(FREE, Ordering::Release) == WANTED {
            sys::futex_wake(&WORD, 1);
        }
        sys::restore_signals(self.mask);
    }
}
