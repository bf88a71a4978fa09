//! One worker: a thread, a runtime, its listeners, and the sessions that it accepted.

use crate::crew::{Crew, Handed, Load, Order, Present};
use crate::gate::{Gate, Inside};
use crate::graph::{Binding, ListenerKey, Tally};
use crate::http::Pool;
use crate::listener::{Closed, Listener};
use crate::live::{Registry, Sessions};
use crate::origin;
use crate::plan::Protocol;
use crate::service::{Shared, Stage};
use crate::session::{self, Accepted};
use crate::upstream::{Server, Unconnected, Upstream};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use socket2::Socket;
use sosplice::store::{PIPE_BYTES, Store};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};

/// Between two tries to accept when descriptors have run out: sessions must end first.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What a worker begins with.
pub(crate) struct Start {
    pub(crate) number: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) sessions: Arc<Sessions>,
    /// The listener of the built-in origin, which the worker serves itself, and the way to it.
    pub(crate) origin: Option<(std::net::TcpListener, Arc<Upstream>)>,
    pub(crate) crew: Arc<Crew>,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
    pub(crate) stage: watch::Receiver<Stage>,
}

/// What a worker is to listen on from now on, and for whom. Listeners that it has and that are
/// not named are closed, once what the kernel has accepted for them is served.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) bindings: Vec<(ListenerKey, Binding)>,
    /// Those of them that are new.
    pub(crate) sockets: Vec<(ListenerKey, Socket)>,
    /// For those that go.
    pub(crate) closed: Closed,
}

/// What the sessions of one worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) sessions: Arc<Sessions>,
    origin: Option<Arc<Upstream>>,
    /// Unused connections to HTTP servers.
    pub(crate) pool: Arc<Pool<Server>>,
    /// Where sessions tell their counts to the built-in origin.
    pub(crate) registry: Option<Arc<Registry>>,
    stage: watch::Receiver<Stage>,
    /// This worker and the others.
    crew: Arc<Crew>,
    /// Only with busy polling.
    spin: Option<Spin>,
}

#[derive(Debug)]
struct Spin {
    time: Duration,
    moves: AtomicU64,
    moved: Notify,
}

/// A listener's relay as it is now; None once the listener is to go, or the service stops. Each
/// worker has one of its own, which its sessions ask.
#[derive(Debug)]
pub(crate) struct Slot {
    key: ListenerKey,
    binding: watch::Sender<Option<Arc<Binding>>>,
}

impl Slot {
    fn new(key: ListenerKey, binding: Binding) -> Self {
        Self { key, binding: watch::Sender::new(Some(Arc::new(binding))) }
    }

    /// Asked at each accept, and by HTTP before each request.
    pub(crate) fn binding(&self) -> Option<Arc<Binding>> {
        self.binding.borrow().clone()
    }

    /// Done once the listener is to go.
    pub(crate) async fn gone(&self) {
        // The sender is here, so that it cannot be gone.
        let _ = self.binding.subscribe().wait_for(Option::is_none).await;
    }

    fn set(&self, binding: Option<Binding>) {
        self.binding.send_replace(binding.map(Arc::new));
    }
}

/// A listener that is served.
struct Listening {
    slot: Arc<Slot>,
    listener: Arc<Listener>,
}

/// Runs until the service stops.
pub(crate) fn run(start: Start) -> io::Result<()> {
    let Start { number, shared, sessions, origin, crew, orders, stage } = start;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spin = (!shared.busy_poll.is_zero()).then(|| Spin {
        time: shared.busy_poll,
        moves: AtomicU64::new(0),
        moved: Notify::new(),
    });
    let (listener, origin) = origin.unzip();
    let worker = Arc::new(Worker {
        number,
        shared,
        sessions,
        registry: origin.is_some().then(Arc::default),
        origin,
        pool: Arc::default(),
        stage: stage.clone(),
        crew,
        spin,
    });
    sosplice::tokio::set_thread_store(Store::new(PIPE_BYTES, worker.shared.pipes_per_worker));
    runtime.block_on(async {
        if let (Some(listener), Some(registry)) = (listener, &worker.registry) {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(origin::serve(listener, passages(Arc::clone(registry))));
        }
        if worker.spin.is_some() {
            tokio::spawn(spin_while_busy(Arc::clone(&worker)));
        }
        worker.listen(orders, stage.clone()).await;
        worker.drain(stage).await;
        Ok(())
    })
    // The runtime is dropped here, and with it what still runs.
}

impl Worker {
    /// Serves listeners as it is told, until the service accepts no more.
    async fn listen(
        self: &Arc<Self>,
        mut orders: mpsc::UnboundedReceiver<Order>,
        mut stage: watch::Receiver<Stage>,
    ) {
        let mut stopping = pin!(stage.wait_for(|stage| *stage != Stage::Running));
        let mut listening = HashMap::new();
        loop {
            let order = tokio::select! {
                biased;
                _ = &mut stopping => break,
                Some(order) = orders.recv() => order,
            };
            match order {
                Order::Serve(handed) => self.take(&listening, handed),
                Order::Deploy(deployment) => {
                    if let Err(error) = self.deploy(&mut listening, deployment) {
                        tracing::error!(worker = self.number, %error, "cannot listen");
                    }
                }
            }
        }
        // From here on the others keep theirs. Whom they had handed over was accepted before.
        orders.close();
        while let Some(order) = orders.recv().await {
            if let Order::Serve(handed) = order {
                self.take(&listening, handed);
            }
        }
        listening.values().for_each(|listening| listening.slot.set(None));
    }

    fn deploy(
        self: &Arc<Self>,
        listening: &mut HashMap<ListenerKey, Listening>,
        deployment: Deployment,
    ) -> io::Result<()> {
        let Deployment { bindings, sockets, closed } = deployment;
        let mut bindings: HashMap<_, _> = bindings.into_iter().collect();
        listening.retain(|key, Listening { slot, listener }| {
            let binding = bindings.remove(key);
            let stays = binding.is_some();
            if let (Some(now), Some(before)) = (&binding, slot.binding()) {
                let congestion = |binding: &Binding| binding.relay.plan.congestion.clone();
                listener.set_congestion(congestion(&before), congestion(now));
            }
            if !stays {
                listener.tell(closed.clone());
            }
            slot.set(binding);
            stays
        });
        for (key, socket) in sockets {
            let Some(binding) = bindings.remove(&key) else { continue };
            let listener = Arc::new(Listener::new(socket)?);
            let slot = Arc::new(Slot::new(key.clone(), binding));
            let (slot_too, listener_too) = (Arc::clone(&slot), Arc::clone(&listener));
            listening.insert(key, Listening { slot: slot_too, listener: listener_too });
            let worker = Arc::clone(self);
            tokio::spawn(async move { worker.accept(listener, slot).await });
        }
        Ok(())
    }

    /// Accepts until the listener is to go.
    async fn accept(self: &Arc<Self>, listener: Arc<Listener>, slot: Arc<Slot>) {
        let Some(mut binding) = slot.binding() else { return };
        // Outside of what is ended in the middle, so that nobody is lost.
        let mut waiting = None;
        tokio::select! {
            biased;
            () = slot.gone() => {}
            () = self.accept_each(&listener, &slot, &mut binding, &mut waiting) => {}
        }
        self.leave(&listener, &binding, &slot, waiting);
    }

    /// Accepts one after the other, each when there is room for it; whoever waits for room is in
    /// `waiting`.
    async fn accept_each(
        self: &Arc<Self>,
        listener: &Listener,
        slot: &Arc<Slot>,
        binding: &mut Arc<Binding>,
        waiting: &mut Option<(OwnedFd, SocketAddr)>,
    ) {
        let mut exhausted = false;
        while let Some(current) = slot.binding() {
            *binding = current;
            // What the next session needs first, so that no client is accepted who could
            // not be served.
            let ready = match self.upstream_socket(binding) {
                Ok(upstream) => listener.accept().await.map(|client| (client, upstream)),
                Err(error) => Err(error),
            };
            match ready {
                Ok((client, upstream)) => {
                    if std::mem::take(&mut exhausted) {
                        tracing::info!("accepting again");
                    }
                    *waiting = Some(client);
                    let permits = self.enter(slot, binding).await;
                    let Some((fd, addr)) = waiting.take() else { return };
                    let (binding, slot) = (Arc::clone(binding), Arc::clone(slot));
                    self.start(Accepted { fd, addr, upstream, binding, slot }, permits);
                }
                Err(error) if is_exhausted(&error) => {
                    if !std::mem::replace(&mut exhausted, true) {
                        tracing::warn!(%error, "accepting paused until sessions end; raise the limit (ulimit -n) or lower --max-connections");
                    }
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
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

    /// The listener goes. When the service stops, who waits is told so. When a reload has taken
    /// the listener away, those whom the kernel has accepted already are served, each when there
    /// is room: closed, the socket would reset them.
    fn leave(
        self: &Arc<Self>,
        listener: &Listener,
        binding: &Arc<Binding>,
        slot: &Arc<Slot>,
        waiting: Option<(OwnedFd, SocketAddr)>,
    ) {
        if *self.stage.borrow() != Stage::Running {
            if let Some((fd, addr)) = waiting {
                self.refuse_stopping(binding, &fd, addr);
            }
            return;
        }
        let backlog = std::iter::from_fn(|| listener.accept_now().ok());
        for (fd, addr) in waiting.into_iter().chain(backlog) {
            let (binding, slot) = (Arc::clone(binding), Arc::clone(slot));
            self.start_later(Accepted { fd, addr, upstream: None, binding, slot });
        }
    }

    /// Starts a session when there is room, unless the service stops before.
    fn start_later(self: &Arc<Self>, client: Accepted) {
        let worker = Arc::clone(self);
        tokio::spawn(async move {
            let _present = Present::new(worker.load());
            let mut stage = worker.stage.clone();
            tokio::select! {
                biased;
                permits = worker.enter_for(&client.binding) => worker.start(client, permits),
                _ = stage.wait_for(|stage| *stage != Stage::Running) => {
                    worker.refuse_stopping(&client.binding, &client.fd, client.addr);
                }
            }
        });
    }

    fn refuse_stopping(&self, binding: &Binding, client: &OwnedFd, addr: SocketAddr) {
        // A FIN would look like an empty answer.
        let _ = sosplice::sys::reset_on_close(client);
        self.tally(binding).refused.add(1);
        let relay = binding.relay.plan.told_name();
        tracing::info!(relay, client = %addr, cause = "stopping", "connection refused");
    }

    /// Where a relay's sessions go unless a rule says otherwise.
    pub(crate) fn upstream<'b>(&'b self, binding: &'b Binding) -> Option<&'b Arc<Upstream>> {
        binding.relay.upstream().or(self.origin.as_ref())
    }

    /// A socket for the upstream that is tried first, as far as that is known; None where
    /// a connection may be there already.
    fn upstream_socket(&self, binding: &Binding) -> io::Result<Option<Unconnected>> {
        if matches!(binding.relay.plan.protocol, Protocol::Http(_)) {
            return Ok(None);
        }
        let usual = self.upstream(binding).and_then(|upstream| upstream.socket_hint());
        Unconnected::likely(usual).map(Some)
    }

    /// One of the relay's and of the whole service's sessions, waited for: meanwhile further
    /// clients stay in the backlog. A reload meanwhile may have made the listener another relay's.
    async fn enter(&self, slot: &Slot, binding: &mut Arc<Binding>) -> Permits {
        loop {
            let permits = self.enter_for(binding).await;
            let Some(current) = slot.binding() else { return permits };
            let same = Arc::ptr_eq(&current.relay.counts, &binding.relay.counts);
            *binding = current;
            if same {
                return permits;
            }
        }
    }

    async fn enter_for(&self, binding: &Binding) -> Permits {
        Permits {
            _of_relay: Gate::enter(&binding.relay.counts.gate).await,
            _of_all: Gate::enter(&self.shared.gate).await,
        }
    }

    /// Serves a client, or has it served by a worker that has clearly fewer.
    fn start(self: &Arc<Self>, client: Accepted, permits: Permits) {
        let Some(other) = self.crew.relief(self.number) else {
            return self.serve(client, permits, Present::new(self.load()));
        };
        let present = Present::new(self.crew.load(other));
        if let Err(back) = self.crew.hand(other, Handed { client, permits, present }) {
            let Handed { client, permits, .. } = *back;
            self.serve(client, permits, Present::new(self.load()));
        }
    }

    /// Serves a client that another worker has accepted.
    fn take(self: &Arc<Self>, listening: &HashMap<ListenerKey, Listening>, handed: Handed) {
        let Handed { mut client, permits, present } = handed;
        // A reload may have reached the other worker only, then or by now: the other's slot is
        // as good, but both write to its memory.
        if let Some(Listening { slot, .. }) = listening.get(&client.slot.key) {
            client.slot = Arc::clone(slot);
        }
        self.serve(client, permits, present);
    }

    fn serve(self: &Arc<Self>, client: Accepted, permits: Permits, present: Present) {
        self.tally(&client.binding).accepted.add(1);
        let worker = Arc::clone(self);
        tokio::spawn(async move {
            // Counted out when the task ends in whatever way.
            let (_present, _permits) = (present, permits);
            let entered = worker.sessions.enter(Arc::clone(&client.binding.relay), client.addr);
            // Made in place: an argument would keep a second room for it.
            let mut session = pin!(session::run(&worker, &entered.live, client));
            poll_fn(|cx| {
                if entered.live.poll_killed(cx) {
                    return Poll::Ready(());
                }
                session.as_mut().poll(cx)
            })
            .await;
        });
    }

    /// Waits until the sessions have ended, at most for the drain time.
    async fn drain(&self, mut stage: watch::Receiver<Stage>) {
        tokio::select! {
            () = self.load().empty() => {}
            _ = stage.wait_for(|stage| *stage == Stage::Cut) => {}
        }
        let cut = self.load().sessions();
        if cut > 0 {
            tracing::warn!(
                sessions = cut,
                "sessions cut: they had not ended within the drain time"
            );
        }
    }

    fn load(&self) -> &Arc<Load> {
        self.crew.load(self.number)
    }

    /// What this worker has done for a relay.
    pub(crate) fn tally<'b>(&self, binding: &'b Binding) -> &'b Tally {
        &binding.relay.counts.tallies[self.number]
    }

    /// A session was polled: the sign of work for busy polling.
    pub(crate) fn moved(&self) {
        if let Some(spin) = &self.spin {
            spin.moves.fetch_add(1, Ordering::Relaxed);
            spin.moved.notify_one();
        }
    }
}

/// A session's leave to be there, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permits {
    _of_relay: Inside,
    _of_all: Inside,
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
            client: live.client(),
            up_copy: up.copy,
            up_pipe: up.pipe,
            down_copy: down.copy,
            down_pipe: down.pipe,
        })
    })
}
