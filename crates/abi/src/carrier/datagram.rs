//! Datagrams, one by one: looked at, sent, and only then taken, so that nothing is held
//! and one that the drain refuses stays on the source.
//!
//! It keeps boundaries, drops addresses and control data, and knows nothing of GRO and
//! GSO: a batching mover of the library takes its place behind the same two calls.

use super::port::Port;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};

/// More than any UDP payload.
pub const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

/// Datagrams before the next flow has its turn.
const BUDGET: usize = 64;

pub struct Datagrams {
    /// Bytes that may still be moved; None for no limit.
    left: Option<u64>,
    pub moved: u64,
}

/// How a step left the splice.
pub enum Then {
    WaitSource,
    WaitDrain,
    Turn,
    /// Exactly the maximum has gone.
    Max,
    /// The next datagram goes beyond the maximum, or the source was shut down.
    Over,
    SourceError(Errno),
    DrainError(Errno),
    /// The datagram is larger than the drain's send buffer.
    TooLong,
}

impl Datagrams {
    pub fn new(max: u64) -> Self {
        Self { left: (max != 0).then_some(max), moved: 0 }
    }

    pub fn step(&mut self, source: &Port, drain: &Port, buffer: &mut [u8]) -> Then {
        for _ in 0..BUDGET {
            if !source.ready().read {
                return Then::WaitSource;
            }
            let look = RecvFlags::DONTWAIT | RecvFlags::PEEK;
            let len = match rustix::net::recv(source, &mut *buffer, look) {
                Ok((0, _)) if is_shut(source) => return Then::Over,
                Ok((len, _)) => len,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    source.set_read(false);
                    continue;
                }
                Err(errno) => return Then::SourceError(errno),
            };
            if self.left.is_some_and(|left| len as u64 > left) {
                return Then::Over;
            }
            // The kernel doubles what the program sets (socket(7)).
            if sockopt::socket_send_buffer_size(drain).is_ok_and(|size| len > size / 2) {
                return Then::TooLong;
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(drain, &buffer[..len], flags) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    drain.set_write(drain.wants_room());
                    return if drain.ready().write { Then::Turn } else { Then::WaitDrain };
                }
                Err(Errno::MSGSIZE) => return Then::TooLong,
                Err(errno) => return Then::DrainError(errno),
            }
            // The carrier alone reads the source, so this is the one that was sent.
            let _ = rustix::net::recv(source, &mut [0u8; 1][..], RecvFlags::DONTWAIT);
            self.moved += len as u64;
            if let Some(left) = &mut self.left {
                *left -= len as u64;
                if *left == 0 {
                    return Then::Max;
                }
            }
        }
        Then::Turn
    }
}

/// A datagram of no bytes reads as a socket that was shut down; poll tells them apart.
fn is_shut(source: &Port) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(source, PollFlags::RDHUP)];
    matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
        && fds[0].revents().contains(PollFlags::RDHUP)
}
