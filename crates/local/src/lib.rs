//! Two programs on one host talk through a shared ring while their TCP connection stays intact.
//!
//! * [`layout`] is the memory that both ends of a pair map.

pub mod layout;
mod sync;
