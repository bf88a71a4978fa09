//! The relay of sosplice: what is accepted on a listener is joined to an upstream and
//! spliced both ways until both sides are done.
//!
//! A thread a core, each with its own listener (SO_REUSEPORT), runtime, timers and
//! pipes; a connection lives and dies on its worker. To follow a byte, read
//! [`relay`] (start and stop), `worker` (accept), `session` (connect, splice, account).

#![forbid(unsafe_code)]

pub mod budget;
mod error;
pub mod http;
mod listener;
mod live;
pub mod origin;
pub mod plan;
pub mod relay;
mod session;
pub mod udp;
mod upstream;
mod worker;

pub use error::Error;
pub use relay::{Config, Relay};
pub use upstream::{Balance, Congestion, Target};
