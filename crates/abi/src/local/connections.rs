//! The connections that may be paired or are: one record each, shared with forked relatives,
//! and what this process alone knows of it.
//!
//! A record begins with the connection (connect, accept), counts what TCP carries until the
//! connection is paired, and ends with its last descriptor in the last process that has it. A
//! connection whose beginning nobody saw is none of ours.

use crate::sys::{self, enter};
use sosplice_local::end::{End, Own};
use sosplice_local::layout::{HEADER_BYTES, Header};
use sosplice_local::ring::Ring;
use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// Connections at a time in a family of processes.
const RECORDS: usize = 1 << 16;
/// Descriptors above are not served.
const DESCRIPTORS: usize = 1 << 20;

/// What a connection is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// The record is nobody's.
    Free = 0,
    /// TCP alone; what it carries is counted.
    Plain = 1,
    /// On the way from plain to paired.
    Attaching = 2,
    /// There is a ring.
    Paired = 3,
    /// TCP for good, and nobody counts.
    Given = 4,
}

/// Shared by the processes of a family.
#[repr(C, align(64))]
pub struct Record {
    pub own: Own,
    state: AtomicU32,
    /// Grows with each use of the record, so that an old token is known.
    generation: AtomicU32,
    /// Processes that have it.
    holders: AtomicU32,
    /// Reads of the plain connection that are in the kernel.
    reads: AtomicU32,
    /// Calls so far.
    calls: AtomicU32,
    /// O_NONBLOCK.
    pub nonblocking: AtomicU32,
    /// SO_RCVLOWAT as the program has it.
    pub low_water: AtomicU32,
    /// SO_RCVTIMEO is set, or was.
    pub is_timed: AtomicU32,
    /// TCP_NODELAY and TCP_CORK as the program has them, while it is paired.
    pub no_delay: AtomicU32,
    pub cork: AtomicU32,
    role: AtomicU32,
    ring_bytes: AtomicU64,
    pub inode: AtomicU64,
}

/// This process's part.
#[repr(C)]
pub struct Here {
    /// Where the pair's memory is mapped.
    memory: AtomicPtr<u8>,
    /// Descriptors of it.
    descriptors: AtomicU32,
    /// Calls that use the memory. While there are any it stays, though the connection may be
    /// closed: closing under another thread's call is the program's right.
    users: AtomicU32,
    /// Not zero when the last user takes it away: one of [`Ending`].
    ending: AtomicU32,
    /// One of them.
    pub fd: AtomicI32,
    /// Not zero when each epoll set that has it looks at it by itself before it sleeps.
    pub is_live: AtomicU32,
    /// An offer came: memory is mapped, and not attached yet.
    pub offer: AtomicU32,
}

/// What becomes of a connection's memory here when nobody uses it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Ending {
    /// Others have the connection.
    Unmap = 1,
    /// Nobody has.
    Release = 2,
}

/// A paired connection in use: its memory stays as long as this lives.
pub struct Used {
    connection: Connection,
    pub end: End<'static, Ring>,
}

impl std::ops::Deref for Used {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Used {
    #[inline]
    fn drop(&mut self) {
        if self.connection.here.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.connection.end_if_due();
        }
    }
}

/// A connection that this process has.
#[derive(Clone, Copy)]
pub struct Connection {
    id: u32,
    pub record: &'static Record,
    pub here: &'static Here,
}

static RECORDS_AT: AtomicPtr<Record> = AtomicPtr::new(std::ptr::null_mut());
static HERE_AT: AtomicPtr<Here> = AtomicPtr::new(std::ptr::null_mut());
static TABLE: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());
/// One past the highest descriptor entered.
static TOP: AtomicU32 = AtomicU32::new(0);
/// Where a free record is looked for first.
static HINT: AtomicU32 = AtomicU32::new(0);
/// Connections of this process that are paired, or were.
static PAIRED: AtomicU32 = AtomicU32::new(0);

fn map<T>(count: usize, sharing: c_int) -> Option<*mut T> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = sharing | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let bytes = count * size_of::<T>();
    // SAFETY: a new mapping.
    let at = unsafe { enter!(SYS_mmap, 0, bytes, protection, flags, -1isize, 0) };
    (at > 0).then_some(at as *mut T)
}

/// The process whose tables these are: a child of vfork has the memory, and descriptors of its own.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// The tables are this process's.
pub fn is_owner() -> bool {
    sys::pid() == OWNER.load(Ordering::Relaxed)
}

/// They are from now on.
pub fn own() {
    OWNER.store(sys::pid(), Ordering::Relaxed);
}

/// Makes the tables; false where there is no memory, and everything stays TCP.
pub fn begin() -> bool {
    own();
    let made = || {
        RECORDS_AT.store(map(RECORDS, libc::MAP_SHARED)?, Ordering::Release);
        HERE_AT.store(map(RECORDS, libc::MAP_PRIVATE)?, Ordering::Release);
        TABLE.store(map(DESCRIPTORS, libc::MAP_PRIVATE)?, Ordering::Release);
        Some(())
    };
    made().is_some()
}

#[inline(always)]
fn entry(fd: c_int) -> Option<&'static AtomicU32> {
    let fd = usize::try_from(fd).ok().filter(|fd| *fd < DESCRIPTORS)?;
    let table = TABLE.load(Ordering::Relaxed);
    // SAFETY: the mapping has so many zeroed words and is never unmapped.
    (!table.is_null()).then(|| unsafe { &*table.add(fd) })
}

fn connection(id: u32) -> Connection {
    let place = id as usize % RECORDS;
    // SAFETY: both mappings have so many zeroed records, zeroes are valid in each, and they are
    // never unmapped; an id comes from a table that is made with them.
    unsafe {
        Connection {
            id,
            record: &*RECORDS_AT.load(Ordering::Relaxed).add(place),
            here: &*HERE_AT.load(Ordering::Relaxed).add(place),
        }
    }
}

/// The connection of a descriptor, if it is one of ours.
#[inline]
pub fn of(fd: c_int) -> Option<Connection> {
    let id = entry(fd)?.load(Ordering::Relaxed);
    if id == 0 {
        return None;
    }
    let found = connection(id);
    if found.state() == State::Given {
        drop_descriptor(fd);
        return None;
    }
    Some(found)
}

/// None of ours, as one load tells.
#[inline(always)]
pub fn is_unknown(fd: c_int) -> bool {
    entry(fd).is_none_or(|entry| entry.load(Ordering::Relaxed) == 0)
}

/// Lets go of a descriptor; of the connection with the last.
fn drop_descriptor(fd: c_int) {
    if let Some((found, last)) = forget(fd) {
        match last {
            Last::No => {}
            Last::Here => found.unmap(),
            Last::Anywhere => found.release(),
        }
    }
}

/// As [`of`], if it is paired.
#[inline]
pub fn paired(fd: c_int) -> Option<Used> {
    if PAIRED.load(Ordering::Relaxed) == 0 {
        return None;
    }
    of(fd)?.used()
}

/// Some connection of this process is paired, or was.
#[inline]
pub fn any_paired() -> bool {
    PAIRED.load(Ordering::Relaxed) != 0
}

/// A connection begins under this descriptor.
pub fn enter(fd: c_int) -> Option<Connection> {
    if !is_owner() {
        return None;
    }
    let place = entry(fd)?;
    if place.load(Ordering::Relaxed) != 0 {
        // It was closed behind our back.
        drop_descriptor(fd);
    }
    let first = HINT.load(Ordering::Relaxed);
    let id = (0..RECORDS as u32).map(|step| (first + step) % RECORDS as u32).find(|id| {
        *id != 0
            && connection(*id)
                .record
                .state
                .compare_exchange(
                    State::Free as u32,
                    State::Attaching as u32,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_ok()
    })?;
    HINT.store(id + 1, Ordering::Relaxed);
    let made = connection(id);
    made.record.begin();
    made.here.begin(fd);
    place.store(id, Ordering::Release);
    TOP.fetch_max(fd as u32 + 1, Ordering::AcqRel);
    made.record.set_state(State::Plain);
    Some(made)
}

/// A duplicate was made.
pub fn duplicated(old: c_int, new: c_int) {
    let Some(found) = of(old).filter(|_| is_owner()) else { return };
    if let Some(place) = entry(new) {
        found.here.descriptors.fetch_add(1, Ordering::AcqRel);
        place.store(found.id, Ordering::Release);
        TOP.fetch_max(new as u32 + 1, Ordering::AcqRel);
    }
}

/// A descriptor is about to be closed. Whether it was the connection's last in this process, and
/// in any.
pub fn forget(fd: c_int) -> Option<(Connection, Last)> {
    let place = entry(fd)?;
    let id = place.load(Ordering::Relaxed);
    if id == 0 || place.compare_exchange(id, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return None;
    }
    let found = connection(id);
    if found.here.descriptors.fetch_sub(1, Ordering::AcqRel) != 1 {
        if found.here.fd.load(Ordering::Relaxed) == fd
            && let Some(other) = descriptors_of(id).next()
        {
            found.here.fd.store(other, Ordering::Relaxed);
        }
        return Some((found, Last::No));
    }
    let is_last = found.record.holders.fetch_sub(1, Ordering::AcqRel) == 1;
    Some((found, if is_last { Last::Anywhere } else { Last::Here }))
}

/// Which descriptor was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// There are others in this process.
    No,
    /// Another process has it.
    Here,
    /// Nobody has it any more.
    Anywhere,
}

fn descriptors_of(id: u32) -> impl Iterator<Item = c_int> {
    all().filter(move |(_, found)| found.id == id).map(|(fd, _)| fd)
}

/// All descriptors of ours in this process.
pub fn all() -> impl Iterator<Item = (c_int, Connection)> {
    (0..TOP.load(Ordering::Acquire) as c_int).filter_map(|fd| {
        let id = entry(fd)?.load(Ordering::Acquire);
        (id != 0).then(|| (fd, connection(id)))
    })
}

/// What a fork gives to one more process, by its tokens.
pub type Given = Vec<u64>;

/// A fork is about to give everything to one more process.
pub fn before_fork() -> Given {
    let mut given = Given::new();
    for (fd, found) in all() {
        if found.here.fd.load(Ordering::Relaxed) == fd {
            found.record.holders.fetch_add(1, Ordering::AcqRel);
            given.push(found.token());
        }
    }
    given
}

/// There was no such process. What was closed meanwhile was closed as if there were.
pub fn fork_has_failed(given: Given) {
    for token in given {
        let found = connection(token as u32);
        if found.token() == token && found.lets_go() {
            found.release();
        }
    }
}

/// The calls of the parent's other threads are not the child's.
pub fn after_fork_in_child() {
    all().for_each(|(_, found)| found.here.users.store(0, Ordering::SeqCst));
}

/// The connection that a token names, if it is still there and here.
pub fn by_token(token: u64) -> Option<Connection> {
    let found = connection(token as u32);
    let is_it = found.record.generation.load(Ordering::Relaxed) == (token >> 32) as u32
        && found.here.descriptors.load(Ordering::Relaxed) > 0;
    is_it.then_some(found)
}

impl Record {
    fn begin(&self) {
        self.own.reset();
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.holders.store(1, Ordering::Relaxed);
        for word in [&self.reads, &self.calls, &self.no_delay, &self.cork] {
            word.store(0, Ordering::Relaxed);
        }
        self.low_water.store(1, Ordering::Relaxed);
    }

    fn set_state(&self, state: State) {
        self.state.store(state as u32, Ordering::SeqCst);
    }
}

impl Here {
    fn begin(&self, fd: c_int) {
        self.memory.store(std::ptr::null_mut(), Ordering::Relaxed);
        self.descriptors.store(1, Ordering::Relaxed);
        self.ending.store(0, Ordering::Relaxed);
        self.fd.store(fd, Ordering::Relaxed);
        self.is_live.store(0, Ordering::Relaxed);
        self.offer.store(0, Ordering::Relaxed);
    }
}

impl Connection {
    pub fn token(&self) -> u64 {
        u64::from(self.record.generation.load(Ordering::Relaxed)) << 32 | u64::from(self.id)
    }

    #[inline]
    pub fn state(&self) -> State {
        match self.record.state.load(Ordering::SeqCst) {
            0 => State::Free,
            1 => State::Plain,
            2 => State::Attaching,
            3 => State::Paired,
            _ => State::Given,
        }
    }

    /// The same connection.
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// This process ends. True if no other one has it.
    pub fn lets_go(&self) -> bool {
        self.record.holders.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Bytes have gone over TCP in either direction.
    pub fn has_carried(&self) -> bool {
        let Own { reading, writing } = &self.record.own;
        reading.tcp_data.load(Ordering::Relaxed) | writing.tcp_data.load(Ordering::Relaxed) != 0
    }

    /// Counts a call on a plain connection; how many there were.
    pub fn count_call(&self) -> u32 {
        self.record.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// A read of the plain connection begins. False when it is not plain any more.
    pub fn begin_plain_read(&self) -> bool {
        self.begin_plain(
            |record| {
                record.reads.fetch_add(1, Ordering::SeqCst);
            },
            |record| {
                record.reads.fetch_sub(1, Ordering::SeqCst);
            },
        )
    }

    /// It has ended; so many bytes were taken.
    pub fn end_plain_read(&self, count: usize) {
        self.record.own.reading.tcp_data.fetch_add(count as u64, Ordering::Relaxed);
        self.record.reads.fetch_sub(1, Ordering::SeqCst);
    }

    /// A write on the plain connection begins. False when it is not plain any more.
    pub fn begin_plain_write(&self) -> bool {
        self.begin_plain(
            |record| record.own.writing.enter_kernel(),
            |record| record.own.writing.leave_kernel(0),
        )
    }

    /// It has ended; so many bytes were sent.
    pub fn end_plain_write(&self, count: usize) {
        self.record.own.writing.leave_kernel(count);
    }

    /// Either the one who attaches sees the call, or the call sees him.
    fn begin_plain(&self, enter: impl Fn(&Record), leave: impl Fn(&Record)) -> bool {
        loop {
            match self.state() {
                State::Plain => {
                    enter(self.record);
                    if self.state() == State::Plain {
                        return true;
                    }
                    leave(self.record);
                }
                State::Attaching => std::hint::spin_loop(),
                _ => return false,
            }
        }
    }

    /// Whether [`Connection::attach`] is worth a try: nobody is in its way that will be there for long.
    pub fn may_attach(&self) -> bool {
        self.record.holders.load(Ordering::Relaxed) == 1
            && self.record.reads.load(Ordering::Relaxed) == 0
            && self.record.own.writing.in_kernel() == 0
    }

    /// From plain to paired: `ready` is asked when no call is in the kernel, and may refuse.
    /// None when calls are, and it is to be tried again.
    pub fn attach(&self, ready: impl FnOnce() -> bool) -> Option<bool> {
        let (plain, attaching) = (State::Plain as u32, State::Attaching as u32);
        let state = &self.record.state;
        if state.compare_exchange(plain, attaching, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Some(false);
        }
        // A relative that has it might be in the kernel unseen when it was killed; and one that
        // has no mapping could not go on.
        let is_shared = self.record.holders.load(Ordering::SeqCst) != 1;
        let in_kernel = self.record.reads.load(Ordering::SeqCst) != 0
            || self.record.own.writing.in_kernel() != 0;
        if is_shared || in_kernel {
            self.record.set_state(State::Plain);
            return None;
        }
        if ready() {
            PAIRED.fetch_add(1, Ordering::Relaxed);
            self.record.set_state(State::Paired);
            Some(true)
        } else {
            self.record.set_state(State::Given);
            Some(false)
        }
    }

    /// TCP for good: nobody looks at it any more, here or in a relative.
    pub fn give_up(&self) {
        self.record.set_state(State::Given);
    }

    /// The record is free for another connection, once no call uses it.
    pub fn release(&self) {
        self.end_as(Ending::Release);
    }

    /// This process has done with the pair's memory, once no call uses it.
    pub fn unmap(&self) {
        self.end_as(Ending::Unmap);
    }

    fn end_as(&self, ending: Ending) {
        self.here.users.fetch_add(1, Ordering::SeqCst);
        self.here.ending.store(ending as u32, Ordering::SeqCst);
        if self.here.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.end_if_due();
        }
    }

    /// By the last user: nobody begins to use what has no descriptor.
    fn end_if_due(&self) {
        let ending = self.here.ending.swap(0, Ordering::SeqCst);
        if ending == 0 {
            return;
        }
        let memory = self.here.memory.swap(std::ptr::null_mut(), Ordering::AcqRel);
        if !memory.is_null() {
            let ring_bytes = self.record.ring_bytes.load(Ordering::Relaxed) as usize;
            let bytes = sosplice_local::layout::pair_bytes(ring_bytes);
            // SAFETY: it was mapped with this length, and no call uses it any more.
            unsafe { enter!(SYS_munmap, memory, bytes) };
        }
        if ending == Ending::Release as u32 {
            self.record.set_state(State::Free);
        }
    }

    /// To be used as a paired connection; None for what is none.
    #[inline]
    pub fn used(self) -> Option<Used> {
        self.here.users.fetch_add(1, Ordering::SeqCst);
        let end = (self.state() == State::Paired
            && self.here.ending.load(Ordering::SeqCst) == 0
            && self.here.descriptors.load(Ordering::Relaxed) > 0)
            .then(|| self.end())
            .flatten();
        match end {
            Some(end) => Some(Used { connection: self, end }),
            None => {
                if self.here.users.fetch_sub(1, Ordering::SeqCst) == 1 {
                    self.end_if_due();
                }
                None
            }
        }
    }

    /// The pair's memory is here. `role` says which end this is.
    pub fn set_memory(&self, memory: NonNull<u8>, ring_bytes: usize, role: usize) {
        self.record.ring_bytes.store(ring_bytes as u64, Ordering::Relaxed);
        self.record.role.store(role as u32, Ordering::Relaxed);
        self.here.memory.store(memory.as_ptr(), Ordering::Release);
    }

    /// This end of the pair; None without its memory.
    #[inline]
    pub fn end(&self) -> Option<End<'static, Ring>> {
        let memory = NonNull::new(self.here.memory.load(Ordering::Acquire))?;
        let ring_bytes = self.record.ring_bytes.load(Ordering::Relaxed) as usize;
        let role = self.record.role.load(Ordering::Relaxed) as usize & 1;
        // SAFETY: the mapping has a header and two rings of this size (`set_memory`); it stays
        // until the last descriptor here is closed.
        unsafe {
            let ring =
                |lane: usize| Ring::new(memory.add(HEADER_BYTES + lane * ring_bytes), ring_bytes);
            Some(End {
                own: &self.record.own,
                header: memory.cast::<Header>().as_ref(),
                role,
                incoming: ring(1 - role),
                outgoing: ring(role),
            })
        }
    }
}
