//! The UDP relay that everybody writes first, to compare with.
//!
//! One thread, one epoll, one receive call and one send call a datagram. A
//! session is the client's address and a connected socket of its own towards the
//! target, so that an answer finds its way back. Written with care, so that what
//! is compared is the way of moving datagrams: sockets are drained until they
//! would block, nothing is allocated for a datagram, buffers are large. What it
//! lacks against a product: sessions never end, and nothing is told.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::net::sockopt;

use super::Error;

/// Marks the listening socket among the epoll events.
const LISTENER: u64 = u64::MAX;

/// Datagrams of one socket before the next one has its turn.
const TURN: usize = 64;

/// What is asked for as receive buffers; the kernel caps it.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Arguments of the hidden `bench plain`.
#[derive(clap::Args)]
pub struct Args {
    listen: SocketAddrV4,
    target: SocketAddrV4,
}

/// Runs the hidden `bench plain` until it is killed.
pub fn run(args: &Args) -> Result<(), Error> {
    Plain::new(args).and_then(Plain::run).map_err(Error::io("plain"))
}

struct Session {
    client: SocketAddr,
    upstream: UdpSocket,
}

struct Plain {
    epoll: OwnedFd,
    listener: UdpSocket,
    target: SocketAddrV4,
    sessions: Vec<Session>,
    by_client: HashMap<SocketAddr, usize>,
}

impl Plain {
    fn new(args: &Args) -> io::Result<Plain> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let listener = UdpSocket::bind(args.listen)?;
        listener.set_nonblocking(true)?;
        sockopt::set_socket_recv_buffer_size(&listener, RECEIVE_BUFFER)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let (sessions, by_client) = (Vec::new(), HashMap::new());
        Ok(Plain { epoll, listener, target: args.target, sessions, by_client })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(256);
        let mut datagram = vec![0; 64 << 10];
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(rustix::io::Errno::INTR) => continue,
                done => done?,
            };
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.up(&mut datagram)?,
                    at => self.down(&self.sessions[at as usize], &mut datagram),
                }
            }
        }
    }

    /// From clients to the target.
    fn up(&mut self, datagram: &mut [u8]) -> io::Result<()> {
        for _ in 0..TURN {
            match self.listener.recv_from(datagram) {
                Ok((length, client)) => {
                    let at = match self.by_client.get(&client) {
                        Some(&at) => at,
                        None => self.open(client)?,
                    };
                    // A datagram that is not taken is lost, as datagrams are.
                    let _ = self.sessions[at].upstream.send(&datagram[..length]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The ICMP answer to an earlier reply: that client has gone.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// From the target to one client.
    fn down(&self, session: &Session, datagram: &mut [u8]) {
        for _ in 0..TURN {
            match session.upstream.recv(datagram) {
                Ok(length) => {
                    let _ = self.listener.send_to(&datagram[..length], session.client);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The target refused an earlier datagram.
                Err(_) => {}
            }
        }
    }

    fn open(&mut self, client: SocketAddr) -> io::Result<usize> {
        let upstream = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        upstream.connect(self.target)?;
        upstream.set_nonblocking(true)?;
        let at = self.sessions.len();
        epoll::add(&self.epoll, &upstream, EventData::new_u64(at as u64), EventFlags::IN)?;
        self.sessions.push(Session { client, upstream });
        self.by_client.insert(client, at);
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_answer_goes_to_the_client_that_asked() -> io::Result<()> {
        let watched = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(socket)
        };
        let target = watched()?;
        let SocketAddr::V4(at) = target.local_addr()? else { unreachable!("bound to IPv4") };
        let listen = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let plain = Plain::new(&Args { listen, target: at })?;
        let relay = plain.listener.local_addr()?;
        // It ends with the process.
        std::thread::spawn(move || plain.run());
        let clients = [watched()?, watched()?];
        let mut datagram = [0; 16];
        for question in ["first", "second"] {
            for (client, name) in clients.iter().zip(["a", "b"]) {
                client.send_to(format!("{name} {question}").as_bytes(), relay)?;
            }
            for _ in &clients {
                let (length, session) = target.recv_from(&mut datagram)?;
                target.send_to(&datagram[..length], session)?;
            }
            for (client, name) in clients.iter().zip(["a", "b"]) {
                let (length, from) = client.recv_from(&mut datagram)?;
                assert_eq!(&datagram[..length], format!("{name} {question}").as_bytes());
                assert_eq!(from, relay);
            }
        }
        Ok(())
    }
}
