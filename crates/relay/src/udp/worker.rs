//! One worker: a thread, an epoll, a listening socket, and the sessions of the clients
//! that the kernel has given it.

use super::desk::{Look, Name, Question};
use super::session::{Session, is_exhausted, is_refusal};
use super::table::{Key, Table};
use crate::graph::{Binding, Tally};
use crate::live::Numbers;
use crate::service::Stage;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use socket2::Socket;
use sosplice::datagram::{Batch, MESSAGES_MAX, Message, Origin, Plan};
use sosplice::sys::receive;
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Wakes a worker: the stage has changed, another worker needs room, or somebody asks.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn ring(&self) {
        // An eventfd refuses a write only when its count would overflow: it rings then.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn heard(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

/// The sessions that all workers may have together.
#[derive(Debug)]
pub(super) struct Quota {
    max: AtomicU64,
    live: AtomicU64,
    /// Workers without a session that want one, while all are taken.
    wanted: AtomicU64,
    bells: Vec<Arc<Bell>>,
}

impl Quota {
    pub(super) fn new(max: u64, bells: Vec<Arc<Bell>>) -> Self {
        Self { max: AtomicU64::new(max), live: AtomicU64::new(0), wanted: AtomicU64::new(0), bells }
    }

    /// Of more than that none ends at once: they make room for the next new one.
    pub(super) fn resize(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let more = |live| (live < max).then_some(live + 1);
        self.live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// There are more than a reload allows.
    fn is_exceeded(&self) -> bool {
        self.live.load(Ordering::Relaxed) > self.max.load(Ordering::Relaxed)
    }

    fn give(&self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// Asks the other workers to end a session.
    fn want(&self) {
        self.wanted.store(1, Ordering::Relaxed);
        self.bells.iter().for_each(|bell| bell.ring());
    }

    fn is_wanted(&self) -> bool {
        self.wanted.swap(0, Ordering::Relaxed) > 0
    }
}

/// What a worker is started with.
#[derive(Debug)]
pub(super) struct Setup {
    /// Of this worker, in the relay's tallies.
    pub(super) number: usize,
    pub(super) live: watch::Receiver<Live>,
    pub(super) quota: Arc<Quota>,
    pub(super) numbers: Arc<Numbers>,
    pub(super) questions: mpsc::UnboundedReceiver<Question>,
    pub(super) busy_poll: Duration,
}

/// What changes while a group runs; a bell tells of it.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) stage: Stage,
    pub(super) binding: Arc<Binding>,
}

/// The tokens that are no slots.
const LISTENER: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;
const EVENTS_MAX: usize = 256;
/// Receive calls on one socket before the others have their turn.
const CALLS_A_TURN: usize = 4;
/// Messages of one call while they are large: as many bytes as a processor's cache holds.
const LARGE_MESSAGES_MAX: usize = 16;
const LARGE_BYTES: usize = 16 * 1024;
/// Messages of one call while few come: each costs its headers, used or not.
const FEW_MESSAGES_MAX: usize = 8;
/// While the relay stops, a session that is silent for so long has ended.
const DRAIN_SILENCE: Duration = Duration::from_secs(1);
/// Of a session, where none was set.
const IDLE: Duration = Duration::from_secs(60);
/// Between two log lines of the same complaint.
const COMPLAIN_PAUSE: Duration = Duration::from_secs(1);
/// epoll_wait is asked for no longer than this, so that no deadline overflows it.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Runs until the relay stops. The listening socket is handed back: closed while others
/// still serve their sessions, it would leave the SO_REUSEPORT group, and the kernel would
/// give some of their clients to workers that do not know them.
pub(super) fn run(mut setup: Setup, listener: Socket, bell: &Bell) -> io::Result<Socket> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), edges)?;
    epoll::add(&epoll, &bell.0, epoll::EventData::new_u64(BELL), edges)?;
    let Live { stage, binding } = setup.live.borrow_and_update().clone();
    let mut worker = Worker {
        epoll,
        listener,
        bell,
        table: Table::new(),
        batch: Batch::new(),
        plan: Plan::default(),
        assigned: Vec::with_capacity(MESSAGES_MAX),
        run: Vec::with_capacity(MESSAGES_MAX),
        // Datagrams may have come before the registration.
        from_clients: true,
        turn: VecDeque::new(),
        take_max: FEW_MESSAGES_MAX,
        now: Instant::now(),
        moved: Instant::now(),
        drops: Drops::default(),
        exhausted: None,
        stage,
        binding,
        setup,
    };
    while !worker.turn()? {}
    Ok(worker.listener)
}

struct Worker<'b> {
    setup: Setup,
    epoll: OwnedFd,
    listener: Socket,
    bell: &'b Bell,
    table: Table<Session>,
    batch: Batch,
    plan: Plan,
    /// The messages of a batch by session: slot, and index in the batch.
    assigned: Vec<(u32, u32)>,
    /// Those of one session.
    run: Vec<Message>,
    /// The listening socket was not found empty.
    from_clients: bool,
    /// Sessions whose socket was not found empty.
    turn: VecDeque<u32>,
    take_max: usize,
    /// The time of this turn.
    now: Instant,
    moved: Instant,
    drops: Drops,
    /// When it was last said that nothing is left to make a session from.
    exhausted: Option<Instant>,
    stage: Stage,
    binding: Arc<Binding>,
}

/// What the kernel has dropped before the listening socket.
#[derive(Default)]
struct Drops {
    /// Its own count, which wraps.
    seen: u32,
    untold: u64,
    told: Option<Instant>,
}

impl Worker<'_> {
    /// One turn of the loop; true when the worker has ended.
    fn turn(&mut self) -> io::Result<bool> {
        self.wait()?;
        for _ in 0..CALLS_A_TURN {
            if !self.from_clients {
                break;
            }
            self.take_from_clients();
        }
        for _ in 0..self.turn.len() {
            if let Some(slot) = self.turn.pop_front() {
                self.take_from_upstream(slot);
            }
        }
        self.expire();
        Ok(self.stage == Stage::Cut || self.stage == Stage::Draining && self.table.len() == 0)
    }

    fn wait(&mut self) -> io::Result<()> {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
        let timeout = self.timeout();
        let (events, _) = match epoll::wait(&self.epoll, &mut events[..], Some(&timeout)) {
            Ok(got) => got,
            Err(Errno::INTR) => Default::default(),
            Err(errno) => return Err(errno.into()),
        };
        self.now = Instant::now();
        for event in events {
            match event.data.u64() {
                LISTENER => self.from_clients = true,
                BELL => self.answer_bell(),
                slot => self.queue(slot as u32),
            }
        }
        Ok(())
    }

    fn timeout(&self) -> Timespec {
        let busy = self.from_clients
            || !self.turn.is_empty()
            || self.moved.elapsed() < self.setup.busy_poll;
        let sleep = if busy {
            Duration::ZERO
        } else if let Some((_, oldest)) = self.table.oldest() {
            let left = self.silence().saturating_sub(oldest.used.elapsed());
            // Rounded up, so that the deadline has passed when the sleep ends.
            left.saturating_add(Duration::from_millis(1)).min(SLEEP_MAX)
        } else {
            SLEEP_MAX
        };
        Timespec { tv_sec: sleep.as_secs() as i64, tv_nsec: i64::from(sleep.subsec_nanos()) }
    }

    /// A session that is silent for so long ends.
    fn silence(&self) -> Duration {
        match self.stage {
            Stage::Running => self.idle(),
            _ => self.idle().min(DRAIN_SILENCE),
        }
    }

    /// A session has no other end than silence.
    fn idle(&self) -> Duration {
        self.binding.relay.plan.timeouts.idle.unwrap_or(IDLE)
    }

    fn tally(&self) -> &Tally {
        &self.binding.relay.counts.tallies[self.setup.number]
    }

    fn queue(&mut self, slot: u32) {
        if let Some(session) = self.table.get_mut(slot)
            && !std::mem::replace(&mut session.queued, true)
        {
            self.turn.push_back(slot);
        }
    }

    fn answer_bell(&mut self) {
        self.bell.heard();
        let Live { stage, binding } = self.setup.live.borrow_and_update().clone();
        self.stage = stage;
        self.binding = binding;
        if self.stage == Stage::Cut {
            while let Some((slot, _)) = self.table.oldest() {
                self.end(slot, "cut");
            }
        } else if self.table.len() > 0 && self.setup.quota.is_wanted() {
            self.evict();
        }
        while let Ok(question) = self.setup.questions.try_recv() {
            self.answer(question);
        }
    }

    /// Who has asked may be gone.
    fn answer(&mut self, question: Question) {
        match question {
            Question::Names(answer) => {
                let name = |(slot, session): (u32, &Session)| Name { id: session.id, slot };
                let _ = answer.send(self.table.iter().map(name).collect());
            }
            Question::Looks(names, answer) => {
                let looks = names.iter().filter_map(|name| self.look(*name)).collect();
                let _ = answer.send(looks);
            }
            Question::Kill(ids, answer) => {
                let is_meant = |session: &Session| ids.binary_search(&session.id).is_ok();
                let all = self.table.iter().filter(|(_, session)| is_meant(session));
                let meant: Vec<_> = all.map(|(slot, session)| (slot, session.id)).collect();
                meant.iter().for_each(|(slot, _)| self.end(*slot, "killed"));
                let _ = answer.send(meant.into_iter().map(|(_, id)| id).collect());
            }
        }
    }

    fn look(&self, Name { id, slot }: Name) -> Option<Look> {
        // The slot may be another session's by now.
        let session = self.table.get(slot).filter(|session| session.id == id)?;
        Some(Look {
            id,
            relay: Arc::clone(&self.binding.relay),
            client: session.client_name(),
            upstream: session.upstream,
            age: session.began.elapsed(),
            idle: session.used.elapsed(),
            carried: session.carried(),
        })
    }

    /// One receive call on the listening socket, and what follows from it.
    fn take_from_clients(&mut self) {
        let received = match receive(&self.listener, &mut self.batch, self.take_max, true) {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receive from clients");
                return;
            }
        };
        self.from_clients = !received.dry;
        if let Some(dropped) = received.dropped {
            self.note_drops(dropped);
        }
        self.adapt();
        self.assigned.clear();
        let mut last: Option<(Origin, u32)> = None;
        for index in 0..self.batch.messages().len() {
            let origin = self.batch.origins()[index];
            let slot = match last {
                Some((known, slot)) if known == origin => Some(slot),
                _ => self.session_of(&origin),
            };
            match slot {
                Some(slot) => {
                    last = Some((origin, slot));
                    self.assigned.push((slot, index as u32));
                }
                None => {
                    last = None;
                    let lost = self.batch.messages()[index].datagrams();
                    self.tally().dropped.add(lost as u64);
                }
            }
        }
        self.send_assigned();
    }

    /// The slot of the client's session, which is made if there is none; None where it
    /// cannot be had.
    fn session_of(&mut self, origin: &Origin) -> Option<u32> {
        let key = Key::new(origin.from, origin.to);
        if let Some(slot) = self.table.find(&key) {
            return Some(slot);
        }
        if self.stage != Stage::Running {
            return None;
        }
        while self.setup.quota.is_exceeded() && self.table.len() > 0 {
            self.evict();
        }
        if !self.setup.quota.take() {
            if self.table.len() == 0 {
                // All sessions are with other workers. The client will ask again.
                self.setup.quota.want();
                return None;
            }
            self.evict();
            if !self.setup.quota.take() {
                return None;
            }
        }
        let session = self.make(origin).or_else(|| {
            self.setup.quota.give();
            None
        })?;
        let data = epoll::EventData::new_u64(self.table.next_slot().into());
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        if let Err(errno) = epoll::add(&self.epoll, &session.socket, data, edges) {
            self.complain(&errno.into());
            self.setup.quota.give();
            return None;
        }
        self.tally().accepted.add(1);
        Some(self.table.insert(key, session))
    }

    /// A session for a new client, in place of the least recently used one where nothing
    /// else is left.
    fn make(&mut self, origin: &Origin) -> Option<Session> {
        let id = self.setup.numbers.next();
        loop {
            match Session::new(id, origin, &self.binding, self.now) {
                Ok(session) => return Some(session),
                Err(error) => {
                    self.complain(&error);
                    if !is_exhausted(&error) || self.table.len() == 0 {
                        self.tally().refused.add(1);
                        return None;
                    }
                    self.evict();
                }
            }
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if self.exhausted.is_none_or(|when| self.now - when >= COMPLAIN_PAUSE) {
            self.exhausted = Some(self.now);
            tracing::warn!(%error, sessions = self.table.len(), "no session for a new client: if descriptors or ports have run out, raise the limit (ulimit -n, net.ipv4.ip_local_port_range) or lower --max-sessions or --idle");
        }
    }

    /// Ends the least recently used session.
    fn evict(&mut self) {
        // It may be one that datagrams of this batch go to.
        self.send_assigned();
        if let Some((slot, _)) = self.table.oldest() {
            self.tally().evicted.add(1);
            self.end(slot, "evicted");
        }
    }

    /// Sends what was assigned, each session's datagrams together and in their order.
    fn send_assigned(&mut self) {
        if !self.assigned.is_sorted() {
            self.assigned.sort_unstable();
        }
        let messages = self.batch.messages();
        for run in self.assigned.chunk_by(|a, b| a.0 == b.0) {
            let slot = run[0].0;
            let Some(session) = self.table.get_mut(slot) else { continue };
            self.run.clear();
            self.run.extend(run.iter().map(|&(_, index)| messages[index as usize]));
            session.used = self.now;
            session.send_up(&self.batch, &self.run, &mut self.plan);
            self.table.touch(slot);
            self.moved = self.now;
        }
        self.assigned.clear();
    }

    /// What has come from a session's upstream.
    fn take_from_upstream(&mut self, slot: u32) {
        let Some(session) = self.table.get_mut(slot) else { return };
        session.queued = false;
        for _ in 0..CALLS_A_TURN {
            let Some(session) = self.table.get_mut(slot) else { return };
            let received = match receive(&session.socket, &mut self.batch, self.take_max, false) {
                Ok(received) => received,
                Err(errno) => {
                    // It is told once; what lies behind it is read by the next call.
                    if is_refusal(&errno.into()) {
                        session.refused();
                    }
                    continue;
                }
            };
            if let Some(dropped) = received.dropped {
                session.kernel_dropped(dropped);
            }
            if !self.batch.messages().is_empty() {
                session.used = self.now;
                self.moved = self.now;
                session.send_down(&self.listener, &self.batch, &mut self.plan);
                self.table.touch(slot);
                self.adapt();
            }
            if received.dry {
                return;
            }
        }
        self.queue(slot);
    }

    /// How many messages the next call asks for, by the size of the last ones.
    fn adapt(&mut self) {
        let messages = self.batch.messages();
        if messages.is_empty() {
            return;
        }
        let bytes: usize = messages.iter().map(|message| message.bytes()).sum();
        self.take_max = if messages.len() < FEW_MESSAGES_MAX {
            FEW_MESSAGES_MAX
        } else if bytes / messages.len() >= LARGE_BYTES {
            LARGE_MESSAGES_MAX
        } else {
            MESSAGES_MAX
        };
    }

    fn note_drops(&mut self, dropped: u32) {
        let new = u64::from(dropped.wrapping_sub(self.drops.seen));
        self.drops.seen = dropped;
        self.drops.untold += new;
        self.tally().dropped.add(new);
        let pause = self.drops.told.is_some_and(|when| self.now - when < COMPLAIN_PAUSE);
        if self.drops.untold > 0 && !pause {
            self.drops.told = Some(self.now);
            let count = std::mem::take(&mut self.drops.untold);
            tracing::warn!(
                count,
                "datagrams of clients dropped by the kernel: they came faster than they could go"
            );
        }
    }

    fn expire(&mut self) {
        let silence = self.silence();
        let cause = if self.stage == Stage::Running { "idle" } else { "stopping" };
        while let Some((slot, oldest)) = self.table.oldest() {
            if self.now.saturating_duration_since(oldest.used) < silence {
                return;
            }
            self.end(slot, cause);
        }
    }

    fn end(&mut self, slot: u32, cause: &str) {
        if let Some(session) = self.table.remove(slot) {
            session.account(cause);
            let (up, down) = session.carried();
            let tally = self.tally();
            tally.moved(up, down);
            tally.dropped.add(session.dropped());
            tally.ended.add(1);
            self.setup.quota.give();
        }
    }
}
