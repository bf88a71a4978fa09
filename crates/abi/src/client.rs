//! The process's end of the talk with the carrier: one connection a process, which also
//! tells the carrier, by its end, that the process is gone.
//!
//! The carrier is made by the first process of a domain that needs one; relatives find it
//! by the address in the domain. A fork makes the child's connection before the child
//! exists, so that nothing can end between the two.

use crate::carrier;
use crate::descriptors;
use crate::domain::{self, DOMAIN, SlotId};
use crate::lock::Guard;
use crate::notice;
use crate::registrations;
use crate::sys::{self, Fd};
use crate::wire::{MESSAGE_BYTES, Reply, Request};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{BorrowedFd, IntoRawFd, RawFd};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::collections::BTreeSet;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The connection, or -1.
static CONNECTION: AtomicI32 = AtomicI32::new(-1);
/// Its inode: a careless program may have put something else under its number.
static INODE: AtomicU64 = AtomicU64::new(0);
/// The eventfd on which the carrier tells ends, or -1.
static ENDS: AtomicI32 = AtomicI32::new(-1);
/// The process that these belong to. A child of vfork has them and is another.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// The same for a child that is about to be born.
static CHILDS_CONNECTION: AtomicI32 = AtomicI32::new(-1);
static CHILDS_ENDS: AtomicI32 = AtomicI32::new(-1);
static CHILDS_INODE: AtomicU64 = AtomicU64::new(0);

/// A new splice: the records of its sockets.
pub struct SetUp {
    pub source: SlotId,
    pub drain: SlotId,
}

pub fn setup(
    guard: &Guard,
    source: c_int,
    drain: c_int,
    max: u64,
    idle: Option<Duration>,
) -> Result<SetUp, c_int> {
    let reply = ask(guard, Request::Setup { max, idle }, &[source, drain])?;
    descriptors::account(reply.setups);
    Ok(SetUp { source: SlotId(reply.source), drain: SlotId(reply.drain) })
}

pub fn unsplice(guard: &Guard, slot: SlotId) -> Result<(), c_int> {
    ask(guard, Request::Unsplice(slot), &[]).map(drop)
}

pub fn count(guard: &Guard, slot: SlotId) -> Result<u64, c_int> {
    ask(guard, Request::Count(slot), &[]).map(|reply| reply.value)
}

pub fn hold(guard: &Guard, slot: SlotId) -> Result<(), c_int> {
    ask(guard, Request::Hold(slot), &[]).map(drop)
}

pub fn forget(guard: &Guard, slot: SlotId) -> Result<(), c_int> {
    // Nobody to tell, nothing to be told.
    if CONNECTION.load(Ordering::Relaxed) < 0 {
        return Ok(());
    }
    ask(guard, Request::Forget(slot), &[]).map(drop)
}

pub fn shutdown(guard: &Guard, slot: SlotId, read: bool, write: bool) -> Result<(), c_int> {
    ask(guard, Request::Shutdown { slot, read, write }, &[]).map(drop)
}

/// Reads bytes that were taken and not given; zero if there are none.
pub fn residue(guard: &Guard, slot: SlotId, to: &mut [u8], peek: bool) -> Result<usize, c_int> {
    let request = Request::Residue { slot, len: to.len() as u32, peek };
    let connection = connected(guard)?;
    send(connection, request, &[]).map_err(|_| lost(guard))?;
    let (reply, len) = receive(connection, to).map_err(|_| lost(guard))?;
    if reply.errno == 0 { Ok(len) } else { Err(reply.errno) }
}

/// The eventfd on which ends are told; the process is connected for it.
pub fn ends(guard: &Guard) -> Result<c_int, c_int> {
    connected(guard)?;
    Ok(ENDS.load(Ordering::Relaxed))
}

/// This process is the one that the tables describe, and no child of vfork.
pub fn is_owner() -> bool {
    OWNER.load(Ordering::Relaxed) == sys::pid()
}

fn ask(guard: &Guard, request: Request, fds: &[RawFd]) -> Result<Reply, c_int> {
    let connection = connected(guard)?;
    send(connection, request, fds).map_err(|errno| match errno {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => lost(guard),
        // The source or the drain was closed meanwhile (EBADF), and the like.
        errno => errno.raw_os_error(),
    })?;
    let (reply, _) = receive(connection, &mut []).map_err(|_| lost(guard))?;
    if reply.errno == 0 { Ok(reply) } else { Err(reply.errno) }
}

/// The carrier has died, and every splice with it.
fn lost(guard: &Guard) -> c_int {
    for connection in [&CONNECTION, &ENDS] {
        let fd = connection.swap(-1, Ordering::Relaxed);
        if fd >= 0 {
            descriptors::close_hidden(fd);
        }
    }
    // The next carrier gives the same numbers to other sockets.
    descriptors::forget_all();
    registrations::unmask_all(guard);
    libc::EIO
}

fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: hidden descriptors stay open while the lock is held, and others are the
    // program's, whose closing meanwhile the kernel answers with EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn send(connection: RawFd, request: Request, fds: &[RawFd]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let mut borrowed = [borrow(connection); 2];
    for (place, fd) in borrowed.iter_mut().zip(fds) {
        *place = borrow(*fd);
    }
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed[..fds.len()]));
    }
    let message = request.encode(sys::pid());
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(borrow(connection), &[IoSlice::new(&message)], &mut control, flags)?;
    Ok(())
}

fn receive(connection: RawFd, bytes: &mut [u8]) -> Result<(Reply, usize), Errno> {
    let mut message = [0; MESSAGE_BYTES];
    let got = rustix::net::recvmsg(
        borrow(connection),
        &mut [IoSliceMut::new(&mut message), IoSliceMut::new(bytes)],
        &mut RecvAncillaryBuffer::default(),
        RecvFlags::empty(),
    )?;
    if got.bytes < MESSAGE_BYTES {
        return Err(Errno::PIPE);
    }
    Ok((Reply::decode(&message), got.bytes - MESSAGE_BYTES))
}

fn connected(guard: &Guard) -> Result<RawFd, c_int> {
    let connection = CONNECTION.load(Ordering::Relaxed);
    if connection >= 0 {
        if sys::socket_inode(connection) == Some(INODE.load(Ordering::Relaxed)) {
            return Ok(connection);
        }
        // Not ours any more, and not ours to close.
        descriptors::forget_hidden(CONNECTION.swap(-1, Ordering::Relaxed));
    }
    descriptors::prepare(guard)?;
    let (connection, ends) = find_or_make().map_err(Errno::raw_os_error)?;
    adopt(connection.into_raw(), ends.into_raw());
    crate::interpose::next::resolve();
    registrations::renew_hooks(guard);
    registrations::survey(guard);
    hold_all();
    DOMAIN.active.store(1, Ordering::Release);
    DOMAIN.loud.store(1, Ordering::Release);
    Ok(CONNECTION.load(Ordering::Relaxed))
}

/// What this process knew before it had this connection, it holds.
fn hold_all() {
    let connection = CONNECTION.load(Ordering::Relaxed);
    let ids: BTreeSet<u32> = descriptors::entered(0, c_int::MAX).map(|(_, id)| id.0).collect();
    for id in ids {
        if send(connection, Request::Hold(SlotId(id)), &[]).is_err()
            || receive(connection, &mut []).is_err()
        {
            return;
        }
    }
}

fn adopt(connection: RawFd, ends: RawFd) {
    INODE.store(sys::socket_inode(connection).unwrap_or(0), Ordering::Relaxed);
    CONNECTION.store(descriptors::hide(connection), Ordering::Relaxed);
    ENDS.store(descriptors::hide(ends), Ordering::Relaxed);
    OWNER.store(sys::pid(), Ordering::Relaxed);
    notice::renew();
}

fn find_or_make() -> Result<(Fd, Fd), Errno> {
    loop {
        let address = DOMAIN.address.load(Ordering::Acquire);
        if address != 0 {
            let ends = new_ends()?;
            match connect(address, &ends) {
                Ok(connection) => return Ok((connection, ends)),
                // It went with its last process.
                Err(Errno::CONNREFUSED | Errno::PIPE | Errno::CONNRESET) => {
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
        let maker = DOMAIN.making.load(Ordering::Acquire);
        let own = sys::pid();
        // A number of our own is of a process that is gone: we hold the lock.
        if maker != 0 && maker != own && domain::is_alive(maker) {
            let nap = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            sys::futex_wait(&DOMAIN.making, maker, Some(&nap));
            continue;
        }
        if DOMAIN.making.compare_exchange(maker, own, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let made = make();
            // Whatever came of it: the next one may try.
            DOMAIN.making.store(0, Ordering::Release);
            sys::futex_wake(&DOMAIN.making, c_int::MAX);
            return made;
        }
    }
}

fn make() -> Result<(Fd, Fd), Errno> {
    let ends = new_ends()?;
    let (here, there) = pair()?;
    carrier::spawn(there)?;
    // It answers when it serves; until then it writes the domain anew.
    send(here.raw(), Request::Hello, &[ends.raw()])?;
    receive(here.raw(), &mut [])?;
    Ok((here, ends))
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

fn connect(number: u64, ends: &Fd) -> Result<Fd, Errno> {
    let connection = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let connection = Fd::from(connection).out_of_reach();
    limit_wait(&connection);
    rustix::net::connect(&connection, &address(number)?)?;
    send(connection.raw(), Request::Hello, &[ends.raw()])?;
    receive(connection.raw(), &mut [])?;
    Ok(connection)
}

/// The carrier answers in the time of a step. Where no answer comes the program has taken it
/// (it read from our connection by a number that it had closed), or the carrier was stopped:
/// the connection is given up then, for nothing may hang.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

fn limit_wait(connection: &Fd) {
    let kind = rustix::net::sockopt::Timeout::Recv;
    let _ = rustix::net::sockopt::set_socket_timeout(connection, kind, Some(ANSWER_WITHIN));
}

/// Before a fork: the child's connection.
pub fn before_fork(guard: &Guard) {
    if CONNECTION.load(Ordering::Relaxed) < 0 || !is_owner() {
        return;
    }
    let Ok((here, there)) = pair() else { return };
    CHILDS_INODE.store(sys::socket_inode(here.raw()).unwrap_or(0), Ordering::Relaxed);
    let Ok(ends) = new_ends() else { return };
    if ask(guard, Request::Fork, &[there.raw(), ends.raw()]).is_ok() {
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
    let (all, count) = descriptors::hidden();
    for fd in &all[..count] {
        descriptors::close_hidden(*fd);
    }
    CONNECTION.store(-1, Ordering::Relaxed);
    ENDS.store(-1, Ordering::Relaxed);
    notice::renew();
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
