//! What a thread puts beside its own descriptors into poll, so that the end of a splice
//! wakes it.
//!
//! The carrier writes to one eventfd a process, which is never read: each thread watches it
//! edge-triggered through an epoll set of its own, so that no thread takes another's
//! notice away.

use crate::client;
use crate::descriptors;
use crate::lock;
use crate::sys::enter;
use std::cell::RefCell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

/// Rises when the process gets another eventfd.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// A thread's epoll set.
struct Notice {
    epoll: c_int,
    generation: u32,
}

impl Drop for Notice {
    fn drop(&mut self) {
        // After a fork the number is somebody else's.
        if self.generation == GENERATION.load(Ordering::Relaxed) {
            descriptors::close_hidden(self.epoll);
        }
    }
}

thread_local! {
    static NOTICE: RefCell<Option<Notice>> = const { RefCell::new(None) };
}

/// The process has another eventfd: what threads watch is void.
pub fn renew() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The calling thread's descriptor: readable after an end, until [`clear`]ed.
pub fn descriptor() -> Result<c_int, c_int> {
    let generation = GENERATION.load(Ordering::Relaxed);
    NOTICE
        .try_with(|notice| {
            // A signal handler that polls in the middle of this goes without.
            let mut notice = notice.try_borrow_mut().map_err(|_| libc::EAGAIN)?;
            if let Some(notice) = notice.as_ref().filter(|n| n.generation == generation) {
                return Ok(notice.epoll);
            }
            let guard = lock::hold();
            let ends = client::ends(&guard)?;
            let epoll = watch(ends)?;
            let generation = GENERATION.load(Ordering::Relaxed);
            *notice = Some(Notice { epoll, generation });
            Ok(epoll)
        })
        .unwrap_or(Err(libc::EAGAIN))
}

/// Somebody has closed the thread's descriptor: the number is not ours any more.
pub fn abandon() {
    let _ = NOTICE.try_with(|notice| {
        if let Ok(mut notice) = notice.try_borrow_mut()
            && let Some(old) = notice.take()
        {
            descriptors::forget_hidden(old.epoll);
            std::mem::forget(old);
        }
    });
}

fn watch(ends: c_int) -> Result<c_int, c_int> {
    // SAFETY: no pointers.
    let epoll = unsafe { enter!(SYS_epoll_create1, libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(-epoll as c_int);
    }
    let epoll = descriptors::hide(epoll as c_int);
    add(epoll, ends, 0).inspect_err(|_| descriptors::close_hidden(epoll))?;
    Ok(epoll)
}

/// Registers the eventfd of ends, edge-triggered.
pub fn add(epoll: c_int, ends: c_int, data: u64) -> Result<(), c_int> {
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: data };
    // SAFETY: the event lives through the call.
    let done = unsafe { enter!(SYS_epoll_ctl, epoll, libc::EPOLL_CTL_ADD, ends, &raw mut event) };
    if done < 0 && done != -(libc::EEXIST as isize) { Err(-done as c_int) } else { Ok(()) }
}

/// Forgets the ends that were told so far.
pub fn clear(epoll: c_int) {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for one event.
    unsafe { enter!(SYS_epoll_pwait, epoll, &raw mut event, 1, 0, 0, 8) };
}

/// Waits for an end, at most so long. Returns 0, or an errno.
pub fn wait(epoll: c_int) -> c_int {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for one event.
    let done = unsafe { enter!(SYS_epoll_pwait, epoll, &raw mut event, 1, -1isize, 0, 8) };
    if done < 0 { -done as c_int } else { 0 }
}
