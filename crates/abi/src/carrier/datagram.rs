//! Datagrams: looked at, sent, and only then taken, so that nothing is held, and what the
//! drain refuses, or the maximum leaves over, is on the source with its sender's address.
//!
//! In a burst many are looked at in one call, leave together as the library plans it (equal
//! ones as one message that the kernel cuts, the rest beside them in one call), and are
//! taken in one call. It keeps boundaries, and drops addresses and control data.
//!
//! What it does not do is tell the kernel to join datagrams on the source (UDP_GRO), as the
//! library's own splice does. The joined ones that wait at the end would have to be taken
//! off the source, so that the program does not read them as one, and their senders'
//! addresses would be lost. Where the program has told the kernel so itself, they are cut
//! again.

use super::port::Port;
use rustix::io::Errno;
use rustix::net::SendFlags;
use sosplice::datagram::{Ability, Batch, Message, Plan, Position};
use sosplice::sys;
use std::io;

/// Messages before the next flow has its turn, about.
const BUDGET: usize = 128;

/// Messages of one look. The kernel walks to each from the head of the queue, so a longer
/// look costs more for each.
const LOOK_MAX: usize = 32;

/// Messages found one by one, back to back, that are a burst.
const BURST: u8 = 2;

/// Every send buffer takes so many bytes, however small the program made it
/// (include/net/sock.h, SOCK_MIN_SNDBUF).
const ALWAYS_FITS: usize = 2048;

/// Where the datagrams of whichever splice is stepped are looked at. Made when there are
/// some.
#[derive(Default)]
pub struct Desk {
    batch: Option<Box<Batch>>,
    plan: Plan,
}

pub struct Datagrams {
    /// Bytes that may still be moved; None for no limit.
    left: Option<u64>,
    pub moved: u64,
    ability: Ability,
    /// How much of the next message is out, where that is several joined ones and the drain
    /// took but some.
    begun: Position,
    /// Looks in a row that found something; from [`BURST`] on it is looked for many.
    finds: u8,
}

/// How a step left the splice.
pub enum Then {
    WaitSource,
    WaitDrain,
    Turn,
    /// Exactly the maximum has gone.
    Max,
    /// The next datagram goes beyond the maximum, or the source was shut down.
    Over,
    SourceError(Errno),
    DrainError(Errno),
    /// The datagram is larger than the drain's send buffer.
    TooLong,
}

impl Datagrams {
    pub fn new(max: u64) -> Self {
        Self {
            left: (max != 0).then_some(max),
            moved: 0,
            ability: Ability::ALL,
            begun: Position::default(),
            finds: 0,
        }
    }

    pub fn step(&mut self, source: &Port, drain: &Port, desk: &mut Desk) -> Then {
        let Desk { batch, plan } = desk;
        let batch = batch.get_or_insert_default();
        let mut count = 0;
        // A look for many that found fewer passes over what only a look for one finds.
        let mut confirms = false;
        while count < BUDGET {
            if !source.ready().read {
                return Then::WaitSource;
            }
            let max = if confirms || self.finds < BURST { 1 } else { LOOK_MAX };
            if let Err(errno) = sys::look(source, batch, max) {
                return Then::SourceError(errno);
            }
            let found = batch.messages().len();
            count += found;
            if !confirms {
                let goes_on = found > usize::from(max > 1);
                self.finds = if goes_on { self.finds.saturating_add(1) } else { 0 };
            }
            confirms = max > 1 && found < max;
            if found > 0 {
                if let Err(then) = self.pass_on(source, drain, batch, plan) {
                    return then;
                }
            } else if max == 1 {
                if source.ready().hung_up && sys::is_over(source) {
                    return Then::Over;
                }
                source.set_read(false);
            }
        }
        Then::Turn
    }

    /// Sends what was looked at and takes it off the source: all of it, or as much as an
    /// obstacle lets by.
    fn pass_on(
        &mut self,
        source: &Port,
        drain: &Port,
        batch: &Batch,
        plan: &mut Plan,
    ) -> Result<(), Then> {
        let (fitting, obstacle) = self.fitting(drain, batch.messages());
        let sent = self.send(drain, batch, fitting, plan);
        let whole = &batch.messages()[..self.begun.whole()];
        self.begun = self.begun.without_whole();
        let bytes: u64 = whole.iter().map(|message| message.bytes() as u64).sum();
        self.left = self.left.map(|left| left.saturating_sub(bytes));
        let (passed_over, taken) = take(source, whole);
        for _ in 0..passed_over {
            // Lost if the drain is full, which datagrams are at times.
            let _ = rustix::net::send(drain, &[], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        sent?;
        if self.left == Some(0) && self.moved > 0 {
            return Err(Then::Max);
        }
        taken.map_err(Then::SourceError)?;
        obstacle.map_or(Ok(()), Err)
    }

    /// How many of the messages may go, and what the next one meets.
    fn fitting(&self, drain: &Port, messages: &[Message]) -> (usize, Option<Then>) {
        let mut left = self.left;
        // Asked for the first that needs it: the program may change it at any time.
        let mut longest = None;
        for (index, message) in messages.iter().enumerate() {
            if left.is_some_and(|left| message.bytes() as u64 > left) {
                return (index, Some(Then::Over));
            }
            left = left.map(|left| left - message.bytes() as u64);
            let ask = || sys::send_buffer(drain).unwrap_or(usize::MAX);
            if message.longest() > ALWAYS_FITS
                && message.longest() > *longest.get_or_insert_with(ask)
            {
                return (index, Some(Then::TooLong));
            }
            if left == Some(0) {
                return (index + 1, None);
            }
        }
        (messages.len(), None)
    }

    /// Sends the first messages; how far it came is in `begun`.
    fn send(
        &mut self,
        drain: &Port,
        batch: &Batch,
        count: usize,
        plan: &mut Plan,
    ) -> Result<(), Then> {
        loop {
            plan.fill(&batch.messages()[..count], self.begun, self.ability);
            if plan.is_empty() {
                return Ok(());
            }
            let error = match plan.send(drain, batch, None) {
                Ok(0) => return Err(full(drain)),
                Ok(groups) => {
                    self.moved += plan.carried(groups).total();
                    self.begun = plan.behind(groups);
                    continue;
                }
                Err(error) => error,
            };
            if !self.ability.lower(&error, plan) {
                return Err(failed(drain, &error));
            }
        }
    }
}

fn full(drain: &Port) -> Then {
    drain.set_write(drain.wants_room());
    if drain.ready().write { Then::Turn } else { Then::WaitDrain }
}

fn failed(drain: &Port, error: &io::Error) -> Then {
    match Errno::from_io_error(error) {
        Some(Errno::NOBUFS) => full(drain),
        Some(Errno::MSGSIZE) => Then::TooLong,
        errno => Then::DrainError(errno.unwrap_or(Errno::IO)),
    }
}

/// Takes these messages off the source. Empty ones that were passed over by the look, since
/// the program had looked at them before, are taken with them: how many.
fn take(source: &Port, messages: &[Message]) -> (usize, Result<(), Errno>) {
    let mut passed_over = 0;
    let mut result = Ok(());
    let mut waiting = messages.iter().map(|message| message.bytes()).peekable();
    let mut lens = [0; LOOK_MAX];
    while waiting.peek().is_some() {
        let count = waiting.len().min(LOOK_MAX);
        match sys::discard(source, &mut lens[..count]) {
            // Somebody else has read them.
            Ok(0) => break,
            Ok(taken) => {
                for len in &lens[..taken] {
                    if *len == 0 && waiting.peek().is_some_and(|waiting| *waiting != 0) {
                        passed_over += 1;
                    } else {
                        waiting.next();
                    }
                }
            }
            // Told once: the messages are still there.
            Err(errno) if result.is_ok() => result = Err(errno),
            Err(_) => break,
        }
    }
    (passed_over, result)
}
