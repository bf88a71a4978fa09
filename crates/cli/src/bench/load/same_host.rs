//! Two ends of one connection with plain calls on plain sockets: what `bench local` runs
//! over TCP, and under the library over memory.
//!
//! A round trip over memory takes less than a clock is read in twice, so the time is
//! asked once in a batch, and latency taken of one round trip in each.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Tally;

/// Round trips between two looks at the clock.
const BATCH: usize = 64;

/// How long an end waits for the other before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How an end waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// In the call.
    Blocking,
    /// By asking again and again.
    Spinning,
}

/// An end, with exact reads and writes.
struct End {
    stream: TcpStream,
    waits: Waits,
}

impl End {
    fn new(stream: TcpStream, waits: Waits) -> io::Result<End> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(waits == Waits::Spinning)?;
        Ok(End { stream, waits })
    }

    fn read(&mut self, message: &mut [u8]) -> io::Result<()> {
        if self.waits == Waits::Blocking {
            return self.stream.read_exact(message);
        }
        let mut at = 0;
        while at < message.len() {
            match self.stream.read(&mut message[at..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => at += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&mut self, message: &[u8]) -> io::Result<()> {
        if self.waits == Waits::Blocking {
            return self.stream.write_all(message);
        }
        let mut at = 0;
        while at < message.len() {
            match self.stream.write(&message[at..]) {
                Ok(count) => at += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn accept(address: SocketAddrV4) -> io::Result<TcpStream> {
    let (stream, _) = TcpListener::bind(address)?.accept()?;
    Ok(stream)
}

/// Answers one connection until its end.
pub fn pong(address: SocketAddrV4, size: usize, waits: Waits) -> io::Result<()> {
    let mut end = End::new(accept(address)?, waits)?;
    let mut message = vec![0; size];
    loop {
        match end.read(&mut message) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            done => done?,
        }
        end.write(&message)?;
    }
}

/// Asks until the time is over. The content of each answer is the question's: a number
/// that changes, in its first bytes.
pub fn ping(target: SocketAddrV4, size: usize, time: Duration, waits: Waits) -> io::Result<Tally> {
    let mut end = End::new(TcpStream::connect_timeout(&target.into(), PATIENCE)?, waits)?;
    let mut message = vec![0; size];
    let mut tally = Tally::new();
    let start = Instant::now();
    let mut number = 0u64;
    while start.elapsed() < time {
        let begin = Instant::now();
        for trip in 0..BATCH {
            number += 1;
            let mark = number.to_le_bytes();
            let marked = size.min(mark.len());
            message[..marked].copy_from_slice(&mark[..marked]);
            end.write(&message)?;
            end.read(&mut message)?;
            if message[..marked] != mark[..marked] {
                return Err(io::Error::other("an answer to another question"));
            }
            if trip == 0 {
                tally.add(begin.elapsed());
            }
        }
        tally.count += BATCH as u64 - 1;
    }
    tally.seconds = start.elapsed().as_secs_f64();
    Ok(tally)
}

/// Takes everything that one connection brings, in pieces of at most the message's size.
pub fn drink(address: SocketAddrV4, size: usize) -> io::Result<Value> {
    let mut stream = accept(address)?;
    let mut message = vec![0; size];
    let mut bytes = stream.read(&mut message)? as u64;
    let start = Instant::now();
    // What came first was sent before the clock was read.
    let first = bytes;
    loop {
        match stream.read(&mut message)? {
            0 => break,
            count => bytes += count as u64,
        }
    }
    Ok(json!({"bytes": bytes - first, "seconds": start.elapsed().as_secs_f64()}))
}

/// Sends messages until the time is over.
pub fn pour(target: SocketAddrV4, size: usize, time: Duration) -> io::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&target.into(), PATIENCE)?;
    stream.set_nodelay(true)?;
    let message = vec![7; size];
    let batch = (1_usize << 20).div_ceil(size).min(BATCH);
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        for _ in 0..batch {
            stream.write_all(&message)?;
        }
        count += batch as u64;
    }
    Ok(json!({"sent": count * size as u64}))
}
