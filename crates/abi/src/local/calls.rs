//! The reading and writing calls on connections of ours.
//!
//! Each function is None for a descriptor that is none of ours: the call is somebody else's.
//! A plain connection's calls go to the kernel and are counted; a paired one's to the stream.

use super::connections::{self, Connection, State, Used};
use super::pairing;
use super::socket::{Family, Socket};
use super::{sets, spin_ns};
use crate::sys::{Raw, enter};
use libc::{c_int, iovec, msghdr, off_t};
use rustix::io::Errno;
use sosplice_local::end::{End, Found, Way};
use sosplice_local::ring::Ring;
use sosplice_local::stream::{self, ReadHow, Tcp, WriteHow};
use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::Ordering;

const AGAIN: Raw = -(libc::EAGAIN as Raw);

fn raw(result: Result<usize, Errno>) -> Raw {
    match result {
        Ok(count) => count as Raw,
        Err(errno) => -(errno.raw_os_error() as Raw),
    }
}

/// Whose the descriptor is, for one call.
enum Whose {
    Kernels,
    Plain(Connection),
    Paired(Used),
}

#[inline]
fn whose(fd: c_int) -> Whose {
    let Some(found) = connections::of(fd) else { return Whose::Kernels };
    if found.state() != State::Paired {
        pairing::attend(found);
        if found.state() != State::Paired {
            return Whose::Plain(found);
        }
    }
    match found.used() {
        Some(used) => Whose::Paired(used),
        // It was closed meanwhile, or given up.
        None => Whose::Kernels,
    }
}

/// The program's buffers.
///
/// # Safety
/// They are what the program says.
unsafe fn buffers<'a>(iov: *const iovec, count: usize) -> &'a [IoSlice<'a>] {
    // SAFETY: the caller's; std promises that an IoSlice is an iovec.
    unsafe { std::slice::from_raw_parts(iov.cast(), count) }
}

/// # Safety
/// As [`buffers`].
unsafe fn buffers_mut<'a>(iov: *mut iovec, count: usize) -> &'a mut [IoSliceMut<'a>] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(iov.cast(), count) }
}

/// The kernel refuses more pieces than this.
const PIECES_MAX: usize = 1024;

/// The call that the program made, by libc's function: where the connection is plain it is made as it came, so
/// that nothing about it is another (what a sandbox allows, ancillary data, cancellation).
pub type Kernels<'a> = &'a dyn Fn() -> Raw;

/// # Safety
/// The buffers are the program's.
pub unsafe fn read(
    fd: c_int,
    iov: *mut iovec,
    count: usize,
    flags: c_int,
    kernels: Kernels<'_>,
) -> Option<Raw> {
    if !super::is_on() {
        return None;
    }
    loop {
        match whose(fd) {
            Whose::Kernels => return None,
            Whose::Plain(found) => match read_plain(found, flags, kernels) {
                None => {}
                result => return result,
            },
            // SAFETY: the caller's.
            Whose::Paired(used) => return unsafe { read_paired(&used, fd, iov, count, flags) },
        }
    }
}

/// # Safety
/// The buffers are the program's.
unsafe fn read_paired(
    used: &Used,
    fd: c_int,
    iov: *mut iovec,
    count: usize,
    flags: c_int,
) -> Option<Raw> {
    let end = &used.end;
    // What is beside the stream is the kernel's.
    if flags & (libc::MSG_OOB | libc::MSG_ERRQUEUE) != 0 || count > PIECES_MAX {
        return None;
    }
    let how = ReadHow {
        peek: flags & libc::MSG_PEEK != 0,
        all: flags & libc::MSG_WAITALL != 0,
        now: flags & libc::MSG_DONTWAIT != 0 || used.is_nonblocking(),
        spin_ns: spin_ns(),
        low_water: used.low_water(),
        may_park: used.record.is_timed.load(Ordering::Relaxed) == 0,
    };
    let socket = Socket { fd, flags: libc::MSG_NOSIGNAL };
    let result = if flags & libc::MSG_TRUNC != 0 {
        // SAFETY: the caller's; where the pieces are is not looked at.
        let pieces = unsafe { std::slice::from_raw_parts(iov, count) };
        discard(end, &socket, pieces.iter().map(|piece| piece.iov_len).sum(), how)
    } else {
        // SAFETY: the caller's.
        let to = unsafe { buffers_mut(iov, count) };
        stream::recv(end, &socket, &Family, to, how)
    };
    has_read(used);
    Some(raw(result))
}

/// MSG_TRUNC: `left` bytes go nowhere (tcp(7)); the buffers are not written, and may be none.
fn discard(
    end: &End<'static, Ring>,
    socket: &Socket,
    mut left: usize,
    how: ReadHow,
) -> Result<usize, Errno> {
    let mut scratch = [0u8; 4096];
    let mut done = 0;
    let mut how = how;
    while left > 0 {
        let len = left.min(scratch.len());
        let piece = &mut [IoSliceMut::new(&mut scratch[..len])];
        match stream::recv(end, socket, &Family, piece, how) {
            Ok(0) => break,
            Ok(count) => (done, left) = (done + count, left - count),
            Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
        }
        if how.peek {
            break;
        }
        how.now |= !how.all;
    }
    Ok(done)
}

/// The stream stays on TCP for good. That may take a doorbell, as a read does.
pub fn pin(used: &Used) {
    let fd = used.here.fd.load(Ordering::Relaxed);
    let _ = stream::pin(&used.end, &Socket { fd, flags: libc::MSG_NOSIGNAL }, &Family);
    has_read(used);
}

/// Behind a read: the sets that have the connection look at it again.
#[inline]
fn has_read(used: &Used) {
    if used.here.is_live.load(Ordering::Relaxed) == 0 && !used.end.is_armed() {
        sets::enliven(used);
    }
}

/// None when it is not plain any more.
fn read_plain(found: Connection, flags: c_int, kernels: Kernels<'_>) -> Option<Raw> {
    if flags & (libc::MSG_OOB | libc::MSG_ERRQUEUE) != 0 {
        return Some(kernels());
    }
    if !found.begin_plain_read() {
        return None;
    }
    let result = kernels();
    let taken = if flags & libc::MSG_PEEK == 0 { result.max(0) } else { 0 };
    found.end_plain_read(taken as usize);
    Some(result)
}

/// As recvmsg(2): what else the kernel would tell of a paired stream is nothing.
///
/// # Safety
/// The message is the program's.
pub unsafe fn read_message(
    fd: c_int,
    msg: *mut msghdr,
    flags: c_int,
    kernels: Kernels<'_>,
) -> Option<Raw> {
    if !super::is_on() || msg.is_null() {
        return None;
    }
    loop {
        match whose(fd) {
            Whose::Kernels => return None,
            Whose::Plain(found) => match read_plain(found, flags, kernels) {
                None => {}
                result => return result,
            },
            // SAFETY: the caller's.
            Whose::Paired(used) => unsafe {
                let result = read_paired(&used, fd, (*msg).msg_iov, (*msg).msg_iovlen, flags)?;
                if result >= 0 {
                    (*msg).msg_namelen = 0;
                    (*msg).msg_controllen = 0;
                    (*msg).msg_flags = 0;
                }
                return Some(result);
            },
        }
    }
}

/// # Safety
/// The buffers are the program's.
pub unsafe fn write(
    fd: c_int,
    iov: *const iovec,
    count: usize,
    flags: c_int,
    kernels: Kernels<'_>,
) -> Option<Raw> {
    if !super::is_on() {
        return None;
    }
    loop {
        match whose(fd) {
            Whose::Kernels => return None,
            Whose::Plain(found) => match write_plain(found, flags, kernels) {
                None => {}
                result => return result,
            },
            Whose::Paired(used) => {
                let (found, end) = (&*used, &used.end);
                let socket = Socket { fd, flags };
                if flags & (libc::MSG_OOB | libc::MSG_ZEROCOPY | libc::MSG_FASTOPEN) != 0
                    || count > PIECES_MAX
                {
                    pin(&used);
                    return None;
                }
                let waits = flags & libc::MSG_DONTWAIT == 0 && !found.is_nonblocking();
                let how = WriteHow { spin_ns: if waits { spin_ns() } else { 0 }, waits };
                // SAFETY: the caller's.
                let from = unsafe { buffers(iov, count) };
                let result = stream::send(end, &socket, &Family, from, how);
                // It may have taken a doorbell.
                has_read(&used);
                return Some(raw(result));
            }
        }
    }
}

/// As sendmsg(2). Descriptors in the message leave this process.
///
/// # Safety
/// The message is the program's.
pub unsafe fn write_message(
    fd: c_int,
    msg: *const msghdr,
    flags: c_int,
    kernels: Kernels<'_>,
) -> Option<Raw> {
    if !super::is_on() || msg.is_null() {
        return None;
    }
    // SAFETY: the caller's.
    unsafe {
        super::doors::passing(msg);
        write(fd, (*msg).msg_iov, (*msg).msg_iovlen, flags, kernels)
    }
}

/// None when it is not plain any more.
fn write_plain(found: Connection, flags: c_int, kernels: Kernels<'_>) -> Option<Raw> {
    if flags & (libc::MSG_OOB | libc::MSG_ZEROCOPY) != 0 {
        found.give_up();
        return Some(kernels());
    }
    if !found.begin_plain_write() {
        return None;
    }
    let result = kernels();
    found.end_plain_write(result.max(0) as usize);
    Some(result)
}

/// As sendfile(2) to a connection of ours.
///
/// # Safety
/// The offset is the program's.
pub unsafe fn send_file(fd: c_int, from: c_int, offset: *mut off_t, count: usize) -> Option<Raw> {
    if !super::is_on() {
        return None;
    }
    let offset_at = offset as usize;
    // SAFETY: the caller's.
    let call = |count: usize| unsafe { enter!(SYS_sendfile, fd, from, offset_at, count) };
    match whose(fd) {
        Whose::Kernels => None,
        Whose::Plain(found) => {
            if !found.begin_plain_write() {
                // SAFETY: the caller's.
                return unsafe { send_file(fd, from, offset, count) };
            }
            let result = call(count);
            found.end_plain_write(result.max(0) as usize);
            Some(result)
        }
        Whose::Paired(used) => {
            let end = &used.end;
            let socket = Socket { fd, flags: libc::MSG_NOSIGNAL };
            if let Err(error) = stream::oblige(end, &socket, &Family) {
                return Some(-(error.raw_os_error() as Raw));
            }
            let Ok(mut writing) = stream::held_writing(end, &socket, &Family) else {
                return Some(AGAIN);
            };
            let mut done = 0;
            loop {
                match writing.way(1) {
                    Err(_) => return Some(-(libc::ECONNRESET as Raw)),
                    Ok(Way::Tcp) => break,
                    Ok(Way::Ring(0)) => {
                        if let Err(error) = stream::overflow(&mut writing, &socket) {
                            let error = -(error.raw_os_error() as Raw);
                            return Some(if done > 0 { done as Raw } else { error });
                        }
                        break;
                    }
                    Ok(Way::Ring(room)) => {
                        let (at, len) =
                            end.outgoing.piece(writing.position(), room.min(count - done));
                        // SAFETY: the piece is inside the mapping; the offset is the program's.
                        let got = unsafe {
                            if offset.is_null() {
                                enter!(SYS_read, from, at, len)
                            } else {
                                enter!(SYS_pread64, from, at, len, *offset)
                            }
                        };
                        if got <= 0 {
                            return Some(if done > 0 { done as Raw } else { got });
                        }
                        if !offset.is_null() {
                            // SAFETY: the caller's.
                            unsafe { *offset += got as off_t };
                        }
                        done += got as usize;
                        let published =
                            stream::publish(&mut writing, &socket, &Family, got as usize);
                        if let Err(errno) = published {
                            return Some(-(errno.raw_os_error() as Raw));
                        }
                        if done == count {
                            return Some(done as Raw);
                        }
                    }
                }
            }
            let kernel = writing.enter_kernel();
            let result = call(count - done);
            kernel.sent(result.max(0) as usize);
            Some(if result >= 0 || done == 0 {
                done as Raw + result.max(-4095)
            } else {
                done as Raw
            })
        }
    }
}

/// As splice(2) from a pipe to a connection of ours: by the kernel's way.
///
/// # Safety
/// The offset is the program's.
pub unsafe fn splice_to(fd: c_int, call: impl Fn() -> Raw) -> Option<Raw> {
    match whose(fd) {
        Whose::Kernels => None,
        Whose::Plain(found) => {
            if !found.begin_plain_write() {
                // SAFETY: the caller's.
                return unsafe { splice_to(fd, call) };
            }
            let result = call();
            found.end_plain_write(result.max(0) as usize);
            Some(result)
        }
        Whose::Paired(used) => {
            let end = &used.end;
            let socket = Socket { fd, flags: libc::MSG_NOSIGNAL };
            if let Err(error) = stream::oblige(end, &socket, &Family) {
                return Some(-(error.raw_os_error() as Raw));
            }
            let Ok(mut writing) = stream::held_writing(end, &socket, &Family) else {
                return Some(AGAIN);
            };
            match writing.way(1) {
                Err(_) => return Some(-(libc::ECONNRESET as Raw)),
                Ok(Way::Ring(_)) => {
                    if let Err(error) = stream::overflow(&mut writing, &socket) {
                        return Some(-(error.raw_os_error() as Raw));
                    }
                }
                Ok(Way::Tcp) => {}
            }
            let kernel = writing.enter_kernel();
            let result = call();
            kernel.sent(result.max(0) as usize);
            Some(result)
        }
    }
}

/// As splice(2) from a connection of ours to a pipe; `call` is the kernel's, without waiting for
/// the socket.
pub fn splice_from(fd: c_int, pipe: c_int, len: usize, call: impl Fn() -> Raw) -> Option<Raw> {
    match whose(fd) {
        Whose::Kernels => None,
        Whose::Plain(found) => {
            if !found.begin_plain_read() {
                return splice_from(fd, pipe, len, call);
            }
            let result = call();
            found.end_plain_read(result.max(0) as usize);
            Some(result)
        }
        Whose::Paired(used) => {
            let (found, end) = (&*used, &used.end);
            let socket = Socket { fd, flags: libc::MSG_NOSIGNAL };
            let result = loop {
                match splice_once(end, &socket, pipe, len, &call) {
                    Err(Errno::AGAIN) if !found.is_nonblocking() => {}
                    result => break result,
                }
                let _asleep = end.asleep();
                match stream::prepare(end, &socket, &Family, 1) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => break Err(error),
                }
                if let Err(error) = socket.sleep() {
                    break Err(error);
                }
            };
            has_read(&used);
            Some(raw(result))
        }
    }
}

fn splice_once(
    end: &End<'static, Ring>,
    socket: &Socket,
    pipe: c_int,
    len: usize,
    call: &impl Fn() -> Raw,
) -> Result<usize, Errno> {
    let mut reading = stream::held_reading(end, socket, &Family)?;
    if reading.is_drained(&Family)? {
        return Err(Errno::AGAIN);
    }
    match reading.look()? {
        Found::Ring(queued) => {
            let (at, len) = end.incoming.piece(reading.position(), queued.min(len));
            // SAFETY: the piece is inside the mapping.
            let put = unsafe { enter!(SYS_write, pipe, at, len) };
            if put < 0 {
                return Err(Errno::from_raw_os_error(-put as i32));
            }
            reading.took(put as usize);
            Ok(put as usize)
        }
        found => {
            let due = reading.bells_due();
            if due > 0 {
                reading.take_bells(|| socket.discard(due))?;
            }
            if found == Found::Empty {
                return match socket.probe()? {
                    0 => Ok(0),
                    _ => Err(Errno::AGAIN),
                };
            }
            let is_there = socket.probe();
            let moved = if is_there.is_ok() { call() } else { AGAIN };
            reading.took_tcp(moved.max(0) as usize);
            if moved < 0 {
                reading.grant();
                is_there?;
                return Err(Errno::from_raw_os_error(-moved as i32));
            }
            Ok(moved as usize)
        }
    }
}

impl Connection {
    #[inline]
    pub fn is_nonblocking(&self) -> bool {
        self.record.nonblocking.load(Ordering::Relaxed) != 0
    }

    #[inline]
    pub fn low_water(&self) -> usize {
        self.record.low_water.load(Ordering::Relaxed) as usize
    }
}
