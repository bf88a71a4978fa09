//! splicer
