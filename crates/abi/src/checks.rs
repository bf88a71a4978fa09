//! The error rows of the option, in the order of each system.
//!
//! The sockets are asked as they are now; that nobody is busy is decided by the carrier,
//! last on OpenBSD, and asked here as well for FreeBSD, where it stands before the
//! drain's own rows.

use crate::descriptors;
use crate::option::Wish;
use crate::personality::Personality;
use crate::sys::{self, enter};
use std::ffi::c_int;

/// A protocol that can be spliced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

type Check = Result<(), c_int>;

/// EBADF, ENOTSOCK; None for a socket that cannot be spliced.
fn protocol(fd: c_int) -> Result<Option<Protocol>, c_int> {
    let protocol = sys::int_option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    let domain = sys::int_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    let kind = sys::int_option(fd, libc::SOL_SOCKET, libc::SO_TYPE)?;
    Ok(match (domain, kind, protocol) {
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP) => {
            Some(Protocol::Tcp)
        }
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP) => {
            Some(Protocol::Udp)
        }
        _ => None,
    })
}

/// The source's protocol, for whoever has no more to check.
pub fn source(personality: Personality, fd: c_int) -> Result<Protocol, c_int> {
    spliceable(personality, protocol(fd)?)
}

fn spliceable(personality: Personality, found: Option<Protocol>) -> Result<Protocol, c_int> {
    match (personality, found) {
        (_, Some(Protocol::Tcp)) => Ok(Protocol::Tcp),
        (Personality::OpenBsd, Some(Protocol::Udp)) => Ok(Protocol::Udp),
        _ => Err(libc::EPROTONOSUPPORT),
    }
}

/// Everything but EBUSY at the end, for a wish with a drain.
pub fn all(personality: Personality, fd: c_int, wish: &Wish) -> Check {
    match personality {
        Personality::OpenBsd => {
            let found = spliceable(personality, protocol(fd)?)?;
            limits(wish)?;
            if protocol(wish.drain)? != Some(found) {
                return Err(libc::EPROTONOSUPPORT);
            }
            for end in [fd, wish.drain] {
                if is_listening(end) {
                    return Err(libc::EOPNOTSUPP);
                }
            }
            if found == Protocol::Tcp {
                connected(fd, found)?;
            }
            connected(wish.drain, found)
        }
        Personality::FreeBsd => {
            let drain = protocol(wish.drain)?;
            if wish.max < 0 {
                return Err(libc::EINVAL);
            }
            let found = spliceable(personality, protocol(fd)?)?;
            spliceable(personality, drain)?;
            freebsd_end(fd, found, |slot| slot.is_source())?;
            freebsd_end(wish.drain, found, |slot| slot.is_drain())
        }
    }
}

/// The rows that OpenBSD has even for an unsplice.
pub fn limits(wish: &Wish) -> Check {
    if wish.max < 0 || !wish.idle_is_valid() { Err(libc::EINVAL) } else { Ok(()) }
}

fn freebsd_end(
    fd: c_int,
    protocol: Protocol,
    is_busy: impl Fn(&crate::domain::Slot) -> bool,
) -> Check {
    if is_listening(fd) {
        return Err(libc::EINVAL);
    }
    connected(fd, protocol)?;
    if descriptors::of(fd).is_some_and(is_busy) { Err(libc::EBUSY) } else { Ok(()) }
}

pub fn is_listening(fd: c_int) -> bool {
    sys::int_option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == Ok(1)
}

/// Connected or connecting.
fn connected(fd: c_int, protocol: Protocol) -> Check {
    let connected = match protocol {
        Protocol::Tcp => !matches!(tcp_state(fd), Some(TCP_CLOSE) | None),
        Protocol::Udp => has_peer(fd),
    };
    if connected { Ok(()) } else { Err(libc::ENOTCONN) }
}

/// include/net/tcp_states.h
const TCP_SYN_SENT: u8 = 2;
const TCP_CLOSE: u8 = 7;

pub fn is_connecting(fd: c_int) -> bool {
    tcp_state(fd) == Some(TCP_SYN_SENT)
}

/// The first byte of TCP_INFO.
fn tcp_state(fd: c_int) -> Option<u8> {
    let mut state = 0u8;
    let mut len: libc::socklen_t = 1;
    // SAFETY: one byte and its length live through the call.
    let done = unsafe {
        enter!(SYS_getsockopt, fd, libc::IPPROTO_TCP, libc::TCP_INFO, &raw mut state, &raw mut len)
    };
    (done == 0 && len == 1).then_some(state)
}

fn has_peer(fd: c_int) -> bool {
    let mut address = [0u8; 128];
    let mut len = address.len() as libc::socklen_t;
    // SAFETY: the buffer and its length live through the call.
    unsafe { enter!(SYS_getpeername, fd, address.as_mut_ptr(), &raw mut len) == 0 }
}
