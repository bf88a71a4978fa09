//! The UDP relay: sessions by client address, moved in batches.
//!
//! A worker owns a listening socket (SO_REUSEPORT: the kernel keeps a client on one of
//! them) and an epoll; each session owns one socket, connected to its upstream. What has
//! arrived is taken in one call, sorted by session, and sent in as few calls as its
//! boundaries allow; answers leave through the listening socket.
//!
//! Why a table of sessions and not a second connected socket for each: with one socket for
//! the clients a burst of many is taken in one call, there is no moment at which a
//! client's datagrams can lie in two queues, a session costs one descriptor instead of
//! two, and kernels before 6.13 search all connected sockets of a port for each datagram.
//!
//! It does not wait for anybody: where a socket is full, datagrams are dropped and
//! counted, as on any hop.

mod desk;
mod group;
mod listener;
mod session;
mod table;
mod worker;

pub(crate) use desk::{Desk, Look, Name};
pub(crate) use group::Group;
pub(crate) use listener::bind;
