//! The relay of sosplice.
