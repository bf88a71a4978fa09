//! Sessions of datagrams, which their workers alone have: listed and killed as those of streams.

use super::service::{Service, relay_to};
use crate::support::datagrams::{
    Chatter, addr, client, expect, is_quiet, join, name, next_end, send, send_to, upstream,
};
use crate::support::peers::{accept, connect, listener};
use crate::support::{WATCHDOG, raise_descriptor_limit, skip, wait_until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;

fn relay(to: &UdpSocket) -> String {
    format!(
        "[[relay]]\nname = \"dns\"\nprotocol = \"udp\"\nlisten = \"127.0.0.1:0\"\nupstream = \"d\"\n\
         [[upstream]]\nname = \"d\"\nservers = \"{}\"\n",
        addr(to)
    )
}

fn listed(service: &Service) -> Vec<Value> {
    service.json(&["sessions"]).as_array().unwrap().clone()
}

/// The session of a client.
#[track_caller]
fn of(service: &Service, client: &UdpSocket) -> Value {
    let mine = listed(service).into_iter().find(|session| session["client"] == name(client));
    mine.expect("it is listed")
}

fn id(session: &Value) -> String {
    session["id"].to_string()
}

#[test]
fn sessions_are_listed_with_what_they_have_carried_so_far() {
    let upstream = upstream();
    let service = Service::with(&relay(&upstream));
    assert_eq!(listed(&service), Vec::<Value>::new());
    let (one, other) = (client(service.relay.addr()), client(service.relay.addr()));
    let session = join(&one, &upstream, 10);
    join(&other, &upstream, 20);
    send(&one, 12, 899);
    expect(&upstream, 12, 899);
    // The answer that the client has seen is counted behind its send.
    wait_until("the datagrams are counted", || {
        let mine = of(&service, &one);
        assert_eq!((&mine["relay"], &mine["upstream"]), (&"dns".into(), &name(&upstream).into()));
        mine["up"]["plain"] == 999 && mine["down"]["plain"] == 100
    });
    let mine = of(&service, &one);
    assert_eq!((&mine["datagrams"]["up"], &mine["datagrams"]["down"]), (&2.into(), &1.into()));
    assert!(mine["datagrams"]["idle_ms"].as_u64() <= mine["age_ms"].as_u64(), "{mine}");
    assert_eq!(listed(&service).len(), 2);
    let table = service.done(&["sessions"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains(&name(&other)) && table.contains("UP DATAGRAMS"), "{table}");
    // To have been looked at is no datagram: the session is what it was.
    assert_eq!(join(&one, &upstream, 30), session);
}

#[test]
fn a_kill_ends_one_session_and_nobody_else_s() {
    let upstream = upstream();
    let service = Service::with(&relay(&upstream));
    let (one, other) = (client(service.relay.addr()), client(service.relay.addr()));
    let (of_one, of_other) = (join(&one, &upstream, 10), join(&other, &upstream, 20));
    let killed = id(&of(&service, &one));
    assert_eq!(service.done(&["kill", &killed]), "1 killed\n");
    assert_eq!(next_end(&service.relay), ("killed".to_owned(), name(&one)));
    assert_eq!(listed(&service).len(), 1, "gone when the kill is answered");
    // What the upstream still sends to it comes to nobody.
    send_to(&upstream, of_one, 30, 100);
    assert_eq!(join(&other, &upstream, 40), of_other);
    assert!(is_quiet(&one));
    let told = service.refused(&["kill", &killed]);
    assert!(told.contains(&format!("no running session has the number {killed}")), "{told}");
    // The client may come again, and is another session then.
    assert_ne!(join(&one, &upstream, 50), of_one);
    assert_ne!(id(&of(&service, &one)), killed);
    let stats = &service.json(&["stats"])["relays"][0];
    assert_eq!((&stats["ended"], &stats["running"]), (&1.into(), &2.into()));
}

/// No number twice, and one command for both.
#[test]
fn sessions_of_both_kinds_are_one_list() {
    let (streams, datagrams) = (listener(), upstream());
    let service = Service::with(&(relay_to(&[&streams]) + &relay(&datagrams)));
    let stats = service.json(&["stats"]);
    let at = |relay: usize| -> SocketAddr {
        stats["relays"][relay]["listen"][0].as_str().unwrap().parse().unwrap()
    };
    let mut held = Vec::new();
    let mut clients = Vec::new();
    for number in 0..8 {
        let stream = connect(at(0));
        held.push(accept(&streams));
        held.push(stream);
        let client = client(at(1));
        join(&client, &datagrams, number * 10);
        clients.push(client);
    }
    wait_until("all are there", || listed(&service).len() == 16);
    let all = listed(&service);
    let ids: Vec<_> = all.iter().map(|session| session["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    assert_eq!(all.iter().filter(|session| session["relay"] == "dns").count(), 8);
    let table = service.done(&["sessions"]);
    assert_eq!(table.lines().count(), 2 * (1 + 8) + 1, "{table}");
    let of = |relay: &str| {
        let mine = all.iter().find(|session| session["relay"] == relay);
        mine.unwrap()["id"].to_string()
    };
    let (stream, datagram) = (of("db"), of("dns"));
    let output = service.ctl(&["kill", &stream, "999999", &datagram, "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |text: &str| text.parse::<u64>().unwrap();
    assert_eq!(told["killed"], serde_json::json!([number(&stream), number(&datagram)]));
    assert_eq!(told["unknown"], serde_json::json!([999_999]));
    wait_until("both are gone", || listed(&service).len() == 14);
}

/// More than fit into a line of the protocol, over all workers.
#[test]
fn a_long_list_is_whole() {
    let upstream = upstream();
    let service = Service::with(&relay(&upstream));
    let clients: Vec<_> = (0..600).map(|_| client(service.relay.addr())).collect();
    for (number, client) in (0..).zip(&clients) {
        join(client, &upstream, number * 2);
    }
    let mut listed: Vec<_> = listed(&service)
        .iter()
        .map(|session| session["client"].as_str().unwrap().to_owned())
        .collect();
    let mut expected: Vec<_> = clients.iter().map(name).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
}

/// A relay that is no longer in the configuration, with a session that is never silent.
#[test]
fn what_a_reload_has_left_behind_is_listed_and_killed_as_well() {
    let (streams, datagrams) = (listener(), upstream());
    let service = Service::with(&relay(&datagrams));
    let client = client(service.relay.addr());
    join(&client, &datagrams, 0);
    let _talks = Chatter::start(&client, 2, 10);
    service.dir.configure(&relay_to(&[&streams]));
    service.done(&["reload"]);
    let session = id(&of(&service, &client));
    assert_eq!(service.done(&["kill", &session]), "1 killed\n");
    assert_eq!(next_end(&service.relay), ("killed".to_owned(), name(&client)));
    assert_eq!(listed(&service), Vec::<Value>::new());
}

/// A client that reads slowly holds a part of the list and no more: what it has not read is made
/// when it does, so that it is told of what is there then. A session that has ended meanwhile is
/// not, and neither is another in its place.
#[test]
fn a_list_that_is_read_late_is_not_older_than_its_reading() {
    const COUNT: usize = 3_000;
    if raise_descriptor_limit() < 2 * COUNT as u64 {
        return skip("too few descriptors");
    }
    // What the kernel keeps of an answer that nobody reads: a fraction of this one.
    let kept = std::fs::read_to_string("/proc/sys/net/core/wmem_default").unwrap();
    if kept.trim().parse::<u64>().unwrap() > 300_000 {
        return skip("net.core.wmem_default is more than the usual 212992");
    }
    let upstream = upstream();
    let service = Service::with(&relay(&upstream));
    let clients: Vec<_> = (0..COUNT).map(|_| client(service.relay.addr())).collect();
    for (number, client) in (0..).zip(&clients) {
        join(client, &upstream, number * 2);
    }
    let before: Vec<_> = listed(&service).iter().map(|s| s["id"].as_u64().unwrap()).collect();
    let slow = UnixStream::connect(service.dir.socket()).unwrap();
    slow.set_read_timeout(Some(WATCHDOG)).unwrap();
    (&slow).write_all(b"{\"version\":1,\"request\":\"sessions\"}\n").unwrap();
    // The first line is on its way, and what the last ones are about has been noted.
    let mut slow = BufReader::new(slow);
    let mut first = String::new();
    slow.read_line(&mut first).unwrap();
    let last = &before[COUNT - 200..];
    let ids: Vec<_> = last.iter().map(u64::to_string).collect();
    let mut kill = vec!["kill"];
    kill.extend(ids.iter().map(String::as_str));
    assert_eq!(service.done(&kill), "200 killed\n");
    let again: Vec<_> = (0..200).map(|_| client(service.relay.addr())).collect();
    for client in &again {
        join(client, &upstream, 7);
    }

    let mut told = Vec::new();
    let mut line = first;
    loop {
        let part: Value = serde_json::from_str(&line).unwrap();
        let sessions = part["answer"]["sessions"].as_array().unwrap();
        assert!(sessions.len() <= 256, "a line is bounded");
        told.extend(sessions.iter().map(|session| session["id"].as_u64().unwrap()));
        if part["more"] == false {
            break;
        }
        line.clear();
        slow.read_line(&mut line).unwrap();
    }
    assert_eq!(told, before[..COUNT - 200]);
    assert_eq!(listed(&service).len(), COUNT);
}
