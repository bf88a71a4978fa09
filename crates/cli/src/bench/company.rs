//! Other programs on the machine: a run waits until they are quiet, and is made again if they
//! were not.

use std::cell::Cell;
use std::time::Duration;

use super::child::Child;
use super::netns::progress;
use super::{Error, cpu};

/// How long the machine is looked at before a run, and how often at most.
const QUIET_WINDOW: Duration = Duration::from_millis(150);
const QUIET_LOOKS_MAX: u32 = 20;

/// Busy ms in that window above which somebody else is at work: more than a
/// tick on each of two processors, so more than the clock's own grain.
const QUIET_BUSY_MS: f64 = 20.0;

/// Share of one processor that others may take during a run. Even little
/// company changes what one connection sees: a processor that never sleeps is
/// never woken, and request/response looks several times faster.
const FOREIGN_SHARE_MAX: f64 = 0.05;

/// How often a run is tried that other programs disturb; the last one counts.
const TRIES: u32 = 3;

/// The runs that counted, and those during which other programs used the machine.
#[derive(Default)]
pub struct Company {
    runs: Cell<u32>,
    disturbed: Cell<u32>,
}

impl Company {
    /// Makes a run, which says what share of a processor others took: again if
    /// that was too much, but not for ever.
    pub fn alone<Found>(
        &self,
        name: &str,
        mut run: impl FnMut() -> Result<(Found, f64), Error>,
    ) -> Result<Found, Error> {
        let mut tries = 1;
        loop {
            let (found, foreign) = run()?;
            let disturbed = foreign > FOREIGN_SHARE_MAX;
            if !disturbed || tries == TRIES {
                self.runs.set(self.runs.get() + 1);
                self.disturbed.set(self.disturbed.get() + u32::from(disturbed));
                return Ok(found);
            }
            tries += 1;
            let share = foreign * 100.0;
            progress(&format!("{name} again: other programs took {share:.0} % of a processor"));
        }
    }

    /// What to say about the company that was kept, if any.
    pub fn disturbance(&self) -> Option<String> {
        let (disturbed, runs) = (self.disturbed.get(), self.runs.get());
        (disturbed > 0).then(|| {
            format!(
                "during {disturbed} of {runs} runs other programs took over {:.0} % of a processor, \
                 {TRIES} times running: run it again alone",
                FOREIGN_SHARE_MAX * 100.0
            )
        })
    }
}

/// Waits, but not for ever, until nothing but what is measured uses the
/// machine: start-up work, the end of the last run's connections, or
/// somebody's compiler. What the child uses (it may spin) does not count.
pub fn settle(measured: Option<&Child>) {
    let own = || measured.map_or(0.0, |child| cpu::group_cpu_ms(child.pid()));
    let foreign = || cpu::system_cpu_ms() - own();
    for _ in 0..QUIET_LOOKS_MAX {
        let before = foreign();
        std::thread::sleep(QUIET_WINDOW);
        if foreign() - before <= QUIET_BUSY_MS {
            return;
        }
    }
}
