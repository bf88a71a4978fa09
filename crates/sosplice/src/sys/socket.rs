//! The calls that move bytes, each on one descriptor, never sleeping.
//!
//! recv and send carry MSG_DONTWAIT. splice(2) has nothing like it:
//! SPLICE_F_NONBLOCK speaks of the pipe only, and a blocking socket puts the
//! caller to sleep, so the pipe engine needs O_NONBLOCK on the open file; the
//! drivers see to that.

use super::Pipe;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};
use rustix::pipe::SpliceFlags;
use std::io;

/// What can carry a splice's bytes at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP over IPv4 or IPv6: both engines.
    Tcp,
    /// A unix stream socket: both engines.
    Unix,
    /// Another stream socket (vsock, ...): recv and send.
    Stream,
    /// Not a socket: read and write.
    File,
    /// UDP over IPv4 or IPv6: batches of messages.
    Udp,
    /// Another datagram socket.
    Datagram,
    /// A seqpacket socket.
    Seqpacket,
    /// A raw socket, or of a type that is not known.
    Raw,
}

impl Kind {
    /// Whether splice(2) is worth trying here.
    #[must_use]
    pub const fn can_pipe(self) -> bool {
        matches!(self, Self::Tcp | Self::Unix)
    }

    /// The name of a socket type whose message boundaries would be lost: they are kept for
    /// UDP only.
    #[must_use]
    pub const fn keeps_messages(self) -> Option<&'static str> {
        match self {
            Self::Datagram => Some("datagram"),
            Self::Seqpacket => Some("seqpacket"),
            Self::Raw => Some("raw"),
            Self::Tcp | Self::Unix | Self::Stream | Self::File | Self::Udp => None,
        }
    }

    const fn is_socket(self) -> bool {
        !matches!(self, Self::File)
    }
}

/// Reads what a descriptor is (SO_TYPE, SO_DOMAIN, SO_PROTOCOL).
///
/// # Errors
/// EBADF; ENOTSOCK is the answer [`Kind::File`].
pub fn kind<Fd: AsFd>(fd: Fd) -> rustix::io::Result<Kind> {
    match sockopt::socket_type(&fd) {
        Ok(SocketType::STREAM) => Ok(match sockopt::socket_domain(&fd)? {
            AddressFamily::INET | AddressFamily::INET6 => Kind::Tcp,
            AddressFamily::UNIX => Kind::Unix,
            _ => Kind::Stream,
        }),
        // Others are UDP-Lite and ping sockets.
        Ok(SocketType::DGRAM) => Ok(match sockopt::socket_domain(&fd)? {
            AddressFamily::INET | AddressFamily::INET6
                if sockopt::socket_protocol(&fd)? == Some(ipproto::UDP) =>
            {
                Kind::Udp
            }
            _ => Kind::Datagram,
        }),
        Ok(SocketType::SEQPACKET) => Ok(Kind::Seqpacket),
        Ok(_) => Ok(Kind::Raw),
        Err(Errno::NOTSOCK) => Ok(Kind::File),
        Err(errno) => Err(errno),
    }
}

/// Whether the socket was shut down for reading, by its owner or, on a stream, by the
/// peer's end (POLLRDHUP, poll(2)).
#[must_use]
pub fn is_over<Fd: AsFd>(fd: Fd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    retry_on_intr(|| poll(&mut fds, Some(&now))).is_ok()
        && fds[0].revents().contains(PollFlags::RDHUP)
}

/// Whether the socket listens (SO_ACCEPTCONN).
///
/// # Errors
/// What getsockopt(2) says.
pub fn is_listening<Fd: AsFd>(fd: Fd) -> rustix::io::Result<bool> {
    sockopt::socket_acceptconn(fd)
}

/// What one read of the source gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// So many bytes, at least one. `dry` says that the source is known to be
    /// empty now, and that the driver will hear of the next byte or of the end.
    Bytes {
        /// How many.
        count: usize,
        /// Nothing is left.
        dry: bool,
    },
    /// The source has sent its last byte.
    Eof,
    /// Nothing there: the driver waits until the source is readable.
    Empty,
    /// splice(2) cannot move what is queued (an urgent mark, a TLS record that
    /// carries no data): read it with recv.
    Stuck,
}

/// What one write to the drain gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The drain accepted so many bytes, at least one.
    Bytes(usize),
    /// The drain is full: the driver waits until it is writable.
    Full,
    /// splice(2) refuses this drain: write the bytes with send.
    Refused,
}

/// Reads into a buffer.
///
/// # Errors
/// The source's pending error.
pub fn recv<Fd: AsFd>(fd: Fd, kind: Kind, buf: &mut [u8]) -> io::Result<Take> {
    debug_assert!(!buf.is_empty());
    let result = retry_on_intr(|| {
        if kind.is_socket() {
            rustix::net::recv(&fd, &mut *buf, RecvFlags::DONTWAIT).map(|(count, _)| count)
        } else {
            rustix::io::read(&fd, &mut *buf)
        }
    });
    match result {
        Ok(0) => Ok(Take::Eof),
        Ok(count) => Ok(Take::Bytes { count, dry: false }),
        Err(Errno::AGAIN) => Ok(Take::Empty),
        // A terminal whose other end is gone answers EIO: it is an end.
        Err(Errno::IO) if !kind.is_socket() => Ok(Take::Eof),
        Err(errno) => Err(errno.into()),
    }
}

/// Moves from the source into an empty pipe, at most `len` bytes.
///
/// # Errors
/// The source's pending error.
pub fn fill<Fd: AsFd>(fd: Fd, pipe: &mut Pipe, len: usize) -> io::Result<Take> {
    match splice(&fd, &pipe.write, len) {
        Ok(0) => Ok(Take::Eof),
        Ok(count) => Ok(Take::Bytes { count, dry: false }),
        // The pipe is empty, so it is the source that has nothing, with two exceptions
        // that one byte peeked tells apart: bytes behind an urgent mark, which
        // splice(2) never passes, and on old kernels the end of the stream.
        Err(Errno::AGAIN) => match peek(&fd) {
            Ok(0) => Ok(Take::Eof),
            Err(Errno::AGAIN) => Ok(Take::Empty),
            Err(errno) => Err(errno.into()),
            Ok(_) => match splice(&fd, &pipe.write, len) {
                Ok(0) => Ok(Take::Eof),
                Ok(count) => Ok(Take::Bytes { count, dry: false }),
                Err(Errno::AGAIN | Errno::INVAL) => Ok(Take::Stuck),
                Err(errno) => Err(errno.into()),
            },
        },
        Err(Errno::INVAL) => Ok(Take::Stuck),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes from a buffer. SIGPIPE is never raised.
///
/// # Errors
/// EPIPE where the drain takes no more; its pending error otherwise.
pub fn send<Fd: AsFd>(fd: Fd, kind: Kind, bytes: &[u8]) -> io::Result<Put> {
    debug_assert!(!bytes.is_empty());
    let result = retry_on_intr(|| {
        if kind.is_socket() {
            rustix::net::send(&fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        } else {
            rustix::io::write(&fd, bytes)
        }
    });
    put(result)
}

/// Moves from the pipe to the drain, at most `len` bytes (what the pipe holds).
///
/// # Errors
/// As [`send`]; but splice(2) has no MSG_NOSIGNAL (fs/splice.c, `splice_to_socket`), so
/// EPIPE also raises SIGPIPE on the calling thread, which the drivers hold back.
pub fn drain<Fd: AsFd>(fd: Fd, pipe: &mut Pipe, len: usize) -> io::Result<Put> {
    match splice(&pipe.read, &fd, len) {
        Err(Errno::INVAL) => Ok(Put::Refused),
        result => put(result),
    }
}

/// As [`fill`], for a source without O_NONBLOCK, where splice(2) sleeps if nothing is
/// queued: looks first, unless the caller knows that something `is_queued`. Nobody else may
/// read the source meanwhile. A signal ends the sleep of one that was wrong.
///
/// # Errors
/// The source's pending error.
pub fn fill_queued<Fd: AsFd>(
    fd: Fd,
    pipe: &mut Pipe,
    len: usize,
    is_queued: bool,
) -> io::Result<Take> {
    if !is_queued {
        match peek(&fd) {
            Ok(0) => return Ok(Take::Eof),
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(Take::Empty),
            Err(errno) => return Err(errno.into()),
        }
    }
    match splice_once(&fd, &pipe.write, len) {
        Ok(count @ 1..) => return Ok(Take::Bytes { count, dry: false }),
        // On a blocking socket zero also stands for an urgent mark.
        Ok(0) | Err(Errno::AGAIN | Errno::INVAL | Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    match peek(&fd) {
        Ok(0) => Ok(Take::Eof),
        Ok(_) => Ok(Take::Stuck),
        Err(Errno::AGAIN) => Ok(Take::Empty),
        Err(errno) => Err(errno.into()),
    }
}

/// As [`drain`], for a drain without O_NONBLOCK, where splice(2) may sleep for room: a
/// signal ends that, and then the drain is full.
///
/// # Errors
/// As [`drain`].
pub fn drain_until_signal<Fd: AsFd>(fd: Fd, pipe: &mut Pipe, len: usize) -> io::Result<Put> {
    match splice_once(&pipe.read, &fd, len) {
        Err(Errno::INVAL) => Ok(Put::Refused),
        Err(Errno::INTR) => Ok(Put::Full),
        result => put(result),
    }
}

fn put(result: rustix::io::Result<usize>) -> io::Result<Put> {
    match result {
        Ok(0) => Err(Errno::PIPE.into()),
        Ok(count) => Ok(Put::Bytes(count)),
        Err(Errno::AGAIN) => Ok(Put::Full),
        Err(errno) => Err(errno.into()),
    }
}

/// Above MAX_RW_COUNT (just under 2 GiB) the kernel clamps or refuses.
const SPLICE_BYTES_MAX: usize = 1 << 30;

fn splice<In: AsFd, Out: AsFd>(from: In, to: Out, len: usize) -> rustix::io::Result<usize> {
    retry_on_intr(|| splice_once(&from, &to, len))
}

fn splice_once<In: AsFd, Out: AsFd>(from: In, to: Out, len: usize) -> rustix::io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    rustix::pipe::splice(&from, None, &to, None, len.min(SPLICE_BYTES_MAX), flags)
}

/// Looks at the next byte without taking it.
fn peek<Fd: AsFd>(fd: Fd) -> rustix::io::Result<usize> {
    let mut byte = [0];
    retry_on_intr(|| {
        rustix::net::recv(&fd, &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK)
            .map(|(count, _)| count)
    })
}
