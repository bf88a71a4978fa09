//! Two programs on one host talk through a shared ring while their TCP connection stays intact.
//!
//! * [`layout`] is the memory that both ends of a pair map.
//! * [`end`] is one end: the protocol between ring and TCP, without a system call.
//! * [`stream`] makes a stream socket of it.

pub mod end;
pub mod layout;
pub mod lock;
pub mod ring;
#[cfg(all(test, not(loom)))]
mod sim;
pub mod stream;
mod sync;
