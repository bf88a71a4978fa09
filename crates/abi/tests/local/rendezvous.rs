//! The broker that the cases' processes meet at, and what its status says.

use libc::c_int;
use std::path::{Path, PathBuf};

/// A broker, for as long as this is kept.
pub struct Running {
    dir: PathBuf,
}

/// None while there is nothing to run.
pub fn start() -> Option<Running> {
    eprintln!("skipped: the ring, there is no broker yet");
    None
}

impl Running {
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Whether the connection is paired and bytes have gone through the ring both ways.
pub fn both_ways(_fd: c_int) -> bool {
    false
}

/// Why connections stayed on TCP, for whoever reads the failure.
pub fn why() -> String {
    String::new()
}
