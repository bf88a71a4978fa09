//! UDP_GRO at a source while a splice runs: switched on, and off again without harm.
//!
//! What the kernel has joined lies in the socket's queue as one packet. While the option is
//! on, a read tells where to cut it; once it is off, a read hands out the whole as one
//! datagram that nobody sent (net/ipv4/udp.c, `udp_recvmsg`). So at the end, whatever its
//! cause, the queue is emptied into the residue with the option on, and then it is switched
//! off. Something may have come in between, joined too: a last look finds it, and the same
//! begins again.
//!
//! What it does not do: it gives up after [`ROUNDS_MAX`] reads, for a flood would hold the
//! worker for ever. And an error that is pending on the socket is taken by the look.
//!
//! Where the program had the option on, it stays on and reads joined messages as before.

use super::batch::{Batch, MESSAGES_MAX};
use crate::end::End;
use crate::sys;
use rustix::fd::{AsFd, BorrowedFd};

/// Reads of the queue, each of up to [`MESSAGES_MAX`] messages: more than what fits the
/// largest receive buffer that is usual.
const ROUNDS_MAX: usize = 1024;

/// Whether a source joins datagrams because of us.
#[derive(Debug, Default)]
pub(crate) struct Joining {
    ours: bool,
}

impl Joining {
    /// Switches it on. Without it (kernels before 5.0) datagrams come one by one.
    pub(crate) fn begin<Fd: AsFd>(&mut self, source: Fd) {
        self.ours |= matches!(sys::set_gro(source, true), Ok(false));
    }

    /// Switches it off, if it was us. What waits on the source goes behind the residue of
    /// `end`, that of its direction; where no end is told (a future was dropped) it is lost:
    /// a datagram may be lost, but not grow.
    pub(crate) fn end<Fd: AsFd>(&mut self, source: Fd, mut end: Option<&mut End>) {
        if !std::mem::take(&mut self.ours) {
            return;
        }
        leave(&mut source.as_fd(), |batch| {
            if let Some(end) = end.as_deref_mut() {
                batch.append_to(end);
            }
        });
    }
}

/// The source with its queue, as leaving sees it.
trait Queue {
    /// Whether something waits now.
    fn waits(&mut self) -> bool;
    /// Takes some of what waits.
    fn read(&mut self, batch: &mut Batch);
    fn set_gro(&mut self, on: bool);
}

impl Queue for BorrowedFd<'_> {
    fn waits(&mut self) -> bool {
        // A pending error is told before what is queued, once.
        let next = sys::next_len(*self).or_else(|_| sys::next_len(*self));
        next.is_ok_and(|len| len.is_some())
    }

    fn read(&mut self, batch: &mut Batch) {
        if sys::receive(*self, batch, MESSAGES_MAX, false).is_err() {
            batch.clear();
        }
    }

    fn set_gro(&mut self, on: bool) {
        // It was there a moment ago: the kernel does not refuse it now.
        let _ = sys::set_gro(*self, on);
    }
}

/// Switches the option off behind the last joined message.
fn leave(queue: &mut impl Queue, mut keep: impl FnMut(&Batch)) {
    // 4 MiB of address space: only for those who need it.
    let mut batch = None;
    for _ in 0..ROUNDS_MAX {
        if queue.waits() {
            let batch = batch.get_or_insert_with(Batch::new);
            queue.read(batch);
            keep(batch);
            continue;
        }
        queue.set_gro(false);
        if !queue.waits() {
            return;
        }
        queue.set_gro(true);
    }
    queue.set_gro(false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::Message;
    use std::collections::VecDeque;

    /// What comes before each call; messages of two datagrams, if the option is on.
    #[derive(Default)]
    struct Script {
        arrivals: VecDeque<usize>,
        /// Each message: whether it is joined.
        queue: VecDeque<bool>,
        on: bool,
        calls: usize,
    }

    impl Script {
        fn time_passes(&mut self) {
            self.calls += 1;
            let count = self.arrivals.pop_front().unwrap_or(0);
            self.queue.extend(std::iter::repeat_n(self.on, count));
        }
    }

    impl Queue for Script {
        fn waits(&mut self) -> bool {
            self.time_passes();
            !self.queue.is_empty()
        }

        fn read(&mut self, batch: &mut Batch) {
            self.time_passes();
            batch.clear();
            for joined in self.queue.drain(..) {
                assert!(self.on || !joined, "a joined message that nobody can cut");
                let len = if joined { 2 } else { 1 };
                batch.messages.push(Message { at: 0, len, segment: 1 });
            }
        }

        fn set_gro(&mut self, on: bool) {
            self.time_passes();
            self.on = on;
        }
    }

    #[test]
    fn what_comes_while_it_is_switched_off_is_cut_too() {
        // One message before one of the calls, or before two of them.
        for (first, second) in (0..12).flat_map(|first| (0..12).map(move |second| (first, second)))
        {
            let mut script = Script { on: true, arrivals: vec![0; 12].into(), ..Script::default() };
            script.arrivals[first] += 1;
            script.arrivals[second] += 1;
            leave(&mut script, |_| {});
            assert!(!script.on);
            assert!(!script.queue.contains(&true), "left behind, joined: {first} {second}");
        }
    }

    #[test]
    fn a_flood_does_not_hold_the_worker() {
        let arrivals = vec![1; 10 * ROUNDS_MAX].into();
        let mut script = Script { on: true, arrivals, ..Script::default() };
        leave(&mut script, |_| {});
        assert!(!script.on && script.calls < 5 * ROUNDS_MAX);
    }
}
