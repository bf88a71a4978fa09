//! What a connection has while a request is under way: lent by the thread, so that an idle
//! connection keeps nothing and a busy one allocates nothing.
//!
//! The bytes of an input are lent for themselves, when there are some: a request whose server
//! takes its time, or a connection that was upgraded, keeps the heads and no more.

use super::record::Notes;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Bytes of each input at first; enough for the heads of usual messages.
const INPUT_LEN: usize = 16 * 1024;

/// Sets, and buffers of inputs, that a thread keeps at rest.
const KEPT_MAX: usize = 64;

/// Bytes that came from a socket and were not used yet.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Empty, or on loan.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The first `len` bytes are used.
    pub(super) fn consume(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room for at most `most` bytes behind the others; empty when there is none.
    pub(super) fn room(&mut self, most: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            let spare = SPARE.with_borrow_mut(Vec::pop);
            self.bytes = spare.unwrap_or_else(|| vec![0; INPUT_LEN]);
        }
        if self.start > 0 && self.bytes.len() - self.end < most {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let end = self.bytes.len().min(self.end.saturating_add(most));
        &mut self.bytes[self.end..end]
    }

    /// As [`room`](Self::room), never empty: for a head that is longer than usual.
    pub(super) fn more_room(&mut self, most: usize) -> &mut [u8] {
        if self.room(most).is_empty() {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        self.room(most)
    }

    /// `len` bytes of the room were filled.
    pub(super) fn added(&mut self, len: usize) {
        self.end = (self.end + len).min(self.bytes.len());
    }

    /// Gives the buffer back if nothing is in it: something is waited for that may take long.
    pub(super) fn rest(&mut self) {
        if self.is_empty() && !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            // One that had to grow is not kept; and the thread may be on its way out.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if bytes.len() == INPUT_LEN && spare.len() < KEPT_MAX {
                    spare.push(bytes);
                }
            });
        }
    }
}

/// One set.
#[derive(Debug)]
pub(super) struct Buffers {
    /// From the client.
    pub(super) client: Input,
    /// From the server.
    pub(super) server: Input,
    /// The head that the server gets.
    pub(super) request: Vec<u8>,
    /// What the client gets before the body.
    pub(super) response: Vec<u8>,
    /// What the log will say.
    pub(super) notes: Notes,
}

thread_local! {
    #[allow(clippy::vec_box, reason = "lent as it lies, without a copy")]
    static KEPT: RefCell<Vec<Box<Buffers>>> = const { RefCell::new(Vec::new()) };
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A set on loan.
#[derive(Debug)]
pub(super) struct Lent(Option<Box<Buffers>>);

pub(super) fn lend() -> Lent {
    let kept = KEPT.with_borrow_mut(Vec::pop);
    Lent(Some(kept.unwrap_or_else(|| {
        Box::new(Buffers {
            client: Input::default(),
            server: Input::default(),
            request: Vec::with_capacity(1024),
            response: Vec::with_capacity(1024),
            notes: Notes::default(),
        })
    })))
}

impl Deref for Lent {
    type Target = Buffers;

    #[allow(clippy::unwrap_used, reason = "only drop takes it out")]
    fn deref(&self) -> &Buffers {
        self.0.as_deref().unwrap()
    }
}

impl DerefMut for Lent {
    #[allow(clippy::unwrap_used, reason = "only drop takes it out")]
    fn deref_mut(&mut self) -> &mut Buffers {
        self.0.as_deref_mut().unwrap()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut buffers) = self.0.take() else { return };
        for input in [&mut buffers.client, &mut buffers.server] {
            input.consume(usize::MAX);
            input.rest();
        }
        buffers.request.clear();
        buffers.request.shrink_to(INPUT_LEN);
        buffers.response.clear();
        buffers.response.shrink_to(INPUT_LEN);
        buffers.notes.clear();
        // The thread may be on its way out.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < KEPT_MAX {
                kept.push(buffers);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_without_losing_what_is_there() {
        let mut input = Input::default();
        assert_eq!(input.room(usize::MAX).len(), INPUT_LEN);
        input.room(5).copy_from_slice(b"abcde");
        input.added(5);
        input.consume(2);
        assert_eq!(input.filled(), b"cde");
        let len = input.room(usize::MAX).len();
        assert_eq!(len, INPUT_LEN - 3, "what was used makes room");
        input.added(len);
        assert!(input.room(1).is_empty());
        assert_eq!(input.more_room(9).len(), 9);
        assert!(input.filled().starts_with(b"cde"));
        input.rest();
        assert_eq!(input.filled().len(), INPUT_LEN, "what holds something is kept");
        input.consume(usize::MAX);
        assert!(input.is_empty());
        input.rest();
        assert_eq!(input.room(usize::MAX).len(), INPUT_LEN, "as it was before it grew");
    }
}
