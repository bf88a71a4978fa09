//! The system calls of the library, and its only `unsafe`.
//!
//! Everything here is one call and its reading: no state, no retry but for
//! EINTR. rustix makes the calls (its raw backend enters the kernel directly, so
//! that a library that interposes libc's names can use this one), libc only where
//! rustix has no name for an option.

mod pipe;
mod signal;
mod socket;
mod sockopt;
mod udp;

pub use pipe::Pipe;
pub(crate) use signal::{HoldSigpipe, block_all};
pub use socket::{
    Kind, Put, Take, drain, drain_until_signal, fill, fill_queued, is_listening, is_over, kind,
    recv, send,
};
pub use sockopt::{LowWater, Room, reset_on_close, room, shutdown_write, unacknowledged};
pub(crate) use udp::send_groups;
pub use udp::{
    Received, discard, has_segments, look, next_len, receive, send_buffer, set_gro,
    set_receive_buffer, tell_address, tell_drops,
};
