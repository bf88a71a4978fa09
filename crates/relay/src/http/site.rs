//! What a connection needs of the worker that it lives on.

use super::pool::Pool;
use super::record::Record;
use crate::plan::{RelayPlan, UpstreamId};
pub use crate::upstream::NoPlace;
use sosplice::tokio::Registered;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The worker, as its HTTP connections see it.
pub trait Site: Send + Sync + 'static {
    /// A plan with the upstreams that belong to it, as of some moment. A request keeps the one
    /// that it began with.
    type Current: AsRef<RelayPlan> + Send + Sync;
    /// One server of an upstream.
    type Server: Server;
    /// A request's counted place at a server; dropping it frees it.
    type Place: Send + Sync;
    /// The servers that a request has tried.
    type Tried: Default + Send;

    /// What is in force now.
    fn current(&self) -> Arc<Self::Current>;

    /// A place at a server that was not tried yet; `upstream` None is the relay's own choice,
    /// also where that is the built-in origin. May wait in a bounded queue.
    fn place(
        &self,
        current: &Self::Current,
        upstream: Option<UpstreamId>,
        client: IpAddr,
        tried: &mut Self::Tried,
    ) -> impl Future<Output = Result<Self::Place, NoPlace>> + Send;

    /// Where the place is.
    fn server(place: &Self::Place) -> &Arc<Self::Server>;

    /// Connects to the server of a place within the plan's time. Where the plan says so, a PROXY
    /// header for `peer` has been sent; such connections are not used for other requests.
    fn connect(
        &self,
        current: &Self::Current,
        place: &Self::Place,
        peer: Peer,
    ) -> impl Future<Output = io::Result<Registered>> + Send;

    /// The unused connections of this worker.
    fn pool(&self) -> &Arc<Pool<Self::Server>>;

    /// No further request is taken: the answers that are under way are the last ones.
    fn is_stopping(&self) -> bool;

    /// Done when [`is_stopping`](Self::is_stopping) becomes true.
    fn stopping(&self) -> impl Future<Output = ()> + Send;

    /// Whether the connection ends because somebody wants it gone: then its client sees a reset, and
    /// so does the server of its request.
    fn is_killed(&self) -> bool {
        false
    }

    /// A request has ended that began with this plan.
    fn account(&self, current: &Self::Current, record: &Record<'_>);

    /// Something has come from a client: a sign of work for busy polling.
    fn moved(&self) {}
}

/// A server, as far as HTTP connections look at it.
pub trait Server: Send + Sync + 'static {
    /// For the log.
    fn name(&self) -> &str;

    /// Unused connections that a worker may keep to it.
    fn idle_connections_max(&self) -> usize;

    /// Another number whenever its addresses have changed: connections of an earlier epoch are
    /// used for no further request.
    fn epoch(&self) -> u64 {
        0
    }

    /// A request has ended that brought it so many bytes of body, and so many of its answer's.
    fn carried(&self, request: u64, response: u64) {
        let _ = (request, response);
    }
}

/// Who is at the other end of a client's connection, and where it came in.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client: as a PROXY header says, where one is believed.
    pub client: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
}
