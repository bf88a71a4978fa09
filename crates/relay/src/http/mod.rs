//! HTTP/1.1 with bodies in the kernel: a head is read, judged by the rules, rewritten and sent; of
//! the body exactly its length is spliced; and the same for the answer, on connections that go on.
//!
//! What it promises: no byte is passed on as part of a message that another parser could find
//! elsewhere (heads and chunks are taken in one spelling only, RFC 9112), an answer that was cut
//! never looks whole, and every request ends in one [`Record`]. Time and memory are bounded
//! whatever the peers send, an idle connection holds no buffer, and a request allocates
//! nothing but for a body that did not come with its head.
//!
//! To follow a request: `connection` (the head), `exchange` (to a server and back),
//! `body` (what did not come with a head). Without sockets: `scan`, `head`, `framing`,
//! `chunk`, `rules`, `rewrite`. What it needs of its worker is the [`Site`].
//!
//! What it does not do: cache, change bodies, add a Via, speak HTTP/2 or TLS.

mod body;
mod buffers;
mod chunk;
mod connection;
mod digits;
#[cfg(any(test, fuzzing))]
pub(crate) mod examine;
mod exchange;
mod framing;
mod glob;
mod head;
mod io;
mod killed;
mod ledger;
mod order;
mod pool;
mod record;
mod refusal;
mod rewrite;
mod rules;
mod scan;
mod side;
mod site;
mod target;

pub use connection::serve;
pub use glob::PATTERN_LEN_MAX;
pub use head::FIELDS_MAX;
pub use pool::Pool;
pub use record::{Fault, Record};
pub use refusal::Refusal;
pub use site::{NoPlace, Peer, Server, Site};
