//! The broker that the cases' processes meet at, and what its status says.

use libc::c_int;
use sosplice_local::broker::status::{PairStatus, Status};
use sosplice_local::broker::{self, Answer, Ask, Broker, Options, Scope};
use sosplice_local::settings::{Settings, VARIABLE};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A broker, for as long as this process lives.
pub struct Running {
    dir: PathBuf,
}

/// The broker is a thread of this process.
pub fn start() -> Option<Running> {
    let dir = std::env::temp_dir().join(format!("sosplice-local-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&dir).unwrap();
    let broker = Broker::bind(&dir, Options::new(Scope::Namespace)).unwrap();
    std::thread::spawn(move || broker.run().unwrap());
    Some(Running { dir })
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

fn status() -> Option<Status> {
    let text = std::env::var_os(VARIABLE)?;
    let settings = Settings::from_env(text.as_bytes()).ok()?;
    match broker::ask(&settings.dir, &Ask::Status).ok()? {
        Answer::Status(status) => Some(*status),
        _ => None,
    }
}

fn pair_of(fd: c_int) -> Option<PairStatus> {
    let own = local_address(fd)?;
    status()?.pairs.into_iter().find(|pair| pair.ends.iter().any(|end| end.address == own))
}

/// Whether the connection is paired and bytes have gone through the ring both ways.
pub fn both_ways(fd: c_int) -> bool {
    pair_of(fd).is_some_and(|pair| pair.directions.iter().all(|direction| direction.bytes > 0))
}

/// Why connections stayed on TCP, for whoever reads the failure.
pub fn why() -> String {
    match status() {
        Some(status) => format!("{:?}; {:?}", status.on_tcp, status.pairs),
        None => "the broker does not answer".into(),
    }
}

/// The socket's own address, without closing what is not this function's.
fn local_address(fd: c_int) -> Option<SocketAddr> {
    // SAFETY: borrowed for one call; the case keeps it open.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let address: SocketAddr = rustix::net::getsockname(borrowed).ok()?.try_into().ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}
