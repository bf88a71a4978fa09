//! Where bytes are between the source and the drain: nowhere, in a buffer, or in a
//! pipe. Both are lent by the worker's store and go back as soon as they are empty.

use super::Ends;
use super::Tally;
use super::engine::Gait;
use crate::store::{LentPipe, Store};
use crate::sys::{Put, Take};
use std::io;

#[derive(Debug)]
pub(super) enum Vessel {
    Empty,
    Buffer { buffer: Box<[u8]>, start: u32, end: u32 },
    Pipe { pipe: LentPipe, held: usize },
}

impl Vessel {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    pub(super) fn held(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Buffer { start, end, .. } => (end - start) as usize,
            Self::Pipe { held, .. } => *held,
        }
    }

    /// Reads into a lent buffer, at most `len` bytes.
    pub(super) fn recv(
        &mut self,
        ends: &mut impl Ends,
        store: &mut Store,
        gait: &mut Gait,
        len: usize,
    ) -> io::Result<Take> {
        debug_assert!(self.is_empty());
        let mut buffer = store.buffer();
        let room = len.min(buffer.len());
        let result = ends.recv(&mut buffer[..room]);
        match result {
            Ok(Take::Bytes { count, .. }) => {
                debug_assert!(count > 0 && count <= room);
                gait.copied(count, room);
                *self = Self::Buffer { buffer, start: 0, end: count as u32 };
            }
            _ => store.give_buffer(buffer),
        }
        result
    }

    /// Moves from the source into a lent pipe, at most `len` bytes.
    pub(super) fn fill(
        &mut self,
        mut pipe: LentPipe,
        ends: &mut impl Ends,
        store: &mut Store,
        gait: &mut Gait,
        len: usize,
    ) -> io::Result<Take> {
        debug_assert!(self.is_empty());
        let result = ends.fill(&mut pipe.pipe, len);
        match result {
            Ok(Take::Bytes { count, .. }) => {
                debug_assert!(count > 0 && count <= len);
                gait.piped(count);
                *self = Self::Pipe { pipe, held: count };
                return result;
            }
            Ok(Take::Stuck) => gait.stuck(),
            _ => {}
        }
        store.give_pipe(pipe);
        result
    }

    /// Gives what is held to the drain. True when nothing is held any more, false
    /// when the drain is full.
    pub(super) fn pour(
        &mut self,
        ends: &mut impl Ends,
        store: &mut Store,
        gait: &mut Gait,
        carried: &mut Tally,
    ) -> io::Result<bool> {
        loop {
            let put = match self {
                Self::Empty => return Ok(true),
                Self::Buffer { buffer, start, end } => {
                    ends.send(&buffer[*start as usize..*end as usize])?
                }
                Self::Pipe { pipe, held } => ends.drain(&mut pipe.pipe, *held)?,
            };
            match (put, &mut *self) {
                (Put::Full, _) => return Ok(false),
                (Put::Bytes(count), Self::Buffer { start, end, .. }) => {
                    debug_assert!(count <= (*end - *start) as usize);
                    carried.copy += count as u64;
                    *start += count as u32;
                    if start == end {
                        self.give_back(store);
                        return Ok(true);
                    }
                }
                (Put::Bytes(count), Self::Pipe { held, .. }) => {
                    debug_assert!(count <= *held);
                    carried.pipe += count as u64;
                    *held -= count;
                    if *held == 0 {
                        self.give_back(store);
                        return Ok(true);
                    }
                }
                (Put::Refused, _) => {
                    gait.give_up_pipe();
                    self.decant()?;
                }
                (Put::Bytes(_), Self::Empty) => return Ok(true),
            }
        }
    }

    /// Hands the empty buffer or pipe back to the store.
    fn give_back(&mut self, store: &mut Store) {
        match std::mem::replace(self, Self::Empty) {
            Self::Empty => {}
            Self::Buffer { buffer, .. } => store.give_buffer(buffer),
            Self::Pipe { pipe, .. } => store.give_pipe(pipe),
        }
    }

    /// Out of the pipe into a buffer of its own size: for a drain that splice(2)
    /// refuses, and for residue. The pipe is closed.
    fn decant(&mut self) -> io::Result<()> {
        if let Self::Pipe { pipe, held } = self {
            let mut bytes = vec![0; *held];
            let mut filled = 0;
            while filled < bytes.len() {
                match pipe.pipe.read(&mut bytes[filled..])? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => filled += count,
                }
            }
            let end = u32::try_from(filled).map_err(|_| io::ErrorKind::InvalidData)?;
            *self = Self::Buffer { buffer: bytes.into_boxed_slice(), start: 0, end };
        }
        Ok(())
    }

    /// The held bytes, in order.
    pub(super) fn into_residue(mut self) -> Vec<u8> {
        // The pipe's reading end is ours and holds exactly `held` bytes, so reading
        // them cannot fail short of a kernel that loses them.
        let decanted = self.decant();
        debug_assert!(decanted.is_ok());
        match self {
            Self::Buffer { buffer, start, end } => buffer[start as usize..end as usize].to_vec(),
            _ => Vec::new(),
        }
    }
}
