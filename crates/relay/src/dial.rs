//! To a server: its addresses in turn, each within the plan's time, and a PROXY header first
//! where the plan says so.

use crate::http::Peer;
use crate::plan::RelayPlan;
use crate::proxy;
use crate::upstream::{Server, Unconnected};
use crate::worker::is_exhausted;
use sosplice::tokio::Registered;
use std::io;
use std::net::SocketAddr;

/// A server that no address of took the connection, with the last one and why.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) addr: SocketAddr,
    pub(crate) error: io::Error,
}

/// Connects; where no server is told of `peer`, its `local` may be any address. The first address gets `socket`, if there is one. The server is told how it went.
///
/// # Errors
/// [`Failed`].
pub(crate) async fn connect(
    plan: &RelayPlan,
    server: &Server,
    peer: Peer,
    socket: &mut Option<Unconnected>,
) -> Result<(Registered, SocketAddr), Failed> {
    let header = plan.send_proxy.map(|version| proxy::header(version, peer.client, peer.local));
    let mut last = None;
    for addr in server.addrs().iter() {
        let connecting = async {
            let socket = socket.take().map_or_else(|| Unconnected::new(*addr), Ok)?;
            let upstream = socket.connect(*addr, plan.congestion.as_ref()).await?;
            header.as_ref().map_or(Ok(()), |header| proxy::send(&upstream, header))?;
            Ok(upstream)
        };
        let timed_out = |_| Err(io::Error::from(io::ErrorKind::TimedOut));
        let limit = plan.timeouts.connect;
        match tokio::time::timeout(limit, connecting).await.unwrap_or_else(timed_out) {
            Ok(upstream) => {
                server.connected();
                return Ok((upstream, *addr));
            }
            Err(error) => {
                let relay = plan.told_name();
                tracing::debug!(relay, client = %peer.client, upstream = %addr, %error, "connect failed");
                last = Some(Failed { addr: *addr, error });
            }
        }
    }
    // For want of something here says nothing about the server.
    if !last.as_ref().is_some_and(|failed| is_exhausted(&failed.error)) {
        server.connect_failed();
    }
    // A server has an address.
    let nowhere = || Failed { addr: peer.local, error: io::ErrorKind::AddrNotAvailable.into() };
    Err(last.unwrap_or_else(nowhere))
}
