//! What is seen: a function of two looks at the service and of the room for it.
//!
//! Rates are by the service's own clock. After a restart, and at the first look, there are none.

use crate::ctl::report::{admin, head, health, who};
use crate::table::{age, row, table};
use bytesize::ByteSize;
use sosplice_relay::control::{RelaySnapshot, SessionSnapshot, Stats};
use sosplice_relay::{Admin, Health, ServerSnapshot};
use std::collections::HashMap;

/// One look at the service.
pub struct Sight {
    pub stats: Stats,
    pub servers: Vec<ServerSnapshot>,
    pub sessions: Vec<SessionSnapshot>,
}

/// A line of the page.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    pub look: Look,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Plain,
    Title,
    /// Of a table.
    Head,
    /// Something is not as it should be.
    Bad,
}

/// The page, cut to `(columns, rows)`. `problem` is why there is no newer look.
pub fn lines(
    before: Option<&Sight>,
    now: &Sight,
    problem: Option<&str>,
    (columns, rows): (u16, u16),
) -> Vec<Line> {
    let since = Since::new(before, now);
    let title = Line { text: head(&now.stats), look: Look::Title };
    let state = match problem {
        Some(why) => Line { text: why.to_owned(), look: Look::Bad },
        None => Line { text: String::new(), look: Look::Plain },
    };
    let mut lines = vec![title, state];
    let room = usize::from(rows).saturating_sub(lines.len() + 1);
    let mut tables =
        [relays(now, &since), servers(now, &since), sessions(now, &since, usize::from(rows))];
    let between = tables.len();
    cut(&mut tables, room.saturating_sub(between));
    for table in tables {
        lines.extend(table.lines);
        lines.push(Line { text: String::new(), look: Look::Plain });
    }
    lines.truncate(usize::from(rows).saturating_sub(1));
    lines.push(Line { text: "q quits".to_owned(), look: Look::Plain });
    for line in &mut lines {
        line.text = line.text.chars().take(usize::from(columns)).collect();
    }
    lines
}

/// A table, or as much of it as could be seen at all.
struct Table {
    lines: Vec<Line>,
    /// Lines of the whole of it.
    whole: usize,
}

/// Leaves each table its part of `room` lines; what one does not need the others have.
fn cut(tables: &mut [Table], room: usize) {
    let mut by_need: Vec<_> = tables.iter_mut().collect();
    by_need.sort_by_key(|table| table.whole);
    let (mut left, count) = (room, by_need.len());
    for (index, table) in by_need.into_iter().enumerate() {
        let part = left / (count - index);
        if table.whole > part {
            // The last line tells what is missing.
            table.lines.truncate(part.saturating_sub(1));
            if part > 0 {
                let missing = table.whole - table.lines.len();
                table.lines.push(Line { text: format!("({missing} more)"), look: Look::Plain });
            }
        }
        left = left.saturating_sub(table.lines.len());
    }
}

/// What has changed between two looks.
struct Since<'s> {
    /// None where nothing can be compared.
    ms: Option<u64>,
    relays: HashMap<&'s str, &'s RelaySnapshot>,
    servers: HashMap<(&'s str, &'s str), &'s ServerSnapshot>,
    sessions: HashMap<u64, &'s SessionSnapshot>,
}

impl<'s> Since<'s> {
    fn new(before: Option<&'s Sight>, now: &Sight) -> Self {
        let before = before.filter(|before| before.stats.pid == now.stats.pid);
        let ms = before.and_then(|b| now.stats.uptime_ms.checked_sub(b.stats.uptime_ms));
        let ms = ms.filter(|ms| *ms > 0);
        let Some(before) = before.filter(|_| ms.is_some()) else {
            let (relays, servers) = (HashMap::new(), HashMap::new());
            return Self { ms: None, relays, servers, sessions: HashMap::new() };
        };
        let server = |s: &'s ServerSnapshot| ((s.upstream.as_str(), s.server.as_str()), s);
        Self {
            ms,
            relays: before.stats.relays.iter().map(|r| (r.relay.as_str(), r)).collect(),
            servers: before.servers.iter().map(server).collect(),
            sessions: before.sessions.iter().map(|session| (session.id, session)).collect(),
        }
    }

    /// How much a second; None where it is not known.
    fn rate(&self, before: Option<u64>, now: u64) -> Option<f64> {
        let more = now.saturating_sub(before?);
        self.ms.map(|ms| more as f64 * 1000.0 / ms as f64)
    }
}

fn count(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

fn bytes(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| ByteSize(rate as u64).to_string())
}

/// A table with the look of each row but the head.
fn made(rows: &[Vec<String>], looks: impl Iterator<Item = Look>) -> Table {
    let mut text = String::new();
    table(rows, &mut text);
    let looks = std::iter::once(Look::Head).chain(looks);
    let lines = text.lines().zip(looks).map(|(text, look)| Line { text: text.to_owned(), look });
    Table { lines: lines.collect(), whole: rows.len() }
}

fn relays(now: &Sight, since: &Since<'_>) -> Table {
    let head = [
        "RELAY",
        "PROTOCOL",
        "RUNNING",
        "SESSIONS/S",
        "REQUESTS/S",
        "UP/S",
        "DOWN/S",
        "SPLICED",
        "REFUSED",
    ];
    let mut rows = vec![row(head)];
    rows.extend(now.stats.relays.iter().map(|relay| {
        let before = since.relays.get(relay.relay.as_str());
        let rate = |number: fn(&RelaySnapshot) -> u64| {
            since.rate(before.map(|before| number(before)), number(relay))
        };
        let requests = match relay.protocol.as_str() {
            "http" => count(rate(|relay| relay.requests)),
            _ => String::new(),
        };
        vec![
            relay.relay.clone(),
            relay.protocol.clone(),
            relay.running.to_string(),
            count(rate(|relay| relay.accepted)),
            requests,
            bytes(rate(|relay| relay.up.total())),
            bytes(rate(|relay| relay.down.total())),
            spliced(before.copied(), relay),
            relay.refused.to_string(),
        ]
    }));
    made(&rows, now.stats.relays.iter().map(|_| Look::Plain))
}

/// The part of the bytes since the last look that was never in user space.
fn spliced(before: Option<&RelaySnapshot>, now: &RelaySnapshot) -> String {
    let Some(before) = before else { return "-".to_owned() };
    let pipe = |relay: &RelaySnapshot| relay.up.pipe + relay.down.pipe;
    let all = |relay: &RelaySnapshot| relay.up.total() + relay.down.total();
    let (pipe, all) =
        (pipe(now).saturating_sub(pipe(before)), all(now).saturating_sub(all(before)));
    // Not more than there is: a relay of another protocol may have had its name.
    let percent = (u128::from(pipe.min(all)) * 100).checked_div(u128::from(all));
    percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"))
}

fn servers(now: &Sight, since: &Since<'_>) -> Table {
    let head = ["SERVER", "STATE", "FOR", "ADMIN", "SESSIONS", "QUEUED", "SESSIONS/S", "FAILURES"];
    let mut rows = vec![row(head)];
    rows.extend(now.servers.iter().map(|server| {
        let before = since.servers.get(&(server.upstream.as_str(), server.server.as_str()));
        vec![
            format!("{}/{}", server.upstream, server.server),
            health(server.state).to_owned(),
            age(server.state_for_ms),
            admin(server.admin).to_owned(),
            server.sessions.to_string(),
            server.queued.to_string(),
            count(since.rate(before.map(|before| before.total), server.total)),
            server.failures.to_string(),
        ]
    }));
    let look = |server: &ServerSnapshot| {
        let is_well = server.state != Health::Down && server.admin == Admin::Enabled;
        if is_well { Look::Plain } else { Look::Bad }
    };
    made(&rows, now.servers.iter().map(look))
}

/// The busiest first; where nothing is known yet, those that have carried most.
fn sessions(now: &Sight, since: &Since<'_>, most: usize) -> Table {
    let total = |session: &SessionSnapshot| session.up.total() + session.down.total();
    let more = |session: &SessionSnapshot| {
        // One that has begun since has carried all of it since.
        let before = since.sessions.get(&session.id).map_or(0, |before| total(before));
        total(session).saturating_sub(before)
    };
    let mut busiest: Vec<_> = now.sessions.iter().collect();
    busiest.sort_by_key(|session| (std::cmp::Reverse(more(session)), session.id));
    // There may be very many, and a screen shows few.
    busiest.truncate(most);
    let head = ["SESSION", "RELAY", "CLIENT", "UPSTREAM", "AGE", "UP/S", "DOWN/S", "UP", "DOWN"];
    let mut rows = vec![row(head)];
    rows.extend(busiest.iter().map(|session| {
        let before = since.sessions.get(&session.id);
        let rate = |number: fn(&SessionSnapshot) -> u64| {
            since.rate(Some(before.map_or(0, |before| number(before))), number(session))
        };
        let mut row = who(session).to_vec();
        row.extend([
            bytes(rate(|session| session.up.total())),
            bytes(rate(|session| session.down.total())),
            ByteSize(session.up.total()).to_string(),
            ByteSize(session.down.total()).to_string(),
        ]);
        row
    }));
    let table = made(&rows, busiest.iter().map(|_| Look::Plain));
    Table { whole: now.sessions.len() + 1, ..table }
}

#[cfg(test)]
mod tests;
