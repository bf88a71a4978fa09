//! The load of the UDP workloads.
//!
//! * [`datagram`] what a datagram says, so that the far end can tell
//! * [`flood`](mod@flood), [`sink`](mod@sink) one way: the sender, and the receiver that counts
//! * [`ask`], [`echo`] request and response
//! * [`offload`] the system calls that neither std nor rustix has

mod ask;
pub mod datagram;
mod echo;
mod flood;
mod offload;
mod sink;

use std::io;
use std::net::UdpSocket;

use rustix::net::sockopt;

pub use ask::{ask_many, ask_one, open_sessions};
pub use echo::echo;
pub use flood::{Burst, flood};
pub use sink::{Receive, sink};

/// What an end may have unread: a pause of the scheduler must not show as the
/// relay's loss.
const RECEIVE_BUFFER: usize = 64 << 20;

/// Makes room for [`RECEIVE_BUFFER`], or for as much as the system allows: beyond
/// `net.core.rmem_max` takes CAP_NET_ADMIN in the first user namespace.
fn widen(socket: &UdpSocket) -> io::Result<()> {
    sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER))
        .map_err(io::Error::from)
}
