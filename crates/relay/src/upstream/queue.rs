//! Sessions that wait because all servers have as many sessions as they may.
//!
//! One queue an upstream, for all workers, first come, first served. A place goes from the session
//! that gives it up, on whatever thread, straight to the waiter: whoever has changed something calls
//! [`Queue::serve`], which gives out what is to be had. So there is no moment at which a waiter is
//! woken and finds its place taken by one that came later.
//!
//! No wake-up is lost: a session that finds every server full announces itself (`waiting`) before it
//! looks again, and whoever frees a place does so before it looks at `waiting`; one of them sees the other.
//! Both are sequentially consistent for that.
//!
//! A reload keeps the queue: who waits is then served by the upstream as it is now.

use super::Upstream;
use super::place::{NoPlace, Place, Tried};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::oneshot;

/// The sessions that wait for a place at an upstream.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// As many as `waiters`, or one more while one enters.
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The upstream as the last reload has made it.
    latest: Weak<Upstream>,
    /// By ticket: in the order in which they came.
    waiters: BTreeMap<u64, Waiter>,
    tickets: u64,
}

#[derive(Debug)]
struct Waiter {
    client: IpAddr,
    tried: Tried,
    /// Kept, so that there is an upstream to ask as long as somebody waits.
    upstream: Arc<Upstream>,
    tell: oneshot::Sender<Result<Place, NoPlace>>,
}

/// What one look at the servers came to.
#[derive(Debug)]
pub(super) enum Choice {
    Place(Place),
    /// Worth waiting for.
    Full,
    /// Nothing to wait for.
    None(NoPlace),
}

/// What has changed, so how far the queue is looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// There may be a place more.
    Room,
    /// Servers have come or gone: some may have nothing to wait for.
    Servers,
}

/// Places that turned out not to be given. Dropping one serves the queue, so it is put off until
/// the queue is not locked.
pub(super) type Spare = Vec<Place>;

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(super) fn latest(&self) -> Option<Arc<Upstream>> {
        self.state().latest.upgrade()
    }

    /// The first upstream; one that follows must take over.
    pub(super) fn begin(&self, upstream: &Arc<Upstream>) {
        let mut state = self.state();
        if state.latest.strong_count() == 0 {
            state.latest = Arc::downgrade(upstream);
        }
    }

    /// From now on this is the upstream that the waiters are served by.
    pub(super) fn set_latest(&self, upstream: &Arc<Upstream>) {
        self.state().latest = Arc::downgrade(upstream);
    }

    /// Gives out what is to be had.
    pub(super) fn serve(&self, change: Change) {
        if self.waiting() == 0 {
            return;
        }
        let mut spare = Spare::new();
        self.state().serve(change, &mut spare, &self.waiting);
        drop(spare);
    }

    /// Waits for a place.
    pub(super) async fn wait(
        &self,
        upstream: &Arc<Upstream>,
        client: IpAddr,
        tried: &Tried,
    ) -> Result<Place, NoPlace> {
        let (tell, told) = oneshot::channel();
        let waiter = Waiter { client, tried: tried.clone(), upstream: Arc::clone(upstream), tell };
        let ticket = match self.enter(waiter) {
            Entered::Served(result) => return result,
            Entered::Waits(ticket) => ticket,
        };
        // Leaves in any case, also when the session goes away and this future with it. A place that
        // it was told of meanwhile is dropped with `told`, and serves the next.
        let _leave = Leave { queue: self, ticket };
        tracing::debug!(upstream = upstream.name(), %client, "waiting for a place");
        match tokio::time::timeout(upstream.plan().queue_timeout, told).await {
            Ok(Ok(result)) => result,
            // Nobody drops a waiter without telling it.
            Ok(Err(_)) => Err(NoPlace::Down),
            Err(_) => Err(NoPlace::QueueTimeout),
        }
    }

    fn enter(&self, waiter: Waiter) -> Entered {
        let mut spare = Spare::new();
        let look = |waiter: &Waiter, spare: &mut Spare| {
            waiter.upstream.choose(waiter.client, &waiter.tried, spare)
        };
        let entered = self.state().enter(waiter, look, &mut spare, &self.waiting);
        drop(spare);
        entered
    }
}

enum Entered {
    Served(Result<Place, NoPlace>),
    Waits(u64),
}

impl State {
    fn enter(
        &mut self,
        waiter: Waiter,
        look: impl FnOnce(&Waiter, &mut Spare) -> Choice,
        spare: &mut Spare,
        waiting: &AtomicUsize,
    ) -> Entered {
        // First those who came before: what is free now may have been freed for them.
        self.serve(Change::Room, spare, waiting);
        // Announced before the look: a place that is freed behind it is given out by whoever frees it.
        waiting.store(self.waiters.len() + 1, Ordering::SeqCst);
        let served = match look(&waiter, spare) {
            Choice::Place(place) => Some(Ok(place)),
            Choice::None(why) => Some(Err(why)),
            Choice::Full if self.waiters.len() >= waiter.upstream.plan().queue_max => {
                Some(Err(NoPlace::QueueFull))
            }
            Choice::Full => None,
        };
        let entered = match served {
            Some(result) => Entered::Served(result),
            None => {
                self.tickets += 1;
                self.waiters.insert(self.tickets, waiter);
                Entered::Waits(self.tickets)
            }
        };
        waiting.store(self.waiters.len(), Ordering::SeqCst);
        entered
    }

    fn serve(&mut self, change: Change, spare: &mut Spare, waiting: &AtomicUsize) {
        let latest = self.latest.upgrade();
        let mut at = 0;
        while let Some((&ticket, waiter)) = self.waiters.range(at..).next() {
            at = ticket + 1;
            let upstream = latest.as_ref().unwrap_or(&waiter.upstream);
            let result = match upstream.choose(waiter.client, &waiter.tried, spare) {
                Choice::Place(place) => Ok(place),
                Choice::None(why) => Err(why),
                // What is full for one that has tried nothing is full for all behind it.
                Choice::Full if waiter.tried.is_empty() && change == Change::Room => break,
                Choice::Full => continue,
            };
            if let Some(waiter) = self.waiters.remove(&ticket)
                && let Err(Ok(place)) = waiter.tell.send(result)
            {
                // It went away in this moment. Its place serves the queue again.
                spare.push(place);
            }
        }
        waiting.store(self.waiters.len(), Ordering::SeqCst);
    }
}

/// A waiter's presence in the queue.
struct Leave<'q> {
    queue: &'q Queue,
    ticket: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        let left = state.waiters.remove(&self.ticket);
        self.queue.waiting.store(state.waiters.len(), Ordering::SeqCst);
        drop(state);
        // Outside the lock: it may be the last that holds its upstream.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    //! What only happens between two steps of two threads, one after the other.

    use super::super::tests::{CLIENT, limited, plan, polled, upstream};
    use super::*;

    fn waiter(upstream: &Arc<Upstream>) -> (Waiter, oneshot::Receiver<Result<Place, NoPlace>>) {
        let (tell, told) = oneshot::channel();
        let (tried, upstream) = (Tried::default(), Arc::clone(upstream));
        (Waiter { client: CLIENT, tried, upstream, tell }, told)
    }

    #[track_caller]
    fn waits(upstream: &Arc<Upstream>, waiter: Waiter) {
        assert!(matches!(upstream.queue.enter(waiter), Entered::Waits(_)));
    }

    #[test]
    fn a_place_for_one_that_has_just_gone_is_the_next_ones() {
        let upstream = upstream(plan(&[limited("a", 1)]));
        let place = upstream.pick(CLIENT, &mut Tried::default());
        let [(first, gone), (second, mut told)] = [waiter(&upstream), waiter(&upstream)];
        waits(&upstream, first);
        waits(&upstream, second);
        // It has not left the queue yet.
        drop(gone);
        drop(place);
        assert!(matches!(told.try_recv(), Ok(Ok(_))));
        assert_eq!(upstream.servers()[0].sessions(), 0);
        assert_eq!(upstream.queued(), 0);
    }

    /// Otherwise a place that is freed right behind the look stays free while it waits.
    #[test]
    fn a_waiter_is_announced_before_it_looks() {
        let upstream = upstream(plan(&[limited("a", 1)]));
        let queue = &upstream.queue;
        let (first, _told) = waiter(&upstream);
        let mut seen = 0;
        let look = |_: &Waiter, _: &mut Spare| {
            seen = queue.waiting();
            Choice::Full
        };
        let entered = queue.state().enter(first, look, &mut Spare::new(), &queue.waiting);
        assert!(matches!(entered, Entered::Waits(_)));
        assert_eq!((seen, queue.waiting()), (1, 1));
    }

    #[test]
    fn a_place_that_is_free_and_not_given_out_yet_is_the_first_waiters() {
        let upstream = upstream(plan(&[limited("a", 1)]));
        let place = upstream.pick(CLIENT, &mut Tried::default());
        let [(first, mut told), (second, _told)] = [waiter(&upstream), waiter(&upstream)];
        waits(&upstream, first);
        upstream.servers()[0].free_unserved();
        waits(&upstream, second);
        assert!(matches!(told.try_recv(), Ok(Ok(_))));
        // Its session has been taken out already.
        std::mem::forget(place);
    }

    #[tokio::test]
    async fn a_place_that_is_free_and_not_given_out_yet_is_not_a_newcomers() {
        let upstream = upstream(plan(&[limited("a", 1)]));
        let place = upstream.pick(CLIENT, &mut Tried::default());
        let (first, mut told) = waiter(&upstream);
        waits(&upstream, first);
        upstream.servers()[0].free_unserved();
        let mut tried = Tried::default();
        let mut newcomer = Box::pin(upstream.place(CLIENT, &mut tried));
        assert!(polled(&mut newcomer).is_pending());
        assert!(matches!(told.try_recv(), Ok(Ok(_))));
        std::mem::forget(place);
    }
}
