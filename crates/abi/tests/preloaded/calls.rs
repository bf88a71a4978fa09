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

/// A short name of bytes, in which any loss, doubling or swap shows.
pub fn digest(bytes: &[u8]) -> String {
    if bytes.len() <= 40 {
        return format!("{} {}", bytes.len(), bytes.escape_ascii());
    }
    let mut digest = Digest::new();
    digest.add(bytes);
    digest.name()
}

/// The same of a stream that comes in pieces: FNV-1a.
pub struct Digest {
    bytes: usize,
    hash: u64,
}

impl Digest {
    pub fn new() -> Self {
        Self { bytes: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn name(&self) -> String {
        format!("{} bytes, {:016x}", self.bytes, self.hash)
    }
}

/// Numbers that look random and are the same each time.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one, below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// FIONREAD: bytes that wait to be read.
pub fn queued(fd: c_int) -> usize {
    let mut count: c_int = -1;
    // SAFETY: the count lives through the call.
    assert_eq!(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) }, 0);
    count as usize
}

/// Waits until so many bytes wait to be read.
pub fn await_queued(fd: c_int, count: usize) {
    eventually(&format!("{count} bytes queued"), || queued(fd) == count);
}

/// Waits until poll says all of this.
pub fn await_events(fd: c_int, events: libc::c_short) {
    eventually(&format!("events {events:#x}"), || poll(fd, events, 0) & events == events);
}

/// Waits until a reset is all there. The kernel sets the error, the state and the shutdown one
/// after the other and without a lock that poll takes (`tcp_reset`, `tcp_done`): a poll in
/// between tells less than the next one.
pub fn await_reset(fd: c_int) {
    await_events(fd, libc::POLLERR | libc::POLLHUP | libc::POLLRDHUP);
}

/// Sends until nothing more goes in, however long one waits. Returns the bytes.
pub fn stuff_for_good(fd: c_int) -> usize {
    let mut total = 0;
    let mut idle = 0;
    while idle < 3 {
        let more = stuff(fd);
        total += more;
        idle = if more == 0 { idle + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(20));
    }
    total
}

pub fn pause_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

pub fn milliseconds(ms: u64) -> libc::timeval {
    libc::timeval { tv_sec: (ms / 1000) as _, tv_usec: (ms % 1000 * 1000) as _ }
}

/// An option with a value of any kind.
pub fn set_value<T>(fd: c_int, level: c_int, name: c_int, value: &T) -> Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    let at = std::ptr::from_ref(value).cast();
    // SAFETY: the value lives through the call.
    check(unsafe { libc::setsockopt(fd, level, name, at, len) } as isize).map(drop)
}

/// An integer option.
pub fn option_of(fd: c_int, level: c_int, name: c_int) -> Result<c_int> {
    let mut value: c_int = -1;
    let mut len = 4;
    let at = (&raw mut value).cast();
    // SAFETY: value and length live through the call.
    check(unsafe { libc::getsockopt(fd, level, name, at, &raw mut len) } as isize)?;
    Ok(value)
}

pub fn send(fd: c_int, bytes: &[u8], flags: c_int) -> Result<usize> {
    // SAFETY: the bytes live through the call.
    check(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Reads to the end of file.
pub fn read_to_end(fd: c_int) -> Result<Digest> {
    let mut digest = Digest::new();
    loop {
        let piece = read(fd, 65_536)?;
        if piece.is_empty() {
            return Ok(digest);
        }
        digest.add(&piece);
    }
}

/// So many bytes, as a digest.
pub fn read_digest(fd: c_int, len: usize) -> String {
    let mut digest = Digest::new();
    while digest.bytes() < len {
        let piece = read(fd, (len - digest.bytes()).min(65_536)).unwrap();
        assert!(!piece.is_empty(), "end of file after {} of {len} bytes", digest.bytes());
        digest.add(&piece);
    }
    digest.name()
}
