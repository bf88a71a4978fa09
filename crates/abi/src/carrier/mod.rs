//! The carrier: the process that moves the bytes of all splices of a domain.
//!
//! It is a process and not a thread of the program, because a splice belongs to its two
//! sockets: it goes on when the process that set it up has exited, closed or handed on its
//! descriptors, as long as anybody holds them, and ends with the last of these. The
//! program gets no thread, no signal and, but for a connection to the carrier, no
//! descriptor. It is forked by the first process that needs it, keeps nothing of that one's
//! but the memory, and exits with the last process that talks to it. When it is killed its
//! splices end with an error, and the next one keeps the records ([`domain::inherit`]).
//!
//! One thread: a request and a step never overlap, so a count is exact when it is read and
//! a splice that was taken back has stopped when the answer comes.

mod datagram;
mod flow;
mod members;
mod port;
mod relatives;
mod rings;
mod sockets;
mod stream;
mod table;

use crate::connection;
use crate::domain::{self, DOMAIN, SlotId};
use crate::heap;
use crate::lock::Guard;
use crate::personality::Personality;
use crate::sys::{self, Fd, enter};
use datagram::Desk;
use flow::Stepped;
use members::Member;
use relatives::Search;
use rings::Name;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sosplice::store::Store;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};
use table::Sockets;

/// Epoll data: what it is in the high half, which one in the low half.
const LISTENER: u64 = 0;
const MEMBER: u64 = 1 << 32;
const SOCKET: u64 = 2 << 32;

const EVENTS: usize = 128;

/// How often sockets that a process holds without our knowing are looked after.
const TICK: Duration = Duration::from_secs(1);

/// A splice(2) that sleeps on a drain is woken so often.
const GUARD_US: i64 = 20_000;

/// Steps of a splice inside the call that sets it up.
const FIRST_STEPS: usize = 16;

pub struct Carrier {
    personality: Personality,
    epoll: Rc<OwnedFd>,
    listener: OwnedFd,
    members: Vec<Option<Member>>,
    sockets: Sockets,
    free: Vec<SlotId>,
    unused: u32,
    /// By the hash of a connection's own end.
    names: HashMap<Name, SlotId>,
    queue: VecDeque<SlotId>,
    timers: BinaryHeap<Reverse<(Instant, SlotId)>>,
    /// When held sockets are looked after.
    tick: Option<Instant>,
    /// For holders that have not told, and what is in question since it began.
    search: Search,
    next_search: Search,
    store: Store,
    desk: Desk,
    is_guarded: bool,
}

/// The carrier that this process has made, until it was waited for; zero for none.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// Makes the carrier. It has the far end of `connection`, on which the caller is its first
/// member.
///
/// It is a child without a signal for its end, so that the program does not hear of it and no
/// call of another thread is interrupted; only a wait for such children (`__WALL`) finds it. It
/// is no grandchild: that would become a plain child of a program that is process 1 or a
/// subreaper.
pub fn spawn(guard: &Guard, connection: Fd) -> Result<(), Errno> {
    // There is no other one, so it is dead or about to be.
    reap(0);
    // Read while libc's environment is whole.
    Personality::current();
    // SAFETY: without flags and addresses it is fork(2). The child is alone in a copy of the
    // memory, and takes no lock but the heap's, which is free in it.
    let child = unsafe {
        heap::hold(guard);
        let child = enter!(SYS_clone, 0, 0, 0, 0, 0);
        heap::release();
        child
    };
    match child {
        0 => {
            heap::is_alone();
            // Unwinding would ask the loader, whose lock may be held for ever.
            std::panic::set_hook(Box::new(|_| exit(101)));
            serve(connection.into_raw());
            exit(0);
        }
        1.. => {
            CHILD.store(child as i32, Ordering::Relaxed);
            Ok(())
        }
        _ => Err(Errno::from_raw_os_error(-child as i32)),
    }
}

/// Waits for a carrier of this process's that has died; without it it would stay in the table
/// of processes. With WNOHANG only if it is quite dead.
pub fn reap(flags: c_int) {
    let child = CHILD.load(Ordering::Relaxed);
    if child == 0 {
        return;
    }
    let flags = libc::__WALL | flags;
    // SAFETY: a null status is allowed.
    if unsafe { enter!(SYS_wait4, child, 0, flags, 0) } != 0 {
        CHILD.store(0, Ordering::Relaxed);
    }
}

/// In a child of the process that made it: it is another's.
pub fn disown() {
    CHILD.store(0, Ordering::Relaxed);
}

fn exit(status: i32) -> ! {
    loop {
        // SAFETY: does not return; no handler of the program's runs.
        unsafe { enter!(SYS_exit_group, status) };
    }
}

fn serve(connection: c_int) {
    if let Ok(mut carrier) = begin(connection) {
        carrier.run();
    }
}

/// Leaves the program behind: its process group, its directory, its descriptors.
fn begin(connection: c_int) -> Result<Carrier, Errno> {
    let connection = keep_only(connection);
    // Out of the reach of the terminal and of a kill of the program's group. Not a session of
    // its own: the scheduler would give it a share of its own beside the program's
    // (sched_autogroup, sched(7)), and wake it for less.
    let _ = rustix::process::setpgid(None, None);
    let _ = rustix::process::chdir(c"/");
    let _ = rustix::thread::set_name(c"sosplice");
    raise_descriptor_limit();
    catch_guard();
    let heritage = domain::inherit();
    domain::live();
    let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    let number = sys::now_ns() << 20 | u64::from(sys::pid());
    let listener = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::bind(&listener, &connection::address(number)?)?;
    rustix::net::listen(&listener, 64)?;
    epoll::add(&*epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    DOMAIN.address.store(number, Ordering::Release);
    let mut carrier = Carrier {
        personality: Personality::current(),
        epoll,
        listener,
        members: Vec::new(),
        sockets: Sockets::default(),
        free: Vec::new(),
        unused: 0,
        names: HashMap::new(),
        queue: VecDeque::new(),
        timers: BinaryHeap::new(),
        tick: None,
        search: Search::default(),
        next_search: Search::default(),
        store: Store::default(),
        desk: Desk::default(),
        is_guarded: false,
    };
    carrier.take_over(heritage);
    carrier.welcome(connection);
    Ok(carrier)
}

/// Closes everything but the connection: the program's files and sockets are its own.
fn keep_only(kept: c_int) -> OwnedFd {
    // SAFETY: no pointers; nothing in this process uses the others.
    unsafe {
        if kept > 0 {
            enter!(SYS_close_range, 0, kept - 1, 0);
        }
        enter!(SYS_close_range, kept + 1, u32::MAX, 0);
        // Numbers 0 to 2 are for nobody: a stray message must not meet a socket.
        for _ in 0..3 {
            enter!(SYS_openat, libc::AT_FDCWD, c"/dev/null".as_ptr(), libc::O_RDWR, 0);
        }
        OwnedFd::from_raw_fd(kept)
    }
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // It works with less.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

extern "C" fn wake(_: c_int) {}

/// The timer's signal interrupts, and does nothing else. Every other one stays blocked: the
/// program's handlers are in this memory and must not run here.
fn catch_guard() {
    // SAFETY: the records are zeroed and then filled as sigaction(2) asks; the handler
    // does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = wake as *const () as usize;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
    }
    sys::restore_signals(!(1 << (libc::SIGALRM - 1)));
}

fn set_guard(interval_us: i64) {
    let every = libc::timeval { tv_sec: 0, tv_usec: interval_us };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: the record lives through the call; a null old value is allowed.
    unsafe { enter!(SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0) };
}

impl Carrier {
    fn run(&mut self) {
        while self.members.iter().any(Option::is_some) || self.tick.is_some() || self.is_searching()
        {
            self.turn_once();
        }
        domain::retire();
    }

    fn turn_once(&mut self) {
        for _ in 0..self.queue.len() {
            if let Some(id) = self.queue.pop_front() {
                self.step(id);
            }
        }
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        let timeout = self.timeout();
        let epoll = Rc::clone(&self.epoll);
        let events = match epoll::wait(&*epoll, &mut events[..], Some(&timeout)) {
            Ok((events, _)) => events,
            Err(_) => {
                // The timer found nobody asleep but us: nothing moves.
                if self.is_guarded && self.queue.is_empty() {
                    self.is_guarded = false;
                    set_guard(0);
                }
                return;
            }
        };
        for event in events {
            let data = event.data.u64();
            match data & !u64::from(u32::MAX) {
                LISTENER => self.accept(),
                MEMBER => self.hear(data as u32 as usize),
                _ => self.note(SlotId(data as u32), event.flags),
            }
        }
        self.fire_timers();
        // Last: what it finds may be the end of everything, and then nobody sleeps again.
        self.search_on();
    }

    fn timeout(&self) -> Timespec {
        let next = self.timers.peek().map(|Reverse((when, _))| *when);
        let sleep = if self.queue.is_empty() && !self.is_searching() {
            [next, self.tick]
                .into_iter()
                .flatten()
                .min()
                .map_or(Duration::from_secs(3600), |when| {
                    when.saturating_duration_since(Instant::now())
                })
        } else {
            Duration::ZERO
        };
        let sleep = sleep.min(Duration::from_secs(3600));
        Timespec { tv_sec: sleep.as_secs() as i64, tv_nsec: sleep.subsec_nanos().into() }
    }

    /// An event of a socket is a turn for the splice that runs from it, and for the one that
    /// runs to it if that one waits for room or the event is the end of the connection.
    fn note(&mut self, id: SlotId, flags: EventFlags) {
        let Some(socket) = self.sockets.get(&id) else { return };
        let Some(port) = &socket.port else { return };
        port.note(flags);
        let reads = socket.flow.is_some()
            && (port.ready().read || flags.intersects(EventFlags::ERR | EventFlags::HUP));
        let filled_by = socket.drain_of;
        if reads {
            self.enqueue(id);
        }
        if let Some(source) = filled_by
            && let Some(flow) = self.sockets.get(&source).and_then(|s| s.flow.as_ref())
            && (flow.waits_for_drain
                || !flow.has_begun()
                || flags.intersects(EventFlags::ERR | EventFlags::HUP))
        {
            self.enqueue(source);
        }
    }

    fn enqueue(&mut self, id: SlotId) {
        if let Some(flow) = self.sockets.get_mut(&id).and_then(|socket| socket.flow.as_mut())
            && !flow.is_queued
        {
            flow.is_queued = true;
            self.queue.push_back(id);
        }
    }

    fn step(&mut self, id: SlotId) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let Some(flow) = &mut socket.flow else { return };
        flow.is_queued = false;
        if flow.is_ring && socket.hops >= rings::HOPS_MAX && rings::has_bytes(&flow.source) {
            self.end(id, flow::Ending { error: libc::ELOOP, ..Default::default() });
            return;
        }
        if !self.is_guarded {
            self.is_guarded = true;
            set_guard(GUARD_US);
        }
        let before = flow.moved();
        let now = Instant::now();
        let stepped = flow.step(self.personality, &mut self.store, &mut self.desk, now);
        let has_moved = flow.moved() > before;
        let drain = flow.drain_id;
        if flow.is_ring && has_moved {
            let hops = socket.hops + 1;
            self.hand_on(drain, hops);
        }
        if has_moved {
            self.tell_answer(drain, id);
        }
        match stepped {
            Stepped::Wait => self.arm(id),
            Stepped::Turn => {
                self.arm(id);
                self.enqueue(id);
            }
            Stepped::Ended(ending) => self.end(id, ending),
        }
    }

    /// Bytes went from `to` to `from`: the splice from `from` to `to`, if there is one,
    /// carries a dialogue. Its mark of bulk is taken away at its next step.
    fn tell_answer(&mut self, from: SlotId, to: SlotId) {
        if let Some(flow) = self.sockets.get_mut(&from).and_then(|s| s.flow.as_mut())
            && flow.drain_id == to
            && from != to
        {
            flow.answered();
            self.arm(from);
        }
    }

    /// One heap entry a splice: a deadline that moved on is seen when the entry fires.
    fn arm(&mut self, id: SlotId) {
        let Some(flow) = self.sockets.get_mut(&id).and_then(|s| s.flow.as_mut()) else { return };
        if let Some(due) = flow.deadline()
            && flow.timer().is_none_or(|timer| due < timer)
        {
            flow.set_timer(Some(due));
            self.timers.push(Reverse((due, id)));
        }
    }

    fn fire_timers(&mut self) {
        if self.timers.is_empty() && self.tick.is_none() {
            return;
        }
        let now = Instant::now();
        while let Some(&Reverse((when, id))) = self.timers.peek() {
            if when > now {
                break;
            }
            self.timers.pop();
            let Some(flow) = self.sockets.get_mut(&id).and_then(|s| s.flow.as_mut()) else {
                continue;
            };
            if flow.timer() != Some(when) {
                continue;
            }
            flow.set_timer(None);
            match flow.deadline() {
                Some(due) if due > now => self.arm(id),
                Some(_) => self.enqueue(id),
                None => {}
            }
        }
        if self.tick.is_some_and(|tick| tick <= now) {
            self.look_after_held();
        }
    }

    /// Listens to a new process.
    fn welcome(&mut self, connection: OwnedFd) -> usize {
        let place = self.members.iter().position(Option::is_none).unwrap_or(self.members.len());
        let data = EventData::new_u64(MEMBER | place as u64);
        // Without it the process is never heard, and gives up when this end is closed.
        if epoll::add(&*self.epoll, &connection, data, EventFlags::IN).is_err() {
            return usize::MAX;
        }
        if place == self.members.len() {
            self.members.push(None);
        }
        self.members[place] = Some(Member::new(connection));
        place
    }

    fn accept(&mut self) {
        let Ok(connection) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) else {
            return;
        };
        if may_join(&connection) {
            self.welcome(connection);
        }
    }
}

/// Of the same user: the address is there for everybody to see.
fn may_join(connection: &OwnedFd) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: record and length live through the call.
    let done = unsafe {
        enter!(
            SYS_getsockopt,
            connection.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            &raw mut peer,
            &raw mut len
        )
    };
    done == 0 && (peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw())
}
