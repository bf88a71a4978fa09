//! Socket options and descriptor flags that mean something else for a paired connection.

use super::connections::{self, Connection, State};
use super::doors;
use super::socket::Family;
use crate::sys::{self, Raw};
use libc::{c_int, c_ulong, c_void, socklen_t};
use sosplice_local::stream;
use std::sync::atomic::{AtomicU32, Ordering};

const TCP_ULP: c_int = 31;
/// SO_RCVTIMEO where time_t has 64 bits and long has not.
const SO_RCVTIMEO_NEW: c_int = 66;

/// An option that the ring has in the kernel's place.
fn kept(found: &Connection, level: c_int, name: c_int) -> Option<&'static AtomicU32> {
    match (level, name) {
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => Some(&found.record.no_delay),
        (libc::IPPROTO_TCP, libc::TCP_CORK) => Some(&found.record.cork),
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT) => Some(&found.record.low_water),
        _ => None,
    }
}

/// As setsockopt(2). None where the kernel is to do it.
pub fn set(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> Option<Raw> {
    if !super::is_on() {
        return None;
    }
    let found = connections::of(fd)?;
    let changes_the_stream = match level {
        libc::SOL_SOCKET => name == libc::SO_ZEROCOPY,
        libc::IPPROTO_TCP => name == TCP_ULP || name == libc::TCP_REPAIR,
        _ => false,
    };
    if changes_the_stream {
        doors::leave(found, fd);
        return None;
    }
    if level == libc::SOL_SOCKET && matches!(name, libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW) {
        found.record.is_timed.store(1, Ordering::Relaxed);
        return None;
    }
    let word = kept(&found, level, name).filter(|_| found.state() == State::Paired)?;
    if (len as usize) < size_of::<c_int>() {
        return Some(-(libc::EINVAL as Raw));
    }
    let mut bytes = [0; 4];
    if let Err(errno) = sys::copy_in(&mut bytes, value) {
        return Some(-(errno as Raw));
    }
    let value = c_int::from_ne_bytes(bytes);
    let value = match name {
        libc::SO_RCVLOWAT if level == libc::SOL_SOCKET => match value {
            0 => 1,
            value if value < 0 => c_int::MAX as u32,
            value => value as u32,
        },
        _ => u32::from(value != 0),
    };
    word.store(value, Ordering::Relaxed);
    Some(0)
}

/// As getsockopt(2). None where the kernel is to do it.
pub fn get(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> Option<Raw> {
    if !super::is_on() {
        return None;
    }
    let found = connections::paired(fd)?;
    let told = kept(&found, level, name)?.load(Ordering::Relaxed) as c_int;
    let tell = || {
        let mut bytes = [0; 4];
        sys::copy_in(&mut bytes, len.cast())?;
        let room = usize::try_from(c_int::from_ne_bytes(bytes)).map_err(|_| libc::EINVAL)?.min(4);
        sys::copy_out(value, &told.to_ne_bytes()[..room])?;
        sys::copy_out(len.cast(), &(room as socklen_t).to_ne_bytes())
    };
    Some(tell().map_or_else(|errno: c_int| -(errno as Raw), |()| 0))
}

/// fcntl(2) or ioctl(2) has set O_NONBLOCK, or not.
pub fn nonblocking_may_have_changed(fd: c_int) {
    if super::is_on()
        && let Some(found) = connections::of(fd)
    {
        found.record.nonblocking.store(sys::is_nonblocking(fd).into(), Ordering::Relaxed);
    }
}

/// ioctl(2) has counted what is queued in the kernel: the rest is in the ring.
///
/// # Safety
/// `arg` points to the int that the kernel has just written.
pub unsafe fn counted(fd: c_int, request: c_ulong, arg: *mut c_int) {
    if !super::is_on() {
        return;
    }
    let Some(found) = connections::paired(fd) else { return };
    let end = &found.end;
    // SAFETY: the caller's.
    let count = unsafe { &mut *arg };
    if request == libc::FIONREAD as c_ulong
        && let Ok((queued, bells)) = stream::queued(end, &Family)
    {
        *count = (*count - bells as c_int).max(0) + queued as c_int;
    }
}
