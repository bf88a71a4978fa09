//! One request and its answer.

mod answer;
mod deliver;
mod link;

use super::body::{Passage, Rest};
use super::buffers::{Buffers, Input};
use super::io::{Elapsed, send, within};
use super::killed::ResetIfKilled;
use super::ledger::Ledger;
use super::order::{Onward, Order, Task};
use super::record::Fault;
use super::rewrite::{self, Own, Persistence};
use super::side::Side;
use super::site::{Peer, Site};
use crate::plan::{Action, HttpPlan, RelayPlan, UpstreamId};
use answer::{Miss, Scene};
use deliver::{Delivered, Delivery};
use link::{Link, Reuse, Search};
use sosplice::Carried;
use sosplice::sys;
use sosplice::tokio::{Registered, Socket};
use std::time::{Duration, Instant};

/// How long a client may take to take an answer of the relay's own, if no idle time says so.
const OWN_ANSWER: Duration = Duration::from_secs(10);

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another request may come.
    Keep,
    Close,
    /// Closed, but first what the client still sends is read: otherwise the kernel resets the
    /// connection, and the client may never see the answer.
    Linger,
}

/// Where an exchange takes place.
pub(super) struct Exchange<'x, S: Site> {
    pub(super) site: &'x S,
    pub(super) current: &'x S::Current,
    pub(super) relay: &'x RelayPlan,
    pub(super) http: &'x HttpPlan,
    pub(super) client: &'x Registered,
    pub(super) peer: Peer,
}

/// A request, and the buffers that it is worked on with.
struct Work<'w> {
    order: &'w Order,
    /// From the client, behind the head.
    input: &'w mut Input,
    server: &'w mut Input,
    /// The head that the server gets.
    request: &'w [u8],
    response: &'w mut Vec<u8>,
}

impl<'x, S: Site> Exchange<'x, S> {
    /// Does what the request asks whose head is the first `head_len` bytes of the client's input.
    pub(super) async fn run(&self, buffers: &mut Buffers, head_len: usize, began: Instant) -> Next {
        let Buffers { client: input, server, request, response, notes } = buffers;
        let head = input.filled().get(..head_len).unwrap_or_default();
        let order = Order::read(head, self.http, self.peer, request, notes);
        if order.is_err() && notes.method.is_empty() {
            notes.raw(head);
        }
        let mut ledger = self.ledger(notes, began);
        let order = match order {
            Ok(order) => order,
            Err(refusal) => {
                return self.fail(&mut ledger, response, Fault::Request(refusal), None).await;
            }
        };
        input.consume(head_len);
        let work = Work { order: &order, input, server, request, response };
        match order.task {
            Task::Answer | Task::Last(_) => self.answer(&mut ledger, work).await,
            Task::Forward(upstream) => self.forward(&mut ledger, work, upstream).await,
        }
    }

    /// Refuses a head that was not even complete.
    pub(super) async fn refuse(&self, buffers: &mut Buffers, fault: Fault, began: Instant) -> Next {
        let Buffers { client, response, notes, .. } = buffers;
        notes.raw(client.filled());
        let mut ledger = self.ledger(notes, began);
        self.fail(&mut ledger, response, fault, None).await
    }

    fn ledger<'l>(&'l self, notes: &'l mut super::record::Notes, began: Instant) -> Ledger<'l, S> {
        let (site, plan) = ((self.site, self.current), (self.relay, self.http));
        Ledger::new(site, plan, self.peer, notes, began)
    }

    fn idle(&self) -> Option<Duration> {
        self.relay.timeouts.idle
    }

    /// Ends the exchange, of which the client has seen nothing yet, with an answer that says what
    /// went wrong. The connection goes on if `order` is there: then all of the request was read.
    async fn fail(
        &self,
        ledger: &mut Ledger<'_, S>,
        out: &mut Vec<u8>,
        fault: Fault,
        order: Option<&Order>,
    ) -> Next {
        let status = fault.status();
        let keeps =
            order.is_some_and(|order| self.may_go_on(order)) && !fault.ends_the_connection();
        let body = fault.text();
        ledger.fault = Some(fault);
        let Some(status) = status else { return Next::Close };
        let (version, is_head) =
            order.map_or((super::head::Version::Http11, false), |o| (o.version, o.is_head));
        let persistence = Persistence::new(keeps, version);
        let is_head = is_head || ledger.notes.method == "HEAD";
        let own = Own { status, location: None, body: &[body, "\n"], is_head };
        let client = self.peer.client.ip().to_canonical();
        rewrite::answer(out, own, persistence, client, std::iter::empty());
        self.send_own(ledger, out, status, keeps).await
    }

    fn may_go_on(&self, order: &Order) -> bool {
        order.persists && !self.site.is_stopping()
    }

    /// Sends an answer of the relay's own.
    async fn send_own(
        &self,
        ledger: &mut Ledger<'_, S>,
        answer: &[u8],
        status: u16,
        keeps: bool,
    ) -> Next {
        let mut sent = 0;
        let limit = self.idle().unwrap_or(OWN_ANSWER);
        let done = within(Some(limit), send(self.client, answer, &[], &mut sent)).await;
        let head = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
        ledger.response.copy += sent.saturating_sub(head) as u64;
        match done {
            Ok(Ok(())) => {
                ledger.status = Some(status);
                return if keeps { Next::Keep } else { Next::Linger };
            }
            Ok(Err(error)) => ledger.fault = Some(Fault::ClientFailed(error)),
            Err(Elapsed) => ledger.fault = Some(Fault::ClientStalled),
        }
        Next::Close
    }

    /// The rule that decided says what the answer is, or the order does.
    async fn answer(&self, ledger: &mut Ledger<'_, S>, work: Work<'_>) -> Next {
        let Work { order, input, response, .. } = work;
        let action = ledger.notes.verdict.action(&self.http.rules);
        let (status, location, body) = match (order.task, action) {
            (Task::Last(status), _) => (status, None, ""),
            (_, Some(Action::Block { status, body })) => (*status, None, body.as_str()),
            (_, Some(Action::Redirect { status, .. })) => {
                (*status, Some(ledger.notes.location.as_str()), "")
            }
            // No other task has an answer.
            _ => (500, None, ""),
        };
        // A body that is here can be passed over, any other ends the connection.
        let keeps = match order.begun(input) {
            Ok((len, Onward::Nothing)) => {
                input.consume(len);
                self.may_go_on(order)
            }
            _ => false,
        };
        let persistence = Persistence::new(keeps, order.version);
        let own = Own { status, location, body: &[body], is_head: order.is_head };
        let client = self.peer.client.ip().to_canonical();
        let rules = ledger.notes.verdict.rules(&self.http.rules);
        rewrite::answer(response, own, persistence, client, rules);
        let next = self.send_own(ledger, response, status, keeps).await;
        ledger.is_over = true;
        next
    }

    /// What of the body is still to come, on its way to the server.
    fn upload<'s>(
        &self,
        server: &'s Registered,
        input: &'s mut Input,
        carried: &'s mut Carried,
        rest: Onward,
    ) -> Side<'s>
    where
        'x: 's,
    {
        let failed = self.client.failed();
        let Some(rest) = Rest::of(rest) else { return Side::Uploaded { failed } };
        let passage = Passage {
            source: self.client,
            input,
            drain: server,
            carried,
            engine: self.relay.engine,
            idle: self.idle(),
        };
        Side::Uploading { upload: Box::pin(passage.carry(rest)), failed }
    }

    /// To a server and back.
    async fn forward(
        &self,
        ledger: &mut Ledger<'_, S>,
        mut work: Work<'_>,
        upstream: Option<UpstreamId>,
    ) -> Next {
        let order = work.order;
        let (first, onward) = match order.begun(work.input) {
            Ok(begun) => begun,
            Err(refusal) => {
                return self.fail(ledger, work.response, Fault::Request(refusal), None).await;
            }
        };
        let is_whole = matches!(onward, Onward::Nothing);
        let mut body = RequestBody { first, is_whole, onward };
        let mut search = Search::<S> { upstream, tried: S::Tried::default(), last: None };
        let reuse = if order.is_idempotent { Reuse::Any } else { Reuse::Looked };
        let mut found = self.find(ledger, &mut search, reuse).await;
        let fault = loop {
            let link = match found {
                Ok(link) => link,
                Err(fault) => break fault,
            };
            match self.attempt(ledger, &mut work, &link, &mut body).await {
                Ok((delivered, keeps)) => {
                    if is_whole {
                        work.input.consume(first);
                    }
                    return self.finish(ledger, link, work.input, delivered, keeps).await;
                }
                Err(Miss { is_repeatable: true, .. }) => {
                    found = self.again(ledger, link, &mut search).await;
                }
                Err(Miss { fault, .. }) => break fault,
            }
        };
        // The client may go on if nothing of its body is missing.
        work.input.consume(first);
        self.fail(ledger, work.response, fault, is_whole.then_some(order)).await
    }

    /// Sends the request on this connection and passes the answer on. Also says whether the
    /// client was told that its connection goes on.
    async fn attempt(
        &self,
        ledger: &mut Ledger<'_, S>,
        work: &mut Work<'_>,
        link: &Link<S>,
        body: &mut RequestBody,
    ) -> Result<(Delivered, bool), Miss> {
        let _server = ResetIfKilled { socket: &link.socket, site: self.site };
        let Work { order, input, server, request, response } = work;
        let here = input.filled().get(..body.first).unwrap_or_default();
        let mut sent = 0;
        let written = within(self.idle(), send(&link.socket, request, here, &mut sent)).await;
        ledger.request.copy = sent.saturating_sub(request.len()) as u64;
        // Once, and never what the server may have acted on.
        let is_repeatable = link.is_reused && body.is_whole && (order.is_idempotent || sent == 0);
        match written {
            Err(Elapsed) => return Err(Fault::ServerSilent.into()),
            Ok(Err(error)) if is_repeatable => {
                return Err(Miss { fault: Fault::ServerFailed(error), is_repeatable });
            }
            // One that takes no more may have answered before.
            Ok(_) => {}
        }
        input.rest();
        let mut side = if body.is_whole {
            Side::Out { client: self.client, input, is_open: true }
        } else {
            input.consume(body.first);
            let rest = std::mem::replace(&mut body.onward, Onward::Nothing);
            self.upload(&link.socket, input, &mut ledger.request, rest)
        };
        let scene = Scene { order, input: server, out: response, notes: ledger.notes };
        let awaited = self.await_answer(scene, &link.socket, &mut side).await;
        let (reply, keeps) = awaited.map_err(|miss| miss.unless(!is_repeatable))?;
        let delivery = Delivery {
            reply,
            server: &link.socket,
            input: server,
            head: response,
            side,
            status: &mut ledger.status,
            carried: &mut ledger.response,
        };
        Ok((self.deliver(delivery).await?, keeps))
    }

    /// What becomes of both connections behind an answer.
    async fn finish(
        &self,
        ledger: &mut Ledger<'_, S>,
        link: Link<S>,
        input: &mut Input,
        delivered: Delivered,
        keeps: bool,
    ) -> Next {
        match delivered {
            Delivered::Tunnel => self.tunnel(ledger, &link.socket, input).await,
            Delivered::Broken(fault) => {
                // What it does not take would lie in the kernel for long.
                if matches!(fault, Fault::ClientStalled) {
                    let _ = sys::reset_on_close(self.client);
                }
                ledger.fault = Some(fault);
                Next::Close
            }
            Delivered::Whole { is_uploaded, is_reusable } => {
                ledger.is_over = true;
                if is_reusable {
                    self.put_back(link);
                }
                match keeps && is_uploaded {
                    true => Next::Keep,
                    false if is_uploaded && input.is_empty() => Next::Close,
                    false => Next::Linger,
                }
            }
        }
    }
}

/// The body of a request, before it is sent.
struct RequestBody {
    /// Bytes of it at the front of the input; they stay there while the request may be repeated.
    first: usize,
    /// That is all of it.
    is_whole: bool,
    onward: Onward,
}
