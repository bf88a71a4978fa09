//! Splices on threads of their own, for programs that use blocking calls.

use crate::completion::Completion;
use crate::duplex::{BothEnds, Duplex, OnMax};
use crate::end::{Carried, End};
use crate::error::Error;
use crate::lane::Lane;
use crate::mover::Limits;
use crate::sys;
use crate::worker::{Command, Counts, FlowId, Inbox, OneWay, Side, TwoWay, Worker};
use rustix::fd::{AsFd, BorrowedFd};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Instant;

/// Worker threads that move bytes.
///
/// Dropping the splicer ends its splices by force (their handles get
/// [`Cause::Unspliced`](crate::Cause::Unspliced) and the residue) and joins the threads.
#[derive(Debug)]
pub struct Splicer {
    workers: Vec<(Arc<Inbox>, Option<JoinHandle<()>>)>,
    next: AtomicU64,
}

impl Splicer {
    /// One worker a core.
    ///
    /// # Errors
    /// [`Error::Setup`] where the kernel gives no thread, epoll or eventfd.
    pub fn new() -> Result<Self, Error> {
        Self::with_workers(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// `workers` threads, at least one.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_workers(workers: usize) -> Result<Self, Error> {
        let mut splicer = Self { workers: Vec::new(), next: AtomicU64::new(0) };
        for number in 0..workers.max(1) {
            let worker = Worker::new()?;
            let inbox = worker.inbox();
            let thread = std::thread::Builder::new()
                .name(format!("sosplice-{number}"))
                .spawn(move || {
                    sys::block_all();
                    worker.run();
                })
                .map_err(|source| Error::Setup { call: "thread", source })?;
            splicer.workers.push((inbox, Some(thread)));
        }
        Ok(splicer)
    }

    /// Moves bytes from `source` to `drain` until a limit, the end of the source, an
    /// error, or [`Splice::unsplice`]. The drain is not shut down at the end, as with
    /// the socket option (sosplice(9)).
    ///
    /// Both are streams, or both are UDP sockets, whose datagrams keep their boundaries: the
    /// source takes from anyone (or from its peer, if connected), the drain is connected.
    ///
    /// Both are duplicated: the splice runs on when the caller closes his descriptors.
    /// While it runs O_NONBLOCK is set on both files of a stream splice; it is as before at
    /// the end.
    ///
    /// # Errors
    /// A stream and a datagram socket; a datagram socket other than UDP; a listening socket;
    /// one that is neither connected nor connecting; or no descriptor left.
    pub fn splice<S: AsFd, D: AsFd>(
        &self,
        source: &S,
        drain: &D,
        limits: Limits,
    ) -> Result<Splice, Error> {
        let source = Side::new(source.as_fd(), "source")?;
        let drain = Side::new(drain.as_fd(), "drain")?;
        let lane = Lane::new(limits, source.endpoint(), drain.endpoint(), Instant::now())?;
        if lane.takes_joined() {
            source.join();
        }
        let (id, inbox) = self.place();
        let counts = Arc::new(Counts::default());
        let done = Arc::new(Completion::new());
        let handle = Splice {
            id,
            inbox: Arc::clone(&inbox),
            counts: Arc::clone(&counts),
            done: Arc::clone(&done),
        };
        inbox.post(Command::Add(Box::new(OneWay { id, source, drain, lane, counts, done })))?;
        Ok(handle)
    }

    /// Joins two sockets both ways, and carries the half-close of each to the other.
    /// `max` bounds each direction, `idle` the pair. Of two UDP sockets both are connected;
    /// they know no half-close, so a pair of them ends by a limit, an error, or
    /// [`Both::unsplice`].
    ///
    /// # Errors
    /// As [`splice`](Self::splice).
    pub fn splice_both<A: AsFd, B: AsFd>(
        &self,
        a: &A,
        b: &B,
        limits: Limits,
    ) -> Result<Both, Error> {
        let (id, inbox) = self.place();
        let (flow, counts, done) = two_way(id, a.as_fd(), b.as_fd(), limits)?;
        inbox.post(Command::Add(flow))?;
        Ok(Both { id, inbox, counts, done })
    }

    /// A name for a new flow, and the worker that takes it.
    fn place(&self) -> (FlowId, Arc<Inbox>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let worker = (number % self.workers.len() as u64) as usize;
        (FlowId(number), Arc::clone(&self.workers[worker].0))
    }
}

impl Drop for Splicer {
    fn drop(&mut self) {
        for (inbox, _) in &self.workers {
            // A worker that is gone needs no telling.
            let _ = inbox.post(Command::Stop);
        }
        for (_, thread) in &mut self.workers {
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

type TwoWayParts = (Box<TwoWay>, Arc<[Counts; 2]>, Arc<Completion<BothEnds>>);

fn two_way(
    id: FlowId,
    a: BorrowedFd<'_>,
    b: BorrowedFd<'_>,
    limits: Limits,
) -> Result<TwoWayParts, Error> {
    let a = Side::new(a, "first socket")?;
    let b = Side::new(b, "second socket")?;
    let now = Instant::now();
    let duplex = Duplex::between(limits, OnMax::EndDirection, a.endpoint(), b.endpoint(), now)?;
    let (a_joins, b_joins) = duplex.takes_joined();
    if a_joins {
        a.join();
    }
    if b_joins {
        b.join();
    }
    let counts = Arc::new([Counts::default(), Counts::default()]);
    let done = Arc::new(Completion::new());
    let flow = TwoWay { id, a, b, duplex, counts: Arc::clone(&counts), done: Arc::clone(&done) };
    Ok((Box::new(flow), counts, done))
}

/// Joins two connected sockets both ways in the calling thread, and returns when both
/// directions are done, with what each carried and why it ended.
///
/// # Errors
/// Only of the set-up, as [`Splicer::splice`].
pub fn splice_both<A: AsFd, B: AsFd>(a: &A, b: &B, limits: Limits) -> Result<BothEnds, Error> {
    let worker = Worker::new()?;
    let (flow, _, done) = two_way(FlowId(0), a.as_fd(), b.as_fd(), limits)?;
    let hold = sys::HoldSigpipe::new();
    worker.run_one(flow);
    drop(hold);
    Ok(done.wait())
}

macro_rules! handle {
    ($name:ident, $end:ty) => {
        impl $name {
            /// Stops taking from the source; what was taken is still given to the
            /// drain, and then the splice ends with
            /// [`Cause::Unspliced`](crate::Cause::Unspliced). Waits for that, which takes
            /// as long as the drain does. A splice that had ended before keeps its cause.
            pub fn unsplice(&self) -> $end {
                self.ask(false)
            }

            /// Ends at once, whatever the drain does; what was taken and not given is the
            /// residue of the end.
            pub fn unsplice_by_force(&self) -> $end {
                self.ask(true)
            }

            fn ask(&self, force: bool) -> $end {
                // A worker that is gone has told the end.
                let _ = self.inbox.post(Command::Unsplice { flow: self.id, force });
                self.done.wait()
            }

            /// Blocks until the end.
            pub fn wait(&self) -> $end {
                self.done.wait()
            }

            /// The end, if it has come.
            #[must_use]
            pub fn end(&self) -> Option<$end> {
                self.done.get()
            }

            /// A descriptor that becomes readable at the end and stays so, for poll and
            /// epoll. Do not read from it.
            ///
            /// # Errors
            /// EMFILE or ENFILE: it is made when first asked for.
            pub fn as_fd(&self) -> io::Result<BorrowedFd<'_>> {
                self.done.fd()
            }
        }

        impl Future for $name {
            type Output = $end;

            fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<$end> {
                self.done.poll(cx)
            }
        }
    };
}

/// A running or ended splice. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct Splice {
    id: FlowId,
    inbox: Arc<Inbox>,
    counts: Arc<Counts>,
    done: Arc<Completion<End>>,
}

handle!(Splice, End);

impl Splice {
    /// Bytes that the drain accepted so far, also after the end. A byte that the far
    /// receiver has seen is in it: the call waits for a write in flight (at most one
    /// step, about 1 MiB).
    #[must_use]
    pub fn transferred(&self) -> u64 {
        self.counts.read().total()
    }

    /// The same by engine.
    #[must_use]
    pub fn carried(&self) -> Carried {
        self.counts.read()
    }
}

/// A running or ended pair. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct Both {
    id: FlowId,
    inbox: Arc<Inbox>,
    counts: Arc<[Counts; 2]>,
    done: Arc<Completion<BothEnds>>,
}

handle!(Both, BothEnds);

impl Both {
    /// Bytes carried so far from the first socket to the second, and back.
    #[must_use]
    pub fn carried(&self) -> (Carried, Carried) {
        (self.counts[0].read(), self.counts[1].read())
    }
}
