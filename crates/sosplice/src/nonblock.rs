//! O_NONBLOCK while a splice runs, and as it was afterwards.
//!
//! splice(2) sleeps on a blocking socket whatever SPLICE_F_NONBLOCK says, and a worker
//! must not sleep. The flag belongs to the open file, which several splices and the
//! program itself share: the first splice on a blocking file sets the flag, and the last
//! one to leave restores it. Kept in one table a process, touched when a splice begins
//! and ends.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Result;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Device and inode: one a socket.
type Key = (u64, u64);

/// Splices that run on a file that was blocking before the first of them.
static BORROWED: LazyLock<Mutex<HashMap<Key, usize>>> = LazyLock::new(Mutex::default);

fn borrowed() -> MutexGuard<'static, HashMap<Key, usize>> {
    BORROWED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps O_NONBLOCK set on a file. Give it back with [`release`](Self::release).
/// The default holds nothing.
#[derive(Debug, Default)]
pub(crate) struct Nonblock(Option<Key>);

impl Nonblock {
    pub(crate) fn hold(fd: &OwnedFd) -> Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        let key = (stat.st_dev, stat.st_ino);
        let mut borrowed = borrowed();
        if let Some(count) = borrowed.get_mut(&key) {
            *count += 1;
            rustix::io::ioctl_fionbio(fd, true)?;
            return Ok(Self(Some(key)));
        }
        if is_set(fd)? {
            return Ok(Self(None));
        }
        rustix::io::ioctl_fionbio(fd, true)?;
        borrowed.insert(key, 1);
        Ok(Self(Some(key)))
    }

    pub(crate) fn release(&mut self, fd: &OwnedFd) {
        let Some(key) = self.0.take() else { return };
        let mut borrowed = borrowed();
        let Some(count) = borrowed.get_mut(&key) else { return };
        *count -= 1;
        if *count == 0 {
            borrowed.remove(&key);
            // The descriptor is our own and open; there is nobody to tell of a failure.
            let _ = rustix::io::ioctl_fionbio(fd, false);
        }
    }
}

fn is_set<Fd: AsFd>(fd: Fd) -> Result<bool> {
    Ok(rustix::fs::fcntl_getfl(fd)?.contains(rustix::fs::OFlags::NONBLOCK))
}
