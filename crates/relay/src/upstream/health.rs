//! Whether servers are well: each is asked at intervals, and so many answers in a row decide.
//!
//! A server begins up, so that a service serves at once and not after `rise` intervals; the first
//! check is made at once, those of several servers spread over a second. A check that could not be
//! made for want of something here (descriptors, memory, ports) says nothing about the server, or the relay's own
//! shortage would take everything down.
//!
//! One task a server on the runtime that calls [`watch`], none on the workers; they only read one
//! flag. What is asked is in `ask`, the connection in `probe`.

mod ask;
mod probe;

use super::resolve::{self, Resolver};
use super::server::Server;
use super::{Upstream, Upstreams};
use crate::plan::Check;
pub(super) use ask::Failure;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The first checks of an upstream are spread over so long, or one interval if that is less.
const SPREAD_MAX: Duration = Duration::from_secs(1);

/// What is known of a server's health. Shared by its configurations.
#[derive(Debug)]
pub(super) struct Health {
    /// What sessions look at.
    is_up: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    /// Checks in a row that speak against the present state.
    against: u32,
    since: Instant,
    last: Option<Last>,
}

/// The last check.
#[derive(Clone, Debug)]
pub(super) struct Last {
    pub(super) at: Instant,
    /// Why it failed.
    pub(super) result: Result<(), String>,
}

/// A server has changed its state, after so many checks in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    is_up: bool,
    checks: u32,
}

impl Health {
    /// A server begins up.
    pub(super) fn new() -> Self {
        let record = Record { against: 0, since: Instant::now(), last: None };
        Self { is_up: AtomicBool::new(true), record: Mutex::new(record) }
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::SeqCst)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it is as it is, and the last check.
    pub(super) fn reading(&self) -> (Duration, Option<Last>) {
        let record = self.record();
        (record.since.elapsed(), record.last.clone())
    }

    /// Nobody checks it any more: a later check begins anew.
    fn forget(&self) {
        let mut record = self.record();
        if !self.is_up.swap(true, Ordering::SeqCst) {
            record.since = Instant::now();
        }
        record.against = 0;
        record.last = None;
    }

    /// Takes in the result of a check.
    pub(super) fn note(&self, result: &Result<(), Failure>, check: &Check) -> Option<Change> {
        let mut record = self.record();
        let now = Instant::now();
        let said = result.as_ref().copied().map_err(ToString::to_string);
        record.last = Some(Last { at: now, result: said });
        let (is_up, needed) = match (result, self.is_up()) {
            (Err(Failure::Ours(_)), _) => return None,
            (Ok(()), false) => (true, check.rise),
            (Err(_), true) => (false, check.fall),
            (Ok(()), true) | (Err(_), false) => {
                record.against = 0;
                return None;
            }
        };
        record.against += 1;
        if record.against < needed {
            return None;
        }
        let checks = std::mem::take(&mut record.against);
        record.since = now;
        self.is_up.store(is_up, Ordering::SeqCst);
        Some(Change { is_up, checks })
    }
}

/// The watch over servers and their names. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Watch(#[expect(dead_code, reason = "held for its drop")] JoinSet<()>);

/// Checks the servers and resolves their names again, as their upstreams say, on the runtime of
/// the caller, until the watch is dropped.
pub(crate) fn watch(upstreams: &Upstreams) -> Watch {
    watch_by(upstreams, &probe::over_tcp(), &resolve::system())
}

/// Makes one check.
type Prober = Arc<
    dyn Fn(Arc<Server>, Arc<Check>) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>
        + Send
        + Sync,
>;

fn watch_by(upstreams: &Upstreams, prober: &Prober, resolver: &Resolver) -> Watch {
    let mut tasks = JoinSet::new();
    for upstream in upstreams.iter() {
        watch_health(upstream, prober, &mut tasks);
        resolve::watch(upstream, resolver, &mut tasks);
    }
    Watch(tasks)
}

fn watch_health(upstream: &Upstream, prober: &Prober, tasks: &mut JoinSet<()>) {
    let Some(check) = upstream.plan().check.clone().map(Arc::new) else {
        upstream.servers().iter().for_each(|server| server.state().health.forget());
        return;
    };
    let count = u32::try_from(upstream.servers().len()).unwrap_or(u32::MAX);
    let apart = check.interval.min(SPREAD_MAX) / count.max(1);
    for (server, number) in upstream.servers().iter().zip(0..) {
        let (server, check, prober) = (Arc::clone(server), Arc::clone(&check), Arc::clone(prober));
        tasks.spawn(watch_server(server, check, prober, apart * number));
    }
}

async fn watch_server(server: Arc<Server>, check: Arc<Check>, prober: Prober, first: Duration) {
    let mut pause = first;
    loop {
        tokio::time::sleep(pause).await;
        let result = prober(Arc::clone(&server), Arc::clone(&check)).await;
        if let Some(change) = server.state().health.note(&result, &check) {
            tell(&server, change, &result);
            server.changed();
        }
        pause = check.interval + check.jitter.mul_f64(fastrand::f64());
    }
}

/// The one line a change.
fn tell(server: &Server, Change { is_up, checks }: Change, result: &Result<(), Failure>) {
    let (upstream, server) = (server.upstream_name(), server.name());
    match (is_up, result) {
        (false, Err(why)) => tracing::warn!(upstream, server, checks, %why, "server down"),
        _ => tracing::info!(upstream, server, checks, "server up"),
    }
}

#[cfg(test)]
mod tests;
