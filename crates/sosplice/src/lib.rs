//! Socket splicing for Linux.
