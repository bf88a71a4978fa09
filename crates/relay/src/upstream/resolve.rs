//! Names, resolved: at the start, and again while the service runs.
//!
//! An answer only replaces the addresses that new sessions connect to; running sessions stay where they
//! are. A failure keeps the addresses that are known, however long it lasts: they are more likely right
//! than none.
//!
//! The system's resolver blocks and cannot be interrupted. So each look-up has a thread of its own
//! and is waited for so long; a name whose look-up still hangs gets no second thread. These are not the
//! runtime's blocking threads, for which its end would wait.

use super::Upstream;
use super::server::Server;
use super::target::Target;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// What turns a target into its addresses, at least one; it may block.
pub(super) type Resolver = Arc<dyn Fn(&Target) -> Answer + Send + Sync>;
pub(super) type Answer = io::Result<Vec<SocketAddr>>;

/// A look-up is waited for so long: the system's own timeouts together are less.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The system's.
pub(super) fn system() -> Resolver {
    Arc::new(Target::lookup)
}

/// Resolves the names of an upstream again and again, as its plan says.
pub(super) fn watch(upstream: &Upstream, resolver: &Resolver, tasks: &mut JoinSet<()>) {
    let Some(interval) = upstream.plan().resolve_interval else { return };
    for server in upstream.servers().iter().filter(|server| server.target().is_name()) {
        tasks.spawn(watch_name(Arc::clone(server), interval, Arc::clone(resolver)));
    }
}

async fn watch_name(server: Arc<Server>, interval: Duration, resolver: Resolver) {
    let mut name = Name::new(server);
    let mut hanging = None;
    loop {
        tokio::time::sleep(interval).await;
        let mut answer = match hanging.take() {
            Some(answer) => answer,
            None => match look_up(name.server.target(), &resolver) {
                Ok(answer) => answer,
                Err(error) => {
                    name.note(Err(error));
                    continue;
                }
            },
        };
        match tokio::time::timeout(WAIT_MAX, &mut answer).await {
            Ok(Ok(answer)) => name.note(answer),
            Ok(Err(_)) => name.note(Err(io::Error::other("the look-up has failed"))),
            Err(_) => {
                name.note(Err(io::ErrorKind::TimedOut.into()));
                hanging = Some(answer);
            }
        }
    }
}

/// Begins a look-up on a thread of its own.
fn look_up(target: &Target, resolver: &Resolver) -> io::Result<oneshot::Receiver<Answer>> {
    let (tell, told) = oneshot::channel();
    let (target, resolver) = (target.clone(), Arc::clone(resolver));
    let work = move || {
        // Nobody waits for it any more when the watch has ended.
        let _ = tell.send(resolver(&target));
    };
    std::thread::Builder::new().name("resolve".to_owned()).spawn(work)?;
    Ok(told)
}

/// A server's name, and whether it was last resolved.
pub(super) struct Name {
    server: Arc<Server>,
    is_failing: bool,
}

impl Name {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self { server, is_failing: false }
    }

    /// Takes in an answer. A failure is told when it begins and when it is over.
    pub(super) fn note(&mut self, answer: Answer) {
        let server = &self.server;
        let (upstream, name, target) = (server.upstream_name(), server.name(), server.target());
        match answer {
            Ok(addrs) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(upstream, server = name, %target, "name resolved again");
                }
                if server.set_addrs(addrs) {
                    let addrs = server.addrs();
                    tracing::info!(upstream, server = name, %target, ?addrs, "addresses changed");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(upstream, server = name, %target, %error, "name not resolved: the addresses stay as they were");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
