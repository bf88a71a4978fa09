//! The workers as each of them sees the others: how many sessions each has, and the way to hand a
//! client over.
//!
//! The kernel gives a connection to a worker by a hash of its addresses, so of 64 one worker has 40
//! now and then. Its clients then wait while those of the others are served: with 30 to 34 the slowest of ten
//! requests took twice the median, with 20 to 44 three times. So a client is handed to
//! another worker before anything is done for it, if that one has clearly fewer. Once it is served
//! nothing is shared.

use crate::session::Accepted;
use crate::worker::{Deployment, Permits};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Notify, mpsc};

/// What a worker is told.
pub(crate) enum Order {
    Deploy(Deployment),
    Serve(Handed),
}

/// A client that another worker has accepted.
pub(crate) struct Handed {
    pub(crate) client: Accepted,
    pub(crate) permits: Permits,
    pub(crate) present: Present,
}

/// All workers, by number.
#[derive(Debug)]
pub(crate) struct Crew(Box<[Desk]>);

/// Where a worker is reached.
#[derive(Debug)]
struct Desk {
    load: Arc<Load>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Crew {
    /// So many workers, and what each of them gets its orders from.
    pub(crate) fn new(workers: usize) -> (Arc<Self>, Vec<mpsc::UnboundedReceiver<Order>>) {
        let desk = |_| {
            let (orders, receiver) = mpsc::unbounded_channel();
            (Desk { load: Arc::default(), orders }, receiver)
        };
        let (desks, receivers): (Vec<_>, _) = (0..workers).map(desk).unzip();
        (Arc::new(Self(desks.into())), receivers)
    }

    /// The sessions of worker `number`.
    pub(crate) fn load(&self, number: usize) -> &Arc<Load> {
        &self.0[number].load
    }

    /// To each worker, what it is to serve.
    pub(crate) fn deploy(&self, mut deployment: impl FnMut() -> Deployment) {
        for desk in &self.0 {
            // A worker that has failed has said so.
            let _ = desk.orders.send(Order::Deploy(deployment()));
        }
    }

    /// A worker that should have the next client in place of worker `number`, if there is one. Two
    /// are compared, this one and any other: one look at a word of another processor for each client,
    /// however many there are.
    pub(crate) fn relief(&self, number: usize) -> Option<usize> {
        let others = self.0.len().checked_sub(1).filter(|others| *others > 0)?;
        let distance = if others == 1 { 1 } else { fastrand::usize(1..=others) };
        let other = (number + distance) % self.0.len();
        let (own, its) = (self.0[number].load.sessions(), self.0[other].load.sessions());
        has_clearly_fewer(its, own).then_some(other)
    }

    /// Hands a client to worker `to`.
    ///
    /// # Errors
    /// The client, of a worker that takes no more.
    pub(crate) fn hand(&self, to: usize, handed: Handed) -> Result<(), Box<Handed>> {
        match self.0[to].orders.send(Order::Serve(handed)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendError(Order::Serve(handed))) => Err(Box::new(handed)),
            // It was sent nothing else.
            Err(mpsc::error::SendError(Order::Deploy(_))) => Ok(()),
        }
    }
}

/// Whether a client is better off with `its` sessions than with `own`: to hand it over costs a call
/// and perhaps a wake-up, so short sessions are not to wander for every difference.
fn has_clearly_fewer(its: usize, own: usize) -> bool {
    own > its + 1 + its / 16
}

/// The sessions of one worker, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Load {
    sessions: AtomicUsize,
    /// The last session has ended.
    empty: Notify,
}

impl Load {
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Done once there is none.
    pub(crate) async fn empty(&self) {
        // The permit of a notification that came first is kept by Notify.
        while self.sessions() > 0 {
            self.empty.notified().await;
        }
    }
}

/// A session's presence on its worker, from the time on at which it is that one's to serve.
#[derive(Debug)]
pub(crate) struct Present(Arc<Load>);

impl Present {
    pub(crate) fn new(load: &Arc<Load>) -> Self {
        load.sessions.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if self.0.sessions.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.empty.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crew(sessions: &[usize]) -> (Arc<Crew>, Vec<Present>) {
        let (crew, _) = Crew::new(sessions.len());
        let present = sessions.iter().enumerate();
        let present = present.flat_map(|(number, count)| {
            let load = crew.load(number);
            (0..*count).map(|_| Present::new(load))
        });
        let present = present.collect();
        (crew, present)
    }

    #[test]
    fn a_worker_with_clearly_more_is_relieved_by_one_with_fewer() {
        let (crew, _present) = crew(&[34, 30]);
        assert_eq!((crew.relief(0), crew.relief(1)), (Some(1), None));
    }

    #[test]
    fn clients_do_not_wander_between_workers_that_are_alike() {
        for sessions in [[0, 0], [1, 0], [18, 16], [32, 30], [100, 94]] {
            let (crew, _present) = crew(&sessions);
            assert_eq!((crew.relief(0), crew.relief(1)), (None, None), "{sessions:?}");
        }
    }

    #[test]
    fn a_worker_is_not_its_own_relief() {
        let (alone, _present) = crew(&[9]);
        assert_eq!(alone.relief(0), None);
        let (crew, _present) = crew(&[0, 9, 0, 0]);
        for _ in 0..200 {
            assert!(crew.relief(1).is_some_and(|other| other != 1));
            assert_eq!(crew.relief(0), None);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_worker_is_empty_when_the_last_one_has_gone() {
        let (crew, mut present) = crew(&[2]);
        let load = Arc::clone(crew.load(0));
        let emptied = tokio::spawn(async move { load.empty().await });
        tokio::task::yield_now().await;
        present.pop();
        tokio::task::yield_now().await;
        assert!(!emptied.is_finished());
        present.pop();
        emptied.await.expect("told");
    }
}
