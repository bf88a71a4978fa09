//! The client's side of an exchange while an answer is awaited or passed on.

use super::body::Stop;
use super::buffers::Input;
use super::io::poll_recv;
use sosplice::tokio::{Failed, Registered};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// No more is read ahead when there is so much.
const AHEAD_LEN: usize = 8 * 1024;

/// The rest of a request's body on its way.
pub(super) type Upload<'s> = Pin<Box<dyn Future<Output = Result<(), Stop>> + Send + 's>>;

pub(super) enum Side<'s> {
    /// The whole request has gone. What comes now are further requests, read ahead as far as
    /// there is room, so that a failure of the client is seen. An end of its side is none:
    /// it may have asked all that it wants to know.
    Out { client: &'s Registered, input: &'s mut Input, is_open: bool },
    /// The body is under way, and the buffer in use.
    Uploading { upload: Upload<'s>, failed: Failed<'s> },
    /// It has gone; the client is watched for a failure.
    Uploaded { failed: Failed<'s> },
    /// The server takes no more of it; it may have answered before.
    Abandoned,
}

impl Side<'_> {
    /// All of the request has gone to the server.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Side::Out { .. } | Side::Uploaded { .. })
    }

    /// Goes on; ready when the state has changed, or with what ended the request.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        match self {
            Side::Out { client, input, is_open } => read_ahead(client, input, is_open, cx),
            Side::Uploading { upload, .. } => match upload.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(result) => {
                    let before = std::mem::replace(self, Side::Abandoned);
                    match (result, before) {
                        (Ok(()), Side::Uploading { failed, .. }) => {
                            *self = Side::Uploaded { failed };
                            Poll::Ready(Ok(()))
                        }
                        (Err(Stop::DrainFailed(_)), _) => Poll::Ready(Ok(())),
                        (result, _) => Poll::Ready(result),
                    }
                }
            },
            Side::Uploaded { failed } => match failed.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => {
                    *self = Side::Abandoned;
                    let error = std::io::ErrorKind::ConnectionReset.into();
                    Poll::Ready(Err(Stop::SourceFailed(error)))
                }
            },
            Side::Abandoned => Poll::Pending,
        }
    }
}

fn read_ahead(
    client: &Registered,
    input: &mut Input,
    is_open: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Stop>> {
    while *is_open {
        if input.filled().len() >= AHEAD_LEN {
            return Poll::Pending;
        }
        match poll_recv(client, input, AHEAD_LEN, cx) {
            Poll::Ready(Ok(0)) => *is_open = false,
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Stop::SourceFailed(error))),
            Poll::Pending => return Poll::Pending,
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::task::Waker;

    fn uploading<'s>(end: Result<(), Stop>) -> Side<'s> {
        Side::Uploading { upload: Box::pin(ready(end)), failed: Box::pin(pending()) }
    }

    fn polled(side: &mut Side<'_>) -> Poll<Result<(), Stop>> {
        side.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_server_that_takes_no_more_may_have_answered_before() {
        let mut side = uploading(Err(Stop::DrainFailed(std::io::ErrorKind::BrokenPipe.into())));
        assert!(matches!(polled(&mut side), Poll::Ready(Ok(()))) && !side.is_done());
        assert!(polled(&mut side).is_pending());
    }

    #[test]
    fn a_client_that_sends_no_more_ends_its_request() {
        let mut side = uploading(Err(Stop::SourceClosed));
        assert!(matches!(polled(&mut side), Poll::Ready(Err(Stop::SourceClosed))));
        assert!(!side.is_done());
        let mut side = uploading(Ok(()));
        assert!(matches!(polled(&mut side), Poll::Ready(Ok(()))) && side.is_done());
    }
}
