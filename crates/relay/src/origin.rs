//! The built-in origin: the HTTP/1.1 server behind `sosplice relay LISTEN` when
//! no target is given, so that the relay can be tried on a machine with nothing else.
//!
//! * `GET /` explains what just happened to the bytes of this very connection.
//! * `GET /bytes/N` gives N bytes (at most 1 TiB) that depend on N alone, and
//!   in the header `Sosplice-Crc32` their CRC-32 (that of gzip), eight hex digits.
//!
//! It is a plain user of sockets, on purpose: what it sends crosses the relay
//! as any origin's bytes would. Every wait and every buffer is bounded: a head
//! has 16 KiB and 30 s, a client that takes nothing has 60 s, and an idle
//! connection holds no buffer. It does not bound the number of connections: the
//! relay in front of it does. It is no file server and never will be one.

mod connection;
mod content;
mod head;
mod page;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

/// What the relay knows of one of its connections, at the moment it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    /// The client at the other end of the relay.
    pub client: SocketAddr,
    /// Bytes from the client to the origin by the copy engine, so far.
    pub up_copy: u64,
    /// Bytes from the client to the origin by the pipe engine, so far.
    pub up_pipe: u64,
    /// Bytes from the origin to the client by the copy engine, so far.
    pub down_copy: u64,
    /// Bytes from the origin to the client by the pipe engine, so far.
    pub down_pipe: u64,
}

/// Answers what the relay can say about the connection that reaches the origin
/// from this address, which is the relay's own end; `None` when there is none.
///
/// It is called on the origin's thread for each page and must not block.
pub type Lookup = Arc<dyn Fn(SocketAddr) -> Option<Passage> + Send + Sync>;

/// How long the origin waits.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// For a whole request, from the end of the one before: also the time that
    /// an idle connection lives.
    head: Duration,
    /// For a client to take anything at all.
    stall: Duration,
}

const PATIENCE: Patience =
    Patience { head: Duration::from_secs(30), stall: Duration::from_secs(60) };

/// How long to leave a listener alone that has no descriptor to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves every connection of `listener`, each in a task of its own, for ever.
///
/// To be called inside a tokio runtime with I/O and time; dropping the future
/// stops accepting and leaves the connections to their tasks. An error of
/// accept (no descriptor, most likely) is logged once, and tried again after a
/// pause.
pub async fn serve(listener: TcpListener, lookup: Lookup) -> Infallible {
    serve_with(listener, lookup, PATIENCE).await
}

async fn serve_with(listener: TcpListener, lookup: Lookup, patience: Patience) -> Infallible {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                let lookup = lookup.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection::serve(stream, peer, lookup, patience).await {
                        tracing::debug!(%peer, %error, "origin connection failed");
                    }
                });
            }
            // The client left before it was served: nothing is wrong here.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the origin cannot accept, trying again");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
