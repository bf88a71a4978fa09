//! Pages, character by character.

use super::*;
use sosplice_relay::control::{Bytes, Datagrams, StageWord, Statuses};

fn relay(name: &str, accepted: u64, copy: u64, pipe: u64) -> RelaySnapshot {
    RelaySnapshot {
        relay: name.to_owned(),
        protocol: if name == "web" { "http" } else { "tcp" }.to_owned(),
        listen: Vec::new(),
        accepted,
        refused: 1,
        running: 2,
        ended: 0,
        evicted: 0,
        dropped: 0,
        up: Bytes { copy, ..Bytes::default() },
        down: Bytes { pipe, ..Bytes::default() },
        requests: accepted * 10,
        statuses: Statuses::default(),
        rules: Vec::new(),
    }
}

fn server(name: &str, state: Health, admin: Admin, total: u64) -> ServerSnapshot {
    ServerSnapshot {
        upstream: "u".to_owned(),
        server: name.to_owned(),
        target: String::new(),
        addresses: Vec::new(),
        state,
        state_for_ms: 61_000,
        admin,
        weight: 1,
        backup: false,
        sessions: 2,
        max_connections: None,
        queued: 0,
        total,
        failures: 3,
        bytes_up: 0,
        bytes_down: 0,
        last_check: None,
    }
}

fn session(id: u64, up: u64, down: u64) -> SessionSnapshot {
    SessionSnapshot {
        id,
        relay: "db".to_owned(),
        client: "127.0.0.1:1000".parse().expect("an address"),
        upstream: Some("127.0.0.1:2000".parse().expect("an address")),
        age_ms: 1_000,
        up: Bytes { copy: up, ..Bytes::default() },
        down: Bytes { pipe: down, ..Bytes::default() },
        datagrams: None,
    }
}

fn sight(uptime_ms: u64, relays: Vec<RelaySnapshot>, sessions: Vec<SessionSnapshot>) -> Sight {
    let stats = Stats {
        pid: 9,
        program: "0.1.0".to_owned(),
        began_ms: 0,
        uptime_ms,
        stage: StageWord::Running,
        workers: 1,
        reloads: 0,
        reloads_refused: 0,
        relays,
    };
    let up = server("a:1", Health::Up, Admin::Enabled, uptime_ms / 100);
    let down = server("b:1", Health::Down, Admin::Enabled, 0);
    let drained = server("c:1", Health::Up, Admin::Drained, 0);
    Sight { stats, servers: vec![up, down, drained], sessions }
}

fn before() -> Sight {
    let relays = vec![relay("db", 10, 1000, 0), relay("web", 5, 0, 0)];
    sight(10_000, relays, vec![session(1, 50_000, 0), session(2, 0, 0)])
}

fn now() -> Sight {
    let relays = vec![relay("db", 14, 3048, 6144), relay("web", 8, 0, 0), relay("new", 1, 1, 1)];
    let sessions = vec![session(1, 50_000, 0), session(2, 0, 4096), session(3, 2048, 0)];
    sight(12_000, relays, sessions)
}

fn text(lines: &[Line]) -> String {
    lines.iter().map(|line| format!("{}\n", line.text)).collect()
}

#[test]
fn two_looks_make_rates() {
    let lines = lines(Some(&before()), &now(), None, (200, 40));
    assert_eq!(
        text(&lines),
        "\
sosplice 0.1.0, pid 9, running for 12s; workers: 1; reloads: 0

RELAY  PROTOCOL  RUNNING  SESSIONS/S  REQUESTS/S  UP/S     DOWN/S   SPLICED  REFUSED
db     tcp       2        2.0                     1.0 KiB  3.0 KiB  75 %     1
web    http      2        1.5         15.0        0 B      0 B      -        1
new    tcp       2        -                       -        -        -        1

SERVER  STATE  FOR    ADMIN    SESSIONS  QUEUED  SESSIONS/S  FAILURES
u/a:1   up     1m 1s  enabled  2         0       10.0        3
u/b:1   down   1m 1s  enabled  2         0       0.0         3
u/c:1   up     1m 1s  drained  2         0       0.0         3

SESSION  RELAY  CLIENT          UPSTREAM        AGE  UP/S     DOWN/S   UP        DOWN
2        db     127.0.0.1:1000  127.0.0.1:2000  1s   0 B      2.0 KiB  0 B       4.0 KiB
3        db     127.0.0.1:1000  127.0.0.1:2000  1s   1.0 KiB  0 B      2.0 KiB   0 B
1        db     127.0.0.1:1000  127.0.0.1:2000  1s   0 B      0 B      48.8 KiB  0 B

q quits
"
    );
    let looks: Vec<_> = lines.iter().filter(|line| line.look == Look::Bad).collect();
    assert_eq!(looks.len(), 2, "the server that is down and the one that is drained");
    assert!(looks[0].text.starts_with("u/b:1") && looks[1].text.starts_with("u/c:1"));
}

/// The counts of another process are no rates.
#[test]
fn a_session_of_datagrams_is_one_like_any_other() {
    let session = |datagrams, plain, gso| SessionSnapshot {
        up: Bytes { plain, gso, ..Bytes::default() },
        datagrams: Some(Datagrams { up: datagrams, down: 0, idle_ms: 0 }),
        ..session(7, 0, 0)
    };
    let before = sight(10_000, vec![], vec![session(1, 100, 0)]);
    let now = sight(12_000, vec![], vec![session(5, 124, 2024)]);
    let page = text(&lines(Some(&before), &now, None, (200, 50)));
    assert!(page.contains("1.0 KiB") && page.contains("2.1 KiB"), "rate and sum: {page}");
}

#[test]
fn the_first_look_and_one_after_a_restart_have_no_rates() {
    let mut other = before();
    other.stats.pid = 8;
    let mut younger = before();
    younger.stats.uptime_ms = 20_000;
    let mut same = before();
    same.stats.uptime_ms = 12_000;
    for earlier in [None, Some(&other), Some(&younger), Some(&same)] {
        let lines = lines(earlier, &now(), None, (200, 40));
        let db = "db     tcp       2        -                       -     -       -        1";
        assert!(lines.iter().any(|line| line.text == db), "{}", text(&lines));
        assert!(
            lines[13].text.starts_with("1 "),
            "the one that has carried most: {}",
            text(&lines)
        );
    }
}

#[test]
fn nothing_is_wider_or_longer_than_the_screen() {
    let many = (0..5000).map(|id| session(id, id, 0)).collect();
    let now = sight(12_000, vec![relay("db", 1, 1, 1)], many);
    for (columns, rows) in [(80, 24), (200, 50), (10, 5), (1, 1), (80, 7), (0, 0), (80, 300)] {
        let lines = lines(None, &now, Some("a problem"), (columns, rows));
        assert!(lines.len() <= usize::from(rows).max(1), "{} of {rows}", lines.len());
        assert!(lines.iter().all(|line| line.text.chars().count() <= usize::from(columns)));
    }
    let lines = lines(None, &now, None, (80, 24));
    assert_eq!(lines.len(), 24);
    assert_eq!(lines[23].text, "q quits");
    let shown = lines.iter().filter(|line| line.text.contains(" 127.0.0.1:1000 ")).count();
    let more = format!("({} more)", 5000 - shown);
    assert_eq!(lines[21].text, more, "{}", text(&lines));
    assert!(lines.iter().any(|line| line.text.starts_with("u/c:1")), "what is short is whole");
}

#[test]
fn a_problem_stands_above_what_was_last_seen() {
    let lines = lines(None, &now(), Some("nobody listens"), (80, 24));
    assert_eq!(lines[1], Line { text: "nobody listens".to_owned(), look: Look::Bad });
    assert!(lines[3].text.starts_with("db "));
}
