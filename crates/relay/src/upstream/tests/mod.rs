//! Upstreams without a network: who gets a place, who waits, and what a reload keeps.

#![allow(clippy::unwrap_used)]

mod admin;
mod choice;
mod limits;
mod log;
mod reload;
mod threads;

pub(super) use log::Log;

use super::*;
use crate::plan::{Balance, Check, CheckKind};
use health::Failure;
use std::net::Ipv4Addr;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub(super) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server of that name, at an address of its own.
pub(super) fn server(name: &str) -> ServerPlan {
    ServerPlan {
        name: name.to_owned(),
        target: format!("{name}:80").parse().unwrap(),
        weight: 1,
        is_backup: false,
        max_connections: None,
    }
}

pub(super) fn limited(name: &str, max: u64) -> ServerPlan {
    ServerPlan { max_connections: Some(max), ..server(name) }
}

pub(super) fn backup(name: &str) -> ServerPlan {
    ServerPlan { is_backup: true, ..server(name) }
}

/// One failed check brings a server down, one passed brings it up.
pub(super) fn strict() -> Check {
    Check {
        kind: CheckKind::Tcp,
        interval: Duration::from_secs(10),
        jitter: Duration::ZERO,
        timeout: Duration::from_secs(1),
        rise: 1,
        fall: 1,
    }
}

pub(super) fn plan(servers: &[ServerPlan]) -> UpstreamPlan {
    UpstreamPlan {
        servers: servers.to_vec(),
        check: Some(strict()),
        queue_max: 100,
        queue_timeout: Duration::from_secs(60),
        ..UpstreamPlan::plain("web", &[], Balance::RoundRobin)
    }
}

/// Every name has one address.
pub(super) fn resolver() -> Resolver {
    Arc::new(|_| Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 80))]))
}

pub(super) fn upstreams(plan: UpstreamPlan, previous: Option<&Upstreams>) -> Upstreams {
    Upstreams::with_resolver(&[Arc::new(plan)], previous, &resolver()).unwrap()
}

/// The one of that plan.
pub(super) fn upstream(plan: UpstreamPlan) -> Arc<Upstream> {
    Arc::clone(upstreams(plan, None).get(UpstreamId(0)))
}

/// A check has passed or failed.
fn set_up(server: &Server, is_up: bool) {
    let result = if is_up { Ok(()) } else { Err(Failure::Timeout) };
    server.state().health.note(&result, &strict());
    server.changed();
}

/// What a session that comes now gets, if it need not wait.
fn now(upstream: &Arc<Upstream>) -> Result<Place, NoPlace> {
    match polled(&mut Box::pin(upstream.place(CLIENT, &mut Tried::default()))) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it waits"),
    }
}

fn name(result: &Result<Place, NoPlace>) -> Result<&str, NoPlace> {
    result.as_ref().map(|place| place.server().name()).map_err(|why| *why)
}

/// One poll, with nobody to wake.
pub(super) fn polled<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}
