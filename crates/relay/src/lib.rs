//! The relay of sosplice.

pub mod origin;
