//! How a case is run: over plain TCP, or with the library and a rendezvous.

use crate::arrangement::Arrangement;
use crate::{library, rendezvous};
use std::path::PathBuf;
use std::process::Command;

/// What a case's processes are given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Nothing: the oracle.
    Plain,
    /// The library, and nobody to meet.
    Quiet,
    /// The ring, spinning for so many microseconds, with rings of so many KiB.
    Ring { busy: u32, kib: u32 },
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
const LOCAL: &str = "SOSPLICE_LOCAL";

impl Setting {
    pub fn new(ring: bool) -> Self {
        let rendezvous = if ring { rendezvous::start() } else { None };
        Self { library: library::path(), rendezvous }
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
        for name in ["LD_PRELOAD", LOCAL, EXPECTED, ONE_SIDED] {
            command.env_remove(name);
        }
        // What failed is enough; of two ends it would be twice a page.
        command.env("RUST_BACKTRACE", "0");
        let dir = || self.rendezvous.as_ref().unwrap().dir().display();
        match mode {
            Plain => {}
            Quiet => drop(command.env("LD_PRELOAD", &self.library)),
            Ring { busy, kib } => {
                let local = format!("dir={};busy={busy};ring={kib};after=0", dir());
                command.env("LD_PRELOAD", &self.library).env(LOCAL, local).env(EXPECTED, "ring");
            }
            OneSided => {
                let local = format!("dir={};busy=0;ring={USUAL};after=0", dir());
                command.env(ONE_SIDED, &self.library).env(LOCAL, local);
            }
        }
    }
}
