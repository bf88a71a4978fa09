//! A session's place at a server, what it has tried before, and why it may get none.

use super::server::Server;
use std::fmt;
use std::sync::Arc;

/// A session's place at a server: counted while it lives. Dropped, it is the next waiter's.
pub(crate) struct Place(Arc<Server>);

impl Place {
    /// For a session that the server has counted ([`Server::count_in`]).
    pub(super) fn counted(server: Arc<Server>) -> Self {
        Self(server)
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.0
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.0.name()).finish()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count_out();
    }
}

/// The servers of an upstream that a session has tried. Without allocation for the first 64.
///
/// By the number that a server keeps through reloads, so a session may go on trying across one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tried {
    first: u64,
    others: Vec<u64>,
}

impl Tried {
    pub(super) fn insert(&mut self, number: usize) {
        let bit = 1 << (number % 64);
        let Some(word) = (number / 64).checked_sub(1) else {
            self.first |= bit;
            return;
        };
        if self.others.len() <= word {
            self.others.resize(word + 1, 0);
        }
        self.others[word] |= bit;
    }

    pub(super) fn has(&self, number: usize) -> bool {
        let word = match (number / 64).checked_sub(1) {
            None => self.first,
            Some(word) => self.others.get(word).copied().unwrap_or(0),
        };
        word & (1 << (number % 64)) != 0
    }

    #[cfg(test)]
    pub(super) fn others_capacity(&self) -> usize {
        self.others.capacity()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first == 0 && self.others.is_empty()
    }
}

/// Why a session gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// All that are to be had were tried.
    #[error("every server was tried")]
    Exhausted,
    /// All are down or taken out of service.
    #[error("every server is down or disabled")]
    Down,
    /// All have as many sessions as they may, and no more may wait.
    #[error("every server is full, and so is the queue")]
    QueueFull,
    /// All had as many sessions as they may, for too long.
    #[error("every server was full for the whole queue timeout")]
    QueueTimeout,
}
