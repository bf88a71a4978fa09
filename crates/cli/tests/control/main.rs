//! `sosplice ctl`, `sosplice top` and the admin address against a service that runs.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod commands;
mod datagrams;
mod hostile;
mod http;
mod place;
mod reload;
mod service;
mod top;
