//! What a worker lends to the flow that it is moving: pipes and buffers.
//!
//! A flow holds a pipe or a buffer only while bytes are in it, so a worker needs
//! as many as it has flows whose drain is slower than their source, and an idle
//! flow holds none. A store belongs to one worker and is never shared: no lock,
//! and no descriptor that crosses into another table. A pipe that still holds
//! bytes is closed, never lent again.

use crate::sys::Pipe;
use std::io;

/// Bytes of one buffer of the copy engine. A read that fills it is the sign of
/// bulk; see the manual on engines.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// A worker's pipes and buffers at rest.
#[derive(Debug)]
pub struct Store {
    pipes: Vec<Pipe>,
    buffers: Vec<Box<[u8]>>,
    pipe_bytes: usize,
    pipes_kept_max: usize,
    buffers_kept_max: usize,
}

impl Store {
    /// A store whose new pipes ask the kernel for `pipe_bytes` (they take what
    /// they are given) and that keeps at most `pipes_kept_max` pipes at rest.
    #[must_use]
    pub fn new(pipe_bytes: usize, pipes_kept_max: usize) -> Self {
        Self {
            pipes: Vec::with_capacity(pipes_kept_max),
            buffers: Vec::with_capacity(BUFFERS_KEPT_MAX),
            pipe_bytes,
            pipes_kept_max,
            buffers_kept_max: BUFFERS_KEPT_MAX,
        }
    }

    pub(crate) fn pipe(&mut self) -> io::Result<Pipe> {
        match self.pipes.pop() {
            Some(pipe) => Ok(pipe),
            None => Pipe::new(self.pipe_bytes),
        }
    }

    /// Takes back an empty pipe. One that holds bytes must be dropped instead:
    /// the next flow would send them to its own drain.
    pub(crate) fn give_pipe(&mut self, pipe: Pipe) {
        if self.pipes.len() < self.pipes_kept_max {
            self.pipes.push(pipe);
        }
    }

    pub(crate) fn buffer(&mut self) -> Box<[u8]> {
        self.buffers.pop().unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    pub(crate) fn give_buffer(&mut self, buffer: Box<[u8]>) {
        if buffer.len() == BUFFER_BYTES && self.buffers.len() < self.buffers_kept_max {
            self.buffers.push(buffer);
        }
    }

    /// Pipes at rest.
    #[must_use]
    pub fn pipes_kept(&self) -> usize {
        self.pipes.len()
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new(PIPE_BYTES, PIPES_KEPT_MAX)
    }
}

/// Asked of the kernel for each pipe. More slots make longer moves and fewer
/// system calls; the pool bounds how many there are.
pub const PIPE_BYTES: usize = 1 << 20;

/// Pipes that a store keeps at rest by default.
pub const PIPES_KEPT_MAX: usize = 8;

const BUFFERS_KEPT_MAX: usize = 8;
