//! `sosplice run` for same-host connections, and `sosplice local`: the broker that they start,
//! what the program gets, and what is said where something is missing.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use support::{BINARY, skip, wait_until};

/// A rendezvous directory of a test, and the broker in it.
struct Place {
    dir: PathBuf,
    /// Instead of the library: empty, so the loader warns and goes on.
    library: PathBuf,
}

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let base =
            std::env::temp_dir().join(format!("sosplice-cli-{}-{count}", std::process::id()));
        let _ = std::fs::remove_dir_all(&base);
        std::fs::create_dir(&base).unwrap();
        std::fs::set_permissions(&base, PermissionsExt::from_mode(0o755)).unwrap();
        let library = base.join("lib.so");
        std::fs::write(&library, "").unwrap();
        Self { dir: base.join("meet"), library }
    }

    /// `sosplice ARGS --rendezvous DIR -- PROGRAM`
    fn command(&self, args: &[&str], program: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).arg("--rendezvous").arg(&self.dir);
        command.env_remove("LD_PRELOAD").env("SOSPLICE_LIBRARY", &self.library);
        if !program.is_empty() {
            command.arg("--").args(program);
        }
        command
    }

    fn local(&self, args: &[&str]) -> Output {
        let args: Vec<&str> = ["local"].iter().chain(args).copied().collect();
        self.command(&args, &[]).output().unwrap()
    }

    fn run(&self, args: &[&str], program: &[&str]) -> Output {
        let args: Vec<&str> = ["run"].iter().chain(args).copied().collect();
        self.command(&args, program).output().unwrap()
    }

    #[track_caller]
    fn status(&self) -> Value {
        let output = self.local(&["status", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn broker(&self) -> Option<Pid> {
        let output = self.local(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        Pid::from_raw(status["pid"].as_i64()? as i32)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(broker) = self.broker() {
            let _ = kill_process(broker, Signal::KILL);
        }
        let _ = std::fs::remove_dir_all(self.dir.parent().unwrap());
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// What was said but for the loader's complaint about the empty library.
fn said(output: &Output) -> Vec<String> {
    let lines = text(&output.stderr);
    lines.lines().filter(|line| !line.contains("ld.so")).map(str::to_owned).collect()
}

/// A program that runs until its input ends.
fn cat(place: &Place) -> Child {
    let mut command = place.command(&["run"], &["cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn end(mut cat: Child) {
    drop(cat.stdin.take());
    assert!(support::wait_for_exit(&mut cat).success());
}

#[test]
fn the_program_gets_the_library_and_what_the_flags_say() {
    let place = Place::new();
    let show = ["/bin/sh", "-c", "echo $LD_PRELOAD; echo $SOSPLICE_LOCAL"];
    let output = place.run(&[], &show);
    let expected = format!(
        "{}\ndir={};busy=0;ring=64;after=4",
        place.library.canonicalize().unwrap().display(),
        place.dir.display()
    );
    assert_eq!((text(&output.stdout), said(&output)), (expected, vec![]));
    let flags = [
        "--busy-poll-us=50",
        "--ring-kbytes=128",
        "--ports=80,6379",
        "--loopback-only",
        "--pair-after=9",
    ];
    let output = place.run(&flags, &show);
    let ends =
        format!("dir={};busy=50;ring=128;after=9;ports=80,6379;loopback=1", place.dir.display());
    assert!(text(&output.stdout).ends_with(&ends), "{output:?}");
    for wrong in ["--busy-poll-us=1000001", "--ring-kbytes=65", "--ring-kbytes=131072", "--ports=0"]
    {
        let output = place.run(&[wrong], &["true"]);
        assert_eq!((output.status.code(), said(&output).len()), (Some(2), 1), "{wrong}");
    }
}

#[test]
fn one_broker_serves_all_who_come_at_once() {
    let place = Place::new();
    let programs: Vec<Child> = (0..8).map(|_| cat(&place)).collect();
    wait_until("each has become its program", || {
        programs.iter().all(|program| {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", program.id()));
            name.is_ok_and(|name| name.trim() == "cat")
        })
    });
    let broker = place.status()["pid"].as_u64().unwrap();
    // By the directory in its command line: nobody else has such a one.
    let mut brokers = Vec::new();
    wait_until("the ones that were too many have gone", || {
        brokers = processes_with(&place.dir, "broker");
        brokers.len() == 1
    });
    assert_eq!(brokers, [broker]);
    programs.into_iter().for_each(end);
}

fn processes_with(dir: &Path, word: &str) -> Vec<u64> {
    let all = std::fs::read_dir("/proc").unwrap().map_while(Result::ok);
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let is_it = |pid: &u64| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let dir = dir.as_os_str().as_encoded_bytes();
        words.contains(&dir) && words.contains(&word.as_bytes())
    };
    numbers.filter(is_it).collect()
}

#[test]
fn the_broker_leaves_everything_of_its_first_user_behind() {
    let place = Place::new();
    // A shell with a descriptor that must not be held, in a directory that must not be busy.
    let script =
        format!("exec 7>held; exec {BINARY} run --rendezvous {} -- true", place.dir.display());
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).current_dir(place.dir.parent().unwrap());
    // As for a program in a program: the library is preloaded already.
    command.env("SOSPLICE_LIBRARY", &place.library).env("LD_PRELOAD", &place.library);
    assert!(command.output().unwrap().status.success());
    let broker = place.broker().unwrap().as_raw_nonzero();
    let link = |name: &str| std::fs::read_link(format!("/proc/{broker}/{name}")).unwrap();
    assert_eq!(link("cwd"), Path::new("/"));
    for fd in 0..3 {
        assert_eq!(link(&format!("fd/{fd}")), Path::new("/dev/null"), "{fd}");
    }
    for entry in std::fs::read_dir(format!("/proc/{broker}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap();
        assert!(!target.ends_with("held"), "{target:?}");
    }
    let stat = std::fs::read_to_string(format!("/proc/{broker}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // The session and the group are its own.
    assert_eq!((fields[2], fields[3]), (&*broker.to_string(), &*broker.to_string()));
    let environment = std::fs::read(format!("/proc/{broker}/environ")).unwrap();
    assert!(!environment.windows(11).any(|bytes| bytes == b"LD_PRELOAD="));
}

#[test]
fn the_program_has_no_child_that_it_did_not_make() {
    let children = format!("/proc/self/task/{}/children", std::process::id());
    if !Path::new(&children).exists() {
        return skip("this kernel does not list a process's children");
    }
    let place = Place::new();
    let script = "read line < /proc/$$/task/$$/children; echo \"[$line]\"";
    let output = place.run(&[], &["/bin/sh", "-c", script]);
    assert_eq!(text(&output.stdout), "[]", "{output:?}");
}

#[test]
fn without_a_broker_the_program_runs_on_plain_tcp_with_one_line() {
    let place = Place::new();
    std::fs::create_dir(&place.dir).unwrap();
    std::fs::set_permissions(&place.dir, PermissionsExt::from_mode(0o777)).unwrap();
    let script = "echo [$LD_PRELOAD$SOSPLICE_LOCAL]; grep Seccomp: /proc/self/status; exit 7";
    let output = place.run(&[], &["/bin/sh", "-c", script]);
    assert_eq!(output.status.code(), Some(7));
    let before = std::fs::read_to_string("/proc/self/status").unwrap();
    let filtered = before.lines().find(|line| line.starts_with("Seccomp:")).unwrap();
    assert_eq!(text(&output.stdout), format!("[]\n{filtered}"));
    let [line] = &said(&output)[..] else { panic!("{output:?}") };
    assert!(line.contains("others can write to it") && line.contains("plain TCP"), "{line}");
    // Nor where the path cannot be a socket's.
    let deep = place.dir.parent().unwrap().join("x".repeat(100));
    let output = Command::new(BINARY)
        .args(["run", "--rendezvous"])
        .arg(&deep)
        .args(["--", "/bin/sh", "-c", "exit 7"])
        .env("SOSPLICE_LIBRARY", &place.library)
        .output()
        .unwrap();
    let [line] = &said(&output)[..] else { panic!("{output:?}") };
    assert!(output.status.code() == Some(7) && line.contains("too long"), "{line}");
}

#[test]
fn policy_is_set_shown_and_switched_off() {
    let place = Place::new();
    for command in ["status", "disable"] {
        let output = place.local(&[command]);
        assert_eq!(output.status.code(), Some(1));
        let [line] = &said(&output)[..] else { panic!("{output:?}") };
        assert!(line.contains("no broker is running") && line.contains("meet"), "{line}");
    }
    let flags =
        ["enable", "--ports", "80,443", "--cgroup", "/a", "--cgroup", "/b", "--loopback-only"];
    let output = place.local(&flags);
    assert!(output.status.success() && said(&output).is_empty(), "{output:?}");
    let status = place.status();
    assert_eq!(status["policy"]["ports"], serde_json::json!([80, 443]));
    assert_eq!(status["policy"]["cgroups"], serde_json::json!(["/a", "/b"]));
    assert_eq!(status["policy"]["enabled"], true);
    assert_eq!((&status["policy_was_set"], &status["one_network"]), (&true.into(), &true.into()));
    let shown = text(&place.local(&["status"]).stdout);
    assert!(shown.contains("enabled; cgroups /a, /b; ports 80, 443; loopback only"), "{shown}");
    assert!(place.local(&["disable"]).status.success());
    assert_eq!(place.status()["policy"]["enabled"], false);
    assert!(text(&place.local(&["status"]).stdout).contains("disabled"));
    // As at the beginning.
    assert!(place.local(&["enable"]).status.success());
    let policy = &place.status()["policy"];
    assert_eq!((&policy["enabled"], &policy["ports"]), (&true.into(), &serde_json::json!([])));
}

#[test]
fn a_killed_broker_is_replaced_by_the_next_program() {
    let place = Place::new();
    assert!(place.local(&["enable"]).status.success());
    let first = place.broker().unwrap();
    kill_process(first, Signal::KILL).unwrap();
    // It is another's child.
    wait_until("it is gone", || test_kill_process(first).is_err() || is_zombie(first));
    assert_eq!(place.local(&["status"]).status.code(), Some(1));
    let output = place.run(&[], &["true"]);
    assert!(output.status.success() && said(&output).is_empty(), "{output:?}");
    assert_ne!(place.broker().unwrap(), first);
}

fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| {
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z'))
    })
}

/// What io_uring_setup(0, NULL) says, as a number of errno.
const IO_URING: &str = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); \
    libc.syscall(425, 0, None); print(ctypes.get_errno())";

#[test]
fn the_program_is_told_that_there_is_no_io_uring_unless_it_may_have_it() {
    let place = Place::new();
    let status = ["grep", "-E", "^(Seccomp|NoNewPrivs):", "/proc/self/status"];
    let shown = text(&place.run(&[], &status).stdout);
    assert!(shown.contains("Seccomp:\t2"), "{shown}");
    if rustix::process::geteuid().is_root() {
        // Root needs none, and set-user-ID programs go on to work.
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find(|line| line.starts_with("NoNewPrivs:")).unwrap();
        assert!(shown.contains(own), "{shown}");
    }
    let python = ["python3", "-c", IO_URING];
    let Ok(plain) = Command::new(python[0]).args(&python[1..]).output() else {
        return skip("no python3");
    };
    const ENOSYS: &str = "38";
    assert_eq!(text(&place.run(&[], &python).stdout), ENOSYS);
    let allowed = place.run(&["--allow-io-uring"], &python);
    assert_eq!(text(&allowed.stdout), text(&plain.stdout));
}
