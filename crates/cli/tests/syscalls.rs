//! What a byte costs in system calls, counted by strace(1): the relay is told apart from
//! one that is merely correct by how seldom it is woken and how little it asks.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::process::{Pid, Signal};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use support::pattern::Pattern;
use support::peers::{addr, connect, join_known, listener};
use support::{Relay, WATCHDOG, datagrams, skip, wait_for_exit};

const MIB: u64 = 1 << 20;

/// A strace(1) on a running relay.
struct Trace {
    child: Child,
    output: PathBuf,
}

/// How often each call was made, and how often it found nothing to do (EAGAIN).
#[derive(Debug, Default)]
struct Counts {
    calls: HashMap<String, u64>,
    in_vain: HashMap<String, u64>,
}

impl Counts {
    fn of(&self, names: &[&str]) -> u64 {
        names.iter().filter_map(|name| self.calls.get(*name)).sum()
    }

    fn in_vain(&self, names: &[&str]) -> u64 {
        names.iter().filter_map(|name| self.in_vain.get(*name)).sum()
    }
}

impl Trace {
    /// None, with a reason, where the relay cannot be traced.
    fn attach(relay: &Relay) -> Result<Self, String> {
        let output = std::env::temp_dir().join(format!("sosplice-trace-{}", relay.pid()));
        let child = Command::new("strace")
            .args(["-f", "-qqq", "-o"])
            .arg(&output)
            .args(["-p", &relay.pid().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("strace: {error}"))?;
        let mut trace = Self { child, output };
        // Quiet as it is, it says nothing when it has attached: the kernel does.
        let deadline = std::time::Instant::now() + WATCHDOG;
        while !traced(relay.pid()) {
            if let Some(status) = trace.child.try_wait().unwrap() {
                return Err(format!("strace cannot attach: {status}"));
            }
            assert!(std::time::Instant::now() < deadline, "watchdog: strace does not attach");
            thread::sleep(std::time::Duration::from_millis(2));
        }
        Ok(trace)
    }

    /// Lets go of the relay and counts.
    fn detach(mut self) -> Counts {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        wait_for_exit(&mut self.child);
        let mut counts = Counts::default();
        for line in BufReader::new(std::fs::File::open(&self.output).unwrap()).lines() {
            let line = line.unwrap();
            // "123 splice(3, ...) = 5", "123 splice(3, <unfinished ...>" and later
            // "123 <... splice resumed>) = 5".
            let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
            let name = match call.strip_prefix("<... ") {
                Some(resumed) => resumed.split(' ').next().unwrap_or_default(),
                None => {
                    let name = call.split('(').next().unwrap_or_default();
                    *counts.calls.entry(name.to_owned()).or_default() += 1;
                    name
                }
            };
            if call.contains("= -1 EAGAIN") {
                *counts.in_vain.entry(name.to_owned()).or_default() += 1;
            }
        }
        counts
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Killed or ended, it lets go of the relay.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.output);
    }
}

/// Whether every thread of the process has a tracer.
fn traced(pid: u32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
        let mut status = String::new();
        let path = task.unwrap().path().join("status");
        let read = std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut status));
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        read.is_ok() && tracer.is_some_and(|tracer| tracer.trim() != "0")
    })
}

const WAITS: [&str; 4] = ["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll"];
const READS: [&str; 4] = ["recvfrom", "recvmsg", "read", "readv"];
const WRITES: [&str; 4] = ["sendto", "sendmsg", "write", "writev"];
/// Calls that a connection may need at its start and end, and none for its bytes.
const NEVER_PER_BYTE: [&str; 8] =
    ["epoll_ctl", "fcntl", "ioctl", "getsockopt", "timerfd_settime", "futex", "brk", "mmap"];

/// A relay with one connection on which bytes have gone both ways, and its trace.
fn traced_connection(flags: &[&str]) -> Option<(Relay, Trace, TcpStream, TcpStream)> {
    let upstream = listener();
    let mut all = vec!["--workers", "1"];
    all.extend(flags);
    let relay = Relay::to(addr(&upstream), &all);
    let (client, server) = join_known(&relay, &upstream);
    match Trace::attach(&relay) {
        Ok(trace) => Some((relay, trace, client, server)),
        Err(why) => {
            skip(&why);
            None
        }
    }
}

/// A message is one wake-up, one read and one write: no second read that finds nothing,
/// no registration, no timer.
#[test]
fn a_message_costs_one_wait_one_read_one_write() {
    const ROUNDS: u64 = 1_000;
    for flags in [&[][..], &["--idle=1h"]] {
        let Some((relay, trace, client, server)) = traced_connection(flags) else { return };
        let mut streams = [Pattern::new(1), Pattern::new(1), Pattern::new(2), Pattern::new(2)];
        let [up_out, up_in, down_out, down_in] = &mut streams;
        for _ in 0..ROUNDS {
            up_out.write(&client, 64).unwrap();
            up_in.expect(&server, 64);
            down_out.write(&server, 64).unwrap();
            down_in.expect(&client, 64);
        }
        let counts = trace.detach();
        let messages = 2 * ROUNDS;
        // The runtime looks for events without need now and then: a tenth.
        let most = messages + messages / 10;
        for (what, names) in [("waits", &WAITS[..]), ("reads", &READS), ("writes", &WRITES)] {
            let count = counts.of(names);
            assert!(
                count <= most,
                "{what} with {flags:?}: {count} for {messages} messages, {counts:?}"
            );
            assert!(what == "waits" || count >= messages, "the trace missed {what}: {counts:?}");
        }
        let rest =
            counts.of(&NEVER_PER_BYTE) + counts.of(&["splice", "shutdown", "pipe2", "close"]);
        assert!(rest <= messages / 50, "other calls: {rest}, {counts:?}");
        drop(relay);
    }
}

/// Bulk is moved by splice(2) in large steps, and nothing of it is read or written.
#[test]
fn bulk_costs_few_splices_and_no_read() {
    const LEN: u64 = 64 * MIB;
    for down in [false, true] {
        let Some((relay, trace, client, server)) = traced_connection(&[]) else { return };
        let (from, to) = if down { (&server, &client) } else { (&client, &server) };
        thread::scope(|scope| {
            scope.spawn(|| Pattern::new(1).write(from, LEN).unwrap());
            Pattern::new(1).expect(to, LEN);
        });
        let counts = trace.detach();
        // In and out, and a step carries 64 KiB at the very least on loopback: its
        // segments are that large.
        let splices = counts.of(&["splice"]);
        assert!(splices >= 2 * LEN / (4 * MIB), "the trace missed the splices: {counts:?}");
        assert!(splices <= 3 * LEN / 65_536, "{splices} calls of splice, {counts:?}");
        // The first few blocks are copied until the flow is known to be bulk; a look at
        // an empty source is a read too.
        let vain = counts.in_vain(&READS);
        let reads = counts.of(&READS) - vain;
        assert!(reads <= 20, "{reads} reads of bytes, {counts:?}");
        let waits = counts.of(&WAITS);
        assert!(waits <= splices + 50, "{waits} waits for {splices} splices, {counts:?}");
        drop(relay);
    }
}

/// A relay that only accepts and never connects twice, registers once, and closes once.
#[test]
fn a_short_connection_costs_few_calls() {
    const COUNT: u64 = 100;
    let upstream = listener();
    let relay = Relay::to(addr(&upstream), &["--workers", "1"]);
    drop(join_known(&relay, &upstream));
    relay.next_closed();
    let trace = match Trace::attach(&relay) {
        Ok(trace) => trace,
        Err(why) => return skip(&why),
    };
    for _ in 0..COUNT {
        let client = connect(relay.addr());
        let server = support::peers::accept(&upstream);
        Pattern::new(1).write(&client, 100).unwrap();
        Pattern::new(1).expect(&server, 100);
        Pattern::new(2).write(&server, 100).unwrap();
        drop(server);
        Pattern::new(2).expect_whole(&client, 100);
        drop(client);
        relay.next_closed();
    }
    let counts = trace.detach();
    assert!(counts.of(&["accept4"]) >= COUNT, "the trace missed the accepts: {counts:?}");
    // accept (and one in vain), socket, two options, connect, two registrations, two messages,
    // two ends, one FIN, two closes that undo the registrations, one line, and waits.
    let all: u64 = counts.calls.values().sum();
    println!("{} calls a connection: {counts:?}", all / COUNT);
    assert!(all <= COUNT * 35, "{} calls a connection, {counts:?}", all / COUNT);
    assert_eq!(counts.of(&["getsockopt"]), 0, "the event tells that it is connected: {counts:?}");
    assert_eq!(counts.of(&["pipe2"]), 0, "a message needs no pipe: {counts:?}");
}

const UDP_READS: [&str; 3] = ["recvmmsg", "recvmsg", "recvfrom"];
const UDP_WRITES: [&str; 3] = ["sendmmsg", "sendmsg", "sendto"];

/// A relay of datagrams with one session, and its trace.
fn traced_session() -> Option<(Relay, Trace, UdpSocket, UdpSocket, SocketAddr)> {
    let upstream = datagrams::upstream();
    let relay = datagrams::relay_to(&[datagrams::addr(&upstream)], &[]);
    let client = datagrams::client(relay.addr());
    let session = datagrams::join(&client, &upstream, 1);
    match Trace::attach(&relay) {
        Ok(trace) => Some((relay, trace, client, upstream, session)),
        Err(why) => {
            skip(&why);
            None
        }
    }
}

/// A datagram that comes alone is one wake-up, one receive and one send.
#[test]
fn a_lone_datagram_costs_one_wait_one_receive_one_send() {
    const ROUNDS: u64 = 500;
    let Some((relay, trace, client, upstream, _)) = traced_session() else { return };
    for number in 0..ROUNDS {
        datagrams::join(&client, &upstream, 2 * number);
    }
    let counts = trace.detach();
    let messages = 2 * ROUNDS;
    // One wait is under way when the trace begins, and another when it ends.
    let most = messages + 2;
    for (what, names) in [("waits", &WAITS[..]), ("reads", &UDP_READS), ("writes", &UDP_WRITES)] {
        let count = counts.of(names);
        assert!((messages..=most).contains(&count), "{what}: {count}, {counts:?}");
    }
    // A thread that sleeps tells so once, when the tracer comes.
    assert!(counts.of(&NEVER_PER_BYTE) <= 4, "{counts:?}");
    drop(relay);
}

/// What has gathered while the relay was away is taken and given in a handful of calls,
/// not in one or two for each datagram.
#[test]
fn a_burst_of_datagrams_costs_a_handful_of_calls() {
    const BURST: u64 = 64;
    for down in [false, true] {
        let Some((relay, trace, client, upstream, session)) = traced_session() else { return };
        relay.freeze();
        for number in 0..BURST {
            match down {
                false => datagrams::send(&client, number, 100),
                true => datagrams::send_to(&upstream, session, number, 100),
            }
        }
        relay.thaw();
        for number in 0..BURST {
            datagrams::expect(if down { &client } else { &upstream }, number, 100);
        }
        let counts = trace.detach();
        // The first call asks for few, as nothing has come before; the second finds the rest,
        // and that it is all.
        let (reads, writes) = (counts.of(&UDP_READS), counts.of(&UDP_WRITES));
        assert!((1..=2).contains(&reads), "{reads} receives, {counts:?}");
        assert!((1..=2).contains(&writes), "{writes} sends, {counts:?}");
        assert!(counts.of(&WAITS) <= 6, "{counts:?}");
    }
}

/// A session that waits for its end is not looked at meanwhile.
#[test]
fn a_session_at_rest_wakes_nobody() {
    let Some((_relay, trace, _client, _upstream, _)) = traced_session() else { return };
    // What is observed, not waited for: it would be woken hundreds of times.
    thread::sleep(std::time::Duration::from_millis(500));
    let counts = trace.detach();
    assert!(counts.of(&WAITS) <= 4, "{counts:?}");
}

/// What a sender has joined is taken joined (UDP_GRO): that it goes out joined again would
/// not show it, since the relay joins what came apart as well.
#[test]
fn joined_datagrams_are_taken_joined() {
    const MESSAGES: u64 = 3;
    const EACH: usize = 64;
    for down in [false, true] {
        let Some((relay, trace, client, upstream, session)) = traced_session() else { return };
        relay.freeze();
        for message in 0..MESSAGES {
            let numbers = (message * EACH as u64, EACH);
            match down {
                false => datagrams::send_joined(&client, None, numbers, 100),
                true => datagrams::send_joined(&upstream, Some(session), numbers, 100),
            }
        }
        relay.thaw();
        for number in 0..MESSAGES * EACH as u64 {
            datagrams::expect(if down { &client } else { &upstream }, number, 100);
        }
        let counts = trace.detach();
        // One by one they would not fit a batch.
        assert_eq!((counts.of(&UDP_READS), counts.of(&UDP_WRITES)), (1, 1), "{counts:?}");
    }
}
