//! Whether a wait is to spin: what was of use lately.
//!
//! A wait that was over soon, awake or asleep, says that the next one may be; long ones say that
//! somebody idles, who should not burn a processor.

use crate::sync::{AtomicU32, Ordering};

/// All zero is the beginning: it spins.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Patience(AtomicU32);

/// A peer that runs has answered by then. One that has not may be waiting for this very processor, so who
/// spins longer gives it away between two looks.
pub const ALONE_NS: u64 = 5_000;

/// Long waits in a row after which it does not.
const LONG_WAITS: u32 = 4;
/// A wait of fewer times the limit was over soon.
const SOON: u64 = 4;

impl Patience {
    /// The beginning.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Whether to spin.
    pub fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed) < LONG_WAITS
    }

    /// A wait in the kernel has ended that took so long, behind a spin of up to `limit_ns`.
    pub fn waited(&self, ns: u64, limit_ns: u64) {
        let long = self.0.load(Ordering::Relaxed);
        let now = if ns < limit_ns.saturating_mul(SOON) { 0 } else { (long + 1).min(LONG_WAITS) };
        if now != long {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    /// The beginning again.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn idle_ends_stop_spinning_and_busy_ones_begin_again() {
        let patience = Patience::new();
        for _ in 0..LONG_WAITS {
            assert!(patience.is_there());
            patience.waited(1_000_000, 50_000);
        }
        assert!(!patience.is_there());
        patience.waited(100_000, 50_000);
        assert!(patience.is_there());
    }
}
