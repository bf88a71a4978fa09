//! A client's connection: requests one after the other, until either side ends it.
//!
//! Between two requests it holds no buffer. Requests that were sent ahead wait in the buffer, and
//! in the socket, until those before them have been answered.

use super::buffers::{Buffers, Lent, lend};
use super::exchange::{Exchange, Next};
use super::io::{Elapsed, readable, recv, within};
use super::killed::ResetIfKilled;
use super::record::Fault;
use super::refusal::Refusal;
use super::scan::{Scan, blank_lines};
use super::site::{Peer, Site};
use crate::plan::{HttpPlan, Protocol};
use sosplice::sys;
use sosplice::tokio::Registered;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Read at a time: what comes with a head is copied, so less of a large body is.
const READ_LEN: usize = 8 * 1024;

/// Bytes of empty lines before a request.
const BLANK_LEN_MAX: usize = 64;

/// How long what a client still sends is read behind a last answer, and how much of it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_LEN_MAX: usize = 4 * 1024 * 1024;

/// Serves a client that was accepted just now, to its end. Each request is accounted to the site.
pub async fn serve<S: Site>(client: Registered, peer: Peer, site: Arc<S>) {
    let client = &client;
    let _client = ResetIfKilled { socket: client, site: &*site };
    // The first head counts from accept on.
    let mut until = Some(Instant::now() + site.current().as_ref().as_ref().timeouts.head);
    let mut left: Option<Lent> = None;
    // One for all waits: to hear of it anew costs more than to go on listening.
    let mut stopping = pin!(site.stopping());
    loop {
        let mut buffers = match left.take() {
            Some(buffers) => buffers,
            None if is_readable(client, &*site, until, stopping.as_mut()).await => lend(),
            None => return,
        };
        site.moved();
        let current = site.current();
        let relay = current.as_ref().as_ref();
        let Protocol::Http(http) = &relay.protocol else { return };
        let began = Instant::now();
        let until = until.take().unwrap_or_else(|| began + relay.timeouts.head);
        let exchange = Exchange { site: &*site, current: &*current, relay, http, client, peer };
        let next = match read_head(client, &mut buffers, http, until).await {
            Ok(Some(len)) => exchange.run(&mut buffers, len, began).await,
            Ok(None) => return,
            Err(fault) => exchange.refuse(&mut buffers, fault, began).await,
        };
        match next {
            Next::Keep if !buffers.client.is_empty() => left = Some(buffers),
            Next::Keep => {}
            Next::Close => return,
            Next::Linger => return linger(client, buffers).await,
        }
    }
}

/// Waits for the next request, before `until` or for the keep-alive time; false when the
/// connection ends instead.
async fn is_readable<S: Site>(
    client: &Registered,
    site: &S,
    until: Option<Instant>,
    stopping: Pin<&mut impl Future<Output = ()>>,
) -> bool {
    let limit = match until {
        Some(until) => until.saturating_duration_since(Instant::now()),
        None => site.current().as_ref().as_ref().timeouts.keep_alive,
    };
    tokio::select! {
        biased;
        ready = within(Some(limit), readable(client)) => matches!(ready, Ok(Ok(()))),
        // It owes nothing, and a client knows that an unused connection may end.
        () = stopping => false,
    }
}

/// Reads until a head is complete; None where the client is gone without having begun one.
async fn read_head(
    client: &Registered,
    buffers: &mut Buffers,
    http: &HttpPlan,
    until: Instant,
) -> Result<Option<usize>, Fault> {
    let input = &mut buffers.client;
    let mut scan = Scan::default();
    let mut skipped = 0;
    loop {
        let blank = blank_lines(input.filled());
        input.consume(blank);
        skipped += blank;
        if skipped > BLANK_LEN_MAX {
            return Err(Fault::Request(Refusal::bad("empty lines in place of a request")));
        }
        // It may be the first half of an empty line.
        if input.filled() != b"\r" {
            let end = scan.end(input.filled(), http.head_max).map_err(Fault::Request)?;
            if end.is_some() {
                return Ok(end);
            }
        }
        let limit = until.saturating_duration_since(Instant::now());
        match within(Some(limit), recv(client, input, READ_LEN)).await {
            Ok(Ok(0)) if input.is_empty() => return Ok(None),
            Ok(Ok(0)) => return Err(Fault::ClientClosed),
            Ok(Ok(_)) => {}
            Ok(Err(_)) if input.is_empty() => return Ok(None),
            Ok(Err(error)) => return Err(Fault::ClientFailed(error)),
            Err(Elapsed) => return Err(Fault::HeadTimeout),
        }
    }
}

/// Ends the connection behind a last answer: with bytes unread the kernel would reset it, and
/// the client might never see the answer.
async fn linger(client: &Registered, mut buffers: Lent) {
    // The client may be gone already, and then knows.
    let _ = sys::shutdown_write(client);
    let input = &mut buffers.client;
    let drain = async {
        let mut read = 0;
        while read < LINGER_LEN_MAX {
            input.consume(usize::MAX);
            match recv(client, input, usize::MAX).await {
                Ok(0) | Err(_) => return,
                Ok(len) => read += len,
            }
        }
    };
    let _ = within(Some(LINGER), drain).await;
}
