//! What each command shows and does.

use super::service::{Service, arrive, greet};
use crate::support::pattern::{Ending, Pattern};
use crate::support::peers::{Silent, accept, connect, finish, join_known, listener};
use crate::support::wait_until;
use std::io::ErrorKind;
use std::net::TcpListener;

#[test]
fn sessions_are_listed_with_what_they_have_carried_so_far() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    assert_eq!(service.json(&["sessions"]), serde_json::json!([]));
    let (client, server) = join_known(&service.relay, &upstream);
    let (other, _other_server) = join_known(&service.relay, &upstream);
    Pattern::new(1).write(&client, 999).unwrap();
    Pattern::new(1).expect(&server, 999);
    // Counted behind the send that the server has seen.
    wait_until("the bytes are counted", || {
        let listed = service.json(&["sessions"]);
        let mine = listed
            .as_array()
            .unwrap()
            .iter()
            .find(|session| session["client"] == client.local_addr().unwrap().to_string());
        let mine = mine.unwrap();
        assert_eq!(mine["relay"], "db");
        assert_eq!(mine["upstream"], upstream.local_addr().unwrap().to_string());
        mine["up"]["copy"] == 1000 && mine["down"]["copy"] == 1
    });
    let table = service.done(&["sessions"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains(&other.local_addr().unwrap().to_string()), "{table}");
    drop((client, server));
    service.relay.next_closed();
    wait_until("it is gone from the list", || {
        service.json(&["sessions"]).as_array().unwrap().len() == 1
    });
}

/// More than fit into a line of the protocol.
#[test]
fn a_long_list_is_whole() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let held: Vec<_> = (0..600).map(|_| join_known(&service.relay, &upstream)).collect();
    let listed = service.json(&["sessions"]);
    let mut listed: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["client"].as_str().unwrap().to_owned())
        .collect();
    let mut expected: Vec<_> =
        held.iter().map(|(client, _)| client.local_addr().unwrap().to_string()).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    let ids = service.json(&["sessions"]);
    let ids: Vec<_> = ids.as_array().unwrap().iter().map(|s| s["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "no number twice, over all workers");
}

#[test]
fn a_kill_resets_both_peers_and_nobody_else() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let (client, server) = join_known(&service.relay, &upstream);
    let (other, other_server) = join_known(&service.relay, &upstream);
    let listed = service.json(&["sessions"]);
    let id = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|session| session["client"] == client.local_addr().unwrap().to_string())
        .map(|session| session["id"].to_string())
        .unwrap();
    assert_eq!(service.done(&["kill", &id]), "1 killed\n");
    for stream in [&client, &server] {
        assert_eq!(
            Pattern::new(1).expect_to_end(stream),
            Ending::Failed(ErrorKind::ConnectionReset)
        );
    }
    let closed = service.relay.next_closed();
    assert_eq!((closed.cause.as_str(), closed.up, closed.down), ("killed", 1, 1));
    greet(&other, &other_server);
    let told = service.refused(&["kill", &id]);
    assert!(told.contains(&format!("no running session has the number {id}")), "{told}");
    assert_eq!(service.json(&["stats"])["relays"][0]["ended"], 1);
}

#[test]
fn a_kill_of_numbers_that_there_are_not_is_told_once() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let told = |ids: &[&str]| {
        let done = service.ctl(&[&["kill"], ids].concat());
        assert_eq!(done.status.code(), Some(1));
        [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
    };
    assert_eq!(told(&["99"]), ["", "sosplice: no running session has the number 99\n"]);
    assert_eq!(told(&["99", "98"]), ["", "sosplice: no running session has the numbers 99, 98\n"]);
    // A program always gets its answer.
    let [json, _] = told(&["99", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json, serde_json::json!({ "killed": [], "unknown": [99] }));
}

/// It waits for a server that does not answer.
#[test]
fn a_session_without_a_server_is_killed_as_well() {
    let silent = Silent::new();
    let service = Service::to(&[&silent.listener]);
    let client = connect(service.relay.addr());
    silent.wait_for_syn();
    let listed = service.json(&["sessions"]);
    assert_eq!(listed[0]["upstream"], serde_json::Value::Null);
    service.done(&["kill", &listed[0]["id"].to_string()]);
    let ending = Pattern::new(1).expect_to_end(&client);
    assert_eq!(ending, Ending::Failed(ErrorKind::ConnectionReset));
    assert_eq!(service.relay.next("connection refused")["cause"], "killed");
    assert_eq!(service.json(&["stats"])["relays"][0]["refused"], 1);
}

/// How many of 8 clients come to each of two servers.
#[track_caller]
fn shares(service: &Service, servers: &[&TcpListener; 2]) -> [usize; 2] {
    let mut shares = [0, 0];
    for _ in 0..8 {
        let (_client, _server, at) = arrive(&service.relay, servers);
        shares[at] += 1;
    }
    shares
}

#[test]
fn a_disabled_server_gets_nobody_until_it_is_enabled() {
    let (a, b) = (listener(), listener());
    let service = Service::to(&[&a, &b]);
    let name = format!("u/{}", a.local_addr().unwrap());
    assert_eq!(shares(&service, &[&a, &b]), [4, 4]);
    let set = service.json(&["disable", &name]);
    assert_eq!(set.as_array().unwrap().len(), 1);
    assert_eq!((&set[0]["admin"], &set[0]["state"]), (&"disabled".into(), &"unchecked".into()));
    assert_eq!(shares(&service, &[&a, &b]), [0, 8]);
    let listed = service.json(&["upstreams"]);
    assert_eq!((&listed[0]["admin"], &listed[1]["admin"]), (&"disabled".into(), &"enabled".into()));
    assert_eq!(service.json(&["enable", "u"]).as_array().unwrap().len(), 2, "all of them");
    let [to_a, to_b] = shares(&service, &[&a, &b]);
    assert!(to_a > 0 && to_b > 0);
}

#[test]
fn an_upstream_that_is_disabled_refuses_and_comes_back() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    service.done(&["disable", "u"]);
    assert_eq!(
        Pattern::new(1).expect_to_end(&connect(service.relay.addr())),
        Ending::Failed(ErrorKind::ConnectionReset)
    );
    service.relay.next("connection refused");
    service.done(&["enable", "u"]);
    join_known(&service.relay, &upstream);
}

#[test]
fn a_drained_server_keeps_what_runs_and_says_when_it_is_empty() {
    let (a, b) = (listener(), listener());
    let service = Service::to(&[&a, &b]);
    let (client, server, at) = arrive(&service.relay, &[&a, &b]);
    greet(&client, &server);
    let (drained, other) = if at == 0 { (&a, &b) } else { (&b, &a) };
    let name = format!("u/{}", drained.local_addr().unwrap());
    assert_eq!(service.json(&["drain", &name])[0]["admin"], "draining");
    for _ in 0..4 {
        drop((connect(service.relay.addr()), accept(other)));
    }
    greet(&client, &server);
    assert_eq!(service.relay.lines("server drained"), 0);
    finish(&client);
    finish(&server);
    assert_eq!(service.relay.next("server drained")["server"], name["u/".len()..]);
    let listed = service.json(&["upstreams"]);
    let states: Vec<_> = listed.as_array().unwrap().iter().map(|s| &s["admin"]).collect();
    assert!(states.contains(&&"drained".into()), "{listed}");
}

#[test]
fn a_name_that_is_not_there_is_answered_with_those_that_are() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let told = service.refused(&["disable", "web"]);
    assert!(told.contains("there is no upstream \"web\"; there is u"), "{told}");
    let told = service.refused(&["disable", "u/x"]);
    let name = upstream.local_addr().unwrap();
    assert!(told.contains(&format!("no server \"x\"; there is {name}")), "{told}");
}

#[test]
fn stats_count_what_went_through() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let (client, server) = join_known(&service.relay, &upstream);
    let stats = service.json(&["stats"]);
    assert_eq!((&stats["stage"], &stats["workers"]), (&"running".into(), &2.into()));
    assert_eq!(stats["pid"], service.relay.pid());
    let db = &stats["relays"][0];
    assert_eq!(db["listen"][0], service.relay.addr().to_string());
    for (key, count) in [("accepted", 1), ("refused", 0), ("running", 1), ("ended", 0)] {
        assert_eq!(db[key], count, "{key} in {stats}");
    }
    drop((client, server));
    service.relay.next_closed();
    wait_until("nobody is there", || service.json(&["stats"])["relays"][0]["running"] == 0);
    let db = &service.json(&["stats"])["relays"][0];
    assert_eq!(
        (&db["ended"], &db["up"]["copy"], &db["down"]["copy"]),
        (&1.into(), &1.into(), &1.into())
    );
    let text = service.done(&["stats"]);
    assert!(text.contains("copy 2 B"), "{text}");
}
