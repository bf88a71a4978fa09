//! The process's connection to the carrier, which also tells the carrier, by its end, that
//! the process is gone; and the process, that the carrier is.
//!
//! The carrier is made by the first process of a domain that needs one; relatives find it
//! by the address in the domain. A fork makes the child's connection before the child
//! exists, so that nothing can end between the two.
//!
//! A carrier that dies is found out by whoever sleeps on it or asks it: the kernel marks the
//! domain ([`domain::is_orphaned`]), wakes one reader, and hangs up every connection, which
//! wakes poll, select and epoll. The first to come counts its splices as ended; the next that
//! needs a carrier makes it.

use crate::carrier;
use crate::client::{self, ASK_AGAIN_AFTER};
use crate::descriptors;
use crate::domain::{self, DEATH, DOMAIN, SlotId};
use crate::lock::Guard;
use crate::notice::{self, Watched};
use crate::registrations;
use crate::sys::{self, Fd};
use crate::wire::Request;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{BorrowedFd, IntoRawFd, RawFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::BTreeSet;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// The connection, or -1.
static CONNECTION: AtomicI32 = AtomicI32::new(-1);
/// Its inode: a careless program may have put something else under its number.
static INODE: AtomicU64 = AtomicU64::new(0);
/// The eventfd on which the carrier tells ends, or -1. It outlives carriers: threads and epoll
/// sets watch it.
static ENDS: AtomicI32 = AtomicI32::new(-1);
/// The address of the carrier on its other side.
static CARRIER: AtomicU64 = AtomicU64::new(0);
/// The process that these belong to. A child of vfork has them and is another.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// The same for a child that is about to be born.
static CHILDS_CONNECTION: AtomicI32 = AtomicI32::new(-1);
static CHILDS_ENDS: AtomicI32 = AtomicI32::new(-1);
static CHILDS_INODE: AtomicU64 = AtomicU64::new(0);

pub fn exists() -> bool {
    CONNECTION.load(Ordering::Relaxed) >= 0
}

/// This process is the one that the tables describe, and no child of vfork.
pub fn is_owner() -> bool {
    OWNER.load(Ordering::Relaxed) == sys::pid()
}

/// What tells of ends; the process is connected for it.
pub fn watched(guard: &Guard) -> Result<Watched, c_int> {
    let connection = get(guard)?;
    Ok(Watched { ends: ENDS.load(Ordering::Relaxed), connection })
}

/// The connection, made if there is none.
pub fn get(guard: &Guard) -> Result<RawFd, c_int> {
    if domain::is_orphaned() {
        mourn(guard);
    }
    let connection = CONNECTION.load(Ordering::Relaxed);
    if connection >= 0 {
        if is_ours(connection) {
            return Ok(connection);
        }
        // Not ours any more, and not ours to close.
        descriptors::forget_hidden(CONNECTION.swap(-1, Ordering::Relaxed));
    }
    descriptors::prepare(guard)?;
    let (connection, carrier, ends) = find_or_make(guard).map_err(Errno::raw_os_error)?;
    CARRIER.store(carrier, Ordering::Relaxed);
    adopt(connection.into_raw(), ends);
    crate::interpose::next::resolve();
    registrations::renew_hooks(guard);
    registrations::survey(guard);
    hold_all();
    DOMAIN.active.store(1, Ordering::Release);
    DOMAIN.loud.store(1, Ordering::Release);
    Ok(CONNECTION.load(Ordering::Relaxed))
}

fn is_ours(connection: RawFd) -> bool {
    sys::socket_inode(connection) == Some(INODE.load(Ordering::Relaxed))
}

pub fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: hidden descriptors stay open while the lock is held, and others are the
    // program's, whose closing meanwhile the kernel answers with EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// What this process knew before it had this connection, it holds.
fn hold_all() {
    let connection = CONNECTION.load(Ordering::Relaxed);
    let ids: BTreeSet<u32> = descriptors::entered(0, c_int::MAX).map(|(_, id)| id.0).collect();
    for id in ids {
        if client::talk(connection, Request::Hold(SlotId(id)), &[], &mut []).is_err() {
            return;
        }
    }
}

fn adopt(connection: RawFd, ends: RawFd) {
    INODE.store(sys::socket_inode(connection).unwrap_or(0), Ordering::Relaxed);
    CONNECTION.store(descriptors::hide(connection), Ordering::Relaxed);
    if ENDS.load(Ordering::Relaxed) != ends {
        ENDS.store(descriptors::hide(ends), Ordering::Relaxed);
    }
    OWNER.store(sys::pid(), Ordering::Relaxed);
    notice::renew();
}

/// The question or its answer did not get through. True if that was the carrier's death.
pub fn lose(guard: &Guard) -> bool {
    mourn(guard);
    part();
    has_another_carrier()
}

/// The one that this process talked to is gone.
fn has_another_carrier() -> bool {
    DOMAIN.address.load(Ordering::Acquire) != CARRIER.load(Ordering::Relaxed)
}

/// If the carrier has died its splices count as ended, and everybody who waits is woken.
pub fn mourn(_: &Guard) {
    while domain::is_orphaned() {
        lead(|| {
            // Somebody else may have been first.
            if domain::is_orphaned() {
                DOMAIN.address.store(0, Ordering::Release);
                domain::bury();
            }
        });
    }
    if !is_owner() {
        return;
    }
    carrier::reap(libc::WNOHANG);
    let connection = CONNECTION.load(Ordering::Relaxed);
    if connection >= 0 && is_ours(connection) && (has_another_carrier() || has_hung_up(connection))
    {
        part();
        restore_low_water();
        ring();
    }
}

/// Gives the connection up.
fn part() {
    let connection = CONNECTION.swap(-1, Ordering::Relaxed);
    if connection >= 0 {
        descriptors::close_hidden(connection);
        notice::renew();
    }
}

/// Wakes the threads of this process: what they watched is gone.
fn ring() {
    let ends = ENDS.load(Ordering::Relaxed);
    if ends >= 0 {
        // One that is full has told already.
        let _ = rustix::io::write(borrow(ends), &1u64.to_ne_bytes());
    }
}

fn has_hung_up(connection: RawFd) -> bool {
    let connection = borrow(connection);
    let mut fds = [PollFd::new(&connection, PollFlags::RDHUP)];
    matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
}

/// A carrier that died has left its own low-water marks on the sources.
fn restore_low_water() {
    for (fd, id) in descriptors::entered(0, c_int::MAX) {
        let slot = id.slot();
        let own = slot.low_water.load(Ordering::Acquire);
        if slot.cause.load(Ordering::Acquire) == DEATH
            && sys::socket_inode(fd) == Some(slot.inode.load(Ordering::Acquire))
        {
            sys::set_int_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, own);
        }
    }
}

/// Does what one process of the domain does at a time; None if it was another's turn, which
/// is over now.
fn lead<T>(work: impl FnOnce() -> T) -> Option<T> {
    let maker = DOMAIN.making.load(Ordering::Acquire);
    let own = sys::pid();
    // A number of our own is of a process that is gone: we hold the lock.
    if maker != 0 && maker != own && domain::is_alive(maker) {
        let nap = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        sys::futex_wait(&DOMAIN.making, maker, Some(&nap));
        return None;
    }
    DOMAIN.making.compare_exchange(maker, own, Ordering::AcqRel, Ordering::Relaxed).ok()?;
    let done = work();
    // Whatever came of it: the next one may try.
    DOMAIN.making.store(0, Ordering::Release);
    sys::futex_wake(&DOMAIN.making, c_int::MAX);
    Some(done)
}

/// The connection, the carrier's address and the eventfd of ends.
fn find_or_make(guard: &Guard) -> Result<(Fd, u64, RawFd), Errno> {
    let ends = match ENDS.load(Ordering::Relaxed) {
        old @ 0.. if is_open(old) => Ends::Old(old),
        _ => Ends::New(new_ends()?),
    };
    loop {
        let address = DOMAIN.address.load(Ordering::Acquire);
        if address != 0 {
            match connect(address, ends.raw()) {
                Ok(connection) => return Ok((connection, address, ends.into_raw())),
                // It went with its last process.
                Err(Errno::CONNREFUSED | Errno::PIPE | Errno::CONNRESET)
                    if !domain::is_carried() =>
                {
                    let _ = DOMAIN.address.compare_exchange(
                        address,
                        0,
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    );
                }
                Err(errno) => return Err(errno),
            }
        }
        let made = lead(|| match DOMAIN.address.load(Ordering::Acquire) {
            0 => Some(make(guard, ends.raw())),
            // Somebody else was first.
            _ => None,
        });
        if let Some(made) = made.flatten() {
            let address = DOMAIN.address.load(Ordering::Acquire);
            return made.map(|connection| (connection, address, ends.into_raw()));
        }
    }
}

/// The process's eventfd of ends: that which it has, or one that it gets if all goes well.
enum Ends {
    Old(RawFd),
    New(Fd),
}

impl Ends {
    fn raw(&self) -> RawFd {
        match self {
            Self::Old(ends) => *ends,
            Self::New(ends) => ends.raw(),
        }
    }

    fn into_raw(self) -> RawFd {
        match self {
            Self::Old(ends) => ends,
            Self::New(ends) => ends.into_raw(),
        }
    }
}

fn is_open(fd: RawFd) -> bool {
    rustix::io::fcntl_getfd(borrow(fd)).is_ok()
}

fn make(guard: &Guard, ends: RawFd) -> Result<Fd, Errno> {
    let (here, there) = pair()?;
    carrier::spawn(guard, there)?;
    // It answers when it serves; until then it writes the domain anew.
    client::talk(here.raw(), Request::Hello, &[ends], &mut [])?;
    Ok(here)
}

fn pair() -> Result<(Fd, Fd), Errno> {
    let flags = SocketFlags::CLOEXEC;
    let (here, there) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let (here, there) = (Fd::from(here).out_of_reach(), Fd::from(there).out_of_reach());
    limit_wait(&here);
    Ok((here, there))
}

fn new_ends() -> Result<Fd, Errno> {
    let ends = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    Ok(Fd::from(ends).out_of_reach())
}

/// The carrier's address.
pub fn address(number: u64) -> Result<SocketAddrUnix, Errno> {
    let mut name = *b"sosplice.0000000000000000";
    for (place, digit) in name[9..].iter_mut().zip((0..16).rev()) {
        *place = b"0123456789abcdef"[(number >> (digit * 4) & 15) as usize];
    }
    SocketAddrUnix::new_abstract_name(&name)
}

fn connect(number: u64, ends: RawFd) -> Result<Fd, Errno> {
    let connection = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let connection = Fd::from(connection).out_of_reach();
    limit_wait(&connection);
    rustix::net::connect(&connection, &address(number)?)?;
    client::talk(connection.raw(), Request::Hello, &[ends], &mut [])?;
    Ok(connection)
}

fn limit_wait(connection: &Fd) {
    let kind = rustix::net::sockopt::Timeout::Recv;
    let _ = rustix::net::sockopt::set_socket_timeout(connection, kind, Some(ASK_AGAIN_AFTER));
}

/// Before a fork: the child's connection.
pub fn before_fork(guard: &Guard) {
    if !exists() || !is_owner() {
        return;
    }
    let (Ok((here, there)), Ok(ends)) = (pair(), new_ends()) else {
        // A carrier that is gone has nothing to keep.
        let _ = client::fork(guard, &[]);
        return;
    };
    CHILDS_INODE.store(sys::socket_inode(here.raw()).unwrap_or(0), Ordering::Relaxed);
    if client::fork(guard, &[there.raw(), ends.raw()]).is_ok() {
        CHILDS_CONNECTION.store(here.into_raw(), Ordering::Relaxed);
        CHILDS_ENDS.store(ends.into_raw(), Ordering::Relaxed);
    }
}

/// In the parent: the child's connection is the child's.
pub fn after_fork_in_parent() {
    for fd in [&CHILDS_CONNECTION, &CHILDS_ENDS] {
        let fd = fd.swap(-1, Ordering::Relaxed);
        if fd >= 0 {
            sys::close(fd);
        }
    }
}

/// In the child: its own connection in the place of the parent's.
pub fn after_fork_in_child() {
    domain::join();
    carrier::disown();
    descriptors::hidden().for_each(descriptors::close_hidden);
    CONNECTION.store(-1, Ordering::Relaxed);
    ENDS.store(-1, Ordering::Relaxed);
    notice::begin_anew();
    let connection = CHILDS_CONNECTION.swap(-1, Ordering::Relaxed);
    let ends = CHILDS_ENDS.swap(-1, Ordering::Relaxed);
    if connection >= 0
        && ends >= 0
        && sys::socket_inode(connection) == Some(CHILDS_INODE.load(Ordering::Relaxed))
    {
        adopt(connection, ends);
    }
}

/// The program wants one of our numbers for itself: ours moves.
pub fn make_way(_: &Guard, fd: c_int) {
    for ours in [&CONNECTION, &ENDS] {
        if ours.load(Ordering::Relaxed) == fd
            && let Ok(moved) = rustix::io::fcntl_dupfd_cloexec(borrow(fd), 0)
        {
            descriptors::forget_hidden(fd);
            ours.store(descriptors::hide(moved.into_raw_fd()), Ordering::Relaxed);
            return;
        }
    }
    // A thread's notice: it makes another.
    descriptors::forget_hidden(fd);
    notice::renew();
}
