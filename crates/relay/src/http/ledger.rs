//! What an exchange has come to so far; its record is written when it goes, however it ends.

use super::record::{Fault, Notes, Record};
use super::site::{Peer, Server, Site};
use crate::plan::{HttpPlan, RelayPlan};
use sosplice::Carried;
use std::sync::Arc;
use std::time::Instant;

pub(super) struct Ledger<'l, S: Site> {
    pub(super) site: &'l S,
    pub(super) current: &'l S::Current,
    pub(super) relay: &'l RelayPlan,
    pub(super) http: &'l HttpPlan,
    pub(super) peer: Peer,
    pub(super) notes: &'l mut Notes,
    pub(super) began: Instant,
    /// The head of an answer has gone to the client.
    pub(super) status: Option<u16>,
    pub(super) server: Option<Arc<S::Server>>,
    pub(super) is_reused: bool,
    pub(super) request: Carried,
    pub(super) response: Carried,
    pub(super) fault: Option<Fault>,
    /// Dropped before, it was cut.
    pub(super) is_over: bool,
}

impl<'l, S: Site> Ledger<'l, S> {
    pub(super) fn new(
        (site, current): (&'l S, &'l S::Current),
        (relay, http): (&'l RelayPlan, &'l HttpPlan),
        peer: Peer,
        notes: &'l mut Notes,
        began: Instant,
    ) -> Self {
        Self {
            site,
            current,
            relay,
            http,
            peer,
            notes,
            began,
            status: None,
            server: None,
            is_reused: false,
            request: Carried::default(),
            response: Carried::default(),
            fault: None,
            is_over: false,
        }
    }
}

impl<S: Site> Drop for Ledger<'_, S> {
    fn drop(&mut self) {
        if !self.is_over && self.fault.is_none() {
            self.fault = Some(Fault::Cut);
        }
        if let Some(server) = &self.server {
            server.carried(self.request.total(), self.response.total());
        }
        let record = Record {
            client: self.peer.client,
            relay: &self.relay.name,
            method: if self.notes.method.is_empty() { "-" } else { &self.notes.method },
            target: &self.notes.target,
            host: &self.notes.host,
            status: self.status,
            server: self.server.as_ref().map(|server| server.name()),
            is_reused: self.is_reused,
            rule: self.notes.rule(&self.http.rules),
            matched: &self.notes.verdict.matched,
            rules: &self.http.rules,
            request: self.request,
            response: self.response,
            took: self.began.elapsed(),
            fault: self.fault.as_ref(),
        };
        self.site.account(self.current, &record);
    }
}
