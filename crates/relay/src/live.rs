//! Running sessions of streams, for whoever asks about them or wants one gone. A session's counts are
//! written by its worker alone; the table of a worker is locked when a session begins or ends,
//! and when somebody asks.

use sosplice::Carried;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};
use std::time::Instant;

use crate::graph::Relay;

/// One session.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: u64,
    pub(crate) relay: Arc<Relay>,
    pub(crate) began: Instant,
    /// Who the client is, by its own address or a PROXY header.
    client: Mutex<SocketAddr>,
    /// The server that it is joined to, if it is.
    upstream: Mutex<Option<SocketAddr>>,
    up: LiveCarried,
    down: LiveCarried,
    killed: AtomicBool,
    task: OnceLock<Waker>,
}

#[derive(Debug, Default)]
struct LiveCarried {
    copy: AtomicU64,
    pipe: AtomicU64,
}

impl LiveCarried {
    fn store(&self, carried: Carried) -> Carried {
        // One thread writes, so nothing comes between.
        let before = self.load();
        self.copy.store(carried.copy, Ordering::Relaxed);
        self.pipe.store(carried.pipe, Ordering::Relaxed);
        Carried {
            copy: carried.copy.saturating_sub(before.copy),
            pipe: carried.pipe.saturating_sub(before.pipe),
            ..Carried::default()
        }
    }

    fn load(&self) -> Carried {
        let (copy, pipe) = (self.copy.load(Ordering::Relaxed), self.pipe.load(Ordering::Relaxed));
        Carried { copy, pipe, ..Carried::default() }
    }
}

impl Live {
    fn new(id: u64, relay: Arc<Relay>, client: SocketAddr) -> Self {
        Self {
            id,
            relay,
            began: Instant::now(),
            client: Mutex::new(client),
            upstream: Mutex::new(None),
            up: LiveCarried::default(),
            down: LiveCarried::default(),
            killed: AtomicBool::new(false),
            task: OnceLock::new(),
        }
    }

    pub(crate) fn client(&self) -> SocketAddr {
        *lock(&self.client)
    }

    /// A PROXY header has told who it is.
    pub(crate) fn set_client(&self, client: SocketAddr) {
        *lock(&self.client) = client;
    }

    pub(crate) fn upstream(&self) -> Option<SocketAddr> {
        *lock(&self.upstream)
    }

    pub(crate) fn set_upstream(&self, upstream: Option<SocketAddr>) {
        *lock(&self.upstream) = upstream;
    }

    /// What the session has carried so far. Answers what is new of it.
    pub(crate) fn store(&self, (up, down): (Carried, Carried)) -> (Carried, Carried) {
        (self.up.store(up), self.down.store(down))
    }

    /// What the session has carried beside what it had.
    pub(crate) fn add(&self, (mut up, mut down): (Carried, Carried)) {
        up += self.up.load();
        down += self.down.load();
        self.store((up, down));
    }

    pub(crate) fn load(&self) -> (Carried, Carried) {
        (self.up.load(), self.down.load())
    }

    /// Ends the session at its next turn, which is now.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Whether the session that is polled is to end. A task has one waker for its whole life, so
    /// it is kept at the first poll and asked for no more.
    pub(crate) fn poll_killed(&self, cx: &Context<'_>) -> bool {
        self.task.get_or_init(|| cx.waker().clone());
        self.is_killed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running sessions of one worker.
#[derive(Debug)]
pub(crate) struct Sessions {
    table: Mutex<HashMap<u64, Arc<Live>>>,
    numbers: Numbers,
}

/// Where sessions have their numbers from. Those of one source leave out those of the others.
#[derive(Debug)]
pub(crate) struct Numbers {
    next: AtomicU64,
    step: u64,
}

impl Numbers {
    /// Source `number` of `sources`.
    fn new(number: usize, sources: usize) -> Self {
        Self { next: AtomicU64::new(number as u64 + 1), step: sources.max(1) as u64 }
    }

    /// One for each of `workers`, and one for the sessions of datagrams, which have workers of their
    /// own that come and go.
    pub(crate) fn sources(workers: usize) -> (Vec<Self>, Self) {
        let all = (0..workers).map(|number| Self::new(number, workers + 1)).collect();
        (all, Self::new(workers, workers + 1))
    }

    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(self.step, Ordering::Relaxed)
    }
}

impl Sessions {
    /// Of one worker.
    pub(crate) fn new(numbers: Numbers) -> Self {
        Self { table: Mutex::default(), numbers }
    }

    /// Enters a session; it leaves when the entry is dropped.
    pub(crate) fn enter(self: &Arc<Self>, relay: Arc<Relay>, client: SocketAddr) -> Entered {
        let id = self.numbers.next();
        let live = Arc::new(Live::new(id, relay, client));
        lock(&self.table).insert(id, Arc::clone(&live));
        Entered { sessions: Arc::clone(self), live }
    }

    pub(crate) fn find(&self, id: u64) -> Option<Arc<Live>> {
        lock(&self.table).get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        lock(&self.table).values().cloned().collect()
    }
}

/// A session's place among the running ones.
#[derive(Debug)]
pub(crate) struct Entered {
    sessions: Arc<Sessions>,
    pub(crate) live: Arc<Live>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        lock(&self.sessions.table).remove(&self.live.id);
    }
}

/// Running sessions by the address that the built-in origin sees as its peer.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<HashMap<SocketAddr, Arc<Live>>>);

impl Registry {
    /// Enters a session; it leaves when the entry is dropped.
    pub(crate) fn enter(self: &Arc<Self>, relay_end: SocketAddr, live: &Arc<Live>) -> Entry {
        lock(&self.0).insert(relay_end, Arc::clone(live));
        Entry { registry: Arc::clone(self), relay_end }
    }

    pub(crate) fn find(&self, relay_end: SocketAddr) -> Option<Arc<Live>> {
        lock(&self.0).get(&relay_end).cloned()
    }
}

/// A session's place in the registry.
#[derive(Debug)]
pub(crate) struct Entry {
    registry: Arc<Registry>,
    relay_end: SocketAddr,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.registry.0).remove(&self.relay_end);
    }
}
