//! Every byte arrives, once and in order, whatever the size, the engine and the family.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;
use support::Relay;
use support::pattern::Pattern;
use support::peers::{
    Silent, accept, addr, connect, connect_with_buffer, finish, join, listener, listener_on,
    listener_with_buffer,
};

const MIB: u64 = 1 << 20;

/// Around one byte, one segment of Ethernet, the copy engine's buffer, and bulk.
const SIZES: [u64; 7] = [0, 1, 1_448, 65_535, 65_536, 65_537, 64 * MIB];

/// Sends `up` and `down` at the same time, each with its FIN, and checks both.
fn exchange(client: &TcpStream, server: &TcpStream, up: u64, down: u64) {
    let send = |stream: &TcpStream, seed, len| {
        Pattern::new(seed).write(stream, len).unwrap();
        finish(stream);
    };
    thread::scope(|scope| {
        scope.spawn(|| send(client, 1, up));
        scope.spawn(|| send(server, 2, down));
        scope.spawn(|| Pattern::new(1).expect_whole(server, up));
        Pattern::new(2).expect_whole(client, down);
    });
}

fn sizes_both_ways(engine: &str) {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &["--engine", engine]);
    for size in SIZES {
        // The same size both ways would not show the counts changed over.
        let (up, down) = (size, SIZES[SIZES.len() - 1].min(size + 3));
        let (client, server) = join(&relay, &upstream);
        exchange(&client, &server, up, down);
        let closed = relay.next_closed();
        assert_eq!((closed.up, closed.down, closed.cause.as_str()), (up, down, "eof"));
        assert_eq!(closed.client, client.local_addr().unwrap().to_string());
        assert_eq!(closed.upstream, addr(&upstream).to_string());
        match engine {
            "copy" => assert_eq!((closed.up_pipe, closed.down_pipe), (0, 0)),
            "pipe" => assert_eq!((closed.up_copy, closed.down_copy), (0, 0)),
            _ => {}
        }
    }
}

#[test]
fn every_size_arrives_whole_when_the_flow_chooses() {
    sizes_both_ways("auto");
}

#[test]
fn every_size_arrives_whole_by_the_pipe() {
    sizes_both_ways("pipe");
}

#[test]
fn every_size_arrives_whole_by_the_copy() {
    sizes_both_ways("copy");
}

/// Sizes at which the flow is about to change its engine, each on a connection of its
/// own, and in pieces of odd length on one.
#[test]
fn a_change_of_engine_loses_and_repeats_nothing() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &[]);
    for size in (1..=12).flat_map(|n| [n * 65_536 - 1, n * 65_536, n * 65_536 + 1]) {
        let (client, server) = join(&relay, &upstream);
        exchange(&client, &server, size, size / 2);
    }
    let (client, server) = join(&relay, &upstream);
    let (mut out, mut seen) = (Pattern::new(9), Pattern::new(9));
    for round in 0..200_u64 {
        // Large, small, large: through the pipe and back to the copy each time.
        let size = [300_001, 17, 70_003, 16_385, 1][(round % 5) as usize] + round;
        thread::scope(|scope| {
            scope.spawn(|| out.write(&client, size).unwrap());
            seen.expect(&server, size);
        });
    }
    finish(&client);
    seen.expect_end(&server);
}

fn families(listen: &str, connect_to: &str, target: &str) {
    let upstream = listener_on(target.parse().unwrap());
    let relay = Relay::start(&[listen, &addr(&upstream).to_string()]);
    let to: SocketAddr = format!("{connect_to}:{}", relay.addr().port()).parse().unwrap();
    let client = connect(to);
    let server = accept(&upstream);
    exchange(&client, &server, 3 * MIB + 1, 2 * MIB + 5);
    let closed = relay.next_closed();
    assert_eq!((closed.up, closed.down), (3 * MIB + 1, 2 * MIB + 5));
    assert!(closed.up_pipe > 0 && closed.down_pipe > 0, "not spliced: {closed:?}");
}

#[test]
fn ipv6_reaches_ipv6() {
    families("[::1]:0", "[::1]", "[::1]:0");
}

#[test]
fn ipv6_reaches_ipv4() {
    families("[::1]:0", "[::1]", "127.0.0.1:0");
}

#[test]
fn ipv4_reaches_ipv6() {
    families("127.0.0.1:0", "127.0.0.1", "[::1]:0");
}

#[test]
fn every_address_means_both_families() {
    families(":0", "127.0.0.1", "127.0.0.1:0");
    families(":0", "[::1]", "127.0.0.1:0");
}

fn read_slowly(stream: &TcpStream, seed: u64, len: u64) {
    let mut seen = Pattern::new(seed);
    // Odd chunks, and rests while the relay fills up behind them.
    seen.expect_slowly(stream, 100_003, 1_009, Duration::from_millis(1));
    seen.expect_slowly(stream, len - 100_003, 7_919, Duration::ZERO);
    seen.expect_end(stream);
}

/// The drain is full nearly all the time, so nearly every write is a part of what the
/// relay holds (the fault of a length counted for bytes that were not sent).
#[test]
fn a_slow_reader_with_small_buffers_gets_every_byte() {
    const LEN: u64 = 8 * MIB;
    for engine in ["auto", "pipe", "copy"] {
        let upstream = listener_with_buffer(16 * 1024);
        let relay = Relay::to(addr(&upstream), &["--engine", engine]);
        let client = connect_with_buffer(relay.addr(), 16 * 1024);
        let server = accept(&upstream);
        thread::scope(|scope| {
            for (stream, seed) in [(&client, 1), (&server, 2)] {
                scope.spawn(move || {
                    Pattern::new(seed).write(stream, LEN).unwrap();
                    finish(stream);
                });
            }
            scope.spawn(|| read_slowly(&server, 1, LEN));
            read_slowly(&client, 2, LEN);
        });
        let closed = relay.next_closed();
        assert_eq!((closed.up, closed.down, closed.cause.as_str()), (LEN, LEN, "eof"));
    }
}

/// The client sends everything, and its FIN, before the upstream has answered the SYN.
#[test]
fn bytes_sent_before_the_upstream_is_connected_arrive() {
    let mut upstream = Silent::new();
    let relay = Relay::to(upstream.addr(), &["--connect-timeout", "30s"]);
    let client = connect(relay.addr());
    // What fits into the kernel's buffers with nobody reading.
    Pattern::new(1).write(&client, 60_000).unwrap();
    finish(&client);
    upstream.wait_for_syn();
    upstream.answer();
    let server = accept(&upstream.listener);
    Pattern::new(1).expect_whole(&server, 60_000);
    Pattern::new(2).write(&server, MIB).unwrap();
    finish(&server);
    Pattern::new(2).expect_whole(&client, MIB);
    let closed = relay.next_closed();
    assert_eq!((closed.up, closed.down), (60_000, MIB));
}

/// The same on a fast path, where the bytes race with the connect: many times.
#[test]
fn bytes_sent_at_once_arrive() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &[]);
    for round in 0..200 {
        let client = connect(relay.addr());
        let len = [1, 700, 20_000, 60_000][round % 4];
        Pattern::new(round as u64).write(&client, len).unwrap();
        if round % 2 == 0 {
            finish(&client);
        }
        let server = accept(&upstream);
        let mut seen = Pattern::new(round as u64);
        seen.expect(&server, len);
        finish(&client);
        seen.expect_end(&server);
    }
}
