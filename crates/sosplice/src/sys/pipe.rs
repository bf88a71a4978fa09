//! The pipe that bytes pass through inside the kernel.

use rustix::fd::OwnedFd;
use rustix::pipe::PipeFlags;
use std::io;

/// A pipe, both ends non-blocking and close-on-exec.
#[derive(Debug)]
pub struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

impl Pipe {
    /// Makes a pipe and asks for `bytes` of room.
    ///
    /// # Errors
    /// EMFILE or ENFILE where descriptors are used up. That the kernel gives less
    /// room than asked (fs.pipe-user-pages-soft, fs.pipe-max-size) is no error: the
    /// pipe works, with shorter moves.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Ignored on purpose, see above.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, bytes);
        Ok(Self { read, write })
    }

    /// The room that the kernel really gave, in bytes. A slot can hold more than a
    /// page, so the pipe can hold more than this.
    #[must_use]
    pub fn room(&self) -> usize {
        rustix::pipe::fcntl_getpipe_size(&self.write).unwrap_or(0)
    }

    /// Reads what the pipe holds into `buf`: how held bytes become residue.
    ///
    /// # Errors
    /// WouldBlock when the pipe is empty.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.read, &mut *buf))?)
    }

    /// Writes into the pipe: for scripted sockets in tests.
    #[cfg(test)]
    pub(crate) fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.write, buf)?)
    }
}
