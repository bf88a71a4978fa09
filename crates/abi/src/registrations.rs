//! The epoll registrations of this process, so that a spliced source can be taken out of
//! sight and put back.
//!
//! Those made before the process used the option are read from /proc once; from then on
//! epoll_ctl tells. While a socket is a source its registrations ask for room to write at
//! most; at the end they are as the program made them, which makes epoll report what is
//! there, edge or level. Served are registrations that this process made; of an epoll set
//! that is shared with another process each knows its own.

use crate::connection;
use crate::descriptors;
use crate::domain::SlotId;
use crate::lock::Guard;
use crate::notice;
use crate::sys::{Fd, Raw, enter};
use rustix::fs::{CWD, Mode, OFlags, RawDir};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const READ: u32 =
    (libc::EPOLLIN | libc::EPOLLPRI | libc::EPOLLRDNORM | libc::EPOLLRDBAND | libc::EPOLLRDHUP)
        as u32;
const WRITE: u32 = (libc::EPOLLOUT | libc::EPOLLWRNORM | libc::EPOLLWRBAND) as u32;
const EDGE: u32 = libc::EPOLLET as u32;

/// In the high half of a masked registration's data; the descriptor is in the low half.
const MARK: u64 = 0x50F7_11CE;

/// The data of the eventfd of ends.
const ENDS: u64 = MARK << 32 | u32::MAX as u64;

/// Epoll sets that hold a masked or owing registration, or the eventfd of ends.
static HOOKED: [AtomicU64; 1 << 14] = [const { AtomicU64::new(0) }; 1 << 14];

static TABLE: Mutex<Table> =
    Mutex::new(Table { all: BTreeMap::new(), masked: BTreeSet::new(), owing: BTreeSet::new() });

struct Table {
    /// By descriptor and epoll set.
    all: BTreeMap<(c_int, c_int), Registration>,
    /// By epoll set and descriptor.
    masked: BTreeSet<(c_int, c_int)>,
    /// Their sockets have an error or bytes to be told that the kernel does not know of.
    owing: BTreeSet<(c_int, c_int)>,
}

#[derive(Clone, Copy)]
struct Registration {
    events: u32,
    data: u64,
    slot: Option<SlotId>,
}

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether epoll_wait on this set needs a closer look.
pub fn is_hooked(epoll: c_int) -> bool {
    let word = HOOKED.get(epoll as usize / 64).map_or(0, |word| word.load(Ordering::Acquire));
    word >> (epoll as u32 % 64) & 1 != 0
}

fn hook(guard: &Guard, epoll: c_int) {
    if is_hooked(epoll) {
        return;
    }
    let Some(word) = HOOKED.get(epoll as usize / 64) else { return };
    let bit = 1 << (epoll as u32 % 64);
    // Before it is added: a thread that sleeps on the set may be woken by it at once.
    word.fetch_or(bit, Ordering::Release);
    if !connection::watched(guard).is_ok_and(|watched| notice::add(epoll, watched, ENDS).is_ok()) {
        word.fetch_and(!bit, Ordering::Release);
    }
}

/// An event that the program is not to see as it is.
pub fn is_ours(event: &libc::epoll_event) -> bool {
    event.u64 >> 32 == MARK
}

fn kernel(epoll: c_int, op: c_int, fd: c_int, events: u32, data: u64) -> Raw {
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: the event lives through the call.
    unsafe { enter!(SYS_epoll_ctl, epoll, op, fd, &raw mut event) }
}

/// Changes a registration. An exclusive one cannot be changed (epoll_ctl(2)), and is made anew.
fn change(epoll: c_int, fd: c_int, events: u32, data: u64) -> Raw {
    let done = kernel(epoll, libc::EPOLL_CTL_MOD, fd, events, data);
    if done != -(libc::EINVAL as Raw) || events & libc::EPOLLEXCLUSIVE as u32 == 0 {
        return done;
    }
    match kernel(epoll, libc::EPOLL_CTL_DEL, fd, 0, 0) {
        0 => kernel(epoll, libc::EPOLL_CTL_ADD, fd, events, data),
        failed => failed,
    }
}

/// A one-shot registration that has told its event, and is not to tell another before the
/// program asks for it.
fn is_spent(events: u32) -> bool {
    events & libc::EPOLLONESHOT as u32 != 0 && events & (READ | WRITE) == 0
}

/// What a registration asks for while its socket is a source.
fn masked(events: u32) -> u32 {
    let keep = events & !READ;
    // A hang-up cannot be masked: edge-triggered it is told once, not for ever.
    if events & WRITE == 0 { keep | EDGE } else { keep }
}

/// epoll_ctl for a program that uses the option.
pub fn control(
    guard: &Guard,
    epoll: c_int,
    op: c_int,
    fd: c_int,
    event: Option<(u32, u64)>,
) -> Raw {
    let slot = descriptors::known_quickly(fd);
    let source = slot.filter(|id| id.slot().is_source());
    let Some((events, data)) = event.filter(|_| op != libc::EPOLL_CTL_DEL) else {
        let done = kernel(epoll, op, fd, 0, 0);
        if done == 0 {
            table().remove(fd, epoll);
        }
        return done;
    };
    let done = match source {
        Some(_) => kernel(epoll, op, fd, masked(events), MARK << 32 | fd as u64),
        None => kernel(epoll, op, fd, events, data),
    };
    if done != 0 {
        return done;
    }
    let mut table = table();
    table.remove(fd, epoll);
    table.all.insert((fd, epoll), Registration { events, data, slot });
    if source.is_some() {
        table.masked.insert((epoll, fd));
        hook(guard, epoll);
    } else if slot.is_some_and(|id| id.slot().owes()) {
        table.owing.insert((epoll, fd));
        hook(guard, epoll);
    }
    done
}

impl Table {
    fn remove(&mut self, fd: c_int, epoll: c_int) {
        self.all.remove(&(fd, epoll));
        self.masked.remove(&(epoll, fd));
        self.owing.remove(&(epoll, fd));
    }
}

/// A splice from this socket has begun.
pub fn mask(guard: &Guard, id: SlotId) {
    let mut table = table();
    if table.all.is_empty() {
        return;
    }
    let Table { all, masked: set, owing } = &mut *table;
    for fd in descriptors::all_of(id) {
        for ((_, epoll), registration) in all.range_mut((fd, c_int::MIN)..=(fd, c_int::MAX)) {
            registration.slot = Some(id);
            if registration.events & libc::EPOLLONESHOT as u32 != 0
                && in_kernel(*epoll).any(|(of, now)| of == fd && is_spent(now.events))
            {
                continue;
            }
            let events = masked(registration.events);
            if change(*epoll, fd, events, MARK << 32 | fd as u64) == 0 {
                set.insert((*epoll, fd));
                owing.remove(&(*epoll, fd));
                hook(guard, *epoll);
            }
        }
    }
}

/// Puts the registrations of ended splices back; epoll then reports what is there.
pub fn unmask_ended(_: &Guard, epoll: c_int) {
    let mut table = table();
    let Table { all, masked, owing } = &mut *table;
    masked.retain(|&(of, fd)| {
        let Some(registration) = all.get(&(fd, of)) else { return false };
        if of != epoll || registration.slot.is_some_and(|id| id.slot().is_source()) {
            return true;
        }
        if is_spent(registration.events) {
            return false;
        }
        change(of, fd, registration.events, registration.data);
        if registration.slot.is_some_and(|id| id.slot().owes()) {
            owing.insert((of, fd));
        }
        false
    });
}

/// The process has another connection: the sets that had the old one get it.
pub fn renew_hooks(guard: &Guard) {
    HOOKED.iter().for_each(|word| word.store(0, Ordering::Release));
    let sets: BTreeSet<c_int> = {
        let table = table();
        table.masked.iter().chain(&table.owing).map(|(epoll, _)| *epoll).collect()
    };
    sets.into_iter().for_each(|epoll| hook(guard, epoll));
}

/// Events that the kernel does not know of: of sockets that owe an error or bytes. A
/// level-triggered one is told until it is taken, an edge-triggered one once.
pub fn owed(_: &Guard, epoll: c_int, events: &mut [libc::epoll_event]) -> usize {
    let mut table = table();
    let Table { all, owing, .. } = &mut *table;
    let mut count = 0;
    owing.retain(|&(of, fd)| {
        if of != epoll || count == events.len() {
            return true;
        }
        let Some(registration) = all.get(&(fd, of)) else { return false };
        if !registration.slot.is_some_and(|id| id.slot().owes()) {
            return false;
        }
        let told = registration.events & (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
        if told == 0 {
            return true;
        }
        events[count] = libc::epoll_event { events: told, u64: registration.data };
        count += 1;
        registration.events & (EDGE | libc::EPOLLONESHOT as u32) == 0
    });
    count
}

/// Among the kernel's events is the carrier's death.
pub fn has_died(events: &[libc::epoll_event]) -> bool {
    events.iter().any(|event| event.u64 == ENDS && notice::is_death(event))
}

/// Gives the kernel's events the program's data, and drops what is ours: from `first` on,
/// in place. Returns how many are left.
pub fn translate(_: &Guard, epoll: c_int, events: &mut [libc::epoll_event], owed: usize) -> usize {
    let mut table = table();
    let mut kept = owed;
    for place in owed..events.len() {
        let mut event = events[place];
        if event.u64 == ENDS {
            continue;
        }
        if event.u64 >> 32 == MARK
            && let Some(registration) = table.all.get_mut(&(event.u64 as u32 as c_int, epoll))
        {
            event.u64 = registration.data;
            event.events &= registration.events & WRITE;
            if event.events == 0 {
                continue;
            }
            if registration.events & libc::EPOLLONESHOT as u32 != 0 {
                registration.events &= !(READ | WRITE);
            }
        }
        // The same registration may have been told as owing.
        let data = event.u64;
        if let Some(same) = events[..owed].iter_mut().find(|same| { same.u64 } == data) {
            same.events |= event.events;
            continue;
        }
        events[kept] = event;
        kept += 1;
    }
    kept
}

/// The descriptor is closed: as a socket, and as an epoll set.
pub fn closed(_: &Guard, fd: c_int) {
    let mut table = table();
    if table.all.is_empty() {
        return;
    }
    let sets: Vec<c_int> = table
        .all
        .range((fd, c_int::MIN)..=(fd, c_int::MAX))
        .map(|((_, epoll), _)| *epoll)
        .collect();
    for epoll in sets {
        table.remove(fd, epoll);
    }
    if is_hooked(fd) || table.all.keys().any(|(_, epoll)| *epoll == fd) {
        table.all.retain(|(_, epoll), _| *epoll != fd);
        table.masked.retain(|(epoll, _)| *epoll != fd);
        table.owing.retain(|(epoll, _)| *epoll != fd);
        if let Some(word) = HOOKED.get(fd as usize / 64) {
            word.fetch_and(!(1 << (fd as u32 % 64)), Ordering::Release);
        }
    }
}

/// Looks once at everything that this process has open: duplicates, and epoll sets.
pub fn survey(guard: &Guard) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::openat(CWD, c"/proc/self/fd", flags, Mode::empty()) else { return };
    let dir = Fd::from(dir);
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&dir, &mut buffer);
    let mut sockets = BTreeMap::<u64, c_int>::new();
    while let Some(Ok(entry)) = entries.next() {
        let Some(fd) = number(entry.file_name().to_bytes()) else { continue };
        let mut link = [MaybeUninit::uninit(); 64];
        let Ok((link, _)) = rustix::fs::readlinkat_raw(&dir, entry.file_name(), &mut link) else {
            continue;
        };
        if let Some(inode) = socket_link(link) {
            if let Some(twin) = sockets.insert(inode, fd) {
                descriptors::mark_twin(twin);
                descriptors::mark_twin(fd);
            }
        } else if link == b"anon_inode:[eventpoll]" && !descriptors::is_hidden(fd) {
            adopt(guard, fd);
        }
    }
}

/// The inode in `socket:[123]`.
pub fn socket_link(link: &[u8]) -> Option<u64> {
    let inode = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inode).ok()?.parse().ok()
}

fn number(name: &[u8]) -> Option<c_int> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// The registrations of a set that was made before anybody listened.
fn adopt(_: &Guard, epoll: c_int) {
    table().all.extend(in_kernel(epoll).map(|(fd, registration)| ((fd, epoll), registration)));
}

/// What the kernel has of a set, from /proc/self/fdinfo (proc_pid_fdinfo(5)):
/// `tfd: 5 events: 19 data: 5 ...`.
fn in_kernel(epoll: c_int) -> impl Iterator<Item = (c_int, Registration)> {
    let text = read_file(&format!("/proc/self/fdinfo/{epoll}\0"));
    let lines: Vec<_> = text.lines().filter_map(registration).collect();
    lines.into_iter()
}

fn registration(line: &str) -> Option<(c_int, Registration)> {
    let mut words = line.split_whitespace();
    let mut value = |name| words.by_ref().find(|word| *word == name).and(words.next());
    let fd = value("tfd:")?.parse().ok()?;
    let events = u32::from_str_radix(value("events:")?, 16).ok()?;
    let data = u64::from_str_radix(value("data:")?, 16).ok()?;
    Some((fd, Registration { events, data, slot: None }))
}

/// A small file whole; empty where it cannot be read.
fn read_file(path: &str) -> String {
    let Ok(path) = std::ffi::CStr::from_bytes_with_nul(path.as_bytes()) else {
        return String::new();
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(CWD, path, flags, Mode::empty()) else {
        return String::new();
    };
    let file = Fd::from(file);
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = rustix::io::read(&file, &mut piece) {
        bytes.extend_from_slice(&piece[..count]);
    }
    String::from_utf8(bytes).unwrap_or_default()
}
