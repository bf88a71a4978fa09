//! What the end-to-end tests share: a relay as a child process with its log, its
//! descriptors and its use of the processor; sockets with a watchdog; a byte pattern.
//!
//! Nothing here measures time. [`WATCHDOG`] only turns a hang into a failure.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod datagrams;
pub mod pattern;
pub mod peers;
pub mod serve;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Nothing that works takes so long; whatever does hangs.
pub const WATCHDOG: Duration = Duration::from_secs(40);

/// How often something that sends no event is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The command under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_sosplice");

/// Waits until `done`; for what can be seen and sends no event.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + WATCHDOG;
    while !done() {
        assert!(Instant::now() < deadline, "watchdog: still waiting until {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Skips a test that this machine cannot run, unless it was told that it can.
pub fn skip(why: &str) {
    assert!(std::env::var_os("SOSPLICE_NO_SKIP").is_none(), "must not be skipped: {why}");
    eprintln!("skipped: {why}");
}

/// Lets this process, and the relays that it starts, have the descriptors they may have.
/// Returns how many those are.
pub fn raise_descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A running `sosplice relay`, killed when it goes out of scope.
pub struct Relay {
    child: Child,
    addr: SocketAddr,
    log: Receiver<Value>,
    /// Lines that came and were not asked for yet.
    pending: RefCell<VecDeque<Value>>,
}

/// A line "connection closed".
#[derive(Debug)]
pub struct Closed {
    pub client: String,
    pub upstream: String,
    pub up: u64,
    pub down: u64,
    pub up_copy: u64,
    pub up_pipe: u64,
    pub down_copy: u64,
    pub down_pipe: u64,
    pub engine: String,
    pub cause: String,
}

/// A line "session closed", of a UDP relay.
#[derive(Debug)]
pub struct Session {
    pub client: String,
    pub upstream: String,
    pub up: u64,
    pub down: u64,
    pub up_datagrams: u64,
    pub down_datagrams: u64,
    pub up_gso: u64,
    pub up_mmsg: u64,
    pub up_plain: u64,
    pub down_gso: u64,
    pub down_mmsg: u64,
    pub down_plain: u64,
    pub engine: String,
    pub dropped: u64,
    pub cause: String,
}

/// A process's descriptors by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    pub sockets: usize,
    /// Ends of pipes: two a pipe, and one for the log that the test reads.
    pub pipe_ends: usize,
    pub others: usize,
}

impl Relay {
    /// `sosplice relay ARGS --json`, once it listens and obeys signals.
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.arg("relay").args(args).arg("--json");
        Self::launch(command).started(&[Signal::TERM, Signal::INT])
    }

    /// The same on loopback, with any port, to one target.
    #[track_caller]
    pub fn to(target: SocketAddr, flags: &[&str]) -> Self {
        let target = target.to_string();
        let mut args = vec!["127.0.0.1:0", &target];
        args.extend(flags);
        Self::start(&args)
    }

    /// `sosplice serve -c FILE`, whose log must be JSON, once it listens and obeys signals.
    #[track_caller]
    pub fn serve(file: &Path) -> Self {
        Self::launch_serve("true", file).started(&[Signal::TERM, Signal::INT, Signal::HUP])
    }

    /// The same from a shell that runs `prepare` first, and not waited for.
    fn launch_serve(prepare: &str, file: &Path) -> Self {
        let mut command = Command::new("sh");
        let script = format!("{prepare}; exec \"$0\" serve -c \"$1\"");
        command.arg("-c").arg(script).arg(BINARY).arg(file);
        Self::launch(command)
    }

    /// The same from a shell that runs `prepare` first (`ulimit -n 64`).
    #[track_caller]
    pub fn start_after(prepare: &str, args: &[&str]) -> Self {
        let mut command = Command::new("sh");
        let script = format!("{prepare}; exec \"$0\" relay \"$@\" --json");
        command.arg("-c").arg(script).arg(BINARY).args(args);
        Self::launch(command).started(&[Signal::TERM, Signal::INT])
    }

    #[track_caller]
    fn started(mut self, signals: &[Signal]) -> Self {
        self.addr = self.next("listening")["addr"].as_str().unwrap().parse().unwrap();
        self.wait_until_it_obeys(signals);
        self
    }

    /// The listeners are bound before their line; the handlers come after it.
    #[track_caller]
    fn wait_until_it_obeys(&self, signals: &[Signal]) {
        wait_until("it catches signals", || signals.iter().all(|signal| self.catches(*signal)));
    }

    /// Starts it, and reads its log.
    fn launch(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (send, log) = channel();
        // Ends with the child.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let plain = || serde_json::json!({ "plain": line });
                let entry = serde_json::from_str(&line).unwrap_or_else(|_| plain());
                if send.send(entry).is_err() {
                    return;
                }
            }
        });
        let addr = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { child, addr, log, pending: RefCell::default() }
    }

    /// What an ended one has said that is no entry of the log.
    fn plain(&self) -> String {
        // Ends when the child's stderr does.
        let lines: Vec<Value> = self.log.iter().collect();
        let plain = lines.iter().filter_map(|line| line["plain"].as_str());
        plain.collect::<Vec<_>>().join("\n")
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next log line with this message, waited for. Others stay in the queue.
    #[track_caller]
    pub fn next(&self, message: &str) -> Value {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            if let Some(entry) = self.take_pending(message) {
                return entry;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(entry) => self.pending.borrow_mut().push_back(entry),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("watchdog: no line {message:?}, but {:?}", self.pending.borrow());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!(
                        "the relay ended without a line {message:?}: {:?}",
                        self.pending.borrow()
                    );
                }
            }
        }
    }

    /// How many lines with this message have come and were not asked for.
    pub fn lines(&self, message: &str) -> usize {
        self.pending.borrow_mut().extend(self.log.try_iter());
        self.pending.borrow().iter().filter(|entry| is(entry, message)).count()
    }

    /// The next "connection closed", waited for.
    #[track_caller]
    pub fn next_closed(&self) -> Closed {
        let line = self.next("connection closed");
        let closed = Closed {
            client: text(&line, "client"),
            upstream: text(&line, "upstream"),
            up: number(&line, "up"),
            down: number(&line, "down"),
            up_copy: number(&line, "up_copy"),
            up_pipe: number(&line, "up_pipe"),
            down_copy: number(&line, "down_copy"),
            down_pipe: number(&line, "down_pipe"),
            engine: text(&line, "engine"),
            cause: text(&line, "cause"),
        };
        assert_eq!(closed.up, closed.up_copy + closed.up_pipe, "{line}");
        assert_eq!(closed.down, closed.down_copy + closed.down_pipe, "{line}");
        closed
    }

    /// The next "session closed", waited for.
    #[track_caller]
    pub fn next_session(&self) -> Session {
        let line = self.next("session closed");
        let session = Session {
            client: text(&line, "client"),
            upstream: text(&line, "upstream"),
            up: number(&line, "up"),
            down: number(&line, "down"),
            up_datagrams: number(&line, "up_datagrams"),
            down_datagrams: number(&line, "down_datagrams"),
            up_gso: number(&line, "up_gso"),
            up_mmsg: number(&line, "up_mmsg"),
            up_plain: number(&line, "up_plain"),
            down_gso: number(&line, "down_gso"),
            down_mmsg: number(&line, "down_mmsg"),
            down_plain: number(&line, "down_plain"),
            engine: text(&line, "engine"),
            dropped: number(&line, "dropped"),
            cause: text(&line, "cause"),
        };
        let Session { up_gso, up_mmsg, up_plain, down_gso, down_mmsg, down_plain, .. } = session;
        assert_eq!(session.up, up_gso + up_mmsg + up_plain, "{line}");
        assert_eq!(session.down, down_gso + down_mmsg + down_plain, "{line}");
        session
    }

    /// Stops it with SIGTERM and waits for its end: the line "stopped".
    #[track_caller]
    pub fn stop(&mut self) -> Value {
        self.signal(Signal::TERM);
        assert_eq!(self.wait().code(), Some(0));
        self.next("stopped")
    }

    fn take_pending(&self, message: &str) -> Option<Value> {
        let mut pending = self.pending.borrow_mut();
        let at = pending.iter().position(|entry| is(entry, message))?;
        pending.remove(at)
    }

    /// Its descriptors now.
    pub fn descriptors(&self) -> Descriptors {
        let mut found = Descriptors { sockets: 0, pipe_ends: 0, others: 0 };
        for entry in std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap() {
            // One that was closed between the two calls is none.
            let Ok(target) = std::fs::read_link(entry.unwrap().path()) else { continue };
            match target.to_string_lossy().split(':').next() {
                Some("socket") => found.sockets += 1,
                Some("pipe") => found.pipe_ends += 1,
                _ => found.others += 1,
            }
        }
        found
    }

    /// Waits until it has as many sockets as before and at most `pipes` pipes more.
    #[track_caller]
    pub fn wait_for_descriptors(&self, before: Descriptors, pipes: usize) {
        let mut now = self.descriptors();
        let deadline = Instant::now() + WATCHDOG;
        while now.sockets != before.sockets
            || now.others != before.others
            || now.pipe_ends > before.pipe_ends + 2 * pipes
        {
            assert!(
                Instant::now() < deadline,
                "{now:?} left, {before:?} and {pipes} pipes expected"
            );
            std::thread::sleep(LOOK_AGAIN);
            now = self.descriptors();
        }
    }

    /// Processor time used so far, user and system, in ticks of 10 ms.
    pub fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name may hold blanks; what follows its bracket does not.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Watches it for a while in which there is nothing to do, and fails if it did
    /// something: two ticks are what the watching itself may cost. The while is what is
    /// observed here; nothing is waited for.
    #[track_caller]
    pub fn assert_rests(&self, when: &str) {
        let before = self.ticks();
        std::thread::sleep(Duration::from_millis(500));
        let used = self.ticks() - before;
        assert!(used <= 2, "{when}: {used} of 50 ticks used");
    }

    /// Lowers its limit so that it has `free` descriptors left.
    pub fn leave_descriptors(&self, free: u64) {
        let numbers = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let used: HashSet<u64> = numbers
            .map(|entry| entry.unwrap().file_name().to_string_lossy().parse().unwrap())
            .collect();
        // The limit is on the numbers, and those in use may have gaps.
        let last = (0..).filter(|number| !used.contains(number)).nth(free as usize).unwrap();
        self.limit_descriptors(last);
    }

    /// Sets its soft limit; the hard one is what it inherited from here.
    pub fn limit_descriptors(&self, current: u64) {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: Some(current), maximum };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit).unwrap();
    }

    fn catches(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
    }

    /// Stops every thread of it: what comes now waits in its sockets.
    #[track_caller]
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid());
        wait_until("the relay stands still", || {
            std::fs::read_dir(&tasks).unwrap().all(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat"));
                // T, or t under a tracer.
                stat.is_ok_and(|stat| {
                    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['T', 't']))
                })
            })
        });
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait_for_exit(&mut self.child)
    }

    #[track_caller]
    pub fn assert_running(&mut self) {
        let status = self.child.try_wait().unwrap();
        assert!(status.is_none(), "the relay ended: {status:?} {:?}", self.pending.borrow());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.pending.borrow_mut().extend(self.log.try_iter());
            for line in self.pending.borrow().iter().rev().take(30).rev() {
                eprintln!("relay: {line}");
            }
        }
    }
}

#[track_caller]
pub fn number(line: &Value, name: &str) -> u64 {
    line[name].as_u64().unwrap_or_else(|| panic!("no {name} in {line}"))
}

#[track_caller]
fn text(line: &Value, name: &str) -> String {
    line[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}")).to_owned()
}

fn is(entry: &Value, message: &str) -> bool {
    entry["message"].as_str() == Some(message)
}

/// Waits for a child's end, and kills one that has none.
#[track_caller]
pub fn wait_for_exit(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("watchdog: the process did not end");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
