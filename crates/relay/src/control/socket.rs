//! The socket's file: made so that nobody else can ever open it, and no other's is taken away.

use super::serve;
use crate::service::State;
use rustix::fs::{CWD, Mode, RenameFlags};
use socket2::{Domain, SockAddr, Type};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::AbortHandle;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Why there is no control socket.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error(
        "the control socket {path} belongs to a process that runs: stop it, or give this one another path"
    )]
    Taken {
        /// The configured path.
        path: PathBuf,
    },
    /// Something is there that is no socket.
    #[error("{path} is there and is no socket: remove it, or give `control` another path")]
    NoSocket {
        /// The configured path.
        path: PathBuf,
    },
    /// The file cannot be made.
    #[error(
        "cannot make the control socket {path}: {source} (its directory must be there, and writable)"
    )]
    Make {
        /// The configured path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A listening socket and its file. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: Option<UnixListener>,
    _file: File,
}

impl Socket {
    /// Listens at `path`, in the place of the socket of a process that is gone.
    ///
    /// It is made under another name and then renamed to a free one, so that it has its mode and
    /// listens from the first moment that it is seen, and of two that start at once one is told.
    ///
    /// # Errors
    /// As [`BindError`] says.
    pub(crate) fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Make { path: path.to_owned(), source };
        let new = beside(path);
        let listener = listen(&new).map_err(failed)?;
        let made = File::at(new).map_err(failed)?;
        clear(path)?;
        rustix::fs::renameat_with(CWD, &made.path, CWD, path, RenameFlags::NOREPLACE).map_err(
            |errno| match errno {
                rustix::io::Errno::EXIST => BindError::Taken { path: path.to_owned() },
                errno => failed(errno.into()),
            },
        )?;
        let file = File { path: path.to_owned(), ..made };
        Ok(Self { listener: Some(listener), _file: file })
    }

    /// Serves clients on the runtime of the caller until the result is dropped.
    pub(crate) fn serve(mut self, state: Arc<State>) -> Served {
        let listener = self.listener.take().map(tokio::net::UnixListener::from_std);
        let task = match listener {
            Some(Ok(listener)) => Some(tokio::spawn(serve::serve(listener, state)).abort_handle()),
            Some(Err(error)) => {
                tracing::error!(%error, "the control socket cannot be served");
                None
            }
            None => None,
        };
        Served { task, _socket: self }
    }
}

/// A socket that is served.
pub(crate) struct Served {
    task: Option<AbortHandle>,
    _socket: Socket,
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A socket's file, known by what it is and not only by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl File {
    fn at(path: PathBuf) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(&path)?;
        Ok(Self { path, device: found.dev(), inode: found.ino() })
    }
}

impl Drop for File {
    /// Unless it is another's by now.
    fn drop(&mut self) {
        let now = std::fs::symlink_metadata(&self.path);
        if now.is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A name in the same directory that nobody else uses.
fn beside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{:08x}", fastrand::u32(..)))
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    // What bind(2) makes has the mode of the socket, less the umask.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Takes away the socket of a process that is gone.
///
/// It is moved aside before it is looked at for the last time: another that starts at this moment
/// may have put its own there since the first look, and that one is put back.
fn clear(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Make { path: path.to_owned(), source };
    let taken = || BindError::Taken { path: path.to_owned() };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NoSocket { path: path.to_owned() });
        }
        Ok(_) if is_alive(path) => return Err(taken()),
        Ok(_) => {}
    }
    let aside = beside(path);
    match std::fs::rename(path, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    }
    if is_alive(&aside) {
        let back = rustix::fs::renameat_with(CWD, &aside, CWD, path, RenameFlags::NOREPLACE);
        back.map_err(|errno| failed(errno.into()))?;
        return Err(taken());
    }
    std::fs::remove_file(&aside).map_err(failed)
}

/// Whether somebody listens. Only a refusal says that nobody does; a full backlog does not.
fn is_alive(path: &Path) -> bool {
    let connect = || -> io::Result<()> {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    !connect().is_err_and(|error| {
        matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let id = std::process::id();
            let dir = std::env::temp_dir().join(format!("sosplice-control-{name}-{id}"));
            std::fs::create_dir(&dir).expect("a directory");
            Self(dir)
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.0).expect("a directory");
            entries.map(|e| e.expect("a file").file_name().to_string_lossy().into()).collect()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn nobody_else_may_open_it_and_nothing_is_left_of_it() {
        let dir = Dir::new("mode");
        let path = dir.0.join("control");
        let socket = Socket::bind(&path).expect("a socket");
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(dir.names(), ["control"], "nothing beside it");
        drop(socket);
        assert!(dir.names().is_empty());
    }

    #[test]
    fn that_of_a_dead_process_is_replaced() {
        let dir = Dir::new("dead");
        let path = dir.0.join("control");
        drop(UnixListener::bind(&path).expect("a socket"));
        let socket = Socket::bind(&path).expect("in its place");
        UnixStream::connect(&path).expect("it listens");
        assert_eq!(dir.names(), ["control"]);
        drop(socket);
    }

    #[test]
    fn that_of_a_living_one_is_left_alone() {
        let dir = Dir::new("living");
        let path = dir.0.join("control");
        let first = Socket::bind(&path).expect("a socket");
        let refused = Socket::bind(&path).expect_err("taken");
        assert!(matches!(refused, BindError::Taken { .. }), "{refused}");
        UnixStream::connect(&path).expect("the first one still listens");
        assert_eq!(dir.names(), ["control"]);
        drop(first);
    }

    /// Its backlog is full: it does not answer, and is not dead.
    #[test]
    fn that_of_a_busy_one_is_left_alone() {
        let dir = Dir::new("busy");
        let path = dir.0.join("control");
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        socket.bind(&SockAddr::unix(&path).expect("a path")).expect("free");
        socket.listen(0).expect("it listens");
        let _waiting = UnixStream::connect(&path).expect("room for one");
        let refused = Socket::bind(&path).expect_err("taken");
        assert!(matches!(refused, BindError::Taken { .. }), "{refused}");
    }

    #[test]
    fn another_file_is_left_alone() {
        let dir = Dir::new("file");
        let path = dir.0.join("control");
        std::fs::write(&path, "precious").expect("a file");
        let refused = Socket::bind(&path).expect_err("no socket");
        assert!(matches!(refused, BindError::NoSocket { .. }), "{refused}");
        assert_eq!(std::fs::read(&path).expect("a file"), b"precious");
        let link = dir.0.join("link");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        assert!(matches!(Socket::bind(&link), Err(BindError::NoSocket { .. })));
        let mut names = dir.names();
        names.sort();
        assert_eq!(names, ["control", "link"], "nothing beside them");
        let nowhere = Socket::bind(&dir.0.join("no/control")).expect_err("no directory");
        assert!(nowhere.to_string().contains("its directory must be there"), "{nowhere}");
    }

    #[test]
    fn the_file_of_a_successor_stays() {
        let dir = Dir::new("successor");
        let path = dir.0.join("control");
        let first = Socket::bind(&path).expect("a socket");
        std::fs::remove_file(&path).expect("removed by hand");
        let second = Socket::bind(&path).expect("another");
        drop(first);
        UnixStream::connect(&path).expect("that of the second");
        drop(second);
        assert!(dir.names().is_empty());
    }
}
