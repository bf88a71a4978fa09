//! Where the built library is.

use std::path::PathBuf;
use std::process::Command;

/// Beside the test's own binary: `target/PROFILE/libsosplice.so`. Cargo does not build a
/// cdylib for the sake of a test, so it is asked to.
pub fn path() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let profile = exe.parent().unwrap().parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "sosplice-abi"]);
    build.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    build.arg("--target-dir").arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the library does not build");
    let library = profile.join("libsosplice.so");
    assert!(library.exists(), "{} is missing", library.display());
    library
}
