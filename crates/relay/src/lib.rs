//! The relay of sosplice: what is accepted on a listener is joined to an upstream and
//! spliced both ways until both sides are done.
//!
//! A thread a core, each with its own listener (SO_REUSEPORT), runtime, timers and
//! pipes; a connection lives and dies on one worker. To follow a byte, read
//! [`service`] (start and stop), `worker` (accept), `session` (connect, splice, account).

#![forbid(unsafe_code)]

mod admin;
pub mod budget;
pub mod config;
pub mod control;
mod counted;
mod crew;
mod date;
mod dial;
mod error;
#[cfg(any(test, fuzzing))]
pub mod examine;
mod gate;
mod graph;
pub mod http;
mod listener;
mod live;
pub mod origin;
mod pages;
pub mod plan;
mod proxy;
mod room;
pub mod service;
mod session;
mod site;
mod udp;
mod upstream;
mod worker;

pub use counted::counted;
pub use error::Error;
pub use plan::Plan;
pub use service::Service;
pub use upstream::{Admin, CheckSnapshot, Congestion, Health, ServerSnapshot, Target};
