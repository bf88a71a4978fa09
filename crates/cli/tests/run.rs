//! `sosplice run --so-splice`: where the library is looked for, and what the program gets.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_sosplice");

/// The command in a directory of its own, `bin` or `lib` as the case has it.
fn installed(name: &str) -> (PathBuf, PathBuf) {
    let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&prefix);
    for dir in ["bin", "lib"] {
        std::fs::create_dir_all(prefix.join(dir)).unwrap();
    }
    let command = prefix.join("bin/sosplice");
    // Not a copy: a child of another test, born while it is written, would keep it busy.
    std::fs::hard_link(BINARY, &command).unwrap();
    (prefix, command)
}

fn run(command: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(command);
    command.arg("run").args(args).env_remove("SOSPLICE_LIBRARY").env_remove("LD_PRELOAD");
    command.env_remove("SOSPLICE_PERSONALITY").envs(env.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// An empty file does: the loader warns, and the program shows its environment.
const SHOW: &str = "echo $LD_PRELOAD $SOSPLICE_PERSONALITY";

#[test]
fn a_library_that_is_missing_is_named_with_what_to_do() {
    let (_, command) = installed("missing");
    let output = run(&command, &["--so-splice", "--", "true"], &[]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("libsosplice.so") && said.contains("SOSPLICE_LIBRARY"), "{said}");
    let output =
        run(&command, &["--so-splice", "--", "true"], &[("SOSPLICE_LIBRARY", "/nowhere.so")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/nowhere.so"));
}

#[test]
fn the_library_is_found_in_lib_beside_it_and_by_name() {
    let (prefix, command) = installed("found");
    let show = ["--so-splice", "--", "/bin/sh", "-c", SHOW];
    let named = prefix.join("named.so");
    std::fs::write(&named, "").unwrap();
    for place in ["lib/libsosplice.so", "bin/libsosplice.so"] {
        std::fs::write(prefix.join(place), "").unwrap();
        let expected = prefix.join(place).canonicalize().unwrap();
        assert_eq!(text(&run(&command, &show, &[]).stdout), expected.to_str().unwrap());
    }
    let env = [("SOSPLICE_LIBRARY", named.to_str().unwrap()), ("LD_PRELOAD", "/before.so")];
    let expected = format!("{}:/before.so", named.canonicalize().unwrap().display());
    assert_eq!(text(&run(&command, &show, &env).stdout), expected);
    let freebsd = ["--so-splice", "--personality", "freebsd", "--", "/bin/sh", "-c", SHOW];
    assert!(text(&run(&command, &freebsd, &env).stdout).ends_with(" freebsd"));
}

#[test]
fn the_programs_exit_is_the_commands() {
    let (prefix, command) = installed("exit");
    std::fs::write(prefix.join("lib/libsosplice.so"), "").unwrap();
    let code = |args: &[&str]| run(&command, args, &[]).status.code();
    assert_eq!(code(&["--so-splice", "--", "/bin/sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["--so-splice", "--", "/no/such/program"]), Some(127));
    assert_eq!(code(&["--so-splice", "--", "/dev/null"]), Some(126));
    // Nothing to run, and flags of the other way to run it.
    assert_eq!(code(&["--so-splice"]), Some(2));
    for flag in [
        "--busy-poll-us=1",
        "--ring-kbytes=64",
        "--ports=80",
        "--loopback-only",
        "--rendezvous=/nowhere",
        "--pair-after=1",
        "--allow-io-uring",
    ] {
        assert_eq!(code(&["--so-splice", flag, "--", "true"]), Some(2), "{flag}");
    }
    assert_eq!(code(&["--personality", "freebsd", "--", "true"]), Some(2));
}
