//! The mover's ends on two TCP sockets whose O_NONBLOCK is the program's.
//!
//! splice(2) would sleep on an empty source and on a full drain, and the flag that prevents
//! it belongs to the program. So the source is asked what it has before it is read, and no
//! more is taken than the drain has room for; what is left of the danger (the program fills
//! the drain at the same instant) the carrier's timer ends.

use super::port::Port;
use crate::domain::{Slot, URGENT};
use crate::personality::Personality;
use rustix::net::{RecvFlags, SendFlags};
use sosplice::mover::Ends;
use sosplice::sys::{self, Kind, LowWater, Pipe, Put, Take};
use std::io;
use std::sync::atomic::Ordering;

/// State of the ends that outlives a step.
#[derive(Default)]
pub struct Marks {
    low_water: LowWater,
    /// What was read last is the urgent byte, and leaves as one.
    urgent: bool,
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
}

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

    fn given(&self, put: Put) -> Put {
        if put == Put::Full {
            self.drain.set_write(self.drain.wants_room());
        }
        put
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
        let taken = sys::fill_queued(self.source, pipe, len)?;
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
        match sys::room(self.drain)? {
            0 if self.drain.wants_room() => Ok(1),
            0 => {
                self.drain.set_write(false);
                Ok(self.room_for_an_end())
            }
            room => Ok(room),
        }
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
