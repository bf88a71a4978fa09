//! The idle limit as a pure value: movement re-arms it, a check compares it.

use std::time::{Duration, Instant};

/// Counts from the last movement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdleClock {
    limit: Option<Duration>,
    since: Instant,
}

impl IdleClock {
    pub(crate) fn new(limit: Option<Duration>, now: Instant) -> Self {
        Self { limit, since: now }
    }

    /// Bytes moved at `now`.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.since = now;
    }

    /// When the limit is reached if nothing moves before; none without a limit
    /// or where the limit lies beyond what the clock can say.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.limit.and_then(|limit| self.since.checked_add(limit))
    }

    pub(crate) fn due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }
}
