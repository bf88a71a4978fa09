//! What is told of an HTTP relay: requests, statuses, rules, and sessions that are connections.

use super::admin::metrics;
use super::service::{Dir, Service, relay_to};
use crate::support::pattern::{Ending, Pattern};
use crate::support::peers::{accept, connect, listener};
use crate::support::{Relay, wait_until};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

const RULES: [&str; 3] = [
    "[[relay.rule]]\nname = \"all\"\nresponse-set-header = { X-Seen = \"1\" }\n",
    "[[relay.rule]]\nname = \"secret\"\npath = \"/secret\"\naction = \"block\"\n",
    "[[relay.rule]]\nname = \"never\"\npath = \"/never\"\naction = \"block\"\n",
];

fn configure(dir: &Dir, rules: &[&str]) {
    dir.configure(&format!(
        "[[relay]]\nname = \"web\"\nprotocol = \"http\"\nlisten = \"127.0.0.1:0\"\n\
         upstream = \"built-in\"\n{}",
        rules.concat()
    ));
}

fn web() -> Service {
    let dir = Dir::new();
    configure(&dir, &RULES);
    Service { relay: Relay::serve(&dir.file()), dir }
}

/// A request on a connection that goes on: the answer's status and body.
#[track_caller]
fn get(stream: &mut BufReader<TcpStream>, path: &str) -> (String, Vec<u8>) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let (mut head, mut len) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let before = head.len();
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "{head}");
        if let Some(value) = head[before..].to_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body)
}

/// Counted behind the last byte of the answer: one more request on the same connection comes
/// after that.
#[track_caller]
fn settle(stream: &mut BufReader<TcpStream>) {
    assert_eq!(get(stream, "/bytes/1").0, "200");
}

#[test]
fn requests_are_counted_by_status_rule_and_engine() {
    let service = web();
    let admin = service.admin();
    let mut client = BufReader::new(connect(service.relay.addr()));
    assert_eq!(get(&mut client, "/bytes/3000000").1.len(), 3_000_000);
    assert_eq!(get(&mut client, "/secret").0, "403");
    assert_eq!(get(&mut client, "/other").0, "404");
    settle(&mut client);
    // The last one is counted behind its last byte.
    wait_until("all are counted", || service.json(&["stats"])["relays"][0]["requests"] == 4);
    let web = service.json(&["stats"])["relays"][0].clone();
    assert_eq!((&web["statuses"]["2xx"], &web["statuses"]["4xx"]), (&2.into(), &2.into()), "{web}");
    assert_eq!(
        (&web["accepted"], &web["running"], &web["ended"]),
        (&1.into(), &1.into(), &0.into())
    );
    let down = &web["down"];
    assert!(down["pipe"].as_u64().unwrap() > 1_000_000, "{web}");
    let rules: Vec<_> =
        web["rules"].as_array().unwrap().iter().map(|rule| &rule["matched"]).collect();
    assert_eq!(rules, [4, 1, 0]);
    let text = service.done(&["stats"]);
    assert!(text.contains("RULE") && text.contains("secret"), "{text}");

    // In another order, and one is gone.
    configure(&service.dir, &[RULES[1], RULES[0]]);
    service.done(&["reload"]);
    assert_eq!(get(&mut client, "/secret").0, "403");
    settle(&mut client);
    let metrics = metrics(admin);
    assert_eq!(metrics[r#"sosplice_relay_rule_matches_total{relay="web",rule="secret"}"#], 2.0);
    assert_eq!(metrics[r#"sosplice_relay_responses_total{relay="web",status="4xx"}"#], 3.0);
    assert!(!metrics.keys().any(|series| series.contains("never")));
}

#[test]
fn a_killed_connection_is_reset_and_counted_out() {
    let service = web();
    let mut client = BufReader::new(connect(service.relay.addr()));
    settle(&mut client);
    settle(&mut client);
    let listed = service.json(&["sessions"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed[0]["relay"], "web");
    assert!(listed[0]["down"]["copy"].as_u64().unwrap() >= 1, "{listed}");
    service.done(&["kill", &listed[0]["id"].to_string()]);
    let ending = Pattern::new(0).expect_to_end(client.get_ref());
    assert_eq!(ending, Ending::Failed(ErrorKind::ConnectionReset));
    wait_until("it is counted out", || {
        let web = &service.json(&["stats"])["relays"][0];
        web["running"] == 0 && web["ended"] == 1
    });
}

/// What a server makes of the end of a killed request, whatever stage it was in.
#[test]
fn the_server_of_a_killed_request_sees_a_reset() {
    const HEAD: &str = " / HTTP/1.1\r\nHost: a\r\n";
    let upgrade = "Connection: upgrade\r\nUpgrade: x\r\n";
    for (request, answer) in [
        // It has sent a part of its body.
        (format!("POST{HEAD}Content-Length: 100\r\n\r\nhello"), ""),
        // All of it, and waits for the answer.
        (format!("GET{HEAD}\r\n"), ""),
        // An answer without a length is on its way.
        (format!("GET{HEAD}\r\n"), "HTTP/1.1 200 OK\r\n\r\nhello"),
        // It is no request any more.
        (
            format!("GET{HEAD}{upgrade}\r\n"),
            "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
        ),
    ] {
        let upstream = listener();
        let relay =
            relay_to(&[&upstream]).replace("[[upstream]]", "protocol = \"http\"\n[[upstream]]");
        let service = Service::with(&relay);
        let mut client = connect(service.relay.addr());
        client.write_all(request.as_bytes()).unwrap();
        let mut server = accept(&upstream);
        let asked =
            read_until(&mut server, if request.contains("hello") { "hello" } else { "\r\n\r\n" });
        if !answer.is_empty() {
            server.write_all(answer.as_bytes()).unwrap();
            read_until(&mut client, "hello");
        }
        service.done(&["kill", &service.json(&["sessions"])[0]["id"].to_string()]);
        for stream in [&mut client, &mut server] {
            let end = stream.read(&mut [0; 100]).map_err(|error| error.kind());
            assert_eq!(end, Err(ErrorKind::ConnectionReset), "{asked}");
        }
    }
}

/// What has come when its end has.
#[track_caller]
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}
