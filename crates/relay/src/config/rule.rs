//! The rules of an HTTP relay.
//!
//! The conditions of a rule are put into one order, the cheap ones first, and its edits into
//! another: taken out, then set, then added. A file says the same in any order.

use super::http_words::{
    cookie_name, cookie_value, edit_name, field_name, field_value, host, location, method, path,
    path_glob, path_prefix, query_name, query_value,
};
use super::keys;
use super::problem::quoted;
use super::section::{Said, Section, number, spelled, text, word};
use super::spelling::{self, network};
use super::upstream::Upstreams;
use super::words::{ACTIONS, Act, word_for};
use crate::plan::{Action, Condition, Field, HeaderEdit, Match, PathMatch, Rule, SetOrAdd};
use std::collections::HashMap;

/// Of a page that a rule answers with, in bytes.
const BODY_MAX: usize = 64 * 1024;

/// Statuses that send a client elsewhere.
const REDIRECTS: [u64; 5] = [301, 302, 303, 307, 308];

/// The keys of a change of a head.
pub(super) struct EditKeys {
    pub(super) set: &'static str,
    pub(super) add: &'static str,
    pub(super) remove: &'static str,
}

pub(super) const REQUEST: EditKeys =
    EditKeys { set: "set-header", add: "add-header", remove: "remove-header" };

pub(super) const RESPONSE: EditKeys = EditKeys {
    set: "response-set-header",
    add: "response-add-header",
    remove: "response-remove-header",
};

/// All rules of a relay.
pub(super) fn read_all(relay: &Section<'_>, upstreams: &Upstreams) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut names = HashMap::new();
    // The number of a rule behind which no other is reached.
    let mut last: Option<usize> = None;
    for (index, section) in relay.sections("rule", &keys::RULE).into_iter().enumerate() {
        let rule = read(&section, index + 1, upstreams);
        if let Some(other) = names.insert(rule.name.clone(), index + 1) {
            let name = quoted(&rule.name);
            section.wrong("name", format!("rule {other} is called {name} already"));
        }
        match last {
            Some(last) => {
                let what = format!("never reached: rule {last} decides every request");
                section.problems().add(section.place(), what);
            }
            None if rule.decides_all() && has_no_condition(&section) => last = Some(index + 1),
            None => {}
        }
        rules.push(rule);
    }
    rules
}

/// As the file says: a condition that is wrong is one all the same.
fn has_no_condition(section: &Section<'_>) -> bool {
    !section.has("not") && !keys::NOT.names.iter().any(|key| section.has(key))
}

fn read(section: &Section<'_>, number: usize, upstreams: &Upstreams) -> Rule {
    let name = section.read("name", spelled("a name", spelling::name));
    let mut conditions = read_conditions(section, false);
    if let Some(not) = section.section("not", &keys::NOT) {
        let negated = read_conditions(&not, true);
        if not.is_empty() {
            section.wrong("not", "empty: say what must not hold");
        }
        conditions.extend(negated);
    }
    let act = section.read("action", word(&ACTIONS));
    let action = act.and_then(|act| read_action(section, act, upstreams));
    if act.is_some() || !section.has("action") {
        refuse_others(section, act);
    }
    Rule {
        name: name.unwrap_or_else(|| format!("rule-{number}")),
        conditions,
        action,
        request_edits: read_edits(section, &REQUEST),
        response_edits: read_edits(section, &RESPONSE),
    }
}

fn read_conditions(section: &Section<'_>, is_negated: bool) -> Vec<Condition> {
    let mut tests = Vec::new();
    let each = |said: Vec<Said<String>>| said.into_iter().map(|said| said.value).collect();
    tests.extend(section.list("host", spelled("a host", host)).map(each).map(Match::Host));
    let one = |key, parse: fn(&str) -> Result<String, String>| {
        section.read(key, spelled("a path", parse))
    };
    let paths = [
        one("path", path).map(PathMatch::Exact),
        one("path-prefix", path_prefix).map(PathMatch::Prefix),
        one("path-glob", path_glob).map(PathMatch::Glob),
    ];
    tests.extend(paths.into_iter().flatten().map(Match::Path));
    tests.extend(section.list("method", spelled("a method", method)).map(each).map(Match::Method));
    tests.extend(fields(section, "header", field_name, field_value).map(Match::Header));
    tests.extend(fields(section, "cookie", cookie_name, cookie_value).map(Match::Cookie));
    tests.extend(fields(section, "query", query_name, query_value).map(Match::Query));
    let networks = section.list("client", spelled("a network", network));
    tests.extend(
        networks.map(|said| Match::Client(said.into_iter().map(|said| said.value).collect())),
    );
    tests.into_iter().map(|test| Condition { test, is_negated }).collect()
}

fn fields<'a>(
    section: &Section<'a>,
    key: &'static str,
    name: fn(&str) -> Result<String, String>,
    value: fn(&str) -> Result<String, String>,
) -> impl Iterator<Item = Field> + use<'a> {
    section.sections(key, &keys::FIELD).into_iter().filter_map(move |field| {
        let value = field.read("value", spelled("a string", value));
        let name = field.need("name", "which one", spelled("a name", name))?;
        Some(Field { name, value })
    })
}

fn read_action(section: &Section<'_>, act: Act, upstreams: &Upstreams) -> Option<Action> {
    match act {
        Act::Pass => Some(Action::Pass),
        Act::Route => {
            let missing = "the name of an [[upstream]] to route to";
            let find = |name: &str| upstreams.find(name, section.problems());
            section
                .need("upstream", missing, spelled("the name of an upstream", find))
                .map(Action::Route)
        }
        Act::Block => {
            let status = section.read("status", number(400..=599)).unwrap_or(403);
            let body = section.read("body", |value| match text(value)? {
                body if body.len() > BODY_MAX => Err(format!("longer than {BODY_MAX} bytes")),
                body => Ok(body),
            });
            Some(Action::Block { status: status as u16, body: body.unwrap_or_default() })
        }
        Act::Redirect => {
            let status = section.read("status", |value| match number(0..=u64::MAX)(value)? {
                status if REDIRECTS.contains(&status) => Ok(status),
                other => Err(format!("{other} leads nowhere: 301, 302, 303, 307 and 308 do")),
            });
            let missing = "where to, as \"https://{host}{path}{query}\"";
            let location = section.need("location", missing, spelled("a location", location))?;
            Some(Action::Redirect { status: status.unwrap_or(302) as u16, location })
        }
    }
}

/// Keys that the action has no use for would be believed to do something.
fn refuse_others(section: &Section<'_>, act: Option<Act>) {
    let mut only: Vec<(&str, &[Act])> = vec![
        ("status", &[Act::Block, Act::Redirect]),
        ("body", &[Act::Block]),
        ("location", &[Act::Redirect]),
        ("upstream", &[Act::Route]),
    ];
    if act.is_some() {
        let forwards = &[Act::Pass, Act::Route];
        only.extend([REQUEST.set, REQUEST.add, REQUEST.remove].map(|key| (key, &forwards[..])));
    }
    for (key, acts) in only {
        if act.is_some_and(|act| acts.contains(&act)) || !section.has(key) {
            continue;
        }
        let acts: Vec<_> =
            acts.iter().map(|act| format!("\"{}\"", word_for(&ACTIONS, act))).collect();
        section.wrong(key, format!("only for action = {}", acts.join(" or ")));
    }
}

fn read_edits(section: &Section<'_>, keys: &EditKeys) -> Vec<HeaderEdit> {
    let is_request = keys.set == REQUEST.set;
    let named = |key: &'static str| {
        move |name: &str| match edit_name(name)? {
            host if key != REQUEST.set && is_request && host.eq_ignore_ascii_case("host") => {
                Err("a request has one Host: set-header changes it".into())
            }
            name => Ok(name),
        }
    };
    let removed =
        section.list(keys.remove, spelled("the name of a header field", named(keys.remove)));
    let removed = removed.unwrap_or_default().into_iter();
    let mut edits: Vec<_> =
        removed.map(|said| HeaderEdit::Remove { name: said.value.to_ascii_lowercase() }).collect();
    for (key, how) in [(keys.set, SetOrAdd::Set), (keys.add, SetOrAdd::Add)] {
        let mut seen = HashMap::new();
        for (name, value) in section.pairs(key) {
            let spelled = named(key)(&name.value);
            let checked = field_value(&value.value);
            let lower = name.value.to_ascii_lowercase();
            let twice = seen.insert(lower, ()).is_some() && how == SetOrAdd::Set;
            let problems = section.problems();
            match (spelled, checked) {
                (Err(what), _) => problems.add(name.place, what),
                (_, Err(what)) => problems.add(value.place, what),
                _ if twice => {
                    problems.add(value.place, format!("set twice: {} is for that", keys.add));
                }
                (Ok(name), Ok(value)) => edits.push(HeaderEdit::Put { how, name, value }),
            }
        }
    }
    edits
}
