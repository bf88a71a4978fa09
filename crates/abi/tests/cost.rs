//! What the library costs, in counts: instructions of a program that never uses the option, or whose
//! connections never pair (valgrind's callgrind), and system calls: of such a program, of the carrier for what a source
//! holds, and of a close.
//! Needs cc, valgrind and strace, and a release build of the library.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "preloaded/needs.rs"]
mod needs;

use needs::has;
use sosplice_local::broker::{Broker, Options, Scope};
use sosplice_local::settings::{Settings, VARIABLE};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The instructions of a program.
fn instructions(program: &Path, args: &[&str], environment: &[(&str, &OsStr)]) -> u64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(program).args(args).envs(environment.iter().copied());
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

fn compiled(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-I"]).arg(manifest.join("include"));
    cc.arg(manifest.join(format!("tests/c/{name}.c"))).arg("-o").arg(&program);
    assert!(cc.status().unwrap().success());
    program
}

/// Both tests run it, and must not meet it half written.
static BURST: LazyLock<PathBuf> = LazyLock::new(|| compiled("burst"));

/// The system calls of a burst, a line each, until the program ends; the carrier's among them.
fn calls(protocol: &str) -> Vec<String> {
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("burst-{protocol}.trace"));
    let status = Command::new("strace")
        .args(["-f", "-qqq", "-o"])
        .arg(&trace)
        .arg("-E")
        .arg(format!("LD_PRELOAD={}", release_library().display()))
        .arg(&*BURST)
        .arg(protocol)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let text = std::fs::read_to_string(trace).unwrap();
    // What the carrier does behind the program's end is not the burst's. A call that was interrupted
    // by another thread's is told in two lines.
    text.lines()
        .take_while(|line| !line.contains("exit_group("))
        .filter(|line| !line.contains(" resumed>"))
        .map(str::to_owned)
        .collect()
}

fn count(calls: &[String], names: &[&str]) -> usize {
    calls.iter().filter(|call| names.iter().any(|name| call.contains(name))).count()
}

#[test]
fn a_move_of_a_stream_asks_little() {
    if !has("cc") || !has("strace") {
        return;
    }
    let calls = calls("tcp");
    let moves = count(&calls, &[" splice("]);
    let rooms = count(&calls, &["SO_MEMINFO"]);
    let looks = count(&calls, &["MSG_PEEK"]);
    println!("128 KiB: {moves} splices, {rooms} questions for room, {looks} looks");
    assert!(moves >= 2, "not moved by splice(2): {moves}");
    // The first 64 KiB are copied and the rest is spliced; the last look finds nothing.
    assert!(moves <= 6, "{moves} splices");
    assert!(rooms <= 1 + moves / 2, "{rooms} questions for room");
    assert!(looks <= moves / 2 + 1, "{looks} looks");
}

#[test]
fn a_burst_of_datagrams_goes_in_few_calls() {
    if !has("cc") || !has("strace") {
        return;
    }
    let calls = calls("udp");
    let of_burst = ["recvmmsg(", "sendmmsg(", "SO_PEEK_OFF", "UDP_SEGMENT", "cmsg_level=SOL_UDP"];
    let used = count(&calls, &of_burst);
    println!("200 datagrams: {used} calls");
    // 7 looks for 32 and their company; one by one it were four calls each.
    assert!((7..=70).contains(&used), "{used} calls");
}

/// A socket that only this process can have is not searched for among its relatives' descriptors.
#[test]
fn a_close_beside_many_descriptors_does_not_look_at_them() {
    const DESCRIPTORS: usize = 500;
    if !has("cc") || !has("strace") {
        return;
    }
    let program = compiled("closes");
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
    let program = compiled("quiet");
    let library = release_library();
    // The difference of two lengths is the loop alone, without the start.
    let a_loop = |environment| {
        instructions(&program, &["20000"], environment)
            - instructions(&program, &["10000"], environment)
    };
    let (without, with) = (a_loop(&[]), a_loop(&[("LD_PRELOAD", library.as_os_str())]));
    println!("10,000 rounds: {without} instructions without, {with} with the library");
    assert!(with * 100 <= without * 101, "{with} instructions, without the library {without}");
}

/// Such calls on what is no connection at all may take so many instructions more.
const MORE_ON_ANYTHING: u64 = 100;
/// And on a connection whose other end does not announce itself.
const MORE_ON_A_CONNECTION: u64 = 260;

#[test]
fn a_program_that_never_pairs_hardly_pays() {
    if !has("cc") || !has("valgrind") || !has("strace") {
        return;
    }
    let program = compiled("unpaired");
    let library = release_library();
    let (dir, settings) = rendezvous("unpaired");
    let library = [("LD_PRELOAD", library.as_os_str()), (VARIABLE, settings.as_os_str())];

    // A round is write, poll, epoll_wait and read; over TCP also the other end's two, which the library does not see
    // begin.
    for (over, calls, of_connection) in [("pipe", 4, 0), ("tcp", 6, 2)] {
        let a_loop = |environment: &[(&str, &OsStr)]| {
            let of = |rounds| instructions(&program, &[over, rounds], environment);
            (of("2000") - of("1000")) / 1000
        };
        let (without, with) = (a_loop(&[]), a_loop(&library));
        println!("{over}: {without} instructions a round without, {with} with the library");
        let more =
            (calls - of_connection) * MORE_ON_ANYTHING + of_connection * MORE_ON_A_CONNECTION;
        assert!(with <= without + more, "{over}: {with} instructions, without {without}");

        let a_loop = |environment: &[(&str, &OsStr)]| {
            let of = |rounds| system_calls(&program, &[over, rounds], environment).len();
            of("2000") - of("1000")
        };
        assert_eq!(a_loop(&library), a_loop(&[]), "{over}: system calls");
    }
    let _ = std::fs::remove_dir_all(&dir);
}

/// A broker in a thread that ends with this process, in a directory of its own, and the settings that lead there.
fn rendezvous(name: &str) -> (PathBuf, OsString) {
    let dir = std::env::temp_dir().join(format!("sosplice-{name}-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    let broker = Broker::bind(&dir, Options::new(Scope::Namespace)).unwrap();
    std::thread::spawn(move || broker.run().unwrap());
    let settings = Settings::new(&dir).to_env();
    (dir, settings)
}

/// The system calls that a program and its children make, a line each.
fn system_calls(program: &Path, args: &[&str], environment: &[(&str, &OsStr)]) -> Vec<String> {
    let name = program.file_name().unwrap().display().to_string();
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.trace"));
    let mut command = Command::new("strace");
    for (name, value) in environment {
        let mut of_program = OsString::from(format!("{name}="));
        of_program.push(value);
        command.arg("-E").arg(of_program);
    }
    let status = command.args(["-f", "-qqq", "-o"]).arg(&trace).arg(program).args(args).status();
    assert!(status.unwrap().success());
    let text = std::fs::read_to_string(trace).unwrap();
    text.lines().filter(|line| !line.contains(" resumed>")).map(str::to_owned).collect()
}

/// A sleep and a wake for each message, at a word of the ring's memory; the sockets are left alone.
#[test]
fn a_message_between_programs_that_sleep_asks_little() {
    const ROUNDS: usize = 2000;
    if !has("cc") || !has("strace") {
        return;
    }
    let program = compiled("roundtrips");
    let library = release_library();
    let (dir, settings) = rendezvous("roundtrips");
    let library = [("LD_PRELOAD", library.as_os_str()), (VARIABLE, settings.as_os_str())];
    // A poll that finds the bytes there asks the kernel what else there is. A process that is kept from running for
    // long sends its peer to the socket.
    for (how, looks) in [("recv", ROUNDS / 2), ("poll", 2 * ROUNDS + ROUNDS / 2)] {
        let calls = system_calls(&program, &[how, &ROUNDS.to_string()], &library);
        let at_words = count(&calls, &["futex(", "futex_waitv("]);
        let at_sockets = count(&calls, &["sendto(", "recvfrom(", "sendmsg(", "recvmsg(", "poll("]);
        println!("{how}, {ROUNDS} rounds: {at_words} calls at words, {at_sockets} at sockets");
        assert!(at_sockets < looks, "{how}: {at_sockets} calls at sockets");
        assert!(at_words > ROUNDS, "{how}: {at_words} calls at words");
        assert!(at_words < 5 * ROUNDS, "{how}: {at_words} calls at words");
    }
    let _ = std::fs::remove_dir_all(&dir);
}
