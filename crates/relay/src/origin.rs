//! The built-in origin: the HTTP/1.1 server behind `sosplice relay LISTEN` when
//! no target is given, so that the relay can be tried on a machine with nothing else.
//!
//! * `GET /` explains what just happened to the bytes of this very connection.
//! * `GET /bytes/N` gives N bytes (at most 1 TiB) that depend on N alone, and
//!   in the header `Sosplice-Crc32` their CRC-32 (that of gzip), eight hex digits.
//!
//! It is a plain user of sockets, on purpose: what it sends crosses the relay
//! as any origin's bytes would. Its server is that of `pages`: a head has
//! 30 s, a client that takes nothing has 60 s. It does not bound the number of connections: the
//! relay in front of it does. It is no file server and never will be one.

mod content;
mod page;
mod target;

#[cfg(test)]
mod tests;

use crate::pages::{self, Pages, Patience, Refusal, Request, Shown};
use std::convert::Infallible;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use target::Target;
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

const PATIENCE: Patience =
    Patience { head: Duration::from_secs(30), stall: Duration::from_secs(60), answer: None };

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
    let origin = Arc::new(Origin { lookup });
    pages::serve("origin", listener, origin, patience, usize::MAX).await
}

struct Origin {
    lookup: Lookup,
}

impl Pages for Origin {
    type Page = Target;

    fn find(path: &str) -> Result<Target, Refusal> {
        target::find(path)
    }

    fn show(&self, target: &Target, request: &Request<Target>, peer: SocketAddr) -> Shown {
        let status = "200 OK";
        match target {
            Target::Page => {
                let (passage, host) = ((self.lookup)(peer), request.host.as_deref());
                let (kind, body) = match request.html {
                    true => ("html", page::html(passage.as_ref(), host)),
                    false => ("plain", page::text(passage.as_ref(), host)),
                };
                let fields = format!(
                    "Content-Type: text/{kind}; charset=utf-8\r\n\
                     Cache-Control: no-store\r\nVary: Accept\r\n"
                );
                Shown { status, fields, body, content: 0 }
            }
            Target::Bytes(len) => {
                let fields = format!(
                    "Content-Type: application/octet-stream\r\nSosplice-Crc32: {:08x}\r\n",
                    content::crc32(*len),
                );
                Shown { status, fields, body: String::new(), content: *len }
            }
        }
    }

    fn content(offset: u64, len: u64, slices: &mut Vec<IoSlice<'_>>) {
        content::slices(offset, len, slices);
    }
}
