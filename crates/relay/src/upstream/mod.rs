//! Where sessions go: upstreams, their servers, and how a session comes to one.
//!
//! A session asks an [`Upstream`] for a [`Place`]: the server that the balance chooses among those
//! that are up, enabled, not full and not tried by it yet; a backup only when there is no
//! other. It waits in the upstream's queue while all are full. When the connect fails it tells the server so
//! and asks again, until nothing is left.
//!
//! When every server is down, the session is told so and none is tried. Who configures a check has
//! said how it is known that a server can serve; to ask it all the same would make clients wait for
//! a connect timeout, and would load a server that is trying to come up. Without a check none is ever down.
//!
//! A reload makes new upstreams beside the old ones ([`Upstreams::new`]) and changes nothing until
//! they take over ([`Upstreams::take_over`]). What a server is in the meantime (health, addresses,
//! sessions, the administrator's word) is in a part that both share. Who asks an upstream
//! that was taken over is served by the one that is in force.
//!
//! It does not connect: the session does, with what [`connect`] has.

mod balance;
mod connect;
mod health;
mod place;
mod queue;
mod resolve;
mod server;
mod snapshot;
mod target;

pub use connect::Congestion;
pub(crate) use connect::{Unconnected, family, set_options};
pub(crate) use health::{Watch, watch};
pub use place::NoPlace;
pub(crate) use place::{Place, Tried};
pub use server::Admin;
pub(crate) use server::Server;
pub use snapshot::{CheckSnapshot, Health, ServerSnapshot};
pub use target::Target;

use crate::error::Error;
use crate::plan::{Balance, Plan, ServerPlan, UpstreamId, UpstreamPlan};
use balance::Chooser;
use queue::{Choice, Queue, Spare};
use resolve::Resolver;
use server::{Readiness, Standing, State};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// All upstreams of a plan, in its order.
#[derive(Debug)]
pub(crate) struct Upstreams(Vec<Arc<Upstream>>);

impl Upstreams {
    /// Resolves all names, which blocks. Servers that `previous` has under the same upstream's name
    /// with the same target go on: health, administrator's word, sessions, counts. Nothing
    /// changes for `previous` but its addresses, until [`take_over`](Self::take_over).
    ///
    /// # Errors
    /// [`Error::Resolve`] for a new server's target. One that goes on keeps the addresses that it has.
    pub(crate) fn new(plan: &Plan, previous: Option<&Self>) -> Result<Self, Error> {
        Self::with_resolver(&plan.upstreams, previous, &resolve::system())
    }

    fn with_resolver(
        plans: &[Arc<UpstreamPlan>],
        previous: Option<&Self>,
        resolver: &Resolver,
    ) -> Result<Self, Error> {
        let upstreams = plans.iter().map(|plan| {
            let previous = previous.and_then(|previous| previous.find(&plan.name));
            Upstream::new(plan, previous, resolver).map(Arc::new)
        });
        let upstreams = Self(upstreams.collect::<Result<_, _>>()?);
        for upstream in upstreams.iter() {
            upstream.queue.begin(upstream);
        }
        Ok(upstreams)
    }

    /// From now on who asks an upstream of `previous` is served by the one of the same name here;
    /// those who wait are looked at again.
    pub(crate) fn take_over(&self, previous: &Self) {
        for upstream in self.iter() {
            upstream.queue.set_latest(upstream);
            if let Some(old) = previous.find(upstream.name()) {
                old.is_superseded.store(true, Ordering::SeqCst);
            }
            upstream.queue.serve(queue::Change::Servers);
        }
    }

    /// Panics for an id of another plan.
    pub(crate) fn get(&self, id: UpstreamId) -> &Arc<Upstream> {
        &self.0[id.0]
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.iter().find(|upstream| upstream.name() == name)
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Arc<Upstream>> {
        self.0.iter()
    }
}

/// Servers that can stand for each other, and the choice among them.
#[derive(Debug)]
pub(crate) struct Upstream {
    plan: Arc<UpstreamPlan>,
    servers: Vec<Arc<Server>>,
    chooser: Chooser,
    turn: AtomicU64,
    /// Shared with those before and after it.
    queue: Arc<Queue>,
    /// Another has taken over: the queue knows it.
    is_superseded: AtomicBool,
}

impl Upstream {
    /// One that no reload knows.
    ///
    /// # Errors
    /// As [`Upstreams::new`].
    pub(crate) fn alone(plan: UpstreamPlan) -> Result<Arc<Self>, Error> {
        let upstream = Arc::new(Self::new(&Arc::new(plan), None, &resolve::system())?);
        upstream.queue.begin(&upstream);
        Ok(upstream)
    }

    fn new(
        plan: &Arc<UpstreamPlan>,
        previous: Option<&Arc<Self>>,
        resolver: &Resolver,
    ) -> Result<Self, Error> {
        let queue = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.queue));
        let mut kept = Kept::new(previous);
        let states = kept.states(&plan.servers);
        let mut servers = Vec::with_capacity(states.len());
        for (server, state) in plan.servers.iter().zip(states) {
            let is_known = state.is_some();
            let state = match state {
                Some(state) => state,
                None => {
                    let addrs = resolver(&server.target)
                        .map_err(|source| server.target.unresolved(source))?;
                    let number = kept.free_number();
                    Arc::new(State::new(&plan.name, number, addrs, Arc::clone(&queue)))
                }
            };
            let server = Arc::new(Server::new(server.clone(), plan, state));
            if is_known {
                resolve::Name::new(Arc::clone(&server)).note(resolver(server.target()));
            }
            servers.push(server);
        }
        let chooser = Chooser::new(plan.balance, servers.len());
        Ok(Self {
            plan: Arc::clone(plan),
            servers,
            chooser,
            turn: AtomicU64::new(0),
            queue,
            is_superseded: AtomicBool::new(false),
        })
    }

    /// One server at `addr`, for the built-in origin.
    ///
    /// # Errors
    /// None: the address is one.
    pub(crate) fn fixed(addr: SocketAddr) -> Result<Arc<Self>, Error> {
        let target = Target::from(addr);
        Self::alone(UpstreamPlan::plain("origin", &[target], Balance::RoundRobin))
    }

    pub(crate) fn name(&self) -> &str {
        &self.plan.name
    }

    pub(crate) fn plan(&self) -> &UpstreamPlan {
        &self.plan
    }

    pub(crate) fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// By its name.
    pub(crate) fn server(&self, name: &str) -> Option<&Arc<Server>> {
        self.servers.iter().find(|server| server.name() == name)
    }

    /// Sessions that wait for a place.
    pub(crate) fn queued(&self) -> usize {
        self.queue.waiting()
    }

    /// The address that a session is likely to connect to first: for a socket made before accept.
    pub(crate) fn socket_hint(&self) -> Option<SocketAddr> {
        self.servers.first()?.addrs().first().copied()
    }

    /// A place at a server that is not in `tried`, and is from now on. Waits while all are full.
    ///
    /// # Errors
    /// [`NoPlace`]; that of a session that has tried all is `Exhausted`, whatever the rest is.
    pub(crate) async fn place(
        self: &Arc<Self>,
        client: IpAddr,
        tried: &mut Tried,
    ) -> Result<Place, NoPlace> {
        let successor = self.successor();
        let upstream = successor.as_ref().unwrap_or(self);
        // Those who wait have come first.
        let choice = match upstream.queue.waiting() {
            0 => upstream.choose(client, tried, &mut Spare::new()),
            _ => Choice::Full,
        };
        let place = match choice {
            Choice::Place(place) => place,
            Choice::None(why) => return Err(why),
            Choice::Full => upstream.queue.wait(upstream, client, tried).await?,
        };
        tried.insert(place.server().number());
        Ok(place)
    }

    /// The same for who cannot wait.
    pub(crate) fn pick(self: &Arc<Self>, client: IpAddr, tried: &mut Tried) -> Option<Place> {
        let successor = self.successor();
        let upstream = successor.as_ref().unwrap_or(self);
        let Choice::Place(place) = upstream.choose(client, tried, &mut Spare::new()) else {
            return None;
        };
        tried.insert(place.server().number());
        Some(place)
    }

    fn successor(&self) -> Option<Arc<Self>> {
        match self.is_superseded.load(Ordering::SeqCst) {
            false => None,
            true => self.queue.latest(),
        }
    }

    fn choose(&self, client: IpAddr, tried: &Tried, spare: &mut Spare) -> Choice {
        loop {
            let standings = self.servers.iter().filter_map(|server| server.standing(tried));
            let best = match standings.min() {
                None if tried.is_empty() => return Choice::None(NoPlace::Down),
                None => return Choice::None(NoPlace::Exhausted),
                Some(Standing { readiness: Readiness::Full, .. }) => return Choice::Full,
                Some(best) => best,
            };
            let candidates = self.servers.iter().enumerate().filter_map(|(index, server)| {
                let standing = server.standing(tried)?;
                // Neither is a turn of a full server made up for, nor of a backup.
                (standing.is_backup == best.is_backup && standing.readiness != Readiness::Full)
                    .then(|| server.candidate(index, standing == best))
            });
            let chosen = self.chooser.choose(candidates, client, |n| fastrand::u64(..n));
            // What has changed since the first look is looked at again.
            let Some(server) = chosen.and_then(|index| self.servers.get(index)) else { continue };
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(place) = server.count_in(turn, spare) {
                return Choice::Place(place);
            }
        }
    }
}

/// The servers that a reload may keep, and the numbers that are taken.
struct Kept<'p> {
    servers: Vec<&'p Arc<Server>>,
    numbers: Vec<usize>,
}

impl<'p> Kept<'p> {
    fn new(previous: Option<&'p Arc<Upstream>>) -> Self {
        let servers = previous.map_or(&[][..], |previous| previous.servers());
        Self { servers: servers.iter().collect(), numbers: Vec::new() }
    }

    /// What goes on in each server of the new plan: that of the one with its target and name, and
    /// only then, so that a renamed server takes nothing from its neighbour, of one with its target.
    fn states(&mut self, plans: &[ServerPlan]) -> Vec<Option<Arc<State>>> {
        let same: Vec<_> = plans
            .iter()
            .map(|plan| {
                self.take(|server| server.target() == &plan.target && server.name() == plan.name)
            })
            .collect();
        let renamed = |(plan, same): (&ServerPlan, Option<_>)| {
            same.or_else(|| self.take(|server| server.target() == &plan.target))
        };
        plans.iter().zip(same).map(renamed).collect()
    }

    fn take(&mut self, is_it: impl Fn(&Server) -> bool) -> Option<Arc<State>> {
        let found = self.servers.iter().position(|server| is_it(server))?;
        let server = self.servers.remove(found);
        self.numbers.push(server.number());
        Some(Arc::clone(server.state()))
    }

    fn free_number(&mut self) -> usize {
        let number = (0..).find(|number| !self.numbers.contains(number)).unwrap_or_default();
        self.numbers.push(number);
        number
    }
}

#[cfg(test)]
mod tests;
