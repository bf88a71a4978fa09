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
        let source = source.as_fd();
        // 4 MiB of address space: only for those who need it.
        let mut batch = None;
        for _ in 0..ROUNDS_MAX {
            if something_waits(source) {
                let batch = batch.get_or_insert_with(Batch::new);
                let received = sys::receive(source, batch, MESSAGES_MAX, false);
                if let (Ok(_), Some(end)) = (received, end.as_deref_mut()) {
                    batch.append_to(end);
                }
                continue;
            }
            // The option was there a moment ago: the kernel does not refuse it now.
            let _ = sys::set_gro(source, false);
            if !something_waits(source) {
                return;
            }
            let _ = sys::set_gro(source, true);
        }
        let _ = sys::set_gro(source, false);
    }
}

fn something_waits(source: BorrowedFd<'_>) -> bool {
    // A pending error is told before what is queued, once.
    let next = sys::next_len(source).or_else(|_| sys::next_len(source));
    next.is_ok_and(|len| len.is_some())
}
