//! Fewer wake-ups for a flow in bulk: the kernel is told (SO_RCVLOWAT) to collect some
//! bytes before it reports the source readable.
//!
//! Bulk is a state that a flow is in now, never a reward for its total: it begins when
//! much has come one way, back to back and unanswered, and ends at the first pause. A
//! pause is found by a guard timer, so bytes can wait below the mark for [`GUARD`] once;
//! each time that happens the flow must show four times as much before it is believed
//! again, so what the mark can cost stays a small part of what the flow has moved.

use super::{Ends, is_due};
use std::time::{Duration, Instant};

/// The mark, in bytes. Larger ones left the sender idle in trials.
pub const LOW_WATER_BYTES: u32 = 256 * 1024;

/// A source that is silent for so long has paused.
pub(super) const GUARD: Duration = Duration::from_millis(3);

/// Bytes back to back that are bulk, at first and at most.
pub(super) const STREAK_BYTES_FIRST: u64 = if cfg!(test) { 256 << 10 } else { 4 << 20 };
const STREAK_BYTES_MAX: u64 = 1 << 30;
/// Behind so many the largest streak is asked for.
const FOOLED_MAX: u8 = 8;

#[derive(Clone, Copy, Debug)]
pub(super) struct Bulk {
    state: State,
    /// Pauses found below the mark; each makes the flow harder to believe.
    fooled: u8,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// So many bytes came back to back.
    Watching { streak: u64 },
    /// The mark is set.
    Marked,
    /// The mark is to be taken away at the next step.
    Interrupted,
    /// The source knows no mark.
    Never,
}

impl Bulk {
    pub(super) fn new() -> Self {
        Self { state: State::Watching { streak: 0 }, fooled: 0 }
    }

    /// The streak that is believed.
    fn needed(&self) -> u64 {
        STREAK_BYTES_FIRST.saturating_mul(1 << (2 * self.fooled)).min(STREAK_BYTES_MAX)
    }

    /// When a marked source must be looked at, if it last moved then.
    pub(super) fn guard(&self, last: Instant) -> Option<Instant> {
        match self.state {
            State::Watching { .. } | State::Never => None,
            State::Marked => last.checked_add(GUARD),
            State::Interrupted => Some(last),
        }
    }

    /// Before a step that would read: takes the mark away after a pause. The kernel then
    /// reports what lies below it.
    pub(super) fn before(&mut self, ends: &mut impl Ends, last: Instant, now: Instant) {
        if is_due(self.guard(last), now) {
            if matches!(self.state, State::Marked) {
                self.fooled = (self.fooled + 1).min(FOOLED_MAX);
            }
            self.unmark(ends);
        }
    }

    /// After a step that goes on: `waits` for the source, `piping` if the next bytes would
    /// go through the pipe and a mark makes sense, and how long nothing had moved before.
    pub(super) fn after(
        &mut self,
        ends: &mut impl Ends,
        moved: u64,
        waits: bool,
        piping: bool,
        silence: Duration,
    ) {
        match &mut self.state {
            State::Watching { streak } => {
                *streak = if silence >= GUARD || !piping { 0 } else { *streak + moved };
                if waits && *streak >= self.needed() {
                    self.state = match ends.low_water(Some(LOW_WATER_BYTES)) {
                        Ok(()) => State::Marked,
                        Err(_) => State::Never,
                    }
                }
            }
            State::Marked if !piping => self.unmark(ends),
            State::Marked | State::Interrupted | State::Never => {}
        }
    }

    /// The other direction has moved.
    pub(super) fn interrupt(&mut self) {
        match &mut self.state {
            State::Watching { streak } => *streak = 0,
            State::Marked => self.state = State::Interrupted,
            State::Interrupted | State::Never => {}
        }
    }

    fn unmark(&mut self, ends: &mut impl Ends) {
        self.state = State::Watching { streak: 0 };
        // A source that took the mark takes this too; a dead one needs neither.
        let _ = ends.low_water(None);
    }
}
