//! The relay of sosplice.

pub mod budget;
pub mod origin;
