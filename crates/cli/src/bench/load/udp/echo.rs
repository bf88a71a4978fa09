//! The far end of request and response: every datagram goes back as it came.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};

use super::widen;

/// Answers until killed. It looks at nothing: the client knows what it asked.
pub fn echo(address: SocketAddrV4) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    widen(&socket)?;
    let mut datagram = vec![0; 64 << 10];
    loop {
        // An error is the ICMP answer to an earlier reply: that client has gone.
        if let Ok((length, client)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], client);
        }
    }
}
