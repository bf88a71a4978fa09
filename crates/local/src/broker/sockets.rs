//! Whose socket it is: what the kernel says about a connection (sock_diag(7)), and about the
//! process at the other end of a unix socket.

use super::claim::{Claim, User};
use super::table::Owner;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::cell::Cell;
use std::net::IpAddr;

/// A process, as the kernel knows it at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// 0 for one in a namespace that this process does not see.
    pub pid: u32,
    /// None for a user without a number here.
    pub user: User,
}

/// What the kernel shows of users that have no number in this namespace.
const OVERFLOW_UID: u32 = 65534;

/// Tells users apart.
#[derive(Debug)]
pub struct Users {
    /// Every user has its number here, 65534 too.
    whole: bool,
}

impl Users {
    /// As this process sees them.
    pub fn new() -> Self {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self { whole: map.split_whitespace().eq(["0", "0", "4294967295"]) }
    }

    fn user(&self, uid: u32) -> User {
        (self.whole || uid != OVERFLOW_UID).then_some(uid)
    }

    /// Who connected this socket.
    pub fn process(&self, socket: impl AsFd) -> Result<Process, Errno> {
        let mut got = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut len = size_of_val(&got) as libc::socklen_t;
        // The library's own type has no process 0, which is what a foreign one is shown as.
        // SAFETY: the kernel writes at most `len` bytes to `got`, of plain numbers.
        let done = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut got).cast(),
                &raw mut len,
            )
        };
        if done < 0 {
            return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
        }
        Ok(Process { pid: u32::try_from(got.pid).unwrap_or(0), user: self.user(got.uid) })
    }
}

const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const REQUEST_FLAG: u16 = 1;
const REQUEST: usize = 72;
const TCP: u8 = 6;
/// Established, closing after its own FIN (two), closed by the other side. In the other states
/// the kernel shows no socket of a program, or one that listens.
const CONNECTED: [u8; 4] = [1, 4, 5, 8];
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Asks the kernel about sockets of one network namespace, as root.
#[derive(Debug)]
pub struct Diag {
    socket: OwnedFd,
    netns: u64,
    /// Of the last question.
    number: Cell<u32>,
}

impl Diag {
    /// None for whom the kernel's word is not proof enough: the answer must come from the
    /// claimed namespace, and the broker be trusted by every user.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let netns = rustix::fs::stat("/proc/self/ns/net").ok()?.st_ino;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::DGRAM;
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, Some(SOCK_DIAG)).ok()?;
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0)).ok()?;
        Some(Self { socket, netns, number: Cell::new(0) })
    }

    /// Who owns the socket that the claim names.
    pub fn owner(&self, claim: &Claim) -> Owner {
        if claim.netns != self.netns {
            return Owner::Unknown;
        }
        self.ask(claim).unwrap_or(Owner::Unknown)
    }

    fn ask(&self, claim: &Claim) -> Result<Owner, Errno> {
        self.number.set(self.number.get().wrapping_add(1));
        let number = self.number.get();
        rustix::net::send(&self.socket, &request(claim, number), SendFlags::DONTWAIT)?;
        loop {
            // It is there when the send returns; before it may be one that nobody took.
            let mut answer = [0; 512];
            let (_, len) = rustix::net::recv(&self.socket, &mut answer, RecvFlags::DONTWAIT)?;
            let answer = Answer(&answer[..len.min(512)]);
            if answer.word(8) == Some(number) {
                return Ok(answer.owner(claim));
            }
        }
    }
}

/// A struct nlmsghdr and a struct inet_diag_req_v2 for exactly one connection.
fn request(claim: &Claim, number: u32) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(0, &(REQUEST as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &REQUEST_FLAG.to_ne_bytes());
    put(8, &number.to_ne_bytes());
    let family = if claim.local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    put(16, &[family as u8, TCP]);
    put(20, &u32::MAX.to_ne_bytes());
    put(24, &identity(claim));
    put(64, &NO_COOKIE);
    bytes
}

/// Ports and addresses of a struct inet_diag_sockid.
fn identity(claim: &Claim) -> [u8; 36] {
    let mut bytes = [0; 36];
    for (address, port, at) in [(claim.local, 0, 4), (claim.peer, 2, 20)] {
        bytes[port..port + 2].copy_from_slice(&address.port().to_be_bytes());
        match address.ip() {
            IpAddr::V4(ip) => bytes[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    bytes
}

/// A struct nlmsghdr, and behind it a struct inet_diag_msg or an error.
struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.0.get(at..at + 4)?.try_into().ok()?))
    }

    fn kind(&self) -> Option<u16> {
        Some(u16::from_ne_bytes(self.0.get(4..6)?.try_into().ok()?))
    }

    /// Where nothing is connected so, the kernel looks for a listener, which is not what was
    /// asked for.
    fn owner(&self, claim: &Claim) -> Owner {
        match self.kind() {
            Some(BY_FAMILY) => {}
            Some(ERROR) if self.word(16) == Some((-libc::ENOENT) as u32) => return Owner::Nobody,
            _ => return Owner::Unknown,
        }
        let connected = self.0.get(17).is_some_and(|state| CONNECTED.contains(state));
        if !connected || self.0.get(20..24) != Some(&identity(claim)[..4]) {
            return Owner::Nobody;
        }
        self.word(80).map_or(Owner::Unknown, Owner::User)
    }
}

/// The name of a process, for people.
pub fn command(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.trim_end().replace(char::is_control, "?");
    if name.is_empty() { "?".to_owned() } else { name }
}

/// The text of its control groups.
pub fn cgroups(pid: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()
}
