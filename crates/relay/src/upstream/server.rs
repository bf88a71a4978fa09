//! A server: where it is, whether it may have sessions, and what it has had.
//!
//! In two parts. [`Server`] is one as the configuration has it and never changes; its `State` is what
//! goes on when a reload makes another `Server` for the same target: addresses, health, the
//! administrator's word, counts. So running sessions are counted in one place, whichever
//! configuration they began under.
//!
//! The counts are touched when a session begins or ends and never between.

use super::balance::{Candidate, name_key};
use super::health::Health;
use super::place::{Place, Tried};
use super::queue::{Change, Queue, Spare};
use super::target::Target;
use crate::plan::{ServerPlan, UpstreamPlan};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A new session avoids a server for so long after a failed connect, while there is another. A
/// check finds it after several intervals only, and there may be none.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// The beginning of the process's own clock. tokio's, which tests can stop.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What the administrator has said about a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// May have sessions.
    Enabled,
    /// No new sessions.
    Disabled,
    /// No new sessions, and it is told when the last has ended.
    Draining,
    /// It has.
    Drained,
}

impl Admin {
    const ALL: [Self; 4] = [Self::Enabled, Self::Disabled, Self::Draining, Self::Drained];

    fn from_u8(value: u8) -> Self {
        Self::ALL.into_iter().find(|admin| *admin as u8 == value).unwrap_or(Self::Enabled)
    }
}

/// A server, as the configuration has it.
#[derive(Debug)]
pub(crate) struct Server {
    plan: ServerPlan,
    /// Without a check it is never down.
    is_checked: bool,
    pub(crate) idle_connections_max: usize,
    key: u64,
    state: Arc<State>,
}

/// What outlives a configuration.
#[derive(Debug)]
pub(super) struct State {
    /// The lowest that no other server of the upstream had.
    number: usize,
    upstream: String,
    addrs: Mutex<Arc<[SocketAddr]>>,
    admin: AtomicU8,
    pub(super) health: Health,
    sessions: AtomicU64,
    total: AtomicU64,
    failures: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    /// When a connect last failed or a datagram was refused: milliseconds since [`BEGAN`], and 1;
    /// 0 when one has been well since.
    failed: AtomicU64,
    /// The upstream's turn in which it was last chosen.
    chosen: AtomicU64,
    queue: Arc<Queue>,
}

impl State {
    pub(super) fn new(
        upstream: &str,
        number: usize,
        addrs: Vec<SocketAddr>,
        queue: Arc<Queue>,
    ) -> Self {
        Self {
            number,
            upstream: upstream.to_owned(),
            addrs: Mutex::new(addrs.into()),
            admin: AtomicU8::new(Admin::Enabled as u8),
            health: Health::new(),
            sessions: AtomicU64::new(0),
            total: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            chosen: AtomicU64::new(0),
            queue,
        }
    }

    fn admin(&self) -> Admin {
        Admin::from_u8(self.admin.load(Ordering::SeqCst))
    }
}

/// The addresses of a server: never none.
fn lock(addrs: &Mutex<Arc<[SocketAddr]>>) -> MutexGuard<'_, Arc<[SocketAddr]>> {
    addrs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// One of `upstream`'s.
    pub(super) fn new(plan: ServerPlan, upstream: &UpstreamPlan, state: Arc<State>) -> Self {
        let key = name_key(&plan.name);
        Self {
            plan,
            is_checked: upstream.check.is_some(),
            idle_connections_max: upstream.idle_connections_max,
            key,
            state,
        }
    }

    /// The same through reloads, another for each server that there is.
    #[cfg(test)]
    pub(super) fn id(&self) -> usize {
        Arc::as_ptr(&self.state) as usize
    }

    pub(crate) fn name(&self) -> &str {
        &self.plan.name
    }

    pub(crate) fn upstream_name(&self) -> &str {
        &self.state.upstream
    }

    pub(crate) fn target(&self) -> &Target {
        &self.plan.target
    }

    pub(crate) fn plan(&self) -> &ServerPlan {
        &self.plan
    }

    /// Of one name; the first that answers serves. At least one.
    pub(crate) fn addrs(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&lock(&self.state.addrs))
    }

    /// Whether they are others than before. Another order is not: resolvers turn their answers.
    pub(super) fn set_addrs(&self, addrs: Vec<SocketAddr>) -> bool {
        let mut current = lock(&self.state.addrs);
        let sorted = |addrs: &[SocketAddr]| {
            let mut sorted = addrs.to_vec();
            sorted.sort_unstable();
            sorted
        };
        let changed = !addrs.is_empty() && sorted(&current) != sorted(&addrs);
        if changed {
            *current = addrs.into();
        }
        changed
    }

    pub(super) fn is_checked(&self) -> bool {
        self.is_checked
    }

    pub(crate) fn is_up(&self) -> bool {
        !self.is_checked || self.state.health.is_up()
    }

    pub(crate) fn admin(&self) -> Admin {
        self.state.admin()
    }

    /// The administrator's word, effective at once; a server that is enabled again takes those who wait.
    pub(crate) fn set_admin(&self, admin: Admin) {
        let before = self.state.admin.swap(admin as u8, Ordering::SeqCst);
        if before != admin as u8 {
            let (upstream, server) = (self.upstream_name(), self.name());
            tracing::info!(upstream, server, ?admin, "server set");
        }
        self.note_drained();
        self.changed();
    }

    /// Tells that the last session has ended, once. Whoever drains does so before it looks at the sessions,
    /// whoever ends a session before it looks at the drain: one of them sees both.
    fn note_drained(&self) {
        let (draining, drained) = (Admin::Draining as u8, Admin::Drained as u8);
        if self.state.sessions.load(Ordering::SeqCst) == 0
            && self
                .state
                .admin
                .compare_exchange(draining, drained, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        {
            let (upstream, server) = (self.upstream_name(), self.name());
            tracing::info!(upstream, server, "server drained");
        }
    }

    /// Some who wait may now be served, or have nothing to wait for.
    pub(super) fn changed(&self) {
        self.state.queue.serve(Change::Servers);
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    pub(super) fn number(&self) -> usize {
        self.state.number
    }

    pub(crate) fn sessions(&self) -> u64 {
        self.state.sessions.load(Ordering::SeqCst)
    }

    /// Sessions so far, running ones included.
    pub(crate) fn total(&self) -> u64 {
        self.state.total.load(Ordering::Relaxed)
    }

    /// Connects that failed, and datagrams that were refused.
    pub(crate) fn failures(&self) -> u64 {
        self.state.failures.load(Ordering::Relaxed)
    }

    /// Carried to the server, and from it, by sessions that have ended.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.state.bytes_up.load(Ordering::Relaxed), self.state.bytes_down.load(Ordering::Relaxed))
    }

    pub(crate) fn carried(&self, up: u64, down: u64) {
        self.state.bytes_up.fetch_add(up, Ordering::Relaxed);
        self.state.bytes_down.fetch_add(down, Ordering::Relaxed);
    }

    /// A connect to all its addresses has failed, or it has refused a datagram.
    pub(crate) fn connect_failed(&self) {
        self.state.failures.fetch_add(1, Ordering::Relaxed);
        let now = u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.state.failed.store(now + 1, Ordering::Relaxed);
    }

    pub(crate) fn connected(&self) {
        // Looked at first: all workers read it for each session.
        if self.state.failed.load(Ordering::Relaxed) != 0 {
            self.state.failed.store(0, Ordering::Relaxed);
        }
    }

    fn has_just_failed(&self) -> bool {
        match self.state.failed.load(Ordering::Relaxed) {
            0 => false,
            when => BEGAN.elapsed() < Duration::from_millis(when - 1) + FAILED_PAUSE,
        }
    }

    fn is_full(&self) -> bool {
        self.plan.max_connections.is_some_and(|max| self.sessions() >= max)
    }

    /// What it is to a session now; None for nothing.
    pub(super) fn standing(&self, tried: &Tried) -> Option<Standing> {
        if tried.has(self.number()) || !self.is_up() || self.admin() != Admin::Enabled {
            return None;
        }
        let readiness = if self.is_full() {
            Readiness::Full
        } else if self.has_just_failed() {
            Readiness::Shaky
        } else {
            Readiness::Ready
        };
        Some(Standing { is_backup: self.plan.is_backup, readiness })
    }

    pub(super) fn candidate(&self, index: usize, is_eligible: bool) -> Candidate {
        Candidate {
            is_eligible,
            index,
            weight: self.plan.weight,
            sessions: self.sessions(),
            chosen: self.state.chosen.load(Ordering::Relaxed),
            key: self.key,
        }
    }

    /// Counts a session, in its upstream's `turn`; None where there is no room any more.
    pub(super) fn count_in(self: &Arc<Self>, turn: u64, spare: &mut Spare) -> Option<Place> {
        let max = self.plan.max_connections.unwrap_or(u64::MAX);
        let more = |sessions| (sessions < max).then(|| sessions + 1);
        self.state.sessions.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        let place = Place::counted(Arc::clone(self));
        // Counted before it is asked again: a drain that has not seen this session is seen here.
        if self.admin() != Admin::Enabled {
            spare.push(place);
            return None;
        }
        self.state.total.fetch_add(1, Ordering::Relaxed);
        self.state.chosen.store(turn, Ordering::Relaxed);
        Some(place)
    }

    /// A session has ended.
    pub(super) fn count_out(&self) {
        if self.state.sessions.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.note_drained();
        }
        self.state.queue.serve(Change::Room);
    }
}

#[cfg(test)]
impl Server {
    /// Half of what ends a session: it is counted out, and those who wait have not been looked at.
    pub(super) fn free_unserved(&self) {
        self.state.sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a server is to a session, better ones first: a full one that is no backup is waited for
/// before a backup is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    pub(super) is_backup: bool,
    pub(super) readiness: Readiness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Readiness {
    Ready,
    /// Its last connect failed a moment ago.
    Shaky,
    Full,
}
