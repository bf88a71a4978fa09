//! poll and select over sets with paired connections.
//!
//! The kernel does the waiting. Before it does, each paired connection of the set is looked at
//! and asked for a doorbell; behind it, what was only a doorbell is taken back.

use super::connections::{self, Used};
use super::socket::{Family, Socket, now_ns};
use super::{sets, spin_ns};
use crate::interpose::next;
use crate::sys::{Raw, enter, timespec_of};
use libc::{c_short, pollfd, sigset_t};
use rustix::io::Errno;
use sosplice_local::end::Asleep;
use sosplice_local::lock::Threads;
use sosplice_local::patience::{ALONE_NS, Patience};
use sosplice_local::stream;
use std::sync::atomic::Ordering;

const DATA: c_short = libc::POLLIN | libc::POLLRDNORM;

/// Of this process's polls.
static PATIENCE: Patience = Patience::new();

/// Whether a wait on this descriptor is not the kernel's alone.
#[inline]
pub fn concerns(fd: libc::c_int) -> bool {
    connections::any_paired() && (connections::paired(fd).is_some() || sets::is_set(fd))
}

/// Looks, and asks for a doorbell. True when something can be read.
pub fn prepare(found: &Used) -> bool {
    let socket = Socket { fd: found.here.fd.load(Ordering::Relaxed), flags: libc::MSG_NOSIGNAL };
    stream::prepare(&found.end, &socket, &Family, found.low_water()).unwrap_or(true)
}

/// As [`prepare`], for one who knows of the bytes that are there: asks for a doorbell for the next.
/// True when that is done, or no further byte can come by the ring.
pub fn prepare_behind(found: &Used) -> bool {
    let socket = Socket { fd: found.here.fd.load(Ordering::Relaxed), flags: libc::MSG_NOSIGNAL };
    let queued = stream::queued(&found.end, &Family).map_or(0, |(queued, _)| queued);
    if queued >= sosplice_local::ring::Store::size(&found.end.incoming) {
        return true;
    }
    !stream::prepare(&found.end, &socket, &Family, queued + 1).unwrap_or(true)
}

/// The kernel says that it is readable: whether that is so.
pub fn settle(found: &Used) -> bool {
    let socket = Socket { fd: found.here.fd.load(Ordering::Relaxed), flags: libc::MSG_NOSIGNAL };
    stream::settle(&found.end, &socket, &Family, found.low_water()).unwrap_or(true)
}

/// Something that the ring or an epoll set has, as far as one can see without the kernel.
fn glance(fds: &[pollfd]) -> bool {
    fds.iter().any(|fd| {
        fd.events & DATA != 0
            && (connections::paired(fd.fd).is_some_and(|found| found.end.glance())
                || sets::glance(fd.fd))
    })
}

/// Spins, if that has been of use lately. True when something is there.
pub fn spin(patience: &Patience, limit_ns: u64, mut is_there: impl FnMut() -> bool) -> bool {
    if limit_ns == 0 || !patience.is_there() {
        return false;
    }
    let begun = now_ns();
    loop {
        for _ in 0..32 {
            if is_there() {
                return true;
            }
            std::hint::spin_loop();
        }
        let spun = now_ns() - begun;
        if spun >= limit_ns {
            return false;
        }
        if spun >= ALONE_NS {
            Family.yield_now();
        }
    }
}

/// Connections that are slept for, and told so; a few without an allocation.
#[derive(Default)]
struct Sleepers {
    few: [Option<(Asleep<'static>, Used)>; 8],
    count: usize,
    many: Vec<(Asleep<'static>, Used)>,
}

impl Sleepers {
    fn push(&mut self, one: (Asleep<'static>, Used)) {
        match self.few.get_mut(self.count) {
            Some(place) => *place = Some(one),
            None => self.many.push(one),
        }
        self.count += 1;
    }
}

/// As ppoll(2). None when no connection of ours is in the set.
///
/// # Safety
/// `mask` is null or the program's.
pub unsafe fn poll(fds: &mut [pollfd], timeout: Option<u64>, mask: *const sigset_t) -> Option<Raw> {
    if !fds.iter().any(|fd| concerns(fd.fd)) {
        return None;
    }
    let deadline = timeout.map(|timeout| now_ns().saturating_add(timeout));
    let sleeps = timeout != Some(0);
    if sleeps && !glance(fds) {
        // The kernel's part is looked at now and then meanwhile.
        let mut count = 0u32;
        spin(&PATIENCE, spin_ns().min(timeout.unwrap_or(u64::MAX)), || {
            count += 1;
            glance(fds) || (count.is_multiple_of(16) && kernel_has(fds))
        });
    }
    let mut parked = None;
    if let [fd] = fds
        && sleeps
        && mask.is_null()
    {
        match park(fd, deadline) {
            Ok(None) => {}
            Ok(Some(done)) if done.is_woken => return Some(1),
            Ok(done) => parked = done,
            Err(errno) => return Some(-(errno.raw_os_error() as Raw)),
        }
    }
    loop {
        let mut ready = false;
        let mut asleep = Sleepers::default();
        for fd in fds.iter().filter(|fd| fd.events & DATA != 0) {
            ready |= match connections::paired(fd.fd) {
                Some(found) => {
                    let guard = found.end.asleep();
                    let is_ready = prepare(&found);
                    asleep.push((guard, found));
                    is_ready
                }
                None => sets::prepare_set(fd.fd),
            };
        }
        let left = match deadline {
            _ if ready => Some(0),
            Some(deadline) => Some(deadline.saturating_sub(now_ns())),
            None => None,
        };
        let left = left.map(timespec_of);
        let left_at = left.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let begun = if ready || spin_ns() == 0 { 0 } else { now_ns() };
        // SAFETY: the set and the time live through the call; the mask is the caller's.
        let found = next::raw(|| unsafe {
            next::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, left_at, mask) as isize
        });
        if begun != 0 {
            PATIENCE.waited(now_ns() - begun, spin_ns());
        }
        if let Some(parked) = parked.take() {
            parked.note();
        }
        drop(asleep);
        if found < 0 {
            return Some(found);
        }
        let (count, is_stale) = look_again(fds);
        if count > 0 || (!is_stale && is_over(deadline)) {
            return Some(count);
        }
    }
}

/// A wait that began at the word of the only connection that is waited for.
struct Parked {
    found: Used,
    begun_ns: u64,
    is_woken: bool,
}

impl Parked {
    /// Learns from how long the whole wait took.
    fn note(&self) {
        let parking = &self.found.record.own.reading.parking;
        parking.waited(now_ns() - self.begun_ns, stream::PARK_NS);
    }
}

/// Sleeps for a while at the word of a connection of which only bytes, and the end, are waited for.
fn park(fd: &mut pollfd, deadline: Option<u64>) -> Result<Option<Parked>, Errno> {
    if fd.events & DATA == 0 || fd.events & !(DATA | libc::POLLRDHUP) != 0 {
        return Ok(None);
    }
    let Some(found) = connections::paired(fd.fd).filter(|found| found.low_water() <= 1) else {
        return Ok(None);
    };
    let begun_ns = now_ns();
    let left_ns = deadline.map_or(u64::MAX, |deadline| deadline.saturating_sub(begun_ns));
    let socket = Socket { fd: fd.fd, flags: libc::MSG_NOSIGNAL };
    let limit_ns = left_ns.min(stream::PARK_NS);
    let slept = stream::park(&found.end, &socket, &Family, limit_ns, false);
    // What else there is to tell the next poll tells.
    let is_woken = slept? && found.end.glance();
    let parked = Parked { found, begun_ns, is_woken };
    if is_woken {
        fd.revents = fd.events & DATA;
        parked.note();
    }
    Ok(Some(parked))
}

fn is_over(deadline: Option<u64>) -> bool {
    deadline.is_some_and(|deadline| now_ns() >= deadline)
}

fn kernel_has(fds: &mut [pollfd]) -> bool {
    let now = timespec_of(0);
    // SAFETY: the set and the time live through the call.
    unsafe { enter!(SYS_ppoll, fds.as_mut_ptr(), fds.len(), &raw const now, 0, 8) > 0 }
}

/// Puts what the rings say in the place of what doorbells say. How many have something, and
/// whether there was a doorbell for nothing.
fn look_again(fds: &mut [pollfd]) -> (Raw, bool) {
    let mut count = 0;
    let mut is_stale = false;
    for fd in fds {
        if fd.events & DATA != 0 {
            if let Some(found) = connections::paired(fd.fd) {
                if found.end.has(found.low_water()) {
                    fd.revents |= fd.events & DATA;
                } else if fd.revents & DATA != 0 && !settle(&found) {
                    fd.revents &= !DATA;
                    is_stale = true;
                }
            } else if sets::is_set(fd.fd) && sets::glance(fd.fd) {
                fd.revents |= fd.events & DATA;
            }
        }
        count += Raw::from(fd.revents != 0);
    }
    (count, is_stale)
}
