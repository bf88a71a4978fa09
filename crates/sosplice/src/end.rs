//! How a splice ends: the cause, what was carried, and what was left over.

use std::fmt;
use std::io;
use std::ops::AddAssign;

/// An error number of the kernel (errno), kept as a number so that an end can be
/// copied and compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OsError(i32);

impl OsError {
    /// The raw errno.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// As an [`io::Error`].
    #[must_use]
    pub fn io(self) -> io::Error {
        io::Error::from_raw_os_error(self.0)
    }
}

impl From<&io::Error> for OsError {
    /// An error that did not come from the kernel becomes EIO.
    fn from(error: &io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()))
    }
}

impl From<rustix::io::Errno> for OsError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.io().fmt(f)
    }
}

impl fmt::Debug for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OsError({}: {})", self.0, self.io())
    }
}

/// Why a splice ended. The rows are those of sosplice(9), with a type in place
/// of an errno on the source.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The source has sent its last byte (FIN), and the drain has accepted it. A datagram
    /// socket: it was shut down for reading, and what had come is out.
    Eof,
    /// The byte limit was reached exactly; the rest is still readable on the source.
    Max,
    /// The next datagram would have gone beyond the byte limit; it is still on the source.
    MaxInside,
    /// The next datagram does not fit the drain: its send buffer, or the largest packet of
    /// its address family (EMSGSIZE). It is still on the source, or the residue's first.
    MessageTooLong,
    /// Nothing moved for the idle limit.
    Idle,
    /// The splice was taken back by its owner.
    Unspliced,
    /// Reading the source failed (ECONNRESET is a reset by its peer).
    SourceError(OsError),
    /// The drain takes no more bytes: it was shut down for writing (EPIPE).
    DrainClosed,
    /// Writing to the drain failed.
    DrainError(OsError),
}

impl Cause {
    /// The cause as one lower-case word, for logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Eof => "eof",
            Self::Max => "max",
            Self::MaxInside => "max-inside",
            Self::MessageTooLong => "message-too-long",
            Self::Idle => "idle",
            Self::Unspliced => "unspliced",
            Self::SourceError(_) => "source-error",
            Self::DrainClosed => "drain-closed",
            Self::DrainError(_) => "drain-error",
        }
    }

    /// The kernel's error, where one was the cause.
    #[must_use]
    pub const fn os_error(self) -> Option<OsError> {
        match self {
            Self::SourceError(error) | Self::DrainError(error) => Some(error),
            Self::DrainClosed => Some(OsError(rustix::io::Errno::PIPE.raw_os_error())),
            Self::MessageTooLong => Some(OsError(rustix::io::Errno::MSGSIZE.raw_os_error())),
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SourceError(error) | Self::DrainError(error) => {
                write!(f, "{}: {error}", self.word())
            }
            _ => f.write_str(self.word()),
        }
    }
}

/// Bytes that the drain accepted, by the engine that carried them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Through a worker's buffer (recv and send).
    pub copy: u64,
    /// Through a pipe (splice(2)): these never were in user space.
    pub pipe: u64,
    /// As datagrams that went out in runs, cut by the kernel (UDP_SEGMENT).
    pub gso: u64,
    /// As datagrams of which one call sent several (sendmmsg).
    pub mmsg: u64,
    /// As datagrams sent by a call each.
    pub plain: u64,
    /// How many datagrams the last three are.
    pub datagrams: u64,
}

impl Carried {
    /// Bytes of all engines.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.copy + self.pipe + self.gso + self.mmsg + self.plain
    }

    /// The engine's name for logs: the one that carried the most, `none` for no byte.
    #[must_use]
    pub fn engine(self) -> &'static str {
        let engines = [
            (self.copy, "copy"),
            (self.pipe, "pipe"),
            (self.plain, "udp-plain"),
            (self.mmsg, "udp-mmsg"),
            (self.gso, "udp-gso"),
        ];
        match engines.into_iter().max_by_key(|(bytes, _)| *bytes) {
            Some((bytes, name)) if bytes > 0 => name,
            // Empty datagrams.
            _ if self.datagrams > 0 => "udp-plain",
            _ => "none",
        }
    }
}

impl AddAssign for Carried {
    fn add_assign(&mut self, more: Self) {
        self.copy += more.copy;
        self.pipe += more.pipe;
        self.gso += more.gso;
        self.mmsg += more.mmsg;
        self.plain += more.plain;
        self.datagrams += more.datagrams;
    }
}

/// The end of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Why it ended.
    pub cause: Cause,
    /// Bytes that the drain accepted.
    pub bytes: u64,
    /// The same bytes by engine.
    pub carried: Carried,
    /// Bytes taken from the source and not accepted by the drain, in order. They
    /// come before whatever the source still holds. Empty after [`Cause::Eof`] and
    /// [`Cause::Max`]; may hold bytes when the drain failed or stood still
    /// ([`Cause::Idle`]) or when the splice was taken back by force.
    ///
    /// Datagrams that still waited on the source are here too, after any cause, where the
    /// kernel was told to join them (UDP_GRO): left there, the joined ones would be read as
    /// one. With a byte limit, or with [`EngineChoice::Copy`](crate::EngineChoice::Copy),
    /// it is not told to, and they stay on the source.
    pub residue: Vec<u8>,
    /// Of datagrams: the length of each in the residue, in order. Empty for streams.
    pub boundaries: Vec<usize>,
}
