//! What the program's own reading of a socket meets while a splice runs from it and after
//! its end: nothing; then bytes that were taken and not given, what the socket still holds,
//! and the error once.

use crate::client;
use crate::domain::{Slot, SlotId, find};
use crate::lock;
use crate::personality::Personality;
use crate::sleep;
use crate::sys::{self, Raw, enter};
use crate::wire::PIECE_BYTES;
use libc::{c_int, msghdr};
use std::sync::atomic::Ordering;

const AGAIN: Raw = -(libc::EAGAIN as Raw);

/// A read of `msg` from a socket that matters. None where the kernel alone decides; it may
/// wait then.
///
/// # Safety
/// The message's addresses are the program's.
pub unsafe fn receive(fd: c_int, slot: &Slot, msg: &mut msghdr, flags: c_int) -> Option<Raw> {
    if flags & libc::MSG_OOB != 0 {
        // SAFETY: the caller's.
        return unsafe { urgent(slot, msg, flags) };
    }
    if flags & libc::MSG_ERRQUEUE != 0 {
        return None;
    }
    let inode = slot.inode.load(Ordering::Acquire);
    let mut deadline = None;
    loop {
        let turn = slot.turn.load(Ordering::Acquire);
        if slot.inode.load(Ordering::Acquire) != inode {
            return None;
        }
        if slot.is_source() {
            // FreeBSD lets readers in; what they get is theirs.
            if Personality::current() == Personality::FreeBsd {
                return None;
            }
            if flags & libc::MSG_DONTWAIT != 0 || sys::is_nonblocking(fd) {
                return Some(AGAIN);
            }
            match wait(fd, slot, turn, &mut deadline) {
                Slept::Woken => continue,
                Slept::Failed(failed) => return Some(failed),
            }
        }
        if slot.residue.load(Ordering::Acquire) > 0 {
            // SAFETY: the caller's.
            if let Some(count) = unsafe { residue(inode, msg, flags) } {
                return Some(count);
            }
        }
        if slot.error() == 0 {
            return None;
        }
        // SAFETY: the caller's.
        return Some(unsafe { data_then_error(fd, slot, msg, flags) });
    }
}

/// The urgent byte that the stream was freed of.
///
/// # Safety
/// The message's room is the program's.
unsafe fn urgent(slot: &Slot, msg: &mut msghdr, flags: c_int) -> Option<Raw> {
    let word = match flags & libc::MSG_PEEK {
        0 => slot.urgent.swap(0, Ordering::AcqRel),
        _ => slot.urgent.load(Ordering::Acquire),
    };
    // SAFETY: the message says where its pieces are.
    let pieces = unsafe { std::slice::from_raw_parts(msg.msg_iov, msg.msg_iovlen) };
    let piece = pieces.iter().find(|piece| piece.iov_len > 0).filter(|_| word != 0)?;
    msg.msg_flags = libc::MSG_OOB;
    match sys::copy_out(piece.iov_base, &[word as u8]) {
        Ok(()) => Some(1),
        Err(errno) => Some(-(errno as Raw)),
    }
}

enum Slept {
    Woken,
    Failed(Raw),
}

/// Sleeps until the record changes: as long as the socket's receive timeout allows.
fn wait(fd: c_int, slot: &Slot, turn: u32, deadline: &mut Option<u64>) -> Slept {
    let limit = receive_timeout_ns(fd);
    if limit == 0 {
        return slept(sleep::until_changed(slot, turn, None));
    }
    let now = sys::now_ns();
    let due = *deadline.get_or_insert(now.saturating_add(limit));
    if now >= due {
        return Slept::Failed(AGAIN);
    }
    slept(sleep::until_changed(slot, turn, Some(due - now)))
}

/// Only a signal handler ends the wait for good: the rest is looked at again.
fn slept(result: Raw) -> Slept {
    const INTR: Raw = -(libc::EINTR as Raw);
    if result == INTR { Slept::Failed(INTR) } else { Slept::Woken }
}

fn receive_timeout_ns(fd: c_int) -> u64 {
    let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut len = size_of::<libc::timeval>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
    // SAFETY: value and length live through the call.
    let done = unsafe { enter!(SYS_getsockopt, fd, level, name, &raw mut time, &raw mut len) };
    if done < 0 { 0 } else { time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000 }
}

/// Bytes that were taken and not given. None when somebody else has read them.
///
/// # Safety
/// The message's room is the program's.
unsafe fn residue(inode: u64, msg: &mut msghdr, flags: c_int) -> Option<Raw> {
    let id: SlotId = find(inode)?;
    // SAFETY: the message says where its pieces are.
    let pieces = unsafe { std::slice::from_raw_parts(msg.msg_iov, msg.msg_iovlen) };
    let room = pieces.iter().map(|piece| piece.iov_len).sum::<usize>().min(PIECE_BYTES);
    let mut bytes = vec![0; room];
    let got = {
        let guard = lock::hold();
        client::residue(&guard, id, &mut bytes, flags & libc::MSG_PEEK != 0).ok()?
    };
    if got == 0 {
        return None;
    }
    let mut rest = &bytes[..got];
    for piece in pieces {
        let (now, later) = rest.split_at(piece.iov_len.min(rest.len()));
        if sys::copy_out(piece.iov_base, now).is_err() {
            return Some(-(libc::EFAULT as Raw));
        }
        rest = later;
    }
    msg.msg_namelen = 0;
    msg.msg_controllen = 0;
    msg.msg_flags = 0;
    Some(got as Raw)
}

/// What the socket still holds, and when that is nothing, the error.
///
/// # Safety
/// The message's addresses are the program's.
unsafe fn data_then_error(fd: c_int, slot: &Slot, msg: &mut msghdr, flags: c_int) -> Raw {
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: the caller's.
    let result = unsafe { enter!(SYS_recvmsg, fd, std::ptr::from_mut(msg), flags) };
    if result > 0 {
        return result;
    }
    // A datagram of no bytes is data; the end of a stream comes behind the error.
    if result < 0 && result != AGAIN {
        slot.take_error();
        return result;
    }
    let errno = if flags & libc::MSG_PEEK == 0 { slot.take_error() } else { slot.error() };
    if errno == 0 { result } else { -(errno as Raw) }
}
