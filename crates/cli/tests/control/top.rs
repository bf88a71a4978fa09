//! `sosplice top` in a terminal of the test's own.

use super::service::Service;
use crate::support::peers::{join_known, listener};
use crate::support::{BINARY, WATCHDOG, wait_for_exit, wait_until};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::process::{Child, Command, Stdio};

/// What it says when it takes the terminal over, and gives it back.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";

struct Terminal {
    /// The test's side.
    ours: OwnedFd,
    /// The program's side, kept open so that it can be looked at.
    theirs: File,
    said: String,
}

impl Terminal {
    fn new() -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let size = Winsize { ws_row: 40, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).unwrap();
        Self { ours, theirs, said: String::new() }
    }

    fn run(&self, command: &mut Command) -> Child {
        let side = || Stdio::from(self.theirs.try_clone().unwrap());
        command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap()
    }

    /// Takes what has been said until `done`.
    #[track_caller]
    fn read_until(&mut self, what: &str, done: impl Fn(&str) -> bool) {
        while !done(&self.said) {
            let limit = WATCHDOG.try_into().unwrap();
            let ready = poll(&mut [PollFd::new(&self.ours, PollFlags::IN)], Some(&limit)).unwrap();
            assert!(ready > 0, "watchdog: {what}: {:?}", self.said);
            let mut bytes = [0; 4096];
            let read = rustix::io::read(&self.ours, &mut bytes).unwrap();
            self.said.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }

    fn attributes(&self) -> Termios {
        tcgetattr(&self.theirs).unwrap()
    }

    fn is_raw(&self) -> bool {
        !self.attributes().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }
}

fn top(service: &Service) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("top").arg("--interval=1").arg("--socket").arg(service.dir.socket());
    command.env("TERM", "xterm");
    command
}

/// It ends in this way, and the terminal is as it was.
#[track_caller]
fn gives_it_back(end: impl FnOnce(&Terminal, &Child)) {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let held = join_known(&service.relay, &upstream);
    let mut terminal = Terminal::new();
    let before = terminal.attributes();
    let mut child = terminal.run(&mut top(&service));
    let client = held.0.local_addr().unwrap().to_string();
    terminal.read_until("the page is there", |said| {
        said.contains(ENTER)
            && said.contains("db ")
            && said.contains(&client)
            && said.contains("q quits")
    });
    wait_until("keys come as they are", || terminal.is_raw());
    end(&terminal, &child);
    terminal.read_until("it gives the terminal back", |said| {
        said.contains(LEAVE) && said.contains(SHOW_CURSOR)
    });
    assert_eq!(wait_for_exit(&mut child).code(), Some(0));
    let after = terminal.attributes();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);
    assert_eq!(after.output_modes, before.output_modes);
}

fn say(terminal: &Terminal, keys: &[u8]) {
    rustix::io::write(&terminal.ours, keys).unwrap();
}

#[test]
fn q_ends_it() {
    gives_it_back(|terminal, _| say(terminal, b"q"));
}

#[test]
fn control_c_ends_it() {
    gives_it_back(|terminal, _| say(terminal, b"\x03"));
}

#[test]
fn sigterm_ends_it() {
    gives_it_back(|_, child| kill_process(Pid::from_child(child), Signal::TERM).unwrap());
}

/// The service is restarted under its eyes.
#[test]
fn a_service_that_goes_is_waited_for() {
    let upstream = listener();
    let mut service = Service::to(&[&upstream]);
    let mut terminal = Terminal::new();
    let mut child = terminal.run(&mut top(&service));
    terminal.read_until("the page is there", |said| said.contains("q quits"));
    service.relay.stop();
    terminal.read_until("it says so", |said| said.contains("nobody listens at"));
    service.relay = crate::support::Relay::serve(&service.dir.file());
    let pid = format!("pid {}", service.relay.pid());
    terminal.read_until("it sees the new one", |said| said.contains(&pid));
    say(&terminal, b"q");
    assert_eq!(wait_for_exit(&mut child).code(), Some(0));
}

#[test]
fn without_a_terminal_or_a_service_it_says_so_at_once() {
    let upstream = listener();
    let mut service = Service::to(&[&upstream]);
    let output = top(&service).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("top needs a terminal"), "{told}");
    service.relay.stop();
    let mut terminal = Terminal::new();
    let mut child = terminal.run(&mut top(&service));
    terminal.read_until("it says so", |said| said.contains("is the service running"));
    assert_eq!(wait_for_exit(&mut child).code(), Some(1));
    assert!(!terminal.said.contains(ENTER), "the screen was left alone");
}
