//! Start and stop: addresses resolved, listeners bound, workers started, signals obeyed.

use crate::budget::{self, Budget, Demand};
use crate::error::Error;
use crate::plan::{Balance, UpstreamPlan};
use crate::udp::{self, Udp};
use crate::upstream::{Congestion, Target, Upstream};
use crate::{listener, worker};
use sosplice::Limits;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};

/// What a relay is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen. Port 0 lets the kernel choose one.
    pub listen: SocketAddr,
    /// Where sessions go; empty stands for the built-in origin.
    pub targets: Vec<Target>,
    /// How to choose among the targets.
    pub balance: Balance,
    /// Limits of each session: `max` for each direction, `idle` for the pair.
    pub limits: Limits,
    /// How long one connect may take.
    pub connect_timeout: Duration,
    /// How long running sessions may go on after the first SIGTERM.
    pub drain_timeout: Duration,
    /// Sessions at a time; further clients wait in the backlog. None for as many as the
    /// limit on descriptors allows.
    pub max_connections: Option<u64>,
    /// How long a worker keeps looking for events before it sleeps; zero for not at all.
    pub busy_poll: Duration,
    /// The congestion control of all connections; None for the system's.
    pub congestion: Option<Congestion>,
    /// Threads, each with a listener of its own.
    pub workers: usize,
}

/// What all workers read.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) connect_timeout: Duration,
    pub(crate) busy_poll: Duration,
    pub(crate) congestion: Option<Congestion>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) pipes_per_worker: usize,
    pub(crate) stats: Arc<Stats>,
}

/// Counts of the whole relay, touched when a session begins or something is lost.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    accepted: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
    dropped: AtomicU64,
}

impl Stats {
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// No upstream was to be had, or no time.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A session has made room for another.
    pub(crate) fn evicted(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// Datagrams were lost here.
    pub(crate) fn dropped(&self, datagrams: u64) {
        self.dropped.fetch_add(datagrams, Ordering::Relaxed);
    }
}

/// How far the relay has come towards its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Running,
    /// Accepts no more.
    Draining,
    /// Waits no longer.
    Cut,
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    stats: Arc<Stats>,
    stage: watch::Sender<Stage>,
    /// Of workers that do not wait for the stage in a runtime.
    bells: Vec<Arc<udp::Bell>>,
    threads: Vec<JoinHandle<Option<socket2::Socket>>>,
    drain_timeout: Duration,
    signals: Signals,
}

/// SIGTERM and SIGINT, and the runtime that they are delivered to.
#[derive(Debug)]
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(context);
        Ok(Self { runtime, terminate, interrupt })
    }
}

impl Relay {
    /// Resolves, binds, and starts the workers.
    ///
    /// # Errors
    /// A target that does not resolve, an address that cannot be had, a thread that the
    /// kernel refuses.
    pub fn start(config: Config) -> Result<Self, Error> {
        // Before anybody can connect: a signal from then on is an orderly end.
        let signals = Signals::catch().map_err(|source| Error::Signals { source })?;
        let common = match config.targets.as_slice() {
            [] => None,
            targets => Some(upstream(targets, config.balance)?),
        };
        if let Some(congestion) = &config.congestion {
            congestion.check()?;
        }
        let workers = config.workers.max(1);
        let budget = budget(&config, workers)?;
        let listeners = listener::bind(config.listen, workers, config.congestion.as_ref())?;
        let addr = bound(&listeners, config.listen);
        if let Some(upstream) = &common {
            refuse_self(upstream, addr)?;
        }
        let stats = Arc::new(Stats::default());
        let shared = Arc::new(Shared {
            limits: config.limits,
            connect_timeout: config.connect_timeout,
            busy_poll: config.busy_poll,
            congestion: config.congestion,
            permits: Arc::new(Semaphore::new(
                usize::try_from(budget.max_connections)
                    .unwrap_or(usize::MAX)
                    .min(Semaphore::MAX_PERMITS),
            )),
            pipes_per_worker: usize::try_from(budget.pipes_per_worker).unwrap_or(usize::MAX),
            stats: Arc::clone(&stats),
        });
        let (stage, _) = watch::channel(Stage::Running);
        let mut relay = Self {
            addr,
            stats,
            stage,
            bells: Vec::new(),
            threads: Vec::new(),
            drain_timeout: config.drain_timeout,
            signals,
        };
        for (number, listener) in listeners.into_iter().enumerate() {
            // Each worker serves an origin of its own, on its own thread, so that what
            // the origin tells of a connection is up to date.
            let (upstream, origin) = match &common {
                Some(upstream) => (Arc::clone(upstream), None),
                None => {
                    let (listener, addr) = origin().map_err(|source| Error::Origin { source })?;
                    (upstream(&[addr.into()], Balance::RoundRobin)?, Some(listener))
                }
            };
            let shared = Arc::clone(&shared);
            let stage = relay.stage.subscribe();
            let run = move || worker::run(shared, upstream, listener, origin, stage);
            relay.spawn(number, move || run().map(|()| None))?;
        }
        Ok(relay)
    }

    /// The same for datagrams.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_udp(config: Udp) -> Result<Self, Error> {
        let signals = Signals::catch().map_err(|source| Error::Signals { source })?;
        let upstream = upstream(&config.targets, config.balance)?;
        let workers = config.workers.max(1);
        let demand = Demand {
            nofile: budget::raise_nofile().map_err(|source| Error::Limit { source })?,
            workers: workers as u64,
            listeners_per_worker: 1,
            per_session: budget::UDP_SESSION_DESCRIPTORS,
            pipes_per_worker: 0,
            max_connections: config.max_sessions,
            flag: "--max-sessions",
        };
        let max_sessions = demand.budget()?.max_connections;
        let listeners = udp::bind(&config, workers)?;
        let addr = bound(&listeners, config.listen);
        refuse_self(&upstream, addr)?;
        let (stage, _) = watch::channel(Stage::Running);
        let bells = (0..workers)
            .map(|worker| {
                udp::Bell::new().map(Arc::new).map_err(|source| Error::Worker { worker, source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let stats = Arc::new(Stats::default());
        let setup = udp::Setup::new(
            &config,
            max_sessions,
            upstream,
            Arc::clone(&stats),
            stage.subscribe(),
            bells.clone(),
        );
        let mut relay = Self {
            addr,
            stats,
            stage,
            bells,
            threads: Vec::new(),
            drain_timeout: config.drain_timeout,
            signals,
        };
        for (number, listener) in listeners.into_iter().enumerate() {
            let (setup, bell) = (setup.clone(), Arc::clone(&relay.bells[number]));
            relay.spawn(number, move || udp::run(setup, listener, &bell).map(Some))?;
        }
        Ok(relay)
    }

    /// Starts a worker. What it hands back in the end lives until all have ended.
    fn spawn(
        &mut self,
        number: usize,
        run: impl FnOnce() -> io::Result<Option<socket2::Socket>> + Send + 'static,
    ) -> Result<(), Error> {
        let work = move || {
            run().unwrap_or_else(|error| {
                tracing::error!(worker = number, %error, "worker failed");
                None
            })
        };
        let thread = std::thread::Builder::new().name(format!("relay-{number}")).spawn(work);
        self.threads.push(thread.map_err(|source| Error::Worker { worker: number, source })?);
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Runs until SIGTERM or SIGINT; then accepts no more and lets running sessions end,
    /// at most for the drain time. A second signal ends at once.
    ///
    /// # Errors
    /// [`Error::WorkersFailed`] when none is left; each has logged why.
    pub fn run(self) -> Result<(), Error> {
        let Self { stage, bells, threads, drain_timeout, stats, signals, .. } = self;
        let Signals { runtime, mut terminate, mut interrupt } = signals;
        let tell = |next| {
            let _ = stage.send(next);
            bells.iter().for_each(|bell| bell.ring());
        };
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = stage.closed() => return Err(Error::WorkersFailed),
            }
            tracing::info!("stopping: accepting no more, waiting for running sessions");
            tell(Stage::Draining);
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = tokio::time::sleep(drain_timeout) => {}
                () = stage.closed() => {}
            }
            tell(Stage::Cut);
            Ok(())
        })?;
        // A panic was printed by its own thread.
        let ended: Vec<_> = threads.into_iter().map(JoinHandle::join).collect();
        drop(ended);
        let datagrams = !bells.is_empty();
        tracing::info!(
            accepted = stats.accepted.load(Ordering::Relaxed),
            refused = stats.refused.load(Ordering::Relaxed),
            evicted = datagrams.then(|| stats.evicted.load(Ordering::Relaxed)),
            dropped = datagrams.then(|| stats.dropped.load(Ordering::Relaxed)),
            "stopped"
        );
        Ok(())
    }
}

fn upstream(targets: &[Target], balance: Balance) -> Result<Arc<Upstream>, Error> {
    Upstream::alone(UpstreamPlan::plain("default", targets, balance))
}

/// Where the first of them has been bound: all have the same address.
fn bound(listeners: &[socket2::Socket], asked: SocketAddr) -> SocketAddr {
    let first = listeners.first().and_then(|listener| listener.local_addr().ok());
    first.and_then(|addr| addr.as_socket()).unwrap_or(asked)
}

fn refuse_self(upstream: &Upstream, addr: SocketAddr) -> Result<(), Error> {
    for server in upstream.servers() {
        if let Some(&target) = server.addrs().iter().find(|target| is_same(**target, addr)) {
            return Err(Error::SelfTarget { target, addr });
        }
    }
    Ok(())
}

/// Whether connecting to `target` would reach what listens on `addr`.
fn is_same(target: SocketAddr, addr: SocketAddr) -> bool {
    target.port() == addr.port()
        && (target.ip() == addr.ip()
            // Only an address of this host can be bound.
            || addr.ip().is_unspecified() && UdpSocket::bind((target.ip(), 0)).is_ok())
}

/// What the limit on descriptors, raised as far as it goes, has room for.
fn budget(config: &Config, workers: usize) -> Result<Budget, Error> {
    let with_origin = config.targets.is_empty();
    let demand = Demand {
        nofile: budget::raise_nofile().map_err(|source| Error::Limit { source })?,
        workers: workers as u64,
        listeners_per_worker: if with_origin { 2 } else { 1 },
        per_session: if with_origin {
            budget::ORIGIN_SESSION_DESCRIPTORS
        } else {
            budget::SESSION_DESCRIPTORS
        },
        pipes_per_worker: budget::PIPES_PER_WORKER_WISHED,
        max_connections: config.max_connections,
        flag: "--max-connections",
    };
    Ok(demand.budget()?)
}

/// A listener on loopback for the built-in origin.
fn origin() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}
