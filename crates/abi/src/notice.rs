//! What a thread puts beside its own descriptors into poll, so that the end of a splice
//! wakes it.
//!
//! The carrier writes to one eventfd a process, which is never read: each thread watches it
//! edge-triggered through an epoll set of its own, so that no thread takes another's
//! notice away. The connection to the carrier is beside it, for the carrier's death.

use crate::connection;
use crate::descriptors;
use crate::lock;
use crate::sys::enter;
use std::cell::RefCell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

/// Rises when the process gets another eventfd or connection.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Rises when the process is born by a fork, which closes what its parent had.
static BIRTH: AtomicU32 = AtomicU32::new(0);

/// A thread's epoll set.
struct Notice {
    epoll: c_int,
    generation: u32,
    birth: u32,
}

impl Drop for Notice {
    fn drop(&mut self) {
        // After a fork the number is somebody else's.
        if self.birth == BIRTH.load(Ordering::Relaxed) && descriptors::is_hidden(self.epoll) {
            descriptors::close_hidden(self.epoll);
        }
    }
}

thread_local! {
    static NOTICE: RefCell<Option<Notice>> = const { RefCell::new(None) };
}

/// The process has another eventfd or connection: what threads watch is void.
pub fn renew() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The process is new, and nothing is open that threads watched.
pub fn begin_anew() {
    BIRTH.fetch_add(1, Ordering::Relaxed);
    renew();
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
            let watched = connection::watched(&guard)?;
            let epoll = watch(watched)?;
            let generation = GENERATION.load(Ordering::Relaxed);
            *notice = Some(Notice { epoll, generation, birth: BIRTH.load(Ordering::Relaxed) });
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

fn watch(watched: Watched) -> Result<c_int, c_int> {
    // SAFETY: no pointers.
    let epoll = unsafe { enter!(SYS_epoll_create1, libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(-epoll as c_int);
    }
    let epoll = descriptors::hide(epoll as c_int);
    add(epoll, watched, 0).inspect_err(|_| descriptors::close_hidden(epoll))?;
    Ok(epoll)
}

/// What tells of ends: the eventfd, and the connection to the carrier.
#[derive(Clone, Copy)]
pub struct Watched {
    pub ends: c_int,
    pub connection: c_int,
}

/// Registers what tells of ends, edge-triggered: of the connection only that it hangs up.
pub fn add(epoll: c_int, watched: Watched, data: u64) -> Result<(), c_int> {
    for (fd, kinds) in [(watched.ends, libc::EPOLLIN), (watched.connection, libc::EPOLLRDHUP)] {
        let mut event = libc::epoll_event { events: (kinds | libc::EPOLLET) as u32, u64: data };
        // SAFETY: the event lives through the call.
        let done = unsafe { enter!(SYS_epoll_ctl, epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if done < 0 && done != -(libc::EEXIST as isize) {
            return Err(-done as c_int);
        }
    }
    Ok(())
}

/// The event is the carrier's death.
pub fn is_death(event: &libc::epoll_event) -> bool {
    event.events & (libc::EPOLLRDHUP | libc::EPOLLHUP) as u32 != 0
}

/// Forgets the ends that were told so far, and sees to the carrier's death.
pub fn clear(epoll: c_int) {
    // There is nothing to be done about a failure.
    let _ = take(epoll, 0);
}

/// Waits for an end. Returns 0, or an errno.
pub fn wait(epoll: c_int) -> c_int {
    take(epoll, -1).err().unwrap_or(0)
}

fn take(epoll: c_int, timeout_ms: isize) -> Result<(), c_int> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
    let (at, room) = (events.as_mut_ptr(), events.len());
    // SAFETY: room for so many events.
    let done = unsafe { enter!(SYS_epoll_pwait, epoll, at, room, timeout_ms, 0, 8) };
    let told = usize::try_from(done).map_err(|_| -done as c_int)?;
    if events[..told].iter().any(is_death) {
        connection::mourn(&lock::hold());
    }
    Ok(())
}
