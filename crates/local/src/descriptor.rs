//! A descriptor that is closed by the kernel's own call.
//!
//! The standard library's types close through libc, whose `close` the preload library takes
//! the place of: one of its own descriptors must not come by there, possibly with locks held.

#[cfg(feature = "broker")]
use rustix::fd::FromRawFd;
use rustix::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

/// An open descriptor; closed when it goes out of scope.
#[derive(Debug)]
pub struct Descriptor(RawFd);

impl Descriptor {
    /// Takes over what came as a bare number.
    ///
    /// # Safety
    /// Nobody else closes it.
    pub unsafe fn from_raw(fd: RawFd) -> Self {
        Self(fd)
    }

    /// The number, to be closed by somebody else.
    pub fn into_raw(self) -> RawFd {
        let fd = self.0;
        std::mem::forget(self);
        fd
    }

    /// As a type of the standard library, which closes through libc: for programs without
    /// the preload library.
    #[cfg(feature = "broker")]
    pub fn into_owned(self) -> OwnedFd {
        // SAFETY: it is open and was this value's to close.
        unsafe { OwnedFd::from_raw_fd(self.into_raw()) }
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into_raw_fd())
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as this lives.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: open, and nobody else's to close.
        unsafe { rustix::io::close(self.0) }
    }
}
