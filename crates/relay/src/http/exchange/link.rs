//! A connection to a server: one that is there, or a new one.

use super::Exchange;
use crate::http::ledger::Ledger;
use crate::http::record::Fault;
use crate::http::site::{NoPlace, Server, Site};
use crate::plan::UpstreamId;
use sosplice::tokio::Registered;
use std::io;
use std::sync::Arc;

/// A connection, for one exchange.
pub(super) struct Link<S: Site> {
    pub(super) socket: Registered,
    place: S::Place,
    /// Of the server when it was connected.
    epoch: u64,
    /// It has carried another request before.
    pub(super) is_reused: bool,
}

/// Servers that were tried, and the last one's answer.
pub(super) struct Search<S: Site> {
    pub(super) upstream: Option<UpstreamId>,
    pub(super) tried: S::Tried,
    pub(super) last: Option<io::Error>,
}

/// Whether a connection may be one that was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    /// If it is still good as far as is known.
    Any,
    /// If the kernel says so too: the request cannot be repeated.
    Looked,
    No,
}

impl<S: Site> Exchange<'_, S> {
    /// The first server that there is a connection to, in the order of the balance.
    pub(super) async fn find(
        &self,
        ledger: &mut Ledger<'_, S>,
        search: &mut Search<S>,
        reuse: Reuse,
    ) -> Result<Link<S>, Fault> {
        loop {
            let client = self.peer.client.ip();
            let place =
                self.site.place(self.current, search.upstream, client, &mut search.tried).await;
            let place = place.map_err(|no| match (search.last.take(), no) {
                (Some(error), NoPlace::Exhausted) => Fault::Connect(error),
                (_, no) => Fault::NoPlace(no),
            })?;
            let server = S::server(&place);
            let epoch = server.epoch();
            ledger.server = Some(Arc::clone(server));
            if reuse != Reuse::No && self.pools() {
                let unused = self.site.pool().take(server, epoch, reuse == Reuse::Looked);
                if let Some(socket) = unused {
                    ledger.is_reused = true;
                    return Ok(Link { socket, place, epoch, is_reused: true });
                }
            }
            ledger.is_reused = false;
            match self.site.connect(self.current, &place, self.peer).await {
                Ok(socket) => return Ok(Link { socket, place, epoch, is_reused: false }),
                Err(error) => search.last = Some(error),
            }
        }
    }

    /// A new connection in place of `link`, which turned out to be closed: to the same server if
    /// it takes one.
    pub(super) async fn again(
        &self,
        ledger: &mut Ledger<'_, S>,
        link: Link<S>,
        search: &mut Search<S>,
    ) -> Result<Link<S>, Fault> {
        let Link { socket, place, .. } = link;
        drop(socket);
        let epoch = S::server(&place).epoch();
        match self.site.connect(self.current, &place, self.peer).await {
            Ok(socket) => {
                ledger.is_reused = false;
                Ok(Link { socket, place, epoch, is_reused: false })
            }
            Err(error) => {
                search.last = Some(error);
                drop(place);
                self.find(ledger, search, Reuse::No).await
            }
        }
    }

    /// Nothing is under way on the connection any more.
    pub(super) fn put_back(&self, link: Link<S>) {
        let server = S::server(&link.place);
        let goes_on = !self.site.is_stopping() && !self.site.is_killed();
        if self.pools() && goes_on && link.epoch == server.epoch() {
            let (keep, max) = (self.relay.timeouts.keep_alive, server.idle_connections_max());
            self.site.pool().give(server, link.epoch, link.socket, (keep, max));
        }
    }

    /// A PROXY header speaks for one client, and so does its connection.
    fn pools(&self) -> bool {
        self.relay.send_proxy.is_none()
    }
}
