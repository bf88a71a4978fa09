//! One connection, from accept to close: connect upstream, splice both ways, account.

use crate::live::Entry;
use crate::upstream::{Place, Tried, Unconnected};
use crate::worker::Worker;
use rustix::fd::OwnedFd;
use sosplice::sys::{self, Kind};
use sosplice::tokio::{Both, Registered};
use sosplice::{BothEnds, Cause, OnMax};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A client, and the socket that is to take it to its upstream.
pub(crate) struct Accepted {
    pub(crate) fd: OwnedFd,
    pub(crate) addr: SocketAddr,
    pub(crate) upstream: Unconnected,
}

/// Serves one accepted connection to its end.
pub(crate) async fn run(worker: Arc<Worker>, client: Accepted) {
    let Accepted { fd, addr: client_addr, upstream } = client;
    let began = Instant::now();
    let client = match Registered::with_kind(fd, Kind::Tcp) {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(client = %client_addr, %error, "connection dropped: cannot register it");
            return;
        }
    };
    // In a box of its own, which is gone once an upstream has answered: an idle session
    // is not to pay for the room that connecting takes.
    let Some((upstream, upstream_addr, place)) =
        Box::pin(find_upstream(&worker, &client, client_addr, upstream)).await
    else {
        return;
    };
    let live = worker.registry.as_ref().and_then(|registry| {
        let relay_end = rustix::net::getsockname(&upstream).ok()?;
        let relay_end = SocketAddr::try_from(relay_end).ok()?;
        Some(Box::new(registry.enter(relay_end, client_addr)))
    });
    // Both are stream sockets by construction.
    let Ok(both) = Both::new(&client, &upstream, worker.shared.limits, OnMax::EndBoth) else {
        return;
    };
    let mut session = Session {
        both: Some(both.closing()),
        client: &client,
        upstream: &upstream,
        client_addr: &client_addr,
        upstream_addr,
        _place: place,
        began,
        live,
    };
    poll_fn(|cx| {
        let done = session.both.as_mut().map(|both| both.poll_done(cx));
        session.publish();
        worker.moved();
        done.unwrap_or(std::task::Poll::Ready(()))
    })
    .await;
    if let Some(healthy) = session.end() {
        // In a box: most sessions end without it.
        Box::pin(settled(healthy)).await;
    }
}

/// The first upstream that answers, in the order of the balance; none resets the
/// client, for a FIN would look like an empty answer.
async fn find_upstream(
    worker: &Worker,
    client: &Registered,
    client_addr: SocketAddr,
    socket: Unconnected,
) -> Option<(Registered, SocketAddr, Place)> {
    let mut last = None;
    let mut first = Some(socket);
    let mut tried = Tried::default();
    while let Ok(place) = worker.upstream.place(client_addr.ip(), &mut tried).await {
        for addr in place.server().addrs().iter() {
            let connecting = async {
                let socket = first.take().map_or_else(|| Unconnected::new(*addr), Ok)?;
                socket.connect(*addr, worker.shared.congestion.as_ref()).await
            };
            let timed_out = |_| Err(io::Error::from(io::ErrorKind::TimedOut));
            let limit = worker.shared.connect_timeout;
            match tokio::time::timeout(limit, connecting).await.unwrap_or_else(timed_out) {
                Ok(upstream) => {
                    place.server().connected();
                    return Some((upstream, *addr, place));
                }
                Err(error) => {
                    tracing::debug!(client = %client_addr, upstream = %addr, %error, "connect failed");
                    last = Some((*addr, error));
                }
            }
        }
        place.server().connect_failed();
    }
    let _ = sys::reset_on_close(client);
    worker.shared.stats.refused();
    if let Some((upstream, error)) = last {
        tracing::warn!(client = %client_addr, %upstream, %error, cause = "no-upstream", "connection refused");
    }
    None
}

/// A joined pair, until its end is told.
struct Session<'s> {
    /// None when the end was told.
    both: Option<Both<'s, Registered, Registered>>,
    client: &'s Registered,
    upstream: &'s Registered,
    client_addr: &'s SocketAddr,
    upstream_addr: SocketAddr,
    _place: Place,
    began: Instant,
    live: Option<Box<Entry>>,
}

impl Session<'_> {
    /// Tells the counts to those who ask about running sessions.
    fn publish(&self) {
        if let (Some(entry), Some(both)) = (&self.live, &self.both) {
            entry.live.store(both.carried());
        }
    }

    /// Both directions are done. A failure on one side becomes a reset on the other, so
    /// that its peer does not take a cut stream for a whole one; but first that peer, whose
    /// socket is returned, gets what was sent to it, which a reset would throw away.
    fn end(&mut self) -> Option<&Registered> {
        let ends = self.both.take()?.into_ends();
        self.account(&ends, &ends.cause());
        let (client_failed, upstream_failed) = failed_sides(&ends);
        if client_failed || upstream_failed {
            self.reset();
        }
        match (client_failed, upstream_failed) {
            (true, false) => Some(self.upstream),
            (false, true) => Some(self.client),
            _ => None,
        }
    }

    fn reset(&self) {
        // A socket that is gone already needs none.
        let _ = sys::reset_on_close(self.client);
        let _ = sys::reset_on_close(self.upstream);
    }

    /// The one line a connection.
    fn account(&self, ends: &BothEnds, cause: &dyn std::fmt::Display) {
        let (up, down) = (ends.a_to_b.carried, ends.b_to_a.carried);
        let mut carried = up;
        carried += down;
        tracing::info!(
            client = %self.client_addr,
            upstream = %self.upstream_addr,
            up = up.total(),
            down = down.total(),
            engine = carried.engine(),
            up_copy = up.copy,
            up_pipe = up.pipe,
            down_copy = down.copy,
            down_pipe = down.pipe,
            ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            %cause,
            "connection closed"
        );
    }
}

/// Which of client and upstream failed.
fn failed_sides(ends: &BothEnds) -> (bool, bool) {
    let side = |source: Cause, drain: Cause| {
        matches!(source, Cause::SourceError(_))
            || matches!(drain, Cause::DrainError(_) | Cause::DrainClosed)
    };
    let (up, down) = (ends.a_to_b.cause, ends.b_to_a.cause);
    (side(up, down), side(down, up))
}

/// Waits until the peer has everything, or takes nothing more for [`SETTLE`].
async fn settled(socket: &Registered) {
    let (mut left, mut since) = (usize::MAX, Instant::now());
    loop {
        // Reset by its peer meanwhile: there is nobody left to wait for.
        if rustix::net::getpeername(socket).is_err() {
            return;
        }
        match sys::unacknowledged(socket) {
            Ok(0) | Err(_) => return,
            Ok(now) if now < left => (left, since) = (now, Instant::now()),
            Ok(_) if since.elapsed() >= SETTLE => return,
            Ok(_) => {}
        }
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
}

/// A peer that acknowledges nothing for so long is not waited for before its reset.
const SETTLE: Duration = Duration::from_secs(5);
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

impl Drop for Session<'_> {
    /// Still joined: the relay ends and cuts it, and both peers are to know.
    fn drop(&mut self) {
        let Some(both) = self.both.take() else { return };
        self.reset();
        self.account(&both.into_ends(), &"cut");
    }
}
