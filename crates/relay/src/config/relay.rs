//! Relays: what each listens on, speaks, and allows. Rules are in [`super::rule`].

use super::keys;
use super::problem::{Place, quoted};
use super::rule;
use super::section::{Said, Section, kind, number, spelled, word, yes_or_no};
use super::spelling::{self, bytes, congestion, listen, network};
use super::upstream::{BUILT_IN, Upstreams};
use super::words::{ENGINES, PROTOCOLS, PROXY_VERSIONS, Spoken, word_for};
use super::{limit, limit_or_none};
use crate::plan::{HttpPlan, ListenerPlan, Protocol, RelayPlan, Timeouts, UpstreamId};
use crate::upstream::Congestion;
use sosplice::EngineChoice;
use std::collections::HashSet;
use toml::de::DeValue;

/// Of a head. Less would refuse what every browser sends; more lets a client hold that much of
/// memory on each connection.
const HEAD_BYTES: std::ops::RangeInclusive<u64> = 1024..=1024 * 1024;

/// Keys of a section that only some protocols have.
type Only = (&'static str, &'static [Spoken]);

const RELAY_ONLY: [Only; 8] = [
    ("max-connections", &[Spoken::Tcp, Spoken::Http]),
    ("max-connections-per-client", &[Spoken::Tcp, Spoken::Http]),
    ("max-sessions", &[Spoken::Udp]),
    ("max-bytes", &[Spoken::Tcp]),
    ("send-proxy", &[Spoken::Tcp, Spoken::Http]),
    ("congestion", &[Spoken::Tcp, Spoken::Http]),
    ("http", &[Spoken::Http]),
    ("rule", &[Spoken::Http]),
];

const TIMEOUT_ONLY: [Only; 4] = [
    ("connect", &[Spoken::Tcp, Spoken::Http]),
    ("half-closed", &[Spoken::Tcp, Spoken::Http]),
    ("head", &[Spoken::Tcp, Spoken::Http]),
    ("keep-alive", &[Spoken::Http]),
];

const LISTENER_ONLY: [Only; 1] = [("accept-proxy-from", &[Spoken::Tcp, Spoken::Http])];

/// A relay, and where in the file its listeners are.
pub(super) struct Read {
    pub(super) plan: RelayPlan,
    pub(super) listeners: Vec<Place>,
    /// Those that it can send a session to.
    pub(super) upstreams: HashSet<UpstreamId>,
}

/// All relays of a file.
pub(super) fn read_all(file: &Section<'_>, upstreams: &Upstreams) -> Vec<Read> {
    let mut names = HashSet::new();
    let mut relays = Vec::new();
    for section in file.sections("relay", &keys::RELAY) {
        let missing = "each relay has a name, by which logs and metrics call it";
        let name = section.need("name", missing, spelled("a name", spelling::name));
        if let Some(name) = &name
            && !names.insert(name.clone())
        {
            section.wrong("name", format!("a second relay called {}", quoted(name)));
        }
        relays.push(read(&section, name.unwrap_or_default(), upstreams));
    }
    relays
}

fn read(section: &Section<'_>, name: String, upstreams: &Upstreams) -> Read {
    let said = section.read("protocol", word(&PROTOCOLS));
    let spoken = said.unwrap_or(Spoken::Tcp);
    // With a protocol that is misspelled nothing can be said about what is for which.
    if said.is_some() || !section.has("protocol") {
        refuse_others(section, spoken, &RELAY_ONLY);
    }
    let (listeners, places) = read_listeners(section, spoken);
    let protocol = match spoken {
        Spoken::Tcp => Protocol::Tcp,
        Spoken::Udp => Protocol::Udp { max_sessions: section.read("max-sessions", at_least_one) },
        Spoken::Http => Protocol::Http(read_http(section, upstreams)),
    };
    let upstream = read_upstream(section, &protocol, upstreams);
    let mut plan = RelayPlan::new(name, protocol, listeners);
    plan.upstream = upstream;
    plan.timeouts = read_timeouts(section, spoken, plan.timeouts);
    plan.max_connections = section.read("max-connections", at_least_one);
    plan.max_per_client = section.read("max-connections-per-client", at_least_one);
    plan.max_bytes = section.read("max-bytes", |value| match size(value)? {
        0 => Err("0 would end every connection at once: leave it out for no limit".into()),
        bytes => Ok(bytes),
    });
    plan.send_proxy = section.read("send-proxy", word(&PROXY_VERSIONS));
    plan.engine = section.read("engine", word(&ENGINES)).unwrap_or_default();
    if spoken == Spoken::Udp && plan.engine == EngineChoice::Pipe {
        section.wrong("engine", "pipe is for streams: a UDP relay has auto and copy");
    }
    plan.congestion = section.read("congestion", spelled("a name", congestion)).map(Congestion);
    let upstreams = plan.upstream.into_iter().chain(routes(&plan)).collect();
    Read { plan, listeners: places, upstreams }
}

fn routes(plan: &RelayPlan) -> impl Iterator<Item = UpstreamId> {
    let rules = match &plan.protocol {
        Protocol::Http(http) => &http.rules[..],
        Protocol::Tcp | Protocol::Udp { .. } => &[],
    };
    rules.iter().filter_map(|rule| match rule.action {
        Some(crate::plan::Action::Route(id)) => Some(id),
        _ => None,
    })
}

fn refuse_others(section: &Section<'_>, spoken: Spoken, only: &[Only]) {
    for (key, protocols) in only {
        if protocols.contains(&spoken) || !section.has(key) {
            continue;
        }
        let names: Vec<_> =
            protocols.iter().map(|known| format!("\"{}\"", word_for(&PROTOCOLS, known))).collect();
        let own = word_for(&PROTOCOLS, &spoken);
        let mut what = format!("only for protocol {}; this one is \"{own}\"", names.join(" or "));
        if *key == "max-connections" {
            what.push_str(", which has max-sessions");
        }
        section.wrong(key, what);
    }
}

fn read_upstream(
    section: &Section<'_>,
    protocol: &Protocol,
    upstreams: &Upstreams,
) -> Option<UpstreamId> {
    let is_udp = matches!(protocol, Protocol::Udp { .. });
    if !section.has("upstream") {
        if !matches!(protocol, Protocol::Http(http) if http.decides_all()) {
            let built_in =
                if is_udp { "" } else { ", or \"built-in\" for an origin to try it with" };
            section.wrong("upstream", format!("missing: the name of an [[upstream]]{built_in}"));
        }
        return None;
    }
    let found = section.read(
        "upstream",
        spelled("the name of an upstream", |name| match name {
            BUILT_IN if is_udp => Err("the built-in origin speaks HTTP, not datagrams".into()),
            BUILT_IN => Ok(None),
            name => upstreams.find(name, section.problems()).map(Some),
        }),
    );
    found.flatten()
}

fn read_listeners(section: &Section<'_>, spoken: Spoken) -> (Vec<ListenerPlan>, Vec<Place>) {
    let address = spelled("ADDRESS:PORT", listen);
    if section.has("listen") && section.has("listener") {
        section.wrong("listen", "listen and [[relay.listener]] exclude each other: use one");
    }
    if !section.has("listen") && !section.has("listener") {
        section.wrong("listen", "missing: where to listen, as \":8080\" or \"127.0.0.1:8080\"");
    }
    let plain = |said: Said<_>| {
        (ListenerPlan { address: said.value, accept_proxy_from: Vec::new() }, said.place)
    };
    let mut found: Vec<_> =
        section.list("listen", &address).unwrap_or_default().into_iter().map(plain).collect();
    for listener in section.sections("listener", &keys::LISTENER) {
        refuse_others(&listener, spoken, &LISTENER_ONLY);
        let at = listener.need("address", "write address = \":8080\"", &address);
        let proxies = listener.list("accept-proxy-from", spelled("a network", network));
        let accept_proxy_from =
            proxies.unwrap_or_default().into_iter().map(|said| said.value).collect();
        if let Some(address) = at {
            let place = listener.place_of("address");
            found.push((ListenerPlan { address, accept_proxy_from }, place));
        }
    }
    found.into_iter().unzip()
}

fn read_timeouts(section: &Section<'_>, spoken: Spoken, default: Timeouts) -> Timeouts {
    let Some(section) = section.section("timeout", &keys::TIMEOUT) else { return default };
    refuse_others(&section, spoken, &TIMEOUT_ONLY);
    let idle = section.read("idle", limit_or_none).unwrap_or(default.idle);
    if spoken == Spoken::Udp && idle.is_none() {
        section.wrong("idle", "a UDP session has no other end: give it a time");
    }
    Timeouts {
        connect: section.read("connect", limit).unwrap_or(default.connect),
        idle,
        half_closed: section.read("half-closed", limit_or_none).unwrap_or(default.half_closed),
        head: section.read("head", limit).unwrap_or(default.head),
        keep_alive: section.read("keep-alive", limit).unwrap_or(default.keep_alive),
    }
}

fn read_http(section: &Section<'_>, upstreams: &Upstreams) -> HttpPlan {
    let mut plan = HttpPlan { rules: rule::read_all(section, upstreams), ..HttpPlan::default() };
    let Some(section) = section.section("http", &keys::HTTP) else { return plan };
    let head_max = section.read("head-max", |value| match size(value)? {
        bytes if HEAD_BYTES.contains(&bytes) => Ok(bytes as usize),
        _ => Err("out of bounds: 1KiB to 1MiB".to_owned()),
    });
    plan.head_max = head_max.unwrap_or(plan.head_max);
    let fields_max = section.read("fields-max", number(1..=1000));
    plan.fields_max = fields_max.map_or(plan.fields_max, |fields| fields as usize);
    plan.forwarded_for = section.read("forwarded-for", yes_or_no).unwrap_or(plan.forwarded_for);
    plan
}

fn at_least_one(value: &DeValue<'_>) -> Result<u64, String> {
    number(1..=u64::MAX)(value)
}

/// A size, as a number of bytes or with a unit.
fn size(value: &DeValue<'_>) -> Result<u64, String> {
    match value {
        DeValue::String(text) => bytes(text),
        DeValue::Integer(_) => number(0..=u64::MAX)(value),
        other => Err(format!("{}, where a size is wanted, as \"16KiB\"", kind(other))),
    }
}
