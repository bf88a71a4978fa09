//! Which engine takes the next bytes. It follows from the flow's last few moves,
//! never from its total.
//!
//! A flow starts with copy: one recv and one send are the cheapest way for a small
//! message. Two reads in a row that fill the buffer are bulk, and bulk goes
//! through the pipe; a few small moves in a row bring it back.

use crate::store::BUFFER_BYTES;

/// Which engine a splice may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// By what the flow does.
    #[default]
    Auto,
    /// splice(2) for every byte it can move.
    Pipe,
    /// recv and send for every byte.
    Copy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Copy,
    Pipe,
}

/// Full reads in a row that mean bulk.
const FULL_READS: u8 = 1;
/// Moves in a row below [`SMALL_BYTES`] that mean that bulk is over.
const SMALL_MOVES: u8 = 4;
/// Below this a copy costs less than what splice(2) adds to a move.
const SMALL_BYTES: usize = 16 * 1024;
/// Reads in a row that splice(2) could not serve before it is given up for good.
const STUCK_MAX: u8 = 16;

#[derive(Clone, Copy, Debug)]
pub(super) struct Gait {
    choice: EngineChoice,
    engine: Engine,
    /// Moves in a row that speak for the other engine.
    against: u8,
    /// Stuck reads in a row.
    stuck: u8,
    /// The next read is by recv, whatever the engine: splice(2) cannot pass what
    /// comes next.
    step_over: bool,
}

impl Gait {
    pub(super) fn new(choice: EngineChoice, can_pipe: bool) -> Self {
        let choice = if can_pipe { choice } else { EngineChoice::Copy };
        let engine = if choice == EngineChoice::Pipe { Engine::Pipe } else { Engine::Copy };
        Self { choice, engine, against: 0, stuck: 0, step_over: false }
    }

    pub(super) fn next(&self) -> Engine {
        if self.step_over { Engine::Copy } else { self.engine }
    }

    /// A read of `count` bytes into a buffer with room for `room`.
    pub(super) fn copied(&mut self, count: usize, room: usize) {
        self.step_over = false;
        if self.choice != EngineChoice::Auto || self.engine == Engine::Pipe {
            return;
        }
        if count == room && room == BUFFER_BYTES {
            self.against += 1;
            if self.against >= FULL_READS {
                self.engine = Engine::Pipe;
                self.against = 0;
            }
        } else {
            self.against = 0;
        }
    }

    /// A move of `count` bytes into the pipe.
    pub(super) fn piped(&mut self, count: usize) {
        self.stuck = 0;
        if self.choice != EngineChoice::Auto {
            return;
        }
        if count < SMALL_BYTES {
            self.against += 1;
            if self.against >= SMALL_MOVES {
                self.engine = Engine::Copy;
                self.against = 0;
            }
        } else {
            self.against = 0;
        }
    }

    /// splice(2) could not move what the source holds.
    pub(super) fn stuck(&mut self) {
        self.step_over = true;
        self.stuck += 1;
        if self.stuck >= STUCK_MAX {
            self.give_up_pipe();
        }
    }

    /// No pipe was to be had: this read goes by copy, and the flow stays there until
    /// it looks like bulk again.
    pub(super) fn no_pipe(&mut self) {
        if self.choice == EngineChoice::Auto {
            self.engine = Engine::Copy;
            self.against = 0;
        }
        self.step_over = true;
    }

    /// splice(2) does not work on these ends.
    pub(super) fn give_up_pipe(&mut self) {
        self.choice = EngineChoice::Copy;
        self.engine = Engine::Copy;
    }
}
