//! What running sessions have carried so far, for whoever asks about one of them.

use sosplice::Carried;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The counts of one session: written by its worker alone, read by anybody.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) client: SocketAddr,
    up: LiveCarried,
    down: LiveCarried,
}

#[derive(Debug, Default)]
struct LiveCarried {
    copy: AtomicU64,
    pipe: AtomicU64,
}

impl LiveCarried {
    fn store(&self, carried: Carried) {
        self.copy.store(carried.copy, Ordering::Relaxed);
        self.pipe.store(carried.pipe, Ordering::Relaxed);
    }

    fn load(&self) -> Carried {
        let (copy, pipe) = (self.copy.load(Ordering::Relaxed), self.pipe.load(Ordering::Relaxed));
        Carried { copy, pipe, ..Carried::default() }
    }
}

impl Live {
    pub(crate) fn store(&self, (up, down): (Carried, Carried)) {
        self.up.store(up);
        self.down.store(down);
    }

    pub(crate) fn load(&self) -> (Carried, Carried) {
        (self.up.load(), self.down.load())
    }
}

/// Running sessions by the address that the upstream sees as its peer.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<HashMap<SocketAddr, Arc<Live>>>);

impl Registry {
    fn sessions(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Live>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a session; it leaves when the entry is dropped.
    pub(crate) fn enter(self: &Arc<Self>, relay_end: SocketAddr, client: SocketAddr) -> Entry {
        let live =
            Arc::new(Live { client, up: LiveCarried::default(), down: LiveCarried::default() });
        self.sessions().insert(relay_end, Arc::clone(&live));
        Entry { registry: Arc::clone(self), relay_end, live }
    }

    pub(crate) fn find(&self, relay_end: SocketAddr) -> Option<Arc<Live>> {
        self.sessions().get(&relay_end).cloned()
    }
}

/// A session's place in the registry.
#[derive(Debug)]
pub(crate) struct Entry {
    registry: Arc<Registry>,
    relay_end: SocketAddr,
    pub(crate) live: Arc<Live>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.sessions().remove(&self.relay_end);
    }
}
