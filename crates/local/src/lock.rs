//! A lock that threads and forked relatives share, and that nobody takes with him to the grave:
//! its word is the holder's thread id, so a waiter can ask whether the holder still lives.
//!
//! It is held for the length of a copy or of one non-blocking system call, never while
//! somebody sleeps; so a waiter spins, then yields.

use crate::sync::{AtomicU32, Ordering};

/// Free when zero, otherwise the thread id of the holder.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Lock(AtomicU32);

/// What a waiter needs of its surroundings.
pub trait Threads {
    /// This thread's id; never zero.
    fn own(&self) -> u32;
    /// Lets others run.
    fn yield_now(&self);
    /// Lets others run for longer: there is nothing to be had for a while.
    fn nap(&self) {
        self.yield_now();
    }
    /// Whether the thread exists.
    fn lives(&self, id: u32) -> bool;
}

/// The lock is held as long as this lives.
#[derive(Debug)]
#[must_use]
pub struct Held<'a> {
    lock: &'a Lock,
    /// The holder before had died with it.
    pub is_stolen: bool,
}

/// The lock is held by the very thread that asks: a signal handler has interrupted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reentered;

/// A model checker tries every order of few steps.
const SPINS: u32 = if cfg!(loom) { 1 } else { 200 };
/// Yields between two questions whether the holder lives.
const PATIENCE: u32 = if cfg!(loom) { 2 } else { 64 };

impl Lock {
    /// A free lock.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Takes it, and waits if need be.
    #[inline]
    pub fn take(&self, threads: &impl Threads) -> Result<Held<'_>, Reentered> {
        let own = threads.own();
        if self.0.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Ok(Held { lock: self, is_stolen: false });
        }
        self.wait(own, threads)
    }

    #[cold]
    fn wait(&self, own: u32, threads: &impl Threads) -> Result<Held<'_>, Reentered> {
        for round in 1u32.. {
            match self.0.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Ok(Held { lock: self, is_stolen: false }),
                Err(holder) if holder == own => return Err(Reentered),
                Err(holder) if round % PATIENCE == 0 && !threads.lives(holder) => {
                    // What he left half done is for the one who takes it to mend.
                    if self
                        .0
                        .compare_exchange(holder, own, Ordering::Acquire, Ordering::Relaxed)
                        .is_ok()
                    {
                        return Ok(Held { lock: self, is_stolen: true });
                    }
                }
                Err(_) if round < SPINS => spin(),
                Err(_) => threads.yield_now(),
            }
        }
        unreachable!("the loop has no end")
    }

    /// Makes it free, whoever had it: for a record that nobody uses.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

fn spin() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        self.lock.0.store(0, Ordering::Release);
    }
}
