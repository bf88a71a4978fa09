//! The admin address: `/metrics` for Prometheus and `/healthz` for whoever has to know whether the
//! service takes clients. It tells and changes nothing; whoever can reach the address may ask.
//!
//! Served on the control thread's runtime, in bounds of its own: so many connections, so long a
//! head, so much time for each. Whoever comes is served, also while slow clients sit on it.

mod metrics;

use crate::control;
use crate::error::Error;
use crate::pages::{self, Pages, Patience, Refusal, Request, Shown};
use crate::service::{Stage, State};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

/// Connections at a time, of those that the budget of descriptors has for operation. One more makes
/// the one go that has waited longest.
const CONNECTIONS_MAX: usize = 16;

const PATIENCE: Patience = Patience {
    head: Duration::from_secs(10),
    stall: Duration::from_secs(10),
    answer: Some(Duration::from_secs(30)),
};

/// Binds the admin address.
///
/// # Errors
/// It cannot be had.
pub(crate) fn bind(addr: SocketAddr) -> Result<TcpListener, Error> {
    let listen = |source| Error::Listen { addr, source };
    let listener = TcpListener::bind(addr).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    Ok(listener)
}

/// Serves it on the runtime of the caller, for as long as that runs.
pub(crate) fn serve(listener: TcpListener, state: Arc<State>) {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => {
            let admin = Arc::new(Admin { state });
            tokio::spawn(pages::serve("admin", listener, admin, PATIENCE, CONNECTIONS_MAX));
        }
        Err(error) => tracing::error!(%error, "the admin address cannot be served"),
    }
}

struct Admin {
    state: Arc<State>,
}

enum Page {
    Metrics,
    Health,
}

impl Pages for Admin {
    type Page = Page;

    fn find(path: &str) -> Result<Page, Refusal> {
        match path {
            "/metrics" => Ok(Page::Metrics),
            "/healthz" => Ok(Page::Health),
            _ => {
                let reason = "there is /metrics and /healthz here, and nothing else";
                Err(Refusal::keep("404 Not Found", reason))
            }
        }
    }

    fn show(&self, page: &Page, _: &Request<Page>, _: SocketAddr) -> Shown {
        match page {
            Page::Metrics => {
                let stats = control::stats(&self.state);
                let servers = self.state.graph().upstreams.snapshot();
                shown("200 OK", metrics::CONTENT_TYPE, metrics::text(stats, servers))
            }
            Page::Health => {
                let (status, body) = match self.state.stage() {
                    Stage::Running => ("200 OK", "ok\n"),
                    Stage::Draining | Stage::Cut => ("503 Service Unavailable", "draining\n"),
                };
                shown(status, "text/plain; charset=utf-8", body.to_owned())
            }
        }
    }
}

fn shown(status: &'static str, kind: &str, body: String) -> Shown {
    let fields = format!("Content-Type: {kind}\r\nCache-Control: no-store\r\n");
    Shown { status, fields, body, content: 0 }
}
