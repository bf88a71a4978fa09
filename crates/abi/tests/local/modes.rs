//! How a case is run: over plain TCP, or with the library and a rendezvous.

use crate::arrangement::Arrangement;
use crate::{library, rendezvous};
use sosplice_local::settings::{Settings, VARIABLE};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// What a case's processes are given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Nothing: the oracle.
    Plain,
    /// The library, and nobody to meet.
    Quiet,
    /// The ring, spinning for so many microseconds, with rings of so many KiB.
    Ring { busy: u64, kib: u32 },
    /// One end only has the library: it stays on TCP.
    OneSided,
}

use Mode::{OneSided, Plain, Quiet, Ring};

/// Small enough that every larger message overflows.
const SMALL: u32 = 4;
const USUAL: u32 = 64;

/// What all runs share.
pub struct Setting {
    library: PathBuf,
    /// None: the ring is left out.
    rendezvous: Option<rendezvous::Running>,
}

/// Tells the ends of a case what is expected of their connection.
pub const EXPECTED: &str = "SOSPLICE_TEST_EXPECTED";
/// The library for the one end that has it.
pub const ONE_SIDED: &str = "SOSPLICE_TEST_ONE_SIDED";

impl Setting {
    pub fn new(ring: bool) -> Self {
        Self { library: library::path(), rendezvous: ring.then(rendezvous::start) }
    }

    /// Everything but the oracle's own run.
    pub fn runs(&self, arrangements: &'static [Arrangement]) -> Vec<(Mode, Arrangement)> {
        let first = arrangements[0];
        let mut runs: Vec<_> = arrangements[1..].iter().map(|other| (Plain, *other)).collect();
        runs.push((Quiet, first));
        if self.rendezvous.is_none() {
            return runs;
        }
        for mode in [
            Ring { busy: 0, kib: USUAL },
            Ring { busy: 50, kib: USUAL },
            Ring { busy: 0, kib: SMALL },
            Ring { busy: 50, kib: SMALL },
        ] {
            runs.push((mode, first));
        }
        for other in &arrangements[1..] {
            runs.push((Ring { busy: 0, kib: USUAL }, *other));
            runs.push((Ring { busy: 50, kib: SMALL }, *other));
        }
        if arrangements.contains(&Arrangement::Apart) {
            runs.push((OneSided, Arrangement::Apart));
        }
        runs
    }

    /// The environment of a run.
    pub fn prepare(&self, command: &mut Command, mode: Mode) {
        for name in ["LD_PRELOAD", VARIABLE, EXPECTED, ONE_SIDED] {
            command.env_remove(name);
        }
        // What failed is enough; of two ends it would be twice a page.
        command.env("RUST_BACKTRACE", "0");
        let local = |busy, kib: u32| {
            let mut settings = Settings::new(self.rendezvous.as_ref().unwrap().dir());
            settings.busy_poll = Duration::from_micros(busy);
            settings.ring_bytes = kib as usize * 1024;
            settings.after = 0;
            settings.to_env()
        };
        match mode {
            Plain => {}
            Quiet => drop(command.env("LD_PRELOAD", &self.library)),
            Ring { busy, kib } => {
                command
                    .env("LD_PRELOAD", &self.library)
                    .env(VARIABLE, local(busy, kib))
                    .env(EXPECTED, "ring");
            }
            OneSided => {
                command.env(ONE_SIDED, &self.library).env(VARIABLE, local(0, USUAL));
            }
        }
    }
}
