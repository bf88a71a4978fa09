//! `--max`, `--idle`, `--max-connections`, and a limit on descriptors that is met.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;
use support::pattern::Pattern;
use support::peers::{
    accept, addr, connect, descriptors_without_connections, finish, join, join_known, listener,
    someone_waits,
};
use support::{Descriptors, Relay, wait_until};

const MIB: u64 = 1 << 20;

fn write_and_forget(stream: &TcpStream, seed: u64, len: u64) {
    // The relay ends the connection meanwhile, as it should.
    let _ = Pattern::new(seed).write(stream, len);
}

const MAXIMA: [u64; 5] = [1, 65_535, 65_536, 100_001, 5 * MIB + 3];

#[test]
fn max_up_is_exact_to_the_byte() {
    let upstream = listener();
    for (engine, max) in
        ["auto", "pipe", "copy"].into_iter().flat_map(|e| MAXIMA.map(|max| (e, max)))
    {
        let relay = Relay::to(addr(&upstream), &["--engine", engine, &format!("--max={max}")]);
        let (client, server) = join(&relay, &upstream);
        thread::scope(|scope| {
            scope.spawn(|| write_and_forget(&client, 1, max + MIB));
            Pattern::new(1).expect_whole(&server, max);
        });
        let closed = relay.next_closed();
        assert_eq!((closed.up, closed.cause.as_str()), (max, "max"), "{engine}");
    }
}

#[test]
fn max_down_is_exact_to_the_byte() {
    let upstream = listener();
    for (engine, max) in
        ["auto", "pipe", "copy"].into_iter().flat_map(|e| MAXIMA.map(|max| (e, max)))
    {
        let relay = Relay::to(addr(&upstream), &["--engine", engine, &format!("--max={max}")]);
        let (client, server) = join(&relay, &upstream);
        thread::scope(|scope| {
            scope.spawn(|| write_and_forget(&server, 2, max + MIB));
            Pattern::new(2).expect_whole(&client, max);
        });
        let closed = relay.next_closed();
        assert_eq!((closed.down, closed.cause.as_str()), (max, "max"), "{engine}");
    }
}

#[test]
fn a_stream_that_ends_below_max_ends_by_itself() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &["--max=1000"]);
    let (client, server) = join(&relay, &upstream);
    Pattern::new(1).write(&client, 999).unwrap();
    finish(&client);
    Pattern::new(1).expect_whole(&server, 999);
    drop(server);
    let closed = relay.next_closed();
    assert_eq!((closed.up, closed.cause.as_str()), (999, "eof"));
}

/// A length above what one splice(2) takes was EINVAL for others, and for one of them
/// the end of every connection.
#[test]
fn a_max_above_2_gib_is_no_invalid_argument() {
    let upstream = listener();
    for max in
        ["--max=2147483648", "--max=3GB", "--max=9223372036854775807", "--max=18446744073709551615"]
    {
        for engine in ["auto", "pipe"] {
            let relay = Relay::to(addr(&upstream), &[max, "--engine", engine]);
            let (client, server) = join(&relay, &upstream);
            thread::scope(|scope| {
                scope.spawn(|| {
                    Pattern::new(1).write(&client, 4 * MIB).unwrap();
                    finish(&client);
                });
                Pattern::new(1).expect_whole(&server, 4 * MIB);
            });
            drop(server);
            let closed = relay.next_closed();
            assert_eq!(
                (closed.up, closed.cause.as_str(), closed.engine.as_str()),
                (4 * MIB, "eof", "pipe")
            );
        }
    }
}

#[test]
fn an_idle_connection_ends_and_a_moving_one_does_not() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &["--idle=1s"]);
    for down in [false, true] {
        let (client, server) = join(&relay, &upstream);
        let (from, to) = if down { (&server, &client) } else { (&client, &server) };
        let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
        // Longer than the limit in all, and far below it each time. Only one way moves.
        for _ in 0..30 {
            sent.write(from, 100).unwrap();
            seen.expect(to, 100);
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(relay.lines("connection closed"), 0, "it moved");
        // Now nothing moves: both sides see an end, in whatever way.
        seen.expect_to_end(to);
        Pattern::new(2).expect_to_end(from);
        let closed = relay.next_closed();
        assert_eq!((closed.up + closed.down, closed.cause.as_str()), (3_000, "idle"));
    }
}

/// A reader that stands still moves nothing either; what it left unread is no reason to
/// keep the connection.
#[test]
fn a_full_connection_is_idle_too() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &["--idle=500ms", "--workers", "1"]);
    let (client, server) = join_known(&relay, &upstream);
    let _ = Pattern::new(1).write_until_full(&client, u64::MAX, Duration::from_millis(100));
    assert_eq!(relay.next_closed().cause, "idle");
    drop((client, server));
}

/// One connection at a time for all workers together: the others wait their turn.
#[test]
fn clients_over_max_connections_wait_and_are_served() {
    let upstream = listener();
    for workers in ["1", "2", "4"] {
        let flags = ["--max-connections=1", "--workers", workers];
        let relay = Relay::to(addr(&upstream), &flags);
        let first = join_known(&relay, &upstream);
        let waiting: Vec<_> = (1..=8)
            .map(|number| {
                let client = connect(relay.addr());
                Pattern::new(number).write(&client, 4).unwrap();
                client
            })
            .collect();
        // The relay works meanwhile, and lets nobody else through.
        for _ in 0..50 {
            Pattern::new(1).write(&first.0, 10).unwrap();
            Pattern::new(1).expect(&first.1, 10);
            assert!(!someone_waits(&upstream), "a second connection reached the upstream");
        }
        drop(first);
        // In no promised order, since each worker has a queue of its own.
        for _ in &waiting {
            let mut server = accept(&upstream);
            server.read_exact(&mut [0; 4]).unwrap();
            assert!(!someone_waits(&upstream), "two at a time");
            Pattern::new(0).write(&server, 9).unwrap();
            drop(server);
            // Its client may still be open; the relay waits for its end.
            wait_until("the connection has ended", || {
                for client in &waiting {
                    let _ = client.shutdown(std::net::Shutdown::Write);
                }
                relay.lines("connection closed") > 0
            });
            while relay.lines("connection closed") > 0 {
                relay.next_closed();
            }
        }
        for client in &waiting {
            Pattern::new(0).expect_whole(client, 9);
        }
    }
}

const PAUSED: &str =
    "accepting paused until sessions end; raise the limit (ulimit -n) or lower --max-connections";

/// The limit falls while the relay runs, below what it was started with.
struct Exhausted {
    relay: Relay,
    upstream: TcpListener,
    before: Descriptors,
    served: Vec<(TcpStream, TcpStream)>,
    waiting: Vec<TcpStream>,
}

impl Exhausted {
    /// Connections until `free` descriptors are used up, and clients that wait.
    fn new(free: u64) -> Self {
        let upstream = listener();
        let relay = Relay::to(addr(&upstream), &["--workers", "1"]);
        let before = descriptors_without_connections(&relay, &upstream);
        let mut this = Self { relay, upstream, before, served: Vec::new(), waiting: Vec::new() };
        this.exhaust(free);
        this
    }

    fn exhaust(&mut self, free: u64) {
        self.relay.leave_descriptors(free);
        self.served = (0..free / 2).map(|_| join_known(&self.relay, &self.upstream)).collect();
        self.waiting = (0..20).map(|_| connect(self.relay.addr())).collect();
        self.relay.next(PAUSED);
    }

    /// It told once, it rests, and those that are served do not notice.
    fn assert_paused(&mut self) {
        self.relay.assert_rests("no descriptor left");
        assert_eq!(self.relay.lines(PAUSED), 0, "one line an episode");
        self.relay.assert_running();
        for (client, server) in &self.served {
            Pattern::new(1).write(client, 100_000).unwrap();
            Pattern::new(1).expect(server, 100_000);
        }
    }
}

#[test]
fn running_out_of_descriptors_pauses_and_recovers() {
    const FREE: u64 = 20;
    let mut state = Exhausted::new(FREE);
    for _ in 0..2 {
        state.assert_paused();
        state.served.clear();
        state.waiting.clear();
        state.relay.next("accepting again");
        // With room for all, so that the next client is not turned away with them.
        state.relay.limit_descriptors(1_000);
        // One worker takes its clients in their order: when the next one is served, those
        // who waited are gone, served or not. Their connections may come through first.
        let mut last = connect(state.relay.addr());
        last.write_all(b"last").unwrap();
        while accept(&state.upstream).read_exact(&mut [0; 4]).is_err() {}
        drop(last);
        state.relay.wait_for_descriptors(state.before, 16);
        while state.relay.lines(PAUSED) > 0 {
            state.relay.next(PAUSED);
        }
        state.exhaust(FREE);
    }
}

fn nobody_is_turned_away(free: u64) {
    let mut state = Exhausted::new(free);
    state.assert_paused();
    state.served.clear();
    for client in &state.waiting {
        finish(client);
    }
    for client in &state.waiting {
        // The clients are alike, and so are the upstream's ends of them.
        drop(accept(&state.upstream));
        assert_eq!(
            state.relay.lines("connection refused"),
            0,
            "{client:?} or another was turned away"
        );
    }
    for client in &state.waiting {
        Pattern::new(0).expect_end(client);
    }
    state.relay.wait_for_descriptors(state.before, 16);
}

/// The last descriptor must not be spent on a client whose upstream then has none: that
/// client would be turned away, and the next, with three lines each time.
#[test]
fn the_last_descriptor_is_not_spent_on_half_a_connection() {
    nobody_is_turned_away(21);
}

/// Nor may the descriptors that come free be spent on halves of as many connections.
#[test]
fn those_who_waited_for_descriptors_are_served() {
    nobody_is_turned_away(20);
}
