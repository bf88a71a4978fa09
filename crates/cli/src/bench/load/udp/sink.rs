//! The receiver of a flood: checks and counts what is delivered.
//!
//! It must not be the bound, so it takes many datagrams a call. In between it
//! sleeps until it is woken, as a server does: a relay that sends several at once
//! wakes it less, which is part of what gathering is worth. (With a sink that
//! looks once a millisecond instead, the relays that do not gather are a third to a
//! half faster, on two processors, and the sender is the bound of them all.)

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::datagram::Datagrams;
use super::offload::{self, Inbox};
use super::widen;

/// How long the first datagram may take.
const FIRST_MAX: Duration = Duration::from_secs(20);

/// Silence that ends the flood: far more than any queue on the way holds.
const SILENCE: Duration = Duration::from_millis(500);

/// How datagrams are taken.
#[derive(Clone, Copy, Debug)]
pub enum Receive {
    /// Each as it is: what most servers do.
    Each,
    /// What arrives together as one (UDP_GRO), as the counterpart of a sender
    /// with UDP_SEGMENT.
    Gathered,
}

/// Counts the datagrams of one flood and says what came of them. The seconds are
/// those from the first to the last.
pub fn sink(address: SocketAddrV4, size: usize, receive: Receive) -> io::Result<Value> {
    let datagrams = Datagrams::new(size).ok_or(io::ErrorKind::InvalidInput)?;
    let socket = UdpSocket::bind(address)?;
    widen(&socket)?;
    if let Receive::Gathered = receive {
        offload::gather(&socket)?;
    }
    let mut inbox = Inbox::new();
    let mut caught = Caught::default();
    socket.set_read_timeout(Some(FIRST_MAX))?;
    let mut span: Option<(Instant, Instant)> = None;
    loop {
        match inbox.receive(&socket) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        let now = Instant::now();
        let (first, _) = span.unwrap_or((now, now));
        if span.is_none() {
            socket.set_read_timeout(Some(SILENCE))?;
        }
        span = Some((first, now));
        inbox.datagrams().for_each(|datagram| caught.add(datagrams.check(datagram)));
    }
    let seconds = span.map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    Ok(json!({
        "count": caught.count,
        "corrupt": caught.corrupt,
        "late": caught.late,
        "seconds": seconds,
    }))
}

/// What was delivered.
#[derive(Debug, Default, PartialEq)]
struct Caught {
    /// As it was sent, and each once and in order but for the late.
    count: u64,
    /// Not as it was sent: in size, content or number.
    corrupt: u64,
    /// Behind a later one, or a second time; counted too.
    late: u64,
    /// The number that must come next or be lost.
    next: u64,
}

impl Caught {
    fn add(&mut self, number: Option<u64>) {
        let Some(number) = number else {
            self.corrupt += 1;
            return;
        };
        self.count += 1;
        if number < self.next {
            self.late += 1;
        } else {
            self.next = number + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_is_neither_late_nor_corrupt() {
        let mut caught = Caught::default();
        for number in [0, 1, 5, 6] {
            caught.add(Some(number));
        }
        assert_eq!(caught, Caught { count: 4, corrupt: 0, late: 0, next: 7 });
    }

    #[test]
    fn out_of_order_and_twice_are_late() {
        let mut caught = Caught::default();
        for number in [Some(0), Some(2), Some(1), Some(2), None] {
            caught.add(number);
        }
        assert_eq!(caught, Caught { count: 4, corrupt: 1, late: 2, next: 3 });
    }
}
