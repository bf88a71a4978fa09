//! libsosplice: the socket option `SO_SPLICE` of OpenBSD and FreeBSD on Linux, as a C
//! interface and for unmodified programs by preloading.
//!
//! * [`interpose`] has the libc names that a program meets: each asks whether any splice
//!   exists, and if none does makes the system call itself.
//! * [`client`] talks over its [`connection`] to the *carrier*, a process of its own that holds a duplicate of both
//!   sockets of a splice and moves the bytes ([`carrier`]). So a splice belongs to its
//!   sockets and not to the process or thread that set it up.
//! * [`domain`] is the memory that the carrier and all forked relatives share: one small
//!   record a socket, from which a call learns what its socket's splice is doing.
//! * [`option`] reads the option's value, and [`checks`] are its error rows in their order.
//!
//! Nothing here calls an interposed name: the kernel is entered directly, and errno is
//! touched only where a call fails.

// Its callers are C; the documentation is sosplice(3) and the header.
#![allow(missing_docs)]
// The names that C sees are kept out of the test harness, which has libc's own.
#![cfg_attr(test, allow(dead_code, reason = "called by name only"))]

mod api;
mod carrier;
mod checks;
mod client;
mod connection;
mod descriptors;
mod domain;
mod heap;
mod interpose;
mod local;
mod lock;
mod notice;
mod option;
mod own;
mod personality;
mod registrations;
mod sleep;
mod source;
mod sys;
mod wire;
