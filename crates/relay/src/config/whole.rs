//! What no section can tell alone: two listeners on one address, a relay that is its own server.
//!
//! Each check is one look at each listener and each server, so that a large file takes no longer
//! than its size asks for. Names are not resolved: the start does that, and looks again.

use super::problem::{Place, Problems};
use super::relay::Read;
use super::upstream::Upstreams;
use crate::plan::{Protocol, UpstreamId};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Ports of one kind do not collide with the other's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Family {
    Stream,
    Datagram,
}

/// A listener, as the others find it.
struct Bound<'r> {
    address: SocketAddr,
    /// None for the admin address.
    relay: Option<&'r Read>,
    place: &'r Place,
}

/// Listeners by what they could collide on.
#[derive(Default)]
struct Taken<'r> {
    addresses: HashMap<(Family, SocketAddr), Bound<'r>>,
    /// The first of each port, of IPv4 and of IPv6.
    ports: HashMap<(Family, u16, bool), SocketAddr>,
    /// Those that listen on every address of the host.
    wildcards: HashMap<(Family, u16), SocketAddr>,
}

pub(super) fn check(
    relays: &[Read],
    upstreams: &Upstreams,
    admin: Option<&(SocketAddr, Place)>,
    problems: &Problems,
) {
    let mut taken = Taken::default();
    for relay in relays {
        let family = match relay.plan.protocol {
            Protocol::Udp { .. } => Family::Datagram,
            Protocol::Tcp | Protocol::Http(_) => Family::Stream,
        };
        for (listener, place) in relay.plan.listeners.iter().zip(&relay.listeners) {
            let bound = Bound { address: listener.address, relay: Some(relay), place };
            taken.take(family, bound, problems);
        }
    }
    if let Some((address, place)) = admin {
        taken.take(Family::Stream, Bound { address: *address, relay: None, place }, problems);
    }
    for (id, plan) in upstreams.plans.iter().enumerate() {
        // Where servers were wrong, places and plans are still pairs.
        for (server, place) in plan.servers.iter().zip(&upstreams.places[id]) {
            if let Some(target) = literal(&server.target.to_string()) {
                taken.refuse_self(UpstreamId(id), target, place, problems);
            }
        }
    }
}

/// The address of a target that is written as one.
fn literal(target: &str) -> Option<SocketAddr> {
    let loopback = target.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    let loopback = loopback.map(|port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    loopback.or_else(|| target.parse().ok())
}

impl<'r> Taken<'r> {
    fn take(&mut self, family: Family, bound: Bound<'r>, problems: &Problems) {
        let address = bound.address;
        // Each gets one of its own from the kernel.
        if address.port() == 0 {
            return;
        }
        let port = (family, address.port());
        let other = self
            .addresses
            .get(&(family, address))
            .map(|other| other.address)
            .or_else(|| self.wildcards.get(&port).copied().filter(|any| covers(*any, address)))
            .or_else(|| {
                let first = |is_v4| self.ports.get(&(port.0, port.1, is_v4)).copied();
                let wide = address.ip().is_unspecified();
                [first(true), first(false)]
                    .into_iter()
                    .flatten()
                    .find(|first| wide && covers(address, *first))
            });
        match other {
            Some(other) if other == address => {
                let name = self.owner(family, other);
                problems
                    .add(bound.place.clone(), format!("{address} is taken: {name} listens there"));
            }
            Some(other) => {
                let name = self.owner(family, other);
                let what = format!("overlaps {other}, where {name} listens");
                problems.add(bound.place.clone(), what);
            }
            None => {
                if address.ip().is_unspecified() {
                    self.wildcards.insert(port, address);
                }
                self.ports.entry((port.0, port.1, address.is_ipv4())).or_insert(address);
                self.addresses.insert((family, address), bound);
            }
        }
    }

    fn owner(&self, family: Family, address: SocketAddr) -> String {
        match self.addresses.get(&(family, address)).and_then(|bound| bound.relay) {
            Some(relay) => format!("relay \"{}\"", relay.plan.name),
            None => "[admin]".to_owned(),
        }
    }

    /// One connection would become a chain of them.
    fn refuse_self(&self, id: UpstreamId, target: SocketAddr, place: &Place, problems: &Problems) {
        for family in [Family::Stream, Family::Datagram] {
            let exact = self.addresses.get(&(family, target));
            let is_here = target.ip().is_loopback() || target.ip().is_unspecified();
            let any = self
                .wildcards
                .get(&(family, target.port()))
                .filter(|any| is_here && covers(**any, target));
            let any = any.and_then(|any| self.addresses.get(&(family, *any)));
            let Some((bound, relay)) = exact.or(any).and_then(|bound| Some((bound, bound.relay?)))
            else {
                continue;
            };
            if relay.upstreams.contains(&id) {
                let name = &relay.plan.name;
                let what = format!(
                    "is relay \"{name}\" itself, which listens on {} and would go round in a circle",
                    bound.address
                );
                problems.add(place.clone(), what);
            }
        }
    }
}

/// Whether a socket on every address has `address` as well. `[::]` has both families.
fn covers(any: SocketAddr, address: SocketAddr) -> bool {
    match (any.ip(), address.ip()) {
        (IpAddr::V4(_), IpAddr::V6(v6)) => v6.is_unspecified(),
        _ => any.ip().is_unspecified(),
    }
}
