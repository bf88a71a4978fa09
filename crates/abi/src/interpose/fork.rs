//! A fork hands on what a process has; vfork and posix_spawn hand on nothing that lasts.
//!
//! libc runs these hooks in fork and not in vfork: a child of vfork has the parent's memory
//! and its own descriptors, and is told apart by its process id.

use crate::client;
use crate::domain;
use crate::local;
use crate::lock::{self, Guard};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    /// From before a fork to behind it.
    static HELD: Cell<Option<Guard>> = const { Cell::new(None) };
}

/// The carrier is being forked: it is no child.
static SKIP: AtomicBool = AtomicBool::new(false);

/// It is so by this thread, which has the lock. Another one that forks meanwhile waits for
/// the lock, or its child would be born with it held.
fn is_skipped() -> bool {
    SKIP.load(Ordering::Relaxed) && lock::is_mine()
}

pub fn skip_hooks(skip: bool) {
    SKIP.store(skip, Ordering::Relaxed);
}

pub fn register() {
    // SAFETY: the hooks live as long as the library, which is not unloaded.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

unsafe extern "C" fn prepare() {
    // In a quiet domain there is nothing to hand on, and no thread that could have the lock.
    if is_skipped() || domain::quiet() {
        return;
    }
    let guard = lock::hold();
    if local::is_on() {
        local::connections::before_fork();
    }
    client::before_fork(&guard);
    let _ = HELD.try_with(|held| held.set(Some(guard)));
}

unsafe extern "C" fn parent() {
    if is_skipped() {
        return;
    }
    client::after_fork_in_parent();
    let _ = HELD.try_with(Cell::take);
}

unsafe extern "C" fn child() {
    if is_skipped() {
        return;
    }
    if local::is_on() {
        local::socket::forget_id();
        local::pairing::after_fork_in_child();
    }
    client::after_fork_in_child();
    let _ = HELD.try_with(Cell::take);
}
