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
            Arc::new(Relay { plan: Arc::clone(plan), upstreams: Arc::clone(&upstreams), counts })
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

impl Relay {
    fn is_udp(&self) -> bool {
        matches!(self.plan.protocol, Protocol::Udp { .. })
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
    pub(crate) up_copy: Count,
    pub(crate) up_pipe: Count,
    pub(crate) down_copy: Count,
    pub(crate) down_pipe: Count,
}

impl Tally {
    /// What a session has carried.
    pub(crate) fn carried(&self, up: Carried, down: Carried) {
        self.ended.add(1);
        self.up_copy.add(up.copy);
        self.up_pipe.add(up.pipe);
        self.down_copy.add(down.copy);
        self.down_pipe.add(down.pipe);
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
