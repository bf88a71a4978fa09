//! How a plan shares the limit on descriptors: what is fixed, then datagrams, then streams.

use crate::budget::{self, BudgetError, Demand};
use crate::error::Error;
use crate::plan::{Plan, Protocol, RelayPlan};

/// Descriptors beside sessions and listeners: the admin and control connections and one check of
/// each server at a time come on top.
const OPERATION_DESCRIPTORS: u64 = 40;

/// Of each listener of a worker but the first, whose own are among the worker's.
const WAITING_DESCRIPTORS: u64 = 2;

/// Of datagram relays that were given no number, all together, where there are streams as well:
/// a divisor of the limit.
const DATAGRAM_SHARE: u64 = 4;

/// Of unused connections to HTTP servers: the same.
const UNUSED_SHARE: u64 = 8;

/// No limit is as high: where it would have to be, the search for it ends.
const LIMIT_MAX: u64 = 1 << 40;

/// What fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// TCP and HTTP sessions at a time.
    pub(crate) max_connections: u64,
    pub(crate) pipes_per_worker: u64,
    /// Sessions of one datagram listener that was given no number.
    max_sessions: u64,
}

impl Room {
    /// Raises the limit as far as it goes, and settles what fits.
    ///
    /// # Errors
    /// [`Error::Budget`], which names the limit that would do.
    pub(crate) fn new(plan: &Plan, workers: usize) -> Result<Self, Error> {
        let nofile = budget::raise_nofile().map_err(|source| Error::Limit { source })?;
        Self::within(plan, workers as u64, nofile)
    }

    /// Sessions that a datagram listener of this relay may have.
    pub(crate) fn sessions(&self, plan: &RelayPlan) -> u64 {
        match plan.protocol {
            Protocol::Udp { max_sessions: Some(max) } => max,
            _ => self.max_sessions,
        }
    }

    fn within(plan: &Plan, workers: u64, nofile: u64) -> Result<Self, Error> {
        Self::fit(plan, workers, nofile).map_err(|error| {
            // What a part of the limit is too low for is told of the whole.
            let least = || Self::least(plan, workers, nofile);
            Error::Budget(match error {
                BudgetError::TooLow { nofile: part, .. } if part != nofile => {
                    BudgetError::TooLow { nofile, workers, needed: least() }
                }
                BudgetError::TooMany { flag, asked, fits, nofile: part, .. } if part != nofile => {
                    BudgetError::TooMany { flag, asked, fits, nofile, needed: least() }
                }
                whole => whole,
            })
        })
    }

    /// The least limit above `nofile` that does.
    fn least(plan: &Plan, workers: u64, nofile: u64) -> u64 {
        let fits = |nofile| Self::fit(plan, workers, nofile).is_ok();
        let (mut low, mut high) = (nofile, nofile.max(1));
        while !fits(high) && high < LIMIT_MAX {
            high = high.saturating_mul(2);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            *if fits(middle) { &mut high } else { &mut low } = middle;
        }
        high
    }

    fn fit(plan: &Plan, workers: u64, nofile: u64) -> Result<Self, BudgetError> {
        let is_udp = |relay: &&RelayPlan| matches!(relay.protocol, Protocol::Udp { .. });
        let relays = || plan.relays.iter().map(|relay| &**relay);
        let listeners = |relays: &mut dyn Iterator<Item = &RelayPlan>| -> u64 {
            relays.map(|relay| relay.listeners.len() as u64).sum()
        };
        let stream_listeners = listeners(&mut relays().filter(|relay| !is_udp(relay)));
        let has_streams = stream_listeners > 0;
        let operation = if plan.admin.is_some() || plan.control.is_some() || has_checks(plan) {
            OPERATION_DESCRIPTORS + servers(plan)
        } else {
            0
        };
        let nofile = nofile.saturating_sub(operation);
        let datagrams = |relay: &RelayPlan, nofile: u64, asked: Option<u64>| Demand {
            nofile,
            workers: workers * relay.listeners.len() as u64,
            listeners_per_worker: 1,
            per_session: budget::UDP_SESSION_DESCRIPTORS,
            pipes_per_worker: 0,
            max_connections: asked,
            flag: "--max-sessions",
        };
        let fixed = workers * (budget::WORKER_DESCRIPTORS + 1);
        let mut left = nofile;
        // First those that were given a number.
        for relay in relays().filter(is_udp) {
            let listeners = relay.listeners.len() as u64;
            if let Protocol::Udp { max_sessions: Some(asked) } = relay.protocol {
                datagrams(relay, left, Some(asked.saturating_mul(listeners))).budget()?;
                left = left.saturating_sub(listeners * (asked + fixed));
            }
        }
        let unasked =
            |relay: &&RelayPlan| matches!(relay.protocol, Protocol::Udp { max_sessions: None });
        let count = listeners(&mut relays().filter(unasked));
        let share = if has_streams { left / DATAGRAM_SHARE } else { left } / count.max(1);
        let mut max_sessions = 0;
        for relay in relays().filter(unasked) {
            let one = Demand { workers, ..datagrams(relay, share, None) };
            max_sessions = one.budget()?.max_connections;
            left = left.saturating_sub(relay.listeners.len() as u64 * (max_sessions + fixed));
        }
        if !has_streams {
            return Ok(Self { max_connections: 0, pipes_per_worker: 0, max_sessions });
        }
        let with_origin = plan.uses_origin();
        let demand = Demand {
            nofile: left - unused(plan, workers).min(left / UNUSED_SHARE),
            workers,
            // Each has a client that waits and the socket for the next one's upstream.
            listeners_per_worker: stream_listeners
                + (stream_listeners - 1) * WAITING_DESCRIPTORS
                + u64::from(with_origin),
            per_session: if with_origin {
                budget::ORIGIN_SESSION_DESCRIPTORS
            } else {
                budget::SESSION_DESCRIPTORS
            },
            pipes_per_worker: budget::PIPES_PER_WORKER_WISHED,
            max_connections: plan.max_connections,
            flag: "--max-connections",
        };
        let budget = demand.budget()?;
        Ok(Self {
            max_connections: budget.max_connections,
            pipes_per_worker: budget.pipes_per_worker,
            max_sessions,
        })
    }
}

fn servers(plan: &Plan) -> u64 {
    plan.upstreams.iter().map(|upstream| upstream.servers.len() as u64).sum()
}

fn has_checks(plan: &Plan) -> bool {
    plan.upstreams.iter().any(|upstream| upstream.check.is_some())
}

/// Connections to HTTP servers that may lie unused.
fn unused(plan: &Plan, workers: u64) -> u64 {
    let is_http = plan.relays.iter().any(|relay| matches!(relay.protocol, Protocol::Http(_)));
    if !is_http {
        return 0;
    }
    let kept = plan.upstreams.iter().map(|upstream| {
        (upstream.idle_connections_max as u64).saturating_mul(upstream.servers.len() as u64)
    });
    kept.fold(0, u64::saturating_add).saturating_mul(workers)
}
