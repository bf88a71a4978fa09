//! One end of a case: its connection, the way to the other end beside it, and what it saw.

use crate::calls::*;
use crate::modes::EXPECTED;
use crate::rendezvous;
use libc::c_int;
use std::fmt::{Debug, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::IntoRawFd;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Connects.
    Near,
    /// Accepts.
    Far,
}

pub struct End {
    /// The connection, if the plan says that there is one.
    pub fd: c_int,
    place: Place,
    side: Side,
    seen: String,
}

/// The ends' agreement about who does what when: packets that never touch the connection.
pub struct Side(c_int);

impl End {
    pub fn new(place: Place, side: Side) -> Self {
        Self { fd: -1, place, side, seen: String::new() }
    }

    pub fn near(&self) -> bool {
        self.place == Place::Near
    }

    pub fn far(&self) -> bool {
        self.place == Place::Far
    }

    /// Writes down what is certain.
    pub fn saw(&mut self, what: &str, value: impl Debug) {
        writeln!(self.seen, "{:?} {what}: {value:?}", self.place).unwrap();
    }

    pub fn text(self) -> String {
        self.seen
    }

    /// Both ends have come to this line.
    pub fn meet(&self) {
        self.tell(0);
        assert_eq!(self.hear(), 0);
    }

    pub fn tell(&self, number: u64) {
        self.side.tell(number);
    }

    pub fn hear(&self) -> u64 {
        self.side.hear()
    }

    /// One end listens, the other connects.
    pub fn connect(&mut self) {
        self.fd = self.another();
    }

    /// One more connection.
    pub fn another(&self) -> c_int {
        if self.far() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            self.tell(u64::from(listener.local_addr().unwrap().port()));
            listener.accept().unwrap().0.into_raw_fd()
        } else {
            let port = u16::try_from(self.hear()).unwrap();
            TcpStream::connect(("127.0.0.1", port)).unwrap().into_raw_fd()
        }
    }

    /// [`warm_up`] of the end's connection.
    pub fn warm_up(&self) {
        self.warm(self.fd);
    }

    /// Small round trips until the connection is paired and both directions are in the ring;
    /// a few without one.
    pub fn warm(&self, fd: c_int) {
        if self.far() {
            loop {
                let byte = read_exactly(fd, 1);
                send_all(fd, &byte);
                if byte == b"." {
                    return;
                }
            }
        }
        let expected = std::env::var_os(EXPECTED).is_some();
        let mut ready = false;
        for round in 0.. {
            let byte: &[u8] = if ready { b"." } else { b"w" };
            send_all(fd, byte);
            assert_eq!(read_exactly(fd, 1), byte);
            if ready {
                return;
            }
            ready = round >= 6 && (!expected || rendezvous::both_ways(fd));
            assert!(round < 2000, "the connection did not pair: {}", rendezvous::why());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The connection is carried by the ring, where that is expected: it is still paired.
    pub fn still_paired(&self) {
        if std::env::var_os(EXPECTED).is_some() {
            assert!(rendezvous::both_ways(self.fd), "{}", rendezvous::why());
        }
    }
}

impl Side {
    pub fn pair() -> (Self, Self) {
        let mut fds = [0; 2];
        // SAFETY: room for two.
        let made =
            unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()) };
        assert_eq!(made, 0);
        for fd in fds {
            let patience = libc::timeval { tv_sec: WATCHDOG.as_secs() as _, tv_usec: 0 };
            let at = (&raw const patience).cast();
            let len = size_of::<libc::timeval>() as libc::socklen_t;
            // SAFETY: the value lives through the call.
            unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, at, len) };
        }
        (Self(fds[0]), Self(fds[1]))
    }

    pub fn from_raw(fd: c_int) -> Self {
        Self(fd)
    }

    pub fn number(&self) -> c_int {
        self.0
    }

    fn tell(&self, number: u64) {
        let bytes = number.to_ne_bytes();
        // SAFETY: the bytes live through the call.
        let sent = unsafe { libc::send(self.0, bytes.as_ptr().cast(), 8, libc::MSG_NOSIGNAL) };
        assert_eq!(sent, 8, "the other end has gone");
    }

    fn hear(&self) -> u64 {
        let mut bytes = [0; 8];
        loop {
            // SAFETY: the bytes live through the call.
            let got = unsafe { libc::recv(self.0, bytes.as_mut_ptr().cast(), 8, 0) };
            if got < 0 && errno() == libc::EINTR {
                continue;
            }
            assert_eq!(got, 8, "the other end has gone, or says nothing");
            return u64::from_ne_bytes(bytes);
        }
    }
}

impl Side {
    /// A forked child's copy.
    pub fn forget(&self) {
        close(self.0);
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        close(self.0);
    }
}
