//! The driver for synchronous users: an epoll loop that steps movers.
//!
//! Edge-triggered, one registration a socket for its whole life: a flow costs no
//! epoll_ctl while it runs. A side's readiness is remembered ([`Side`]) and forgotten
//! only when a call has found the socket empty or full, so no edge is lost.

mod flow;
mod side;

pub(crate) use flow::{Counts, Flow, OneWay, TwoWay};
pub(crate) use side::Side;

use crate::error::Error;
use crate::store::Store;
use flow::Stepped;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the handles ask of a worker.
pub(crate) enum Command {
    Add(Box<dyn Flow>),
    /// Take no more; with `force` do not give either.
    Unsplice {
        flow: FlowId,
        force: bool,
    },
    /// End every flow by force and return.
    Stop,
}

/// Names a flow across threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowId(pub(crate) u64);

/// The worker's letter box.
#[derive(Debug)]
pub(crate) struct Inbox {
    commands: Mutex<Option<Vec<Command>>>,
    wake: OwnedFd,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Add(_) => "Add",
            Self::Unsplice { .. } => "Unsplice",
            Self::Stop => "Stop",
        })
    }
}

impl Inbox {
    /// Posts a command; [`Error::ShutDown`] when the worker takes no more.
    pub(crate) fn post(&self, command: Command) -> Result<(), Error> {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(commands) = commands.as_mut() else { return Err(Error::ShutDown) };
        commands.push(command);
        if commands.len() == 1 {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
        Ok(())
    }
}

/// The token of the inbox; flows have `slot * 2 + side`.
const INBOX: u64 = u64::MAX;
const EVENTS_MAX: usize = 256;
/// epoll_wait is asked for no longer than this, so that no deadline overflows it.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Names a side of a flow to epoll.
fn token(slot: usize, side: u64) -> epoll::EventData {
    epoll::EventData::new_u64(slot as u64 * 2 + side)
}

/// One epoll loop and the flows on it.
pub(crate) struct Worker {
    epoll: OwnedFd,
    inbox: Arc<Inbox>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    live: usize,
    turn: VecDeque<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize, FlowId)>>,
    store: Store,
}

struct Slot {
    flow: Box<dyn Flow>,
    /// Stands in the turn queue.
    queued: bool,
    /// The earliest entry in the timer heap.
    timer: Option<Instant>,
}

impl Worker {
    pub(crate) fn new() -> Result<Self, Error> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::setup("epoll_create"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(Error::setup("eventfd"))?;
        let inbox_events = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(INBOX), inbox_events)
            .map_err(Error::setup("epoll_ctl"))?;
        Ok(Self {
            epoll,
            inbox: Arc::new(Inbox { commands: Mutex::new(Some(Vec::new())), wake }),
            slots: Vec::new(),
            free: Vec::new(),
            live: 0,
            turn: VecDeque::new(),
            timers: BinaryHeap::new(),
            store: Store::default(),
        })
    }

    pub(crate) fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    /// Runs until [`Command::Stop`].
    pub(crate) fn run(mut self) {
        while !self.turn_once() {}
        self.stop();
    }

    /// Runs one flow, in the caller's thread, until it has ended.
    pub(crate) fn run_one(mut self, flow: Box<dyn Flow>) {
        self.add(flow);
        while !self.turn_once() {}
    }

    /// One turn of the loop: step whoever may move, sleep, note what happened. True
    /// when the worker is to stop.
    fn turn_once(&mut self) -> bool {
        // Only those that stand in the queue now: one that wants another turn goes
        // behind the events that have come in meanwhile.
        for _ in 0..self.turn.len() {
            if let Some(slot) = self.turn.pop_front() {
                self.step(slot);
            }
        }
        if self.live == 0 && self.is_alone() {
            return true;
        }
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
        let timeout = self.timeout();
        let (events, _) = match epoll::wait(&self.epoll, &mut events[..], Some(&timeout)) {
            Ok(got) => got,
            Err(Errno::INTR) => return false,
            // The descriptor is ours and open, the arguments fixed.
            Err(errno) => unreachable!("epoll_wait: {errno}"),
        };
        let mut called = false;
        for event in events {
            match event.data.u64() {
                INBOX => called = true,
                token => self.note(token, event.flags),
            }
        }
        self.fire_timers();
        called && self.read_inbox()
    }

    /// Nobody else can post: the worker serves one flow in its caller's thread.
    fn is_alone(&self) -> bool {
        Arc::strong_count(&self.inbox) == 1
    }

    fn timeout(&self) -> Timespec {
        let sleep = if !self.turn.is_empty() {
            Duration::ZERO
        } else if let Some(Reverse((when, ..))) = self.timers.peek() {
            when.saturating_duration_since(Instant::now()).min(SLEEP_MAX)
        } else {
            SLEEP_MAX
        };
        Timespec { tv_sec: sleep.as_secs() as i64, tv_nsec: i64::from(sleep.subsec_nanos()) }
    }

    fn note(&mut self, token: u64, flags: epoll::EventFlags) {
        let slot = (token / 2) as usize;
        if let Some(Some(entry)) = self.slots.get_mut(slot) {
            entry.flow.sides()[(token % 2) as usize].note(flags);
            if !entry.queued {
                entry.queued = true;
                self.turn.push_back(slot);
            }
        }
    }

    /// True when the worker is to stop.
    fn read_inbox(&mut self) -> bool {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.inbox.wake, &mut count);
        let commands = {
            let mut commands = self.inbox.commands.lock().unwrap_or_else(PoisonError::into_inner);
            commands.as_mut().map(std::mem::take).unwrap_or_default()
        };
        let mut stop = false;
        for command in commands {
            match command {
                Command::Add(flow) => self.add(flow),
                Command::Unsplice { flow, force } => self.unsplice(flow, force),
                Command::Stop => stop = true,
            }
        }
        stop
    }

    fn add(&mut self, flow: Box<dyn Flow>) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Err(errno) = self.register(slot, flow.sides()) {
            self.free.push(slot);
            self.deregister(flow.sides());
            flow.fail(errno);
            return;
        }
        self.slots[slot] = Some(Slot { flow, queued: true, timer: None });
        self.live += 1;
        self.turn.push_back(slot);
        self.arm(slot);
    }

    fn register(&self, slot: usize, sides: [&Side; 2]) -> rustix::io::Result<()> {
        for (side, number) in sides.into_iter().zip(0u64..) {
            match epoll::add(&self.epoll, side.as_fd(), token(slot, number), side.interest()) {
                Ok(()) => {}
                // A regular file: always ready, never waited for.
                Err(Errno::PERM) => side.always_ready(),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Closing a descriptor takes it out of epoll only with the last duplicate of its
    /// file, and the caller holds one: it would go on reporting under a number that is
    /// somebody else's by then.
    fn deregister(&self, sides: [&Side; 2]) {
        for side in sides {
            // One that was never registered (a regular file) is no loss.
            let _ = epoll::delete(&self.epoll, side.as_fd());
        }
    }

    fn unsplice(&mut self, id: FlowId, force: bool) {
        let found = self.slots.iter().position(|s| s.as_ref().is_some_and(|s| s.flow.id() == id));
        let Some(slot) = found else { return };
        if let Some(entry) = &mut self.slots[slot] {
            entry.flow.unsplice(force);
            if !entry.queued {
                entry.queued = true;
                self.turn.push_back(slot);
            }
        }
    }

    fn step(&mut self, slot: usize) {
        let Some(entry) = &mut self.slots[slot] else { return };
        entry.queued = false;
        match entry.flow.step(&mut self.store, Instant::now()) {
            Stepped::Wait => {
                for (side, number) in entry.flow.sides().into_iter().zip(0u64..) {
                    if side.wants_more() {
                        let (fd, interest) = (side.as_fd(), side.interest());
                        // It is registered, and a change of interest needs no memory.
                        let _ = epoll::modify(&self.epoll, fd, token(slot, number), interest);
                    }
                }
                self.arm(slot);
            }
            Stepped::Turn => {
                entry.queued = true;
                self.turn.push_back(slot);
                self.arm(slot);
            }
            Stepped::Ended => {
                if let Some(entry) = self.slots[slot].take() {
                    self.live -= 1;
                    self.free.push(slot);
                    self.deregister(entry.flow.sides());
                    entry.flow.finish();
                }
            }
        }
    }

    /// One heap entry a flow: a deadline that moved on is seen when the entry fires.
    fn arm(&mut self, slot: usize) {
        let Some(entry) = &mut self.slots[slot] else { return };
        let Some(deadline) = entry.flow.deadline() else { return };
        if entry.timer.is_none_or(|timer| deadline < timer) {
            entry.timer = Some(deadline);
            self.timers.push(Reverse((deadline, slot, entry.flow.id())));
        }
    }

    fn fire_timers(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(&Reverse((when, slot, id))) = self.timers.peek() {
            if when > now {
                return;
            }
            self.timers.pop();
            let Some(Some(entry)) = self.slots.get_mut(slot) else { continue };
            if entry.flow.id() != id || entry.timer != Some(when) {
                continue;
            }
            entry.timer = None;
            if !entry.queued {
                entry.queued = true;
                self.turn.push_back(slot);
            }
        }
    }

    /// Ends every flow by force, and those that were still on their way in.
    fn stop(&mut self) {
        let late = {
            let mut commands = self.inbox.commands.lock().unwrap_or_else(PoisonError::into_inner);
            commands.take().unwrap_or_default()
        };
        for command in late {
            if let Command::Add(flow) = command {
                flow.finish();
            }
        }
        for entry in self.slots.drain(..).flatten() {
            entry.flow.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::sync::mpsc::{Sender, channel};

    /// Finds its drain full once.
    struct Full {
        sides: [Side; 2],
        was_full: bool,
        ended: Sender<()>,
    }

    impl Flow for Full {
        fn id(&self) -> FlowId {
            FlowId(0)
        }

        fn sides(&self) -> [&Side; 2] {
            [&self.sides[0], &self.sides[1]]
        }

        fn step(&mut self, _: &mut Store, _: Instant) -> Stepped {
            let room = usize::from(std::mem::replace(&mut self.was_full, true));
            match self.sides[1].give(|_| Ok(room)) {
                Ok(0) => Stepped::Wait,
                _ => Stepped::Ended,
            }
        }

        fn deadline(&self) -> Option<Instant> {
            None
        }

        fn unsplice(&mut self, _: bool) {}

        fn finish(self: Box<Self>) {
            let _ = self.ended.send(());
        }

        fn fail(self: Box<Self>, _: Errno) {}
    }

    #[test]
    fn a_full_datagram_drain_is_told_of_room() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let side = |name| Side::new(socket.as_fd(), name).expect("a side");
        let (ended, end) = channel();
        let flow = Full { sides: [side("source"), side("drain")], was_full: false, ended };
        let worker = Worker::new().expect("a worker");
        std::thread::spawn(move || worker.run_one(Box::new(flow)));
        end.recv_timeout(Duration::from_secs(40)).expect("watchdog: nobody tells of room");
    }
}
