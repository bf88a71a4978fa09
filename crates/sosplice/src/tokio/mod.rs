//! The mover inside a tokio task (feature `tokio`): no extra thread, no channel, no
//! task of its own.
//!
//! [`copy_bidirectional`] takes the place of `tokio::io::copy_bidirectional` where both
//! ends are sockets: one changed line, and bulk stays in the kernel.
//! [`splice`] and [`splice_both`] add limits, causes and the count of each engine.
//!
//! Dropping a future ends its splice by force: bytes that it had taken and not yet
//! given are lost, as with tokio's own copy. Await the end where that matters.
//!
//! splice(2) raises SIGPIPE on a drain that is closed; Rust programs ignore that signal
//! unless they were told otherwise.

mod ends;
mod socket;

pub use socket::{Failed, Registered, Socket};

use crate::duplex::{BothEnds, Direction, Duplex, DuplexThen, OnMax};
use crate::end::{Carried, Cause, End};
use crate::lane::Lane;
use crate::mover::{Limits, Need, STEP_BUDGET_BYTES, Then};
use crate::store::Store;
use crate::sys;
use ends::{End as SocketEnd, TokioEnds};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Replaces the pipes and buffers of the calling thread's tasks, for a program that has
/// a budget of descriptors. Bytes in flight are not touched.
pub fn set_thread_store(store: Store) {
    STORE.set(store);
}

thread_local! {
    /// The pipes and buffers of this thread's tasks. A task that moves to another
    /// thread between two polls takes only what holds its own bytes with it.
    static STORE: RefCell<Store> = RefCell::new(Store::default());
}

/// Moves bytes from `source` to `drain` until a limit, the end of the source, or an
/// error. The drain is not shut down, as with the socket option: see sosplice(9). Both are
/// streams, or both UDP sockets, the drain connected.
///
/// # Errors
/// Only of the set-up ([`Error`](crate::Error), or a descriptor that is not open); what
/// ends a running splice is the cause in [`End`].
pub async fn splice<S, D>(source: &S, drain: &D, limits: Limits) -> io::Result<End>
where
    S: Socket + ?Sized,
    D: Socket + ?Sized,
{
    let (mut source, mut drain) =
        (SocketEnd::new(source, "source")?, SocketEnd::new(drain, "drain")?);
    let mut lane = Lane::new(limits, source.endpoint("source"), drain.endpoint("drain"), now())?;
    if lane.takes_joined() {
        source.join();
    }
    let messages = lane.keeps_messages();
    let mut timer = Timer::default();
    poll_fn(|cx| {
        loop {
            let mut ends = TokioEnds::one_way(&mut source, &mut drain);
            let step = STORE
                .with_borrow_mut(|store| lane.step(&mut ends, store, now(), STEP_BUDGET_BYTES));
            let need = match step.then {
                Then::End(_) => return Poll::Ready(()),
                Then::Wait(need) => need,
            };
            let met = ends.poll_need(need, cx);
            if (messages || need == Need::Drain)
                && let Some(error) = source.poll_failure(cx)
            {
                lane.end_now(Cause::SourceError(error));
                return Poll::Ready(());
            }
            if messages && let Some(error) = drain.poll_failure(cx) {
                lane.end_now(Cause::DrainError(error));
                return Poll::Ready(());
            }
            let due = timer.poll(lane.deadline(), cx);
            if !met && !due {
                return Poll::Pending;
            }
        }
    })
    .await;
    let mut end = lane.into_end();
    source.part(&mut end);
    Ok(end)
}

/// Joins two sockets both ways, and carries the half-close of each to the other; done
/// when both directions are. `max` bounds each direction, `idle` the pair: it ends when
/// nothing moved either way for so long.
///
/// # Errors
/// Only of the set-up; what ended each direction is in [`BothEnds`].
pub async fn splice_both<A, B>(a: &A, b: &B, limits: Limits) -> io::Result<BothEnds>
where
    A: Socket + ?Sized,
    B: Socket + ?Sized,
{
    let mut both = Both::new(a, b, limits, OnMax::EndDirection)?;
    poll_fn(|cx| both.poll_done(cx)).await;
    Ok(both.into_ends())
}

/// Copies both ways until both sides have sent their end of file, which only streams do:
/// a drop-in for `tokio::io::copy_bidirectional` where both ends are sockets. Returns the bytes from
/// `a` to `b` and from `b` to `a`.
///
/// # Errors
/// The first error of either direction, as tokio's own reports it. A side that stops
/// reading (EPIPE) is one.
pub async fn copy_bidirectional<A, B>(a: &mut A, b: &mut B) -> io::Result<(u64, u64)>
where
    A: Socket + ?Sized,
    B: Socket + ?Sized,
{
    let ends = splice_both(&*a, &*b, Limits::default()).await?;
    for cause in [ends.a_to_b.cause, ends.b_to_a.cause] {
        if let Some(error) = cause.os_error() {
            return Err(error.io());
        }
    }
    Ok((ends.a_to_b.bytes, ends.b_to_a.bytes))
}

/// Two joined sockets as a value that a task polls: what [`splice_both`] awaits, for
/// callers that want the counts meanwhile.
pub struct Both<'s, A: Socket + ?Sized, B: Socket + ?Sized> {
    a: SocketEnd<'s, A>,
    b: SocketEnd<'s, B>,
    duplex: Duplex,
    timer: Timer,
    withhold_last_fin: bool,
}

impl<'s, A: Socket + ?Sized, B: Socket + ?Sized> Both<'s, A, B> {
    /// Joins `a` and `b`; nothing moves before the first poll.
    ///
    /// # Errors
    /// Those of the set-up ([`Error`](crate::Error)), or a descriptor that is not open.
    pub fn new(a: &'s A, b: &'s B, limits: Limits, on_max: OnMax) -> io::Result<Self> {
        let (first, second, now) = ("first socket", "second socket", now());
        let (mut a, mut b) = (SocketEnd::new(a, first)?, SocketEnd::new(b, second)?);
        let duplex = Duplex::between(limits, on_max, a.endpoint(first), b.endpoint(second), now)?;
        let (a_joins, b_joins) = duplex.takes_joined();
        if a_joins {
            a.join();
        }
        if b_joins {
            b.join();
        }
        Ok(Self { a, b, duplex, timer: Timer::default(), withhold_last_fin: false })
    }

    /// Leaves out the second FIN: for a caller that closes both sockets at the end,
    /// which sends it as well and saves a system call.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.withhold_last_fin = true;
        self
    }

    /// Ends the pair with [`Cause::Idle`] when one direction has ended and nothing has moved in
    /// the other for so long, whatever the idle limit. None, as it is made, for no such limit.
    #[must_use]
    pub fn half_closed(mut self, limit: Option<Duration>) -> Self {
        self.duplex.set_half_closed(limit);
        self
    }

    /// Moves what can be moved; ready when both directions have ended.
    pub fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let withhold_last_fin = self.withhold_last_fin;
            let (a, b) = (self.a.socket, self.b.socket);
            let fin = |direction, last| {
                if last && withhold_last_fin {
                    return;
                }
                // The peer may be gone already (ENOTCONN), and then knows.
                let _ = match direction {
                    Direction::AToB => sys::shutdown_write(b.as_fd()),
                    Direction::BToA => sys::shutdown_write(a.as_fd()),
                };
            };
            let (mut there, mut back) = TokioEnds::both_ways(&mut self.a, &mut self.b);
            let then = STORE.with_borrow_mut(|store| {
                self.duplex.step(&mut there, &mut back, store, now(), STEP_BUDGET_BYTES, fin)
            });
            let DuplexThen::Wait { a_to_b, b_to_a } = then else {
                return Poll::Ready(());
            };
            let mut again = false;
            if let Some(need) = a_to_b {
                again |= there.poll_need(need, cx);
            }
            if let Some(need) = b_to_a {
                again |= back.poll_need(need, cx);
            }
            let messages = self.duplex.keeps_messages();
            if (messages || a_to_b == Some(Need::Drain))
                && let Some(error) = self.a.poll_failure(cx)
            {
                self.duplex.source_failed(Direction::AToB, error);
                return Poll::Ready(());
            }
            if (messages || b_to_a == Some(Need::Drain))
                && let Some(error) = self.b.poll_failure(cx)
            {
                self.duplex.source_failed(Direction::BToA, error);
                return Poll::Ready(());
            }
            again |= self.timer.poll(self.duplex.deadline(), cx);
            if !again {
                return Poll::Pending;
            }
        }
    }

    /// Bytes carried so far, from `a` to `b` and from `b` to `a`.
    #[must_use]
    pub fn carried(&self) -> (Carried, Carried) {
        self.duplex.carried()
    }

    /// Takes no more from either socket; what is held is still given, then it is done.
    pub fn unsplice(&mut self) {
        self.duplex.unsplice();
    }

    /// How both directions ended; one that had not is [`Cause::Unspliced`].
    #[must_use]
    pub fn into_ends(self) -> BothEnds {
        let Self { mut a, mut b, duplex, .. } = self;
        let mut ends = duplex.into_ends();
        a.part(&mut ends.a_to_b);
        b.part(&mut ends.b_to_a);
        ends
    }
}

/// The idle limit's timer: made when first needed, and moved only when it fires, so
/// that a busy flow does not touch the wheel for every read.
#[derive(Default)]
struct Timer(Option<Pin<Box<::tokio::time::Sleep>>>);

impl Timer {
    /// True when `deadline` has passed.
    fn poll(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = deadline else { return false };
        let sleep =
            self.0.get_or_insert_with(|| Box::pin(::tokio::time::sleep_until(deadline.into())));
        while sleep.as_mut().poll(cx).is_ready() {
            if now() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline.into());
        }
        false
    }
}

/// The runtime's clock, so that a paused one (tokio's `test-util`) rules the limits too.
fn now() -> Instant {
    ::tokio::time::Instant::now().into_std()
}
