//! One connection, from accept to close: connect upstream, splice both ways, account.

use crate::relay::Shared;
use crate::upstream::{Place, connect};
use rustix::fd::OwnedFd;
use sosplice::sys::{self, Kind};
use sosplice::tokio::{Both, Registered};
use sosplice::{BothEnds, Cause, OnMax};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Serves one accepted connection to its end.
pub(crate) async fn run(shared: Arc<Shared>, fd: OwnedFd, client_addr: SocketAddr) {
    let began = Instant::now();
    let client = match Registered::with_kind(fd, Kind::Tcp) {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(client = %client_addr, %error, "connection dropped: cannot register it");
            return;
        }
    };
    let mut last_error = None;
    for candidate in shared.pool.candidates(client_addr.ip()) {
        let place = Place::take(candidate);
        let connecting = tokio::time::timeout(shared.connect_timeout, connect(candidate.addr));
        match connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(upstream) => {
                let ends = splice(&shared, &client, &upstream).await;
                close(client, upstream, &ends);
                account(client_addr, candidate.addr, &ends, began);
                drop(place);
                return;
            }
            Err(error) => {
                tracing::debug!(client = %client_addr, upstream = %candidate.addr, %error, "connect failed");
                last_error = Some((candidate.addr, error));
            }
        }
    }
    // Nobody to talk to: a reset says so at once, where a FIN would look like an
    // empty answer.
    let _ = sys::reset_on_close(&client);
    if let Some((upstream, error)) = last_error {
        tracing::warn!(client = %client_addr, %upstream, %error, "connection refused: no upstream");
    }
}

async fn splice(shared: &Shared, client: &Registered, upstream: &Registered) -> BothEnds {
    match Both::new(client, upstream, shared.limits, OnMax::EndBoth) {
        Ok(both) => {
            let mut both = both.closing();
            poll_fn(|cx| both.poll_done(cx)).await;
            both.into_ends()
        }
        // Both are TCP by construction.
        Err(_) => unreachable!("TCP sockets can be spliced"),
    }
}

/// Closes both; a failure on one side becomes a reset on the other, so that its peer
/// does not take a cut stream for a whole one.
fn close(client: Registered, upstream: Registered, ends: &BothEnds) {
    let failed = |cause: Cause| cause.os_error().is_some();
    if failed(ends.a_to_b.cause) || failed(ends.b_to_a.cause) {
        let _ = sys::reset_on_close(&client);
        let _ = sys::reset_on_close(&upstream);
    }
}

/// The one line a connection.
fn account(client: SocketAddr, upstream: SocketAddr, ends: &BothEnds, began: Instant) {
    let (up, down) = (&ends.a_to_b, &ends.b_to_a);
    let carried = sosplice::Carried {
        copy: up.carried.copy + down.carried.copy,
        pipe: up.carried.pipe + down.carried.pipe,
    };
    tracing::info!(
        %client,
        %upstream,
        up = up.bytes,
        down = down.bytes,
        engine = carried.engine(),
        up_copy = up.carried.copy,
        up_pipe = up.carried.pipe,
        down_copy = down.carried.copy,
        down_pipe = down.carried.pipe,
        ms = began.elapsed().as_millis() as u64,
        cause = %ends.cause(),
        "connection closed"
    );
}
