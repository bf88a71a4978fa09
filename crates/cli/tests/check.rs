//! `sosplice check`: what it says, where, and its exit codes.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_sosplice");

/// A directory of the test's own, with a file in it.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str, text: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sosplice-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("a.toml"), text).unwrap();
        Self(folder)
    }

    fn check(&self, args: &[&str]) -> Output {
        Command::new(BINARY).arg("check").args(args).current_dir(&self.0).output().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

const RIGHT: &str = "[[relay]]
name = \"a\"
listen = \"127.0.0.1:80\"
upstream = \"u\"

[[upstream]]
name = \"u\"
servers = [\"10.0.0.5:80\", \"10.0.0.6:80\"]
";

#[test]
fn a_file_that_is_right_gets_a_line() {
    let output = Folder::new("check-right", RIGHT).check(&["-c", "a.toml"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(output.stdout), "a.toml: 1 relay, 1 upstream: fine\n");
    assert_eq!(text(output.stderr), "");
}

#[test]
fn a_file_that_is_wrong_gets_a_line_for_each_problem() {
    let wrong = RIGHT.replace("upstream = \"u\"", "upstream = \"v\"\nengin = 1");
    let output = Folder::new("check-wrong", &wrong).check(&["-c", "a.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(output.stdout), "");
    let expected = "a.toml:4:12: relay \"a\" . upstream: no upstream \"v\"; did you mean u?\n\
                    a.toml:5:1: relay \"a\" . engin: no such key; did you mean engine?\n";
    assert_eq!(text(output.stderr), expected);
}

#[test]
fn what_is_printed_is_a_file_that_is_right() {
    let folder = Folder::new("check-print", RIGHT);
    let output = folder.check(&["-c", "a.toml", "--print"]);
    assert_eq!(output.status.code(), Some(0));
    let printed = text(output.stdout);
    assert!(printed.contains("drain-timeout = \"30s\"\n"), "{printed}");
    std::fs::write(folder.0.join("b.toml"), &printed).unwrap();
    let again = folder.check(&["-c", "b.toml", "--print"]);
    assert_eq!(text(again.stdout), printed);
}

#[test]
fn a_file_that_is_not_there_and_flags_that_are_not_are_told_apart() {
    let folder = Folder::new("check-usage", RIGHT);
    let missing = folder.check(&["-c", "b.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(missing.stderr).starts_with("b.toml: cannot be read: "));
    for args in [&[][..], &["-c"], &["a.toml"], &["-c", "a.toml", "--prnt"]] {
        assert_eq!(folder.check(args).status.code(), Some(2), "{args:?}");
    }
}
