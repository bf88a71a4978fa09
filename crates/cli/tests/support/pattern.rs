//! Bytes that depend on their place, so that a lost, repeated or moved one is seen.
//!
//! The pattern is one block repeated. Its length is a prime: a relay works in powers of
//! two, and pieces of such a length that change places would go unseen in a period
//! which they divide.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

const PERIOD: usize = 1_048_573;

/// Bytes of one write, and of a read by a peer that is not slow.
const CHUNK_BYTES: usize = 256 * 1024;

/// Twice the period, so that any piece of up to one period is one slice.
fn block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let mut state: u32 = 0x5053_4F53;
        let mut block: Vec<u8> = (0..PERIOD)
            .map(|_| {
                // xorshift32: short, and neighbours differ.
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                (state >> 24) as u8
            })
            .collect();
        block.extend_from_within(..);
        block
    })
}

/// One stream of the pattern and how far along it one is. Streams with different seeds
/// differ from their first bytes on.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    seed: u64,
    at: u64,
}

/// What the datagram of that number and length holds.
pub fn datagram(number: u64, len: usize) -> &'static [u8] {
    Pattern::new(number).piece(len)
}

/// How a stream ended for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Eof,
    Failed(ErrorKind),
}

impl Pattern {
    pub fn new(seed: u64) -> Self {
        Self { seed, at: 0 }
    }

    /// How many bytes were written or read.
    pub fn at(&self) -> u64 {
        self.at
    }

    fn piece(&self, len: usize) -> &'static [u8] {
        let start = (self.seed.wrapping_mul(7_919).wrapping_add(self.at) % PERIOD as u64) as usize;
        &block()[start..start + len.min(PERIOD)]
    }

    /// Writes the next `len` bytes.
    pub fn write(&mut self, mut to: &TcpStream, len: u64) -> io::Result<()> {
        let end = self.at + len;
        while self.at < end {
            let piece = self.piece(CHUNK_BYTES.min((end - self.at) as usize));
            match to.write(piece)? {
                0 => return Err(ErrorKind::WriteZero.into()),
                count => self.at += count as u64,
            }
        }
        Ok(())
    }

    /// Writes up to `len` bytes, and no more once the peer took none for `patience`.
    pub fn write_until_full(
        &mut self,
        mut to: &TcpStream,
        len: u64,
        patience: Duration,
    ) -> io::Result<()> {
        let before = to.write_timeout()?;
        to.set_write_timeout(Some(patience))?;
        let end = self.at.saturating_add(len);
        let result = loop {
            if self.at == end {
                break Ok(());
            }
            let room = usize::try_from(end - self.at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            match to.write(self.piece(room)) {
                Ok(count) => self.at += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        to.set_write_timeout(before)?;
        result
    }

    /// Reads and checks exactly the next `len` bytes.
    #[track_caller]
    pub fn expect(&mut self, from: &TcpStream, len: u64) {
        self.expect_slowly(from, len, CHUNK_BYTES, Duration::ZERO);
    }

    /// Reads and checks exactly `len` bytes and then the end of the stream.
    #[track_caller]
    pub fn expect_whole(&mut self, from: &TcpStream, len: u64) {
        self.expect(from, len);
        self.expect_end(from);
    }

    /// The same, `chunk` bytes at a time with a rest after each.
    #[track_caller]
    pub fn expect_slowly(&mut self, from: &TcpStream, len: u64, chunk: usize, rest: Duration) {
        let end = self.at + len;
        let mut buffer = vec![0; chunk];
        while self.at < end {
            let room = chunk.min(usize::try_from(end - self.at).unwrap());
            match self.read(from, &mut buffer[..room]) {
                Ok(0) => panic!("the stream {} ended after {} of {end} bytes", self.seed, self.at),
                Ok(_) => {}
                Err(error) => panic!(
                    "the stream {} failed after {} of {end} bytes: {error}",
                    self.seed, self.at
                ),
            }
            if !rest.is_zero() {
                std::thread::sleep(rest);
            }
        }
    }

    #[track_caller]
    pub fn expect_end(&mut self, from: &TcpStream) {
        assert_eq!(self.expect_to_end(from), Ending::Eof, "after {} bytes", self.at);
    }

    /// Reads and checks whatever comes until the stream ends in some way.
    #[track_caller]
    pub fn expect_to_end(&mut self, from: &TcpStream) -> Ending {
        let before = self.at;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match self.read(from, &mut buffer) {
                Ok(0) => return Ending::Eof,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    panic!(
                        "watchdog: no end of the stream {} ({} bytes, then {} more)",
                        self.seed,
                        before,
                        self.at - before
                    );
                }
                Err(error) => return Ending::Failed(error.kind()),
            }
        }
    }

    #[track_caller]
    fn read(&mut self, mut from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let count = from.read(buffer)?;
        let expected = self.piece(count);
        if buffer[..count] != *expected {
            let off = buffer.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
            panic!("the stream {} differs at byte {}", self.seed, self.at + off as u64);
        }
        self.at += count as u64;
        Ok(count)
    }
}
