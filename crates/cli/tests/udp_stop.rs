//! The end of a UDP relay: what SIGTERM lets go on, what it ends, and what it refuses.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::process::Signal;
use std::collections::HashSet;
use std::net::UdpSocket;
use support::datagrams::{
    Chatter, Echo, V4, addr, client, expect, expect_echo, is_quiet, join, name, next_end, relay_to,
    send, upstream,
};
use support::{Relay, number};

const STOPPING: &str = "stopping: accepting no more, waiting for running sessions";

/// Takes what has come, and then what is answered from now on.
#[track_caller]
fn is_served(client: &UdpSocket, number: u64) {
    while !is_quiet(client) {
        expect_echo(client, number, 10);
    }
    expect_echo(client, number, 10);
}

/// Stopping is not cutting: what is silent ends, what is not goes on. With several
/// workers, some of which end earlier: their clients are not those of the others.
#[test]
fn sigterm_ends_what_is_silent_and_serves_what_is_not() {
    for workers in ["--workers=1", "--workers=2", "--workers=8"] {
        let echo = Echo::start(V4);
        let target = echo.addr.to_string();
        let args = ["--udp", "127.0.0.1:0", &target, workers, "--drain-timeout=1h"];
        let mut relay = Relay::start(&args);
        let silent: Vec<_> = (0..8).map(|_| client(relay.addr())).collect();
        for client in &silent {
            send(client, 5, 100);
            expect_echo(client, 5, 100);
        }
        let busy: Vec<_> = (0..3).map(|_| client(relay.addr())).collect();
        let names: HashSet<_> = busy.iter().map(name).collect();
        let chatter: Vec<_> =
            (0..).zip(&busy).map(|(i, client)| Chatter::start(client, i, 10)).collect();
        for (number, client) in (0..).zip(&busy) {
            is_served(client, number);
        }
        relay.signal(Signal::TERM);
        for _ in &silent {
            let session = relay.next_session();
            assert_eq!((session.up_datagrams, session.cause.as_str()), (1, "stopping"));
            assert!(!names.contains(&session.client), "it was not silent: {session:?}");
        }
        for _ in 0..50 {
            for (number, client) in (0..).zip(&busy) {
                is_served(client, number);
            }
        }
        relay.assert_running();
        drop(chatter);
        assert_eq!(relay.wait().code(), Some(0));
        for _ in &busy {
            let (cause, client) = next_end(&relay);
            assert_eq!((cause.as_str(), names.contains(&client)), ("stopping", true));
        }
        let stopped = relay.next("stopped");
        assert_eq!((number(&stopped, "accepted"), number(&stopped, "evicted")), (11, 0));
    }
}

/// A client that comes when the relay stops must not be begun with: it would be cut off.
#[test]
fn sigterm_begins_no_session() {
    let upstreams = [upstream(), upstream()];
    let targets = [addr(&upstreams[0]), addr(&upstreams[1])];
    let mut relay = relay_to(&targets, &["--drain-timeout=1h"]);
    let (busy, silent) = (client(relay.addr()), client(relay.addr()));
    join(&busy, &upstreams[0], 10);
    join(&silent, &upstreams[1], 20);
    let chatter = Chatter::start(&busy, 1, 10);
    relay.signal(Signal::TERM);
    // The worker has heard of it when it ends this one.
    assert_eq!(next_end(&relay), ("stopping".to_owned(), name(&silent)));
    for number in 0..10 {
        send(&client(relay.addr()), 1_000 + number, 50);
    }
    drop(chatter);
    assert_eq!(relay.wait().code(), Some(0));
    assert!(is_quiet(&upstreams[1]), "an unknown client's datagram was sent on");
    while !is_quiet(&upstreams[0]) {
        expect(&upstreams[0], 1, 10);
    }
    assert_eq!(number(&relay.next("stopped"), "accepted"), 2);
}

/// However much is under way.
#[test]
fn a_second_sigterm_ends_at_once() {
    let echo = Echo::start(V4);
    let mut relay = relay_to(&[echo.addr], &["--drain-timeout=1h"]);
    let busy = client(relay.addr());
    let _chatter = Chatter::start(&busy, 1, 10);
    is_served(&busy, 1);
    relay.signal(Signal::TERM);
    relay.next(STOPPING);
    relay.assert_running();
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code(), Some(0));
    assert_eq!(next_end(&relay), ("cut".to_owned(), name(&busy)));
    assert_eq!(number(&relay.next("stopped"), "accepted"), 1);
}

#[test]
fn drain_timeout_cuts_a_session_that_goes_on() {
    let echo = Echo::start(V4);
    let mut relay = relay_to(&[echo.addr], &["--drain-timeout=0s"]);
    let client = client(relay.addr());
    send(&client, 1, 10);
    expect_echo(&client, 1, 10);
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code(), Some(0));
    assert_eq!(next_end(&relay), ("cut".to_owned(), name(&client)));
}
