//! Many connections: at once, one after another, and idle.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use support::pattern::Pattern;
use support::peers::{
    accept, addr, connect, descriptors_without_connections, finish, join, join_known, listener,
};
use support::{Relay, raise_descriptor_limit, skip};

/// A connection on which nothing more could be sent for so long is full.
const FULL: Duration = Duration::from_millis(150);

/// All are open before the first byte moves, and each has streams of its own, so that
/// bytes given to the wrong connection are seen.
#[test]
fn three_hundred_at_once_get_their_own_bytes() {
    const COUNT: u64 = 300;
    raise_descriptor_limit();
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &["--workers", "2"]);
    let before = descriptors_without_connections(&relay, &upstream);
    let pairs: Vec<_> = (0..COUNT).map(|_| join(&relay, &upstream)).collect();
    let (clients, servers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let len = |number: u64| 100_000 + number * 1_009;
    let exchange = |stream: &TcpStream, number: u64, out: u64, back: u64| {
        thread::scope(|scope| {
            scope.spawn(|| {
                Pattern::new(2 * number + out).write(stream, len(number)).unwrap();
                finish(stream);
            });
            Pattern::new(2 * number + back).expect_whole(stream, len(number));
        });
    };
    thread::scope(|scope| {
        for mut server in servers {
            scope.spawn(move || {
                // Two workers: what was accepted first need not have been sent first.
                let mut number = [0; 8];
                server.read_exact(&mut number).unwrap();
                exchange(&server, u64::from_le_bytes(number), 1, 0);
            });
        }
        for (number, mut client) in (0..COUNT).zip(clients) {
            scope.spawn(move || {
                client.write_all(&number.to_le_bytes()).unwrap();
                exchange(&client, number, 0, 1);
            });
        }
    });
    let mut told: Vec<_> =
        (0..COUNT).map(|_| relay.next_closed()).map(|c| (c.up, c.down)).collect();
    told.sort_unstable();
    let sent: Vec<_> = (0..COUNT).map(|number| (len(number) + 8, len(number))).collect();
    assert_eq!(told, sent);
    relay.wait_for_descriptors(before, 32);
}

#[test]
fn two_thousand_short_ones_leak_no_descriptor() {
    const ROUNDS: u64 = 500;
    const THREADS: u64 = 4;
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &["--workers", "2"]);
    let before = descriptors_without_connections(&relay, &upstream);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let mut server = accept(&upstream);
                    let mut request = Vec::new();
                    server.read_to_end(&mut request).unwrap();
                    server.write_all(&request).unwrap();
                }
            });
        }
        for thread in 0..THREADS {
            let to = relay.addr();
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let client = connect(to);
                    let (number, len) = (thread * ROUNDS + round, 1 + round * 7);
                    Pattern::new(number).write(&client, len).unwrap();
                    finish(&client);
                    Pattern::new(number).expect_whole(&client, len);
                }
            });
        }
    });
    for _ in 0..THREADS * ROUNDS {
        let closed = relay.next_closed();
        assert_eq!((closed.up, closed.cause.as_str()), (closed.down, "eof"));
    }
    relay.wait_for_descriptors(before, 0);
}

/// A thousand connections that were used, some in bulk, and then rest.
#[test]
fn idle_connections_hold_no_pipe_and_cost_no_cpu() {
    const COUNT: usize = 1_000;
    /// Pipes that a worker keeps at rest.
    const POOL: usize = 16;
    // Two here and two in the relay for each.
    if raise_descriptor_limit() < 2 * COUNT as u64 + 600 {
        return skip("the limit on descriptors is below 2,600");
    }
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &["--workers", "1"]);
    let before = descriptors_without_connections(&relay, &upstream);
    let idle: Vec<_> = (0..COUNT).map(|_| join_known(&relay, &upstream)).collect();
    // So many stand full at a time that the relay holds more pipes than it keeps.
    let full = &idle[..2 * POOL];
    let written: Vec<u64> = thread::scope(|scope| {
        let fill = |client| {
            let mut sent = Pattern::new(1);
            sent.write_until_full(client, u64::MAX, FULL).unwrap();
            sent.at()
        };
        let fillers: Vec<_> = full.iter().map(|pair| scope.spawn(move || fill(&pair.0))).collect();
        fillers.into_iter().map(|filler| filler.join().unwrap()).collect()
    });
    let held = relay.descriptors().pipe_ends - before.pipe_ends;
    assert!(held > 2 * POOL, "too few pipes were held to see one kept: {held} ends");
    for ((_, server), len) in full.iter().zip(written) {
        Pattern::new(1).expect(server, len);
    }
    let now = relay.descriptors();
    assert_eq!(now.sockets, before.sockets + 2 * COUNT);
    assert!(now.pipe_ends <= before.pipe_ends + 2 * POOL, "{before:?} became {now:?}");
    relay.assert_rests("1,000 idle connections");
    // They are not dead.
    for (client, server) in idle.iter().rev().take(100) {
        Pattern::new(7).write(client, 100).unwrap();
        Pattern::new(7).expect(server, 100);
    }
    drop(idle);
    for _ in 0..COUNT {
        relay.next_closed();
    }
    relay.wait_for_descriptors(before, POOL);
}
