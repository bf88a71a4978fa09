//! The two peers of a relayed connection: sockets with a watchdog, and how they fail.

use super::pattern::Pattern;
use super::{Descriptors, Relay, WATCHDOG, wait_until};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// A listener whose accept gives up in the end.
pub fn listener() -> TcpListener {
    listener_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

pub fn listener_on(addr: SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(addr).unwrap();
    // accept(2) obeys the time for reading.
    SockRef::from(&listener).set_read_timeout(Some(WATCHDOG)).unwrap();
    listener
}

/// A listener whose connections have receive buffers of `bytes`.
pub fn listener_with_buffer(bytes: usize) -> TcpListener {
    let listener = listener();
    SockRef::from(&listener).set_recv_buffer_size(bytes).unwrap();
    listener
}

pub fn addr(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap()
}

#[track_caller]
pub fn accept(listener: &TcpListener) -> TcpStream {
    match listener.accept() {
        Ok((stream, _)) => watched(stream),
        Err(error) => panic!("no connection reached the upstream: {error}"),
    }
}

/// Whether a connection waits to be accepted.
pub fn someone_waits(listener: &TcpListener) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut fds, Some(&rustix::time::Timespec::default())).unwrap() > 0
}

#[track_caller]
pub fn connect(to: SocketAddr) -> TcpStream {
    watched(TcpStream::connect(to).unwrap())
}

/// A client whose receive buffer has `bytes`; it must be set before the connection is.
#[track_caller]
pub fn connect_with_buffer(to: SocketAddr, bytes: usize) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.connect(&to.into()).unwrap();
    watched(socket.into())
}

/// Both ends of a new connection through the relay: the client's and the upstream's.
#[track_caller]
pub fn join(relay: &Relay, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let client = connect(relay.addr());
    (client, accept(upstream))
}

/// The same, once a byte has gone each way: the relay knows that its upstream is
/// connected, and has made what it makes for a connection.
#[track_caller]
pub fn join_known(relay: &Relay, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let (client, server) = join(relay, upstream);
    Pattern::new(0).write(&client, 1).unwrap();
    Pattern::new(0).expect(&server, 1);
    Pattern::new(0).write(&server, 1).unwrap();
    Pattern::new(0).expect(&client, 1);
    (client, server)
}

/// The relay's descriptors without a connection. Looked at while there are some, so many
/// that each of a few workers has one: what a worker makes once is made then.
#[track_caller]
pub fn descriptors_without_connections(relay: &Relay, upstream: &TcpListener) -> Descriptors {
    const MANY: usize = 24;
    let held: Vec<_> = (0..MANY).map(|_| join_known(relay, upstream)).collect();
    let mut without = relay.descriptors();
    without.sockets -= 2 * MANY;
    drop(held);
    for _ in 0..MANY {
        relay.next_closed();
    }
    relay.wait_for_descriptors(without, 0);
    without
}

fn watched(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    stream.set_write_timeout(Some(WATCHDOG)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends the FIN.
#[track_caller]
pub fn finish(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Closes with a reset instead of a FIN.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// An address that answers no SYN: a listener whose queue is full. It answers again
/// after [`Silent::answer`].
pub struct Silent {
    pub listener: TcpListener,
    /// What fills the queue.
    fillers: Vec<TcpStream>,
}

impl Silent {
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.listen(0).unwrap();
        socket.set_read_timeout(Some(WATCHDOG)).unwrap();
        let listener: TcpListener = socket.into();
        let addr = listener.local_addr().unwrap();
        let mut fillers = Vec::new();
        // A queue of 0 holds one connection; one that does not come through within
        // the time shows that it is full. On loopback a SYN is answered or not at once.
        loop {
            match TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
                Ok(filler) => fillers.push(filler),
                Err(error) if error.kind() == ErrorKind::TimedOut => break,
                Err(error) => panic!("{error}"),
            }
            assert!(fillers.len() < 16, "the queue of 0 does not fill");
        }
        Self { listener, fillers }
    }

    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Waits until somebody's SYN to it is out.
    #[track_caller]
    pub fn wait_for_syn(&self) {
        let port = self.addr().port();
        wait_until("the relay tries to connect", || {
            in_table(|_, remote, state| state == "02" && remote == port)
        });
    }

    /// Empties the queue: the next SYN is answered.
    pub fn answer(&mut self) {
        for filler in self.fillers.drain(..) {
            let expected = filler.local_addr().unwrap();
            let (_, peer) = self.listener.accept().unwrap();
            assert_eq!(peer, expected);
        }
    }
}

/// A port of loopback where nobody listens: bound, so that nobody else can, and refused.
pub struct Refusing(#[allow(dead_code, reason = "holds the port")] Socket, pub SocketAddr);

impl Refusing {
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        Self(socket, addr)
    }
}

/// Waits until nobody listens there any more, and sees a connection refused. Trying again
/// and again to connect instead would leave a connection behind that came in time.
#[track_caller]
pub fn wait_until_refused(addr: SocketAddr) {
    wait_until("nobody listens any more", || {
        !in_table(|local, _, state| state == "0A" && local == addr.port())
    });
    let error = TcpStream::connect(addr).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

/// Whether the kernel has a TCP socket over IPv4 with such a local port, remote port and
/// state (02 is SYN-SENT, 0A is LISTEN).
fn in_table(wanted: impl Fn(u16, u16, &str) -> bool) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).any(|line| {
        let row: Vec<&str> = line.split_whitespace().collect();
        let port =
            |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
        wanted(port(row[1]), port(row[2]), row[3])
    })
}

/// States of a connection in /proc/net/tcp.
pub const ESTABLISHED: &str = "01";
pub const LISTEN: &str = "0A";

/// The queues of the IPv4 socket in that state on a local port: bytes sent and not
/// acknowledged, bytes arrived and not read (/proc/net/tcp). Of a listener the second is
/// the connections that wait to be accepted.
pub fn queues(local_port: u16, state: &str) -> Option<(u64, u64)> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{local_port:04X}");
    let wanted = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|address| address.ends_with(&local))
            && fields.nth(1).is_some_and(|found| found == state)
    };
    let line = table.lines().find(wanted)?;
    let (sent, arrived) = line.split_whitespace().nth(4)?.split_once(':')?;
    let number = |hex| u64::from_str_radix(hex, 16).ok();
    Some((number(sent)?, number(arrived)?))
}
