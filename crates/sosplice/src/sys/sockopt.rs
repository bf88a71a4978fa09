//! Socket options that a splice sets and puts back.

use super::Kind;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::io::{Errno, Result};
use rustix::net::{Shutdown, sockopt};
use std::io;
use std::time::Duration;

/// The low-water mark that a splice has set on its source, and what was there before.
#[derive(Debug, Default)]
pub struct LowWater {
    before: Option<i32>,
}

impl LowWater {
    /// Sets the mark, or puts back what was before; without a mark of ours that is
    /// nothing. The kernel caps it at half of the largest receive buffer, and reports at
    /// once what lies above the new mark (net/ipv4/tcp.c, `tcp_set_rcvlowat`).
    ///
    /// # Errors
    /// EOPNOTSUPP where the source is not TCP: poll minds the mark nowhere else. What
    /// setsockopt(2) says.
    pub fn set<Fd: AsFd>(&mut self, fd: Fd, kind: Kind, bytes: Option<u32>) -> io::Result<()> {
        let fd = fd.as_fd();
        match (bytes, self.before) {
            (None, None) => {}
            (None, Some(before)) => {
                self.before = None;
                set_low_water(fd, before)?;
            }
            (Some(_), _) if kind != Kind::Tcp => return Err(Errno::OPNOTSUPP.into()),
            (Some(bytes), before) => {
                let before = before.map_or_else(|| low_water(fd), Ok)?;
                set_low_water(fd, i32::try_from(bytes).unwrap_or(i32::MAX))?;
                self.before = Some(before);
            }
        }
        Ok(())
    }
}

/// SO_RCVLOWAT: the bytes that make the socket readable for poll and epoll (socket(7)).
fn low_water(fd: BorrowedFd<'_>) -> Result<i32> {
    get_int(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT)
}

/// Sets SO_RCVLOWAT, in bytes; the kernel caps it at half of the largest receive buffer.
fn set_low_water(fd: BorrowedFd<'_>, bytes: i32) -> Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// Reads an option that is an int.
#[allow(unsafe_code, reason = "rustix has no name for some options")]
pub(super) fn get_int(fd: BorrowedFd<'_>, level: i32, option: i32) -> Result<i32> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and len are live for the call, and len is the size of value.
    // By number, so that a library that interposes getsockopt is not re-entered.
    let done = unsafe {
        libc::syscall(
            libc::SYS_getsockopt,
            fd.as_raw_fd(),
            level,
            option,
            &raw mut value,
            &raw mut len,
        )
    };
    if done == 0 { Ok(value) } else { Err(last()) }
}

/// Sets an option that is an int.
#[allow(unsafe_code, reason = "rustix has no name for some options")]
pub(super) fn set_int(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> Result<()> {
    // SAFETY: the pointer and the length describe `value`, live for the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_setsockopt,
            fd.as_raw_fd(),
            level,
            option,
            &raw const value,
            size_of::<libc::c_int>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(last()) }
}

pub(super) fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Sends FIN: the drain's peer reads its end of file after the last byte.
///
/// # Errors
/// ENOTCONN where the connection is gone already.
pub fn shutdown_write<Fd: AsFd>(fd: Fd) -> Result<()> {
    rustix::net::shutdown(fd, Shutdown::Write)
}

/// Makes close(2) reset the connection (SO_LINGER 0), so that the peer learns of a
/// failure and does not take a cut stream for a whole one.
///
/// # Errors
/// What setsockopt(2) says.
pub fn reset_on_close<Fd: AsFd>(fd: Fd) -> Result<()> {
    sockopt::set_socket_linger(fd, Some(Duration::ZERO))
}

/// Bytes that a TCP socket has taken and its peer has not acknowledged (SIOCOUTQ, tcp(7)).
///
/// # Errors
/// What ioctl(2) says.
#[allow(unsafe_code, reason = "rustix has no name for SIOCOUTQ")]
pub fn unacknowledged<Fd: AsFd>(fd: Fd) -> Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one int, which is live. SIOCOUTQ is TIOCOUTQ for sockets.
    let done = unsafe {
        libc::syscall(libc::SYS_ioctl, fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes)
    };
    if done == 0 { Ok(usize::try_from(bytes).unwrap_or(0)) } else { Err(last()) }
}

/// The room in a socket's send buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// So many bytes fit: what is free, less an eighth for what the kernel adds to each
    /// packet.
    pub bytes: usize,
    /// A third is free, so that poll(2) calls the socket writable (net/core/stream.c,
    /// `sk_stream_is_writeable`).
    pub is_writable: bool,
}

/// Room in a TCP socket's send buffer (SO_MEMINFO).
///
/// # Errors
/// What getsockopt(2) says.
#[allow(unsafe_code, reason = "rustix has no name for SO_MEMINFO")]
pub fn room<Fd: AsFd>(fd: Fd) -> Result<Room> {
    const SO_MEMINFO: libc::c_int = 55;
    // include/uapi/linux/sock_diag.h
    const SNDBUF: usize = 3;
    const WMEM_QUEUED: usize = 5;
    let mut info = [0u32; 9];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: info and len are live for the call, and len is the size of info.
    let done = unsafe {
        libc::syscall(
            libc::SYS_getsockopt,
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            info.as_mut_ptr(),
            &raw mut len,
        )
    };
    if done != 0 {
        return Err(last());
    }
    let free = info[SNDBUF].saturating_sub(info[WMEM_QUEUED]);
    let is_writable = free >= info[WMEM_QUEUED] / 2;
    Ok(Room { bytes: (free - free / 8) as usize, is_writable })
}
