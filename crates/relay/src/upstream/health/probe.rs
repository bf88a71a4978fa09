//! The connection of a check: made, used, and closed so that the server sees an end and no reset.

use super::ask::{Failure, ask};
use super::{Prober, Server};
use crate::plan::Check;
use crate::worker::is_exhausted;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// After the verdict the server has so long to close its side.
const HANG_UP_MAX: Duration = Duration::from_secs(1);
/// And may send so much.
const HANG_UP_BYTES_MAX: u64 = 256 * 1024;

/// Checks over TCP.
pub(super) fn over_tcp() -> Prober {
    Arc::new(|server, check| Box::pin(async move { probe(&server, &check).await }))
}

/// One check: like a session it tries the server's addresses in order until one will do.
async fn probe(server: &Server, check: &Check) -> Result<(), Failure> {
    let deadline = Instant::now() + check.timeout;
    let addrs = server.addrs();
    let mut last = Failure::Timeout;
    for (index, addr) in addrs.iter().enumerate() {
        // An address that is silent leaves the others their share of the time.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addrs.len() - index).unwrap_or(u32::MAX);
        match probe_addr(*addr, server, check, Instant::now() + share).await {
            Err(failure) if !matches!(failure, Failure::Ours(_)) => last = failure,
            decided => return decided,
        }
    }
    Err(last)
}

async fn probe_addr(
    addr: SocketAddr,
    server: &Server,
    check: &Check,
    deadline: Instant,
) -> Result<(), Failure> {
    let connecting = timeout_at(deadline, TcpStream::connect(addr));
    let mut stream = connecting.await.map_err(|_| Failure::Timeout)?.map_err(|error| {
        match is_exhausted(&error) || error.kind() == io::ErrorKind::AddrNotAvailable {
            true => Failure::Ours(error),
            false => Failure::Connect(error),
        }
    })?;
    let asked = timeout_at(deadline, ask(&mut stream, &check.kind, server.target().as_str())).await;
    // The verdict does not wait for it.
    tokio::spawn(hang_up(stream));
    asked.unwrap_or(Err(Failure::Timeout))
}

/// Sends the end, and takes what still comes: a socket that is closed with unread bytes sends a
/// reset, which servers log as an error.
async fn hang_up(mut stream: TcpStream) {
    let until_end = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(HANG_UP_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = timeout(HANG_UP_MAX, until_end).await;
}
