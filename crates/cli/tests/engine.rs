//! Which engine carries what: bulk is spliced, messages are copied, and a flow that
//! changes what it does gets the other one without a stall.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};
use support::Relay;
use support::pattern::Pattern;
use support::peers::{addr, finish, join, listener};

const MIB: u64 = 1 << 20;

/// What a stall would make of the median of many rounds: Nagle's algorithm against a
/// delayed acknowledgement costs 40 ms each, a forgotten wake-up more. A round takes
/// well under a millisecond, so that a busy machine is far from it.
const STALL: Duration = Duration::from_millis(25);

/// Sends and checks `len` bytes from one end to the other.
#[track_caller]
fn carry(from: &TcpStream, to: &TcpStream, sent: &mut Pattern, seen: &mut Pattern, len: u64) {
    thread::scope(|scope| {
        scope.spawn(|| sent.write(from, len).unwrap());
        seen.expect(to, len);
    });
}

/// Both ends of a connection and how far each stream has come.
struct Talk {
    client: TcpStream,
    server: TcpStream,
    up: (Pattern, Pattern),
    down: (Pattern, Pattern),
}

impl Talk {
    fn new((client, server): (TcpStream, TcpStream)) -> Self {
        let both = |seed| (Pattern::new(seed), Pattern::new(seed));
        Self { client, server, up: both(1), down: both(2) }
    }

    fn up(&mut self, len: u64) {
        carry(&self.client, &self.server, &mut self.up.0, &mut self.up.1, len);
    }

    fn down(&mut self, len: u64) {
        carry(&self.server, &self.client, &mut self.down.0, &mut self.down.1, len);
    }

    /// A request and its answer, `rounds` times; the median of how long they took.
    fn ask(&mut self, rounds: usize, request: u64, answer: u64) -> Duration {
        let mut times: Vec<Duration> = (0..rounds)
            .map(|_| {
                let began = Instant::now();
                self.up(request);
                self.down(answer);
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[rounds / 2]
    }
}

#[test]
fn bulk_is_spliced_by_default() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &[]);
    for up in [true, false] {
        let mut talk = Talk::new(join(&relay, &upstream));
        if up {
            talk.up(64 * MIB);
        } else {
            talk.down(64 * MIB);
        }
        drop(talk);
        let closed = relay.next_closed();
        assert_eq!(closed.engine, "pipe");
        assert_eq!(closed.up + closed.down, 64 * MIB);
        let pipe = closed.up_pipe + closed.down_pipe;
        assert!(pipe * 100 >= 64 * MIB * 99, "{pipe} bytes of 64 MiB were spliced: {closed:?}");
    }
}

#[test]
fn messages_are_copied_by_default() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &[]);
    for size in [1, 64, 1_000] {
        let mut talk = Talk::new(join(&relay, &upstream));
        let median = talk.ask(300, size, size);
        assert!(median < STALL, "{size} bytes: {median:?}");
        drop(talk);
        let closed = relay.next_closed();
        assert_eq!((closed.up, closed.down), (300 * size, 300 * size));
        assert_eq!((closed.up_pipe, closed.down_pipe, closed.engine.as_str()), (0, 0, "copy"));
    }
}

/// Waiting for more bytes suits bulk; a message behind it must not wait.
#[test]
fn messages_after_bulk_do_not_stall() {
    for engine in ["auto", "pipe", "copy"] {
        let upstream = listener();
        let relay = Relay::to(addr(&upstream), &["--engine", engine]);
        for up in [true, false] {
            let mut talk = Talk::new(join(&relay, &upstream));
            if up {
                talk.up(64 * MIB);
            } else {
                talk.down(64 * MIB);
            }
            let median = talk.ask(200, 64, 64);
            assert!(median < STALL, "{engine}, after bulk up {up}: {median:?}");
            drop(talk);
            let closed = relay.next_closed();
            if engine == "auto" {
                assert!(closed.up_pipe + closed.down_pipe >= 63 * MIB, "{closed:?}");
                // A few messages go the old way before the flow is believed to have changed.
                assert!(closed.up_copy >= 180 * 64 && closed.down_copy >= 180 * 64, "{closed:?}");
            }
        }
    }
}

/// Each message is bulk while it lasts, and each has a pause behind it.
#[test]
fn large_messages_do_not_stall() {
    for engine in ["auto", "pipe", "copy"] {
        let upstream = listener();
        let relay = Relay::to(addr(&upstream), &["--engine", engine]);
        let mut talk = Talk::new(join(&relay, &upstream));
        let median = talk.ask(100, MIB, MIB);
        assert!(median < STALL, "{engine}: {median:?}");
        let median = talk.ask(100, 100, MIB);
        assert!(median < STALL, "{engine}, small request: {median:?}");
        drop(talk);
        let closed = relay.next_closed();
        assert_eq!((closed.up, closed.down), (100 * MIB + 100 * 100, 200 * MIB));
        if engine == "auto" {
            assert_eq!(closed.engine, "pipe");
        }
    }
}

#[test]
fn messages_of_16_kib_after_bulk_do_not_stall() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &[]);
    let mut talk = Talk::new(join(&relay, &upstream));
    talk.down(64 * MIB);
    let median = talk.ask(200, 16 * 1024, 16 * 1024);
    assert!(median < STALL, "{median:?}");
}

/// One way only: no answer tells the relay that the burst is over, and the last bytes
/// are fewer than it may have asked the kernel to collect.
#[test]
fn the_tail_of_a_burst_is_not_held_back() {
    for engine in ["auto", "pipe"] {
        let upstream = listener();
        let relay = Relay::to(addr(&upstream), &["--engine", engine]);
        let mut talk = Talk::new(join(&relay, &upstream));
        for round in 0..30 {
            talk.up(8 * MIB);
            talk.up([1, 64, 1_449, 100_003, 262_143][round % 5]);
            talk.up(1);
        }
        finish(&talk.client);
        talk.up.1.expect_end(&talk.server);
    }
}

#[test]
fn a_forced_engine_is_kept() {
    let upstream = listener();
    for (engine, other) in [("pipe", "copy"), ("copy", "pipe")] {
        let relay = Relay::to(addr(&upstream), &["--engine", engine]);
        let mut talk = Talk::new(join(&relay, &upstream));
        talk.ask(50, 64, 64);
        talk.down(8 * MIB);
        talk.ask(50, 64, 64);
        drop(talk);
        let closed = relay.next_closed();
        assert_eq!(closed.engine, engine);
        let by_other = match other {
            "copy" => closed.up_copy + closed.down_copy,
            _ => closed.up_pipe + closed.down_pipe,
        };
        assert_eq!(by_other, 0, "{closed:?}");
    }
}

#[test]
fn a_connection_without_a_byte_has_no_engine() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &[]);
    drop(join(&relay, &upstream));
    let closed = relay.next_closed();
    assert_eq!((closed.up, closed.down, closed.engine.as_str()), (0, 0, "none"));
}
