//! What is to be done for a request, when its head has been read: everything that the exchange
//! needs to know of it, so that the buffer with the head is free for what comes.

use super::buffers::Input;
use super::chunk::Chunks;
use super::framing::Body;
use super::head::{self, Request, Response, Version};
use super::record::Notes;
use super::refusal::Refusal;
use super::rewrite::{self, Persistence, Surroundings};
use super::site::Peer;
use crate::plan::{Action, HttpPlan, UpstreamId};

/// A request, without its text.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) version: Version,
    pub(super) body: Body,
    pub(super) is_head: bool,
    pub(super) is_connect: bool,
    /// A 101 may be the answer.
    pub(super) upgrades: bool,
    pub(super) expects_continue: bool,
    /// The client would go on with another request.
    pub(super) persists: bool,
    /// Twice is as good as once (RFC 9110 section 9.2.2).
    pub(super) is_idempotent: bool,
    pub(super) task: Task,
}

/// Who answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// A server of the upstream, or of the relay's own.
    Forward(Option<UpstreamId>),
    /// The rule that decided.
    Answer,
    /// The relay, with this status: Max-Forwards has run out.
    Last(u16),
}

impl Order {
    /// Reads the head in `bytes`, judges it, and writes the one that the server gets to `out`.
    ///
    /// # Errors
    /// The status that it is refused with.
    pub(super) fn read(
        bytes: &[u8],
        http: &HttpPlan,
        peer: Peer,
        out: &mut Vec<u8>,
        notes: &mut Notes,
    ) -> Result<Self, Refusal> {
        let mut slots = head::slots();
        let request = head::request(bytes, &mut slots, http.fields_max)?;
        let host = request.host.unwrap_or_default();
        notes.request(request.method, request.target.forwarded, host);
        notes.verdict.judge(&http.rules, &request, peer.client.ip())?;
        let task = match notes.verdict.action(&http.rules) {
            None | Some(Action::Pass | Action::Route(_)) if request.max_forwards == Some(0) => {
                // What TRACE asks for, the request itself, would tell pages what browsers keep from them.
                Task::Last(if request.method == "TRACE" { 501 } else { 200 })
            }
            None | Some(Action::Pass) => Task::Forward(None),
            Some(Action::Route(upstream)) => Task::Forward(Some(*upstream)),
            Some(Action::Block { .. }) => Task::Answer,
            Some(Action::Redirect { location, .. }) => {
                rewrite::location(&mut notes.location, location, &request)?;
                Task::Answer
            }
        };
        let around = Surroundings {
            client: peer.client.ip().to_canonical(),
            local: peer.local,
            forwarded_for: http.forwarded_for,
        };
        if matches!(task, Task::Forward(_)) {
            rewrite::request(out, &request, around, notes.verdict.rules(&http.rules));
        }
        Ok(Self::of(&request, task))
    }

    fn of(request: &Request<'_, '_>, task: Task) -> Self {
        let is_connect = request.method == "CONNECT";
        Self {
            version: request.version,
            body: request.framing.of_request(),
            is_head: request.method == "HEAD",
            is_connect,
            upgrades: rewrite::passes_upgrade(request),
            expects_continue: request.expects_continue,
            // What comes behind a CONNECT was meant for the tunnel, also if there is none.
            persists: request.link.persists && !is_connect,
            is_idempotent: matches!(
                request.method,
                "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
            ),
            task,
        }
    }

    pub(super) fn is_11(&self) -> bool {
        self.version == Version::Http11
    }

    /// How much of the body is at the front of `input`, and what is still to come.
    ///
    /// # Errors
    /// 400 for chunks that are none.
    pub(super) fn begun(&self, input: &Input) -> Result<(usize, Onward), Refusal> {
        begun(self.body, input)
    }
}

/// What of a body has not come.
#[derive(Debug)]
pub(super) enum Onward {
    Nothing,
    Length(u64),
    Chunks(Chunks),
    UntilClose,
}

/// How much of `body` is at the front of `input`, and what is still to come.
///
/// # Errors
/// For chunks that are none.
pub(super) fn begun(body: Body, input: &Input) -> Result<(usize, Onward), Refusal> {
    let filled = input.filled();
    Ok(match body {
        Body::None => (0, Onward::Nothing),
        Body::Length(len) => {
            let here = usize::try_from(len).unwrap_or(usize::MAX).min(filled.len());
            match len - here as u64 {
                0 => (here, Onward::Nothing),
                left => (here, Onward::Length(left)),
            }
        }
        Body::Chunked => {
            let mut chunks = Chunks::default();
            let here = chunks.pass(filled)?;
            (here, if chunks.is_done() { Onward::Nothing } else { Onward::Chunks(chunks) })
        }
        Body::UntilClose => (filled.len(), Onward::UntilClose),
    })
}

/// An answer, without its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) kind: ReplyKind,
    /// The server's connection may carry another request, if nothing goes wrong.
    pub(super) persists: bool,
}

/// What an answer is to its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyKind {
    /// Another will follow.
    Interim,
    /// The connection is something else from now on.
    Tunnel,
    /// The answer, with this body; `unpacks` says that the client does not know chunks.
    Final { body: Body, unpacks: bool },
}

/// What an answer's head depends on beside itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'t> {
    pub(super) order: &'t Order,
    pub(super) http: &'t HttpPlan,
    pub(super) peer: Peer,
    /// The client's connection may go on.
    pub(super) keeps: bool,
}

impl Reply {
    /// Reads the head in `bytes`, and writes the one that the client gets to `out`. Also says
    /// whether the client's connection goes on.
    ///
    /// # Errors
    /// For what is no answer to this request.
    pub(super) fn read(
        bytes: &[u8],
        terms: Terms<'_>,
        out: &mut Vec<u8>,
        notes: &Notes,
    ) -> Result<(Self, bool), Refusal> {
        let Terms { order, http, peer, keeps } = terms;
        let mut slots = head::slots();
        let response = head::response(bytes, &mut slots, http.fields_max)?;
        let kind = kind_of(&response, order)?;
        let keeps = keeps
            && match kind {
                ReplyKind::Final { body, unpacks } => body != Body::UntilClose && !unpacks,
                ReplyKind::Interim | ReplyKind::Tunnel => true,
            };
        let persistence = match kind {
            ReplyKind::Interim => Persistence::Silent,
            ReplyKind::Tunnel if order.is_connect => Persistence::Silent,
            ReplyKind::Tunnel => Persistence::Upgrade,
            ReplyKind::Final { .. } => Persistence::new(keeps, order.version),
        };
        let is_framed = match kind {
            ReplyKind::Interim | ReplyKind::Tunnel => false,
            // Also the head of an answer without its body tells an old client of no chunks.
            ReplyKind::Final { .. } => {
                !(response.framing.is_chunked && order.version == Version::Http10)
            }
        };
        let client = peer.client.ip().to_canonical();
        let rules = notes.verdict.rules(&http.rules);
        rewrite::response(out, &response, persistence, is_framed, client, rules);
        // A body that is announced but not due (to HEAD; with 204, 304): should the server send it all
        // the same, it would be read as the next answer, and the next may be another client's.
        let framing = response.framing;
        let announces = framing.is_chunked || framing.content_length.is_some_and(|len| len > 0);
        let is_due = !matches!(kind, ReplyKind::Final { body: Body::None, .. });
        let persists = response.link.persists && (is_due || !announces);
        Ok((Self { status: response.status, kind, persists }, keeps))
    }
}

fn kind_of(response: &Response<'_, '_>, order: &Order) -> Result<ReplyKind, Refusal> {
    match response.status {
        101 if order.upgrades && response.link.upgrades => Ok(ReplyKind::Tunnel),
        101 => Err(Refusal::bad("the answer switches to another protocol unasked")),
        100..=199 => Ok(ReplyKind::Interim),
        200..=299 if order.is_connect => Ok(ReplyKind::Tunnel),
        status => {
            let body = response.framing.of_response(status, order.is_head);
            let unpacks = body == Body::Chunked && order.version == Version::Http10;
            Ok(ReplyKind::Final { body, unpacks })
        }
    }
}
