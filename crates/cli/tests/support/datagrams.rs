//! The two peers of a relayed session: UDP sockets with a watchdog, and datagrams whose
//! bytes say which they are.
//!
//! UDP on loopback loses nothing as long as no socket buffer overflows. A small datagram
//! counts about 768 bytes there and a buffer has 200 KB at least, so bursts of more than
//! [`BURST`] are paced by their receiver.

use super::pattern::datagram;
use super::{LOOK_AGAIN, Relay, WATCHDOG};
use socket2::{Domain, SockRef, Socket, Type};
use sosplice::datagram::{Ability, Batch, Destination, Plan, Position};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Small datagrams that fit any socket buffer.
pub const BURST: usize = 200;

pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The longest datagram over IPv4.
pub const LONGEST: usize = 65_507;

/// `sosplice relay --udp 127.0.0.1:0 TARGETS` on one worker, so that orders and counts
/// are exact.
#[track_caller]
pub fn relay_to(targets: &[SocketAddr], flags: &[&str]) -> Relay {
    let targets: Vec<_> = targets.iter().map(SocketAddr::to_string).collect();
    let mut args = vec!["--udp", "127.0.0.1:0", "--workers=1"];
    args.extend(targets.iter().map(String::as_str));
    args.extend(flags);
    Relay::start(&args)
}

/// A socket on any port of an address, with as much room as it may have.
#[track_caller]
pub fn socket_on(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(WATCHDOG)).unwrap();
    SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    socket
}

/// An upstream on 127.0.0.1.
pub fn upstream() -> UdpSocket {
    socket_on(V4)
}

pub fn addr(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

/// As the relay's log calls a client.
pub fn name(client: &UdpSocket) -> String {
    addr(client).to_string()
}

/// The cause and the client of the next session that ends.
#[track_caller]
pub fn next_end(relay: &Relay) -> (String, String) {
    let session = relay.next_session();
    (session.cause, session.client)
}

/// A new client, which takes datagrams from `to` alone.
#[track_caller]
pub fn client(to: SocketAddr) -> UdpSocket {
    let socket = socket_on(if to.is_ipv4() { V4 } else { V6 });
    socket.connect(to).unwrap();
    socket
}

/// Whether this machine has IPv6 on loopback.
pub fn has_ipv6() -> bool {
    UdpSocket::bind((V6, 0)).is_ok()
}

/// Sends the datagram of that number on a connected socket.
#[track_caller]
pub fn send(from: &UdpSocket, number: u64, len: usize) {
    assert_eq!(from.send(datagram(number, len)).unwrap(), len);
}

/// The same on one that is not connected.
#[track_caller]
pub fn send_to(from: &UdpSocket, to: SocketAddr, number: u64, len: usize) {
    assert_eq!(from.send_to(datagram(number, len), to).unwrap(), len);
}

/// Receives exactly the datagram of that number, and tells whom it came from.
#[track_caller]
pub fn expect(at: &UdpSocket, number: u64, len: usize) -> SocketAddr {
    // One byte more than any datagram has: what is too long is seen, not cut.
    let mut buffer = vec![0; 65_536];
    let (count, from) = match at.recv_from(&mut buffer) {
        Ok(got) => got,
        Err(error) => panic!("watchdog: no datagram {number} of {len} bytes: {error}"),
    };
    assert_eq!(count, len, "the length of datagram {number}");
    assert!(buffer[..count] == *datagram(number, len), "datagram {number} has other bytes");
    from
}

/// One datagram up and one down, which are the first that both ends see: the session's
/// address as the upstream knows it.
#[track_caller]
pub fn join(client: &UdpSocket, upstream: &UdpSocket, number: u64) -> SocketAddr {
    send(client, number, 100);
    let session = expect(upstream, number, 100);
    send_to(upstream, session, number + 1, 100);
    expect(client, number + 1, 100);
    session
}

/// Nothing waits to be received, and no error.
pub fn is_quiet(socket: &UdpSocket) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut fds, Some(&rustix::time::Timespec::default())).unwrap() == 0
}

/// Sends datagrams of the numbers from `first` on, all of `len` bytes, as one message
/// that the kernel cuts (UDP_SEGMENT); `to` is for a socket that is not connected.
#[track_caller]
pub fn send_joined(
    from: &UdpSocket,
    to: Option<SocketAddr>,
    (first, count): (u64, usize),
    len: usize,
) {
    // The library makes such messages of what has been received.
    let sink = socket_on(V4);
    let source = client(addr(&sink));
    for number in (first..).take(count) {
        send(&source, number, len);
    }
    let mut batch = Batch::new();
    sosplice::sys::receive(&sink, &mut batch, count, false).unwrap();
    let mut plan = Plan::default();
    plan.fill(batch.messages(), Position::default(), Ability::ALL);
    let to = to.map(|addr| Destination { addr, from: None });
    assert_eq!(plan.send(from, &batch, to.as_ref()).unwrap(), 1, "one message");
    let carried = plan.carried(1);
    assert_eq!((carried.gso, carried.datagrams), ((count * len) as u64, count as u64));
}

/// An address where nobody takes datagrams: each is answered by ICMP, until it is
/// [revived](Self::revive). The port stays its own: a UDP socket that is connected takes
/// from its peer alone, and for all others there is none.
pub struct Dead(UdpSocket);

impl Dead {
    #[track_caller]
    pub fn new(ip: IpAddr) -> Self {
        let bind = |port| {
            let to = SocketAddr::new(ip, port);
            let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&to.into()).unwrap();
            UdpSocket::from(socket)
        };
        // A port that was bound by its number outlives the connection.
        let chosen = bind(0);
        let socket = bind(addr(&chosen).port());
        socket.set_read_timeout(Some(WATCHDOG)).unwrap();
        socket.connect((ip, 1)).unwrap();
        Self(socket)
    }

    pub fn addr(&self) -> SocketAddr {
        addr(&self.0)
    }

    #[track_caller]
    pub fn revive(self) -> UdpSocket {
        let before = self.addr();
        rustix::net::connect_unspec(&self.0).unwrap();
        assert_eq!(addr(&self.0).port(), before.port());
        self.0
    }
}

/// An upstream that answers every datagram with the same bytes, inverted.
pub struct Echo {
    pub addr: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    #[track_caller]
    pub fn start(ip: IpAddr) -> Self {
        let socket = socket_on(ip);
        let stopped = Arc::new(AtomicBool::new(false));
        let (echo, stop) = (addr(&socket), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            loop {
                let got = socket.recv_from(&mut buffer);
                if stop.load(Ordering::Acquire) {
                    return;
                }
                // The watchdog of an idle socket, or a session that is gone.
                let Ok((count, from)) = got else { continue };
                invert(&mut buffer[..count]);
                let _ = socket.send_to(&buffer[..count], from);
            }
        });
        Self { addr: echo, stopped, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let wake = UdpSocket::bind((self.addr.ip(), 0)).and_then(|s| s.send_to(&[], self.addr));
        if let (Ok(_), Some(thread)) = (wake, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn invert(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
}

/// Receives exactly what an [`Echo`] answers to the datagram of that number.
#[track_caller]
pub fn expect_echo(at: &UdpSocket, number: u64, len: usize) {
    let mut buffer = vec![0; 65_536];
    let count = match at.recv(&mut buffer) {
        Ok(count) => count,
        Err(error) => panic!("watchdog: no answer to {number} of {len} bytes: {error}"),
    };
    invert(&mut buffer[..count]);
    assert_eq!(count, len, "the length of the answer to {number}");
    assert!(buffer[..count] == *datagram(number, len), "the answer to {number} has other bytes");
}

/// Sends on a client's socket every now and then while it lives, so that its session is
/// never silent.
pub struct Chatter {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Chatter {
    #[track_caller]
    pub fn start(client: &UdpSocket, number: u64, len: usize) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let (stop, client) = (Arc::clone(&stopped), client.try_clone().unwrap());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                // Refused by the host where the relay has gone.
                let _ = client.send(datagram(number, len));
                std::thread::sleep(LOOK_AGAIN);
            }
        });
        Self { stopped, thread: Some(thread) }
    }
}

impl Drop for Chatter {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Many clients, one after another, of which the last `keep` stay open: a port is not
/// used again while a session of its first user may live.
pub struct Crowd {
    to: SocketAddr,
    keep: usize,
    open: VecDeque<UdpSocket>,
}

impl Crowd {
    pub fn new(to: SocketAddr, keep: usize) -> Self {
        Self { to, keep, open: VecDeque::new() }
    }

    #[track_caller]
    pub fn next(&mut self) -> &UdpSocket {
        if self.open.len() == self.keep {
            self.open.pop_front();
        }
        self.open.push_back(client(self.to));
        self.open.back().unwrap()
    }
}
