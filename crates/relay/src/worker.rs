//! One worker: a thread, a runtime, a listener, and the sessions that it accepted.

use crate::listener::Listener;
use crate::live::Registry;
use crate::origin;
use crate::relay::{Shared, Stage};
use crate::session::{self, Accepted};
use crate::upstream::{Unconnected, Upstream};
use rustix::io::Errno;
use socket2::Socket;
use sosplice::store::{PIPE_BYTES, Store};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};

/// Between two tries to accept when descriptors have run out: sessions must end first.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What the sessions of one worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) upstream: Arc<Upstream>,
    /// Where sessions tell their counts; only with the built-in origin.
    pub(crate) registry: Option<Arc<Registry>>,
    sessions: AtomicUsize,
    /// The last session has ended.
    empty: Notify,
    /// Only with busy polling.
    spin: Option<Spin>,
}

#[derive(Debug)]
struct Spin {
    time: Duration,
    moves: AtomicU64,
    moved: Notify,
}

/// Runs until the relay stops; `origin` is the listener of the built-in origin, which
/// this worker then serves itself.
pub(crate) fn run(
    shared: Arc<Shared>,
    upstream: Arc<Upstream>,
    listener: Socket,
    origin: Option<std::net::TcpListener>,
    stage: watch::Receiver<Stage>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spin = (!shared.busy_poll.is_zero()).then(|| Spin {
        time: shared.busy_poll,
        moves: AtomicU64::new(0),
        moved: Notify::new(),
    });
    let worker = Arc::new(Worker {
        registry: origin.is_some().then(Arc::default),
        shared,
        upstream,
        sessions: AtomicUsize::new(0),
        empty: Notify::new(),
        spin,
    });
    sosplice::tokio::set_thread_store(Store::new(PIPE_BYTES, worker.shared.pipes_per_worker));
    runtime.block_on(async {
        if let (Some(listener), Some(registry)) = (origin, &worker.registry) {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(origin::serve(listener, passages(Arc::clone(registry))));
        }
        if worker.spin.is_some() {
            tokio::spawn(spin_while_busy(Arc::clone(&worker)));
        }
        worker.accept(Listener::new(listener)?, stage.clone()).await;
        worker.drain(stage).await;
        Ok(())
    })
    // The runtime is dropped here, and with it what still runs.
}

impl Worker {
    /// Accepts until the relay no longer does.
    async fn accept(self: &Arc<Self>, listener: Listener, mut stage: watch::Receiver<Stage>) {
        let mut stopping = pin!(stage.wait_for(|stage| *stage != Stage::Running));
        let mut exhausted = false;
        loop {
            // What the next session needs first, so that no client is accepted who could
            // not be served.
            let ready = match Unconnected::likely(self.upstream.socket_hint()) {
                Ok(upstream) => tokio::select! {
                    biased;
                    _ = &mut stopping => return,
                    accepted = listener.accept() => accepted.map(|client| (client, upstream)),
                },
                Err(error) => Err(error),
            };
            match ready {
                Ok(((fd, addr), upstream)) => {
                    if std::mem::take(&mut exhausted) {
                        tracing::info!("accepting again");
                    }
                    let permit = tokio::select! {
                        biased;
                        _ = &mut stopping => {
                            // A FIN would look like an empty answer.
                            let _ = sosplice::sys::reset_on_close(&fd);
                            self.shared.stats.refused();
                            tracing::info!(client = %addr, cause = "stopping", "connection refused");
                            return;
                        }
                        permit = self.permit() => permit,
                    };
                    self.start(Accepted { fd, addr, upstream }, permit);
                }
                Err(error) if is_exhausted(&error) => {
                    if !std::mem::replace(&mut exhausted, true) {
                        tracing::warn!(%error, "accepting paused until sessions end; raise the limit (ulimit -n) or lower --max-connections");
                    }
                    tokio::select! {
                        _ = &mut stopping => return,
                        () = tokio::time::sleep(EXHAUSTED_PAUSE) => {}
                    }
                }
                // The client gave up before it was accepted, or its network failed:
                // accept(2) reports such errors of the connection as its own. The pause is
                // against one that stays.
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    /// One of `--max-connections`, waited for: meanwhile further clients stay in the
    /// backlog.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.shared.permits).acquire_owned().await.ok()
    }

    fn start(self: &Arc<Self>, client: Accepted, permit: Option<OwnedSemaphorePermit>) {
        self.shared.stats.accepted();
        self.sessions.fetch_add(1, Ordering::Relaxed);
        let worker = Arc::clone(self);
        tokio::spawn(async move {
            // Counted out when the task ends in whatever way.
            let _present = Present(&worker, permit);
            session::run(Arc::clone(&worker), client).await;
        });
    }

    /// Waits until the sessions have ended, at most for the drain time.
    async fn drain(&self, mut stage: watch::Receiver<Stage>) {
        let empty = async {
            // The permit of a notification that came first is kept by Notify.
            while self.sessions.load(Ordering::Relaxed) > 0 {
                self.empty.notified().await;
            }
        };
        tokio::select! {
            () = empty => {}
            _ = stage.wait_for(|stage| *stage == Stage::Cut) => {}
        }
        let cut = self.sessions.load(Ordering::Relaxed);
        if cut > 0 {
            tracing::warn!(
                sessions = cut,
                "sessions cut: they had not ended within the drain time"
            );
        }
    }

    /// A session was polled: the sign of work for busy polling.
    pub(crate) fn moved(&self) {
        if let Some(spin) = &self.spin {
            spin.moves.fetch_add(1, Ordering::Relaxed);
            spin.moved.notify_one();
        }
    }
}

/// A session's presence on its worker.
struct Present<'w>(&'w Worker, Option<OwnedSemaphorePermit>);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        drop(self.1.take());
        if self.0.sessions.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.empty.notify_one();
        }
    }
}

/// Descriptors or memory have run out.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// Keeps the worker from sleeping for a while after each move (`--busy-poll-us`): each
/// yield makes the runtime look for events without waiting.
async fn spin_while_busy(worker: Arc<Worker>) {
    let Some(spin) = &worker.spin else { return };
    let mut seen = 0;
    let mut until = Instant::now();
    loop {
        let moves = spin.moves.load(Ordering::Relaxed);
        let now = Instant::now();
        if moves != seen {
            seen = moves;
            until = now + spin.time;
        }
        if now < until {
            tokio::task::yield_now().await;
        } else {
            spin.moved.notified().await;
        }
    }
}

/// What the origin may ask about the connections that reach it.
fn passages(registry: Arc<Registry>) -> origin::Lookup {
    Arc::new(move |relay_end| {
        let live = registry.find(relay_end)?;
        let (up, down) = live.load();
        Some(origin::Passage {
            client: live.client,
            up_copy: up.copy,
            up_pipe: up.pipe,
            down_copy: down.copy,
            down_pipe: down.pipe,
        })
    })
}
