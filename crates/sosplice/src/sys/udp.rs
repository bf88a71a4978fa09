//! Datagrams in batches: recvmmsg(2) with UDP_GRO in, sendmmsg(2) with UDP_SEGMENT out
//! (udp(7), net/ipv4/udp.c). Never sleeps. By number, so that a library that interposes
//! libc's names is not re-entered; rustix has no recvmmsg, and no name for these messages.

#![allow(unsafe_code, reason = "rustix has no recvmmsg, UDP_GRO, UDP_SEGMENT or SO_RXQ_OVFL")]

use super::sockopt::{get_int, last, set_int};
use crate::datagram::{Batch, Destination, MESSAGE_BYTES_MAX, MESSAGES_MAX, Message, Origin};
use crate::datagram::{Group, Piece};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::io::{Errno, Result, retry_on_intr};
use std::mem::{MaybeUninit, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Control messages of one message: UDP_GRO (4), SO_RXQ_OVFL (4) and the packet's address
/// (at most 20), each behind a header of 16 bytes and padded to 8; out: UDP_SEGMENT (2)
/// and the address.
const CONTROL_WORDS: usize = 12;
type Control = [u64; CONTROL_WORDS];
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// What one receive call took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The socket was found empty: nothing is left.
    pub dry: bool,
    /// Datagrams that the kernel dropped for want of room since the socket was made, where
    /// it told (SO_RXQ_OVFL, socket(7)).
    pub dropped: Option<u32>,
}

/// A socket address of either family, as the kernel writes it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Receives at most `max` messages into `batch`, which is cleared before, and with
/// `origins` also where each came from. No message at all means that nothing was there.
///
/// # Errors
/// The socket's pending error (ECONNREFUSED is an ICMP answer to what was sent before).
pub fn receive<Fd: AsFd>(fd: Fd, batch: &mut Batch, max: usize, origins: bool) -> Result<Received> {
    receive_with(fd.as_fd(), batch, max, origins, libc::MSG_DONTWAIT)
}

/// As [`receive`], but what is received stays on the socket, to be taken by [`discard`].
/// Several messages of one call are told apart by the socket's peek offset (SO_PEEK_OFF,
/// socket(7)), which is put back; nobody else may look at the socket meanwhile. An empty
/// message that was looked at before is passed over by a look for several
/// (net/core/datagram.c, `__skb_try_recv_from_queue`).
///
/// # Errors
/// As [`receive`].
pub fn look<Fd: AsFd>(fd: Fd, batch: &mut Batch, max: usize) -> Result<Received> {
    let fd = fd.as_fd();
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    if max <= 1 {
        return receive_with(fd, batch, 1, false, flags);
    }
    let before = get_int(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
    set_int(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0)?;
    let received = receive_with(fd, batch, max, false, flags);
    set_int(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, before)?;
    received
}

/// Takes messages off the socket, unread: as many as there are places in `lens`, which is
/// told their lengths. Returns how many; none means that nothing was there.
///
/// # Errors
/// The socket's pending error; nothing was taken.
pub fn discard<Fd: AsFd>(fd: Fd, lens: &mut [usize]) -> Result<usize> {
    let max = lens.len().min(MESSAGES_MAX);
    // SAFETY: all zeroes is a header without name, parts and control.
    let mut headers: [libc::mmsghdr; MESSAGES_MAX] = unsafe { zeroed() };
    let result = retry_on_intr(|| {
        // SAFETY: there are `max` headers, which live through the call and name no other
        // memory.
        checked(unsafe {
            libc::syscall(
                libc::SYS_recvmmsg,
                fd.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                max,
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                std::ptr::null_mut::<libc::timespec>(),
            )
        })
    });
    let taken = match result {
        Err(Errno::AGAIN) => 0,
        taken => taken?,
    };
    for (len, header) in lens.iter_mut().zip(&headers[..taken]) {
        *len = header.msg_len as usize;
    }
    Ok(taken)
}

fn receive_with(
    fd: BorrowedFd<'_>,
    batch: &mut Batch,
    max: usize,
    origins: bool,
    flags: i32,
) -> Result<Received> {
    batch.clear();
    let max = max.clamp(1, MESSAGES_MAX);
    let mut names = [MaybeUninit::<Name>::uninit(); MESSAGES_MAX];
    let mut parts = [MaybeUninit::<libc::iovec>::uninit(); MESSAGES_MAX];
    let mut controls = [MaybeUninit::<Control>::uninit(); MESSAGES_MAX];
    let mut headers = [MaybeUninit::<libc::mmsghdr>::uninit(); MESSAGES_MAX];
    for index in 0..max {
        let slot = Batch::slot(index);
        let room = &mut batch.buffer[slot..slot + MESSAGE_BYTES_MAX];
        let part = parts[index]
            .write(libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() });
        // SAFETY: all zeroes is a msghdr without name, parts and control.
        let mut header: libc::msghdr = unsafe { zeroed() };
        if origins {
            header.msg_name = names[index].as_mut_ptr().cast();
            header.msg_namelen = size_of::<Name>() as libc::socklen_t;
        }
        header.msg_iov = part;
        header.msg_iovlen = 1;
        header.msg_control = controls[index].as_mut_ptr().cast();
        header.msg_controllen = size_of::<Control>() as _;
        headers[index].write(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
    }
    let result = retry_on_intr(|| {
        // SAFETY: the first `max` headers are initialised; names, parts, controls and the
        // slots of the buffer that they point to live through the call, unaliased.
        checked(unsafe {
            libc::syscall(
                libc::SYS_recvmmsg,
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                max,
                flags,
                std::ptr::null_mut::<libc::timespec>(),
            )
        })
    });
    let count = match result {
        Err(Errno::AGAIN) => return Ok(Received { dry: true, dropped: None }),
        count => count?,
    };
    let mut received = Received { dry: count < max, dropped: None };
    for index in 0..count {
        // SAFETY: initialised above, and filled in by the kernel.
        let header = unsafe { headers[index].assume_init_ref() };
        // SAFETY: the kernel wrote control messages up to msg_controllen, whole words.
        let told = unsafe { read_control(&header.msg_hdr) };
        let len = header.msg_len;
        let segment = match told.segment {
            Some(segment) if segment > 0 && segment < len => segment,
            _ => len,
        };
        batch.messages.push(Message { at: Batch::slot(index) as u32, len, segment });
        received.dropped = told.dropped.or(received.dropped);
        if origins {
            // SAFETY: the kernel wrote msg_namelen bytes of a socket address.
            let from = unsafe { read_name(&names[index], header.msg_hdr.msg_namelen) };
            batch.origins.push(Origin { from, to: told.to });
        }
    }
    Ok(received)
}

/// What the control messages of one message say.
#[derive(Default)]
struct Told {
    segment: Option<u32>,
    dropped: Option<u32>,
    to: Option<IpAddr>,
}

/// # Safety
/// `header` was filled in by a successful recvmsg.
unsafe fn read_control(header: &libc::msghdr) -> Told {
    let mut told = Told::default();
    // SAFETY: the control buffer is that of the header, with the length the kernel set;
    // CMSG_NXTHDR stays within it.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while !at.is_null() {
            let data = libc::CMSG_DATA(at);
            match ((*at).cmsg_level, (*at).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let segment = data.cast::<libc::c_int>().read_unaligned();
                    told.segment = u32::try_from(segment).ok();
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    told.dropped = Some(data.cast::<u32>().read_unaligned());
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    // Not ipi_addr: of a broadcast that is no address to send from.
                    told.to = Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    let to = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    let group = match to.to_ipv4_mapped() {
                        Some(v4) => v4.is_multicast() || v4.is_broadcast(),
                        None => to.is_multicast(),
                    };
                    told.to = (!group).then_some(to.into());
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    told
}

/// # Safety
/// The kernel wrote `len` bytes of an address to `name`.
unsafe fn read_name(name: &MaybeUninit<Name>, len: libc::socklen_t) -> SocketAddr {
    let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
    if (len as usize) < size_of::<libc::sockaddr_in>() {
        return nobody;
    }
    // SAFETY: at least a sockaddr_in was written, and the family says which it is.
    unsafe {
        let name = name.as_ptr();
        match i32::from((*name).family) {
            libc::AF_INET => {
                let v4 = (*name).v4;
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into()
            }
            libc::AF_INET6 if len as usize >= size_of::<libc::sockaddr_in6>() => {
                let v6 = (*name).v6;
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                // The flow label of a packet that came is not ours to send back.
                SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into()
            }
            _ => nobody,
        }
    }
}

fn write_name(addr: SocketAddr) -> (Name, libc::socklen_t) {
    match addr {
        SocketAddr::V4(addr) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: addr.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*addr.ip()).to_be() },
                sin_zero: [0; 8],
            };
            (Name { v4 }, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(addr) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: addr.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                sin6_scope_id: addr.scope_id(),
            };
            (Name { v6 }, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}

/// Sends `groups`, whose pieces of `buffer` follow one another in `pieces`; `to` is for a
/// socket that is not connected. Returns how many the kernel took: at least one, or none
/// because the drain is full.
///
/// # Errors
/// That of the first group, which was not sent: EMSGSIZE for a datagram that does not fit
/// the address family or the send buffer; EINVAL or EIO where the path refuses the segment
/// size; the socket's pending error, which is gone then.
pub(crate) fn send_groups<Fd: AsFd>(
    fd: Fd,
    buffer: &[u8],
    pieces: &[Piece],
    groups: &[Group],
    to: Option<&Destination>,
) -> Result<usize> {
    let groups = &groups[..groups.len().min(MESSAGES_MAX)];
    let mut parts = [MaybeUninit::<libc::iovec>::uninit(); MESSAGES_MAX * 2];
    // The headers point into `parts`: what is not filled in must not be reached.
    assert!(pieces.len() <= parts.len());
    for (piece, part) in pieces.iter().zip(&mut parts) {
        let bytes = &buffer[piece.at as usize..(piece.at + piece.len) as usize];
        // The kernel only reads from it.
        part.write(libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        });
    }
    let mut name = to.map(|to| write_name(to.addr));
    let mut controls = [MaybeUninit::<Control>::uninit(); MESSAGES_MAX];
    let mut headers = [MaybeUninit::<libc::mmsghdr>::uninit(); MESSAGES_MAX];
    let mut first = 0;
    for (index, group) in groups.iter().enumerate() {
        // SAFETY: all zeroes is a msghdr without name, parts and control.
        let mut header: libc::msghdr = unsafe { zeroed() };
        if let Some((name, len)) = &mut name {
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = *len;
        }
        header.msg_iov = parts[first].as_mut_ptr();
        header.msg_iovlen = group.pieces as _;
        first += group.pieces as usize;
        let control = controls[index].write([0; CONTROL_WORDS]);
        let used = write_control(control, group, to.and_then(|to| to.from));
        if used > 0 {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = used as _;
        }
        headers[index].write(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
    }
    assert!(first <= pieces.len());
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let result = retry_on_intr(|| {
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: one header for each group is initialised; the name, the parts, the
        // controls and the buffer that they point to live through the call.
        unsafe {
            if groups.len() == 1 {
                // One call less deep. A message is taken whole, be it of no bytes, or not.
                checked(libc::syscall(libc::SYS_sendmsg, fd, headers.as_ptr(), flags)).map(|_| 1)
            } else {
                let count = groups.len();
                checked(libc::syscall(libc::SYS_sendmmsg, fd, headers.as_mut_ptr(), count, flags))
            }
        }
    });
    match result {
        Err(Errno::AGAIN) => Ok(0),
        result => result,
    }
}

/// Writes the control messages of a group; returns their bytes.
fn write_control(control: &mut Control, group: &Group, from: Option<IpAddr>) -> usize {
    let mut used = 0;
    if group.datagrams > 1 {
        used += write_one(control, used, (libc::SOL_UDP, libc::UDP_SEGMENT), group.segment as u16);
    }
    match from {
        None => {}
        Some(IpAddr::V4(ip)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(ip).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            used += write_one(control, used, (libc::IPPROTO_IP, libc::IP_PKTINFO), info);
        }
        Some(IpAddr::V6(ip)) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                ipi6_ifindex: 0,
            };
            used += write_one(control, used, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), info);
        }
    }
    used
}

/// Writes one control message behind the first `used` bytes; returns its bytes, padded.
fn write_one<T>(control: &mut Control, used: usize, kind: (i32, i32), value: T) -> usize {
    let len = HEADER_BYTES + size_of::<T>();
    let padded = len.next_multiple_of(size_of::<u64>());
    assert!(used + padded <= size_of::<Control>());
    // SAFETY: header and value lie within the buffer, as was asserted, and the header is
    // aligned: every message before it was padded to whole words.
    unsafe {
        let at = control.as_mut_ptr().cast::<u8>().add(used);
        let mut header: libc::cmsghdr = zeroed();
        header.cmsg_len = len as _;
        (header.cmsg_level, header.cmsg_type) = kind;
        at.cast::<libc::cmsghdr>().write(header);
        at.add(HEADER_BYTES).cast::<T>().write_unaligned(value);
    }
    padded
}

/// The length of the next datagram without taking it; None where there is none.
///
/// # Errors
/// The socket's pending error.
pub fn next_len<Fd: AsFd>(fd: Fd) -> Result<Option<usize>> {
    let mut byte = 0u8;
    let result = retry_on_intr(|| {
        // SAFETY: the call writes at most one byte, to one that is live. With MSG_TRUNC it
        // returns the whole length (recv(2)).
        checked(unsafe {
            libc::syscall(
                libc::SYS_recvfrom,
                fd.as_fd().as_raw_fd(),
                &raw mut byte,
                1usize,
                libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_TRUNC,
                std::ptr::null_mut::<libc::sockaddr>(),
                std::ptr::null_mut::<libc::socklen_t>(),
            )
        })
    });
    match result {
        Err(Errno::AGAIN) => Ok(None),
        len => len.map(Some),
    }
}

/// The result of a call that answers a count.
fn checked(count: libc::c_long) -> Result<usize> {
    usize::try_from(count).map_err(|_| last())
}

/// Lets the kernel join datagrams of one flow (UDP_GRO, Linux 5.0), or not. Returns
/// whether it did so before.
///
/// # Errors
/// ENOPROTOOPT on older kernels.
pub fn set_gro<Fd: AsFd>(fd: Fd, on: bool) -> Result<bool> {
    let fd = fd.as_fd();
    let before = get_int(fd, libc::SOL_UDP, libc::UDP_GRO)? != 0;
    if before != on {
        set_int(fd, libc::SOL_UDP, libc::UDP_GRO, on.into())?;
    }
    Ok(before)
}

/// Whether the kernel cuts messages into datagrams (UDP_SEGMENT, Linux 4.18).
#[must_use]
pub fn has_segments<Fd: AsFd>(fd: Fd) -> bool {
    get_int(fd.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT).is_ok()
}

/// Makes the kernel tell how many datagrams it dropped for want of room (SO_RXQ_OVFL).
///
/// # Errors
/// What setsockopt(2) says.
pub fn tell_drops<Fd: AsFd>(fd: Fd) -> Result<()> {
    set_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)
}

/// Makes the kernel tell to which of our addresses a datagram was sent (ip(7), ipv6(7)).
///
/// # Errors
/// What setsockopt(2) says.
pub fn tell_address<Fd: AsFd>(fd: Fd, v6: bool) -> Result<()> {
    let (level, option) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    set_int(fd.as_fd(), level, option, 1)
}

/// Asks for a receive buffer of so many bytes, above the limit of unprivileged users where
/// that is allowed (SO_RCVBUFFORCE, SO_RCVBUF, socket(7)).
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_receive_buffer<Fd: AsFd>(fd: Fd, bytes: i32) -> Result<()> {
    let fd: BorrowedFd<'_> = fd.as_fd();
    set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
        .or_else(|_| set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
}

/// The send buffer as it was asked for: Linux reports it doubled (socket(7)).
///
/// # Errors
/// What getsockopt(2) says.
pub fn send_buffer<Fd: AsFd>(fd: Fd) -> Result<usize> {
    let doubled = get_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF)?;
    Ok(usize::try_from(doubled / 2).unwrap_or(0))
}
