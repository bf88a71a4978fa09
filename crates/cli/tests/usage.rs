//! What a user's mistake gets: one line that names the culprit, and an exit code that
//! says whose it is (2 usage, 1 run time). Never the text of a panic.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::Read;
use std::process::{Command, Output, Stdio};
use support::peers::{addr, listener};
use support::{BINARY, datagrams, wait_for_exit};

/// Runs the command to its end. It says little, so the pipes do not fill meanwhile.
fn run(args: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let status = wait_for_exit(&mut child);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.unwrap().read_to_end(&mut stdout).unwrap();
    child.stderr.unwrap().read_to_end(&mut stderr).unwrap();
    Output { status, stdout, stderr }
}

#[track_caller]
fn fails(args: &[&str], code: i32, culprit: &str) {
    let output = run(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?}: an error belongs to stderr");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: one line, not\n{stderr}");
    assert!(stderr.ends_with('\n'), "{args:?}: {stderr:?}");
    assert!(stderr.contains(culprit), "{args:?}: {culprit:?} is not named in {stderr}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
}

#[test]
fn a_bad_listening_address_is_named() {
    for bad in [
        "nonsense",
        "127.0.0.1",
        "127.0.0.1:99999",
        "127.0.0.1:http",
        "::1:80",
        ":70000",
        "[::1]",
        "localhost:80:80",
        "::",
        ":",
    ] {
        fails(&["relay", bad, "127.0.0.1:1"], 2, bad);
    }
    fails(&["relay", "", "127.0.0.1:1"], 2, "LISTEN");
}

#[test]
fn a_bad_target_is_named() {
    for bad in [
        "nonsense",
        "127.0.0.1",
        "127.0.0.1:99999",
        "host:http",
        ":80",
        "::1:80",
        "a host:80",
        "[::1]",
        "h/o:1",
    ] {
        fails(&["relay", "127.0.0.1:0", bad], 2, bad);
        // Also behind a good one.
        fails(&["relay", "127.0.0.1:0", "127.0.0.1:1", bad], 2, bad);
    }
}

#[test]
fn a_bad_flag_is_named() {
    for (flag, value) in [
        ("--max", "12xyz"),
        ("--max", "-1"),
        ("--idle", "never"),
        ("--idle", "10"),
        ("--connect-timeout", "soon"),
        ("--drain-timeout", ""),
        ("--engine", "warp"),
        ("--balance", "fair"),
        ("--workers", "0"),
        ("--workers", "100000"),
        ("--max-connections", "0"),
        ("--max-connections", "many"),
        ("--busy-poll-us", "x"),
        ("--log-level", "loud"),
    ] {
        let argument = format!("{flag}={value}");
        fails(&["relay", "127.0.0.1:0", "127.0.0.1:1", &argument], 2, flag);
    }
    fails(&["relay", "127.0.0.1:0", "127.0.0.1:1", "--bogus"], 2, "--bogus");
    fails(&["relay", "127.0.0.1:0", "127.0.0.1:1", "-Z"], 2, "-Z");
    fails(&["relay", "127.0.0.1:0", "127.0.0.1:1", "--max"], 2, "--max");
    fails(&["relay"], 2, "LISTEN");
    fails(&["rely"], 2, "rely");
}

#[test]
fn an_address_that_is_not_ours_is_named() {
    fails(&["relay", "192.0.2.1:0", "127.0.0.1:1"], 1, "192.0.2.1:0");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = listener();
    let at = addr(&taken).to_string();
    fails(&["relay", &at, "127.0.0.1:1"], 1, &at);
}

/// Two relays with SO_REUSEPORT on one port would share its connections unnoticed.
#[test]
fn a_port_in_use_by_another_relay_is_named() {
    let relay = support::Relay::start(&["127.0.0.1:0", "127.0.0.1:1"]);
    let at = relay.addr().to_string();
    fails(&["relay", &at, "127.0.0.1:1"], 1, &at);
}

#[test]
fn an_unresolvable_target_is_named() {
    fails(&["relay", "127.0.0.1:0", "no-such-host.invalid:80"], 1, "no-such-host.invalid:80");
}

#[test]
fn more_connections_than_descriptors_are_refused_at_start() {
    let flag = "--max-connections=1000000000000";
    fails(&["relay", "127.0.0.1:0", "127.0.0.1:1", flag], 1, "--max-connections");
    let mut command = Command::new("sh");
    let script = "ulimit -n 16; exec \"$0\" relay 127.0.0.1:0 127.0.0.1:1 --workers 4";
    command.arg("-c").arg(script).arg(BINARY).stdin(Stdio::null());
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.lines().count() == 1 && stderr.contains("ulimit"), "{stderr}");
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["-V"],
        &["relay", "--help"],
        &["help", "relay"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
    let version = String::from_utf8(run(&["--version"]).stdout).unwrap();
    assert_eq!(version, format!("sosplice {}\n", env!("CARGO_PKG_VERSION")));
    let help = String::from_utf8(run(&["relay", "--help"]).stdout).unwrap();
    for flag in [
        "--max",
        "--idle",
        "--connect-timeout",
        "--drain-timeout",
        "--engine",
        "--workers",
        "--busy-poll-us",
        "--max-connections",
        "--balance",
        "--udp",
        "--max-sessions",
        "--congestion",
        "--json",
    ] {
        assert!(help.contains(flag), "{flag} is not in the help");
    }
}

/// `sosplice --help | head -1`: the reader is gone before the text is out.
#[test]
fn help_into_a_closed_pipe_does_not_panic() {
    for args in [&["--help"][..], &["relay", "--help"], &["--version"]] {
        let mut command = Command::new(BINARY);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A pipe whose reading end is closed before the child exists.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(writer);
        let mut child = command.spawn().unwrap();
        wait_for_exit(&mut child);
        let mut stderr = String::new();
        child.stderr.unwrap().read_to_string(&mut stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    }
}

#[test]
fn a_limit_of_nothing_is_refused() {
    for (flag, zero) in [("--max", "0"), ("--idle", "0s"), ("--connect-timeout", "0s")] {
        fails(&["relay", "127.0.0.1:0", "127.0.0.1:1", flag, zero], 2, flag);
    }
    fails(&["relay", "127.0.0.1:0", "127.0.0.1:1", "--max", "99999999999GiB"], 2, "--max");
    fails(&["relay", "127.0.0.1:0", "127.0.0.1:0"], 2, "'0'");
}

/// One connection would become a chain of them, up to the limit on descriptors.
#[test]
fn a_relay_to_itself_is_refused() {
    let free = addr(&listener());
    let itself = free.to_string();
    fails(&["relay", &itself, &itself], 1, "itself");
    let every = format!(":{}", free.port());
    fails(&["relay", &every, "127.0.0.1:1", &itself], 1, "itself");
}

/// What would be ignored is refused: a limit that does not hold is worse than none.
#[test]
fn a_flag_of_the_other_protocol_is_refused() {
    for flag in ["--max=10MB", "--connect-timeout=1s", "--max-connections=10", "--congestion=reno"]
    {
        let name = flag.split('=').next().unwrap();
        fails(&["relay", "--udp", "127.0.0.1:0", "127.0.0.1:1", flag], 2, name);
        fails(&["relay", "--udp", "127.0.0.1:0", "127.0.0.1:1", flag], 2, "--udp");
    }
    fails(&["relay", "127.0.0.1:0", "127.0.0.1:1", "--max-sessions=10"], 2, "--udp");
}

/// The built-in origin speaks HTTP.
#[test]
fn udp_without_a_target_is_refused() {
    fails(&["relay", "--udp", "127.0.0.1:0"], 2, "TARGETS");
    fails(&["relay", "--udp"], 2, "LISTEN");
}

#[test]
fn bad_values_of_udp_flags_are_named() {
    for (flag, value) in [("--max-sessions", "0"), ("--max-sessions", "x"), ("--idle", "0s")] {
        fails(&["relay", "--udp", "127.0.0.1:0", "127.0.0.1:1", flag, value], 2, flag);
    }
    let flag = "--max-sessions=1000000000000";
    fails(&["relay", "--udp", "127.0.0.1:0", "127.0.0.1:1", flag], 1, "--max-sessions");
    fails(&["relay", "--udp", "127.0.0.1:0", "no-such-host.invalid:80"], 1, "no-such-host.invalid");
}

/// Also one that is held by another relay, with which it would share the clients unnoticed.
#[test]
fn a_udp_port_in_use_is_named() {
    let taken = datagrams::upstream();
    let at = datagrams::addr(&taken).to_string();
    fails(&["relay", "--udp", &at, "127.0.0.1:1"], 1, &at);
    let relay = datagrams::relay_to(&[datagrams::addr(&taken)], &[]);
    let at = relay.addr().to_string();
    fails(&["relay", "--udp", &at, "127.0.0.1:1"], 1, &at);
}

/// Each datagram would come back as that of a new client, for ever.
#[test]
fn a_udp_relay_to_itself_is_refused() {
    let free = datagrams::addr(&datagrams::upstream());
    let itself = free.to_string();
    fails(&["relay", "--udp", &itself, &itself], 1, "itself");
    let every = format!(":{}", free.port());
    fails(&["relay", "--udp", &every, "127.0.0.1:1", &itself], 1, "itself");
}

#[test]
fn an_unknown_congestion_control_is_named_with_what_there_is() {
    fails(&["relay", "127.0.0.1:0", "127.0.0.1:1", "--congestion", "tortoise"], 1, "tortoise");
    fails(&["relay", "127.0.0.1:0", "127.0.0.1:1", "--congestion", "tortoise"], 1, "reno");
}

#[test]
fn an_engine_that_datagrams_do_not_have_is_refused() {
    fails(
        &["relay", "--udp", "127.0.0.1:0", "127.0.0.1:1", "--engine", "pipe"],
        2,
        "--engine pipe",
    );
}
