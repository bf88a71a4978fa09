//! What a worker lends to the flow that it is moving: pipes and buffers.
//!
//! A flow holds a pipe or a buffer only while bytes are in it, so a worker needs
//! as many as it has flows whose drain is slower than their source, and an idle
//! flow holds none. A store belongs to one worker and is never shared: no lock,
//! and no descriptor that crosses into another table. A pipe that still holds
//! bytes is closed, never lent again.

use crate::datagram::{Batch, Plan};
use crate::sys::Pipe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of one buffer of the copy engine. A read that fills it is the sign of
/// bulk; see the manual on engines.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// Asked of the kernel for each pipe, in bytes. More slots make longer moves and fewer
/// system calls.
pub const PIPE_BYTES: usize = 1 << 20;

/// Pipes of one worker that may exist at a time, by default.
pub const PIPES_MAX: usize = 128;

/// Pipes and buffers that a worker keeps at rest, each.
const KEPT_MAX: usize = 16;

/// A pipe with less room than the kernel's usual 16 pages is what a user gets whose
/// share (fs.pipe-user-pages-soft) is used up: worse than a copy.
const PIPE_BYTES_MIN: usize = 64 * 1024;

/// A worker's pipes and buffers.
#[derive(Debug)]
pub struct Store {
    pipes: Vec<LentPipe>,
    buffers: Vec<Box<[u8]>>,
    pipe_bytes: usize,
    pipes_max: usize,
    batch: Option<Box<Batch>>,
    /// For the send call of whatever flow is stepped.
    pub(crate) plan: Plan,
    /// Pipes that exist: at rest here, or lent to flows.
    pipes_alive: Arc<AtomicUsize>,
}

impl Store {
    /// A store whose new pipes ask the kernel for `pipe_bytes` (they take what they are
    /// given) and that has at most `pipes_max` of them at a time, lent ones included. A
    /// flow that finds none is copied.
    #[must_use]
    pub fn new(pipe_bytes: usize, pipes_max: usize) -> Self {
        Self {
            pipes: Vec::with_capacity(KEPT_MAX),
            buffers: Vec::with_capacity(KEPT_MAX),
            pipe_bytes,
            pipes_max,
            batch: None,
            plan: Plan::default(),
            pipes_alive: Arc::default(),
        }
    }

    /// None when no pipe of use is to be had: the cap, the descriptors or the user's
    /// share of pipe pages is used up.
    pub(crate) fn pipe(&mut self) -> Option<LentPipe> {
        if let Some(pipe) = self.pipes.pop() {
            return Some(pipe);
        }
        if self.pipes_alive.load(Ordering::Relaxed) >= self.pipes_max {
            return None;
        }
        let pipe = Pipe::new(self.pipe_bytes).ok()?;
        if pipe.room() < PIPE_BYTES_MIN.min(self.pipe_bytes) {
            return None;
        }
        self.pipes_alive.fetch_add(1, Ordering::Relaxed);
        Some(LentPipe { pipe, alive: Arc::clone(&self.pipes_alive) })
    }

    /// Takes back an empty pipe. One that holds bytes must be dropped instead: the next
    /// flow would send them to its own drain.
    pub(crate) fn give_pipe(&mut self, pipe: LentPipe) {
        if self.pipes.len() < KEPT_MAX {
            self.pipes.push(pipe);
        }
    }

    pub(crate) fn buffer(&mut self) -> Box<[u8]> {
        self.buffers.pop().unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    pub(crate) fn give_buffer(&mut self, buffer: Box<[u8]>) {
        if buffer.len() == BUFFER_BYTES && self.buffers.len() < KEPT_MAX {
            self.buffers.push(buffer);
        }
    }

    /// For one receive call, empty. A flow gives it back before the next flow's turn, so one is
    /// enough.
    pub(crate) fn batch(&mut self) -> Box<Batch> {
        self.batch.take().unwrap_or_default()
    }

    pub(crate) fn give_batch(&mut self, mut batch: Box<Batch>) {
        if batch.has_slots() {
            batch.clear();
            self.batch = Some(batch);
        }
    }

    /// Pipes at rest.
    #[must_use]
    pub fn pipes_kept(&self) -> usize {
        self.pipes.len()
    }

    /// Pipes that exist, lent ones included.
    #[must_use]
    pub fn pipes_alive(&self) -> usize {
        self.pipes_alive.load(Ordering::Relaxed)
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new(PIPE_BYTES, PIPES_MAX)
    }
}

/// A pipe on loan, counted until it is closed, wherever that is: a task may take it to
/// another thread.
#[derive(Debug)]
pub(crate) struct LentPipe {
    pub(crate) pipe: Pipe,
    alive: Arc<AtomicUsize>,
}

impl Drop for LentPipe {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}
