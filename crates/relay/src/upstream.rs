//! Where sessions go: the targets, how one is chosen, and the connect.

use crate::error::Error;
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use sosplice::sys::Kind;
use sosplice::tokio::Registered;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A target as given: a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(String);

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.parse::<SocketAddr>().is_ok_and(|addr| addr.port() > 0) {
            return Ok(Self(text.to_owned()));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("'{text}' has no port: write HOST:PORT"));
        };
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(format!("'{port}' is not a port (1 to 65535)"));
        }
        let named = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if host.is_empty() || !named {
            return Err(format!(
                "'{host}' is neither a name nor an address (IPv6 goes in brackets)"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// As it was given.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Target {
    /// Resolves to its addresses, at least one, in the resolver's order.
    ///
    /// # Errors
    /// [`Error::Resolve`] with the target's name.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        let failed = |source| Error::Resolve { target: self.0.clone(), source };
        let addrs: Vec<_> = self.0.to_socket_addrs().map_err(failed)?.collect();
        if addrs.is_empty() {
            return Err(failed(io::Error::other("the name has no address")));
        }
        Ok(addrs)
    }
}

/// How an upstream is chosen for a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The one with the fewest sessions; ties in turn.
    LeastConn,
    /// Any, evenly.
    Random,
    /// By the client's address: the same client goes to the same upstream.
    Source,
}

const UNSPECIFIED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// One upstream and its count of sessions, which is touched when a session begins and
/// ends and never between.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Of one name; the first that answers serves.
    pub(crate) addrs: Vec<SocketAddr>,
    sessions: AtomicUsize,
    /// When it last refused a datagram: milliseconds since [`BEGAN`], and 1.
    refused: AtomicU64,
}

/// A new session avoids an upstream for so long after a refusal.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// The beginning of the process's own clock.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Upstream {
    pub(crate) fn refused(&self) {
        let now = u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.refused.store(now + 1, Ordering::Relaxed);
    }

    pub(crate) fn has_just_refused(&self) -> bool {
        match self.refused.load(Ordering::Relaxed) {
            0 => false,
            when => BEGAN.elapsed() < Duration::from_millis(when - 1) + REFUSED_PAUSE,
        }
    }
}

/// All upstreams of a relay, shared by its workers.
#[derive(Debug)]
pub(crate) struct Pool {
    upstreams: Vec<Upstream>,
    balance: Balance,
    turn: AtomicUsize,
}

impl Pool {
    pub(crate) fn new(upstreams: Vec<Vec<SocketAddr>>, balance: Balance) -> Self {
        let upstreams = upstreams
            .into_iter()
            .map(|addrs| Upstream {
                addrs,
                sessions: AtomicUsize::new(0),
                refused: AtomicU64::new(0),
            })
            .collect();
        Self { upstreams, balance, turn: AtomicUsize::new(0) }
    }

    /// A socket for the upstream that is tried first, as far as that is known.
    ///
    /// # Errors
    /// As [`Unconnected::new`].
    pub(crate) fn socket(&self) -> io::Result<Unconnected> {
        let usual = self.upstreams.iter().flat_map(|upstream| upstream.addrs.first()).next();
        Unconnected::new(usual.copied().unwrap_or(UNSPECIFIED))
    }

    /// The upstreams to try for a client, the chosen one first, then the others in
    /// their order.
    pub(crate) fn candidates(&self, client: IpAddr) -> impl Iterator<Item = &Upstream> {
        let first = self.choose(client);
        let count = self.upstreams.len();
        (0..count).filter_map(move |i| self.upstreams.get((first + i) % count))
    }

    fn choose(&self, client: IpAddr) -> usize {
        let count = self.upstreams.len();
        if count < 2 {
            return 0;
        }
        let turn = || self.turn.fetch_add(1, Ordering::Relaxed);
        match self.balance {
            Balance::RoundRobin => turn() % count,
            Balance::LeastConn => {
                let start = turn();
                (0..count)
                    .map(|i| (start + i) % count)
                    .min_by_key(|&i| self.upstreams[i].sessions.load(Ordering::Relaxed))
                    .unwrap_or(0)
            }
            Balance::Random => {
                // A counter through a mixing function: even, and no state but the turn.
                let mut x = turn() as u64;
                x = (x ^ (x >> 30))
                    .wrapping_add(0x9e37_79b9_7f4a_7c15)
                    .wrapping_mul(0xbf58_476d_1ce4_e5b9);
                x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((x ^ (x >> 31)) % count as u64) as usize
            }
            Balance::Source => {
                let mut hasher = DefaultHasher::new();
                client.hash(&mut hasher);
                (hasher.finish() % count as u64) as usize
            }
        }
    }
}

/// A session's place at an upstream: counted while it lives.
pub(crate) struct Place<'p>(&'p Upstream);

impl<'p> Place<'p> {
    pub(crate) fn take(upstream: &'p Upstream) -> Self {
        upstream.sessions.fetch_add(1, Ordering::Relaxed);
        Self(upstream)
    }

    pub(crate) fn upstream(&self) -> &'p Upstream {
        self.0
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket that is to be connected. Each worker has one before it accepts a client, so
/// that no client is accepted with the last descriptor and then turned away.
#[derive(Debug)]
pub(crate) struct Unconnected {
    fd: OwnedFd,
    family: AddressFamily,
}

impl Unconnected {
    /// Of the address's family.
    ///
    /// # Errors
    /// What socket(2) answers: EMFILE or ENFILE where descriptors have run out.
    pub(crate) fn new(addr: SocketAddr) -> io::Result<Self> {
        let family = family(addr);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Self { fd: rustix::net::socket_with(family, SocketType::STREAM, flags, None)?, family })
    }

    /// Connects without blocking.
    ///
    /// # Errors
    /// What connect(2) answers, at once or later (SO_ERROR).
    pub(crate) async fn connect(
        self,
        addr: SocketAddr,
        congestion: Option<&Congestion>,
    ) -> io::Result<Registered> {
        let Self { fd, .. } = self.of(addr)?;
        set_options(&fd, congestion)?;
        match rustix::net::connect(&fd, &addr) {
            Ok(()) => return Registered::with_kind(fd, Kind::Tcp),
            Err(rustix::io::Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Registered only now: epoll reports a socket that was never connected as hung up.
        let stream = Registered::with_kind(fd, Kind::Tcp)?;
        stream.writable().await?;
        sockopt::socket_error(&stream)??;
        Ok(stream)
    }

    /// Itself, or another in its place where the family is not the address's.
    fn of(self, addr: SocketAddr) -> io::Result<Self> {
        if self.family == family(addr) {
            return Ok(self);
        }
        // First closed, so that its descriptor is there to be had.
        drop(self);
        Self::new(addr)
    }
}

/// A congestion control, by the kernel's name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Congestion(pub String);

impl Congestion {
    /// Whether this kernel has it and this user may choose it.
    ///
    /// # Errors
    /// [`Error::Congestion`] with what could be chosen instead.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let set = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_tcp_congestion(self.0.as_bytes())
        };
        set().map_err(|source| Error::Congestion {
            name: self.0.clone(),
            allowed: std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
                .map_or_else(|_| "unknown".to_owned(), |names| names.trim().to_owned()),
            source,
        })
    }
}

/// What every TCP socket of a session has.
pub(crate) fn set_options<Fd: AsFd>(
    socket: &Fd,
    congestion: Option<&Congestion>,
) -> io::Result<()> {
    let socket = SockRef::from(socket);
    // What came in one piece is not held back for the next.
    socket.set_tcp_nodelay(true)?;
    // A peer that vanished is found in the end, and its session with it.
    socket.set_keepalive(true)?;
    if let Some(Congestion(name)) = congestion {
        socket.set_tcp_congestion(name.as_bytes())?;
    }
    Ok(())
}

pub(crate) fn family(addr: SocketAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}
