//! The listeners that a plan asks for and that are not there yet: bound all or none, and none to an
//! upstream that would come back to it.

use crate::error::Error;
use crate::graph::{Graph, ListenerKey};
use crate::upstream::Upstream;
use crate::{listener, udp};
use socket2::Socket;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// Listeners that have just been bound.
#[derive(Default)]
pub(super) struct Sockets {
    pub(super) bound: HashMap<ListenerKey, SocketAddr>,
    /// Those of each worker.
    pub(super) streams: Vec<Vec<(ListenerKey, Socket)>>,
    pub(super) datagrams: Vec<(ListenerKey, Vec<Socket>)>,
}

enum Sort {
    Stream,
    Datagram,
}

impl Sockets {
    /// Sockets for the listeners of `graph` that are not `there`, one for each worker; all or none.
    ///
    /// # Errors
    /// An address that cannot be had, or one that an upstream of its relay has.
    pub(super) fn bind(
        graph: &Graph,
        workers: usize,
        there: &HashMap<ListenerKey, SocketAddr>,
    ) -> Result<Self, Error> {
        let mut sockets = Self::default();
        for (key, binding) in graph.stream_listeners() {
            let congestion = binding.relay.plan.congestion.as_ref();
            if let Some(congestion) = congestion {
                congestion.check()?;
            }
            if there.contains_key(&key) {
                continue;
            }
            let group = listener::bind(key.address, workers, congestion)?;
            sockets.add(key, group, Sort::Stream);
        }
        for (key, binding) in graph.datagram_listeners() {
            if there.contains_key(&key) {
                continue;
            }
            let group = udp::bind(key.address, binding.relay.plan.engine, workers)?;
            sockets.add(key, group, Sort::Datagram);
        }
        for (key, binding) in graph.stream_listeners().chain(graph.datagram_listeners()) {
            let known = there.get(&key).or_else(|| sockets.bound.get(&key));
            if let (Some(addr), Some(upstream)) = (known, binding.relay.upstream()) {
                refuse_self(upstream, *addr)?;
            }
        }
        Ok(sockets)
    }

    fn add(&mut self, key: ListenerKey, group: Vec<Socket>, sort: Sort) {
        self.bound.insert(key.clone(), bound(&group, key.address));
        match sort {
            Sort::Datagram => self.datagrams.push((key, group)),
            Sort::Stream => {
                self.streams.resize_with(group.len(), Vec::new);
                for (worker, socket) in self.streams.iter_mut().zip(group) {
                    worker.push((key.clone(), socket));
                }
            }
        }
    }
}

/// Where the first of them has been bound: all have the same address.
fn bound(listeners: &[Socket], asked: SocketAddr) -> SocketAddr {
    let first = listeners.first().and_then(|listener| listener.local_addr().ok());
    first.and_then(|addr| addr.as_socket()).unwrap_or(asked)
}

fn refuse_self(upstream: &Upstream, addr: SocketAddr) -> Result<(), Error> {
    let addrs = upstream.servers().iter().map(|server| server.addrs());
    match addrs.flat_map(|addrs| addrs.to_vec()).find(|target| is_same(*target, addr)) {
        Some(target) => Err(Error::SelfTarget { target, addr }),
        None => Ok(()),
    }
}

/// Whether connecting to `target` would reach what listens on `addr`.
fn is_same(target: SocketAddr, addr: SocketAddr) -> bool {
    target.port() == addr.port()
        && (target.ip() == addr.ip()
            // Only an address of this host can be bound.
            || addr.ip().is_unspecified() && UdpSocket::bind((target.ip(), 0)).is_ok())
}

/// A listener on loopback for the built-in origin.
pub(super) fn origin() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}
