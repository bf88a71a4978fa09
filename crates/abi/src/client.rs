//! What this process asks of the carrier, over its connection ([`crate::connection`]).

use crate::connection;
use crate::descriptors;
use crate::domain::SlotId;
use crate::lock::Guard;
use crate::own;
use crate::sys;
use crate::wire::{MESSAGE_BYTES, Own, Reply, Request, Turn};
use rustix::fd::RawFd;
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

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
    let own = Own { source: own::is_own(source), drain: own::is_own(drain) };
    let reply = ask(guard, Request::Setup { max, idle, own }, &[source, drain])?;
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
    if !connection::exists() {
        return Ok(());
    }
    ask(guard, Request::Forget(slot), &[]).map(drop)
}

/// A child is about to be born: its connection and eventfd.
pub fn fork(guard: &Guard, fds: &[RawFd]) -> Result<(), c_int> {
    ask(guard, Request::Fork, fds).map(drop)
}

/// The socket goes to another process.
pub fn share(guard: &Guard, slot: SlotId) -> Result<(), c_int> {
    ask(guard, Request::Share(slot), &[]).map(drop)
}

pub fn shutdown(guard: &Guard, slot: SlotId, read: bool, write: bool) -> Result<(), c_int> {
    ask(guard, Request::Shutdown { slot, read, write }, &[]).map(drop)
}

/// Reads bytes that were taken and not given; zero if there are none.
pub fn residue(guard: &Guard, slot: SlotId, to: &mut [u8], peek: bool) -> Result<usize, c_int> {
    let request = Request::Residue { slot, len: to.len() as u32, peek };
    exchange(guard, request, &[], to).map(|(_, len)| len)
}

fn ask(guard: &Guard, request: Request, fds: &[RawFd]) -> Result<Reply, c_int> {
    exchange(guard, request, fds, &mut []).map(|(reply, _)| reply)
}

fn exchange(
    guard: &Guard,
    request: Request,
    fds: &[RawFd],
    bytes: &mut [u8],
) -> Result<(Reply, usize), c_int> {
    for _ in 0..2 {
        let to = connection::get(guard)?;
        match talk(to, request, fds, bytes) {
            Ok((reply, len)) if reply.errno == 0 => return Ok((reply, len)),
            Ok((reply, _)) => return Err(reply.errno),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::TIMEDOUT) => {
                // One that has died did nothing that lasts: the next one is asked.
                if !connection::lose(guard) {
                    break;
                }
            }
            // The source or the drain was closed meanwhile (EBADF), and the like.
            Err(errno) => return Err(errno.raw_os_error()),
        }
    }
    Err(libc::EIO)
}

/// How long an answer is waited for before the question is asked again. The carrier answers
/// in the time of a step, but a program that reads by a number that it has closed may have
/// taken the question or the answer.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Then the carrier was stopped, and the connection is given up: nothing may hang.
const TIMES: u32 = 100;

/// Asks, and hears the answer. EPIPE and its like: nobody is there; ETIMEDOUT: nobody answers.
pub fn talk(
    to: RawFd,
    request: Request,
    fds: &[RawFd],
    bytes: &mut [u8],
) -> Result<(Reply, usize), Errno> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let turn = Turn(NEXT.fetch_add(1, Ordering::Relaxed));
    send(to, request, turn, fds, SendFlags::NOSIGNAL)?;
    let mut times = 1;
    while times < TIMES {
        match receive(to, bytes) {
            // An earlier question was asked twice, and answered twice.
            Ok((_, told, _)) if told != turn => {}
            Ok((reply, _, len)) => return Ok((reply, len)),
            Err(Errno::AGAIN) => {
                times += 1;
                match send(to, request, turn, fds, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                    Ok(()) | Err(Errno::AGAIN) => {}
                    Err(errno) => return Err(errno),
                }
            }
            // Not an answer at all, or a tracer's interruption.
            Err(Errno::BADMSG | Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::TIMEDOUT)
}

fn send(
    to: RawFd,
    request: Request,
    turn: Turn,
    fds: &[RawFd],
    flags: SendFlags,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let mut borrowed = [connection::borrow(to); 2];
    for (place, fd) in borrowed.iter_mut().zip(fds) {
        *place = connection::borrow(*fd);
    }
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed[..fds.len()]));
    }
    let message = request.encode(sys::pid(), turn);
    rustix::net::sendmsg(connection::borrow(to), &[IoSlice::new(&message)], &mut control, flags)?;
    Ok(())
}

/// The next answer, whichever question's it is. EBADMSG for what is none.
fn receive(from: RawFd, bytes: &mut [u8]) -> Result<(Reply, Turn, usize), Errno> {
    let mut message = [0; MESSAGE_BYTES];
    let got = rustix::net::recvmsg(
        connection::borrow(from),
        &mut [IoSliceMut::new(&mut message), IoSliceMut::new(bytes)],
        &mut RecvAncillaryBuffer::default(),
        RecvFlags::empty(),
    )?;
    match got.bytes {
        0 => Err(Errno::PIPE),
        MESSAGE_BYTES.. => {
            let (reply, turn) = Reply::decode(&message).ok_or(Errno::BADMSG)?;
            Ok((reply, turn, got.bytes - MESSAGE_BYTES))
        }
        _ => Err(Errno::BADMSG),
    }
}
