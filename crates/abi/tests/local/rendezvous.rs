//! The broker that the cases' processes meet at, and what its status says.

use libc::c_int;
use sosplice_local::broker::status::{PairStatus, Status};
use sosplice_local::broker::{Answer, Ask, Broker, Options, Scope, ask};
use sosplice_local::settings::{Settings, VARIABLE};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A broker, in a thread that ends with this process.
pub struct Running {
    dir: PathBuf,
}

pub fn start() -> Running {
    let dir = std::env::temp_dir().join(format!("sosplice-local-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    let broker = Broker::bind(&dir, Options::new(Scope::Namespace)).unwrap();
    std::thread::spawn(move || broker.run().unwrap());
    Running { dir }
}

impl Running {
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The status of the broker that this process was told of.
fn status() -> Status {
    let settings = std::env::var_os(VARIABLE).unwrap();
    let settings = Settings::from_env(settings.as_bytes()).unwrap();
    match ask(&settings.dir, &Ask::Status) {
        Ok(Answer::Status(status)) => *status,
        other => panic!("no status: {other:?}"),
    }
}

/// Whether the connection is paired and bytes have gone through the ring both ways.
pub fn both_ways(fd: c_int) -> bool {
    let ends = [
        address(fd, |fd| rustix::net::getsockname(fd)),
        address(fd, |fd| rustix::net::getpeername(fd)?.ok_or(rustix::io::Errno::NOTCONN)),
    ];
    let is_this = |pair: &PairStatus| pair.ends.iter().all(|end| ends.contains(&end.address));
    let status = status();
    let mut pairs = status.pairs.iter().filter(|pair| is_this(pair));
    pairs.any(|pair| pair.directions.iter().all(|traffic| traffic.bytes > 0))
}

type NameOf = fn(BorrowedFd<'_>) -> rustix::io::Result<rustix::net::SocketAddrAny>;

/// As the broker writes it: a mapped address is the one that it maps.
fn address(fd: c_int, name_of: NameOf) -> SocketAddr {
    // SAFETY: borrowed for one call; the case keeps it open.
    let name = name_of(unsafe { BorrowedFd::borrow_raw(fd) }).unwrap();
    let address = SocketAddr::try_from(name).unwrap();
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What the broker says, for whoever reads the failure.
pub fn why() -> String {
    let status = status();
    format!("pairs {:?}, on TCP {:?}, members {:?}", status.pairs, status.on_tcp, status.members)
}
