//! Sockets and bytes for the tests.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod udp;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// A byte stream in which any loss, doubling or swap shows.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// A connected pair of TCP sockets on loopback.
pub fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    for socket in [&near, &far] {
        socket.set_nodelay(true).unwrap();
        // Against a hang: no test waits so long for a byte.
        socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    }
    (near, far)
}

/// Writes all of it on a thread, and then sends FIN.
pub fn send_and_finish(mut to: TcpStream, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        to.write_all(&bytes).unwrap();
        to.shutdown(std::net::Shutdown::Write).unwrap();
    })
}

pub fn read_exactly(from: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

/// Closing this socket sends a reset.
pub fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(socket);
}

/// Open descriptors of this process, by what they are.
pub fn descriptors() -> Vec<String> {
    let dir = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = dir.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let mut links: Vec<_> = links.map(|link| link.display().to_string()).collect();
    links.sort();
    links
}
