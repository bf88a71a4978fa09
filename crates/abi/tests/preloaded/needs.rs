//! What a test needs and may not find.

use std::process::{Command, Stdio};

/// A program that is not there is a skip, and in CI a failure.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        assert!(std::env::var_os("SOSPLICE_NO_SKIP").is_none(), "{program} is missing");
        eprintln!("skipped: no {program}");
    }
    found
}
