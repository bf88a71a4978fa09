//! Answers for people.

use crate::table::{age, row, table};
use bytesize::ByteSize;
use sosplice_relay::control::protocol::Answer;
use sosplice_relay::control::{RelaySnapshot, SessionSnapshot, StageWord, Stats};
use sosplice_relay::{Admin, Health, ServerSnapshot};
use std::fmt::Write;

/// The whole text.
pub fn text(answer: &Answer) -> String {
    let mut text = String::new();
    match answer {
        Answer::Sessions(all) => listed(all, &mut text),
        Answer::Killed { killed, .. } => {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{} killed", killed.len());
        }
        Answer::Servers(all) => table(&servers(all), &mut text),
        Answer::Stats(stats) => self::stats(stats, &mut text),
        Answer::Reloaded(told) => {
            let _ = writeln!(text, "reloaded: {told}");
        }
        Answer::Refused(why) => {
            let _ = writeln!(text, "refused: {why}");
        }
    }
    text
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A table for each kind that there is; where there is none, the head of the first.
fn listed(all: &[SessionSnapshot], text: &mut String) {
    let (datagrams, streams): (Vec<_>, _) = all.iter().partition(|s| s.datagrams.is_some());
    if !streams.is_empty() || datagrams.is_empty() {
        table(&sessions(&streams), text);
    }
    if !streams.is_empty() && !datagrams.is_empty() {
        text.push('\n');
    }
    if !datagrams.is_empty() {
        table(&datagram_sessions(&datagrams), text);
    }
}

fn sessions(all: &[&SessionSnapshot]) -> Vec<Vec<String>> {
    let head = [
        "ID",
        "RELAY",
        "CLIENT",
        "UPSTREAM",
        "AGE",
        "UP COPIED",
        "UP SPLICED",
        "DOWN COPIED",
        "DOWN SPLICED",
    ];
    let mut rows = vec![row(head)];
    rows.extend(all.iter().map(|session| {
        let (up, down) = (&session.up, &session.down);
        let mut row = who(session).to_vec();
        row.extend([up.copy, up.pipe, down.copy, down.pipe].map(size));
        row
    }));
    rows
}

/// The first cells of a session's row: which it is, whose, and how old.
pub fn who(session: &SessionSnapshot) -> [String; 5] {
    [
        session.id.to_string(),
        session.relay.clone(),
        session.client.to_string(),
        session.upstream.map_or_else(|| "-".to_owned(), |addr| addr.to_string()),
        age(session.age_ms),
    ]
}

fn datagram_sessions(all: &[&SessionSnapshot]) -> Vec<Vec<String>> {
    let head = [
        "ID",
        "RELAY",
        "CLIENT",
        "UPSTREAM",
        "AGE",
        "IDLE",
        "UP",
        "UP DATAGRAMS",
        "DOWN",
        "DOWN DATAGRAMS",
    ];
    let mut rows = vec![row(head)];
    rows.extend(all.iter().filter_map(|session| {
        let datagrams = session.datagrams?;
        let mut row = who(session).to_vec();
        row.extend([
            age(datagrams.idle_ms),
            size(session.up.total()),
            datagrams.up.to_string(),
            size(session.down.total()),
            datagrams.down.to_string(),
        ]);
        Some(row)
    }));
    rows
}

fn servers(all: &[ServerSnapshot]) -> Vec<Vec<String>> {
    let head = [
        "UPSTREAM",
        "SERVER",
        "STATE",
        "FOR",
        "ADMIN",
        "SESSIONS",
        "QUEUED",
        "TOTAL",
        "FAILURES",
        "UP",
        "DOWN",
        "LAST CHECK",
    ];
    let mut rows = vec![row(head)];
    rows.extend(all.iter().map(|server| {
        let backup = if server.backup { " (backup)" } else { "" };
        let max = server.max_connections.map_or_else(String::new, |max| format!("/{max}"));
        vec![
            server.upstream.clone(),
            format!("{}{backup}", server.server),
            health(server.state).to_owned(),
            age(server.state_for_ms),
            admin(server.admin).to_owned(),
            format!("{}{max}", server.sessions),
            server.queued.to_string(),
            server.total.to_string(),
            server.failures.to_string(),
            size(server.bytes_up),
            size(server.bytes_down),
            server.last_check.as_ref().map_or_else(
                || "-".to_owned(),
                |check| {
                    let found = check.failure.as_deref().unwrap_or("well");
                    format!("{} ago: {found}", age(check.ago_ms))
                },
            ),
        ]
    }));
    rows
}

/// Its word.
pub fn health(state: Health) -> &'static str {
    match state {
        Health::Up => "up",
        Health::Down => "down",
        Health::Unchecked => "unchecked",
    }
}

/// Its word.
pub fn admin(admin: Admin) -> &'static str {
    match admin {
        Admin::Enabled => "enabled",
        Admin::Disabled => "disabled",
        Admin::Draining => "draining",
        Admin::Drained => "drained",
    }
}

/// One line about the service.
pub fn head(stats: &Stats) -> String {
    let stage = match stats.stage {
        StageWord::Running => "running",
        StageWord::Draining => "draining",
    };
    let refused = match stats.reloads_refused {
        0 => String::new(),
        count => format!(" and {count} refused"),
    };
    format!(
        "sosplice {}, pid {}, {stage} for {}; workers: {}; reloads: {}{refused}",
        stats.program,
        stats.pid,
        age(stats.uptime_ms),
        stats.workers,
        stats.reloads,
    )
}

fn stats(stats: &Stats, text: &mut String) {
    let _ = writeln!(text, "{}\n", head(stats));
    table(&relays(&stats.relays), text);
    let http = || stats.relays.iter().filter(|relay| relay.protocol == "http");
    if http().next().is_some() {
        text.push('\n');
        table(&requests(http()), text);
    }
    if http().any(|relay| !relay.rules.is_empty()) {
        text.push('\n');
        let mut rows = vec![row(["RELAY", "RULE", "MATCHED"])];
        rows.extend(http().flat_map(|relay| {
            let row = |rule: &sosplice_relay::control::RuleSnapshot| {
                vec![relay.relay.clone(), rule.rule.clone(), rule.matched.to_string()]
            };
            relay.rules.iter().map(row).collect::<Vec<_>>()
        }));
        table(&rows, text);
    }
}

fn relays(relays: &[RelaySnapshot]) -> Vec<Vec<String>> {
    let head = [
        "RELAY",
        "PROTOCOL",
        "ACCEPTED",
        "REFUSED",
        "RUNNING",
        "ENDED",
        "UP",
        "DOWN",
        "ENGINES",
        "LISTENS ON",
    ];
    let mut rows = vec![row(head)];
    rows.extend(relays.iter().map(|relay| {
        let listen: Vec<_> = relay.listen.iter().map(ToString::to_string).collect();
        vec![
            relay.relay.clone(),
            relay.protocol.clone(),
            relay.accepted.to_string(),
            relay.refused.to_string(),
            relay.running.to_string(),
            relay.ended.to_string(),
            size(relay.up.total()),
            size(relay.down.total()),
            engines(relay),
            listen.join(" "),
        ]
    }));
    rows
}

/// Those that have carried something, both ways together.
fn engines(relay: &RelaySnapshot) -> String {
    let both = relay.up.by_engine().into_iter().zip(relay.down.by_engine());
    let used = both
        .map(|((engine, up), (_, down))| (engine, up + down))
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(engine, bytes)| format!("{engine} {}", size(bytes)));
    let used = used.collect::<Vec<_>>().join(", ");
    if used.is_empty() { "-".to_owned() } else { used }
}

fn requests<'r>(http: impl Iterator<Item = &'r RelaySnapshot>) -> Vec<Vec<String>> {
    let mut rows = vec![row(["RELAY", "REQUESTS", "1XX", "2XX", "3XX", "4XX", "5XX"])];
    rows.extend(http.map(|relay| {
        let mut row = vec![relay.relay.clone(), relay.requests.to_string()];
        row.extend(relay.statuses.by_class().map(|(_, count)| count.to_string()));
        row
    }));
    rows
}

#[cfg(test)]
mod tests;
