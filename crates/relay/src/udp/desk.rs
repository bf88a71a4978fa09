//! Where a worker is asked about its sessions. They are the worker's alone: it answers between
//! two turns of its loop, when its bell rings, and datagrams pay for nothing of it.
//!
//! A worker answers at once, and whoever asks waits for the answer, so that there are no more
//! questions than clients of the control socket. One that has ended has no sessions.

use super::worker::Bell;
use crate::graph::Relay;
use sosplice::Carried;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A session that was there: its number, and the slot to look for it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) id: u64,
    pub(super) slot: u32,
}

/// A session as it is.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) id: u64,
    pub(crate) relay: Arc<Relay>,
    pub(crate) client: SocketAddr,
    pub(crate) upstream: SocketAddr,
    pub(crate) age: Duration,
    /// Since the last datagram either way.
    pub(crate) idle: Duration,
    /// To the upstream and to the client, datagrams counted.
    pub(crate) carried: (Carried, Carried),
}

/// What is asked, and where the answer goes.
#[derive(Debug)]
pub(super) enum Question {
    /// All sessions.
    Names(oneshot::Sender<Vec<Name>>),
    /// These sessions, as far as they are there.
    Looks(Vec<Name>, oneshot::Sender<Vec<Look>>),
    /// Ends the sessions with these numbers, which are sorted; answered by those that were there.
    Kill(Vec<u64>, oneshot::Sender<Vec<u64>>),
}

/// One worker's.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    questions: mpsc::UnboundedSender<Question>,
    bell: Arc<Bell>,
}

impl Desk {
    /// And what the worker takes the questions from, when `bell` has rung.
    pub(super) fn new(bell: Arc<Bell>) -> (Self, mpsc::UnboundedReceiver<Question>) {
        let (questions, asked) = mpsc::unbounded_channel();
        (Self { questions, bell }, asked)
    }

    /// In no order.
    pub(crate) async fn names(&self) -> Vec<Name> {
        self.ask(Question::Names).await
    }

    /// Of those that are still there, in the order of `names`.
    pub(crate) async fn looks(&self, names: Vec<Name>) -> Vec<Look> {
        self.ask(|answer| Question::Looks(names, answer)).await
    }

    /// Ends sessions; answers which of `ids` were there.
    pub(crate) async fn kill(&self, mut ids: Vec<u64>) -> Vec<u64> {
        ids.sort_unstable();
        self.ask(|answer| Question::Kill(ids, answer)).await
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<Vec<T>>) -> Question) -> Vec<T> {
        let (sender, answer) = oneshot::channel();
        if self.questions.send(question(sender)).is_err() {
            return Vec::new();
        }
        self.bell.ring();
        // A question that was not taken is dropped with its worker.
        answer.await.unwrap_or_default()
    }
}
