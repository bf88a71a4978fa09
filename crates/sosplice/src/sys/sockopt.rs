//! Socket options that a splice sets and puts back.

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::{Errno, Result};
use rustix::net::{Shutdown, sockopt};
use std::time::Duration;

/// SO_RCVLOWAT: the bytes that make the socket readable for poll and epoll (socket(7)).
///
/// # Errors
/// What getsockopt(2) says.
#[allow(unsafe_code, reason = "rustix has no name for SO_RCVLOWAT")]
pub fn low_water<Fd: AsFd>(fd: Fd) -> Result<i32> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and len are live for the call, and len is the size of value.
    // By number, so that a library that interposes getsockopt is not re-entered.
    let done = unsafe {
        libc::syscall(
            libc::SYS_getsockopt,
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            &raw mut value,
            &raw mut len,
        )
    };
    if done == 0 { Ok(value) } else { Err(last()) }
}

/// Sets SO_RCVLOWAT, in bytes; the kernel caps it at half of the largest receive buffer.
///
/// # Errors
/// What setsockopt(2) says.
#[allow(unsafe_code, reason = "rustix has no name for SO_RCVLOWAT")]
pub fn set_low_water<Fd: AsFd>(fd: Fd, bytes: i32) -> Result<()> {
    // SAFETY: the pointer and the length describe `bytes`, live for the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_setsockopt,
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            &raw const bytes,
            size_of::<libc::c_int>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(last()) }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// TCP_NODELAY: what the source sent in one piece is not held back for the next.
///
/// # Errors
/// What setsockopt(2) says; EOPNOTSUPP or ENOPROTOOPT on other than TCP.
pub fn set_nodelay<Fd: AsFd>(fd: Fd) -> Result<()> {
    sockopt::set_tcp_nodelay(fd, true)
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
