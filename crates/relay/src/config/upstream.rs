//! Upstreams, their servers and their checks.

use super::keys;
use super::problem::{Place, Problems, instead, quoted};
use super::section::{Said, Section, number, spelled, text, word, yes_or_no};
use super::spelling::{self, hex, server_name, statuses, target};
use super::words::{Asked, BALANCES, CHECKS};
use super::{limit, time};
use crate::plan::{Check, CheckKind, ServerPlan, Statuses, UpstreamId, UpstreamPlan};
use crate::upstream::Target;
use std::collections::{HashMap, HashSet};
use toml::de::DeValue;

/// What a check sends, and looks for, at most: it looks at so much of an answer.
const SEND_EXPECT_MAX: usize = 16 * 1024;

/// The word for the origin that is built in. No upstream is called so.
pub(super) const BUILT_IN: &str = "built-in";

/// All upstreams of a file, those with problems among them: they are not missing.
pub(super) struct Upstreams {
    pub(super) plans: Vec<UpstreamPlan>,
    /// Of the servers of each.
    pub(super) places: Vec<Vec<Place>>,
    ids: HashMap<String, UpstreamId>,
}

impl Upstreams {
    pub(super) fn read(file: &Section<'_>) -> Self {
        let mut all = Self { plans: Vec::new(), places: Vec::new(), ids: HashMap::new() };
        for section in file.sections("upstream", &keys::UPSTREAM) {
            let missing = "each upstream has a name, by which relays and rules call it";
            let name = section.need("name", missing, spelled("a name", spelling::name));
            let (servers, places) = servers(&section);
            let name = name.unwrap_or_default();
            if name == BUILT_IN {
                section.wrong("name", "stands for the built-in origin: choose another name");
            } else if !name.is_empty() {
                let id = UpstreamId(all.plans.len());
                if all.ids.insert(name.clone(), id).is_some() {
                    section.wrong("name", format!("a second upstream called {}", quoted(&name)));
                }
            }
            all.plans.push(upstream(&section, UpstreamPlan::new(name, servers)));
            all.places.push(places);
        }
        all
    }

    /// The upstream of a name, or which there are.
    pub(super) fn find(&self, name: &str, problems: &Problems) -> Result<UpstreamId, String> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        if self.ids.is_empty() {
            return Err(format!("no upstream {}: the file has none", quoted(name)));
        }
        // Comparing it to all of them is for a few mistakes, not for a file full of them.
        let instead = if problems.is_full() {
            String::new()
        } else {
            instead(name, self.plans.iter().map(|plan| plan.name.as_str()))
        };
        Err(format!("no upstream {}; {instead}", quoted(name)))
    }
}

/// What a section says beside name and servers.
fn upstream(section: &Section<'_>, mut plan: UpstreamPlan) -> UpstreamPlan {
    if let Some(balance) = section.read("balance", word(&BALANCES)) {
        plan.balance = balance;
    }
    plan.resolve_interval = section.read("resolve-interval", limit);
    if let Some(queue_max) = section.read("queue-max", number(0..=1_000_000)) {
        plan.queue_max = queue_max as usize;
    }
    if let Some(queue_timeout) = section.read("queue-timeout", limit) {
        plan.queue_timeout = queue_timeout;
    }
    if let Some(idle) = section.read("idle-connections", number(0..=1_000_000)) {
        plan.idle_connections_max = idle as usize;
    }
    plan.check = section.section("check", &keys::CHECK).map(|check| read_check(&check));
    plan
}

fn servers(section: &Section<'_>) -> (Vec<ServerPlan>, Vec<Place>) {
    let address = spelled("HOST:PORT", target);
    let mut found: Vec<Said<ServerPlan>> = Vec::new();
    if section.has("servers") && section.has("server") {
        section.wrong("servers", "servers and [[upstream.server]] exclude each other: use one");
    }
    for said in section.list("servers", &address).unwrap_or_default() {
        found.push(Said { value: ServerPlan::new(said.value), place: said.place });
    }
    for server in section.sections("server", &keys::SERVER) {
        let target = server.need("address", "write address = \"HOST:PORT\"", &address);
        if let Some(value) = read_server(&server, target) {
            found.push(Said { value, place: server.place_of("address") });
        }
    }
    if !section.has("servers") && !section.has("server") {
        section.wrong("servers", "missing: an upstream has at least one, as [\"10.0.0.5:80\"]");
    }
    let mut names = HashSet::new();
    for said in &found {
        if !names.insert(said.value.name.as_str()) {
            let name = quoted(&said.value.name);
            let what = format!("a second server called {name}: give it a name of its own");
            section.problems().add(said.place.clone(), what);
        }
    }
    if !found.is_empty() && found.iter().all(|said| said.value.is_backup) {
        let what = "all servers are backups, and nothing is there to be backed up";
        section.problems().add(section.place(), what);
    }
    found.into_iter().map(|said| (said.value, said.place)).unzip()
}

fn read_server(section: &Section<'_>, target: Option<Target>) -> Option<ServerPlan> {
    let name = section.read("name", spelled("a name", server_name));
    let weight = section.read("weight", number(1..=1000));
    let is_backup = section.read("backup", yes_or_no).unwrap_or_default();
    let max_connections = section.read("max-connections", number(1..=u64::MAX));
    let mut plan = ServerPlan::new(target?);
    plan.name = name.unwrap_or(plan.name);
    plan.weight = weight.map_or(plan.weight, |weight| weight as u32);
    Some(ServerPlan { is_backup, max_connections, ..plan })
}

fn read_check(section: &Section<'_>) -> Check {
    let asked = section.read("kind", word(&CHECKS)).unwrap_or(Asked::Tcp);
    let kinds = [
        (Asked::SendExpect, &["send", "send-hex", "expect", "expect-hex"][..]),
        (Asked::Http, &["method", "path", "host", "status"][..]),
    ];
    for (kind, keys) in kinds {
        for key in keys.iter().filter(|key| kind != asked && section.has(key)) {
            let kind = super::words::word_for(&CHECKS, &kind);
            section.wrong(key, format!("only for kind = \"{kind}\""));
        }
    }
    let kind = match asked {
        Asked::Tcp => CheckKind::Tcp,
        Asked::SendExpect => read_send_expect(section),
        Asked::Http => read_http_check(section),
    };
    let interval = section.read("interval", limit).unwrap_or(Check::INTERVAL);
    let times = |key, default| section.read(key, number(1..=1000)).map_or(default, |n| n as u32);
    Check {
        kind,
        interval,
        jitter: section.read("jitter", time).unwrap_or(interval / Check::JITTER_PART),
        timeout: section.read("timeout", limit).unwrap_or(Check::TIMEOUT),
        rise: times("rise", Check::RISE),
        fall: times("fall", Check::FALL),
    }
}

/// `key` as text, or `key`-hex.
fn read_bytes(section: &Section<'_>, key: &str) -> Option<Vec<u8>> {
    let hex_key = format!("{key}-hex");
    if section.has(key) && section.has(&hex_key) {
        section.wrong(&hex_key, format!("{key} and {hex_key} exclude each other: use one"));
    }
    let plain = section.read(key, |value| text(value)?.into_bytes().bounded());
    plain.or_else(|| {
        section.read(&hex_key, spelled("hexadecimal digits", |text| hex(text)?.bounded()))
    })
}

trait Bounded: Sized {
    fn bounded(self) -> Result<Self, String>;
}

impl Bounded for Vec<u8> {
    fn bounded(self) -> Result<Self, String> {
        if self.len() <= SEND_EXPECT_MAX {
            return Ok(self);
        }
        Err(format!("longer than {SEND_EXPECT_MAX} bytes"))
    }
}

fn read_send_expect(section: &Section<'_>) -> CheckKind {
    let send = read_bytes(section, "send").unwrap_or_default();
    let is_there = section.has("expect") || section.has("expect-hex");
    let expect = read_bytes(section, "expect");
    if !is_there {
        section.wrong("expect", "missing: what has to be in the answer");
    } else if expect.as_ref().is_some_and(Vec::is_empty) {
        let key = if section.has("expect") { "expect" } else { "expect-hex" };
        section.wrong(key, "empty: every answer has that; for none use kind = \"tcp\"");
    }
    CheckKind::SendExpect { send, expect: expect.unwrap_or_default() }
}

fn read_http_check(section: &Section<'_>) -> CheckKind {
    use super::http_words::{host_field, method, request_target};
    let status = |value: &DeValue<'_>| match value {
        DeValue::Integer(integer) => statuses(integer.as_str()),
        other => spelled("a status", statuses)(other),
    };
    let wanted = section.list("status", status);
    let path = section.read("path", spelled("a path", request_target));
    let method = section.read("method", spelled("a method", method));
    if method.as_deref() == Some("CONNECT") {
        section.wrong("method", "CONNECT asks for a tunnel, not for an answer: use GET or HEAD");
    }
    let ranges = |said: Vec<Said<(u16, u16)>>| said.into_iter().map(|said| said.value).collect();
    CheckKind::Http {
        method: method.unwrap_or_else(|| "GET".into()),
        path: path.unwrap_or_else(|| "/".into()),
        host: section.read("host", spelled("a host", host_field)),
        statuses: wanted.map_or_else(Statuses::default, |said| Statuses(ranges(said))),
    }
}
