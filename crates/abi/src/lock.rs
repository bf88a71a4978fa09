//! The process's lock around its tables and its talk with the carrier.
//!
//! Signals are blocked while it is held: a handler that calls an interposed name would
//! wait for its own thread. It is its own forty lines and not std's Mutex because a fork
//! must let go of it in the child without the guard.

use crate::sys;
use std::sync::atomic::{AtomicU32, Ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody sleeps.
const WANTED: u32 = 2;

static WORD: AtomicU32 = AtomicU32::new(FREE);

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
    Guard { mask }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if WORD.swap(FREE, Ordering::Release) == WANTED {
            sys::futex_wake(&WORD, 1);
        }
        sys::restore_signals(self.mask);
    }
}
