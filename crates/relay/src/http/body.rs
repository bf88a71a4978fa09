//! The part of a body that has not come yet: from one socket to the other, in the kernel where
//! that pays.

use super::buffers::Input;
use super::chunk::{Chunks, Piece};
use super::io::{Elapsed, recv, send, within};
use super::order::Onward;
use super::refusal::Refusal;
use sosplice::tokio::{Registered, splice};
use sosplice::{Carried, Cause, EngineChoice, Limits};
use std::io;
use std::time::Duration;

/// From so many bytes on, what is left of a body is bulk: the pipe takes it from the start.
const PIPE_LEN_MIN: u64 = 64 * 1024;
/// Taken into a pipe at a time: see [`Limits::piece`]. A server that sends files gives single pages, of
/// which so many are sure to go out as one message. 1 MB answers of nginx cost 301 ms a GB with it and 447
/// without, uploads 335 and 434 (HAProxy 262 to 379; bbr, two rounds each).
const PIECE: u32 = 48 * 1024;
/// From so many bytes on, the rest of a chunk is spliced; less is copied with its framing.
const CHUNK_LEN_MIN: u64 = 32 * 1024;
/// Read at a time to find the next chunk, where chunks are large and where they are not. What is
/// read beyond the framing is copied.
const AFTER_LARGE_LEN: usize = 2 * 1024;
const AFTER_SMALL_LEN: usize = 16 * 1024;

/// What is still to come.
#[derive(Debug)]
pub(super) enum Rest {
    /// So many bytes, at least one, none of them in the input.
    Length(u64),
    /// Chunks; what is in the input was not looked at. Taken apart for who does not know chunks.
    Chunks { chunks: Chunks, unpacks: bool },
    /// Everything; none of it in the input.
    UntilClose,
}

impl Rest {
    /// None when all has come.
    pub(super) fn of(onward: Onward) -> Option<Self> {
        match onward {
            Onward::Nothing => None,
            Onward::Length(len) => Some(Self::Length(len)),
            Onward::Chunks(chunks) => Some(Self::Chunks { chunks, unpacks: false }),
            Onward::UntilClose => Some(Self::UntilClose),
        }
    }
}

/// Why not all of a body has come across.
#[derive(Debug)]
pub(super) enum Stop {
    SourceClosed,
    SourceFailed(io::Error),
    /// Nothing came for the idle time.
    SourceSilent,
    DrainFailed(io::Error),
    /// The drain took nothing for the idle time.
    DrainStalled,
    /// It is not framed as it must be.
    Malformed(Refusal),
}

/// One direction of one exchange.
pub(super) struct Passage<'p> {
    pub(super) source: &'p Registered,
    pub(super) input: &'p mut Input,
    pub(super) drain: &'p Registered,
    /// Body bytes that the drain has taken.
    pub(super) carried: &'p mut Carried,
    pub(super) engine: EngineChoice,
    pub(super) idle: Option<Duration>,
}

impl Passage<'_> {
    /// Carries `rest` across, to its end and no further.
    pub(super) async fn carry(mut self, rest: Rest) -> Result<(), Stop> {
        match rest {
            Rest::Length(len) => self.splice(Some(len), PIPE_LEN_MIN).await,
            Rest::UntilClose => self.splice(None, PIPE_LEN_MIN).await,
            Rest::Chunks { chunks, unpacks } => self.chunks(chunks, unpacks).await,
        }
    }

    /// Exactly `max` bytes, or everything until the source closes.
    async fn splice(&mut self, max: Option<u64>, bulk: u64) -> Result<(), Stop> {
        let engine = match (self.engine, max) {
            (EngineChoice::Auto, Some(len)) if len >= bulk => EngineChoice::Pipe,
            (choice, _) => choice,
        };
        let limits = Limits { max, idle: self.idle, engine, piece: Some(PIECE) };
        let end = splice(self.source, self.drain, limits).await.map_err(Stop::SourceFailed)?;
        *self.carried += end.carried;
        match end.cause {
            Cause::Max => Ok(()),
            Cause::Eof if max.is_none() => Ok(()),
            Cause::Eof => Err(Stop::SourceClosed),
            Cause::SourceError(error) => Err(Stop::SourceFailed(error.io())),
            // What is held was not taken.
            Cause::Idle if !end.residue.is_empty() => Err(Stop::DrainStalled),
            Cause::Idle => Err(Stop::SourceSilent),
            cause => Err(Stop::DrainFailed(
                cause.os_error().map_or_else(|| io::ErrorKind::BrokenPipe.into(), |e| e.io()),
            )),
        }
    }

    async fn chunks(&mut self, mut chunks: Chunks, unpacks: bool) -> Result<(), Stop> {
        let mut read_len = AFTER_SMALL_LEN;
        loop {
            if unpacks {
                self.unpack(&mut chunks).await?;
            } else {
                let len = chunks.pass(self.input.filled()).map_err(Stop::Malformed)?;
                self.send(len).await?;
            }
            if chunks.is_done() {
                return Ok(());
            }
            let left = chunks.left();
            if left >= CHUNK_LEN_MIN && self.engine != EngineChoice::Copy {
                self.splice(Some(left), CHUNK_LEN_MIN).await?;
                chunks.spliced(left);
                read_len = AFTER_LARGE_LEN;
            }
            // A chunk may take its time.
            self.input.rest();
            let read = within(self.idle, recv(self.source, self.input, read_len)).await;
            match read {
                Ok(Ok(0)) => return Err(Stop::SourceClosed),
                Ok(Ok(_)) => read_len = AFTER_SMALL_LEN,
                Ok(Err(error)) => return Err(Stop::SourceFailed(error)),
                Err(Elapsed) => return Err(Stop::SourceSilent),
            }
        }
    }

    /// Sends the data that is in the input, without its framing.
    async fn unpack(&mut self, chunks: &mut Chunks) -> Result<(), Stop> {
        while let Some(piece) = chunks.next(self.input.filled()).map_err(Stop::Malformed)? {
            match piece {
                Piece::Framing(len) => self.input.consume(len),
                Piece::Data(len) => self.send(len).await?,
            }
        }
        Ok(())
    }

    /// Sends the first `len` bytes of the input.
    async fn send(&mut self, len: usize) -> Result<(), Stop> {
        let bytes = self.input.filled().get(..len).unwrap_or_default();
        let mut sent = 0;
        let done = within(self.idle, send(self.drain, bytes, &[], &mut sent)).await;
        self.carried.copy += sent as u64;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Stop::DrainFailed(error)),
            Err(Elapsed) => return Err(Stop::DrainStalled),
        }
        self.input.consume(len);
        Ok(())
    }
}
