//! Faults of other relays, each with a test of its own.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use socket2::SockRef;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use support::Relay;
use support::pattern::Pattern;
use support::peers::{
    addr, connect_with_buffer, finish, join, join_known, listener, listener_with_buffer,
};

const MIB: u64 = 1 << 20;
const ENGINES: [&str; 3] = ["auto", "pipe", "copy"];

/// A connection on which nothing more could be sent for so long is full.
const FULL: Duration = Duration::from_millis(150);

fn urgent(stream: &TcpStream) {
    assert_eq!(SockRef::from(stream).send_out_of_band(&[0xff]).unwrap(), 1);
}

/// splice(2) stops at the urgent mark for ever. The relay steps over it: the urgent byte
/// itself is out of band and goes no further, and every byte in band arrives.
#[test]
fn urgent_data_does_not_hang_the_flow() {
    for engine in ENGINES {
        let upstream = listener();
        let relay = Relay::to(addr(&upstream), &["--engine", engine]);
        for down in [false, true] {
            let (client, server) = join(&relay, &upstream);
            let (from, to) = if down { (&server, &client) } else { (&client, &server) };
            let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
            for round in 0..20 {
                // Before the mark little or much, so that either engine is at work.
                let before = [0, 1, 100, 70_000, MIB][round % 5];
                thread::scope(|scope| {
                    scope.spawn(|| {
                        sent.write(from, before).unwrap();
                        urgent(from);
                        sent.write(from, 100_003).unwrap();
                    });
                    // The next round's mark makes the byte of this one in band if that
                    // is still unread, so this one is read first.
                    seen.expect(to, before + 100_003);
                });
            }
            finish(from);
            seen.expect_end(to);
            finish(to);
            let closed = relay.next_closed();
            let in_band = sent.at();
            assert_eq!(
                (closed.up.max(closed.down), closed.cause.as_str()),
                (in_band, "eof"),
                "{engine}"
            );
        }
    }
}

/// Nothing behind the mark: the byte alone, then rest, then the end.
#[test]
fn an_urgent_byte_at_the_end_neither_spins_nor_hides_the_end() {
    for engine in ENGINES {
        let upstream = listener();
        let relay = Relay::to(addr(&upstream), &["--engine", engine, "--workers", "1"]);
        let (client, server) = join_known(&relay, &upstream);
        let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
        sent.write(&client, 200_000).unwrap();
        seen.expect(&server, 200_000);
        urgent(&client);
        relay.assert_rests("an urgent byte is pending");
        sent.write(&client, 1_000).unwrap();
        seen.expect(&server, 1_000);
        urgent(&client);
        finish(&client);
        seen.expect_end(&server);
        finish(&server);
        assert_eq!(relay.next_closed().cause, "eof");
    }
}

/// One EAGAIN may mean an empty socket or a full pipe: who guesses, spins or hangs.
#[test]
fn a_full_connection_costs_no_cpu() {
    for engine in ENGINES {
        let upstream = listener();
        let relay = Relay::to(addr(&upstream), &["--engine", engine, "--workers", "1"]);
        let (client, server) = join_known(&relay, &upstream);
        let (mut up, mut down) = (Pattern::new(1), Pattern::new(2));
        up.write_until_full(&client, u64::MAX, FULL).unwrap();
        down.write_until_full(&server, u64::MAX, FULL).unwrap();
        relay.assert_rests("both ways are full");
        // And it goes on, both ways, when there is room.
        let (up_len, down_len) = (up.at(), down.at());
        finish(&client);
        finish(&server);
        Pattern::new(1).expect_whole(&server, up_len);
        Pattern::new(2).expect_whole(&client, down_len);
        let closed = relay.next_closed();
        assert_eq!(
            (closed.up, closed.down, closed.cause.as_str()),
            (up_len + 1, down_len + 1, "eof")
        );
    }
}

#[test]
fn a_half_closed_connection_costs_no_cpu_and_lives_on() {
    for engine in ENGINES {
        let upstream = listener();
        let relay = Relay::to(addr(&upstream), &["--engine", engine, "--workers", "1"]);
        for client_first in [true, false] {
            let (client, server) = join_known(&relay, &upstream);
            let (first, second) =
                if client_first { (&client, &server) } else { (&server, &client) };
            finish(first);
            Pattern::new(0).expect_end(second);
            relay.assert_rests("half closed");
            Pattern::new(1).write(second, 100_000).unwrap();
            finish(second);
            Pattern::new(1).expect_whole(first, 100_000);
            assert_eq!(relay.next_closed().cause, "eof");
        }
    }
}

/// SPLICE_F_MORE made others' small messages wait 200 ms for more; TCP_CORK and Nagle's
/// algorithm do the like. Here each message must be seen before the next is sent, with
/// no answer that would carry an acknowledgement.
#[test]
fn a_message_waits_for_no_other() {
    for engine in ENGINES {
        let upstream = listener();
        let relay = Relay::to(addr(&upstream), &["--engine", engine]);
        let (client, server) = join_known(&relay, &upstream);
        let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
        let mut times: Vec<Duration> = (0..300)
            .map(|round| {
                let began = std::time::Instant::now();
                // Two writes: the second is what Nagle's algorithm would hold.
                let len = 1 + round % 900;
                sent.write(&client, len).unwrap();
                sent.write(&client, len).unwrap();
                seen.expect(&server, 2 * len);
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        assert!(times[150] < Duration::from_millis(20), "{engine}: {:?} in the median", times[150]);
    }
}

/// A request in two writes: in a conversation the second write meets the delayed
/// acknowledgement of the first, and Nagle's algorithm would hold it for 40 ms.
#[test]
fn the_second_half_of_a_request_waits_for_no_acknowledgement() {
    for engine in ENGINES {
        let upstream = listener();
        let relay = Relay::to(addr(&upstream), &["--engine", engine]);
        let (client, server) = join_known(&relay, &upstream);
        for (asks, answers) in [(&client, &server), (&server, &client)] {
            let (mut request, mut seen) = (Pattern::new(1), Pattern::new(1));
            let (mut answer, mut told) = (Pattern::new(2), Pattern::new(2));
            let mut times: Vec<Duration> = (0..100)
                .map(|_| {
                    let began = std::time::Instant::now();
                    for _ in 0..2 {
                        request.write(asks, 100).unwrap();
                        seen.expect(answers, 100);
                    }
                    answer.write(answers, 100).unwrap();
                    told.expect(asks, 100);
                    began.elapsed()
                })
                .collect();
            times.sort_unstable();
            assert!(times[50] < Duration::from_millis(20), "{engine}: {:?}", times[50]);
        }
    }
}

/// Where nothing else is asked for, bytes are spliced: others had it off by default, or
/// by an unlucky limit, and nobody noticed.
#[test]
fn splicing_is_not_silently_off() {
    let upstream = listener();
    for prepare in ["true", "ulimit -n 64", "ulimit -n 128", "ulimit -n 256"] {
        let target = addr(&upstream).to_string();
        let relay = Relay::start_after(prepare, &["127.0.0.1:0", &target, "--workers", "2"]);
        let (client, server) = join(&relay, &upstream);
        thread::scope(|scope| {
            scope.spawn(|| {
                Pattern::new(1).write(&client, 64 * MIB).unwrap();
                finish(&client);
            });
            Pattern::new(1).expect_whole(&server, 64 * MIB);
        });
        drop(server);
        let closed = relay.next_closed();
        assert!(closed.up_pipe * 100 >= closed.up * 99, "after {prepare}: {closed:?}");
    }
}

/// More flows that hold bytes than pipes that the descriptors allow: the rest is copied,
/// nobody waits for a pipe, nothing fails.
#[test]
fn more_full_flows_than_pipes_are_carried() {
    const COUNT: usize = 20;
    const LEN: u64 = 6 * MIB;
    for engine in ["auto", "pipe"] {
        let upstream = listener_with_buffer(64 * 1024);
        let target = addr(&upstream).to_string();
        let relay = Relay::start_after(
            "ulimit -n 80",
            &[
                "127.0.0.1:0",
                &target,
                "--workers",
                "1",
                "--engine",
                engine,
                "--max-connections",
                "24",
            ],
        );
        let clients: Vec<_> =
            (0..COUNT).map(|_| connect_with_buffer(relay.addr(), 64 * 1024)).collect();
        let servers: Vec<_> = (0..COUNT).map(|_| support::peers::accept(&upstream)).collect();
        thread::scope(|scope| {
            // All send the same, for the order of the two lists may differ.
            for stream in &clients {
                scope.spawn(move || {
                    Pattern::new(1).write(stream, LEN).unwrap();
                    finish(stream);
                });
            }
            // One after another: meanwhile the others stand full.
            for server in &servers {
                Pattern::new(1).expect_whole(server, LEN);
            }
        });
        drop(servers);
        for _ in 0..COUNT {
            let closed = relay.next_closed();
            assert_eq!((closed.up, closed.cause.as_str()), (LEN, "eof"));
        }
        assert_eq!(relay.lines("connection refused"), 0);
    }
}
