//! Whether a server is well.

use std::sync::atomic::{AtomicBool, Ordering};

/// What is known of a server's health.
#[derive(Debug)]
pub(super) struct Health {
    up: AtomicBool,
}

impl Health {
    /// A server begins up.
    pub(super) fn new() -> Self {
        Self { up: AtomicBool::new(true) }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }
}
