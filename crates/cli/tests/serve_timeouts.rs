//! Connect, idle, half-closed and drain: what ends, with which cause, and what goes on.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::process::Signal;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use support::pattern::{Ending, Pattern};
use support::peers::{Silent, accept, addr, finish, listener, wait_until_refused};
use support::serve::{Named, Serve, hello, tcp, udp_at, upstream};
use support::{datagrams, skip};

fn front(servers: &[SocketAddr], more: &str) -> String {
    tcp("front", "servers", more) + &upstream("servers", servers, "")
}

fn expect_reset(client: &TcpStream) {
    let ending = Pattern::new(1).expect_to_end(client);
    assert_eq!(ending, Ending::Failed(ErrorKind::ConnectionReset));
}

/// A client and its server with a byte each way behind them.
fn join(serve: &Serve, upstream: &std::net::TcpListener) -> (TcpStream, TcpStream) {
    let client = serve.connect("front");
    let server = accept(upstream);
    Pattern::new(0).write(&client, 1).unwrap();
    Pattern::new(0).expect(&server, 1);
    Pattern::new(0).write(&server, 1).unwrap();
    Pattern::new(0).expect(&client, 1);
    (client, server)
}

#[test]
fn a_server_that_answers_no_syn_is_given_up_for_the_next() {
    let (silent, a) = (Silent::new(), Named::start('a'));
    let serve = Serve::start(&front(&[silent.addr(), a.addr], "timeout.connect = \"300ms\""));
    let began = Instant::now();
    assert_eq!(serve.ask("front"), 'a');
    assert!(began.elapsed() >= Duration::from_millis(300), "the first had no time to answer");
    let line = serve.next("connect failed");
    assert_eq!(line["upstream"], silent.addr().to_string());
    // And then it is avoided for a while.
    for _ in 0..3 {
        assert_eq!(serve.ask("front"), 'a');
    }
}

#[test]
fn a_silent_server_alone_resets_its_client_after_the_time() {
    let silent = Silent::new();
    let serve = Serve::start(&front(&[silent.addr()], "timeout.connect = \"300ms\""));
    let began = Instant::now();
    let client = serve.connect("front");
    expect_reset(&client);
    assert!(began.elapsed() >= Duration::from_millis(300));
    let line = serve.next("connection refused");
    assert_eq!(line["upstream"], silent.addr().to_string());
    assert_eq!(line["cause"], "no-upstream");
    assert!(line["error"].as_str().unwrap().contains("timed out"), "{line}");
}

#[test]
fn silence_ends_a_session_and_movement_either_way_keeps_it() {
    let upstream = listener();
    let serve = Serve::start(&front(&[addr(&upstream)], "timeout.idle = \"600ms\""));
    for down in [false, true] {
        let (client, server) = join(&serve, &upstream);
        let (from, to) = if down { (&server, &client) } else { (&client, &server) };
        let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
        for _ in 0..20 {
            sent.write(from, 100).unwrap();
            seen.expect(to, 100);
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(serve.lines("connection closed"), 0, "it moved");
        seen.expect_to_end(to);
        assert_eq!(serve.next_closed().cause, "idle");
    }
}

/// One side has sent its end, and the other says nothing.
#[test]
fn a_half_closed_session_ends_after_its_limit_with_its_cause() {
    let upstream = listener();
    let serve = Serve::start(&front(&[addr(&upstream)], "timeout.half-closed = \"300ms\""));
    for ends in ["client", "server"] {
        let (client, server) = join(&serve, &upstream);
        let (first, other) = if ends == "client" { (&client, &server) } else { (&server, &client) };
        // Open both ways, it may be silent.
        thread::sleep(Duration::from_millis(600));
        assert_eq!(serve.lines("connection closed"), 0, "nobody has ended");
        let began = Instant::now();
        finish(first);
        Pattern::new(0).expect_end(other);
        // While the other says something it stays.
        let (mut sent, mut seen) = (Pattern::new(2), Pattern::new(2));
        for _ in 0..10 {
            sent.write(other, 1_000).unwrap();
            seen.expect(first, 1_000);
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(serve.lines("connection closed"), 0, "the other was not silent");
        seen.expect_to_end(first);
        // The last word came not before nine pauses.
        assert!(began.elapsed() >= Duration::from_millis(9 * 50 + 300));
        let closed = serve.next_closed();
        assert_eq!(closed.cause, "half-closed", "{closed:?}");
    }
}

#[test]
fn without_that_limit_a_half_closed_session_stays() {
    let upstream = listener();
    let serve = Serve::start(&front(&[addr(&upstream)], "timeout.connect = \"200ms\""));
    let (client, server) = join(&serve, &upstream);
    finish(&client);
    Pattern::new(0).expect_end(&server);
    thread::sleep(Duration::from_millis(700));
    assert_eq!(serve.lines("connection closed"), 0);
    Pattern::new(3).write(&server, 100_000).unwrap();
    drop(server);
    Pattern::new(3).expect_whole(&client, 100_000);
    assert_eq!(serve.next_closed().cause, "eof");
}

/// The time of the file that is in force when the signal comes.
#[test]
fn the_drain_time_cuts_what_has_not_ended() {
    let (a, upstream) = (Named::start('a'), datagrams::upstream());
    let file = |time: &str| {
        format!("drain-timeout = \"{time}\"\n{}", front(&[a.addr], ""))
            + &udp_at("127.0.0.1:0".parse().unwrap(), "datagrams", "e", "")
            + &support::serve::upstream("e", &[datagrams::addr(&upstream)], "")
    };
    let mut serve = Serve::start(&file("1h"));
    serve.reload(&file("300ms"));
    let client = serve.connect("front");
    hello(&client);
    // A session of datagrams that is never silent.
    let talks = datagrams::client(serve.at("datagrams"));
    datagrams::join(&talks, &upstream, 1);
    let _chatter = datagrams::Chatter::start(&talks, 1, 10);
    let began = Instant::now();
    serve.signal(Signal::TERM);
    wait_until_refused(serve.at("front"));
    assert_eq!(serve.wait().code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(serve.next_closed().cause, "cut");
    assert_eq!(serve.next_session().cause, "cut");
    assert_ne!(Pattern::new(1).expect_to_end(&client), Ending::Eof);
}

/// A host that is not there: its packets vanish, in a network of the test's own.
#[test]
fn a_host_that_is_not_there_is_given_up() {
    const INSIDE: &str = "SOSPLICE_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_none() {
        let name = "a_host_that_is_not_there_is_given_up";
        let output = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output();
        let Ok(output) = output else { return skip("no unshare(1)") };
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if said.contains("unshare:") || said.contains("no network of its own") {
            return skip(&said);
        }
        assert!(output.status.success(), "{said}");
        return;
    }
    let commands = [
        "link set lo up",
        "link add sosplice0 type veth peer name sosplice1",
        "address add 192.0.2.1/24 dev sosplice0",
        "link set sosplice1 up arp off",
        "link set sosplice0 up arp off",
    ];
    for command in commands {
        let done = std::process::Command::new("ip").args(command.split(' ')).status();
        if !done.is_ok_and(|status| status.success()) {
            return println!("no network of its own: ip {command}");
        }
    }
    let (nobody, a) = ("192.0.2.99:80".parse().unwrap(), Named::start('a'));
    let serve = Serve::start(&front(&[nobody, a.addr], "timeout.connect = \"300ms\""));
    assert_eq!(serve.ask("front"), 'a');
    let line = serve.next("connect failed");
    assert!(line["error"].as_str().unwrap().contains("timed out"), "{line}");
}
