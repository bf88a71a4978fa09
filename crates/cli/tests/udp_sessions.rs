//! Sessions of `sosplice relay --udp`: how they begin, whom they go to, how they end, and
//! what is left of them.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};
use support::datagrams::{
    BURST, Crowd, Echo, V4, addr, client, expect, expect_echo, is_quiet, join, name, next_end,
    relay_to, send, send_to, socket_on, upstream,
};
use support::{Descriptors, Relay, WATCHDOG, number, wait_until};

/// A session has no other end than silence: one that is kept costs a descriptor and a
/// port for ever.
#[test]
fn a_silent_session_ends_and_leaves_nothing_behind() {
    const COUNT: u64 = 40;
    let echo = Echo::start(V4);
    let mut relay = relay_to(&[echo.addr], &["--idle=400ms"]);
    let Descriptors { sockets, .. } = relay.descriptors();
    // What its worker makes once, beside the sockets, is made before it serves the first.
    let first = client(relay.addr());
    send(&first, 0, 100);
    expect_echo(&first, 0, 100);
    let before = Descriptors { sockets, ..relay.descriptors() };
    relay.next_session();
    for round in 0..3 {
        let clients: Vec<_> = (0..COUNT).map(|_| client(relay.addr())).collect();
        for (number, client) in (0..).zip(&clients) {
            send(client, number, 100);
            expect_echo(client, number, 100);
        }
        for _ in &clients {
            let session = relay.next_session();
            assert_eq!((session.up_datagrams, session.cause.as_str()), (1, "idle"), "{session:?}");
        }
        relay.wait_for_descriptors(before, 0);
        // Whoever comes back gets a new one.
        let again = &clients[round];
        send(again, 7, 100);
        expect_echo(again, 7, 100);
        assert_eq!(next_end(&relay), ("idle".to_owned(), name(again)));
    }
    relay.wait_for_descriptors(before, 0);
    relay.assert_rests("all sessions have ended");
    let stopped = relay.stop();
    assert_eq!(number(&stopped, "accepted"), 1 + 3 * (COUNT + 1));
    assert_eq!(number(&stopped, "evicted"), 0);
}

/// One way suffices, whichever it is: of two sessions the older one, which moves, is
/// there when the younger one, which does not, has ended.
#[test]
fn a_datagram_either_way_keeps_a_session() {
    for down in [false, true] {
        let upstream = upstream();
        let relay = relay_to(&[addr(&upstream)], &["--idle=1s"]);
        let moving = client(relay.addr());
        let silent = client(relay.addr());
        let session = join(&moving, &upstream, 10);
        join(&silent, &upstream, 20);
        wait_until("a session has ended", || {
            match down {
                false => {
                    send(&moving, 1, 10);
                    expect(&upstream, 1, 10);
                }
                true => {
                    send_to(&upstream, session, 1, 10);
                    expect(&moving, 1, 10);
                }
            }
            relay.lines("session closed") > 0
        });
        assert_eq!(next_end(&relay), ("idle".to_owned(), name(&silent)), "down: {down}");
        // And then that one too.
        assert_eq!(next_end(&relay), ("idle".to_owned(), name(&moving)));
    }
}

/// Of three the one that was not used for the longest, by either end; not the oldest, and
/// not all.
#[test]
fn over_max_sessions_the_least_recently_used_goes() {
    let upstream = upstream();
    let mut relay = relay_to(&[addr(&upstream)], &["--max-sessions=3"]);
    let before = relay.descriptors();
    let [a, b, c, d, e] = [(); 5].map(|()| client(relay.addr()));
    let of_a = join(&a, &upstream, 10);
    join(&b, &upstream, 20);
    let of_c = join(&c, &upstream, 30);
    // a is used from below, so b is the one.
    send_to(&upstream, of_a, 40, 10);
    expect(&a, 40, 10);
    join(&d, &upstream, 50);
    assert_eq!(next_end(&relay), ("evicted".to_owned(), name(&b)));
    // c is used from above, so a is.
    assert_eq!(join(&c, &upstream, 60), of_c);
    join(&e, &upstream, 70);
    assert_eq!(next_end(&relay), ("evicted".to_owned(), name(&a)));
    assert_eq!(relay.descriptors().sockets, before.sockets + 3);
    // The others are what they were.
    assert_eq!(join(&c, &upstream, 80), of_c);
    // And b may come again, at the cost of d.
    join(&b, &upstream, 90);
    assert_eq!(next_end(&relay), ("evicted".to_owned(), name(&d)));
    let stopped = relay.stop();
    assert_eq!((number(&stopped, "accepted"), number(&stopped, "evicted")), (6, 3));
}

/// A session that datagrams of the same batch go to is ended behind them, not before:
/// with room for one, each datagram of many clients still goes through.
#[test]
fn an_eviction_loses_no_datagram_of_the_batch() {
    const CLIENTS: usize = 60;
    let upstream = upstream();
    let relay = relay_to(&[addr(&upstream)], &["--max-sessions=1"]);
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(relay.addr())).collect();
    join(&clients[0], &upstream, 1_000);
    relay.freeze();
    for (i, client) in (0..).zip(&clients) {
        send(client, 2 * i, 64);
        send(client, 2 * i + 1, 64);
    }
    relay.thaw();
    for i in 0..2 * CLIENTS as u64 {
        expect(&upstream, i, 64);
    }
}

/// Clients that nobody remembers must not cost anything: a scan, or a resolver that takes
/// a new port for each query.
#[test]
fn five_thousand_clients_cost_no_more_than_max_sessions() {
    const CLIENTS: u64 = 5_000;
    const SESSIONS: usize = 100;
    for workers in ["--workers=1", "--workers=3"] {
        let echo = Echo::start(V4);
        let target = echo.addr.to_string();
        let args = ["--udp", "127.0.0.1:0", &target, "--max-sessions=100", workers];
        let mut relay = Relay::start(&args);
        let before = relay.descriptors();
        let mut crowd = Crowd::new(relay.addr(), 2 * SESSIONS);
        for number in 0..CLIENTS {
            let client = crowd.next();
            ask_until_answered(client, number);
            if number % 100 == 0 {
                let now = relay.descriptors().sockets;
                assert!(now <= before.sockets + SESSIONS, "{now} sockets, {before:?} before");
            }
        }
        assert!(relay.descriptors().sockets <= before.sockets + SESSIONS);
        relay.assert_running();
        let stopped = relay.stop();
        let accepted = number(&stopped, "accepted");
        // One that had to ask twice may have been given two.
        assert!(accepted >= CLIENTS, "{stopped}");
        assert!(number(&stopped, "evicted") >= accepted - SESSIONS as u64, "{stopped}");
        if workers == "--workers=1" {
            assert_eq!((accepted, number(&stopped, "evicted")), (CLIENTS, CLIENTS - 100));
        }
        for _ in 0..accepted {
            relay.next_session();
        }
    }
}

/// Asks again as a client of UDP must: a worker without a session of its own may have to
/// let the first datagram go while another one makes room.
#[track_caller]
fn ask_until_answered(client: &UdpSocket, number: u64) {
    client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let deadline = Instant::now() + WATCHDOG;
    let mut answer = [0; 200];
    loop {
        send(client, number, 100);
        match client.recv(&mut answer) {
            Ok(count) => return assert_eq!(count, 100),
            Err(_) => assert!(Instant::now() < deadline, "watchdog: {number} is not served"),
        }
    }
}

/// More workers than sessions: those that have none must get one from the others.
#[test]
fn workers_share_few_sessions_and_every_client_gets_through() {
    let echo = Echo::start(V4);
    let target = echo.addr.to_string();
    let args = ["--udp", "127.0.0.1:0", &target, "--max-sessions=2", "--workers=4"];
    let relay = Relay::start(&args);
    let before = relay.descriptors();
    let clients: Vec<_> = (0..24).map(|_| client(relay.addr())).collect();
    for round in 0..3 {
        for (number, client) in (0..).zip(&clients) {
            ask_until_answered(client, 100 * round + number);
            let now = relay.descriptors().sockets;
            assert!(now <= before.sockets + 2, "{now} sockets, {before:?} before");
        }
    }
}

/// The limit on descriptors is a limit on sessions that the relay knows of beforehand.
#[test]
fn with_few_descriptors_the_oldest_sessions_make_room() {
    let echo = Echo::start(V4);
    let target = echo.addr.to_string();
    let args = ["--udp", "127.0.0.1:0", &target, "--workers=1"];
    let mut relay = Relay::start_after("ulimit -n 64", &args);
    let clients: Vec<_> = (0..150).map(|_| client(relay.addr())).collect();
    for round in 0..2 {
        for (number, client) in (0..).zip(&clients) {
            send(client, 1_000 * round + number, 100);
            expect_echo(client, 1_000 * round + number, 100);
        }
    }
    relay.assert_running();
    let used = relay.descriptors();
    assert!(used.sockets + used.pipe_ends + used.others <= 64, "{used:?}");
    assert_eq!(relay.lines(EXHAUSTED), 0, "its own limit comes first");
    let stopped = relay.stop();
    assert_eq!((number(&stopped, "accepted"), number(&stopped, "dropped")), (300, 0));
    assert!(number(&stopped, "evicted") > 200, "{stopped}");
}

const EXHAUSTED: &str = "no session for a new client: if descriptors or ports have run out, raise the limit (ulimit -n, net.ipv4.ip_local_port_range) or lower --max-sessions or --idle";

/// Descriptors may run out all the same. Then too the oldest sessions make room, nothing
/// dies, and the log is not flooded.
#[test]
fn running_out_of_descriptors_costs_old_sessions_alone() {
    const FREE: u64 = 10;
    const CLIENTS: u64 = 100;
    let echo = Echo::start(V4);
    let mut relay = relay_to(&[echo.addr], &[]);
    let began = Instant::now();
    let mut crowd = Crowd::new(relay.addr(), CLIENTS as usize);
    for number in 0..CLIENTS {
        let client = crowd.next();
        send(client, number, 100);
        expect_echo(client, number, 100);
        if number == 0 {
            // Its worker has what it needs for itself.
            relay.leave_descriptors(FREE);
        }
    }
    relay.assert_running();
    relay.next(EXHAUSTED);
    // At most one a second.
    let more = relay.lines(EXHAUSTED) as u64;
    assert!(more <= began.elapsed().as_secs(), "{more} more lines in {:?}", began.elapsed());
    relay.assert_rests("no descriptor left");
    let stopped = relay.stop();
    assert_eq!((number(&stopped, "accepted"), number(&stopped, "dropped")), (CLIENTS, 0));
    assert_eq!(number(&stopped, "evicted"), CLIENTS - 1 - FREE);
}

/// Each upstream in turn for new sessions; a session never changes its own, whatever
/// comes between.
#[test]
fn upstreams_take_sessions_in_turn_and_keep_them() {
    let upstreams: Vec<_> = (0..3).map(|_| upstream()).collect();
    let targets: Vec<_> = upstreams.iter().map(addr).collect();
    let relay = relay_to(&targets, &[]);
    let clients: Vec<_> = (0..7).map(|_| client(relay.addr())).collect();
    let mut sessions = Vec::new();
    for (i, client) in clients.iter().enumerate() {
        sessions.push(join(client, &upstreams[i % 3], 10 * i as u64));
    }
    for i in (0..clients.len()).rev() {
        let session = join(&clients[i], &upstreams[i % 3], 100 + 10 * i as u64);
        assert_eq!(session, sessions[i]);
    }
    assert!(upstreams.iter().chain(&clients).all(is_quiet));
}

/// Which of the upstreams has got a client's datagram; it is answered.
#[track_caller]
fn reached(client: &UdpSocket, upstreams: &[UdpSocket]) -> usize {
    send(client, 1, 100);
    let mut at = None;
    wait_until("an upstream has the datagram", || {
        at = upstreams.iter().position(|upstream| !is_quiet(upstream));
        at.is_some()
    });
    let at = at.unwrap();
    let session = expect(&upstreams[at], 1, 100);
    send_to(&upstreams[at], session, 2, 100);
    expect(client, 2, 100);
    at
}

/// A client's next question comes from another port, and belongs to the same upstream.
#[test]
fn balance_source_keeps_a_host_on_one_upstream() {
    let upstreams: Vec<_> = (0..3).map(|_| upstream()).collect();
    let targets: Vec<_> = upstreams.iter().map(addr).collect();
    let relay = relay_to(&targets, &["--balance=source"]);
    let mut used = HashSet::new();
    for host in 1..=20 {
        let ip: IpAddr = Ipv4Addr::new(127, 0, 0, host).into();
        let ports: HashSet<_> = (0..4)
            .map(|_| {
                let client = socket_on(ip);
                client.connect(relay.addr()).unwrap();
                reached(&client, &upstreams)
            })
            .collect();
        assert_eq!(ports.len(), 1, "{ip} was sent to {ports:?}");
        used.extend(ports);
    }
    assert_eq!(used.len(), 3, "twenty hosts, and only {used:?} used");
}

/// A session that has ended must be counted down, or its upstream is taken for busy.
#[test]
fn balance_least_conn_counts_the_sessions_that_live() {
    let upstreams = [upstream(), upstream()];
    let targets = [addr(&upstreams[0]), addr(&upstreams[1])];
    let relay = relay_to(&targets, &["--balance=least-conn", "--max-sessions=3"]);
    let open = || client(relay.addr());
    let (first, second, third) = (open(), open(), open());
    let busy = reached(&first, &upstreams);
    let free = 1 - busy;
    assert_eq!(reached(&second, &upstreams), free);
    let at = reached(&third, &upstreams);
    // Two there, one here. The one makes room each time, and the next takes its place:
    // in turn they would not.
    let (stay, mut last) =
        if at == busy { ([first, third], second) } else { ([second, third], first) };
    for _ in 0..5 {
        for client in &stay {
            assert_eq!(reached(client, &upstreams), at);
        }
        let next = open();
        assert_eq!(reached(&next, &upstreams), 1 - at);
        assert_eq!(next_end(&relay), ("evicted".to_owned(), name(&last)));
        last = next;
    }
}

#[test]
fn balance_random_uses_every_upstream() {
    let upstreams: Vec<_> = (0..3).map(|_| upstream()).collect();
    let targets: Vec<_> = upstreams.iter().map(addr).collect();
    let relay = relay_to(&targets, &["--balance=random"]);
    let mut counts = [0; 3];
    for _ in 0..60 {
        counts[reached(&client(relay.addr()), &upstreams)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
}

/// Looking for datagrams instead of sleeping ends when none come.
#[test]
fn busy_polling_ends_when_nothing_comes() {
    let upstream = upstream();
    let relay = relay_to(&[addr(&upstream)], &["--busy-poll-us=1000"]);
    let client = client(relay.addr());
    let session = join(&client, &upstream, 10);
    relay.assert_rests("with a session");
    assert_eq!(join(&client, &upstream, 20), session);
}

/// As syslog is: much one way, never an answer. One session, each datagram of it, and
/// counts that agree.
#[test]
fn one_way_traffic_arrives_whole_in_one_session() {
    const COUNT: u64 = 10_000;
    let len = |number: u64| 60 + (number * 37 % 400) as usize;
    let upstream = upstream();
    let mut relay = relay_to(&[addr(&upstream)], &[]);
    let client = client(relay.addr());
    let mut bytes = 0;
    for first in (0..COUNT).step_by(BURST / 2) {
        let burst = first..first + BURST as u64 / 2;
        for number in burst.clone() {
            send(&client, number, len(number));
            bytes += len(number) as u64;
        }
        for number in burst {
            expect(&upstream, number, len(number));
        }
    }
    let stopped = relay.stop();
    assert_eq!((number(&stopped, "accepted"), number(&stopped, "dropped")), (1, 0));
    let session = relay.next_session();
    assert_eq!((session.up_datagrams, session.up), (COUNT, bytes));
    assert_eq!((session.down_datagrams, session.down), (0, 0));
    assert_eq!(session.cause, "stopping");
}

/// A target by its name, and a listener on every address (`:PORT`).
#[test]
fn a_name_and_a_bare_port_will_do() {
    // The name may stand for both families; the first is what a session takes.
    let first = ("localhost", 1).to_socket_addrs().unwrap().next().unwrap();
    let upstream = socket_on(first.ip());
    let target = format!("localhost:{}", addr(&upstream).port());
    let relay = Relay::start(&["--udp", ":0", &target, "--workers=1"]);
    let client = client(SocketAddr::new(V4, relay.addr().port()));
    join(&client, &upstream, 10);
}
