//! The running sessions of both kinds, by number; each is looked at when it is told.
//!
//! What is held of all is where to look: a client that reads slowly holds that and a part.

use super::snapshot::{self, SessionSnapshot};
use crate::live::Live;
use crate::service::State;
use crate::udp::{Desk, Name};
use std::sync::Arc;

/// Those that ran when they were asked for.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: Vec<Session>,
    desks: Vec<Desk>,
}

/// Where one of them is looked at.
#[derive(Debug)]
pub(super) enum Session {
    Stream(Arc<Live>),
    /// With the place of its worker's desk.
    Datagrams(usize, Name),
}

impl Session {
    fn id(&self) -> u64 {
        match self {
            Self::Stream(live) => live.id,
            Self::Datagrams(_, name) => name.id,
        }
    }
}

impl Sessions {
    pub(super) async fn of(state: &State) -> Self {
        let streams = state.sessions.iter().flat_map(|sessions| sessions.all());
        let mut all: Vec<_> = streams.map(Session::Stream).collect();
        let desks = state.desks();
        for (place, desk) in desks.iter().enumerate() {
            let names = desk.names().await;
            all.extend(names.into_iter().map(|name| Session::Datagrams(place, name)));
        }
        all.sort_unstable_by_key(Session::id);
        Self { all, desks }
    }

    /// In parts of so many.
    pub(super) fn parts(&self, len: usize) -> impl Iterator<Item = &[Session]> {
        self.all.chunks(len)
    }

    /// The sessions of a part as they are now, in their order. Those of datagrams that have ended
    /// meanwhile are left out.
    pub(super) async fn look(&self, part: &[Session]) -> Vec<SessionSnapshot> {
        let mut told = Vec::with_capacity(part.len());
        for (place, desk) in self.desks.iter().enumerate() {
            let names = part.iter().filter_map(|session| match session {
                Session::Datagrams(at, name) if *at == place => Some(*name),
                _ => None,
            });
            let names: Vec<_> = names.collect();
            if !names.is_empty() {
                told.extend(desk.looks(names).await.into_iter().map(snapshot::datagram_session));
            }
        }
        for session in part {
            if let Session::Stream(live) = session {
                told.push(snapshot::session(live));
            }
        }
        told.sort_unstable_by_key(|session| session.id);
        told
    }
}

/// Ends sessions: those of `ids` that were there, and the others, each in their order.
pub(super) async fn kill(state: &State, ids: Vec<u64>) -> (Vec<u64>, Vec<u64>) {
    let mut left = Vec::new();
    for id in &ids {
        match state.sessions.iter().find_map(|sessions| sessions.find(*id)) {
            Some(live) => live.kill(),
            None => left.push(*id),
        }
    }
    for desk in state.desks() {
        if left.is_empty() {
            break;
        }
        let ended = desk.kill(left.clone()).await;
        left.retain(|id| !ended.contains(id));
    }
    ids.into_iter().partition(|id| !left.contains(id))
}
