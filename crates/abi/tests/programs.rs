//! Whole programs: what the library exports, the examples, and one program linked, linked
//! statically and preloaded. Needs cc; the Python relay needs python3.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "preloaded/library.rs"]
mod library;
#[path = "preloaded/needs.rs"]
mod needs;

use needs::has;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const WATCHDOG: Duration = Duration::from_secs(30);

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn target(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

fn compile(name: &str, to: &str, more: &[&str]) -> PathBuf {
    let to = target(to);
    let built = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(source("include"))
        .arg("-o")
        .arg(&to)
        .arg(source(name))
        .args(more)
        .status()
        .unwrap();
    assert!(built.success());
    to
}

struct Server(Child, u16);

impl Server {
    /// Starts a program that writes its port.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self(child, line.trim().parse().unwrap())
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.1)).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends back what it gets, and its own end behind it.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                let _ = std::io::copy(&mut from, &mut to);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    port
}

fn goes_through(server: &Server) {
    for round in 0..3u8 {
        let stream = server.connect();
        let bytes: Vec<u8> = (0..1_000_000u32).map(|at| (at >> 3) as u8 ^ round).collect();
        let mut writer = stream.try_clone().unwrap();
        let sent = bytes.clone();
        let sender = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        (&stream).read_to_end(&mut got).unwrap();
        sender.join().unwrap();
        assert!(got == bytes);
    }
}

#[test]
fn only_the_interface_and_the_interposed_names_are_exported() {
    if !has("nm") {
        return;
    }
    let listed = Command::new("nm")
        .args(["-D", "--defined-only", "--with-symbol-versions"])
        .arg(library::path())
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut names: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        // The version itself, which the linker adds as an absolute symbol.
        .filter(|name| !name.starts_with("SOSPLICE_1.0"))
        .collect();
    names.sort_unstable();
    let mut expected = vec![
        "sosplice@@SOSPLICE_1.0",
        "sosplice_both@@SOSPLICE_1.0",
        "sosplice_length@@SOSPLICE_1.0",
        "sosplice_wait@@SOSPLICE_1.0",
        "sounsplice@@SOSPLICE_1.0",
    ];
    // Without a version, so that they stand for every version of libc's.
    expected.extend(
        "_Exit __dprintf_chk __poll_chk __ppoll_chk __read_chk __recv_chk __recvfrom_chk \
         __vdprintf_chk _exit accept accept4 close close_range closefrom connect dprintf dup dup2 \
         dup3 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait execl execle execlp execv execve \
         execveat execvp execvpe fclose fcntl fcntl64 fdopen fexecve fileno fileno_unlocked \
         fork getsockopt ioctl listen poll popen posix_spawn posix_spawnp ppoll pselect pthread_create \
         read readv recv recvfrom recvmmsg recvmsg select send sendfile sendfile64 sendmmsg \
         sendmsg sendto setsockopt shutdown socket splice syscall system thrd_create vdprintf \
         write writev"
            .split_whitespace(),
    );
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[test]
fn one_program_linked_linked_statically_and_preloaded() {
    if !has("cc") {
        return;
    }
    let library = library::path();
    let dir = library.parent().unwrap().to_str().unwrap();
    let archive = library.with_extension("a");
    let linked = compile(
        "tests/c/interface.c",
        "linked",
        &["-DLINKED", "-pthread", library.to_str().unwrap()],
    );
    // The library's own name is libsosplice.so.1.
    let by_soname = target("libsosplice.so.1");
    let _ = std::fs::remove_file(&by_soname);
    std::os::unix::fs::symlink(&library, &by_soname).unwrap();
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    run(Command::new(linked).env("LD_LIBRARY_PATH", by_soname.parent().unwrap()));
    let alone = compile(
        "tests/c/interface.c",
        "static",
        &["-DLINKED", "-pthread", archive.to_str().unwrap(), "-lm", "-lgcc_s"],
    );
    run(&mut Command::new(alone));
    for (name, more) in [
        ("plain", &["-pthread"][..]),
        ("fortified", &["-pthread", "-D_FORTIFY_SOURCE=2"]),
        ("large", &["-pthread", "-D_FILE_OFFSET_BITS=64"]),
    ] {
        let plain = compile("tests/c/interface.c", name, more);
        run(Command::new(plain).env("LD_PRELOAD", &library));
    }
    assert!(!dir.is_empty());
}

#[test]
fn the_relay_in_c() {
    if !has("cc") {
        return;
    }
    let relay = compile("examples/relay.c", "relay", &[]);
    let port = echo().to_string();
    let mut command = Command::new(relay);
    command.args(["0", "127.0.0.1", &port]).env("LD_PRELOAD", library::path());
    goes_through(&Server::start(&mut command));
}

#[test]
fn the_relay_in_python() {
    if !has("python3") {
        return;
    }
    let port = echo().to_string();
    let mut command = Command::new("python3");
    command.arg(source("examples/relay.py")).args(["0", "127.0.0.1", &port]);
    goes_through(&Server::start(command.env("LD_PRELOAD", library::path())));
}

/// A program in a pid namespace of its own, and a user's and network's.
fn in_namespaces(program: &Path) -> Option<Command> {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc"]);
    // Some kernels keep namespaces to root.
    let may = Command::new("unshare").args(["--user", "--map-root-user", "true"]).status();
    if !may.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("SOSPLICE_NO_SKIP").is_none(), "no user namespaces");
        eprintln!("skipped: no user namespaces");
        return None;
    }
    // Nothing is up in a new network namespace.
    command.args(["sh", "-c", "ip link set lo up && exec env LD_PRELOAD=\"$1\" \"$0\""]);
    command.arg(program).arg(library::path());
    Some(command)
}

#[test]
fn process_one_and_a_subreaper_find_no_child_but_their_own() {
    if !has("cc") || !has("unshare") || !has("ip") {
        return;
    }
    let program = compile("tests/c/init.c", "init", &[]);
    let done = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout, b"done\n");
    };
    done(Command::new(&program).arg("subreaper").env("LD_PRELOAD", library::path()));
    if let Some(mut command) = in_namespaces(&program) {
        done(&mut command);
    }
}

/// An upstream that answers each request with its body, reversed.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut writer = stream;
            while let Some(mut body) = message(&mut reader) {
                body.reverse();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                writer.write_all(head.as_bytes()).unwrap();
                writer.write_all(&body).unwrap();
            }
        }
    });
    port
}

/// The body of the next message.
fn message(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

#[test]
fn http_heads_in_user_space_and_bodies_by_the_maximum() {
    if !has("cc") {
        return;
    }
    let relay = compile("examples/http.c", "http", &[]);
    let port = upstream().to_string();
    let mut command = Command::new(relay);
    let server = Server::start(command.args(["0", &port]).env("LD_PRELOAD", library::path()));
    let mut stream = server.connect();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    // One connection, many requests.
    for length in [0usize, 1, 100, 70_000, 3, 2_000_000, 8192] {
        let mut body: Vec<u8> = (0..length).map(|at| (at >> 2) as u8).collect();
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        let mut writer = stream.try_clone().unwrap();
        let sent = body.clone();
        let sender = std::thread::spawn(move || {
            writer.write_all(head.as_bytes()).unwrap();
            writer.write_all(&sent).unwrap();
        });
        let got = message(&mut reader).unwrap();
        sender.join().unwrap();
        body.reverse();
        assert!(got == body, "{length}");
    }
    stream.flush().unwrap();
}
