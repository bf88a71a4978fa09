//! Both ways, in the caller's thread and on workers.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use sosplice::{Cause, Limits, Splicer, splice_both};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use support::{pattern, read_exactly, reset, tcp_pair};

/// client -- (a = b) -- server
fn joined() -> (TcpStream, TcpStream, TcpStream, TcpStream) {
    let (client, a) = tcp_pair();
    let (b, server) = tcp_pair();
    (client, a, b, server)
}

#[test]
fn it_returns_when_both_directions_are_done_with_what_each_carried() {
    let (mut client, a, b, mut server) = joined();
    let relay = std::thread::spawn(move || splice_both(&a, &b, Limits::default()).unwrap());
    let up = pattern(5_000_000);
    let down = pattern(3_000_001);
    let (up_sent, down_sent) = (up.clone(), down.clone());
    let mut client_half = client.try_clone().unwrap();
    let mut server_half = server.try_clone().unwrap();
    let senders = [
        std::thread::spawn(move || {
            client_half.write_all(&up_sent).unwrap();
            client_half.shutdown(Shutdown::Write).unwrap();
        }),
        std::thread::spawn(move || {
            server_half.write_all(&down_sent).unwrap();
            server_half.shutdown(Shutdown::Write).unwrap();
        }),
    ];
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        got
    });
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert!(got == up && reader.join().unwrap() == down);
    for sender in senders {
        sender.join().unwrap();
    }
    let ends = relay.join().unwrap();
    assert_eq!((ends.a_to_b.cause, ends.a_to_b.bytes), (Cause::Eof, up.len() as u64));
    assert_eq!((ends.b_to_a.cause, ends.b_to_a.bytes), (Cause::Eof, down.len() as u64));
}

#[test]
fn a_half_close_is_carried_and_the_answer_comes_back() {
    let splicer = Splicer::new().unwrap();
    for first_is_client in [true, false] {
        let (client, a, b, server) = joined();
        let both = splicer.splice_both(&a, &b, Limits::default()).unwrap();
        let (mut first, mut second) =
            if first_is_client { (client, server) } else { (server, client) };
        first.write_all(b"question").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        second.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"question");
        assert!(both.end().is_none(), "the other direction is still open");
        second.write_all(b"answer").unwrap();
        drop(second);
        got.clear();
        first.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"answer");
        assert_eq!(both.wait().cause(), Cause::Eof);
        assert_eq!(both.carried().0.total() + both.carried().1.total(), 14);
    }
}

#[test]
fn one_idle_limit_serves_both_directions() {
    // Only one side talks, each time within the limit: nothing ends.
    let (mut client, a, b, mut server) = joined();
    let limits = Limits { idle: Some(Duration::from_secs(3)), ..Limits::default() };
    let splicer = Splicer::with_workers(1).unwrap();
    let both = splicer.splice_both(&a, &b, limits).unwrap();
    for _ in 0..5 {
        server.write_all(b"tick").unwrap();
        read_exactly(&mut client, 4);
    }
    assert!(both.end().is_none());
    drop(splicer);
    // And with nobody talking both end with the same cause.
    let limits = Limits { idle: Some(Duration::from_millis(30)), ..Limits::default() };
    let ends = splice_both(&a, &b, limits).unwrap();
    assert_eq!((ends.a_to_b.cause, ends.b_to_a.cause), (Cause::Idle, Cause::Idle));
}

#[test]
fn a_reset_on_one_side_ends_both_directions() {
    let (client, a, b, _server) = joined();
    let splicer = Splicer::with_workers(1).unwrap();
    let both = splicer.splice_both(&a, &b, Limits::default()).unwrap();
    reset(client);
    let ends = both.wait();
    assert!(matches!(ends.a_to_b.cause, Cause::SourceError(_)), "{ends:?}");
    assert!(matches!(ends.b_to_a.cause, Cause::DrainError(_)), "{ends:?}");
}

#[test]
fn max_bounds_each_direction_and_leaves_both_sockets_usable() {
    let (mut client, mut a, mut b, mut server) = joined();
    client.write_all(b"0123456789").unwrap();
    server.write_all(b"abcdefghij").unwrap();
    let limits = Limits { max: Some(4), ..Limits::default() };
    let ends = splice_both(&a, &b, limits).unwrap();
    assert_eq!((ends.a_to_b.cause, ends.b_to_a.cause), (Cause::Max, Cause::Max));
    assert_eq!(read_exactly(&mut server, 4), b"0123");
    assert_eq!(read_exactly(&mut client, 4), b"abcd");
    assert_eq!(read_exactly(&mut a, 6), b"456789");
    assert_eq!(read_exactly(&mut b, 6), b"efghij");
    // Not shut down: the caller goes on.
    a.write_all(b"!").unwrap();
    assert_eq!(read_exactly(&mut client, 1), b"!");
}
