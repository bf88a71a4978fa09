//! The system calls that neither std nor rustix has: UDP_SEGMENT, UDP_GRO and
//! recvmmsg(2) (udp(7), recvmmsg(2)).
//!
//! A second implementation beside the relay's own, on purpose: a mistake in how
//! one of them reads boundaries would not be seen by an end that shares it.

#![allow(unsafe_code, reason = "rustix and socket2 have no name for these")]

use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Messages a call.
const MESSAGES: usize = 64;

/// Bytes a message: the largest datagram, or what the kernel gathers into one.
const MESSAGE: usize = 64 << 10;

/// From now on a send is cut into datagrams of `size` bytes.
pub fn segment(socket: &UdpSocket, size: usize) -> io::Result<()> {
    let size = libc::c_int::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    set(socket, libc::UDP_SEGMENT, size)
}

/// From now on datagrams of one size that arrive together are received as one.
pub fn gather(socket: &UdpSocket) -> io::Result<()> {
    set(socket, libc::UDP_GRO, 1)
}

fn set(socket: &UdpSocket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: value is live for the call, and length is its size.
    let done = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, option, value, length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The one control message of a gathered datagram: the size of its parts. As the
/// CMSG macros lay it out: the header, then the data, to the next multiple of it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    size: libc::c_int,
}

/// What one call is told: where control messages go, where bytes go, and both.
type Arrays = ([Control; MESSAGES], [libc::iovec; MESSAGES], [libc::mmsghdr; MESSAGES]);

/// Room for what one call receives.
pub struct Inbox {
    bytes: Vec<u8>,
    /// Of each message: its length, and the size of the datagrams that it is of.
    received: Vec<(usize, usize)>,
}

impl Inbox {
    pub fn new() -> Inbox {
        Inbox { bytes: vec![0; MESSAGES * MESSAGE], received: Vec::with_capacity(MESSAGES) }
    }

    /// Waits for a datagram, as long as the socket's read timeout says, and takes
    /// with it what else is there.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.received.clear();
        // SAFETY: these are plain C structures, for which zero is a value.
        let (mut controls, mut pieces, mut headers): Arrays = unsafe { mem::zeroed() };
        let rooms = self.bytes.chunks_exact_mut(MESSAGE);
        for (((room, piece), control), header) in
            rooms.zip(&mut pieces).zip(&mut controls).zip(&mut headers)
        {
            *piece = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = (control as *mut Control).cast();
            header.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
        }
        // SAFETY: each header points to a piece, a room and a control of its own,
        // with their sizes; all of them live until the call has returned, and are
        // not used otherwise in between.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                MESSAGES as libc::c_uint,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (header, control) in headers.iter().zip(&controls).take(count) {
            let length = header.msg_len as usize;
            // Zeroes where the kernel had nothing to say.
            let said = (control.header.cmsg_level, control.header.cmsg_type);
            let gathered = said == (libc::SOL_UDP, libc::UDP_GRO);
            let size = if gathered { control.size.unsigned_abs() as usize } else { length };
            self.received.push((length, size));
        }
        Ok(())
    }

    /// The datagrams of the last call, in order.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let messages = self.bytes.chunks_exact(MESSAGE).zip(&self.received);
        messages.flat_map(|(room, &(length, size))| {
            // An empty datagram is one too.
            let empty = (length == 0).then_some(&room[..0]);
            room[..length].chunks(size.max(1)).chain(empty)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::udp::datagram::Datagrams;
    use std::time::Duration;

    /// One burst over loopback: the numbers in the order of their coming, and the
    /// messages that they came in.
    fn burst(size: usize, receiver: &UdpSocket) -> io::Result<(Vec<Option<u64>>, usize)> {
        receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        sender.connect(receiver.local_addr()?)?;
        segment(&sender, size)?;
        let mut datagrams = Datagrams::new(size).ok_or(io::ErrorKind::InvalidInput)?;
        sender.send(datagrams.burst(0))?;
        let (mut inbox, mut numbers, mut messages) = (Inbox::new(), Vec::new(), 0);
        while numbers.len() < datagrams.slots() {
            inbox.receive(receiver)?;
            messages += inbox.received.len();
            numbers.extend(inbox.datagrams().map(|datagram| datagrams.check(datagram)));
        }
        Ok((numbers, messages))
    }

    #[test]
    fn a_burst_is_cut_where_it_was_joined() -> io::Result<()> {
        let expected: Vec<_> = (0..46).map(Some).collect();
        let receiver = UdpSocket::bind("127.0.0.1:0")?;
        assert_eq!(burst(1400, &receiver)?, (expected.clone(), 46), "by the kernel");
        gather(&receiver)?;
        assert_eq!(burst(1400, &receiver)?, (expected, 1), "here");
        Ok(())
    }

    #[test]
    fn an_empty_datagram_is_one() -> io::Result<()> {
        let receiver = UdpSocket::bind("127.0.0.1:0")?;
        receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        sender.send_to(&[], receiver.local_addr()?)?;
        let mut inbox = Inbox::new();
        inbox.receive(&receiver)?;
        assert_eq!(inbox.datagrams().map(<[u8]>::len).collect::<Vec<_>>(), [0]);
        Ok(())
    }
}
