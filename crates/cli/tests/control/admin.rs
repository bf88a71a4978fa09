//! The admin address: metrics, health, and what it makes of everything else.

use super::service::{Service, relay_to};
use crate::support::pattern::Pattern;
use crate::support::peers::{accept, connect, finish, join_known, listener};
use crate::support::wait_until;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;

/// Sends bytes and takes all that comes back.
#[track_caller]
fn exchange(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(to);
    stream.write_all(bytes).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[track_caller]
fn ask(to: SocketAddr, line: &str) -> (String, String) {
    let request = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = exchange(to, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// Each sample by its name and labels.
#[track_caller]
pub fn metrics(to: SocketAddr) -> BTreeMap<String, f64> {
    let (head, body) = ask(to, "GET /metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"));
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn counters_are_right_after_known_traffic() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let admin = service.admin();
    for seed in 0..3 {
        let (client, server) = (connect(service.relay.addr()), accept(&upstream));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                Pattern::new(seed).write(&client, 1_000).unwrap();
                finish(&client);
            });
            scope.spawn(|| {
                Pattern::new(seed).write(&server, 3_000_000).unwrap();
                finish(&server);
            });
            scope.spawn(|| Pattern::new(seed).expect_whole(&server, 1_000));
            Pattern::new(seed).expect_whole(&client, 3_000_000);
        });
    }
    let closed: Vec<_> = (0..3).map(|_| service.relay.next_closed()).collect();
    wait_until("all have left", || metrics(admin)[r#"sosplice_relay_sessions{relay="db"}"#] == 0.0);
    let metrics = metrics(admin);
    let of = |name: &str| metrics[&format!("sosplice_relay_{name}")];
    assert_eq!(of(r#"sessions_accepted_total{relay="db"}"#), 3.0);
    assert_eq!(of(r#"sessions_ended_total{relay="db"}"#), 3.0);
    assert_eq!(of(r#"sessions_refused_total{relay="db"}"#), 0.0);
    let bytes = |direction: &str, engine: &str| {
        of(&format!(r#"bytes_total{{relay="db",direction="{direction}",engine="{engine}"}}"#))
            as u64
    };
    let sum = |count: fn(&crate::support::Closed) -> u64| closed.iter().map(count).sum::<u64>();
    assert_eq!(bytes("up", "copy"), sum(|closed| closed.up_copy));
    assert_eq!(bytes("up", "pipe"), sum(|closed| closed.up_pipe));
    assert_eq!(bytes("down", "copy"), sum(|closed| closed.down_copy));
    assert_eq!(bytes("down", "pipe"), sum(|closed| closed.down_pipe));
    assert!(bytes("down", "pipe") > 0, "nothing was spliced");
    let server = upstream.local_addr().unwrap();
    let server = |name: &str, more: &str| {
        metrics[&format!(r#"sosplice_server_{name}{{upstream="u",server="{server}"{more}}}"#)]
    };
    assert_eq!(server("sessions_started_total", ""), 3.0);
    assert_eq!(server("sessions", ""), 0.0);
    assert_eq!(server("up", ""), 1.0);
    assert_eq!(server("bytes_total", r#",direction="down""#) as u64, sum(|closed| closed.down));
}

/// Sessions run, end and begin while it is asked: no count may fall.
#[test]
fn a_counter_never_falls() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let admin = service.admin();
    let mut before = metrics(admin);
    for round in 0..40 {
        let held: Vec<_> = (0..8).map(|_| join_known(&service.relay, &upstream)).collect();
        for (client, server) in &held {
            Pattern::new(round).write(client, 5_000).unwrap();
            Pattern::new(round).expect(server, 5_000);
        }
        let now = metrics(admin);
        for (series, value) in before.iter().filter(|(series, _)| series.contains("_total")) {
            assert!(now[series] >= *value, "{series} fell from {value} to {}", now[series]);
        }
        before = now;
        // The next look comes while they end.
        drop(held);
    }
    for _ in 0..320 {
        service.relay.next_closed();
    }
    let up =
        metrics(admin)[r#"sosplice_relay_bytes_total{relay="db",direction="up",engine="copy"}"#];
    assert_eq!(up as u64, 320 * 5_001, "each byte once");
}

#[test]
fn a_reload_is_counted() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let admin = service.admin();
    service.done(&["reload"]);
    service.dir.configure("nonsense");
    service.refused(&["reload"]);
    service.dir.configure(&relay_to(&[&upstream]));
    let metrics = metrics(admin);
    assert_eq!(metrics[r#"sosplice_reloads_total{result="done"}"#], 1.0);
    assert_eq!(metrics[r#"sosplice_reloads_total{result="refused"}"#], 1.0);
}

#[test]
fn health_is_503_while_it_drains() {
    let upstream = listener();
    let mut service = Service::to(&[&upstream]);
    let admin = service.admin();
    let (head, body) = ask(admin, "GET /healthz");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body == "ok\n", "{head}{body}");
    let held = join_known(&service.relay, &upstream);
    service.relay.signal(Signal::TERM);
    service.relay.next("stopping: accepting no more, waiting for running sessions");
    let (head, body) = ask(admin, "GET /healthz");
    assert!(head.starts_with("HTTP/1.1 503 ") && body == "draining\n", "{head}{body}");
    assert_eq!(metrics(admin)["sosplice_draining"], 1.0);
    drop(held);
    assert_eq!(service.relay.wait().code(), Some(0));
}

#[test]
fn what_is_not_there_is_refused_and_head_has_no_body() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let admin = service.admin();
    for (line, status) in [
        ("GET /", "404"),
        ("GET /metrics/", "404"),
        ("GET /healthz?x", "200"),
        ("POST /metrics", "405"),
        ("DELETE /", "405"),
        ("HEAD /nothing", "404"),
    ] {
        let (head, _) = ask(admin, line);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {head}");
    }
    let (head, body) = ask(admin, "HEAD /healthz");
    assert!(head.contains("Content-Length: 3") && body.is_empty(), "{head}{body}");
    let two = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n";
    assert_eq!(
        exchange(admin, two.as_bytes()).matches("\r\n\r\nok\n").count(),
        2,
        "one connection"
    );
}

#[test]
fn garbage_is_answered_and_closed_and_harms_nobody() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let admin = service.admin();
    let endless = format!("GET /metrics HTTP/1.1\r\nX: {}", "y".repeat(20_000));
    for (garbage, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\r\n\r\n"[..], "400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
        (endless.as_bytes(), "431"),
    ] {
        let answer = exchange(admin, garbage);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
    }
    let idle: Vec<_> = (0..30).map(|_| connect(admin)).collect();
    ask(admin, "GET /healthz");
    drop(idle);
    join_known(&service.relay, &upstream);
}

/// Whoever watches the service by its health is answered while others hold the address.
#[test]
fn half_heads_do_not_delay_health() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let admin = service.admin();
    let mut half: Vec<_> = (0..200).map(|_| connect(admin)).collect();
    for stream in &mut half {
        // The first ones have made room already.
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n");
    }
    let (head, body) = ask(admin, "GET /healthz");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body == "ok\n", "{head}{body}");
    // Not that their time was up: they would have been told so.
    let mut told = Vec::new();
    let _ = half[0].read_to_end(&mut told);
    assert_eq!(String::from_utf8_lossy(&told), "");
}
