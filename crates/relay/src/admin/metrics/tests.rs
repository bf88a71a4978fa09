//! What a scraper would say of the text.

use super::*;
use crate::control::{RuleSnapshot, Statuses};
use std::collections::{HashMap, HashSet};

fn relay(name: &str, protocol: &str) -> RelaySnapshot {
    RelaySnapshot {
        relay: name.to_owned(),
        protocol: protocol.to_owned(),
        listen: Vec::new(),
        accepted: 9,
        refused: 1,
        running: 3,
        ended: 5,
        evicted: 2,
        dropped: 4,
        up: Bytes { copy: 10, pipe: 20, gso: 30, mmsg: 40, plain: 50 },
        down: Bytes { copy: 1, ..Bytes::default() },
        requests: 8,
        statuses: Statuses { successful: 6, client_error: 1, ..Statuses::default() },
        rules: vec![RuleSnapshot { rule: "block".into(), matched: 1 }],
    }
}

fn server(upstream: &str, name: &str) -> ServerSnapshot {
    ServerSnapshot {
        upstream: upstream.to_owned(),
        server: name.to_owned(),
        target: "a:1".to_owned(),
        addresses: Vec::new(),
        state: Health::Unchecked,
        state_for_ms: 0,
        admin: Admin::Draining,
        weight: 1,
        backup: false,
        sessions: 1,
        max_connections: None,
        queued: 7,
        total: 11,
        failures: 2,
        bytes_up: 100,
        bytes_down: 200,
        last_check: None,
    }
}

fn told() -> String {
    let stats = Stats {
        pid: 1,
        program: "0.1.0".to_owned(),
        began_ms: 1_500,
        uptime_ms: 5,
        stage: StageWord::Running,
        workers: 1,
        reloads: 3,
        reloads_refused: 2,
        relays: vec![relay("web", "http"), relay("dns", "udp"), relay("db", "tcp")],
    };
    let odd = "a\"b\\c\nd{}é";
    text(stats, vec![server("one", "[::1]:80#2"), server("one", odd), server("two", "x")])
}

/// A line of a sample: its name with labels, and its value. Panics where it is none.
fn sample(line: &str) -> (String, f64) {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let name = series.split('{').next().expect("a name");
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit();
    assert!(name.starts_with("sosplice_") && name.bytes().all(is_name), "{line}");
    if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
        let labels = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}')).expect(line);
        check_labels(labels, line);
    }
    (series.to_owned(), value.parse().expect(line))
}

/// `name="value",...` with escapes only before what must be escaped.
fn check_labels(labels: &str, line: &str) {
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").expect(line);
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()), "{line}");
        let mut end = None;
        let mut characters = value.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => {
                    let (_, escaped) = characters.next().expect(line);
                    assert!(matches!(escaped, '\\' | '"' | 'n'), "{line}");
                }
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        rest = &value[end.expect(line) + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

#[test]
fn every_line_is_what_the_format_allows() {
    let text = told();
    assert!(text.ends_with("# EOF\n"));
    let (mut types, mut seen, mut family) = (HashMap::new(), HashSet::new(), String::new());
    for line in text.lines() {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "EOF"] => {}
            ["#", "HELP", name, help] => {
                assert!(!help.is_empty() && !help.ends_with(".."), "{line}");
                name.clone_into(&mut family);
            }
            ["#", "TYPE", name, kind] => {
                assert_eq!(name, family);
                assert!(types.insert(name, kind).is_none(), "told twice: {line}");
            }
            ["#", "UNIT", name, unit] => assert!(name.ends_with(unit), "{line}"),
            _ => {
                let (series, _) = sample(line);
                let name = series.split('{').next().expect("a name");
                let expected = match types[family.as_str()] {
                    "counter" => format!("{family}_total"),
                    "info" => format!("{family}_info"),
                    _ => family.clone(),
                };
                assert_eq!(name, expected, "{line}");
                assert!(seen.insert(series), "twice: {line}");
            }
        }
    }
    // A counter's samples are not to be taken for those of a gauge's family.
    for name in types.keys() {
        assert!(!types.contains_key(format!("{name}_total").as_str()), "{name}");
    }
}

#[test]
fn the_numbers_are_under_their_names() {
    let text = told();
    let lines: HashSet<_> = text.lines().collect();
    for line in [
        r#"sosplice_build_info{version="0.1.0"} 1"#,
        "sosplice_start_time_seconds 1.5",
        "sosplice_draining 0",
        r#"sosplice_reloads_total{result="refused"} 2"#,
        r#"sosplice_relay_sessions_accepted_total{relay="db"} 9"#,
        r#"sosplice_relay_sessions{relay="db"} 3"#,
        r#"sosplice_relay_bytes_total{relay="db",direction="up",engine="pipe"} 20"#,
        r#"sosplice_relay_bytes_total{relay="dns",direction="up",engine="gso"} 30"#,
        r#"sosplice_relay_requests_total{relay="web"} 8"#,
        r#"sosplice_relay_responses_total{relay="web",status="2xx"} 6"#,
        r#"sosplice_relay_rule_matches_total{relay="web",rule="block"} 1"#,
        r#"sosplice_server_up{upstream="one",server="[::1]:80#2"} 1"#,
        r#"sosplice_server_enabled{upstream="two",server="x"} 0"#,
        r#"sosplice_server_bytes_total{upstream="two",server="x",direction="down"} 200"#,
        r#"sosplice_upstream_queued{upstream="one"} 7"#,
    ] {
        assert!(lines.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains(r#"relay_requests_total{relay="db"}"#), "a TCP relay has none");
    assert!(!text.contains(r#"relay="dns",direction="up",engine="pipe""#), "UDP has no pipe");
}

#[test]
fn a_name_with_odd_characters_is_escaped() {
    assert!(told().contains("server=\"a\\\"b\\\\c\\nd{}é\"} "));
}
