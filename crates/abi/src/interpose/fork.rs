//! A fork hands on what a process has; vfork and posix_spawn hand on nothing that lasts.
//!
//! libc runs these hooks in fork and not in vfork: a child of vfork has the parent's memory
//! and its own descriptors, and is told apart by its process id.

use crate::connection;
use crate::domain;
use crate::heap;
use crate::local::{self, connections::Given};
use crate::lock::{self, Guard};
use crate::own;
use sosplice_local::lock::Held;
use std::cell::Cell;
use std::sync::atomic::AtomicPtr;

/// What no other thread may be inside of while the memory is copied: in the child nobody would come out again.
struct Quiet {
    given: Given,
    _sets: Vec<Held<'static>>,
    _streams: Option<super::stdio::Streams>,
    _guard: Guard,
}

thread_local! {
    /// From before a fork to behind it.
    static HELD: Cell<Option<Quiet>> = const { Cell::new(None) };
    /// What the last fork has given to the child, if there is one.
    static GIVEN: Cell<Given> = const { Cell::new(Given::new()) };
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
    let mut quiet = Quiet { given: Given::new(), _sets: Vec::new(), _streams: None, _guard: guard };
    if local::is_on() {
        quiet._sets = local::sets::hold();
        quiet._streams = super::stdio::hold();
        quiet.given = local::connections::before_fork();
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
    let mut held = take_back();
    connection::after_fork_in_parent();
    if let Some(held) = &mut held {
        // For a thread that is being taken down the fork has not failed.
        let _ = GIVEN.try_with(|given| given.set(std::mem::take(&mut held.given)));
    }
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

/// The hooks are not told that a fork has failed.
fn fork_call() -> libc::pid_t {
    static NEXT: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());
    let found = super::ways::following(&NEXT, "fork\0");
    type Function = unsafe extern "C" fn() -> libc::pid_t;
    // SAFETY: dlsym gave it for this name.
    let pid = unsafe { std::mem::transmute::<*mut libc::c_void, Function>(found)() };
    if pid != 0 {
        let given = GIVEN.try_with(Cell::take).unwrap_or_default();
        if pid < 0 && local::is_on() {
            local::connections::fork_has_failed(given);
        }
    }
    pid
}

super::interposed! {
    fn fork() -> libc::pid_t { quiet fork_call(); loud fork_call() }
}
