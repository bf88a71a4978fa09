//! What can go wrong before a splice runs; what ends a running one is [`Cause`](crate::Cause).

use std::io;

/// Why a splice could not be set up.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A seqpacket or raw socket, or a datagram socket other than UDP: its message
    /// boundaries would be lost.
    #[error(
        "the {end} is a {kind} socket, not UDP: a byte-stream splice would lose its message boundaries"
    )]
    NotAStream {
        /// Which end: `source` or `drain`.
        end: &'static str,
        /// Its socket type.
        kind: &'static str,
    },
    /// One end carries a byte stream, the other messages.
    #[error(
        "the {messages} is a datagram socket and the {stream} is not: a splice joins two of a kind"
    )]
    Mixed {
        /// Which end keeps message boundaries: `source`, `drain`, `first socket`, ...
        messages: &'static str,
        /// Which end does not.
        stream: &'static str,
    },
    /// A listening socket carries no bytes; accept a connection from it first.
    #[error("the {end} is a listening socket: splice an accepted connection instead")]
    Listening {
        /// Which end: `source` or `drain`.
        end: &'static str,
    },
    /// A stream socket that is neither connected nor connecting, or a datagram drain that
    /// is not connected.
    #[error("the {end} is not connected")]
    NotConnected {
        /// Which end: `source` or `drain`.
        end: &'static str,
    },
    /// The kernel refused a call of the set-up.
    #[error("cannot set up the splice: {call}: {source}")]
    Setup {
        /// The system call or step.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The splicer's workers are gone.
    #[error("the splicer has been shut down")]
    ShutDown,
}

impl Error {
    pub(crate) fn setup(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Setup { call, source: errno.into() }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NotAStream { .. } | Error::Mixed { .. } | Error::Listening { .. } => {
                io::ErrorKind::InvalidInput
            }
            Error::NotConnected { .. } => io::ErrorKind::NotConnected,
            Error::Setup { source, .. } => source.kind(),
            Error::ShutDown => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, error)
    }
}
