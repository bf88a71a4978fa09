//! SIGHUP: what changes, what stays, and that nobody is lost over it.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use support::peers::{LISTEN, finish, queues, wait_until_refused};
use support::serve::{
    Named, Serve, echo, free_address, hello, server, tcp, tcp_at, udp_at, upstream,
};
use support::{datagrams, wait_until};

/// Relay "front", to the servers.
fn front(servers: &[SocketAddr], more: &str) -> String {
    tcp("front", "servers", more) + &upstream("servers", servers, "")
}

/// Until told to stop, one connection after the other, each with a few bytes both ways.
fn short_connections(to: SocketAddr, stop: &AtomicBool, done: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.load(Ordering::Acquire) {
        match short_connection(to) {
            Ok(()) => done.fetch_add(1, Ordering::AcqRel),
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
        };
    }
    failures
}

fn short_connection(to: SocketAddr) -> std::io::Result<()> {
    let mut client = TcpStream::connect(to)?;
    client.set_read_timeout(Some(support::WATCHDOG))?;
    client.read_exact(&mut [0])?;
    echo(&client, b"short")?;
    client.shutdown(std::net::Shutdown::Write)?;
    match client.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(std::io::Error::other("more than was sent")),
    }
}

/// Until told to stop, on one connection.
fn long_connection(client: &TcpStream, stop: &AtomicBool) -> Vec<String> {
    let said: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    while !stop.load(Ordering::Acquire) {
        for piece in [&said[..10], &said[..]] {
            if let Err(error) = echo(client, piece) {
                return vec![error.to_string()];
            }
        }
    }
    Vec::new()
}

/// Everything but the front listener changes, again and again.
fn variant(number: usize, servers: &[Named], other: SocketAddr) -> String {
    let addr = |at: usize| servers[at % servers.len()].addr;
    let limits = ["", "max-connections = 500", "max-connections-per-client = 400"][number % 3];
    let timeouts = ["", "timeout.idle = \"1m\"", "timeout.connect = \"2s\""][(number + 1) % 3];
    let balance = ["round-robin", "least-connections", "two-choices", "random", "source"];
    let balance = format!("balance = \"{}\"", balance[number % 5]);
    let chosen: Vec<_> = (0..=number % 3).map(|more| addr(number + more)).collect();
    let mut file = format!("drain-timeout = \"{}s\"\n", number + 1);
    file += &tcp("front", "servers", &format!("{limits}\n{timeouts}"));
    file += &upstream("servers", &chosen, &balance);
    if number.is_multiple_of(2) {
        file += &tcp_at(other, "other", "others", "");
        file += &upstream("others", &[addr(number)], "");
    }
    file
}

#[test]
fn twenty_reloads_under_load_cost_no_connection() {
    const RELOADS: usize = 20;
    let servers: Vec<_> = "abcd".chars().map(Named::start).collect();
    let other = free_address();
    let serve = Serve::start(&variant(0, &servers, other));
    let at = serve.at("front");
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let long: Vec<_> = (0..6).map(|_| serve.connect("front")).collect();
    long.iter().for_each(|client| _ = hello(client));
    thread::scope(|scope| {
        let mut loads = Vec::new();
        for _ in 0..4 {
            loads.push(scope.spawn(|| short_connections(at, &stop, &done)));
        }
        for client in &long {
            loads.push(scope.spawn(|| long_connection(client, &stop)));
        }
        for number in 1..=RELOADS {
            // Connections begin and end under each of them.
            let before = done.load(Ordering::Acquire);
            wait_until("connections go on", || {
                done.load(Ordering::Acquire) > before + 20 || loads.iter().any(|l| l.is_finished())
            });
            serve.reload(&variant(number, &servers, other));
        }
        stop.store(true, Ordering::Release);
        let failures: Vec<_> = loads.into_iter().flat_map(|load| load.join().unwrap()).collect();
        assert_eq!(failures, Vec::<String>::new(), "of {}", done.load(Ordering::Acquire));
    });
    assert_eq!(serve.lines("connection refused"), 0);
    for client in &long {
        finish(client);
    }
}

#[test]
fn a_wrong_file_leaves_what_runs_and_says_why() {
    let a = Named::start('a');
    let good = front(&[a.addr], "");
    let mut serve = Serve::start(&good);
    let held = serve.connect("front");
    hello(&held);
    let wrong = good.replace("listen =", "listens =");
    let why = serve.refuse(&wrong);
    assert!(why.contains("sosplice.toml:") && why.contains("listens"), "{why}");
    let why = serve.refuse("this is no TOML");
    assert!(why.contains("sosplice.toml:3"), "{why}");
    let why = serve.refuse(&tcp("front", "nobody", ""));
    assert!(why.contains("nobody"), "{why}");
    let why = serve.refuse(&front(&[a.addr], "").replace(&a.addr.to_string(), "no.such.invalid:1"));
    assert!(why.contains("no.such.invalid"), "{why}");
    echo(&held, b"still").unwrap();
    assert_eq!(serve.ask("front"), 'a');
    // And the next good one is taken.
    let b = Named::start('b');
    serve.reload(&front(&[b.addr], ""));
    assert_eq!(serve.ask("front"), 'b');
    echo(&held, b"still").unwrap();
    serve.assert_running();
}

#[test]
fn what_a_reload_cannot_change_is_refused_by_name() {
    let a = Named::start('a');
    let good = front(&[a.addr], "");
    let serve = Serve::start(&good);
    let cases = [
        ("busy-poll-us", format!("busy-poll-us = 10\n{good}")),
        ("max-connections", format!("max-connections = 10\n{good}")),
        ("control", format!("control = \"/nowhere/c.sock\"\n{good}")),
        ("admin", format!("admin = {{ listen = \"127.0.0.1:0\" }}\n{good}")),
        ("the built-in origin", tcp("front", "built-in", "")),
    ];
    for (what, file) in cases {
        let why = serve.refuse(&file);
        assert!(why.starts_with(what) && why.contains("restart"), "{what}: {why}");
    }
    assert_eq!(serve.ask("front"), 'a');
}

#[test]
fn an_address_that_is_taken_refuses_the_whole_reload() {
    let (a, b) = (Named::start('a'), Named::start('b'));
    let serve = Serve::start(&front(&[a.addr], ""));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, free) = (taken.local_addr().map(|at| (taken, at)).unwrap(), free_address());
    let more = tcp_at(free, "free", "servers", "") + &tcp_at(taken.1, "taken", "servers", "");
    let why = serve.refuse(&(front(&[b.addr], "") + &more));
    assert!(why.contains(&taken.1.to_string()) && why.contains("in use"), "{why}");
    assert_eq!(serve.ask("front"), 'a', "not even the servers");
    wait_until_refused(free);
    // Datagrams as well, when their turn comes after streams.
    let taken_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = taken_udp.local_addr().unwrap();
    let more = tcp_at(free, "free", "servers", "") + &udp_at(at, "taken", "servers", "");
    let why = serve.refuse(&(front(&[b.addr], "") + &more));
    assert!(why.contains(&at.to_string()), "{why}");
    wait_until_refused(free);
    drop((taken, taken_udp));
    serve.reload(&(front(&[b.addr], "") + &more));
    assert_eq!((serve.ask("front"), serve.ask("free")), ('b', 'b'));
}

#[test]
fn a_removed_relay_keeps_its_sessions_and_frees_its_port() {
    let (a, b) = (Named::start('a'), Named::start('b'));
    let at = free_address();
    let without = front(&[a.addr], "") + &upstream("others", &[b.addr], "");
    let with = without.clone() + &tcp_at(at, "other", "others", "");
    let serve = Serve::start(&with);
    let mut held = Vec::new();
    for _ in 0..3 {
        let client = serve.connect("other");
        assert_eq!(hello(&client), 'b');
        serve.reload(&without);
        wait_until_refused(at);
        held.push(client);
        for client in &held {
            echo(client, &[7; 100_000]).unwrap();
        }
        serve.reload(&with);
        assert_eq!(serve.ask("other"), 'b');
    }
    serve.reload(&without);
    wait_until_refused(at);
    // Another process may have it.
    drop(TcpListener::bind(at).unwrap());
}

/// Whoever was in the kernel's queue of a listener that goes was accepted as far as he knows.
#[test]
fn clients_that_wait_at_a_removed_listener_are_served() {
    let (a, b) = (Named::start('a'), Named::start('b'));
    let at = free_address();
    let without = front(&[a.addr], "") + &upstream("others", &[b.addr], "");
    let with = without.clone() + &tcp_at(at, "other", "others", "max-connections = 1");
    let serve = Serve::start(&with);
    let first = serve.connect("other");
    assert_eq!(hello(&first), 'b');
    let waiting: Vec<_> = (0..12).map(|_| serve.connect("other")).collect();
    serve.reload(&without);
    wait_until_refused(at);
    // The limit is still one at a time.
    echo(&first, b"here").unwrap();
    assert_eq!(b.served(), 1);
    drop(first);
    // In no promised order, since each worker has a queue of its own.
    waiting.iter().for_each(finish);
    for client in waiting {
        assert_eq!(hello(&client), 'b');
        assert_eq!((&client).read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(serve.lines("connection refused"), 0);
}

#[test]
fn a_stop_resets_those_who_wait_at_a_removed_listener() {
    let (a, b) = (Named::start('a'), Named::start('b'));
    let at = free_address();
    let without = front(&[a.addr], "") + &upstream("others", &[b.addr], "");
    let with = without.clone() + &tcp_at(at, "other", "others", "max-connections = 1");
    let mut serve = Serve::start(&with);
    let first = serve.connect("other");
    hello(&first);
    let waiting: Vec<_> = (0..4).map(|_| serve.connect("other")).collect();
    serve.reload(&without);
    wait_until_refused(at);
    serve.signal(Signal::TERM);
    for mut client in waiting {
        let ended = client.read(&mut [0]).unwrap_err();
        assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    }
    drop(first);
    assert_eq!(serve.wait().code(), Some(0));
}

#[test]
fn a_raised_limit_lets_those_in_who_wait() {
    let a = Named::start('a');
    let serve = Serve::start(&front(&[a.addr], "max-connections = 1"));
    let first = serve.connect("front");
    hello(&first);
    // Enough that both workers have some.
    let waiting: Vec<_> = (0..16).map(|_| serve.connect("front")).collect();
    serve.reload(&front(&[a.addr], "max-connections = 17"));
    for client in &waiting {
        hello(client);
    }
    // Lowered, it sends nobody away, and nobody new comes in until there are few enough.
    serve.reload(&front(&[a.addr], "max-connections = 2"));
    let next = serve.connect("front");
    let backlog = || queues(serve.at("front").port(), LISTEN).map(|(_, waiting)| waiting);
    wait_until("the next one is accepted and waits", || backlog() == Some(0));
    let mut waiting = waiting;
    waiting.truncate(2);
    for client in waiting.iter().chain([&first]) {
        echo(client, b"here").unwrap();
    }
    assert_eq!(a.served(), 17, "three are there, and two may be");
    drop((waiting, first));
    hello(&next);
    assert_eq!(a.served(), 18);
}

/// A port of UDP is another than the same number of TCP.
#[test]
fn datagrams_come_to_the_port_of_a_tcp_relay_and_go() {
    let (a, echo_server) = (Named::start('a'), datagrams::Echo::start(datagrams::V4));
    let at = free_address();
    let streams = tcp_at(at, "streams", "a", "") + &upstream("a", &[a.addr], "");
    let datagrams = udp_at(at, "datagrams", "e", "") + &upstream("e", &[echo_server.addr], "");
    let serve = Serve::start(&streams);
    serve.reload(&format!("{streams}{datagrams}"));
    let ask = |number| {
        let client = datagrams::client(at);
        datagrams::send(&client, number, 100);
        datagrams::expect_echo(&client, number, 100);
    };
    ask(1);
    assert_eq!(serve.ask("streams"), 'a');
    // From one protocol to the other.
    serve.reload(&datagrams);
    wait_until_refused(at);
    ask(2);
    serve.reload(&streams);
    assert_eq!(serve.ask("streams"), 'a');
}

/// A service that began with datagrams alone has room for streams.
#[test]
fn streams_come_to_a_service_of_datagrams() {
    let (a, echo_server) = (Named::start('a'), datagrams::Echo::start(datagrams::V4));
    let at = free_address();
    let datagrams = udp_at(at, "datagrams", "e", "") + &upstream("e", &[echo_server.addr], "");
    let serve = Serve::start(&datagrams);
    serve.reload(&(datagrams.clone() + &front(&[a.addr], "")));
    assert_eq!(serve.ask("front"), 'a');
    serve.reload(&datagrams);
    let client = datagrams::client(at);
    datagrams::send(&client, 1, 100);
    datagrams::expect_echo(&client, 1, 100);
}

#[test]
fn a_removed_relay_of_datagrams_frees_its_port() {
    let (echo_server, a) = (datagrams::Echo::start(datagrams::V4), Named::start('a'));
    let at = free_address();
    let without = front(&[a.addr], "");
    let with = without.clone()
        + &udp_at(at, "datagrams", "e", "")
        + &upstream("e", &[echo_server.addr], "");
    let serve = Serve::start(&with);
    let ask = |number| {
        let client = datagrams::client(at);
        datagrams::send(&client, number, 100);
        datagrams::expect_echo(&client, number, 100);
        client
    };
    // A session that is never silent, so that it goes on at a relay that is gone.
    let client = ask(1);
    let chatter = datagrams::Chatter::start(&client, 2, 100);
    serve.reload(&without);
    datagrams::expect_echo(&client, 2, 100);
    // The address is wanted again, by a relay of another name.
    serve.reload(&with.replace("\"datagrams\"", "\"again\""));
    ask(3);
    drop(chatter);
    serve.reload(&without);
    wait_until("another process may have the port", || UdpSocket::bind(at).is_ok());
}

#[test]
fn sessions_of_datagrams_live_through_reloads() {
    let first = datagrams::upstream();
    let second = datagrams::upstream();
    let at = free_address();
    let file = |to: &UdpSocket, more: &str| {
        udp_at(at, "datagrams", "e", more) + &upstream("e", &[datagrams::addr(to)], "")
    };
    let serve = Serve::start(&file(&first, "max-sessions = 2"));
    let old = datagrams::client(at);
    let session = datagrams::join(&old, &first, 1);
    for number in 0..5 {
        serve.reload(&file(&second, &format!("max-sessions = {}", 4 + number)));
        assert_eq!(datagrams::join(&old, &first, 10 + number), session, "the same session");
    }
    // New ones go to the new server, as many as are allowed now.
    let more: Vec<_> = (0..4).map(|_| datagrams::client(at)).collect();
    for (number, client) in (100..).zip(&more) {
        datagrams::join(client, &second, number * 2);
    }
    assert_eq!(datagrams::join(&old, &first, 30), session);
    assert_eq!(serve.lines("session closed"), 0, "none made room for another");
    // A shorter silence holds for running sessions too.
    serve.reload(&file(&second, "timeout.idle = \"200ms\""));
    for _ in 0..5 {
        assert_eq!(serve.next_session().cause, "idle");
    }
}

#[test]
fn a_hundred_reloads_keep_no_descriptor_and_no_thread() {
    let servers: Vec<_> = "abcd".chars().map(Named::start).collect();
    let echo_server = datagrams::Echo::start(datagrams::V4);
    let (other, udp) = (free_address(), free_address());
    let file = |number: usize| {
        let mut file = variant(number, &servers, other);
        file += &upstream("e", &[echo_server.addr], "");
        file += &upstream("checked", &[servers[0].addr], "check = { kind = \"tcp\" }");
        if number.is_multiple_of(2) {
            file += &udp_at(udp, "datagrams", "e", "");
        }
        file
    };
    let serve = Serve::start(&file(1));
    for number in 2..8 {
        serve.reload(&file(number));
    }
    let before = (serve.descriptors(), serve.threads());
    for number in 8..108 {
        serve.reload(&file(number));
    }
    // What is on its way out, or in, at one of the two looks is less than one a reload.
    const SLACK: usize = 20;
    wait_until("it has about what it had", || {
        let now = (serve.descriptors(), serve.threads());
        now.0.sockets <= before.0.sockets + SLACK
            && now.0.others <= before.0.others + SLACK
            && now.1 <= before.1 + SLACK
    });
    assert!("abcd".contains(serve.ask("front")));
}

/// The congestion control is the listener's, which stays.
#[test]
fn a_new_congestion_control_holds_for_new_clients() {
    let a = Named::start('a');
    let serve = Serve::start(&front(&[a.addr], ""));
    let control = |client: &TcpStream| {
        let output = std::process::Command::new("ss").args(["-tinHOp"]).output().ok()?;
        let (pid, peer) = (format!("pid={},", serve.pid()), client.local_addr().unwrap());
        let peer = format!(" {peer} ");
        let sockets = String::from_utf8(output.stdout).unwrap();
        let mut lines = sockets.lines();
        let line = lines.find(|line| line.contains(&pid) && line.contains(&peer));
        Some(line.unwrap_or_else(|| panic!("no {peer}in {sockets}")).to_owned())
    };
    let is_reno = |line: &str| line.split_whitespace().any(|word| word == "reno");
    let ask = || {
        let client = serve.connect("front");
        hello(&client);
        control(&client)
    };
    let Some(usual) = ask() else { return support::skip("no ss(8)") };
    serve.reload(&front(&[a.addr], "congestion = \"reno\""));
    // Each worker has its own listener, and obeys when it comes to it.
    for _ in 0..8 {
        wait_until("it is reno", || is_reno(&ask().unwrap()));
    }
    serve.reload(&front(&[a.addr], ""));
    wait_until("it is the usual one again", || is_reno(&ask().unwrap()) == is_reno(&usual));
}

#[test]
fn weights_and_limits_of_servers_change_with_a_reload() {
    let (a, b) = (Named::start('a'), Named::start('b'));
    let file = |a_more: &str, b_more: &str| {
        let servers = server(a.addr, a_more) + &server(b.addr, b_more);
        tcp("front", "servers", "") + "[[upstream]]\nname = \"servers\"\n" + &servers
    };
    let serve = Serve::start(&file("", "backup = true"));
    assert_eq!((0..6).map(|_| serve.ask("front")).collect::<String>(), "aaaaaa");
    serve.reload(&file("backup = true", ""));
    assert_eq!((0..6).map(|_| serve.ask("front")).collect::<String>(), "bbbbbb");
    serve.reload(&file("weight = 3", ""));
    let asked: String = (0..8).map(|_| serve.ask("front")).collect();
    assert_eq!(asked.matches('a').count(), 6, "{asked}");
}

/// An HTTP relay that answers by its rules alone.
fn answering(status: u16) -> String {
    format!(
        "[[relay]]\nname = \"answers\"\nprotocol = \"http\"\nlisten = \"127.0.0.1:0\"\n\
         [[relay.rule]]\naction = \"block\"\nstatus = {status}\n"
    )
}

#[track_caller]
fn status(serve: &Serve) -> String {
    let mut client = serve.connect("answers");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

/// The built-in origin cannot come with a reload, and is not what such a relay needs.
#[test]
fn a_relay_whose_rules_decide_everything_comes_with_a_reload() {
    let a = Named::start('a');
    let serve = Serve::start(&front(&[a.addr], ""));
    serve.reload(&(front(&[a.addr], "") + &answering(451)));
    assert_eq!((status(&serve), serve.ask("front")), ("451".into(), 'a'));
    let passing = answering(451).replace("action = \"block\"\nstatus = 451", "");
    let passing = passing.replace("protocol", "upstream = \"built-in\"\nprotocol");
    let why = serve.refuse(&(front(&[a.addr], "") + &passing));
    assert!(why.contains("the built-in origin cannot change"), "{why}");
    assert_eq!(status(&serve), "451");
}

/// And no listener is there for an origin that nobody can reach.
#[test]
fn a_relay_whose_rules_decide_everything_has_no_origin() {
    let a = Named::start('a');
    let with = |more: &str| answering(403).replace("protocol", &format!("{more}\nprotocol"));
    let file = with("upstream = \"servers\"") + &upstream("servers", &[a.addr], "");
    let sockets = |serve: &Serve| serve.descriptors().sockets;
    let least = sockets(&Serve::start(&file));
    for more in ["", "upstream = \"built-in\""] {
        let serve = Serve::start(&with(more));
        assert_eq!((sockets(&serve), status(&serve)), (least, "403".into()), "{more}");
    }
}

/// The relay that is at its listener when it ends may be another one.
#[test]
fn a_request_is_accounted_to_the_relay_that_it_came_to() {
    let (at, behind) = (free_address(), support::peers::listener());
    let file = |name: &str| {
        tcp_at(at, name, "servers", "protocol = \"http\"")
            + &upstream("servers", &[support::peers::addr(&behind)], "")
    };
    let serve = Serve::start(&file("one"));
    let mut client = serve.connect("one");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut server = support::peers::accept(&behind);
    server.read_exact(&mut [0; 16]).unwrap();
    serve.reload(&file("two"));
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(serve.next("request")["relay"], "one");
}
