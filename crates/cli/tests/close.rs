//! How a connection ends: no byte is lost before a FIN, a half-close goes on being one,
//! and a reset is learnt by the other side.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::net::sockopt::set_tcp_cork;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;
use support::pattern::{Ending, Pattern};
use support::peers::{
    ESTABLISHED, accept, addr, connect_with_buffer, finish, join, join_known, listener,
    listener_with_buffer, queues, reset,
};
use support::{Descriptors, Relay, wait_until};

const MIB: u64 = 1 << 20;

/// A connection on which nothing more could be sent for so long is full.
const FULL: Duration = Duration::from_millis(150);

/// A reader that leaves the relay's end of file standing before a full socket.
fn expect_whole_slowly(stream: &TcpStream, seed: u64, len: u64) {
    let mut seen = Pattern::new(seed);
    let first = len.min(20_000);
    seen.expect_slowly(stream, first, 4_099, Duration::from_millis(1));
    seen.expect_slowly(stream, len - first, 16_411, Duration::ZERO);
    seen.expect_end(stream);
}

/// The upstream sends and closes at once, the client is slow: the end of file reaches
/// the relay while its pipe and its socket buffer are full. 200 times for each engine,
/// with sizes from one byte to more than all buffers on the way.
fn server_closes_at_once(engine: &str) {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 50;
    let len = |round: u64| {
        [1, 1_448, 65_537, 300_000, 1_000_003, 2 * MIB + 17, 5 * MIB + 1][(round % 7) as usize]
            + round
    };
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &["--engine", engine]);
    let relay_addr = relay.addr();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let mut server = accept(&upstream);
                    // Connections may overtake each other: the client says which it is.
                    let mut number = [0; 8];
                    server.read_exact(&mut number).unwrap();
                    let number = u64::from_le_bytes(number);
                    Pattern::new(number).write(&server, len(number)).unwrap();
                }
            });
        }
        for thread in 0..THREADS {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let number = thread * ROUNDS + round;
                    let mut client = connect_with_buffer(relay_addr, 32 * 1024);
                    client.write_all(&number.to_le_bytes()).unwrap();
                    expect_whole_slowly(&client, number, len(number));
                }
            });
        }
    });
    let mut told: Vec<u64> = (0..THREADS * ROUNDS).map(|_| relay.next_closed().down).collect();
    let mut sent: Vec<u64> = (0..THREADS * ROUNDS).map(len).collect();
    told.sort_unstable();
    sent.sort_unstable();
    assert_eq!(told, sent);
}

#[test]
fn shutdown_waits_for_the_pipe() {
    server_closes_at_once("pipe");
}

#[test]
fn shutdown_waits_for_the_buffer() {
    server_closes_at_once("copy");
}

#[test]
fn shutdown_waits_whatever_the_flow_chose() {
    server_closes_at_once("auto");
}

/// The read that takes the last bytes meets the end of file as well.
#[test]
fn a_fin_in_the_segment_of_the_data_hides_no_byte() {
    for engine in ["auto", "pipe", "copy"] {
        let upstream = listener();
        let relay = Relay::to(addr(&upstream), &["--engine", engine]);
        for len in [1, 100, 1_448, 16_384, 60_000] {
            let (client, server) = join(&relay, &upstream);
            for (from, to, seed) in [(&server, &client, 1), (&client, &server, 2)] {
                // Corked bytes leave with the FIN and not before it.
                set_tcp_cork(from, true).unwrap();
                Pattern::new(seed).write(from, len).unwrap();
                finish(from);
                Pattern::new(seed).expect_whole(to, len);
            }
            let closed = relay.next_closed();
            assert_eq!((closed.up, closed.down, closed.cause.as_str()), (len, len, "eof"));
        }
    }
}

#[test]
fn a_client_that_half_closes_gets_its_answer() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &[]);
    for (request, answer) in [(0, 1), (1, 3 * MIB), (3 * MIB, 1), (MIB, 5 * MIB)] {
        let (client, server) = join(&relay, &upstream);
        thread::scope(|scope| {
            scope.spawn(|| {
                Pattern::new(1).write(&client, request).unwrap();
                finish(&client);
            });
            Pattern::new(1).expect_whole(&server, request);
            scope.spawn(|| {
                Pattern::new(2).write(&server, answer).unwrap();
                finish(&server);
            });
            Pattern::new(2).expect_whole(&client, answer);
        });
        let closed = relay.next_closed();
        assert_eq!((closed.up, closed.down, closed.cause.as_str()), (request, answer, "eof"));
    }
}

#[test]
fn a_server_that_half_closes_goes_on_receiving() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &[]);
    for (greeting, upload) in [(0, 1), (1, 3 * MIB), (3 * MIB, 1), (MIB, 5 * MIB)] {
        let (client, server) = join(&relay, &upstream);
        thread::scope(|scope| {
            scope.spawn(|| {
                Pattern::new(2).write(&server, greeting).unwrap();
                finish(&server);
            });
            Pattern::new(2).expect_whole(&client, greeting);
            scope.spawn(|| {
                Pattern::new(1).write(&client, upload).unwrap();
                finish(&client);
            });
            Pattern::new(1).expect_whole(&server, upload);
        });
        let closed = relay.next_closed();
        assert_eq!((closed.up, closed.down, closed.cause.as_str()), (upload, greeting, "eof"));
    }
}

/// Both ends have sent their FIN, and only then does either read, slowly: HAProxy 2.6
/// cut up to 4 MiB here.
#[test]
fn two_fins_cut_no_slow_reader() {
    const LEN: u64 = 4 * MIB;
    for engine in ["auto", "pipe", "copy"] {
        let upstream = listener_with_buffer(64 * 1024);
        let relay = Relay::to(addr(&upstream), &["--engine", engine]);
        for _ in 0..6 {
            let client = connect_with_buffer(relay.addr(), 64 * 1024);
            let server = accept(&upstream);
            thread::scope(|scope| {
                for (stream, seed) in [(&client, 1), (&server, 2)] {
                    // The kernel may not take all of it before somebody reads.
                    scope.spawn(move || {
                        let mut sent = Pattern::new(seed);
                        sent.write_until_full(stream, LEN, FULL).unwrap();
                        let left = LEN - sent.at();
                        sent.write(stream, left).unwrap();
                        finish(stream);
                    });
                }
                scope.spawn(|| expect_whole_slowly(&server, 1, LEN));
                expect_whole_slowly(&client, 2, LEN);
            });
            let closed = relay.next_closed();
            assert_eq!((closed.up, closed.down, closed.cause.as_str()), (LEN, LEN, "eof"));
        }
    }
}

/// A relay with one worker, and its descriptors without a connection. It had one in bulk
/// already, so that whatever it makes once is made.
fn warm_relay(upstream: &TcpListener, engine: &str) -> (Relay, Descriptors) {
    let relay = Relay::to(addr(upstream), &["--workers", "1", "--engine", engine]);
    let (client, server) = join(&relay, upstream);
    thread::scope(|scope| {
        scope.spawn(|| Pattern::new(1).write(&client, 2 * MIB).unwrap());
        Pattern::new(1).expect(&server, 2 * MIB);
    });
    // Looked at while the connection is there: after it, its sockets may be closed or not.
    let mut without = relay.descriptors();
    without.sockets -= 2;
    drop((client, server));
    relay.next_closed();
    relay.wait_for_descriptors(without, 1);
    (relay, without)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Client,
    Server,
}

/// Fills the connection in the given directions, resets one side, and reads the other
/// to its end, which must be a failure.
fn reset_is_learnt(engine: &str, up: bool, down: bool) {
    let upstream = listener();
    let (relay, before) = warm_relay(&upstream, engine);
    for who in [Who::Client, Who::Server, Who::Client, Who::Server] {
        let (client, server) = join_known(&relay, &upstream);
        if up {
            Pattern::new(1).write_until_full(&client, u64::MAX, FULL).unwrap();
        }
        if down {
            Pattern::new(2).write_until_full(&server, u64::MAX, FULL).unwrap();
        }
        let (gone, left, seed) = match who {
            Who::Client => (client, server, 1),
            Who::Server => (server, client, 2),
        };
        reset(gone);
        let ending = Pattern::new(seed).expect_to_end(&left);
        assert!(
            matches!(ending, Ending::Failed(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)),
            "{who:?} reset, full up {up}, down {down}: the other side saw {ending:?}"
        );
        let closed = relay.next_closed();
        assert!(closed.cause.contains("error") || closed.cause.contains("closed"), "{closed:?}");
        drop(left);
        // Two pipes at most were in use at once; a full one is closed, not kept.
        relay.wait_for_descriptors(before, 1);
    }
    // And a connection after them gets none of their bytes.
    let (client, server) = join(&relay, &upstream);
    thread::scope(|scope| {
        scope.spawn(|| {
            Pattern::new(5).write(&client, 2 * MIB).unwrap();
            finish(&client);
        });
        Pattern::new(5).expect_whole(&server, 2 * MIB);
    });
}

#[test]
fn a_reset_of_an_idle_connection_is_learnt() {
    reset_is_learnt("auto", false, false);
}

#[test]
fn a_reset_behind_a_full_pipe_leaks_no_pipe() {
    reset_is_learnt("pipe", true, false);
    reset_is_learnt("pipe", false, true);
    reset_is_learnt("pipe", true, true);
}

#[test]
fn a_reset_behind_a_full_buffer_is_learnt() {
    reset_is_learnt("copy", true, true);
}

#[test]
fn a_reset_in_bulk_is_learnt() {
    reset_is_learnt("auto", true, true);
}

/// The peer of the one that reset does not read, so its direction waits for room: the
/// reset must end the session all the same, or both sockets stay for ever.
fn reset_before_a_reader_that_stands_still(who: Who) {
    let upstream = listener();
    let (relay, before) = warm_relay(&upstream, "auto");
    let (client, server) = join_known(&relay, &upstream);
    let (gone, left) = match who {
        Who::Client => (client, server),
        Who::Server => (server, client),
    };
    Pattern::new(1).write_until_full(&gone, u64::MAX, FULL).unwrap();
    reset(gone);
    wait_until("the reset ends the session", || relay.lines("connection closed") > 0);
    relay.wait_for_descriptors(before, 1);
    drop(left);
}

#[test]
fn a_reset_client_does_not_stay_before_an_upstream_that_stands_still() {
    reset_before_a_reader_that_stands_still(Who::Client);
}

#[test]
fn a_reset_upstream_does_not_stay_before_a_client_that_stands_still() {
    reset_before_a_reader_that_stands_still(Who::Server);
}

/// The client closes with answers unread and more to come: the upstream must learn that
/// nobody reads, though the client's FIN alone does not say so.
#[test]
fn a_client_that_leaves_stops_the_upstream() {
    let upstream = listener();
    let (relay, before) = warm_relay(&upstream, "auto");
    for unread in [true, false] {
        let (mut client, server) = join(&relay, &upstream);
        let mut sent = Pattern::new(1);
        sent.write(&server, 100_000).unwrap();
        if unread {
            client.read_exact(&mut [0; 1]).unwrap();
        } else {
            Pattern::new(1).expect(&client, 100_000);
        }
        drop(client);
        let failed = loop {
            if let Err(error) = sent.write(&server, 65_536) {
                break error;
            }
        };
        assert!(
            matches!(failed.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            "{failed}"
        );
        relay.next_closed();
        drop(server);
        relay.wait_for_descriptors(before, 1);
    }
}

/// A relay that took the closed upstream's socket for one that is merely full would spin
/// or hang; one that took SIGPIPE would be gone.
#[test]
fn clients_that_reset_under_load_do_not_kill_the_relay() {
    for engine in ["auto", "pipe", "copy"] {
        let upstream = listener();
        let (mut relay, before) = warm_relay(&upstream, engine);
        for round in 0..40_u64 {
            let (client, server) = join(&relay, &upstream);
            thread::scope(|scope| {
                scope.spawn(move || {
                    // Until the relay's reset arrives.
                    let _ = Pattern::new(1).write(&server, 64 * MIB);
                });
                Pattern::new(1).expect(&client, 1 + round * 10_007);
                reset(client);
            });
            relay.next_closed();
        }
        relay.assert_running();
        relay.wait_for_descriptors(before, 1);
        let (client, server) = join(&relay, &upstream);
        Pattern::new(3).write(&client, 1_000).unwrap();
        Pattern::new(3).expect(&server, 1_000);
    }
}

/// What the relay has sent to a slow client is still on its way when the upstream resets:
/// the reset that the client must learn of may not throw it away.
#[test]
fn an_answer_before_a_reset_arrives_whole() {
    const LEN: u64 = 100_000;
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &[]);
    let client = connect_with_buffer(relay.addr(), 4_096);
    let server = accept(&upstream);
    Pattern::new(1).write(&server, LEN).unwrap();
    let relay_end = server.peer_addr().unwrap().port();
    wait_until("the relay has taken the answer", || {
        let unread = queues(relay_end, ESTABLISHED).map(|(_, arrived)| arrived);
        let unsent = queues(addr(&upstream).port(), ESTABLISHED).map(|(sent, _)| sent);
        (unread, unsent) == (Some(0), Some(0))
    });
    reset(server);
    let closed = relay.next_closed();
    assert_eq!(closed.down, LEN);
    let mut seen = Pattern::new(1);
    seen.expect(&client, LEN);
    assert_eq!(seen.expect_to_end(&client), Ending::Failed(ErrorKind::ConnectionReset));
}
