//! HTTP through real sockets on loopback: raw bytes in and out on both sides.

mod bodies;
mod clients;
mod faults;
mod framing;
mod harness;
mod rules;
mod servers;
