//! One connection, from accept to close: who is it, connect upstream, splice both ways, account.

use crate::dial::{self, Failed};
use crate::graph::{Binding, Clients, OneOfClient};
use crate::http::{self, Peer};
use crate::live::{Entry, Live};
use crate::plan::{Protocol, Timeouts};
use crate::proxy;
use crate::site;
use crate::upstream::{Place, Tried, Unconnected};
use crate::worker::{Slot, Worker};
use rustix::fd::OwnedFd;
use sosplice::sys::{self, Kind};
use sosplice::tokio::{Both, Registered, Socket as _};
use sosplice::{BothEnds, Cause, Limits, OnMax};
use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A client, and what was ready for it.
pub(crate) struct Accepted {
    pub(crate) fd: OwnedFd,
    pub(crate) addr: SocketAddr,
    /// The socket that is to take it to its upstream, if it was made before.
    pub(crate) upstream: Option<Unconnected>,
    pub(crate) binding: Arc<Binding>,
    /// Where the binding is, and where the next reload puts another.
    pub(crate) slot: Arc<Slot>,
}

/// Serves one accepted connection to its end.
pub(crate) async fn run(worker: &Arc<Worker>, live: &Arc<Live>, client: Accepted) {
    let Accepted { fd, addr, upstream, binding, slot } = client;
    let client = match Registered::with_kind(fd, Kind::Tcp) {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(client = %addr, %error, "connection dropped: cannot register it");
            return;
        }
    };
    // In boxes of their own, which are gone once an upstream has answered: an idle session is
    // not to pay for the room that connecting takes.
    let told = match expected_proxy(&binding, addr) {
        true => Box::pin(proxied(&binding, &client, live)).await,
        false => Ok(None),
    };
    let refused = |cause: &dyn Display| {
        let _ = sys::reset_on_close(&client);
        worker.tally(&binding).refused.add(1);
        tracing::warn!(relay = binding.relay.plan.told_name(), client = %live.client(), %cause, "connection refused");
    };
    let local = match told {
        Ok(told) => told.map(|told| told.local),
        Err(why) => return refused(&format_args!("proxy-header: {why}")),
    };
    let Ok(_of_client) = one_of_client(&binding, live.client()) else {
        return refused(&"too-many-of-client");
    };
    match &binding.relay.plan.protocol {
        Protocol::Http(_) => {
            let peer = Peer {
                client: live.client(),
                local: local.or_else(|| local_addr(&client)).unwrap_or(addr),
            };
            let _ended = Ended { worker, binding: Arc::clone(&binding) };
            let site = site::Connection::new(Arc::clone(worker), Arc::clone(live), slot, binding);
            // In a box: the other sessions are not to pay for its room.
            Box::pin(http::serve(client, peer, Arc::new(site))).await;
        }
        Protocol::Tcp | Protocol::Udp { .. } => {
            drop(slot);
            relay(worker, live, &binding, &client, local, upstream).await;
        }
    }
}

/// Counts an HTTP connection's end, in whatever way it comes.
struct Ended<'w> {
    worker: &'w Worker,
    binding: Arc<Binding>,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.worker.tally(&self.binding).ended.add(1);
    }
}

fn expected_proxy(binding: &Binding, addr: SocketAddr) -> bool {
    !binding.listener.accept_proxy_from.is_empty() && binding.expects_proxy(addr.ip())
}

/// Who the client says it is.
async fn proxied(
    binding: &Binding,
    client: &Registered,
    live: &Live,
) -> Result<Option<proxy::Addresses>, proxy::Refused> {
    let limit = binding.relay.plan.timeouts.head;
    let told = match tokio::time::timeout(limit, proxy::accept(client)).await {
        Ok(told) => told?,
        Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    };
    if let Some(told) = told {
        live.set_client(told.client);
    }
    Ok(told)
}

/// Whether the client may have one more, where that is limited.
fn one_of_client(binding: &Binding, client: SocketAddr) -> Result<Option<OneOfClient>, ()> {
    let Some(max) = binding.relay.plan.max_per_client else { return Ok(None) };
    Clients::enter(&binding.relay.counts, client.ip(), max).map(Some).ok_or(())
}

/// Bytes, both ways. `local` is what the client was connected to, where a PROXY header told.
async fn relay(
    worker: &Worker,
    live: &Arc<Live>,
    binding: &Binding,
    client: &Registered,
    local: Option<SocketAddr>,
    socket: Option<Unconnected>,
) {
    // Where it came in is asked for only if it is told: that is a system call.
    let asked = || binding.relay.plan.send_proxy.and_then(|_| local_addr(client));
    let addr = live.client();
    let peer = Peer { client: addr, local: local.or_else(asked).unwrap_or(addr) };
    let finding = find_upstream(worker, binding, client, peer, socket);
    let mut looking = Looking { worker, binding, client, live, is_over: false };
    let found = Box::pin(finding).await;
    looking.is_over = true;
    drop(looking);
    let Some(Joined { upstream, addr, place }) = found else { return };
    live.set_upstream(Some(addr));
    let entry = worker.registry.as_ref().and_then(|registry| {
        let relay_end = rustix::net::getsockname(&upstream).ok()?;
        Some(Box::new(registry.enter(SocketAddr::try_from(relay_end).ok()?, live)))
    });
    let plan = &binding.relay.plan;
    let limits = Limits {
        max: plan.max_bytes,
        idle: plan.timeouts.idle,
        engine: plan.engine,
        ..Limits::default()
    };
    // Both are stream sockets by construction.
    let Ok(both) = Both::new(client, &upstream, limits, OnMax::EndBoth) else {
        return;
    };
    let both = both.closing().half_closed(plan.timeouts.half_closed);
    let mut session = Session {
        both: Some(both),
        client,
        upstream: &upstream,
        worker,
        binding,
        place,
        live,
        _entry: entry,
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

/// A session that has no server yet. Killed, it ends as one that is refused.
struct Looking<'s> {
    worker: &'s Worker,
    binding: &'s Binding,
    client: &'s Registered,
    live: &'s Live,
    is_over: bool,
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        if self.is_over || !self.live.is_killed() {
            return;
        }
        // A FIN would look like an empty answer.
        let _ = sys::reset_on_close(self.client);
        self.worker.tally(self.binding).refused.add(1);
        let relay = self.binding.relay.plan.told_name();
        tracing::info!(relay, client = %self.live.client(), cause = "killed", "connection refused");
    }
}

/// A connection to a server, and the place there.
struct Joined {
    upstream: Registered,
    addr: SocketAddr,
    place: Place,
}

/// The first server that answers, in the order of the balance; none resets the client, for a
/// FIN would look like an empty answer.
async fn find_upstream(
    worker: &Worker,
    binding: &Binding,
    client: &Registered,
    peer: Peer,
    mut first: Option<Unconnected>,
) -> Option<Joined> {
    let (plan, client_addr) = (&binding.relay.plan, peer.client);
    let mut last = None;
    let mut tried = Tried::default();
    let upstream = worker.upstream(binding)?;
    let why = loop {
        let place = tokio::select! {
            biased;
            place = upstream.place(client_addr.ip(), &mut tried) => place,
            // In a queue, where its place is for those behind it. An end is none: it may have sent
            // all that it wants to say. Asked for only by those who wait.
            () = async { client.failed().await } => {
                worker.tally(binding).refused.add(1);
                let relay = plan.told_name();
                tracing::info!(relay, client = %client_addr, cause = "client-left", "connection refused");
                return None;
            }
        };
        let place = match place {
            Ok(place) => place,
            Err(why) => break why,
        };
        match dial::connect(plan, place.server(), peer, &mut first).await {
            Ok((upstream, addr)) => return Some(Joined { upstream, addr, place }),
            Err(failed) => last = Some(failed),
        }
    };
    let _ = sys::reset_on_close(client);
    worker.tally(binding).refused.add(1);
    match last {
        Some(Failed { addr: upstream, error }) => {
            tracing::warn!(relay = plan.told_name(), client = %client_addr, %upstream, %error, cause = "no-upstream", "connection refused");
        }
        None => {
            tracing::warn!(relay = plan.told_name(), client = %client_addr, error = %why, cause = "no-upstream", "connection refused");
        }
    }
    None
}

fn local_addr(socket: &Registered) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()
}

/// A joined pair, until its end is told.
struct Session<'s> {
    /// None when the end was told.
    both: Option<Both<'s, Registered, Registered>>,
    client: &'s Registered,
    upstream: &'s Registered,
    worker: &'s Worker,
    binding: &'s Binding,
    place: Place,
    live: &'s Live,
    _entry: Option<Box<Entry>>,
}

impl Session<'_> {
    /// Tells the counts to those who ask. They only grow: what a session has carried is counted
    /// once, when it moves, and not again when the session ends.
    fn publish(&self) {
        if let Some(both) = &self.both {
            let (up, down) = self.live.store(both.carried());
            self.worker.tally(self.binding).moved(up, down);
        }
    }

    /// Both directions are done. A failure on one side becomes a reset on the other, so
    /// that its peer does not take a cut stream for a whole one; but first that peer, whose
    /// socket is returned, gets what was sent to it, which a reset would throw away.
    fn end(&mut self) -> Option<&Registered> {
        let ends = self.both.take()?.into_ends();
        let cause = ends.cause();
        let is_half_closed = is_half_closed(&ends, &self.binding.relay.plan.timeouts);
        self.account(&ends, if is_half_closed { &"half-closed" } else { &cause });
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

    /// The one line a connection, and the counts.
    fn account(&self, ends: &BothEnds, cause: &dyn Display) {
        let (up, down) = (ends.a_to_b.carried, ends.b_to_a.carried);
        let tally = self.worker.tally(self.binding);
        let (last_up, last_down) = self.live.store((up, down));
        tally.moved(last_up, last_down);
        tally.ended.add(1);
        self.place.server().carried(up.total(), down.total());
        if !self.worker.shared.logs_access {
            return;
        }
        let mut carried = up;
        carried += down;
        tracing::info!(
            relay = self.binding.relay.plan.told_name(),
            client = %self.live.client(),
            upstream = %self.live.upstream().unwrap_or_else(|| self.live.client()),
            up = up.total(),
            down = down.total(),
            engine = carried.engine(),
            up_copy = up.copy,
            up_pipe = up.pipe,
            down_copy = down.copy,
            down_pipe = down.pipe,
            ms = u64::try_from(self.live.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            %cause,
            "connection closed"
        );
    }
}

/// Whether it was ended because one side had ended and the other was silent for too long. Both
/// limits are on silence, so that the shorter one has come first.
fn is_half_closed(ends: &BothEnds, timeouts: &Timeouts) -> bool {
    let (up, down) = (ends.a_to_b.cause, ends.b_to_a.cause);
    let limit = timeouts.half_closed.unwrap_or(Duration::MAX);
    (up == Cause::Idle) != (down == Cause::Idle) && limit <= timeouts.idle.unwrap_or(limit)
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
pub(crate) async fn settled(socket: &Registered) {
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
        let cause = if self.live.is_killed() { "killed" } else { "cut" };
        self.account(&both.into_ends(), &cause);
    }
}
