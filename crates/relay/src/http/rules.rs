//! The rules of a plan against a request.
//!
//! The path is compared as it was sent, and again as a server may read it, if that differs
//! ([`target::plain`], and of this what [is left](target::bare) when parameters and what some servers
//! cut off are gone): a rule holds if it holds for any of them, so that no spelling gets past one that
//! blocks. What cannot be compared (a path with an encoded slash) is refused where a rule asks for
//! paths at all. Queries and cookies are compared as they were sent.

use super::framing::called;
use super::glob;
use super::head::Request;
use super::refusal::Refusal;
use super::target;
use crate::plan::{Action, Condition, Field, Match, PathMatch, Rule};
use std::net::IpAddr;

/// What the rules say of one request.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Those that matched, up to the one that decided, by their place in the plan.
    pub(super) matched: Vec<u16>,
    /// The one that decided.
    pub(super) decided: Option<u16>,
    /// Reused from one request to the next.
    plain: String,
    bare: String,
}

impl Verdict {
    /// Finds the rules that match, in order, up to the first that decides.
    ///
    /// # Errors
    /// 400 for a path that rules cannot judge.
    pub(super) fn judge(
        &mut self,
        rules: &[Rule],
        request: &Request<'_, '_>,
        client: IpAddr,
    ) -> Result<(), Refusal> {
        self.matched.clear();
        self.decided = None;
        if rules.is_empty() {
            return Ok(());
        }
        let path = request.target.path;
        if target::has_hidden_slash(path) && rules.iter().any(asks_for_path) {
            return Err(Refusal::bad("the path has an encoded slash"));
        }
        let differs = target::plain(path, &mut self.plain);
        let plain = differs.then_some(self.plain.as_str());
        let differs = target::bare(plain.unwrap_or(path), &mut self.bare);
        let bare = differs.then_some(self.bare.as_str());
        let asked = Asked { request, client, others: [plain, bare] };
        for (place, rule) in (0u16..).zip(rules) {
            if rule.conditions.iter().all(|condition| asked.meets(condition)) {
                self.matched.push(place);
                if rule.action.is_some() {
                    self.decided = Some(place);
                    break;
                }
            }
        }
        Ok(())
    }

    /// What is to be done, if a rule says so.
    pub(super) fn action<'r>(&self, rules: &'r [Rule]) -> Option<&'r Action> {
        rules.get(usize::from(self.decided?))?.action.as_ref()
    }

    /// The rules that matched.
    pub(super) fn rules<'r>(&'r self, rules: &'r [Rule]) -> impl Iterator<Item = &'r Rule> + Clone {
        self.matched.iter().filter_map(|place| rules.get(usize::from(*place)))
    }

    pub(super) fn clear(&mut self) {
        self.matched.clear();
        self.decided = None;
    }
}

fn asks_for_path(rule: &Rule) -> bool {
    rule.conditions.iter().any(|condition| matches!(condition.test, Match::Path(_)))
}

struct Asked<'a> {
    request: &'a Request<'a, 'a>,
    client: IpAddr,
    /// Other readings of the path, where they differ from it as sent.
    others: [Option<&'a str>; 2],
}

impl Asked<'_> {
    fn meets(&self, condition: &Condition) -> bool {
        self.is(&condition.test) != condition.is_negated
    }

    fn is(&self, test: &Match) -> bool {
        let request = self.request;
        match test {
            Match::Host(hosts) => request.host.is_some_and(|host| {
                let host = target::host_name(host);
                hosts.iter().any(|pattern| host_matches(pattern, host))
            }),
            Match::Path(pattern) => {
                path_matches(pattern, request.target.path)
                    || self.others.iter().flatten().any(|path| path_matches(pattern, path))
            }
            Match::Method(methods) => methods.iter().any(|method| method == request.method),
            Match::Header(field) => {
                called(request.fields, &field.name).any(|value| has(field, value))
            }
            Match::Cookie(field) => called(request.fields, "cookie")
                .flat_map(|value| value.split(|byte| *byte == b';'))
                .any(|pair| pair_matches(field, pair.trim_ascii())),
            Match::Query(field) => request.target.query.is_some_and(|query| {
                query.split('&').any(|pair| pair_matches(field, pair.as_bytes()))
            }),
            Match::Client(networks) => {
                // A v4 client of a v6 listener is the v4 client that it is.
                let client = self.client.to_canonical();
                networks.iter().any(|network| network.contains(&client))
            }
        }
    }
}

fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(host),
        Some(domain) => host
            .len()
            .checked_sub(domain.len() + 1)
            .and_then(|labels| host.split_at_checked(labels))
            .is_some_and(|(labels, rest)| {
                !labels.is_empty()
                    && rest.strip_prefix('.').is_some_and(|rest| rest.eq_ignore_ascii_case(domain))
            }),
    }
}

fn path_matches(pattern: &PathMatch, path: &str) -> bool {
    match pattern {
        PathMatch::Exact(exact) => path == exact,
        PathMatch::Prefix(prefix) => path
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/')),
        PathMatch::Glob(pattern) => glob::matches(pattern, path),
    }
}

fn has(field: &Field, value: &[u8]) -> bool {
    field.value.as_ref().is_none_or(|wanted| wanted.as_bytes() == value)
}

/// `name=value`; without a `=` it is a name whose value is empty.
fn pair_matches(field: &Field, pair: &[u8]) -> bool {
    let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
    let (name, value) = pair.split_at(at);
    name == field.name.as_bytes() && has(field, value.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests;
