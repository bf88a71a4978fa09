//! Sockets for the cases, by libc's names.

pub use crate::calls::*;

use libc::{c_int, c_void};
use std::mem::zeroed;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, IntoRawFd};

pub const SO_SPLICE: c_int = 0x1023;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Record {
    pub drain: c_int,
    pub max: i64,
    pub idle_s: i64,
    pub idle_us: i64,
}

/// setsockopt with any value.
pub fn set_raw(fd: c_int, value: *const c_void, len: usize) -> Result<()> {
    let len = len as libc::socklen_t;
    // SAFETY: the library checks the address.
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, SO_SPLICE, value, len) } as isize)
        .map(drop)
}

pub fn set(fd: c_int, record: &Record) -> Result<()> {
    set_raw(fd, std::ptr::from_ref(record).cast(), size_of::<Record>())
}

pub fn splice(fd: c_int, drain: c_int) -> Result<()> {
    set(fd, &Record { drain, max: 0, idle_s: 0, idle_us: 0 })
}

pub fn splice_max(fd: c_int, drain: c_int, max: i64) -> Result<()> {
    set(fd, &Record { drain, max, idle_s: 0, idle_us: 0 })
}

pub fn splice_idle(fd: c_int, drain: c_int, ms: i64) -> Result<()> {
    set(fd, &Record { drain, max: 0, idle_s: ms / 1000, idle_us: ms % 1000 * 1000 })
}

pub fn unsplice(fd: c_int) -> Result<()> {
    splice(fd, -1)
}

pub fn count(fd: c_int) -> Result<i64> {
    let mut value = -1i64;
    let mut len = 8;
    let at = (&raw mut value).cast();
    // SAFETY: value and length live through the call.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_SPLICE, at, &raw mut len) } as isize)?;
    assert_eq!(len, 8);
    Ok(value)
}

/// Two connected ends.
pub fn tcp(v6: bool) -> (c_int, c_int) {
    let address = if v6 { "[::1]:0" } else { "127.0.0.1:0" };
    let listener = TcpListener::bind(address).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (near.into_raw_fd(), far.into_raw_fd())
}

pub fn udp() -> (c_int, c_int) {
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    near.connect(far.local_addr().unwrap()).unwrap();
    far.connect(near.local_addr().unwrap()).unwrap();
    (near.into_raw_fd(), far.into_raw_fd())
}

pub fn listening() -> c_int {
    TcpListener::bind("127.0.0.1:0").unwrap().into_raw_fd()
}

pub fn unconnected(kind: c_int) -> c_int {
    // SAFETY: no pointers.
    unsafe { libc::socket(libc::AF_INET, kind, 0) }
}

/// A socket whose connect hangs: the listener's backlog is full. The descriptors behind it
/// keep it so.
pub fn connecting() -> (c_int, Vec<c_int>) {
    // SAFETY: zeroes are a valid address record.
    let mut address: libc::sockaddr_in = unsafe { zeroed() };
    let listener = unconnected(libc::SOCK_STREAM);
    address.sin_family = libc::AF_INET as u16;
    address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    let mut len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the address lives through the calls.
    unsafe {
        assert_eq!(libc::bind(listener, (&raw const address).cast(), len), 0);
        assert_eq!(libc::listen(listener, 0), 0);
        libc::getsockname(listener, (&raw mut address).cast(), &raw mut len);
    }
    let mut kept = vec![listener];
    for _ in 0..64 {
        let fd = unconnected(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
        // SAFETY: the address lives through the call.
        unsafe { libc::connect(fd, (&raw const address).cast(), len) };
        // The handshake of one that is let in is over at once.
        if poll(fd, libc::POLLOUT, 50) == 0 {
            return (fd, kept);
        }
        kept.push(fd);
    }
    panic!("every connect was let in");
}

/// Four ends: what is sent on `feed` comes to `source`; what goes to `drain` comes to
/// `sink`.
pub struct Rig {
    pub feed: c_int,
    pub source: c_int,
    pub drain: c_int,
    pub sink: c_int,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(false, false)
    }

    pub fn with(source_v6: bool, drain_v6: bool) -> Self {
        let (feed, source) = tcp(source_v6);
        let (drain, sink) = tcp(drain_v6);
        Self { feed, source, drain, sink }
    }

    pub fn udp() -> Self {
        let (feed, source) = udp();
        let (drain, sink) = udp();
        Self { feed, source, drain, sink }
    }

    pub fn spliced() -> Self {
        let rig = Self::new();
        splice(rig.source, rig.drain).unwrap();
        rig
    }

    /// Bytes go through.
    pub fn check(&self, text: &[u8]) {
        send_all(self.feed, text);
        assert_eq!(read_exactly(self.sink, text.len()), text);
    }

    /// The splice has ended: the source is readable.
    pub fn wait_end(&self) {
        assert_ne!(poll(self.source, libc::POLLIN, WATCHDOG.as_millis() as c_int), 0, "no end");
    }
}

/// The standard sockets close theirs; these are numbers from here on.
pub fn raw<T: AsRawFd + IntoRawFd>(socket: T) -> c_int {
    socket.into_raw_fd()
}

/// Whether a splice runs from a socket, without changing anything.
pub fn is_running(system: crate::System, fd: c_int) -> bool {
    match system {
        // A running source is not readable, and an ended one is in all of these cases.
        crate::System::OpenBsd => poll(fd, libc::POLLIN, 0) == 0,
        // That the source is busy is found before anything about the drain.
        crate::System::FreeBsd => {
            let drain = listening();
            let refused = splice(fd, drain);
            close(drain);
            refused == Err(libc::EBUSY)
        }
    }
}
