//! Two programs on one host talk through a shared ring while their TCP connection stays intact.
//!
//! * [`layout`] is the memory that both ends of a pair map.
//! * [`end`] is one end: the protocol between ring and TCP, without a system call.
//! * [`stream`] makes a stream socket of it.

mod descriptor;
pub mod end;
pub mod layout;
pub mod lock;
pub mod member;
mod packet;
pub mod ring;
pub mod stream;
mod sync;
