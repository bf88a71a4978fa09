//! The mover's ends on two TCP sockets whose O_NONBLOCK is the program's.
//!
//! splice(2) would sleep on an empty source and on a full drain, and the flag that prevents
//! it belongs to the program. So a source is spliced from when epoll has just told that it
//! has something, or else after a look at its next byte; and no more is taken than the drain
//! has room for. What is left of the danger (the program fills the drain at the same
//! instant) the carrier's timer ends.
//!
//! The drain's room is asked for in each step that splices, and what it was less what has
//! been given since serves the others: a small message goes by recv and send, which do not
//! sleep, and costs no question.

use super::port::Port;
use crate::domain::{Slot, URGENT};
use crate::personality::Personality;
use rustix::net::{RecvFlags, SendFlags};
use sosplice::mover::Ends;
use sosplice::store::BUFFER_BYTES;
use sosplice::sys::{self, Kind, LowWater, Pipe, Put, Room, Take};
use std::io;
use std::sync::atomic::Ordering;

/// State of the ends that outlives a step.
#[derive(Default)]
pub struct Marks {
    low_water: LowWater,
    /// What was read last is the urgent byte, and leaves as one.
    urgent: bool,
    /// Bytes that the drain has room for, at least, unless the program has written to it.
    room: u32,
    /// The source was last read by splice(2).
    pipes: bool,
}

impl Marks {
    /// The source's low-water mark as the program set it.
    pub fn restore(&mut self, source: &Port) {
        // A socket that is gone needs no mark.
        let _ = self.low_water.set(source, Kind::Tcp, None);
    }
}

pub struct StreamEnds<'f> {
    /// The source's record.
    pub slot: &'f Slot,
    pub source: &'f Port,
    pub drain: &'f Port,
    pub marks: &'f mut Marks,
    /// The drain was asked for its room in this step.
    pub knows_room: bool,
}

/// A drain that had more room than this, less what was given since, is not asked before
/// each small message.
const KNOWN_BYTES_MIN: usize = BUFFER_BYTES;

/// A drain with less room than this is left alone until it is writable. Epoll tells so when
/// a third of its buffer is free; then that third is used up, in long moves.
const MOVE_BYTES_MIN: usize = 4 * BUFFER_BYTES;

impl StreamEnds<'_> {
    fn taken(&self, taken: Take, room: usize) -> Take {
        let ready = self.source.ready();
        match taken {
            Take::Bytes { count, .. } => {
                let dry = count < room && !ready.hung_up && !ready.urgent;
                if dry {
                    self.source.set_read(false);
                }
                Take::Bytes { count, dry }
            }
            Take::Empty => {
                self.source.set_read(false);
                Take::Empty
            }
            other => other,
        }
    }

    fn given(&mut self, put: Put) -> Put {
        match put {
            Put::Bytes(count) => {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                self.marks.room = self.marks.room.saturating_sub(count);
            }
            Put::Full => {
                self.marks.room = 0;
                self.drain.set_write(self.drain.wants_room());
            }
            Put::Refused => {}
        }
        put
    }

    /// Asks the drain for its room.
    fn ask_room(&mut self) -> io::Result<Room> {
        let room = sys::room(self.drain)?;
        self.marks.room = u32::try_from(room.bytes).unwrap_or(u32::MAX);
        self.knows_room = true;
        Ok(room)
    }

    /// The program wants urgent bytes in the stream, so they go on as urgent ones.
    /// Otherwise the byte never enters the stream, and is kept for who asks for it: the kernel
    /// forgets it when the stream goes on behind it.
    fn inlines_urgent(&self) -> bool {
        if !self.source.ready().urgent {
            return false;
        }
        if rustix::net::sockopt::socket_oobinline(self.source).unwrap_or(false) {
            // FreeBSD has no code for it: a byte like any other.
            return Personality::current() == Personality::OpenBsd;
        }
        let mut byte = [0];
        let flags = RecvFlags::OOB | RecvFlags::DONTWAIT;
        if self.source.take_urgent_news()
            && let Ok((1, _)) = rustix::net::recv(self.source, &mut byte[..], flags)
        {
            self.slot.urgent.store(URGENT | u32::from(byte[0]), Ordering::Release);
        }
        false
    }
}

impl Ends for StreamEnds<'_> {
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Take> {
        if !self.source.ready().read {
            return Ok(Take::Empty);
        }
        if self.inlines_urgent() && at_mark(self.source) {
            let mut byte = [0];
            let flags = RecvFlags::DONTWAIT;
            if let Ok((1, _)) = rustix::net::recv(self.source, &mut byte[..], flags) {
                buf[0] = byte[0];
                self.marks.urgent = true;
                return Ok(Take::Bytes { count: 1, dry: false });
            }
        }
        let room = buf.len();
        self.marks.pipes = false;
        self.source.take_certainty();
        let taken = sys::recv(self.source, Kind::Tcp, buf)?;
        Ok(self.taken(taken, room))
    }

    fn fill(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Take> {
        if !self.source.ready().read {
            return Ok(Take::Empty);
        }
        if self.inlines_urgent() {
            return Ok(Take::Stuck);
        }
        self.marks.pipes = true;
        let mut len = len;
        if !self.knows_room {
            len = len.min(self.ask_room()?.bytes);
            if len == 0 {
                // The program has filled the drain: asked again, it is waited for.
                return Ok(Take::Stuck);
            }
        }
        let is_queued = self.source.take_certainty();
        let taken = sys::fill_queued(self.source, pipe, len, is_queued)?;
        // A short move proves nothing: the pipe may be full by its slots.
        Ok(self.taken(taken, 0))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<Put> {
        if !self.drain.ready().write {
            return Ok(Put::Full);
        }
        if self.marks.urgent {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL | SendFlags::OOB;
            return match rustix::net::send(self.drain, &bytes[..1], flags) {
                Ok(_) => {
                    self.marks.urgent = false;
                    Ok(Put::Bytes(1))
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                    Ok(self.given(Put::Full))
                }
                Err(errno) => Err(errno.into()),
            };
        }
        let put = sys::send(self.drain, Kind::Tcp, bytes)?;
        Ok(self.given(put))
    }

    fn drain(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Put> {
        if !self.drain.ready().write {
            return Ok(Put::Full);
        }
        let put = sys::drain_until_signal(self.drain, pipe, len)?;
        Ok(self.given(put))
    }

    fn low_water(&mut self, bytes: Option<u32>) -> io::Result<()> {
        self.marks.low_water.set(self.source, Kind::Tcp, bytes)
    }

    fn room(&mut self) -> io::Result<usize> {
        // The mover asks before every take: one that will find nothing needs no room.
        if !self.source.ready().read {
            return Ok(usize::MAX);
        }
        if !self.drain.ready().write {
            return Ok(self.room_for_an_end());
        }
        let known = self.marks.room as usize;
        let is_known = match (self.marks.pipes, self.knows_room) {
            (false, _) => known >= KNOWN_BYTES_MIN,
            (true, true) => known >= MOVE_BYTES_MIN,
            // It may be more by now.
            (true, false) => false,
        };
        if is_known {
            return Ok(known);
        }
        let room = self.ask_room()?;
        if room.is_writable || room.bytes >= MOVE_BYTES_MIN || self.drain.wants_room() {
            return Ok(room.bytes.max(1));
        }
        self.drain.set_write(false);
        Ok(self.room_for_an_end())
    }
}

impl StreamEnds<'_> {
    /// The end of an empty source needs no room in the drain.
    fn room_for_an_end(&self) -> usize {
        let queued = || rustix::io::ioctl_fionread(self.source).unwrap_or(0);
        usize::from(self.source.ready().hung_up && queued() == 0)
    }
}

/// The next byte of the stream is the urgent one (SIOCATMARK, tcp(7)).
fn at_mark(port: &Port) -> bool {
    crate::sys::at_mark(rustix::fd::AsRawFd::as_raw_fd(&rustix::fd::AsFd::as_fd(port)))
}

/// Throws away what a source that was shut down for reading still holds.
pub fn discard(port: &Port) {
    let mut buffer = [0; 4096];
    while let Ok((1.., _)) = rustix::net::recv(port, &mut buffer[..], RecvFlags::DONTWAIT) {}
}
