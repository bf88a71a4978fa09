//! Members and a broker over real sockets: who is brought together, and who is not.

#![allow(clippy::unwrap_used, missing_docs)]

mod hostile;
mod lifetime;
mod pairing;
mod place;
mod policy;
mod users;
