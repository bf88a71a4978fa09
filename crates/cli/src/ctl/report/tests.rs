//! The tables, character by character.

use super::*;
use sosplice_relay::CheckSnapshot;
use sosplice_relay::control::{Bytes, Datagrams, RuleSnapshot, Statuses};

fn addr(text: &str) -> std::net::SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn sessions_are_a_table() {
    let session = SessionSnapshot {
        id: 7,
        relay: "db".to_owned(),
        client: addr("192.0.2.1:5000"),
        upstream: Some(addr("10.0.0.5:5432")),
        age_ms: 61_000,
        up: Bytes { copy: 100, ..Bytes::default() },
        down: Bytes { copy: 4096, pipe: 3 << 30, ..Bytes::default() },
        datagrams: None,
    };
    let early = SessionSnapshot { id: 12, upstream: None, age_ms: 0, ..session.clone() };
    assert_eq!(
        text(&Answer::Sessions(vec![session.clone(), early])),
        "\
ID  RELAY  CLIENT          UPSTREAM       AGE    UP COPIED  UP SPLICED  DOWN COPIED  DOWN SPLICED
7   db     192.0.2.1:5000  10.0.0.5:5432  1m 1s  100 B      0 B         4.0 KiB      3.0 GiB
12  db     192.0.2.1:5000  -              0s     100 B      0 B         4.0 KiB      3.0 GiB
"
    );
    assert_eq!(text(&Answer::Sessions(vec![])).lines().count(), 1, "the head alone");
    let bytes = |plain, gso| Bytes { plain, gso, ..Bytes::default() };
    let datagrams = SessionSnapshot {
        id: 9,
        up: bytes(100, 0),
        down: bytes(24, 4096),
        datagrams: Some(Datagrams { up: 1, down: 5, idle_ms: 2_000 }),
        ..session.clone()
    };
    let table = "\
ID  RELAY  CLIENT          UPSTREAM       AGE    IDLE  UP     UP DATAGRAMS  DOWN     DOWN DATAGRAMS
9   db     192.0.2.1:5000  10.0.0.5:5432  1m 1s  2s    100 B  1             4.0 KiB  5
";
    assert_eq!(text(&Answer::Sessions(vec![datagrams.clone()])), table, "no empty table beside it");
    let both = text(&Answer::Sessions(vec![session, datagrams]));
    assert_eq!(both.split("\n\n").last(), Some(table));
}

#[test]
fn servers_are_a_table() {
    let server = ServerSnapshot {
        upstream: "web".to_owned(),
        server: "a:80".to_owned(),
        target: "a:80".to_owned(),
        addresses: Vec::new(),
        state: Health::Down,
        state_for_ms: 5_000,
        admin: Admin::Draining,
        weight: 1,
        backup: true,
        sessions: 3,
        max_connections: Some(10),
        queued: 4,
        total: 50,
        failures: 6,
        bytes_up: 1,
        bytes_down: 2048,
        last_check: Some(CheckSnapshot { ago_ms: 900, failure: Some("timed out".to_owned()) }),
    };
    assert_eq!(
        text(&Answer::Servers(vec![server])),
        "\
UPSTREAM  SERVER         STATE  FOR  ADMIN     SESSIONS  QUEUED  TOTAL  FAILURES  UP   DOWN     LAST CHECK
web       a:80 (backup)  down   5s   draining  3/10      4       50     6         1 B  2.0 KiB  0s ago: timed out
"
    );
}

#[test]
fn stats_are_tables_of_what_there_is() {
    let relay = RelaySnapshot {
        relay: "db".to_owned(),
        protocol: "tcp".to_owned(),
        listen: vec![addr("127.0.0.1:1"), addr("[::1]:1")],
        accepted: 5,
        refused: 1,
        running: 2,
        ended: 2,
        evicted: 0,
        dropped: 0,
        up: Bytes { copy: 10, ..Bytes::default() },
        down: Bytes { copy: 10, pipe: 1 << 20, ..Bytes::default() },
        requests: 0,
        statuses: Statuses::default(),
        rules: Vec::new(),
    };
    let mut stats = Stats {
        pid: 42,
        program: "0.1.0".to_owned(),
        began_ms: 0,
        uptime_ms: 3_660_000,
        stage: StageWord::Running,
        workers: 2,
        reloads: 1,
        reloads_refused: 3,
        relays: vec![relay.clone()],
    };
    let tcp = "\
sosplice 0.1.0, pid 42, running for 1h 1m; workers: 2; reloads: 1 and 3 refused

RELAY  PROTOCOL  ACCEPTED  REFUSED  RUNNING  ENDED  UP    DOWN     ENGINES                  LISTENS ON
db     tcp       5         1        2        2      10 B  1.0 MiB  copy 20 B, pipe 1.0 MiB  127.0.0.1:1 [::1]:1
";
    assert_eq!(text(&Answer::Stats(Box::new(stats.clone()))), tcp);
    stats.relays.push(RelaySnapshot {
        relay: "web".to_owned(),
        protocol: "http".to_owned(),
        requests: 9,
        statuses: Statuses { successful: 8, server_error: 1, ..Statuses::default() },
        rules: vec![RuleSnapshot { rule: "block".to_owned(), matched: 4 }],
        ..relay
    });
    let http = "
RELAY  REQUESTS  1XX  2XX  3XX  4XX  5XX
web    9         0    8    0    0    1

RELAY  RULE   MATCHED
web    block  4
";
    assert!(text(&Answer::Stats(Box::new(stats))).ends_with(http));
}
