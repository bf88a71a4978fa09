//! Signals: stop, drain, cut, and those that must not matter.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::process::{Pid, Signal};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use support::pattern::Pattern;
use support::peers::{
    LISTEN, accept, addr, connect, finish, join, join_known, listener, queues, wait_until_refused,
};
use support::{BINARY, Relay, wait_for_exit, wait_until};

const MIB: u64 = 1 << 20;

/// The signal comes in the middle of a transfer both ways.
fn drains(signal: Signal) {
    const LEN: u64 = 32 * MIB;
    let upstream = listener();
    let mut relay = Relay::to(addr(&upstream), &["--workers", "2", "--drain-timeout=1h"]);
    let (client, server) = join_known(&relay, &upstream);
    let (mut up, mut down) = (Pattern::new(1), Pattern::new(2));
    thread::scope(|scope| {
        for (stream, seed) in [(&client, 1), (&server, 2)] {
            scope.spawn(move || {
                Pattern::new(seed).write(stream, LEN).unwrap();
                finish(stream);
            });
        }
        // Under way both ways, and far from the end: the writers are blocked.
        up.expect(&server, 100_000);
        down.expect(&client, 100_000);
        relay.signal(signal);
        wait_until_refused(relay.addr());
        scope.spawn(|| up.expect_whole(&server, LEN - 100_000));
        down.expect_whole(&client, LEN - 100_000);
    });
    assert_eq!(relay.wait().code(), Some(0));
    let closed = relay.next_closed();
    assert_eq!((closed.up, closed.down, closed.cause.as_str()), (LEN + 1, LEN + 1, "eof"));
    relay.next("stopped");
}

#[test]
fn sigterm_lets_running_connections_finish() {
    drains(Signal::TERM);
}

#[test]
fn sigint_lets_running_connections_finish() {
    drains(Signal::INT);
}

#[test]
fn sigterm_without_a_connection_ends_at_once() {
    let upstream = listener();
    for workers in ["1", "2"] {
        let mut relay = Relay::to(addr(&upstream), &["--workers", workers, "--drain-timeout=1h"]);
        drop(join_known(&relay, &upstream));
        relay.next_closed();
        relay.signal(Signal::TERM);
        assert_eq!(relay.wait().code(), Some(0));
    }
}

/// Both peers of a connection that was cut see a failure: an end would look whole.
#[test]
fn drain_timeout_cuts_an_idle_connection() {
    let upstream = listener();
    let mut relay = Relay::to(addr(&upstream), &["--drain-timeout=200ms"]);
    let (client, server) = join_known(&relay, &upstream);
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code(), Some(0));
    assert_eq!(relay.next_closed().cause, "cut");
    for stream in [&client, &server] {
        let ending = Pattern::new(1).expect_to_end(stream);
        assert_ne!(ending, support::pattern::Ending::Eof);
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let upstream = listener();
    for (first, second) in
        [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM), (Signal::TERM, Signal::INT)]
    {
        let mut relay = Relay::to(addr(&upstream), &["--drain-timeout=1h"]);
        let held = join_known(&relay, &upstream);
        relay.signal(first);
        // The line says that the first was seen: two signals at once are one.
        relay.next("stopping: accepting no more, waiting for running sessions");
        relay.assert_running();
        relay.signal(second);
        assert_eq!(relay.wait().code(), Some(0));
        drop(held);
    }
}

/// A client that is not yet joined with an upstream is a connection as well.
#[test]
fn sigterm_ends_a_client_whose_upstream_is_silent() {
    let silent = support::peers::Silent::new();
    let flags = ["--connect-timeout=1h", "--drain-timeout=200ms"];
    let mut relay = Relay::to(silent.addr(), &flags);
    let client = connect(relay.addr());
    silent.wait_for_syn();
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code(), Some(0));
    Pattern::new(1).expect_to_end(&client);
}

#[test]
fn other_signals_do_not_kill() {
    let upstream = listener();
    let mut relay = Relay::to(addr(&upstream), &[]);
    let (client, server) = join_known(&relay, &upstream);
    relay.signal(Signal::PIPE);
    // Stopped in the middle and continued: system calls are interrupted.
    let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
    thread::scope(|scope| {
        scope.spawn(|| sent.write(&client, 16 * MIB).unwrap());
        seen.expect(&server, MIB);
        for _ in 0..20 {
            relay.signal(Signal::STOP);
            relay.signal(Signal::CONT);
            seen.expect(&server, 100_000);
        }
        seen.expect(&server, 13 * MIB);
    });
    relay.assert_running();
}

/// Whoever read the log is gone: the relay has nobody to tell, and goes on.
#[test]
fn a_log_reader_that_leaves_does_not_kill() {
    let upstream = listener();
    let (mut child, at) = relay_without_log_reader(addr(&upstream));
    serves(&mut child, at, &upstream);
}

/// And it obeys: a running connection is finished, and the exit code is 0.
#[test]
fn sigterm_drains_when_the_log_reader_has_left() {
    let upstream = listener();
    let (mut child, at) = relay_without_log_reader(addr(&upstream));
    let client = connect(at);
    let server = accept(&upstream);
    Pattern::new(1).write(&client, 1_000).unwrap();
    Pattern::new(1).expect(&server, 1_000);
    stop(&child);
    wait_until_refused(at);
    Pattern::new(2).write(&server, 1_000).unwrap();
    drop(server);
    Pattern::new(2).expect_whole(&client, 1_000);
    drop(client);
    assert_eq!(wait_for_exit(&mut child.0).code(), Some(0));
}

#[test]
fn a_log_that_nobody_ever_read_does_not_kill() {
    let upstream = listener();
    for flags in [&["--json"][..], &[]] {
        let mut command = Command::new(BINARY);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let at = free_address();
        command.args(["relay", &at.to_string(), &addr(&upstream).to_string()]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
        let mut child = Guard(command.spawn().unwrap());
        listens(&mut child, at);
        drop(accept(&upstream));
        serves(&mut child, at, &upstream);
    }
}

#[test]
fn closed_standard_streams_do_not_kill() {
    let upstream = listener();
    let at = free_address();
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec \"$0\" relay \"$@\" <&- >&- 2>&-").arg(BINARY);
    command.arg(at.to_string()).arg(addr(&upstream).to_string());
    let mut child = Guard(command.spawn().unwrap());
    listens(&mut child, at);
    drop(accept(&upstream));
    serves(&mut child, at, &upstream);
    stop(&child);
    assert_eq!(wait_for_exit(&mut child.0).code(), Some(0));
}

/// With the built-in origin there is a text for stdout, and nobody may be there.
#[test]
fn a_closed_stdout_does_not_kill() {
    let mut command = Command::new(BINARY);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let at = free_address();
    command.args(["relay", &at.to_string()]);
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::null());
    let mut child = Guard(command.spawn().unwrap());
    listens(&mut child, at);
    stop(&child);
    assert_eq!(wait_for_exit(&mut child.0).code(), Some(0));
}

/// An address that was free just now.
fn free_address() -> SocketAddr {
    addr(&listener())
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stop(child: &Guard) {
    rustix::process::kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
}

/// Its log is read until it says where it listens, and then no more.
fn relay_without_log_reader(target: SocketAddr) -> (Guard, SocketAddr) {
    let mut command = Command::new(BINARY);
    command.args(["relay", "127.0.0.1:0", &target.to_string(), "--json"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Guard(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    (child, line["addr"].as_str().unwrap().parse().unwrap())
}

/// Waits until it accepts; the connection that shows it is closed at once.
fn listens(child: &mut Guard, at: SocketAddr) {
    wait_until("it listens", || {
        assert!(child.0.try_wait().unwrap().is_none(), "it ended at its start");
        TcpStream::connect(at).is_ok()
    });
}

/// It relays connections whose ends it cannot log.
fn serves(child: &mut Guard, at: SocketAddr, upstream: &TcpListener) {
    for round in 0..20 {
        let client = connect(at);
        let server = accept(upstream);
        Pattern::new(round).write(&client, 200_000).unwrap();
        finish(&client);
        Pattern::new(round).expect_whole(&server, 200_000);
        drop(server);
        Pattern::new(0).expect_end(&client);
    }
    assert!(child.0.try_wait().unwrap().is_none(), "it ended");
}

#[test]
fn sigterm_under_load_loses_no_byte() {
    let upstream = listener();
    let mut relay = Relay::to(addr(&upstream), &["--workers", "2", "--drain-timeout=1h"]);
    let pairs: Vec<_> = (0..16).map(|_| join(&relay, &upstream)).collect();
    let (clients, servers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    // All send the same stream, for the order of the two lists may differ.
    thread::scope(|scope| {
        for client in &clients {
            scope.spawn(move || {
                Pattern::new(1).write(client, 8 * MIB).unwrap();
                finish(client);
            });
        }
        let mut seen = Pattern::new(1);
        seen.expect(&servers[0], 10_000);
        relay.signal(Signal::TERM);
        for (number, server) in servers.iter().enumerate() {
            let mut seen = if number == 0 { seen } else { Pattern::new(1) };
            scope.spawn(move || {
                let left = 8 * MIB - seen.at();
                seen.expect_whole(server, left);
                finish(server);
            });
        }
    });
    assert_eq!(relay.wait().code(), Some(0));
}

/// The log goes into a pipe that stays open and is not read: workers must not wait for it,
/// and signals must be obeyed.
#[test]
fn a_log_that_nobody_reads_stops_no_connection() {
    let upstream = listener();
    let at = free_address();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(BINARY);
    command.args(["relay", &at.to_string(), &addr(&upstream).to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let mut child = Guard(command.spawn().unwrap());
    listens(&mut child, at);
    drop(accept(&upstream));
    // A line each, about 200 bytes: several times what the pipe holds.
    for _ in 0..1_500 {
        let client = connect(at);
        drop((client, accept(&upstream)));
    }
    serves(&mut child, at, &upstream);
    stop(&child);
    assert_eq!(wait_for_exit(&mut child.0).code(), Some(0));
    drop(reader);
}

/// A client that was accepted and waits for its turn learns that it is not served: an end
/// of file would look like an empty answer.
#[test]
fn a_client_that_waited_is_reset_at_the_end() {
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &["--max-connections=1", "--workers=1"]);
    let (first, server) = join(&relay, &upstream);
    let mut waits = connect(relay.addr());
    let backlog = || queues(relay.addr().port(), LISTEN).map(|(_, waiting)| waiting);
    wait_until("the second client is accepted", || backlog() == Some(0));
    relay.signal(Signal::TERM);
    relay.next("connection refused");
    let ended = std::io::Read::read(&mut waits, &mut [0]);
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    drop((first, server));
}
