//! The atomics of everything that two processes share, so that others can be put in their
//! place: the model checker's (`RUSTFLAGS="--cfg loom"`), and in this crate's own tests the
//! simulator's, which lets others run between any two accesses.

#[cfg(all(test, not(loom)))]
pub use crate::sim::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::Ordering;
#[cfg(not(any(loom, test)))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, fence};
