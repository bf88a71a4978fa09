//! What the library costs, in counts: instructions of a program that never uses the option
//! (valgrind's callgrind), and system calls of a close (strace). Needs cc, valgrind and strace,
//! and a release build of the library.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "rows/needs.rs"]
mod needs;

use needs::has;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The instructions of a loop of write, poll and read.
fn instructions(program: &Path, rounds: &str, preload: Option<&Path>) -> u64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(program).arg(rounds);
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    let output = command.output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    let line = text.lines().find(|line| line.contains("Collected :")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn release_library() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "sosplice-abi", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .status()
        .unwrap();
    assert!(built.success());
    target.join("release/libsosplice.so")
}

fn compile(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-I"]).arg(manifest.join("include"));
    cc.arg(manifest.join(format!("tests/c/{name}.c"))).arg("-o").arg(&program);
    assert!(cc.status().unwrap().success());
    program
}

/// A socket that only this process can have is not searched for among its relatives' descriptors.
#[test]
fn a_close_beside_many_descriptors_does_not_look_at_them() {
    const DESCRIPTORS: usize = 500;
    if !has("cc") || !has("strace") {
        return;
    }
    let program = compile("closes");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=readlinkat", "-e", "signal=none", "-E"]);
    strace.arg(format!("LD_PRELOAD={}", release_library().display()));
    let output = strace.arg(program).args(["40", &DESCRIPTORS.to_string()]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let looked = text.lines().filter(|line| line.contains("readlinkat(")).count();
    println!("{looked} descriptors looked at");
    // Those of the first round were there before the option was used, and who is left at the end
    // is looked for.
    assert!(looked < 6 * DESCRIPTORS, "{looked}");
}

#[test]
fn a_program_that_never_uses_the_option_does_not_pay() {
    if !has("cc") || !has("valgrind") {
        return;
    }
    let program = compile("quiet");
    let library = release_library();
    // The difference of two lengths is the loop alone, without the start.
    let a_loop = |preload| {
        instructions(&program, "20000", preload) - instructions(&program, "10000", preload)
    };
    let (without, with) = (a_loop(None), a_loop(Some(&library)));
    println!("10,000 rounds: {without} instructions without, {with} with the library");
    assert!(with * 100 <= without * 101, "{with} instructions, without the library {without}");
}
