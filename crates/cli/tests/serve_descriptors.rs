//! The limit on descriptors, shared by relays of streams and of datagrams.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::net::TcpStream;
use support::datagrams::{self, Echo};
use support::peers::{connect, finish};
use support::serve::{Named, Serve, hello, refused_at_start, tcp, udp_at, upstream};

/// A relay of each kind.
fn both(a: &Named, echo: &Echo, streams: &str, of_datagrams: &str) -> String {
    tcp("streams", "a", streams)
        + &udp_at("127.0.0.1:0".parse().unwrap(), "datagrams", "e", of_datagrams)
        + &upstream("a", &[a.addr], "")
        + &upstream("e", &[echo.addr], "")
}

/// The number behind some words.
fn number_after(text: &str, words: &str) -> u64 {
    let rest = text.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {text}")).1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn a_limit_that_is_too_low_is_refused_with_one_that_does() {
    let (a, echo) = (Named::start('a'), Echo::start(datagrams::V4));
    let file = both(&a, &echo, "", "");
    // Each refusal names what would do; followed, it does in the end.
    let mut limit = 20;
    let mut refusals = 0;
    let serve = loop {
        let prepare = format!("ulimit -n {limit}");
        if let Some(serve) = Serve::try_start_after(&prepare, &file) {
            break serve;
        }
        let said = refused_at_start(&prepare, &file);
        let needed = number_after(&said, "ulimit -n ");
        assert!(needed > limit, "{limit}: {said}");
        limit = needed;
        refusals += 1;
        assert!(refusals < 10, "{said}");
    };
    assert!(refusals > 0, "20 descriptors do for nothing");
    assert_eq!(serve.ask("streams"), 'a');
    let client = datagrams::client(serve.at("datagrams"));
    datagrams::send(&client, 1, 10);
    datagrams::expect_echo(&client, 1, 10);
}

#[test]
fn more_sessions_than_fit_are_refused_at_the_start() {
    let (a, echo) = (Named::start('a'), Echo::start(datagrams::V4));
    let file = both(&a, &echo, "", "max-sessions = 5000");
    let said = refused_at_start("ulimit -n 300", &file);
    assert!(said.contains("5000") && said.contains("max-sessions"), "{said}");
    let file = format!("max-connections = 5000\n{}", both(&a, &echo, "", ""));
    let said = refused_at_start("ulimit -n 300", &file);
    assert!(said.contains("5000") && said.contains("max-connections"), "{said}");
}

/// More clients of both kinds than there is room for: streams wait their turn, the least recently
/// used session of datagrams makes room, and nothing runs out in the middle.
fn nobody_is_lost(limit: u64, file: &str, streams: &[&str], echo: bool) {
    let serve = Serve::start_after(&format!("ulimit -n {limit}"), file);
    let mut crowd = echo.then(|| datagrams::Crowd::new(serve.at("datagrams"), 400));
    let ask = |crowd: &mut Option<datagrams::Crowd>, number| {
        if let Some(crowd) = crowd {
            let client = crowd.next();
            datagrams::send(client, number, 100);
            datagrams::expect_echo(client, number, 100);
        }
    };
    for number in 0..300 {
        ask(&mut crowd, number);
    }
    let held: Vec<TcpStream> =
        (0..200).map(|number| connect(serve.at(streams[number % streams.len()]))).collect();
    for number in 300..400 {
        ask(&mut crowd, number);
    }
    // Who is served ends, and makes room for who waits.
    held.iter().for_each(finish);
    for client in &held {
        assert_eq!(hello(client), 'a');
    }
    for message in [
        "connection refused",
        "accepting paused until sessions end; raise the limit (ulimit -n) or lower --max-connections",
        "no session for a new client: if descriptors or ports have run out, raise the limit (ulimit -n, net.ipv4.ip_local_port_range) or lower --max-sessions or --idle",
    ] {
        assert_eq!(serve.lines(message), 0, "{message}");
    }
}

#[test]
fn relays_of_both_kinds_share_a_small_limit() {
    let (a, echo) = (Named::start('a'), Echo::start(datagrams::V4));
    nobody_is_lost(200, &both(&a, &echo, "", ""), &["streams"], true);
    nobody_is_lost(200, &both(&a, &echo, "", "max-sessions = 10"), &["streams"], true);
}

/// Every listener has a client that waits and a socket for the next one's upstream.
#[test]
fn many_listeners_fit_a_small_limit() {
    let a = Named::start('a');
    let names: Vec<_> = (0..12).map(|number| format!("relay-{number}")).collect();
    let relays: String = names.iter().map(|name| tcp(name, "a", "")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    nobody_is_lost(180, &(relays + &upstream("a", &[a.addr], "")), &names, false);
}

/// Several relays of datagrams, one of them with a number.
#[test]
fn relays_of_datagrams_share_a_small_limit() {
    let echo = Echo::start(datagrams::V4);
    let any = "127.0.0.1:0".parse().unwrap();
    let file = udp_at(any, "one", "e", "max-sessions = 120")
        + &udp_at(any, "two", "e", "")
        + &udp_at(any, "three", "e", "")
        + &upstream("e", &[echo.addr], "");
    let serve = Serve::start_after("ulimit -n 220", &file);
    let mut crowds =
        ["one", "two", "three"].map(|relay| datagrams::Crowd::new(serve.at(relay), 200));
    for number in 0..200 {
        for crowd in &mut crowds {
            let client = crowd.next();
            datagrams::send(client, number, 100);
            datagrams::expect_echo(client, number, 100);
        }
    }
    let ran_out = "no session for a new client: if descriptors or ports have run out, raise the limit (ulimit -n, net.ipv4.ip_local_port_range) or lower --max-sessions or --idle";
    assert_eq!(serve.lines(ran_out), 0);
}

/// The limit falls while the service runs: who is served stays, who waits is served later.
#[test]
fn under_exhaustion_nobody_is_lost() {
    let (a, echo) = (Named::start('a'), Echo::start(datagrams::V4));
    let serve = Serve::start(&both(&a, &echo, "", ""));
    let first: Vec<_> = (0..8).map(|_| serve.connect("streams")).collect();
    first.iter().for_each(|client| _ = hello(client));
    let client = datagrams::client(serve.at("datagrams"));
    datagrams::send(&client, 1, 10);
    datagrams::expect_echo(&client, 1, 10);
    serve.leave_descriptors(6);
    let waiting: Vec<_> = (0..20).map(|_| serve.connect("streams")).collect();
    serve.next("accepting paused until sessions end; raise the limit (ulimit -n) or lower --max-connections");
    for client in &first {
        support::serve::echo(client, b"here").unwrap();
    }
    datagrams::send(&client, 2, 10);
    datagrams::expect_echo(&client, 2, 10);
    drop(first);
    waiting.iter().for_each(finish);
    for client in &waiting {
        assert_eq!(hello(client), 'a');
    }
    assert_eq!(serve.lines("connection refused"), 0);
}

/// A reload that asks for more than fits changes nothing.
#[test]
fn a_reload_that_does_not_fit_is_refused() {
    let (a, echo) = (Named::start('a'), Echo::start(datagrams::V4));
    let serve = Serve::start_after("ulimit -n 300", &both(&a, &echo, "", ""));
    let why = serve.refuse(&both(&a, &echo, "", "max-sessions = 5000"));
    assert!(why.contains("5000") && why.contains("ulimit -n"), "{why}");
    assert_eq!(serve.ask("streams"), 'a');
    serve.reload(&both(&a, &echo, "", "max-sessions = 50"));
}
