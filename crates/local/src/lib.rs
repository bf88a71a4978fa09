//! Two programs on one host talk through a shared ring while their TCP connection stays intact.
//!
//! * [`layout`] is the memory that both ends of a pair map.
//! * [`settings`] is what `sosplice run` tells the preload library.
//! * [`member`] is a process's part in the rendezvous, [`wire`] what is said there.
//! * `broker` (with the feature of that name) is the process that brings the ends together.

#[cfg(feature = "broker")]
pub mod broker;
mod descriptor;
pub mod layout;
pub mod member;
mod packet;
pub mod settings;
mod sync;
pub mod wire;
