//! A seeded simulator of a pair: two sockets with bounded buffers, edge-triggered
//! readiness, and peers that write, read, half-close, reset and stall at any moment.
//!
//! What it checks after every event: bytes out are a prefix of bytes in, the counts are
//! right, a FIN comes behind the last byte, and the pair never waits for something that
//! has already happened. At the end of a run in which nobody failed, everything arrived.

use crate::datagram::{self, Batch, Plan};
use crate::duplex::{Direction, Duplex, DuplexThen, OnMax};
use crate::lane::Lane;
use crate::mover::{Ends, EngineChoice, Limits, Mover, Need};
use crate::store::Store;
use crate::sys::{Pipe, Put, Received, Take};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

/// splitmix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Of one of the magnitudes that matter.
    fn size(&mut self) -> usize {
        let magnitude = [1, 100, 5000, 400_000][self.below(4) as usize];
        self.below(magnitude) as usize + 1
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// The byte at a position, different for each side.
fn byte(side: usize, position: usize) -> u8 {
    ((position * 31 + position / 251 + side * 97) % 256) as u8
}

/// The relay's socket to one peer, and that peer.
struct Sim {
    side: usize,
    random: Random,
    /// Sent by the peer, not yet read by the relay.
    incoming: VecDeque<u8>,
    incoming_room: usize,
    peer_wrote: usize,
    peer_fin: bool,
    /// Where an urgent mark stands, by stream position.
    mark: Option<usize>,
    relay_read: usize,
    /// Written by the relay, not yet read by the peer.
    outgoing: VecDeque<u8>,
    outgoing_room: usize,
    relay_fin: bool,
    peer_got: usize,
    reset: bool,
    /// Edge-triggered readiness, as the driver remembers it.
    readable: bool,
    writable: bool,
    hung_up: bool,
    urgent: bool,
    /// SO_RCVLOWAT.
    low_water: usize,
    /// The peer only reads.
    mute: bool,
    /// A write found no room: room made later is an edge.
    nospace: bool,
}

impl Sim {
    fn new(side: usize, seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(2) + side as u64);
        let rooms = [10, 1000, 70_000, 300_000];
        Self {
            side,
            incoming: VecDeque::new(),
            incoming_room: rooms[random.below(4) as usize],
            outgoing: VecDeque::new(),
            outgoing_room: rooms[random.below(4) as usize],
            random,
            peer_wrote: 0,
            peer_fin: false,
            mark: None,
            relay_read: 0,
            relay_fin: false,
            peer_got: 0,
            reset: false,
            readable: false,
            writable: true,
            hung_up: false,
            urgent: false,
            nospace: false,
            low_water: 1,
            mute: side == 1 && seed.is_multiple_of(3),
        }
    }

    /// Something happens at the peer.
    fn peer_acts(&mut self, calm: bool) {
        match self.random.below(10) {
            0..=3 if !self.peer_fin && !self.reset && !self.mute => {
                let room = self.incoming_room - self.incoming.len();
                let want = self.random.size();
                if !calm && self.mark.is_none() && self.random.chance(20) {
                    self.mark = Some(self.peer_wrote + want.min(room) / 2);
                    self.urgent = true;
                }
                for _ in 0..want.min(room) {
                    self.incoming.push_back(byte(self.side, self.peer_wrote));
                    self.peer_wrote += 1;
                }
                self.readable |= self.incoming.len() >= self.low_water;
            }
            4..=7 => {
                let want = self.random.size();
                let count = want.min(self.outgoing.len());
                for got in self.outgoing.drain(..count) {
                    assert_eq!(got, byte(1 - self.side, self.peer_got), "not what came in");
                    self.peer_got += 1;
                }
                if count > 0 && self.nospace {
                    self.nospace = false;
                    self.writable = true;
                }
            }
            8 if self.random.chance(15) => self.finish(),
            9 if !calm && self.random.chance(60) => {
                self.reset = true;
                self.readable = true;
                self.writable = true;
                self.hung_up = true;
            }
            _ => {}
        }
    }

    fn finish(&mut self) {
        self.peer_fin = true;
        self.readable = true;
        self.hung_up = true;
    }

    fn has_something_to_read(&self) -> bool {
        !self.incoming.is_empty() || self.peer_fin || self.reset
    }

    fn read(&mut self, len: usize, splice: bool) -> io::Result<(Take, Vec<u8>)> {
        if !self.readable {
            return Ok((Take::Empty, Vec::new()));
        }
        if self.incoming.is_empty() {
            if self.reset {
                self.reset_once()?;
            }
            if self.peer_fin || self.reset {
                return Ok((Take::Eof, Vec::new()));
            }
            self.readable = false;
            return Ok((Take::Empty, Vec::new()));
        }
        let mut count = len.min(self.incoming.len());
        if let Some(mark) = self.mark.filter(|mark| *mark >= self.relay_read) {
            // A read ends before the mark; splice never passes it, recv does.
            let before = mark - self.relay_read;
            match (before, splice) {
                (0, true) => return Ok((Take::Stuck, Vec::new())),
                (0, false) => {}
                _ => count = count.min(before),
            }
        }
        self.relay_read += count;
        let dry = !splice && count < len && !self.hung_up && !self.urgent;
        if dry {
            self.readable = false;
        }
        Ok((Take::Bytes { count, dry }, self.incoming.drain(..count).collect()))
    }

    /// The error of a reset is told once; behind it is an end of file.
    fn reset_once(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.hung_up, false) {
            self.peer_fin = true;
            return Err(Errno::CONNRESET.into());
        }
        Ok(())
    }

    fn room(&mut self, len: usize) -> io::Result<Option<usize>> {
        if self.reset {
            return Err(Errno::PIPE.into());
        }
        if !self.writable {
            return Ok(None);
        }
        assert!(!self.relay_fin, "bytes behind the FIN");
        let room = self.outgoing_room - self.outgoing.len();
        if room == 0 {
            self.writable = false;
            self.nospace = true;
            return Ok(None);
        }
        Ok(Some(room.min(len)))
    }
}

struct SimEnds<'s> {
    source: &'s RefCell<Sim>,
    drain: &'s RefCell<Sim>,
}

impl Ends for SimEnds<'_> {
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Take> {
        let (take, bytes) = self.source.borrow_mut().read(buf.len(), false)?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(take)
    }

    fn fill(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Take> {
        let len = len.min(pipe.room());
        let (take, bytes) = self.source.borrow_mut().read(len, true)?;
        if !bytes.is_empty() {
            assert_eq!(pipe.write(&bytes)?, bytes.len());
        }
        Ok(take)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<Put> {
        let mut drain = self.drain.borrow_mut();
        let Some(count) = drain.room(bytes.len())? else { return Ok(Put::Full) };
        drain.outgoing.extend(&bytes[..count]);
        Ok(Put::Bytes(count))
    }

    fn drain(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Put> {
        let mut drain = self.drain.borrow_mut();
        let Some(count) = drain.room(len)? else { return Ok(Put::Full) };
        let mut buf = vec![0; count];
        let count = pipe.read(&mut buf)?;
        drain.outgoing.extend(&buf[..count]);
        Ok(Put::Bytes(count))
    }

    fn low_water(&mut self, bytes: Option<u32>) -> io::Result<()> {
        let mut source = self.source.borrow_mut();
        source.low_water = bytes.map_or(1, |bytes| bytes as usize);
        source.readable |= source.incoming.len() >= source.low_water;
        Ok(())
    }
}

/// The simulated sockets are streams.
impl datagram::Ends for SimEnds<'_> {
    fn receive(&mut self, _: &mut Batch, _: usize) -> io::Result<Received> {
        unreachable!()
    }

    fn next_len(&mut self) -> io::Result<Option<usize>> {
        unreachable!()
    }

    fn send(&mut self, _: &Batch, _: &Plan) -> io::Result<usize> {
        unreachable!()
    }

    fn is_over(&self) -> bool {
        unreachable!()
    }
}

/// One run. With `calm` nobody resets and everything must arrive.
fn run(seed: u64, calm: bool) {
    let mut random = Random(seed ^ 0x5eed);
    let (a, b) = (RefCell::new(Sim::new(0, seed)), RefCell::new(Sim::new(1, seed)));
    let engines = [EngineChoice::Auto, EngineChoice::Pipe, EngineChoice::Copy];
    let idle = (!calm && random.chance(3)).then_some(Duration::from_millis(50));
    let limits = Limits { idle, engine: engines[random.below(3) as usize], ..Limits::default() };
    let mut now = Instant::now();
    let one_way = |_, limits| Ok(Lane::Stream(Mover::new(limits, true, now)));
    let Ok(mut duplex) = Duplex::new::<Infallible>(limits, OnMax::EndDirection, one_way);
    let mut store = Store::new(64 * 1024, 2);
    let budget = if random.chance(2) { 1 << 20 } else { 3000 };
    let mut ended = false;
    // Far more than a run needs; a pair that hangs is found at the end of it.
    for event in 0..1_000_000 {
        if event == 3000 {
            a.borrow_mut().finish();
            b.borrow_mut().finish();
        }
        for sim in [&a, &b] {
            sim.borrow_mut().peer_acts(calm);
        }
        now += Duration::from_millis(random.below(3));
        // The driver steps for a while after an event, as its loop does.
        for _ in 0..1 + random.below(3) {
            let mut up = SimEnds { source: &a, drain: &b };
            let mut down = SimEnds { source: &b, drain: &a };
            let then = duplex.step(&mut up, &mut down, &mut store, now, budget, |direction, _| {
                let to = match direction {
                    Direction::AToB => &b,
                    Direction::BToA => &a,
                };
                to.borrow_mut().relay_fin = true;
            });
            check(&duplex, &a.borrow(), &b.borrow(), calm);
            match then {
                DuplexThen::End => ended = true,
                DuplexThen::Wait { a_to_b, b_to_a } => {
                    let guarded = duplex.deadline().is_some();
                    no_wait_in_vain(a_to_b, &a.borrow(), &b.borrow(), guarded, seed);
                    no_wait_in_vain(b_to_a, &b.borrow(), &a.borrow(), guarded, seed);
                }
            }
        }
        if ended {
            break;
        }
    }
    if calm {
        assert!(ended, "seed {seed}: the pair did not end");
        let (a, b) = (a.into_inner(), b.into_inner());
        assert!(a.relay_fin && b.relay_fin, "seed {seed}: a half-close was not carried");
        for (from, to) in [(&a, &b), (&b, &a)] {
            let arrived = to.peer_got + to.outgoing.len();
            assert_eq!(arrived, from.peer_wrote, "seed {seed}: bytes lost at the end");
        }
        assert_eq!(duplex.into_ends().cause(), crate::Cause::Eof);
    }
}

fn check(duplex: &Duplex, a: &Sim, b: &Sim, calm: bool) {
    let (up, down) = duplex.carried();
    for (from, to, carried) in [(a, b, up), (b, a, down)] {
        let out = to.peer_got + to.outgoing.len();
        assert_eq!(carried.total(), out as u64, "the count is not what the drain accepted");
        if to.relay_fin && calm {
            assert_eq!(out, from.peer_wrote, "a FIN before the last byte");
        }
    }
}

/// A direction that waits for what is there already, with no edge to come, hangs.
fn no_wait_in_vain(need: Option<Need>, source: &Sim, drain: &Sim, guarded: bool, seed: u64) {
    match need {
        Some(Need::Source) => assert!(
            source.readable || !source.has_something_to_read() || (guarded && source.low_water > 1),
            "seed {seed}: waits for a source that has bytes"
        ),
        Some(Need::Drain) => assert!(
            drain.writable || drain.outgoing.len() == drain.outgoing_room || drain.nospace,
            "seed {seed}: waits for a drain that has room"
        ),
        Some(Need::Turn) | None => {}
    }
}

#[test]
fn calm_pairs_deliver_everything() {
    for seed in 0..150 {
        run(seed, true);
    }
}

#[test]
fn hostile_pairs_keep_order_and_counts() {
    for seed in 0..150 {
        run(seed, false);
    }
}
