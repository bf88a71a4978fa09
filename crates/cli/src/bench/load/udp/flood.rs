//! The sender of a flood: one connected socket, as fast as it takes datagrams.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::datagram::Datagrams;
use super::offload;

/// Calls between two looks at the clock.
const CALLS: u32 = 32;

/// Calls in a row that may fail: a relay that is not there answers by ICMP, and
/// each answer fails a call.
const REFUSED_MAX: u32 = 1000;

/// What one call sends.
#[derive(Clone, Copy, Debug)]
pub enum Burst {
    /// One datagram.
    One,
    /// As many as fit, cut apart by the kernel (UDP_SEGMENT).
    Segments,
}

/// Sends for so long and says how many were sent.
pub fn flood(target: SocketAddrV4, size: usize, burst: Burst, time: Duration) -> io::Result<Value> {
    let mut datagrams = Datagrams::new(size).ok_or(ErrorKind::InvalidInput)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(target)?;
    let a_call = match burst {
        Burst::One => 1,
        Burst::Segments => datagrams.slots() as u64,
    };
    if let Burst::Segments = burst {
        offload::segment(&socket, size)?;
    }
    let (mut number, mut refused) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..CALLS {
            let bytes = match burst {
                Burst::One => datagrams.one(number),
                Burst::Segments => datagrams.burst(number),
            };
            match socket.send(bytes) {
                Ok(_) => (number, refused) = (number + a_call, 0),
                Err(error) => {
                    refused += 1;
                    if refused > REFUSED_MAX {
                        return Err(error);
                    }
                }
            }
        }
    }
    Ok(json!({"sent": number, "seconds": start.elapsed().as_secs_f64()}))
}
