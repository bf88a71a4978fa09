//! The running form of a plan: its relays with their counts and limits, and the upstreams that
//! they lead to. A reload makes another graph, which takes over what goes on: counts by the name
//! of the relay, servers by upstream and target. Sessions keep the graph that they began with
//! for as long as they need it.

use crate::error::Error;
use crate::gate::Gate;
use crate::plan::{ListenerPlan, Plan, Protocol, RelayPlan, UpstreamId};
use crate::upstream::{Upstream, Upstreams};
use sosplice::Carried;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All relays of a process.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) relays: Vec<Arc<Relay>>,
    pub(crate) upstreams: Arc<Upstreams>,
}

/// One relay.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) plan: Arc<RelayPlan>,
    upstreams: Arc<Upstreams>,
    pub(crate) counts: Arc<Counts>,
    /// Of each rule, in the plan's order.
    rules: Box<[Arc<Matches>]>,
}

/// What goes on through a reload.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) gate: Arc<Gate>,
    pub(crate) clients: Clients,
    /// One a worker.
    pub(crate) tallies: Box<[Tally]>,
}

impl Graph {
    /// Resolves the names of the upstreams, and takes over from `previous`.
    ///
    /// # Errors
    /// A name that does not resolve.
    pub(crate) fn new(plan: &Plan, workers: usize, previous: Option<&Self>) -> Result<Self, Error> {
        let before = previous.map(|graph| &*graph.upstreams);
        let upstreams = Arc::new(Upstreams::new(plan, before)?);
        let relays = plan.relays.iter().map(|plan| {
            let same = |relay: &&Arc<Relay>| relay.plan.name == plan.name;
            let known = previous.and_then(|graph| graph.relays.iter().find(same));
            let counts = known
                .map_or_else(|| Arc::new(Counts::new(workers)), |relay| Arc::clone(&relay.counts));
            let rules = rules(plan, workers, known);
            let (plan, upstreams) = (Arc::clone(plan), Arc::clone(&upstreams));
            Arc::new(Relay { plan, upstreams, counts, rules })
        });
        Ok(Self { relays: relays.collect(), upstreams })
    }

    /// Lets as many in as the relays' plans say, those among them who wait.
    pub(crate) fn open_gates(&self) {
        for relay in &self.relays {
            relay.counts.gate.resize(relay.plan.max_connections);
        }
    }

    /// The listeners of the relays that workers serve, each with its relay.
    pub(crate) fn stream_listeners(&self) -> impl Iterator<Item = (ListenerKey, Binding)> {
        self.relays.iter().filter(|relay| !relay.is_udp()).flat_map(Relay::bindings)
    }

    /// The same for datagrams.
    pub(crate) fn datagram_listeners(&self) -> impl Iterator<Item = (ListenerKey, Binding)> {
        self.relays.iter().filter(|relay| relay.is_udp()).flat_map(Relay::bindings)
    }
}

/// The counter of each rule of `plan`: that of the rule of the same name, where it was there before.
fn rules(plan: &RelayPlan, workers: usize, previous: Option<&Arc<Relay>>) -> Box<[Arc<Matches>]> {
    let Protocol::Http(http) = &plan.protocol else { return Box::default() };
    let before: HashMap<&str, &Arc<Matches>> =
        previous.map(|relay| relay.by_rule().collect()).unwrap_or_default();
    let counter = |name: &str| {
        before.get(name).map_or_else(|| Arc::new(Matches::new(workers)), |known| Arc::clone(known))
    };
    http.rules.iter().map(|rule| counter(&rule.name)).collect()
}

impl Relay {
    pub(crate) fn is_udp(&self) -> bool {
        matches!(self.plan.protocol, Protocol::Udp { .. })
    }

    fn by_rule(&self) -> impl Iterator<Item = (&str, &Arc<Matches>)> {
        let rules = match &self.plan.protocol {
            Protocol::Http(http) => &*http.rules,
            _ => &[],
        };
        rules.iter().map(|rule| rule.name.as_str()).zip(&self.rules)
    }

    /// The name of each rule, and how many requests it has matched.
    pub(crate) fn rule_counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.by_rule().map(|(name, matches)| (name, matches.total()))
    }

    /// Worker `worker` has found that a request matches a rule, which was number `place` in the
    /// plan that the request began with. A reload may have come in between.
    pub(crate) fn matched(&self, worker: usize, place: usize, rule: &str) {
        let is_it = |(name, _): &(&str, _)| *name == rule;
        let found = self.by_rule().nth(place).filter(is_it);
        if let Some((_, matches)) = found.or_else(|| self.by_rule().find(is_it)) {
            matches.0[worker].0.add(1);
        }
    }

    fn bindings(relay: &Arc<Self>) -> impl Iterator<Item = (ListenerKey, Binding)> {
        relay.plan.listeners.iter().enumerate().map(|(index, listener)| {
            let address = listener.address;
            let nth = (address.port() == 0).then(|| (relay.plan.name.clone(), index));
            let key = ListenerKey { address, is_udp: relay.is_udp(), nth };
            (key, Binding { relay: Arc::clone(relay), listener: listener.clone() })
        })
    }

    /// Where its sessions go; None for the built-in origin.
    pub(crate) fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.plan.upstream.map(|id| self.upstreams.get(id))
    }

    /// Where a rule leads.
    pub(crate) fn routed(&self, id: UpstreamId) -> &Arc<Upstream> {
        self.upstreams.get(id)
    }
}

/// What makes a listener the same before and after a reload: its address, or its place where
/// the kernel chooses the port. A port of datagrams is another than that of streams.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ListenerKey {
    pub(crate) address: SocketAddr,
    is_udp: bool,
    nth: Option<(String, usize)>,
}

/// A listener's relay.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) relay: Arc<Relay>,
    pub(crate) listener: ListenerPlan,
}

impl Binding {
    /// Whether a client of this address must begin with a PROXY header.
    pub(crate) fn expects_proxy(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.listener.accept_proxy_from.iter().any(|network| network.contains(&client))
    }
}

impl Counts {
    fn new(workers: usize) -> Self {
        Self {
            gate: Gate::new(None),
            clients: Clients::default(),
            tallies: (0..workers).map(|_| Tally::default()).collect(),
        }
    }
}

/// Counts of one relay on one worker, which alone writes them: when something begins or ends.
/// On cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Tally {
    pub(crate) accepted: Count,
    /// No upstream was to be had, or no time, or too many of one client.
    pub(crate) refused: Count,
    pub(crate) ended: Count,
    /// A UDP session has made room for another.
    pub(crate) evicted: Count,
    /// Datagrams that were lost here.
    pub(crate) dropped: Count,
    /// To upstreams, by sessions that run or have ended; of datagrams, by those that have ended.
    /// With HTTP the bodies of requests that have ended.
    pub(crate) up: ByEngine,
    /// From them, likewise; with HTTP the bodies of answers.
    pub(crate) down: ByEngine,
    /// HTTP requests that have ended.
    pub(crate) requests: Count,
    /// Their answers by status, 1xx first. A request without an answer is in none.
    pub(crate) statuses: [Count; 5],
}

impl Tally {
    /// A session has carried so much since this was last told.
    pub(crate) fn moved(&self, up: Carried, down: Carried) {
        self.up.add(up);
        self.down.add(down);
    }

    /// A request has ended, with the status that its client got, if any.
    pub(crate) fn request(&self, status: Option<u16>, request: Carried, response: Carried) {
        self.requests.add(1);
        let class = status.and_then(|status| usize::from(status / 100).checked_sub(1));
        if let Some(count) = class.and_then(|class| self.statuses.get(class)) {
            count.add(1);
        }
        self.moved(request, response);
    }
}

/// Bytes by the engine that carried them, as in [`Carried`].
#[derive(Debug, Default)]
pub(crate) struct ByEngine {
    copy: Count,
    pipe: Count,
    gso: Count,
    mmsg: Count,
    plain: Count,
}

impl ByEngine {
    fn add(&self, more: Carried) {
        let Self { copy, pipe, gso, mmsg, plain } = self;
        for (count, more) in [
            (copy, more.copy),
            (pipe, more.pipe),
            (gso, more.gso),
            (mmsg, more.mmsg),
            (plain, more.plain),
        ] {
            // Most are: each turn of a session comes here.
            if more > 0 {
                count.add(more);
            }
        }
    }

    pub(crate) fn get(&self) -> Carried {
        Carried {
            copy: self.copy.get(),
            pipe: self.pipe.get(),
            gso: self.gso.get(),
            mmsg: self.mmsg.get(),
            plain: self.plain.get(),
            datagrams: 0,
        }
    }
}

/// How many requests a rule has matched, on each worker.
#[derive(Debug)]
struct Matches(Box<[Apart]>);

/// On a cache line of its own: its worker alone writes it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart(Count);

impl Matches {
    fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Apart::default()).collect())
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|apart| apart.0.get()).sum()
    }
}

/// A number that grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sessions by client address, where a relay limits them.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<HashMap<IpAddr, u64>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more of this client; None if it has `max` already.
    pub(crate) fn enter(counts: &Arc<Counts>, client: IpAddr, max: u64) -> Option<OneOfClient> {
        let client = client.to_canonical();
        let mut clients = counts.clients.lock();
        let sessions = clients.entry(client).or_default();
        if *sessions >= max {
            return None;
        }
        *sessions += 1;
        Some(OneOfClient { counts: Arc::clone(counts), client })
    }
}

/// A session's place among those of its client.
#[derive(Debug)]
pub(crate) struct OneOfClient {
    counts: Arc<Counts>,
    client: IpAddr,
}

impl Drop for OneOfClient {
    fn drop(&mut self) {
        let mut clients = self.counts.clients.lock();
        if let Some(sessions) = clients.get_mut(&self.client) {
            *sessions -= 1;
            if *sessions == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{HttpPlan, Rule};

    fn http(rules: &[&str]) -> Plan {
        let rule = |name: &&str| Rule {
            name: (*name).to_owned(),
            conditions: Vec::new(),
            action: None,
            request_edits: Vec::new(),
            response_edits: Vec::new(),
        };
        let rules = rules.iter().map(rule).collect();
        let protocol = Protocol::Http(HttpPlan { rules, ..HttpPlan::default() });
        let relay = RelayPlan::new("web".to_owned(), protocol, Vec::new());
        let plan = crate::config::parse(
            "[[relay]]\nname=\"a\"\nlisten=\"127.0.0.1:0\"\nupstream=\"built-in\"",
        );
        Plan { relays: vec![Arc::new(relay)], upstreams: Vec::new(), ..plan.expect("a plan") }
    }

    #[test]
    fn a_rule_keeps_its_counter_through_a_reload_that_moves_it() {
        let before = Graph::new(&http(&["one", "two"]), 2, None).expect("a graph");
        before.relays[0].matched(0, 0, "one");
        before.relays[0].matched(0, 1, "two");
        before.relays[0].matched(1, 1, "two");
        let after = Graph::new(&http(&["new", "two", "one"]), 2, Some(&before)).expect("a graph");
        // Requests that began under the old plan.
        before.relays[0].matched(1, 0, "one");
        after.relays[0].matched(1, 0, "one");
        after.relays[0].matched(0, 7, "gone");
        let counts: Vec<_> = after.relays[0].rule_counts().collect();
        assert_eq!(counts, [("new", 0), ("two", 2), ("one", 3)]);
    }

    #[test]
    fn a_request_is_counted_by_its_status_and_in_none_without_one() {
        let tally = Tally::default();
        for status in [Some(101), Some(200), Some(299), Some(404), Some(599), Some(42), None] {
            tally.request(status, Carried { copy: 1, ..Carried::default() }, Carried::default());
        }
        assert_eq!(tally.statuses.each_ref().map(Count::get), [1, 2, 0, 1, 1]);
        assert_eq!((tally.requests.get(), tally.up.get().copy), (7, 7));
    }

    #[test]
    fn a_client_has_so_many_places_and_gives_them_back() {
        let counts = Arc::new(Counts::new(1));
        let client = "192.0.2.1".parse().expect("an address");
        let mapped = "::ffff:192.0.2.1".parse().expect("an address");
        let first = Clients::enter(&counts, client, 2).expect("the first");
        let _second = Clients::enter(&counts, mapped, 2).expect("the same client");
        assert!(Clients::enter(&counts, client, 2).is_none());
        let other = "192.0.2.2".parse().expect("an address");
        assert!(Clients::enter(&counts, other, 2).is_some());
        drop(first);
        assert!(Clients::enter(&counts, client, 2).is_some());
        assert_eq!(counts.clients.lock().len(), 1, "nothing is kept of those that left");
    }
}
