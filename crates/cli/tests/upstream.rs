//! Upstreams that refuse, keep silent or are one of several.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::ErrorKind;
use std::process::Command;
use support::pattern::{Ending, Pattern};
use support::peers::{Refusing, Silent, accept, addr, connect, finish, join, listener};
use support::{Relay, skip};

/// The client's connection must fail, not end: an end would look like an empty answer.
fn expect_reset(client: &std::net::TcpStream) {
    let ending = Pattern::new(1).expect_to_end(client);
    assert_eq!(ending, Ending::Failed(ErrorKind::ConnectionReset));
}

#[test]
fn a_refused_upstream_resets_its_client_and_nobody_else() {
    let refusing = Refusing::new();
    let mut relay = Relay::to(refusing.1, &["--workers", "1"]);
    for _ in 0..20 {
        let client = connect(relay.addr());
        expect_reset(&client);
        let line = relay.next("connection refused");
        assert_eq!(line["client"], client.local_addr().unwrap().to_string());
        assert_eq!(line["upstream"], refusing.1.to_string());
        assert_eq!(line["cause"], "no-upstream");
        assert_eq!(relay.lines("connection refused"), 0, "one line a connection");
    }
    relay.assert_running();
    // With bytes of the client's already there.
    let client = connect(relay.addr());
    match Pattern::new(1).write(&client, 10_000) {
        Ok(()) => expect_reset(&client),
        // The socket tells of the reset once, and the write was the first to ask.
        Err(error) => assert!(
            matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            "{error}"
        ),
    }
}

#[test]
fn a_refused_upstream_keeps_no_descriptor() {
    let refusing = Refusing::new();
    let relay = Relay::to(refusing.1, &["--workers", "1"]);
    expect_reset(&connect(relay.addr()));
    relay.next("connection refused");
    // Nothing of the first can still be open when the second is over, for there is one
    // worker; of the second, nothing may be when the hundredth is.
    expect_reset(&connect(relay.addr()));
    relay.next("connection refused");
    let before = relay.descriptors();
    for _ in 0..100 {
        expect_reset(&connect(relay.addr()));
        relay.next("connection refused");
    }
    let now = relay.descriptors();
    assert!(now.sockets <= before.sockets + 2, "{before:?} became {now:?}");
}

#[test]
fn a_silent_upstream_is_given_up() {
    let silent = Silent::new();
    let mut relay = Relay::to(silent.addr(), &["--connect-timeout", "300ms"]);
    let client = connect(relay.addr());
    expect_reset(&client);
    let line = relay.next("connection refused");
    assert_eq!(line["cause"], "no-upstream");
    assert_eq!(line["upstream"], silent.addr().to_string());
    relay.assert_running();
}

#[test]
fn a_client_that_leaves_before_the_upstream_answers_costs_nothing() {
    let mut silent = Silent::new();
    let mut relay = Relay::to(silent.addr(), &["--connect-timeout", "20s", "--workers", "1"]);
    let client = connect(relay.addr());
    silent.wait_for_syn();
    drop(client);
    silent.answer();
    // The upstream sees a connection that ends, and the relay serves the next.
    let server = accept(&silent.listener);
    Pattern::new(1).expect_end(&server);
    drop(server);
    let (client, server) = join(&relay, &silent.listener);
    Pattern::new(1).write(&client, 5).unwrap();
    Pattern::new(1).expect(&server, 5);
    relay.assert_running();
}

#[test]
fn the_next_target_takes_over_from_one_that_refuses() {
    let (upstream, refusing) = (listener(), Refusing::new());
    let (first, second) = (refusing.1.to_string(), addr(&upstream).to_string());
    for balance in ["round-robin", "least-conn", "random", "source"] {
        let relay = Relay::start(&["127.0.0.1:0", &first, &second, "--balance", balance]);
        for _ in 0..8 {
            let (client, server) = join(&relay, &upstream);
            Pattern::new(1).write(&client, 1_000).unwrap();
            finish(&client);
            Pattern::new(1).expect_whole(&server, 1_000);
            drop(server);
            let closed = relay.next_closed();
            assert_eq!(closed.upstream, second);
            assert_eq!(closed.up, 1_000);
        }
        assert_eq!(relay.lines("connection refused"), 0, "every client was served");
    }
}

#[test]
fn the_next_target_takes_over_from_one_that_is_silent() {
    let (upstream, silent) = (listener(), Silent::new());
    let (first, second) = (silent.addr().to_string(), addr(&upstream).to_string());
    let relay = Relay::start(&["127.0.0.1:0", &first, &second, "--connect-timeout", "300ms"]);
    for _ in 0..2 {
        let (client, server) = join(&relay, &upstream);
        Pattern::new(1).write(&client, 1_000).unwrap();
        Pattern::new(1).expect(&server, 1_000);
    }
}

#[test]
fn all_targets_refusing_is_one_line() {
    let (one, other) = (Refusing::new(), Refusing::new());
    let relay = Relay::start(&["127.0.0.1:0", &one.1.to_string(), &other.1.to_string()]);
    expect_reset(&connect(relay.addr()));
    relay.next("connection refused");
    expect_reset(&connect(relay.addr()));
    relay.next("connection refused");
    assert_eq!(relay.lines("connection refused"), 0);
}

#[test]
fn round_robin_and_least_conn_spread_connections() {
    let upstreams = [listener(), listener(), listener()];
    let targets = upstreams.each_ref().map(|upstream| addr(upstream).to_string());
    for balance in ["round-robin", "least-conn"] {
        let relay = Relay::start(&[
            "127.0.0.1:0",
            &targets[0],
            &targets[1],
            &targets[2],
            "--balance",
            balance,
        ]);
        let clients: Vec<_> = (0..9).map(|_| connect(relay.addr())).collect();
        for upstream in &upstreams {
            let servers: Vec<_> = (0..3).map(|_| accept(upstream)).collect();
            drop(servers);
        }
        drop(clients);
    }
}

#[test]
fn a_source_stays_with_its_upstream() {
    let upstreams = [listener(), listener(), listener()];
    let targets = upstreams.each_ref().map(|upstream| addr(upstream).to_string());
    let relay = Relay::start(&[
        "127.0.0.1:0",
        &targets[0],
        &targets[1],
        &targets[2],
        "--balance",
        "source",
    ]);
    let mut chosen = Vec::new();
    for _ in 0..6 {
        let client = connect(relay.addr());
        finish(&client);
        let server = loop {
            if let Some(upstream) =
                upstreams.iter().find(|upstream| support::peers::someone_waits(upstream))
            {
                break accept(upstream);
            }
            std::thread::yield_now();
        };
        finish(&server);
        chosen.push(relay.next_closed().upstream);
    }
    chosen.dedup();
    assert_eq!(chosen.len(), 1, "{chosen:?}");
}

#[test]
fn both_connections_have_the_congestion_control_that_was_asked_for() {
    // reno is in every kernel, and any user may choose it; it is seldom the default.
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &["--congestion", "reno"]);
    let (client, server) = join(&relay, &upstream);
    let sockets = Command::new("ss").args(["-tinHOp"]).output();
    let Ok(sockets) = sockets else { return skip("no ss(8)") };
    let sockets = String::from_utf8(sockets.stdout).unwrap();
    let pid = format!("pid={},", relay.pid());
    for peer in [client.local_addr().unwrap(), server.local_addr().unwrap()] {
        let (pid, peer) = (&pid, format!(" {peer} "));
        let line = sockets.lines().find(|line| line.contains(pid) && line.contains(&peer));
        let line = line.unwrap_or_else(|| panic!("no {peer}in {sockets}"));
        assert!(line.split_whitespace().any(|word| word == "reno"), "{line}");
    }
    drop((client, server));
}
