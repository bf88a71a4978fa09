//! setsockopt and getsockopt: SO_SPLICE, SO_ERROR, and every other option straight through.

use super::interposed;
use crate::api;
use crate::checks;
use crate::descriptors;
use crate::domain::{self, Slot};
use crate::local;
use crate::option::{self, RECORD_BYTES, SO_SPLICE, UNSPLICE};
use crate::personality::Personality;
use crate::sys::{self, Raw, enter, ret};
use libc::{c_int, c_void, socklen_t};
use std::sync::atomic::Ordering;

fn raw(result: Result<(), c_int>) -> Raw {
    match result {
        Ok(()) => 0,
        Err(errno) => -(errno as Raw),
    }
}

fn set_splice(fd: c_int, value: *const c_void, len: socklen_t) -> Result<(), c_int> {
    // EBADF and ENOTSOCK come before everything.
    sys::int_option(fd, libc::SOL_SOCKET, libc::SO_TYPE)?;
    if len > c_int::MAX as socklen_t {
        return Err(libc::EINVAL);
    }
    let form = option::form(Personality::current(), value.is_null(), len as usize)?;
    let mut bytes = [0; RECORD_BYTES];
    let wish = match form {
        None => UNSPLICE,
        Some(count) => {
            sys::copy_in(&mut bytes[..count], value)?;
            option::parse(&bytes[..count])
        }
    };
    api::set(fd, &wish)
}

fn get_splice(fd: c_int, value: *mut c_void, len: *mut socklen_t) -> Result<(), c_int> {
    sys::int_option(fd, libc::SOL_SOCKET, libc::SO_TYPE)?;
    let mut bytes = [0; 4];
    sys::copy_in(&mut bytes, len.cast())?;
    let room = c_int::from_ne_bytes(bytes);
    let room = usize::try_from(room).map_err(|_| libc::EINVAL)?.min(8);
    if Personality::current() == Personality::FreeBsd && checks::is_listening(fd) {
        return Err(libc::ENOTCONN);
    }
    let count = api::count(fd).to_ne_bytes();
    sys::copy_out(value, &count[..room])?;
    sys::copy_out(len.cast(), &(room as socklen_t).to_ne_bytes())
}

/// None if the socket has no error but the kernel's.
fn get_error(fd: c_int, value: *mut c_void, len: *mut socklen_t) -> Option<Result<(), c_int>> {
    let slot = descriptors::of(fd).filter(|slot| slot.error() != 0)?;
    Some(tell_int(slot.take_error(), value, len))
}

fn tell_int(told: c_int, value: *mut c_void, len: *mut socklen_t) -> Result<(), c_int> {
    let mut bytes = [0; 4];
    sys::copy_in(&mut bytes, len.cast())?;
    let room = usize::try_from(c_int::from_ne_bytes(bytes)).map_err(|_| libc::EINVAL)?.min(4);
    sys::copy_out(value, &told.to_ne_bytes()[..room])?;
    sys::copy_out(len.cast(), &(room as socklen_t).to_ne_bytes())
}

/// The record of a socket that a splice runs from: its low-water mark is kept there.
fn running_source(fd: c_int) -> Option<&'static Slot> {
    domain::active().then(|| descriptors::of(fd))?.filter(|slot| slot.is_source())
}

/// For the time after the splice. As the kernel reads it (net/core/sock.c).
fn set_low_water(slot: &Slot, value: *const c_void) -> Result<(), c_int> {
    let mut bytes = [0; 4];
    sys::copy_in(&mut bytes, value)?;
    let mark = match c_int::from_ne_bytes(bytes) {
        0 => 1,
        mark if mark < 0 => c_int::MAX,
        mark => mark,
    };
    slot.low_water.store(mark, Ordering::Release);
    Ok(())
}

unsafe fn setsockopt_call(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> Raw {
    if level == libc::SOL_SOCKET && name == SO_SPLICE {
        return raw(set_splice(fd, value, len));
    }
    if level == libc::SOL_SOCKET
        && name == libc::SO_RCVLOWAT
        && let Some(slot) = running_source(fd)
        && len as usize >= size_of::<c_int>()
    {
        return raw(set_low_water(slot, value));
    }
    if let Some(done) = local::options::set(fd, level, name, value, len) {
        return done;
    }
    // SAFETY: the caller's.
    unsafe { enter!(SYS_setsockopt, fd, level, name, value, len) }
}

unsafe fn getsockopt_call(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> Raw {
    if level == libc::SOL_SOCKET {
        if name == SO_SPLICE {
            return raw(get_splice(fd, value, len));
        }
        if name == libc::SO_ERROR
            && domain::active()
            && let Some(told) = get_error(fd, value, len)
        {
            return raw(told);
        }
        if name == libc::SO_RCVLOWAT
            && let Some(slot) = running_source(fd)
        {
            return raw(tell_int(slot.low_water.load(Ordering::Acquire), value, len));
        }
    }
    if let Some(done) = local::options::get(fd, level, name, value, len) {
        return done;
    }
    // SAFETY: the caller's.
    unsafe { enter!(SYS_getsockopt, fd, level, name, value, len) }
}

interposed! {
    fn setsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *const c_void,
        len: socklen_t,
    ) -> c_int {
        quiet ret(setsockopt_call(fd, level, name, value, len));
        loud ret(setsockopt_call(fd, level, name, value, len))
    }
    fn getsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *mut c_void,
        len: *mut socklen_t,
    ) -> c_int {
        quiet ret(getsockopt_call(fd, level, name, value, len));
        loud ret(getsockopt_call(fd, level, name, value, len))
    }
}
