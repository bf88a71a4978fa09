//! A fork hands on what a process has; vfork and posix_spawn hand on nothing that lasts.
//!
//! libc runs these hooks in fork and not in vfork: a child of vfork has the parent's memory
//! and its own descriptors, and is told apart by its process id.

use crate::connection;
use crate::domain;
use crate::heap;
use crate::local;
use crate::lock::{self, Guard};
use crate::own;
use std::cell::Cell;

thread_local! {
    /// From before a fork to behind it.
    static HELD: Cell<Option<Guard>> = const { Cell::new(None) };
}

pub fn register() {
    // SAFETY: the hooks live as long as the library, which is not unloaded.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

unsafe extern "C" fn prepare() {
    own::fork();
    // In a quiet domain there is nothing to hand on, and no thread that could have the lock.
    if domain::quiet() {
        return;
    }
    let guard = lock::hold();
    if local::is_on() {
        local::connections::before_fork();
    }
    connection::before_fork(&guard);
    heap::hold(&guard);
    // A thread that is being taken down does not fork.
    if HELD.try_with(|held| held.set(Some(guard))).is_err() {
        heap::release();
    }
}

/// What [`prepare`] took, if it took anything: the heap is free again.
fn take_back() -> Option<Guard> {
    let held = HELD.try_with(Cell::take).ok().flatten();
    if held.is_some() {
        heap::release();
    }
    held
}

unsafe extern "C" fn parent() {
    let held = take_back();
    connection::after_fork_in_parent();
    drop(held);
}

unsafe extern "C" fn child() {
    let held = take_back();
    if local::is_on() {
        local::socket::forget_id();
        local::pairing::after_fork_in_child();
    }
    connection::after_fork_in_child();
    drop(held);
}
