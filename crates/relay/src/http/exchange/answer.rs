//! The wait for the head of an answer.

use super::Exchange;
use crate::http::body::Stop;
use crate::http::buffers::Input;
use crate::http::io::{Elapsed, poll_recv, send, within};
use crate::http::order::{Order, Reply, ReplyKind, Terms};
use crate::http::record::{Fault, Notes};
use crate::http::refusal::Refusal;
use crate::http::scan::Scan;
use crate::http::side::Side;
use crate::http::site::Site;
use sosplice::tokio::Registered;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

/// Read at a time: what comes with a head is copied, so less of a large body is.
const READ_LEN: usize = 8 * 1024;

/// A client that waits for a 100 is sent one when the server has said nothing for so long: it may
/// be one that never does.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// How long the answer of a server is awaited that takes no more of a body, if no idle time
/// says so.
const ABANDONED_WAIT: Duration = Duration::from_secs(10);

/// Interim answers to one request.
const INTERIM_MAX: usize = 16;

/// What an answer is awaited with.
pub(super) struct Scene<'s> {
    pub(super) order: &'s Order,
    /// From the server; empty at first.
    pub(super) input: &'s mut Input,
    /// Where the head goes that the client gets.
    pub(super) out: &'s mut Vec<u8>,
    pub(super) notes: &'s Notes,
}

/// There is no answer.
pub(super) struct Miss {
    pub(super) fault: Fault,
    /// The server has not sent a byte, and its connection is closed: another may be tried.
    pub(super) is_repeatable: bool,
}

impl Miss {
    pub(super) fn unless(self, is_final: bool) -> Self {
        Self { is_repeatable: self.is_repeatable && !is_final, ..self }
    }
}

impl From<Fault> for Miss {
    fn from(fault: Fault) -> Self {
        Self { fault, is_repeatable: false }
    }
}

impl From<Refusal> for Miss {
    fn from(refusal: Refusal) -> Self {
        Fault::Response(refusal).into()
    }
}

enum News {
    Server(io::Result<usize>),
    Client(Result<(), Stop>),
}

impl<S: Site> Exchange<'_, S> {
    /// Awaits the head of the answer, and says whether the client's connection goes on behind it.
    /// Interim answers are passed on.
    pub(super) async fn await_answer(
        &self,
        scene: Scene<'_>,
        server: &Registered,
        side: &mut Side<'_>,
    ) -> Result<(Reply, bool), Miss> {
        let Scene { order, input, out, notes } = scene;
        input.consume(usize::MAX);
        let mut scan = Scan::default();
        let mut interims = 0;
        let mut awaits_continue = order.expects_continue && !side.is_done();
        loop {
            if let Some(len) = scan.end(input.filled(), self.http.head_max)? {
                let keeps = side.is_done() && self.may_go_on(order);
                let terms = Terms { order, http: self.http, peer: self.peer, keeps };
                let head = input.filled().get(..len).unwrap_or_default();
                let (reply, keeps) = Reply::read(head, terms, out, notes)?;
                input.consume(len);
                if reply.kind != ReplyKind::Interim {
                    return Ok((reply, keeps));
                }
                scan = Scan::default();
                interims += 1;
                if interims > INTERIM_MAX {
                    return Err(Refusal::bad("the answer has no end of interim ones").into());
                }
                // One too many: the client was sent one, or has sent its body.
                let is_late = reply.status == 100 && order.expects_continue && !awaits_continue;
                awaits_continue &= reply.status != 100;
                // HTTP/1.0 knows none (RFC 9110 section 15.2).
                if order.is_11() && !is_late {
                    self.tell(out).await?;
                }
                continue;
            }
            let limit = self.patience(side, awaits_continue);
            let news = within(
                limit,
                poll_fn(|cx| {
                    if let Poll::Ready(read) = poll_recv(server, input, READ_LEN, cx) {
                        return Poll::Ready(News::Server(read));
                    }
                    side.poll(cx).map(News::Client)
                }),
            );
            match news.await {
                Ok(News::Server(Ok(0))) => {
                    return Err(self.missed(input, interims, Fault::ServerClosed));
                }
                Ok(News::Server(Ok(_))) => {}
                Ok(News::Server(Err(error))) => {
                    return Err(self.missed(input, interims, Fault::ServerFailed(error)));
                }
                Ok(News::Client(Ok(()))) => {}
                Ok(News::Client(Err(stop))) => return Err(upload_fault(stop).into()),
                Err(Elapsed) if awaits_continue => {
                    awaits_continue = false;
                    self.tell(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                }
                Err(Elapsed) => return Err(Fault::ServerSilent.into()),
            }
            awaits_continue &= !side.is_done();
        }
    }

    fn patience(&self, side: &Side<'_>, awaits_continue: bool) -> Option<Duration> {
        match side {
            _ if awaits_continue => Some(CONTINUE_WAIT),
            // It has a limit of its own.
            Side::Uploading { .. } => None,
            Side::Abandoned => Some(self.idle().unwrap_or(ABANDONED_WAIT)),
            Side::Out { .. } | Side::Uploaded { .. } => self.idle(),
        }
    }

    fn missed(&self, input: &Input, interims: usize, fault: Fault) -> Miss {
        Miss { fault, is_repeatable: input.is_empty() && interims == 0 }
    }

    /// Sends an interim answer.
    async fn tell(&self, answer: &[u8]) -> Result<(), Fault> {
        let mut sent = 0;
        match within(self.idle(), send(self.client, answer, &[], &mut sent)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Fault::ClientFailed(error)),
            Err(Elapsed) => Err(Fault::ClientStalled),
        }
    }
}

/// What a body's end before its time says of the exchange.
fn upload_fault(stop: Stop) -> Fault {
    match stop {
        Stop::SourceClosed => Fault::ClientClosed,
        Stop::SourceFailed(error) => Fault::ClientFailed(error),
        Stop::SourceSilent => Fault::ClientSilent,
        Stop::DrainFailed(error) => Fault::ServerFailed(error),
        Stop::DrainStalled => Fault::ServerSilent,
        Stop::Malformed(refusal) => Fault::Request(refusal),
    }
}
