//! Sleeping until a socket's record changes.
//!
//! A sleeper waits for two words, the record's and the carrier's life, so that the carrier's
//! death wakes it too and nobody wakes for nothing (futex_waitv, Linux 5.16). Where the kernel
//! does not have it, or the socket has a time limit, it looks after the carrier now and then.

use crate::connection;
use crate::domain::{self, DOMAIN, Slot};
use crate::lock;
use crate::sys::{self, Raw, Waiter};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// How often the carrier is looked after where the kernel does not tell of it, in ns.
const LOOK_NS: u64 = 250_000_000;

/// The kernel can wait for two words.
static CAN_WAIT_FOR_BOTH: AtomicBool = AtomicBool::new(true);

/// Sleeps while the record's turn is this one: at most so many ns. It may wake earlier; EINTR
/// alone says that a signal handler has run.
pub fn until_changed(slot: &Slot, turn: u32, limit_ns: Option<u64>) -> Raw {
    let done = match limit_ns {
        None if CAN_WAIT_FOR_BOTH.load(Ordering::Relaxed) => for_both(&slot.turn, turn),
        _ => for_one(&slot.turn, turn, limit_ns.unwrap_or(LOOK_NS).min(LOOK_NS)),
    };
    if domain::is_orphaned() {
        connection::mourn(&lock::hold());
    }
    done
}

fn for_one(word: &AtomicU32, value: u32, limit_ns: u64) -> Raw {
    sys::futex_wait(word, value, Some(&sys::timespec_of(limit_ns)))
}

fn for_both(word: &AtomicU32, value: u32) -> Raw {
    let life = DOMAIN.life.load(Ordering::Acquire);
    if domain::is_orphaned() {
        return 0;
    }
    let done = sys::futex_waitv(&[Waiter::new(word, value), Waiter::new(&DOMAIN.life, life)], None);
    if done == -(libc::ENOSYS as Raw) || done == -(libc::EPERM as Raw) {
        CAN_WAIT_FOR_BOTH.store(false, Ordering::Relaxed);
    }
    done
}
