//! The broker that the cases' processes meet at, and what its status says.

use crate::calls::*;
use libc::c_int;
use sosplice_local::broker::status::{PairStatus, Status};
use sosplice_local::broker::{Answer, Ask, Broker, Options, Scope, ask};
use sosplice_local::settings::{Settings, VARIABLE};
use std::net::{IpAddr, SocketAddr};
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
    let ends = [address(fd, libc::getsockname), address(fd, libc::getpeername)];
    let is_this = |pair: &PairStatus| pair.ends.iter().all(|end| ends.contains(&end.address));
    let status = status();
    let mut pairs = status.pairs.iter().filter(|pair| is_this(pair));
    pairs.any(|pair| pair.directions.iter().all(|traffic| traffic.bytes > 0))
}

type NameOf = unsafe extern "C" fn(c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> c_int;

/// As the broker writes it: a mapped address is the one that it maps.
fn address(fd: c_int, name_of: NameOf) -> SocketAddr {
    // SAFETY: zeroes are a valid address; it and its length live through the call. A v4
    // address is shorter, and what it is follows from the family.
    unsafe {
        let mut v6: libc::sockaddr_in6 = std::mem::zeroed();
        let mut len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        check(name_of(fd, (&raw mut v6).cast(), &raw mut len) as isize).unwrap();
        let port = u16::from_be(v6.sin6_port);
        if c_int::from(v6.sin6_family) == libc::AF_INET6 {
            SocketAddr::new(IpAddr::from(v6.sin6_addr.s6_addr).to_canonical(), port)
        } else {
            let v4 = (&raw const v6).cast::<libc::sockaddr_in>().read();
            SocketAddr::new(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()), port)
        }
    }
}

/// What the broker says, for whoever reads the failure.
pub fn why() -> String {
    let status = status();
    format!("pairs {:?}, on TCP {:?}, members {:?}", status.pairs, status.on_tcp, status.members)
}
