//! Names, resolved: at the start, and again while the service runs.

use super::server::Server;
use super::target::Target;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// What turns a target into its addresses, at least one; it may block.
pub(super) type Resolver = Arc<dyn Fn(&Target) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The system's.
pub(super) fn system() -> Resolver {
    Arc::new(Target::lookup)
}

/// Takes in what a resolver has answered for a server that has addresses already. A failure keeps them.
pub(super) fn refresh(server: &Server, answer: io::Result<Vec<SocketAddr>>) {
    let (upstream, name, target) = (server.upstream_name(), server.name(), server.target());
    match answer {
        Ok(addrs) => {
            if server.set_addrs(addrs) {
                let addrs = server.addrs();
                tracing::info!(upstream, server = name, %target, ?addrs, "addresses changed");
            }
        }
        Err(error) => {
            tracing::warn!(upstream, server = name, %target, %error, "name not resolved: the addresses stay");
        }
    }
}
