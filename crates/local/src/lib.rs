//! Two programs on one host talk through a shared ring while their TCP connection stays intact.
//!
//! * [`layout`] is the memory that both ends of a pair map.
//! * [`end`] is one end: the protocol between ring and TCP, without a system call.
//! * [`stream`] makes a stream socket of it.
//! * [`settings`] is what `sosplice run` tells the preload library.
//! * [`member`] is a process's part in the rendezvous, [`wire`] what is said there.
//! * `broker` (with the feature of that name) is the process that brings the ends together.

#[cfg(feature = "broker")]
pub mod broker;
mod descriptor;
pub mod end;
#[cfg(any(test, fuzzing))]
pub mod examine;
pub mod layout;
pub mod lock;
pub mod member;
mod packet;
pub mod patience;
pub mod ring;
pub mod settings;
#[cfg(all(test, not(loom)))]
mod sim;
pub mod stream;
mod sync;
pub mod wire;
