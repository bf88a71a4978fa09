//! What the tokio driver needs of a socket: readiness, and a call made under it.

use crate::sys::{self, Kind};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::net::sockopt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UdpSocket, UnixStream};

/// What [`Socket::failed`] gives.
pub type Failed<'s> = Pin<Box<dyn Future<Output = ()> + Send + 's>>;

/// A socket, or another descriptor, that is registered with the tokio runtime.
pub trait Socket: AsFd {
    /// Ready when the socket may be readable (data, end of file, or an error); the
    /// task is woken otherwise. One task at a time may wait for it.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when the socket may be writable.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Runs `call` if the readiness of `interest` is set, and clears that readiness
    /// when the call answers WouldBlock.
    ///
    /// # Errors
    /// WouldBlock, or what the call says.
    fn try_io<R>(&self, interest: Interest, call: impl FnOnce() -> io::Result<R>) -> io::Result<R>;

    /// Done when the connection has failed (EPOLLERR), whatever its readiness. Asked for
    /// by a direction whose drain is full: it does not read, and would not hear of it; and
    /// for datagrams, whose sockets fail without becoming readable. It is asked again when
    /// [`try_io`](Self::try_io) has cleared [`Interest::ERROR`].
    fn failed(&self) -> Failed<'_>;

    /// What carries the bytes.
    ///
    /// # Errors
    /// EBADF.
    fn kind(&self) -> io::Result<Kind> {
        Ok(sys::kind(self)?)
    }

    /// Whether O_NONBLOCK is set, which splice(2) needs.
    fn is_nonblocking(&self) -> bool {
        true
    }

    /// Whether a read that returns less than was asked for proves that nothing is
    /// queued: true where the runtime would have told of urgent data, whose mark ends
    /// a read before the bytes behind it.
    fn short_read_is_dry(&self) -> bool {
        false
    }
}

macro_rules! forward {
    () => {
        fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Self::poll_read_ready(self, cx)
        }
        fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Self::poll_write_ready(self, cx)
        }
        fn try_io<R>(
            &self,
            interest: Interest,
            call: impl FnOnce() -> io::Result<R>,
        ) -> io::Result<R> {
            Self::try_io(self, interest, call)
        }
        fn failed(&self) -> Failed<'_> {
            Box::pin(async {
                // An error is the runtime's end.
                let _ = self.ready(Interest::ERROR).await;
            })
        }
    };
}

impl Socket for TcpStream {
    forward!();
    fn kind(&self) -> io::Result<Kind> {
        Ok(Kind::Tcp)
    }
}

impl Socket for UnixStream {
    forward!();
    fn kind(&self) -> io::Result<Kind> {
        Ok(Kind::Unix)
    }
}

/// Datagrams keep their boundaries; see the manual on them.
impl Socket for UdpSocket {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_recv_ready(cx)
    }
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send_ready(cx)
    }
    fn try_io<R>(&self, interest: Interest, call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        Self::try_io(self, interest, call)
    }
    fn failed(&self) -> Failed<'_> {
        Box::pin(async {
            // An error is the runtime's end.
            let _ = self.ready(Interest::ERROR).await;
        })
    }
    fn kind(&self) -> io::Result<Kind> {
        Ok(Kind::Udp)
    }
}

/// Anything else that can be polled: a terminal, a pipe, a socket made by hand.
/// Registered with [`Interest::PRIORITY`] beside the others, it spares a call after
/// each short read.
impl<T: AsFd + AsRawFd + Sync> Socket for AsyncFd<T> {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_read_ready(self, cx).map_ok(drop)
    }
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_write_ready(self, cx).map_ok(drop)
    }
    fn try_io<R>(&self, interest: Interest, call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        Self::try_io(self, interest, |_| call())
    }
    fn failed(&self) -> Failed<'_> {
        failed(self)
    }
    fn is_nonblocking(&self) -> bool {
        rustix::fs::fcntl_getfl(self).is_ok_and(|f| f.contains(rustix::fs::OFlags::NONBLOCK))
    }
}

fn failed<T: AsRawFd + Sync>(fd: &AsyncFd<T>) -> Failed<'_> {
    Box::pin(async move {
        // An error is the runtime's end.
        let _ = fd.ready(Interest::ERROR).await;
    })
}

/// A descriptor of its own, registered for readable, writable and urgent: the cheapest
/// kind of socket for the mover.
#[derive(Debug)]
pub struct Registered {
    fd: AsyncFd<OwnedFd>,
    kind: Kind,
}

impl Registered {
    /// Registers with the current runtime and sets O_NONBLOCK.
    ///
    /// # Errors
    /// What the kernel says to the registration (EPERM for a regular file).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio's own types.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let kind = sys::kind(&fd)?;
        Self::with_kind(fd, kind)
    }

    /// As [`new`](Self::new) for a descriptor whose kind is known and that has O_NONBLOCK
    /// set: no system call but the registration.
    ///
    /// # Errors
    /// What the kernel says to the registration.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    #[allow(unsafe_code, reason = "tokio has no safe constructor for an OwnedFd")]
    pub fn with_kind(fd: OwnedFd, kind: Kind) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        // SAFETY: an OwnedFd names the same open descriptor until it is dropped, and the
        // AsyncFd owns it and gives out no mutable access to it.
        let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
        let fd = registered.map_err(|error| error.into_parts().1)?;
        Ok(Self { fd, kind })
    }

    /// Waits until it is readable: data, a connection to accept, an end or an error.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await.map(drop)
    }

    /// Waits until a connect that is under way is done.
    ///
    /// # Errors
    /// Why it failed; or that the runtime is shutting down.
    pub async fn connected(&self) -> io::Result<()> {
        let is_over = self.fd.writable().await?.ready().is_write_closed();
        // What the event told: only one that has failed, or is over already, is asked about.
        if is_over {
            sockopt::socket_error(self)??;
        }
        Ok(())
    }
}

impl AsFd for Registered {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

impl Socket for Registered {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fd.poll_read_ready(cx).map_ok(drop)
    }
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fd.poll_write_ready(cx).map_ok(drop)
    }
    fn try_io<R>(&self, interest: Interest, call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.fd.try_io(interest, |_| call())
    }
    fn failed(&self) -> Failed<'_> {
        failed(&self.fd)
    }
    fn kind(&self) -> io::Result<Kind> {
        Ok(self.kind)
    }
    fn short_read_is_dry(&self) -> bool {
        // Asks the runtime, not the kernel: no priority event was seen.
        self.fd.try_io(Interest::PRIORITY, |_| Ok(())).is_err()
    }
}
