//! The calls of libc on sockets as the cases make them: every name here is one that the
//! preloaded library may stand in front of.

// Each table uses its part.
#![allow(dead_code)]

use libc::c_int;
use std::io::Error;
use std::time::{Duration, Instant};

/// For what must happen: long enough that only a fault reaches it.
pub const WATCHDOG: Duration = Duration::from_secs(20);

pub type Result<T> = std::result::Result<T, c_int>;

pub fn errno() -> c_int {
    Error::last_os_error().raw_os_error().unwrap()
}

pub fn check(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| errno())
}

pub fn so_error(fd: c_int) -> c_int {
    option(fd, libc::SO_ERROR)
}

pub fn option(fd: c_int, name: c_int) -> c_int {
    let mut value: c_int = -1;
    let mut len = 4;
    let at = (&raw mut value).cast();
    // SAFETY: value and length live through the call.
    let done = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, at, &raw mut len) };
    assert_eq!(done, 0, "{}", Error::last_os_error());
    value
}

pub fn set_option(fd: c_int, level: c_int, name: c_int, value: c_int) {
    let at = (&raw const value).cast();
    // SAFETY: the value lives through the call.
    let done = unsafe { libc::setsockopt(fd, level, name, at, 4) };
    assert_eq!(done, 0, "{}", Error::last_os_error());
}

pub fn write(fd: c_int, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the bytes live through the call.
    check(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) })
}

pub fn send_all(fd: c_int, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        rest = &rest[write(fd, rest).unwrap()..];
    }
}

pub fn read(fd: c_int, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    // SAFETY: the bytes live through the call.
    let count = check(unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), len) })?;
    bytes.truncate(count);
    Ok(bytes)
}

pub fn recv(fd: c_int, len: usize, flags: c_int) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    // SAFETY: the bytes live through the call.
    let count = check(unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), len, flags) })?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Exactly so many bytes.
pub fn read_exactly(fd: c_int, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let piece = read(fd, len - bytes.len()).unwrap();
        assert!(!piece.is_empty(), "end of file after {} of {len} bytes", bytes.len());
        bytes.extend(piece);
    }
    bytes
}

pub fn close(fd: c_int) {
    // SAFETY: the case's own descriptor.
    assert_eq!(unsafe { libc::close(fd) }, 0);
}

pub fn shutdown(fd: c_int, how: c_int) {
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::shutdown(fd, how) }, 0, "{}", Error::last_os_error());
}

/// SO_LINGER of zero and close: the peer gets a reset.
pub fn reset(fd: c_int) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = size_of::<libc::linger>() as libc::socklen_t;
    let at = (&raw const linger).cast();
    // SAFETY: the value lives through the call.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, at, len) };
    close(fd);
}

pub fn poll(fd: c_int, events: libc::c_short, ms: c_int) -> libc::c_short {
    let mut fds = [libc::pollfd { fd, events, revents: 0 }];
    // SAFETY: the set lives through the call.
    let found = unsafe { libc::poll(fds.as_mut_ptr(), 1, ms) };
    assert!(found >= 0, "{}", Error::last_os_error());
    fds[0].revents
}

/// Tries until it is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + WATCHDOG;
    while !is_so() {
        assert!(Instant::now() < limit, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A stream in which any loss, doubling or swap shows.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

pub fn nonblocking(fd: c_int, on: bool) {
    // SAFETY: no pointers.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        let flags = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        assert_eq!(libc::fcntl(fd, libc::F_SETFL, flags), 0);
    }
}

/// Fills a connection until nothing more goes in. Returns the bytes.
pub fn stuff(fd: c_int) -> usize {
    let bytes = vec![b'x'; 65536];
    let mut total = 0;
    loop {
        // SAFETY: the bytes live through the call.
        let sent =
            unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) };
        if sent <= 0 {
            return total;
        }
        total += sent as usize;
    }
}
