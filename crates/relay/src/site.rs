//! What HTTP connections see of the worker that they live on.

use crate::dial;
use crate::graph::Binding;
use crate::http::{self, NoPlace, Peer, Pool, Record, Site};
use crate::live::Live;
use crate::plan::{RelayPlan, UpstreamId};
use crate::upstream::{Place, Server, Tried};
use crate::worker::{Slot, Worker};
use sosplice::tokio::Registered;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// One client's connection.
pub(crate) struct Connection {
    worker: Arc<Worker>,
    live: Arc<Live>,
    /// Where reloads put the relay as it is now.
    slot: Arc<Slot>,
    /// What is in force once the slot is empty.
    last: Arc<Binding>,
}

impl Connection {
    pub(crate) fn new(
        worker: Arc<Worker>,
        live: Arc<Live>,
        slot: Arc<Slot>,
        binding: Arc<Binding>,
    ) -> Self {
        Self { worker, live, slot, last: binding }
    }
}

impl AsRef<RelayPlan> for Binding {
    fn as_ref(&self) -> &RelayPlan {
        &self.relay.plan
    }
}

impl http::Server for Server {
    fn name(&self) -> &str {
        self.name()
    }

    fn idle_connections_max(&self) -> usize {
        self.idle_connections_max
    }

    fn epoch(&self) -> u64 {
        self.epoch()
    }

    fn carried(&self, request: u64, response: u64) {
        self.carried(request, response);
    }
}

impl Site for Connection {
    type Current = Binding;
    type Server = Server;
    type Place = Place;
    type Tried = Tried;

    fn current(&self) -> Arc<Binding> {
        self.slot.binding().unwrap_or_else(|| Arc::clone(&self.last))
    }

    async fn place(
        &self,
        current: &Binding,
        upstream: Option<UpstreamId>,
        client: IpAddr,
        tried: &mut Tried,
    ) -> Result<Place, NoPlace> {
        let upstream = match upstream {
            Some(id) => Some(current.relay.routed(id)),
            None => self.worker.upstream(current),
        };
        let Some(upstream) = upstream else { return Err(NoPlace::Down) };
        upstream.place(client, tried).await
    }

    fn server(place: &Place) -> &Arc<Server> {
        place.server()
    }

    async fn connect(
        &self,
        current: &Binding,
        place: &Place,
        peer: Peer,
    ) -> io::Result<Registered> {
        let dialled = dial::connect(&current.relay.plan, place.server(), peer, &mut None).await;
        let (upstream, addr) = dialled.map_err(|failed| failed.error)?;
        self.live.set_upstream(Some(addr));
        Ok(upstream)
    }

    fn pool(&self) -> &Arc<Pool<Server>> {
        &self.worker.pool
    }

    fn is_stopping(&self) -> bool {
        self.slot.binding().is_none()
    }

    async fn stopping(&self) {
        self.slot.gone().await;
    }

    fn is_killed(&self) -> bool {
        self.live.is_killed()
    }

    fn account(&self, current: &Binding, record: &Record<'_>) {
        let tally = self.worker.tally(current);
        tally.request(record.status, record.request, record.response);
        self.live.add((record.request, record.response));
        for place in record.matched.iter().copied().map(usize::from) {
            if let Some(rule) = record.rules.get(place) {
                current.relay.matched(self.worker.number, place, &rule.name);
            }
        }
        if !self.worker.shared.logs_access {
            return;
        }
        let mut carried = record.request;
        carried += record.response;
        tracing::info!(
            relay = current.relay.plan.told_name(),
            client = %record.client,
            method = record.method,
            host = Some(record.host).filter(|host| !host.is_empty()),
            target = record.target,
            status = record.status,
            server = record.server,
            rule = record.rule,
            up = record.request.total(),
            down = record.response.total(),
            engine = carried.engine(),
            up_copy = record.request.copy,
            up_pipe = record.request.pipe,
            down_copy = record.response.copy,
            down_pipe = record.response.pipe,
            ms = u64::try_from(record.took.as_millis()).unwrap_or(u64::MAX),
            cause = record.fault.map(http::Fault::word),
            why = record.fault.map(tracing::field::display),
            "request"
        );
    }

    fn moved(&self) {
        self.worker.moved();
    }
}
