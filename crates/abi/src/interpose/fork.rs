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
use sosplice_local::lock::Held;
use std::cell::Cell;

/// What no other thread may be inside of while the memory is copied: in the child nobody would come out again.
struct Quiet {
    _sets: Vec<Held<'static>>,
    _streams: Option<super::stdio::Streams>,
    _guard: Guard,
}

thread_local! {
    /// From before a fork to behind it.
    static HELD: Cell<Option<Quiet>> = const { Cell::new(None) };
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
    let mut quiet = Quiet { _sets: Vec::new(), _streams: None, _guard: guard };
    if local::is_on() {
        quiet._sets = local::sets::hold();
        quiet._streams = super::stdio::hold();
        local::connections::before_fork();
    }
    connection::before_fork(&quiet._guard);
    heap::hold(&quiet._guard);
    // A thread that is being taken down does not fork.
    if HELD.try_with(|held| held.set(Some(quiet))).is_err() {
        heap::release();
    }
}

/// What [`prepare`] took, if it took anything: the heap is free again.
fn take_back() -> Option<Quiet> {
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
        local::sets::after_fork_in_child();
        local::connections::after_fork_in_child();
        local::pairing::after_fork_in_child();
    }
    connection::after_fork_in_child();
    drop(held);
}
