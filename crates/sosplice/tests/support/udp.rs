//! Datagram sockets for the tests, with numbered datagrams.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Nothing that works takes so long.
pub const WATCHDOG: Duration = Duration::from_secs(20);

pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

pub fn bound(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(WATCHDOG)).unwrap();
    socket
}

pub fn addr(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

/// Two sockets, each connected to the other.
pub fn connected(ip: IpAddr) -> (UdpSocket, UdpSocket) {
    let (a, b) = (bound(ip), bound(ip));
    a.connect(addr(&b)).unwrap();
    b.connect(addr(&a)).unwrap();
    (a, b)
}

/// sender ---> source = drain ---> receiver
pub struct Chain {
    pub sender: UdpSocket,
    pub source: UdpSocket,
    pub drain: UdpSocket,
    pub receiver: UdpSocket,
}

/// The first half over one address family, the second over another.
pub fn chain_over(first: IpAddr, second: IpAddr) -> Chain {
    let (sender, source) = connected(first);
    let (drain, receiver) = connected(second);
    Chain { sender, source, drain, receiver }
}

pub fn chain() -> Chain {
    chain_over(V4, V4)
}

/// A socket connected to a port where nobody is: what it sends is refused (ICMP).
pub fn refused() -> UdpSocket {
    let gone = bound(V4);
    let socket = bound(V4);
    socket.connect(addr(&gone)).unwrap();
    socket
}

/// A datagram of `len` bytes that only the `number`th is.
pub fn datagram(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at * 7 + number * 31 + len) as u8).collect()
}

pub fn datagrams(lens: &[usize]) -> Vec<Vec<u8>> {
    lens.iter().enumerate().map(|(number, &len)| datagram(number, len)).collect()
}

/// Datagrams with their number in front, so that order shows.
pub fn numbered(numbers: std::ops::Range<u32>, len: usize) -> Vec<Vec<u8>> {
    numbers.map(|number| numbered_one(number, len)).collect()
}

pub fn numbered_one(number: u32, len: usize) -> Vec<u8> {
    let mut bytes = datagram(number as usize, len);
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub fn number_of(datagram: &[u8]) -> u32 {
    u32::from_be_bytes(datagram[..4].try_into().unwrap())
}

pub fn send_all(from: &UdpSocket, datagrams: &[Vec<u8>]) {
    for datagram in datagrams {
        assert_eq!(from.send(datagram).unwrap(), datagram.len());
    }
}

/// The next datagram; fails when none comes.
pub fn receive(on: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 70_000];
    let len = on.recv(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

pub fn receive_count(on: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| receive(on)).collect()
}

/// What waits in the queue now.
pub fn waiting(on: &UdpSocket) -> Vec<Vec<u8>> {
    on.set_nonblocking(true).unwrap();
    let mut all = Vec::new();
    let mut bytes = vec![0; 70_000];
    loop {
        match on.recv(&mut bytes) {
            Ok(len) => all.push(bytes[..len].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    on.set_nonblocking(false).unwrap();
    all
}

/// The datagrams of a residue.
pub fn residue(end: &sosplice::End) -> Vec<Vec<u8>> {
    let mut rest = &end.residue[..];
    let cut = |len: &usize| {
        let (datagram, behind) = rest.split_at(*len);
        rest = behind;
        datagram.to_vec()
    };
    let all = end.boundaries.iter().map(cut).collect();
    assert!(rest.is_empty(), "the boundaries are not those of the residue");
    all
}

/// Whether the kernel joins datagrams at this socket (UDP_GRO).
pub fn joins(socket: impl AsFd) -> bool {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and len are live for the call, and len is the size of value.
    let done = unsafe {
        let fd = socket.as_fd().as_raw_fd();
        libc::getsockopt(fd, libc::SOL_UDP, libc::UDP_GRO, (&raw mut value).cast(), &raw mut len)
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
    value != 0
}

pub fn set_joins(socket: &UdpSocket) {
    set(socket, libc::UDP_GRO, 1);
}

/// From now on the kernel cuts what is sent into datagrams of so many bytes, and a receiver
/// that joins gets it whole (UDP_SEGMENT).
pub fn cut_into(socket: &UdpSocket, segment: i32) {
    set(socket, libc::UDP_SEGMENT, segment);
}

fn set(socket: &UdpSocket, option: i32, value: libc::c_int) {
    // SAFETY: the pointer and the length describe `value`, live for the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}
