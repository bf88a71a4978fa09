//! A plan as a file that is read as the same plan, with every default in it.
//!
//! It serves `sosplice check --print`: what a file says when nothing is left unsaid. Comments and
//! the spelling of the original are not kept. It prints plans that a file could have made; one
//! that a program has put together otherwise (two hosts to match in one rule) may lose by it.

use super::rule::{EditKeys, REQUEST, RESPONSE};
use super::spelling::{hex_text, statuses_text, time_text};
use super::upstream::BUILT_IN;
use super::words::{
    ACTIONS, Act, Asked, BALANCES, CHECKS, ENGINES, LOG_FORMATS, LOG_LEVELS, PROTOCOLS,
    PROXY_VERSIONS, Spoken, word_for,
};
use crate::plan::{
    Action, Check, CheckKind, Condition, Field, HeaderEdit, HttpPlan, Match, PathMatch, Plan,
    Protocol, RelayPlan, Rule, ServerPlan, SetOrAdd, Timeouts, UpstreamId, UpstreamPlan,
};
use std::fmt::Display;
use std::time::Duration;
use toml_writer::{ToTomlKey, ToTomlValue};

/// The plan as TOML.
#[must_use]
pub fn print(plan: &Plan) -> String {
    let mut page = Page(String::new());
    page.value("workers", plan.workers);
    page.value("busy-poll-us", plan.busy_poll.as_micros());
    page.time("drain-timeout", plan.drain_timeout);
    match plan.max_connections {
        Some(max) => page.value("max-connections", max),
        None => page.comment("max-connections: what the limit on descriptors allows"),
    }
    match &plan.control {
        Some(path) => page.text("control", &path.to_string_lossy()),
        None => page.comment("control: none"),
    }
    page.header("[log]");
    page.text("level", word_for(&LOG_LEVELS, &plan.log.level));
    page.text("format", word_for(&LOG_FORMATS, &plan.log.format));
    page.value("access", plan.log.access);
    if let Some(address) = plan.admin {
        page.header("[admin]");
        page.text("listen", &address.to_string());
    }
    for relay in &plan.relays {
        page.relay(relay, plan);
    }
    for upstream in &plan.upstreams {
        page.upstream(upstream);
    }
    page.0
}

/// Lines of a file.
struct Page(String);

impl Page {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn header(&mut self, header: &str) {
        self.line("");
        self.line(header);
    }

    fn comment(&mut self, comment: &str) {
        self.line(&format!("# {comment}"));
    }

    /// What TOML writes as Rust does: numbers, true and false.
    fn value(&mut self, key: &str, value: impl Display) {
        self.line(&format!("{key} = {value}"));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.value(key, quote(text));
    }

    fn texts<T: ToString>(&mut self, key: &str, texts: &[T]) {
        self.value(key, list(texts.iter().map(|text| quote(&text.to_string()))));
    }

    fn time(&mut self, key: &str, time: Duration) {
        self.text(key, &time_text(time));
    }

    fn time_or_none(&mut self, key: &str, time: Option<Duration>) {
        match time {
            Some(time) => self.time(key, time),
            None => self.text(key, "none"),
        }
    }

    fn number_or_none(&mut self, key: &str, number: Option<u64>) {
        match number {
            Some(number) => self.value(key, number),
            None => self.comment(&format!("{key}: no limit")),
        }
    }

    fn relay(&mut self, relay: &RelayPlan, plan: &Plan) {
        let spoken = match &relay.protocol {
            Protocol::Tcp => Spoken::Tcp,
            Protocol::Udp { .. } => Spoken::Udp,
            Protocol::Http(_) => Spoken::Http,
        };
        self.header("[[relay]]");
        self.text("name", &relay.name);
        self.text("protocol", word_for(&PROTOCOLS, &spoken));
        self.text("upstream", relay.upstream.map_or(BUILT_IN, |id| name_of(plan, id)));
        self.text("engine", word_for(&ENGINES, &relay.engine));
        match &relay.protocol {
            Protocol::Udp { max_sessions: Some(max) } => self.value("max-sessions", max),
            Protocol::Udp { max_sessions: None } => {
                self.comment("max-sessions: what the limit on descriptors allows");
            }
            Protocol::Tcp | Protocol::Http(_) => self.stream(relay, spoken),
        }
        for listener in &relay.listeners {
            self.header("[[relay.listener]]");
            self.text("address", &listener.address.to_string());
            if !listener.accept_proxy_from.is_empty() {
                self.texts("accept-proxy-from", &listener.accept_proxy_from);
            }
        }
        self.timeouts(&relay.timeouts, spoken);
        if let Protocol::Http(http) = &relay.protocol {
            self.http(http, plan);
        }
    }

    /// What relays of streams have beside the rest.
    fn stream(&mut self, relay: &RelayPlan, spoken: Spoken) {
        self.number_or_none("max-connections", relay.max_connections);
        self.number_or_none("max-connections-per-client", relay.max_per_client);
        if spoken == Spoken::Tcp {
            self.number_or_none("max-bytes", relay.max_bytes);
        }
        match relay.send_proxy {
            Some(version) => self.text("send-proxy", word_for(&PROXY_VERSIONS, &version)),
            None => self.comment("send-proxy: no"),
        }
        match &relay.congestion {
            Some(congestion) => self.text("congestion", &congestion.0),
            None => self.comment("congestion: the system's"),
        }
    }

    fn timeouts(&mut self, timeouts: &Timeouts, spoken: Spoken) {
        self.header("[relay.timeout]");
        self.time_or_none("idle", timeouts.idle);
        if spoken == Spoken::Udp {
            return;
        }
        self.time("connect", timeouts.connect);
        self.time_or_none("half-closed", timeouts.half_closed);
        self.time("head", timeouts.head);
        if spoken == Spoken::Http {
            self.time("keep-alive", timeouts.keep_alive);
        }
    }

    fn http(&mut self, http: &HttpPlan, plan: &Plan) {
        self.header("[relay.http]");
        self.value("head-max", http.head_max);
        self.value("fields-max", http.fields_max);
        self.value("forwarded-for", http.forwarded_for);
        for rule in &http.rules {
            self.rule(rule, plan);
        }
    }

    fn rule(&mut self, rule: &Rule, plan: &Plan) {
        self.header("[[relay.rule]]");
        self.text("name", &rule.name);
        self.conditions("", rule.conditions.iter().filter(|condition| !condition.is_negated));
        self.conditions("not.", rule.conditions.iter().filter(|condition| condition.is_negated));
        let word = |act| word_for(&ACTIONS, &act);
        match &rule.action {
            None => {}
            Some(Action::Pass) => self.text("action", word(Act::Pass)),
            Some(Action::Route(id)) => {
                self.text("action", word(Act::Route));
                self.text("upstream", name_of(plan, *id));
            }
            Some(Action::Block { status, body }) => {
                self.text("action", word(Act::Block));
                self.value("status", status);
                self.text("body", body);
            }
            Some(Action::Redirect { status, location }) => {
                self.text("action", word(Act::Redirect));
                self.value("status", status);
                self.text("location", location);
            }
        }
        self.edits(&rule.request_edits, &REQUEST);
        self.edits(&rule.response_edits, &RESPONSE);
    }

    fn conditions<'p>(&mut self, not: &str, conditions: impl Iterator<Item = &'p Condition>) {
        let (mut headers, mut cookies, mut queries) = (Vec::new(), Vec::new(), Vec::new());
        for condition in conditions {
            match &condition.test {
                Match::Host(hosts) => self.texts(&format!("{not}host"), hosts),
                Match::Path(PathMatch::Exact(path)) => self.text(&format!("{not}path"), path),
                Match::Path(PathMatch::Prefix(path)) => {
                    self.text(&format!("{not}path-prefix"), path);
                }
                Match::Path(PathMatch::Glob(path)) => self.text(&format!("{not}path-glob"), path),
                Match::Method(methods) => self.texts(&format!("{not}method"), methods),
                Match::Client(networks) => self.texts(&format!("{not}client"), networks),
                Match::Header(field) => headers.push(field_table(field)),
                Match::Cookie(field) => cookies.push(field_table(field)),
                Match::Query(field) => queries.push(field_table(field)),
            }
        }
        for (key, fields) in [("header", headers), ("cookie", cookies), ("query", queries)] {
            if !fields.is_empty() {
                self.value(&format!("{not}{key}"), list(fields.into_iter()));
            }
        }
    }

    fn edits(&mut self, edits: &[HeaderEdit], keys: &EditKeys) {
        let removed: Vec<_> = edits
            .iter()
            .filter_map(|edit| match edit {
                HeaderEdit::Remove { name } => Some(name),
                HeaderEdit::Put { .. } => None,
            })
            .collect();
        if !removed.is_empty() {
            self.texts(keys.remove, &removed);
        }
        for (wanted, key) in [(SetOrAdd::Set, keys.set), (SetOrAdd::Add, keys.add)] {
            let mut puts: Vec<(&str, Vec<String>)> = Vec::new();
            for edit in edits {
                let HeaderEdit::Put { how, name, value } = edit else { continue };
                if *how != wanted {
                    continue;
                }
                match puts.iter_mut().find(|(known, _)| known == name) {
                    Some((_, values)) => values.push(quote(value)),
                    None => puts.push((name, vec![quote(value)])),
                }
            }
            if !puts.is_empty() {
                let put = |(name, values): (&str, Vec<String>)| {
                    format!("{} = {}", name.to_toml_key(), list(values.into_iter()))
                };
                let puts: Vec<_> = puts.into_iter().map(put).collect();
                self.value(key, format!("{{ {} }}", puts.join(", ")));
            }
        }
    }

    fn upstream(&mut self, upstream: &UpstreamPlan) {
        self.header("[[upstream]]");
        self.text("name", &upstream.name);
        self.text("balance", word_for(&BALANCES, &upstream.balance));
        match upstream.resolve_interval {
            Some(interval) => self.time("resolve-interval", interval),
            None => self.comment("resolve-interval: only at the start and at a reload"),
        }
        self.value("queue-max", upstream.queue_max);
        self.time("queue-timeout", upstream.queue_timeout);
        self.value("idle-connections", upstream.idle_connections_max);
        for server in &upstream.servers {
            self.server(server);
        }
        match &upstream.check {
            Some(check) => self.check(check),
            None => self.comment("check: none, all servers are up"),
        }
    }

    fn server(&mut self, server: &ServerPlan) {
        self.header("[[upstream.server]]");
        self.text("address", &server.target.to_string());
        self.text("name", &server.name);
        self.value("weight", server.weight);
        self.value("backup", server.is_backup);
        self.number_or_none("max-connections", server.max_connections);
    }

    fn check(&mut self, check: &Check) {
        self.header("[upstream.check]");
        let word = |asked| word_for(&CHECKS, &asked);
        match &check.kind {
            CheckKind::Tcp => self.text("kind", word(Asked::Tcp)),
            CheckKind::SendExpect { send, expect } => {
                self.text("kind", word(Asked::SendExpect));
                self.bytes("send", send);
                self.bytes("expect", expect);
            }
            CheckKind::Http { method, path, host, statuses } => {
                self.text("kind", word(Asked::Http));
                self.text("method", method);
                self.text("path", path);
                match host {
                    Some(host) => self.text("host", host),
                    None => self.comment("host: the server's address"),
                }
                self.texts("status", &statuses_text(statuses));
            }
        }
        self.time("interval", check.interval);
        self.time("jitter", check.jitter);
        self.time("timeout", check.timeout);
        self.value("rise", check.rise);
        self.value("fall", check.fall);
    }

    /// As text where it is some.
    fn bytes(&mut self, key: &str, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(key, text),
            Err(_) => self.text(&format!("{key}-hex"), &hex_text(bytes)),
        }
    }
}

/// A string on one line, whatever is in it.
fn quote(text: &str) -> String {
    toml_writer::TomlStringBuilder::new(text).as_basic().to_toml_value()
}

fn list(values: impl Iterator<Item = String>) -> String {
    let values: Vec<_> = values.collect();
    match &values[..] {
        [one] if !one.starts_with('{') => one.clone(),
        _ => format!("[{}]", values.join(", ")),
    }
}

fn field_table(field: &Field) -> String {
    let name = quote(&field.name);
    match &field.value {
        Some(value) => format!("{{ name = {name}, value = {} }}", quote(value)),
        None => format!("{{ name = {name} }}"),
    }
}

fn name_of(plan: &Plan, id: UpstreamId) -> &str {
    plan.upstreams.get(id.0).map_or(BUILT_IN, |upstream| &upstream.name)
}
