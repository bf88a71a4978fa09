//! How many sessions at a time: of a relay, or of all of them.
//!
//! A fair semaphore whose size a reload may change, so that those who wait are let in as soon as
//! there is room by the new number, in the order in which they came. Made smaller it sends nobody
//! away: who leaves makes no room until there are few enough.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound on sessions.
#[derive(Debug)]
pub(crate) struct Gate {
    places: Arc<Semaphore>,
    size: Mutex<Size>,
}

#[derive(Debug)]
struct Size {
    max: usize,
    /// How many must leave before a place that is given back is one again.
    excess: usize,
}

impl Gate {
    /// For so many; None for any number.
    pub(crate) fn new(max: Option<u64>) -> Arc<Self> {
        let max = places(max);
        let size = Mutex::new(Size { max, excess: 0 });
        Arc::new(Self { places: Arc::new(Semaphore::new(max)), size })
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on for so many.
    pub(crate) fn resize(&self, max: Option<u64>) {
        let mut size = self.size();
        let before = std::mem::replace(&mut size.max, places(max));
        if let Some(fewer) = before.checked_sub(size.max) {
            size.excess += fewer - self.places.forget_permits(fewer);
        } else {
            let more = size.max - before;
            let owed = more.min(size.excess);
            size.excess -= owed;
            self.places.add_permits(more - owed);
        }
    }

    /// Waits for a place, in turn.
    pub(crate) async fn enter(gate: &Arc<Self>) -> Inside {
        // Never closed, so that there is always a permit in the end.
        let permit = Arc::clone(&gate.places).acquire_owned().await.ok();
        Inside { gate: Arc::clone(gate), permit }
    }
}

fn places(max: Option<u64>) -> usize {
    let max = max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    max.min(Semaphore::MAX_PERMITS)
}

/// A session's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Inside {
    gate: Arc<Gate>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut size = self.gate.size();
        match size.excess.checked_sub(1) {
            Some(left) => {
                size.excess = left;
                permit.forget();
            }
            // Inside the lock: no resize must come in between.
            None => drop(permit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::{JoinHandle, yield_now};

    fn waiter(gate: &Arc<Gate>) -> JoinHandle<Inside> {
        let gate = Arc::clone(gate);
        tokio::spawn(async move { Gate::enter(&gate).await })
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_waits_at_the_gate_goes_in_when_one_leaves() {
        let gate = Gate::new(Some(1));
        let first = Gate::enter(&gate).await;
        let (second, third) = (waiter(&gate), waiter(&gate));
        yield_now().await;
        assert!(!second.is_finished() && !third.is_finished());
        drop(first);
        let second = second.await.expect("in");
        yield_now().await;
        assert!(!third.is_finished());
        drop(second);
        drop(third.await.expect("in"));
        assert_eq!(gate.places.available_permits(), 1);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_wider_gate_lets_those_in_who_wait() {
        let gate = Gate::new(Some(1));
        let _first = Gate::enter(&gate).await;
        let (second, third) = (waiter(&gate), waiter(&gate));
        gate.resize(Some(2));
        let _second = second.await.expect("in");
        yield_now().await;
        assert!(!third.is_finished());
        gate.resize(None);
        drop(third.await.expect("in"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_narrower_gate_waits_until_there_are_few_enough() {
        let gate = Gate::new(Some(3));
        let mut inside = Vec::new();
        for _ in 0..3 {
            inside.push(Gate::enter(&gate).await);
        }
        gate.resize(Some(1));
        let waiting = waiter(&gate);
        inside.pop();
        inside.pop();
        yield_now().await;
        assert!(!waiting.is_finished(), "one is inside, and one is the limit");
        // Wider again while too many are inside: only what is over is made up for.
        gate.resize(Some(2));
        let second = waiting.await.expect("in");
        drop((inside, second));
        assert_eq!(gate.places.available_permits(), 2);
    }
}
