//! The way of an answer to the client, and what becomes of two connections that are something
//! else from then on.

use super::{Exchange, Next};
use crate::http::body::{Passage, Rest, Stop};
use crate::http::buffers::Input;
use crate::http::chunk::Chunks;
use crate::http::framing::Body;
use crate::http::io::{Elapsed, send, within};
use crate::http::ledger::Ledger;
use crate::http::order::{Reply, ReplyKind, begun};
use crate::http::record::Fault;
use crate::http::refusal::Refusal;
use crate::http::side::Side;
use crate::http::site::Site;
use crate::session::settled;
use sosplice::sys;
use sosplice::tokio::{Both, Registered};
use sosplice::{BothEnds, Carried, Cause, Limits, OnMax};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// An answer whose head is there.
pub(super) struct Delivery<'d, 's> {
    pub(super) reply: Reply,
    pub(super) server: &'d Registered,
    /// What came behind the head.
    pub(super) input: &'d mut Input,
    /// As the client gets it.
    pub(super) head: &'d [u8],
    pub(super) side: Side<'s>,
    pub(super) status: &'d mut Option<u16>,
    pub(super) carried: &'d mut Carried,
}

/// What became of it.
pub(super) enum Delivered {
    Whole {
        /// All of the request was taken before.
        is_uploaded: bool,
        /// The server's connection has nothing more to say.
        is_reusable: bool,
    },
    /// The head has gone, and what came behind it.
    Tunnel,
    /// It was begun.
    Broken(Fault),
}

impl<S: Site> Exchange<'_, S> {
    /// Sends an answer, and what is still to come of its body.
    ///
    /// # Errors
    /// It is none, and nothing was sent.
    pub(super) async fn deliver(&self, delivery: Delivery<'_, '_>) -> Result<Delivered, Refusal> {
        let Delivery { reply, server, input, head, mut side, status, carried } = delivery;
        let (first, rest) = begun_answer(reply, input)?;
        if reply.kind == ReplyKind::Tunnel && !side.is_done() {
            return Err(Refusal::bad("the answer ends a request that goes on"));
        }
        // A body that ends with its connection is not to look whole when it is not.
        let is_unframed = matches!(
            reply.kind,
            ReplyKind::Tunnel
                | ReplyKind::Final { body: Body::UntilClose, .. }
                | ReplyKind::Final { unpacks: true, .. }
        );
        let mut unfinished = Unfinished { client: self.client, resets: is_unframed };
        *status = Some(reply.status);
        let body = input.filled().get(..first).unwrap_or_default();
        let mut sent = 0;
        let done = within(self.idle(), send(self.client, head, body, &mut sent)).await;
        carried.copy += sent.saturating_sub(head.len()) as u64;
        match done {
            Ok(Ok(())) => input.consume(first),
            Ok(Err(error)) => return Ok(Delivered::Broken(Fault::ClientFailed(error))),
            Err(Elapsed) => return Ok(Delivered::Broken(Fault::ClientStalled)),
        }
        let ends_by_close = matches!(rest, Some(Rest::UntilClose));
        if let Some(rest) = rest {
            input.rest();
            let passage = Passage {
                source: server,
                input: &mut *input,
                drain: self.client,
                carried,
                engine: self.relay.engine,
                idle: self.idle(),
            };
            // In a box: most answers end without it.
            if let Err(stop) = Box::pin(carry_beside(passage.carry(rest), &mut side)).await {
                return Ok(Delivered::Broken(download_fault(stop)));
            }
        }
        unfinished.resets = false;
        if reply.kind == ReplyKind::Tunnel {
            return Ok(Delivered::Tunnel);
        }
        let is_uploaded = side.is_done();
        // What follows an answer that was asked for is none.
        let is_reusable = reply.persists && is_uploaded && !ends_by_close && input.is_empty();
        Ok(Delivered::Whole { is_uploaded, is_reusable })
    }

    /// Joins both connections until both sides are done. `input` has what the client sent ahead.
    pub(super) async fn tunnel(
        &self,
        ledger: &mut Ledger<'_, S>,
        server: &Registered,
        input: &mut Input,
    ) -> Next {
        let mut resets = [
            Unfinished { client: self.client, resets: true },
            Unfinished { client: server, resets: true },
        ];
        let mut sent = 0;
        let ahead = within(self.idle(), send(server, input.filled(), &[], &mut sent)).await;
        ledger.request.copy += sent as u64;
        match ahead {
            Ok(Ok(())) => input.consume(sent),
            Ok(Err(error)) => {
                ledger.fault = Some(Fault::TruncatedBy(error));
                return Next::Close;
            }
            Err(Elapsed) => {
                ledger.fault = Some(Fault::ServerStalled);
                return Next::Close;
            }
        }
        input.rest();
        let limits = Limits { idle: self.idle(), engine: self.relay.engine, ..Limits::default() };
        // Both are stream sockets by construction.
        let Ok(both) = Both::new(self.client, server, limits, OnMax::EndBoth) else {
            return Next::Close;
        };
        let both = both.closing().half_closed(self.relay.timeouts.half_closed);
        let mut tunnel = Tunnel { both: Some(Box::new(both)), ledger };
        poll_fn(|cx| tunnel.both.as_mut().map_or(Poll::Ready(()), |both| both.poll_done(cx))).await;
        let fault = tunnel.end();
        drop(tunnel);
        for unfinished in &mut resets {
            unfinished.resets = fault.is_some();
        }
        // First it gets what was sent to it, which a reset would throw away.
        match &fault {
            Some(Fault::ClientFailed(_) | Fault::ClientClosed) => settled(server).await,
            Some(Fault::Truncated | Fault::TruncatedBy(_)) => settled(self.client).await,
            _ => {}
        }
        ledger.is_over = true;
        ledger.fault = fault;
        Next::Close
    }
}

/// How much of what came behind the head goes with it, and what is still to come.
fn begun_answer(reply: Reply, input: &Input) -> Result<(usize, Option<Rest>), Refusal> {
    match reply.kind {
        // What comes behind the head is the other protocol's.
        ReplyKind::Interim | ReplyKind::Tunnel => Ok((input.filled().len(), None)),
        ReplyKind::Final { unpacks: true, .. } => {
            Ok((0, Some(Rest::Chunks { chunks: Chunks::default(), unpacks: true })))
        }
        ReplyKind::Final { body, .. } => {
            let (len, onward) = begun(body, input)?;
            Ok((len, Rest::of(onward)))
        }
    }
}

/// Two connections that are joined; however that ends, the counts are kept.
struct Tunnel<'t, 'l, S: Site> {
    both: Option<Box<Both<'t, Registered, Registered>>>,
    ledger: &'t mut Ledger<'l, S>,
}

impl<S: Site> Tunnel<'_, '_, S> {
    fn end(&mut self) -> Option<Fault> {
        let ends = self.both.take()?.into_ends();
        self.ledger.request += ends.a_to_b.carried;
        self.ledger.response += ends.b_to_a.carried;
        tunnel_fault(&ends)
    }
}

impl<S: Site> Drop for Tunnel<'_, '_, S> {
    fn drop(&mut self) {
        self.end();
    }
}

fn tunnel_fault(ends: &BothEnds) -> Option<Fault> {
    let fault = |cause: Cause, is_up: bool| match cause {
        Cause::SourceError(error) if is_up => Some(Fault::ClientFailed(error.io())),
        Cause::SourceError(error) => Some(Fault::TruncatedBy(error.io())),
        Cause::DrainError(error) if is_up => Some(Fault::TruncatedBy(error.io())),
        Cause::DrainError(error) => Some(Fault::ClientFailed(error.io())),
        Cause::DrainClosed if is_up => Some(Fault::Truncated),
        Cause::DrainClosed => Some(Fault::ClientClosed),
        Cause::Idle => Some(Fault::ServerStalled),
        _ => None,
    };
    fault(ends.a_to_b.cause, true).or_else(|| fault(ends.b_to_a.cause, false))
}

/// The rest of an answer, beside what is still under way of its request.
async fn carry_beside(
    carry: impl Future<Output = Result<(), Stop>>,
    side: &mut Side<'_>,
) -> Result<(), Stop> {
    let mut carry = pin!(carry);
    poll_fn(|cx| {
        if let Poll::Ready(result) = carry.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        loop {
            match side.poll(cx) {
                Poll::Ready(Err(Stop::SourceFailed(error))) => {
                    return Poll::Ready(Err(Stop::DrainFailed(error)));
                }
                // How else the request ends matters no more: the answer is there.
                Poll::Ready(_) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// What the end of an answer's body before its time says of the exchange.
fn download_fault(stop: Stop) -> Fault {
    match stop {
        Stop::SourceClosed => Fault::Truncated,
        Stop::SourceFailed(error) => Fault::TruncatedBy(error),
        Stop::SourceSilent => Fault::ServerStalled,
        Stop::DrainFailed(error) => Fault::ClientFailed(error),
        Stop::DrainStalled => Fault::ClientStalled,
        Stop::Malformed(refusal) => Fault::Response(refusal),
    }
}

/// Makes the close of a connection a reset, however it comes to be closed, until told otherwise.
struct Unfinished<'c> {
    client: &'c Registered,
    resets: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.resets {
            // A socket that is gone already needs none.
            let _ = sys::reset_on_close(self.client);
        }
    }
}
