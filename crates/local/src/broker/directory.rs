//! The rendezvous directory: which one, whether it can be trusted, and the broker's place in it.
//!
//! Whoever can write to the directory could put a socket of his own in the broker's place, and
//! would hand out the memory of other people's connections. So it must belong to this user or
//! to root, and nobody else may write to it. Who may *use* it is what its mode says: the
//! socket itself is open to all.

use super::Error;
use crate::wire::SOCKET;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK: &str = "broker.lock";

/// Connections that have not been accepted yet.
const BACKLOG: i32 = 1024;

/// Where programs of this user meet unless told otherwise. `runtime_dir` is XDG_RUNTIME_DIR.
pub fn default_for(uid: u32, runtime_dir: Option<OsString>) -> PathBuf {
    if uid == 0 {
        return "/run/sosplice/local".into();
    }
    match runtime_dir.map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        Some(dir) => dir.join("sosplice/local"),
        None => format!("/tmp/sosplice-{uid}/local").into(),
    }
}

/// Makes what is missing of the directory, for root readable by all, else by its user alone,
/// and makes sure that it can be trusted.
pub fn prepare(dir: &Path) -> Result<(), Error> {
    let mode = if rustix::process::geteuid().is_root() { 0o755 } else { 0o700 };
    let failed = |error| Error::Directory(dir.into(), error);
    if !dir.is_absolute() {
        return Err(Error::Relative(dir.into()));
    }
    // One level at a time: a parent in /tmp must not be another's either.
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    for missing in missing.into_iter().rev() {
        match DirBuilder::new().mode(mode).create(missing) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
    }
    check(dir)
}

/// Whether the directory is there, and can be trusted.
pub fn check(dir: &Path) -> Result<(), Error> {
    let own = rustix::process::geteuid().as_raw();
    let failed = |error| Error::Directory(dir.into(), error);
    // Whoever owns the parent could put another in its place, but for a sticky one.
    let parent = dir.parent().unwrap_or(dir);
    for (place, sticky_will_do) in [(dir, false), (parent, true)] {
        let found = place.symlink_metadata().map_err(failed)?;
        if place == dir && !found.is_dir() && !found.file_type().is_symlink() {
            return Err(failed(Errno::NOTDIR.into()));
        }
        let found = place.metadata().map_err(failed)?;
        if found.uid() != own && found.uid() != 0 {
            return Err(Error::Foreign { dir: place.into(), uid: found.uid() });
        }
        let sticky = sticky_will_do && found.mode() & 0o1000 != 0;
        if found.mode() & 0o022 != 0 && !sticky {
            return Err(Error::Open(place.into()));
        }
    }
    Ok(())
}

/// The broker's place in a directory: its lock, and the socket on which it listens.
#[derive(Debug)]
pub struct Seat {
    /// What it listens on.
    pub listener: OwnedFd,
    place: File,
    /// Released by the kernel when the process ends, however it ends.
    _lock: File,
}

impl Seat {
    /// Takes it. What another broker left behind, whose lock is free, is replaced.
    pub fn take(dir: &Path) -> Result<Self, Error> {
        prepare(dir)?;
        let failed = |error| Error::Directory(dir.into(), error);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(dir.join(LOCK)).map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(Error::Taken(dir.into())),
            other => other.map_err(|errno| failed(errno.into()))?,
        }
        let place = File::open(dir).map_err(failed)?;
        let path = dir.join(SOCKET);
        let listener = listen(&path).map_err(|errno| match errno {
            Errno::NAMETOOLONG => Error::TooLong(dir.into()),
            errno => failed(errno.into()),
        })?;
        Ok(Self { listener, place, _lock: lock })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Before the lock is free: behind it there may be another's. In this very directory: it may have been removed,
        // and another broker have made the next of that name.
        let _ = rustix::fs::unlinkat(&self.place, SOCKET, AtFlags::empty());
    }
}

fn listen(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    match rustix::fs::unlink(path) {
        Err(Errno::NOENT) | Ok(()) => {}
        Err(errno) => return Err(errno),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let listener = rustix::net::socket_with(family, kind, flags, None)?;
    rustix::net::bind(&listener, &address)?;
    rustix::fs::chmod(path, Mode::from_raw_mode(0o666))?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn each_user_has_a_directory() {
        let dir = |uid, runtime: Option<&str>| default_for(uid, runtime.map(OsString::from));
        assert_eq!(dir(0, Some("/run/user/0")), Path::new("/run/sosplice/local"));
        assert_eq!(dir(7, Some("/run/user/7")), Path::new("/run/user/7/sosplice/local"));
        assert_eq!(dir(7, None), Path::new("/tmp/sosplice-7/local"));
        assert_eq!(dir(7, Some("")), Path::new("/tmp/sosplice-7/local"));
    }

    #[test]
    fn a_seat_in_a_directory_that_is_gone_leaves_the_next_one_alone() {
        let dir = std::env::temp_dir().join(format!("sosplice-seat-{}", std::process::id()));
        let first = Seat::take(&dir).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let second = Seat::take(&dir).unwrap();
        drop(first);
        assert!(dir.join(SOCKET).exists());
        drop(second);
        assert!(!dir.join(SOCKET).exists());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let base = std::env::temp_dir().join(format!("sosplice-dir-{}", std::process::id()));
        let dir = base.join("a/b");
        prepare(&dir).unwrap();
        prepare(&dir).unwrap();
        for mode in [0o777, 0o1777, 0o770] {
            std::fs::set_permissions(&dir, PermissionsExt::from_mode(mode)).unwrap();
            assert!(matches!(prepare(&dir), Err(Error::Open(_))), "{mode:o}");
        }
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(base.join("a"), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(matches!(prepare(&dir), Err(Error::Open(_))));
        std::fs::set_permissions(base.join("a"), PermissionsExt::from_mode(0o1777)).unwrap();
        prepare(&dir).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&dir, Some(12345), None).unwrap();
            let refused = prepare(&dir);
            assert!(matches!(refused, Err(Error::Foreign { uid: 12345, .. })), "{refused:?}");
        }
        std::fs::write(base.join("file"), "").unwrap();
        assert!(matches!(prepare(&base.join("file")), Err(Error::Directory(..))));
        assert!(matches!(prepare(Path::new("here")), Err(Error::Relative(_))));
        std::fs::remove_dir_all(base).unwrap();
    }
}
