//! Start, reload and stop: names resolved, listeners bound, workers started, signals obeyed.
//!
//! What goes wrong at the start ends it; what goes wrong at a reload leaves everything as it
//! was. Listeners that stay keep their sockets, sessions that run keep what they have, so a
//! reload refuses nobody.

mod sockets;

use crate::counted::counted;
use crate::crew::Crew;
use crate::error::Error;
use crate::gate::Gate;
use crate::graph::{Count, Graph, ListenerKey};
use crate::live::{Numbers, Sessions};
use crate::plan::Plan;
use crate::room::Room;
use crate::upstream::{self, Upstream, Watch};
use crate::worker::{self, Deployment};
use crate::{admin, control, udp};
use sockets::Sockets;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

/// Workers that are so busy that a listener takes longer to go are not waited for.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// What all workers read.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) busy_poll: Duration,
    /// Sessions of all TCP and HTTP relays.
    pub(crate) gate: Arc<Gate>,
    pub(crate) pipes_per_worker: usize,
    /// Whether each session and request gets a line in the log.
    pub(crate) logs_access: bool,
}

/// How far the service has come towards its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Running,
    /// Accepts no more.
    Draining,
    /// Waits no longer.
    Cut,
}

/// Where a new plan comes from when a reload is asked for; what is wrong with it is a text for
/// the log.
pub type Source = Box<dyn Fn() -> Result<Plan, String> + Send + Sync>;

/// Running relays.
pub struct Service {
    state: Arc<State>,
    control: Option<control::Socket>,
    admin: Option<TcpListener>,
    /// Ends when no worker is left, of whichever kind.
    alive: mpsc::Receiver<Infallible>,
    signals: Signals,
}

/// What is running, for the control thread and for those who ask.
pub(crate) struct State {
    workers: usize,
    source: Option<Source>,
    /// Of each worker, those of streams.
    pub(crate) sessions: Vec<Arc<Sessions>>,
    stage: watch::Sender<Stage>,
    running: Mutex<Running>,
    /// One at a time; the running state is locked only while a reload takes effect.
    reload: Mutex<()>,
    reloaded: Count,
    not_reloaded: Count,
    pub(crate) began: SystemTime,
}

/// What a reload changes.
struct Running {
    plan: Plan,
    graph: Arc<Graph>,
    /// What the limit on descriptors allows.
    room: Room,
    /// Sessions of all TCP and HTTP relays, as many as there is room for.
    gate: Arc<Gate>,
    /// Where the listeners really are.
    bound: HashMap<ListenerKey, SocketAddr>,
    /// None where nothing is for them to serve.
    crew: Option<Arc<Crew>>,
    threads: Vec<JoinHandle<()>>,
    datagrams: HashMap<ListenerKey, udp::Group>,
    datagram_numbers: Arc<Numbers>,
    /// Those that are no longer in the plan, and may have sessions still.
    leaving: Vec<(ListenerKey, udp::Group)>,
    /// Workers hold the other ends.
    alive: mpsc::WeakSender<Infallible>,
    /// Checks of health and of names. None before the start is complete.
    watch: Option<Watch>,
}

/// Signals, and the runtime that they are delivered to.
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    /// Only where there is something to reload.
    hangup: Option<Signal>,
}

impl Signals {
    fn catch(reloads: bool) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = reloads.then(|| signal(SignalKind::hangup())).transpose()?;
        drop(context);
        Ok(Self { runtime, terminate, interrupt, hangup })
    }
}

impl Service {
    /// Resolves, binds, and starts the workers. With a `source` SIGHUP reloads.
    ///
    /// # Errors
    /// A target that does not resolve, an address or a control socket that cannot be had, a
    /// thread that the kernel refuses.
    pub fn start(plan: Plan, source: Option<Source>) -> Result<Self, Error> {
        // Before anybody can connect: a signal from then on is an orderly end.
        let signals =
            Signals::catch(source.is_some()).map_err(|source| Error::Signals { source })?;
        let workers = plan.workers.max(1);
        let control = plan.control.as_deref().map(control::Socket::bind).transpose()?;
        let admin = plan.admin.map(admin::bind).transpose()?;
        let graph = Arc::new(Graph::new(&plan, workers, None)?);
        let room = Room::new(&plan, workers)?;
        let (alive_sender, alive) = mpsc::channel(1);
        let (numbers, datagram_numbers) = Numbers::sources(workers);
        let mut running = Running {
            plan,
            graph: Arc::clone(&graph),
            gate: Gate::new(Some(room.max_connections)),
            room,
            bound: HashMap::new(),
            crew: None,
            threads: Vec::new(),
            datagrams: HashMap::new(),
            datagram_numbers: Arc::new(datagram_numbers),
            leaving: Vec::new(),
            alive: alive_sender.downgrade(),
            watch: None,
        };
        let sockets = Sockets::bind(&graph, workers, &running.bound)?;
        let (stage, _) = watch::channel(Stage::Running);
        let sessions: Vec<_> =
            numbers.into_iter().map(|numbers| Arc::new(Sessions::new(numbers))).collect();
        if source.is_some() || graph.stream_listeners().next().is_some() {
            running.start_workers(&sessions, &stage, alive_sender.clone())?;
        }
        let room = running.room.clone();
        running.deploy(graph, sockets, room, &alive_sender)?;
        let context = signals.runtime.enter();
        running.watch = Some(upstream::watch(&running.graph.upstreams));
        drop(context);
        let running = Mutex::new(running);
        let state = Arc::new(State {
            workers,
            source,
            sessions,
            stage,
            running,
            reload: Mutex::default(),
            reloaded: Count::default(),
            not_reloaded: Count::default(),
            began: SystemTime::now(),
        });
        Ok(Self { state, control, admin, alive, signals })
    }

    /// Where it listens: the name of each relay and its addresses.
    #[must_use]
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        self.state.listeners()
    }

    /// Where metrics and health are told.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// Runs until SIGTERM or SIGINT; then accepts no more and lets running sessions end,
    /// at most for the drain time. A second signal ends at once.
    ///
    /// # Errors
    /// [`Error::WorkersFailed`] when none is left; each has logged why.
    pub fn run(self) -> Result<(), Error> {
        let Self { state, control, admin, mut alive, signals } = self;
        let Signals { runtime, mut terminate, mut interrupt, hangup } = signals;
        let ended = runtime.block_on(async {
            if let Some(hangup) = hangup {
                tokio::spawn(reload_at_hangup(Arc::clone(&state), hangup));
            }
            // Both are served until the last session has ended.
            let _control = control.map(|socket| socket.serve(Arc::clone(&state)));
            if let Some(listener) = admin {
                admin::serve(listener, Arc::clone(&state));
            }
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = alive.recv() => return Err(Error::WorkersFailed),
            }
            tracing::info!("stopping: accepting no more, waiting for running sessions");
            state.tell(Stage::Draining);
            let drain_timeout = state.running().plan.drain_timeout;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = tokio::time::sleep(drain_timeout) => {}
                _ = alive.recv() => {}
            }
            state.tell(Stage::Cut);
            Ok(())
        });
        if ended.is_ok() {
            state.join();
            state.log_counts();
        }
        // A name that is just being resolved is not waited for.
        runtime.shutdown_background();
        ended
    }
}

/// Several signals during one reload are one.
async fn reload_at_hangup(state: Arc<State>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        // Its outcome is in the log.
        let _ = state.reload_aside().await;
    }
}

impl State {
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, stage: Stage) {
        self.stage.send_replace(stage);
        let running = self.running();
        let leaving = running.leaving.iter().map(|(_, group)| group);
        running.datagrams.values().chain(leaving).for_each(|group| group.tell(stage));
    }

    /// Where the workers of datagrams are asked about their sessions.
    pub(crate) fn desks(&self) -> Vec<udp::Desk> {
        let running = self.running();
        let leaving = running.leaving.iter().map(|(_, group)| group);
        let all = running.datagrams.values().chain(leaving);
        all.flat_map(|group| group.desks().iter().cloned()).collect()
    }

    pub(crate) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    pub(crate) fn graph(&self) -> Arc<Graph> {
        Arc::clone(&self.running().graph)
    }

    /// The name of each relay and its addresses.
    pub(crate) fn listeners(&self) -> Vec<(String, SocketAddr)> {
        let running = self.running();
        let all = running.graph.stream_listeners().chain(running.graph.datagram_listeners());
        all.map(|(key, binding)| {
            let addr = running.bound.get(&key).copied().unwrap_or(key.address);
            (binding.relay.plan.name.clone(), addr)
        })
        .collect()
    }

    /// Reloads so far: those that were done, and those that were not.
    pub(crate) fn reloads(&self) -> (u64, u64) {
        (self.reloaded.get(), self.not_reloaded.get())
    }

    /// Reloads on a thread of its own, so that others are served meanwhile. To be called in the
    /// control thread's runtime. The outcome is in the log as well.
    ///
    /// # Errors
    /// Why everything is as it was.
    pub(crate) async fn reload_aside(self: &Arc<Self>) -> Result<String, String> {
        let (state, runtime) = (Arc::clone(self), Handle::current());
        let (done, outcome) = oneshot::channel();
        // Not one of the runtime's, which stay for a while, and which its end would wait for.
        let work = move || {
            let _context = runtime.enter();
            // Who has asked may be gone.
            let _ = done.send(state.reload());
        };
        let done = match std::thread::Builder::new().name("reload".to_owned()).spawn(work) {
            Ok(_) => outcome.await.unwrap_or_else(|_panic| Err("it has failed, see stderr".into())),
            Err(error) => Err(format!("no thread can be had for it: {error}")),
        };
        match &done {
            Ok(told) => {
                self.reloaded.add(1);
                tracing::info!(%told, "reloaded");
            }
            Err(why) => {
                self.not_reloaded.add(1);
                tracing::error!(%why, "not reloaded: what runs goes on as it is");
            }
        }
        done
    }

    /// Takes a new plan from the source, all of it or nothing. Names are resolved, so it may
    /// take a while; and it must be called in the control thread's runtime. The answer tells
    /// what was done.
    ///
    /// # Errors
    /// A text that says what is wrong; everything is then as it was.
    fn reload(&self) -> Result<String, String> {
        let _one = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let source = self.source.as_ref().ok_or("there is no configuration file to read again")?;
        let plan = source()?;
        if let Some(why) = fixed(&self.running().plan, &plan) {
            return Err(why);
        }
        let text = |error: Error| error.to_string();
        let graph = Graph::new(&plan, self.workers, Some(&self.graph())).map_err(text)?;
        let graph = Arc::new(graph);
        let room = Room::new(&plan, self.workers).map_err(text)?;
        let mut running = self.running();
        // Looked at under the lock: who stops tells first, and then whatever runs.
        if self.stage() != Stage::Running {
            return Err("the service is stopping".to_owned());
        }
        let alive = running.alive.upgrade().ok_or("no worker is left")?;
        running.make_way(&graph);
        let sockets = Sockets::bind(&graph, self.workers, &running.bound).map_err(text)?;
        let (new, gone) = (sockets.bound.clone(), running.gone(&graph));
        running.deploy(Arc::clone(&graph), sockets, room, &alive).map_err(text)?;
        running.watch = Some(upstream::watch(&running.graph.upstreams));
        for (key, binding) in graph.stream_listeners().chain(graph.datagram_listeners()) {
            if let Some(addr) = new.get(&key) {
                let (relay, workers) = (&*binding.relay.plan.name, self.workers);
                tracing::info!(relay, %addr, workers, "listening");
            }
        }
        let told = format!(
            "{}, {}, {}, {gone} gone",
            counted(plan.relays.len() as u64, "relay"),
            counted(plan.upstreams.len() as u64, "upstream"),
            counted(new.len() as u64, "new listener"),
        );
        running.plan = plan;
        Ok(told)
    }

    /// Waits for all threads. A panic was printed by its own.
    fn join(&self) {
        let (threads, groups) = {
            let mut running = self.running();
            let threads = std::mem::take(&mut running.threads);
            let mut groups: Vec<_> = running.leaving.drain(..).map(|(_, group)| group).collect();
            groups.extend(running.datagrams.drain().map(|(_, group)| group));
            (threads, groups)
        };
        let ended: Vec<_> = threads.into_iter().map(JoinHandle::join).collect();
        drop(ended);
        groups.into_iter().for_each(udp::Group::join);
    }

    fn log_counts(&self) {
        let running = self.running();
        let sum = |count: fn(&crate::graph::Tally) -> &crate::graph::Count| -> u64 {
            let tallies = running.graph.relays.iter().flat_map(|relay| &relay.counts.tallies);
            tallies.map(|tally| count(tally).get()).sum()
        };
        let datagrams = running.graph.datagram_listeners().next().is_some();
        tracing::info!(
            accepted = sum(|tally| &tally.accepted),
            refused = sum(|tally| &tally.refused),
            evicted = datagrams.then(|| sum(|tally| &tally.evicted)),
            dropped = datagrams.then(|| sum(|tally| &tally.dropped)),
            "stopped"
        );
    }
}

/// What differs between two plans and a reload does not change.
fn fixed(before: &Plan, now: &Plan) -> Option<String> {
    let what = if before.workers != now.workers {
        "workers"
    } else if before.busy_poll != now.busy_poll {
        "busy-poll-us"
    } else if before.max_connections != now.max_connections {
        "max-connections"
    } else if before.control != now.control {
        "control"
    } else if before.admin != now.admin {
        "admin"
    } else if before.log != now.log {
        "log"
    } else if now.uses_origin() && !before.uses_origin() {
        "the built-in origin"
    } else {
        return None;
    };
    Some(format!("{what} cannot change while it runs: restart to change it"))
}

impl Running {
    /// An address of datagrams that is wanted again, by whichever relay, while sessions of a relay
    /// that is gone still use it: they end, for a session that is never silent would keep it for ever.
    /// Their clients have a new one with the next datagram.
    fn make_way(&mut self, graph: &Graph) {
        let wanted: Vec<_> = graph.datagram_listeners().map(|(key, _)| key.address).collect();
        // Where the kernel chooses the port, nobody is in the way.
        let is_wanted = |key: &ListenerKey| key.address.port() > 0 && wanted.contains(&key.address);
        for (_, group) in self.leaving.extract_if(.., |(key, _)| is_wanted(key)) {
            group.cancel();
        }
    }

    /// How many listeners are not in `graph`.
    fn gone(&self, graph: &Graph) -> usize {
        let stay: Vec<ListenerKey> = graph
            .stream_listeners()
            .chain(graph.datagram_listeners())
            .map(|(key, _)| key)
            .collect();
        self.bound.keys().filter(|key| !stay.contains(key)).count()
    }

    fn start_workers(
        &mut self,
        sessions: &[Arc<Sessions>],
        stage: &watch::Sender<Stage>,
        alive: mpsc::Sender<Infallible>,
    ) -> Result<(), Error> {
        let shared = Arc::new(Shared {
            busy_poll: self.plan.busy_poll,
            gate: Arc::clone(&self.gate),
            pipes_per_worker: usize::try_from(self.room.pipes_per_worker).unwrap_or(usize::MAX),
            logs_access: self.plan.log.access,
        });
        let (crew, orders) = Crew::new(sessions.len());
        self.crew = Some(Arc::clone(&crew));
        for ((number, sessions), orders) in sessions.iter().enumerate().zip(orders) {
            // Each worker serves an origin of its own, on its own thread, so that what
            // the origin tells of a connection is up to date.
            let origin = self
                .plan
                .uses_origin()
                .then(|| {
                    let (listener, addr) =
                        sockets::origin().map_err(|source| Error::Origin { source })?;
                    Ok::<_, Error>((listener, Upstream::fixed(addr)?))
                })
                .transpose()?;
            let (shared, sessions) = (Arc::clone(&shared), Arc::clone(sessions));
            let (crew, stage) = (Arc::clone(&crew), stage.subscribe());
            let start = worker::Start { number, shared, sessions, origin, crew, orders, stage };
            let alive = alive.clone();
            let work = move || {
                if let Err(error) = worker::run(start) {
                    tracing::error!(worker = number, %error, "worker failed");
                }
                drop(alive);
            };
            let thread = std::thread::Builder::new().name(format!("relay-{number}")).spawn(work);
            self.threads.push(thread.map_err(|source| Error::Worker { worker: number, source })?);
        }
        Ok(())
    }

    /// Everything is there: hands it out.
    fn deploy(
        &mut self,
        graph: Arc<Graph>,
        sockets: Sockets,
        room: Room,
        alive: &mpsc::Sender<Infallible>,
    ) -> Result<(), Error> {
        let Sockets { bound, streams, datagrams } = sockets;
        let mut groups = HashMap::new();
        for (key, sockets) in datagrams {
            let Some((_, binding)) = graph.datagram_listeners().find(|(other, _)| *other == key)
            else {
                continue;
            };
            let (numbers, busy_poll) = (&self.datagram_numbers, self.plan.busy_poll);
            match udp::Group::start(binding, sockets, &room, numbers, busy_poll, alive) {
                Ok(group) => drop(groups.insert(key, group)),
                Err(error) => {
                    groups.into_values().for_each(udp::Group::cancel);
                    return Err(error);
                }
            }
        }
        // From here on nothing fails.
        self.gate.resize(Some(room.max_connections));
        graph.open_gates();
        let (closed, all_closed) = std::sync::mpsc::channel();
        let mut streams = streams.into_iter();
        if let Some(crew) = &self.crew {
            crew.deploy(|| {
                let bindings = graph.stream_listeners().collect();
                let (sockets, closed) = (streams.next().unwrap_or_default(), closed.clone());
                Deployment { bindings, sockets, closed }
            });
        }
        let mut staying: HashMap<_, _> = graph.datagram_listeners().collect();
        for (key, group) in self.datagrams.drain() {
            match staying.remove(&key) {
                Some(binding) => {
                    group.rebind(binding, &room);
                    groups.insert(key, group);
                }
                None => {
                    group.tell(Stage::Draining);
                    self.leaving.push((key, group));
                }
            }
        }
        self.leaving.retain(|(_, group)| !group.has_ended());
        self.datagrams = groups;
        self.bound.extend(bound);
        let stay: Vec<ListenerKey> = graph
            .stream_listeners()
            .chain(graph.datagram_listeners())
            .map(|(key, _)| key)
            .collect();
        self.bound.retain(|key, _| stay.contains(key));
        // So that the next reload, or another process, can have the addresses. Nothing is ever sent.
        drop(closed);
        let _ = all_closed.recv_timeout(CLOSE_WAIT);
        graph.upstreams.take_over(&self.graph.upstreams);
        self.graph = graph;
        self.room = room;
        Ok(())
    }
}
