//! The C interface (sosplice.h, sosplice(3)), and what it shares with the option.

use crate::checks;
use crate::client;
use crate::descriptors;
use crate::domain::{Slot, SlotId};
use crate::lock;
use crate::notice;
use crate::option::{UNSPLICE, Wish};
use crate::personality::Personality;
use crate::registrations;
use crate::sleep;
use crate::sys::{self, fail};
use libc::{c_int, timeval};
use std::sync::atomic::Ordering;

/// Sets a splice up or takes it back: everything behind the reading of the value.
pub fn set(fd: c_int, wish: &Wish) -> Result<(), c_int> {
    let personality = Personality::current();
    if wish.is_unsplice() {
        return take_back(personality, fd, wish);
    }
    checks::all(personality, fd, wish)?;
    let idle = wish.idle();
    let max = u64::try_from(wish.max).unwrap_or(0);
    let guard = lock::hold();
    let done = client::setup(&guard, fd, wish.drain, max, idle)?;
    descriptors::learn(&guard, fd, done.source);
    descriptors::learn(&guard, wish.drain, done.drain);
    if done.source.slot().is_source() {
        registrations::mask(&guard, done.source);
    }
    Ok(())
}

fn take_back(personality: Personality, fd: c_int, wish: &Wish) -> Result<(), c_int> {
    let never = match personality {
        Personality::OpenBsd => {
            checks::source(personality, fd)?;
            checks::limits(wish)?;
            libc::EPROTO
        }
        Personality::FreeBsd => {
            if checks::is_listening(fd) {
                return Err(libc::EINVAL);
            }
            libc::ENOTCONN
        }
    };
    let id = descriptors::known(fd).ok_or(never)?;
    client::unsplice(&lock::hold(), id)
}

/// Bytes that the splice from this socket has moved.
pub fn count(fd: c_int) -> u64 {
    let Some(id) = descriptors::known(fd) else { return 0 };
    if !id.slot().is_source() {
        return id.slot().count.load(Ordering::Acquire);
    }
    client::count(&lock::hold(), id).unwrap_or(0)
}

fn done(result: Result<(), c_int>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(errno) => fail(errno) as c_int,
    }
}

/// # Safety
/// `idle` is null or points to a timeval.
unsafe extern "C" fn sosplice(
    source: c_int,
    drain: c_int,
    max: i64,
    idle: *const timeval,
) -> c_int {
    // SAFETY: the caller's.
    let idle = unsafe { idle.as_ref() };
    let (idle_s, idle_us) = idle.map_or((0, 0), |idle| (idle.tv_sec, idle.tv_usec));
    let wish = Wish { drain, max, idle_s, idle_us };
    done(
        sys::int_option(source, libc::SOL_SOCKET, libc::SO_TYPE)
            // Taking back has a function of its own.
            .and_then(|_| if drain < 0 { Err(libc::EBADF) } else { set(source, &wish) }),
    )
}

unsafe extern "C" fn sosplice_length(source: c_int) -> i64 {
    match sys::int_option(source, libc::SOL_SOCKET, libc::SO_TYPE) {
        Ok(_) => count(source) as i64,
        Err(errno) => fail(errno) as i64,
    }
}

unsafe extern "C" fn sounsplice(source: c_int) -> c_int {
    done(
        sys::int_option(source, libc::SOL_SOCKET, libc::SO_TYPE)
            .and_then(|_| set(source, &UNSPLICE)),
    )
}

/// Waits for the end, and takes the error as SO_ERROR would.
fn wait(source: c_int) -> Result<(), c_int> {
    sys::int_option(source, libc::SOL_SOCKET, libc::SO_TYPE)?;
    let Some(id) = descriptors::known(source) else { return Ok(()) };
    let slot = id.slot();
    loop {
        let turn = slot.turn.load(Ordering::Acquire);
        if !is_running(id, source) {
            break;
        }
        if sleep::until_changed(slot, turn, None) == -(libc::EINTR as isize) {
            return Err(libc::EINTR);
        }
    }
    match slot.take_error() {
        0 => Ok(()),
        errno => Err(errno),
    }
}

fn is_running(id: SlotId, fd: c_int) -> bool {
    descriptors::known(fd) == Some(id) && id.slot().is_source()
}

unsafe extern "C" fn sosplice_wait(source: c_int) -> c_int {
    done(wait(source))
}

/// One direction of a pair.
struct Direction {
    source: c_int,
    drain: c_int,
    id: SlotId,
    is_over: bool,
}

impl Direction {
    fn new(source: c_int, drain: c_int) -> Result<Self, c_int> {
        set(source, &Wish { drain, ..UNSPLICE })?;
        let id = descriptors::known(source).ok_or(libc::EBADF)?;
        Ok(Self { source, drain, id, is_over: false })
    }

    /// Carries the end on: a FIN after the source's, or the errno that ended it.
    fn look(&mut self) -> Result<(), c_int> {
        if self.is_over || is_running(self.id, self.source) {
            return Ok(());
        }
        self.is_over = true;
        let slot: &Slot = self.id.slot();
        match slot.take_error() {
            0 => {
                crate::interpose::descriptors::shut_down_write(self.drain);
                Ok(())
            }
            errno => Err(errno),
        }
    }
}

fn both(a: c_int, b: c_int) -> Result<(), c_int> {
    for fd in [a, b] {
        sys::int_option(fd, libc::SOL_SOCKET, libc::SO_TYPE)?;
    }
    // Before anything moves: without it there is no waiting.
    notice::descriptor()?;
    let mut there = Direction::new(a, b)?;
    let mut back = match Direction::new(b, a) {
        Ok(back) => back,
        Err(errno) => {
            // It has moved what was there; that cannot be undone.
            let _ = set(a, &UNSPLICE);
            return Err(errno);
        }
    };
    loop {
        // Another one after the carrier's death.
        let notice = notice::descriptor()?;
        notice::clear(notice);
        let failed = there.look().and_then(|()| back.look()).err();
        if let Some(errno) = failed {
            for fd in [a, b] {
                let _ = set(fd, &UNSPLICE);
            }
            return Err(errno);
        }
        if there.is_over && back.is_over {
            return Ok(());
        }
        match notice::wait(notice) {
            0 => {}
            // The splices run on; the caller may wait again or take them back.
            errno => return Err(errno),
        }
    }
}

unsafe extern "C" fn sosplice_both(fd1: c_int, fd2: c_int) -> c_int {
    done(both(fd1, fd2))
}

/// A name with its version. The linker takes versions only from a symbol's name in the
/// object, so each is a jump in assembly.
macro_rules! exported {
    ($($name:ident)*) => {$(
        #[cfg(not(test))]
        std::arch::global_asm!(
            concat!(".globl ", stringify!($name), "_1_0"),
            concat!(".type ", stringify!($name), "_1_0, @function"),
            concat!(stringify!($name), "_1_0:"),
            #[cfg(target_arch = "x86_64")]
            "jmp {function}",
            #[cfg(target_arch = "aarch64")]
            "b {function}",
            concat!(".size ", stringify!($name), "_1_0, . - ", stringify!($name), "_1_0"),
            concat!(".symver ", stringify!($name), "_1_0, ", stringify!($name), "@@@SOSPLICE_1.0"),
            function = sym $name,
        );
    )*};
}

exported! { sosplice sosplice_length sounsplice sosplice_wait sosplice_both }
