//! A small HTTP/1.1 server for what this process itself has to say: the built-in origin, and the
//! admin address. GET and HEAD, persistent connections, nothing else.
//!
//! Every wait and every buffer is bounded: a head has 16 KiB and the patience that the pages are
//! served with, a client that takes nothing is left, and an idle connection holds no buffer. What
//! it does not understand ends the connection with an answer that says why.

mod connection;
mod head;
mod places;

pub(crate) use head::{Refusal, Request, decimal};

use places::Places;
use std::convert::Infallible;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// What is there to be asked for.
pub(crate) trait Pages: Send + Sync + 'static {
    /// One of them.
    type Page: Send + Sync;

    /// The one at a path, which has no query.
    ///
    /// # Errors
    /// What is answered in its place.
    fn find(path: &str) -> Result<Self::Page, Refusal>;

    /// What to answer `peer`. Called on the server's thread, and must not block.
    fn show(&self, page: &Self::Page, request: &Request<Self::Page>, peer: SocketAddr) -> Shown;

    /// Adds to `slices` what comes at `offset` of a content of `len` bytes.
    fn content(offset: u64, len: u64, slices: &mut Vec<IoSlice<'_>>) {
        let _ = (offset, len, slices);
    }
}

/// A page as it is answered.
pub(crate) struct Shown {
    /// As `200 OK`.
    pub(crate) status: &'static str,
    /// Of the head, each with its CRLF; without those that are about the connection.
    pub(crate) fields: String,
    pub(crate) body: String,
    /// How many bytes of [`Pages::content`] follow the body.
    pub(crate) content: u64,
}

/// How long the server waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a whole request, from the end of the one before: also the time that an idle
    /// connection lives.
    pub(crate) head: Duration,
    /// For a client to take anything at all.
    pub(crate) stall: Duration,
    /// For a client to take a whole answer; None for as long as it takes something.
    pub(crate) answer: Option<Duration>,
}

/// How long to leave a listener alone that has no descriptor to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves every connection of `listener`, each in a task of its own, for ever. Of more than `max`
/// at a time the one goes that has waited longest for its request, so that slow clients are in
/// nobody's way. `what` is the server's name in the log.
///
/// Dropping the future stops accepting and leaves the connections to their tasks. An error of
/// accept (no descriptor, most likely) is logged once, and tried again after a pause.
pub(crate) async fn serve<P: Pages>(
    what: &'static str,
    listener: TcpListener,
    pages: Arc<P>,
    patience: Patience,
    max: usize,
) -> Infallible {
    let places = Places::new(max);
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                let pages = Arc::clone(&pages);
                let (mut place, lost) = places.enter();
                tokio::spawn(async move {
                    let serving = connection::serve(stream, peer, &*pages, patience, &mut place);
                    tokio::select! {
                        biased;
                        _ = lost => tracing::debug!(%peer, "{what}: connection made room"),
                        done = serving => if let Err(error) = done {
                            tracing::debug!(%peer, %error, "{what}: connection failed");
                        }
                    }
                });
            }
            // The client left before it was served: nothing is wrong here.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the {what} cannot accept, trying again");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
