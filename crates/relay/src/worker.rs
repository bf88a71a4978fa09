//! One worker: a thread, a runtime, a listener, and the sessions that it accepted.

use crate::listener::Listener;
use crate::relay::Shared;
use crate::session;
use socket2::Socket;
use std::io;
use std::sync::Arc;

/// Runs until the relay stops.
pub(crate) fn run(shared: Arc<Shared>, listener: Socket) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(accept(shared, listener))
}

async fn accept(shared: Arc<Shared>, listener: Socket) -> io::Result<()> {
    let listener = Listener::new(listener)?;
    loop {
        match listener.accept().await {
            Ok((fd, client)) => {
                tokio::spawn(session::run(Arc::clone(&shared), fd, client));
            }
            Err(error) => tracing::warn!(%error, "accept"),
        }
    }
}
