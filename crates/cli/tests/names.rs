//! Names of servers, resolved by the system: a hosts file of the test's own, in a mount namespace.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use support::{BINARY, WATCHDOG, skip};

/// A service, killed when it goes out of scope.
struct Service {
    child: Child,
    lines: Receiver<String>,
}

impl Service {
    /// The next line that has all of `parts`; None when the log ends before.
    fn line(&self, parts: &[&str]) -> Option<String> {
        loop {
            let line = self.lines.recv_timeout(WATCHDOG).ok()?;
            eprintln!("{line}");
            if parts.iter().all(|part| line.contains(part)) {
                return Some(line);
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the configuration with the files of `dir` for those of /etc: the hosts, and what keeps the
/// resolver from asking anybody else.
fn serve(dir: &str) -> Service {
    let script = "for file in hosts resolv.conf nsswitch.conf; do
            [ ! -e /etc/$file ] || mount --bind \"$1/$file\" /etc/$file || exit
        done
        exec \"$0\" serve -c \"$1/sosplice.toml\"";
    let mut child = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, BINARY, dir])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (send, lines) = channel();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    // Ends with the child.
    std::thread::spawn(move || {
        stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line))
    });
    Service { child, lines }
}

/// A server on that address, which says so to everybody.
fn telling(addr: &str) -> SocketAddr {
    let listener = TcpListener::bind(addr).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = std::io::Write::write_all(&mut &stream, addr.ip().to_string().as_bytes());
        }
    });
    addr
}

fn told(relay: SocketAddr) -> String {
    let mut stream = TcpStream::connect(relay).unwrap();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_name_that_moves_takes_new_sessions_with_it() {
    let has_namespaces = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "mount",
            "--bind",
            "/etc/hosts",
            "/etc/hosts",
        ])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_namespaces {
        return skip("no mount namespace");
    }
    let dir = std::env::temp_dir().join(format!("sosplice-names-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let [hosts, config] = ["hosts", "sosplice.toml"].map(|name| dir.join(name));
    let first = telling("127.0.0.1:0");
    telling(&format!("127.0.0.2:{}", first.port()));
    std::fs::write(&hosts, "127.0.0.1 moving.test\n").unwrap();
    std::fs::write(dir.join("nsswitch.conf"), "hosts: files\n").unwrap();
    std::fs::write(dir.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    std::fs::write(
        &config,
        format!(
            "[[relay]]\nname = \"web\"\nprotocol = \"tcp\"\nlisten = \"127.0.0.1:0\"\nupstream = \"web\"\n\n\
             [[upstream]]\nname = \"web\"\nservers = [\"moving.test:{}\"]\nresolve-interval = \"1s\"\n",
            first.port()
        ),
    )
    .unwrap();
    let service = serve(dir.to_str().unwrap());
    let listening = service.line(&["listening", "addr="]).expect("it listens");
    let addr = listening.split("addr=").nth(1).unwrap().split(' ').next().unwrap();
    let addr: SocketAddr = addr.parse().unwrap();
    assert_eq!(told(addr), "127.0.0.1");
    // Nobody: the address stays.
    std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    service.line(&["name not resolved", "moving.test"]).expect("the failure is told");
    assert_eq!(told(addr), "127.0.0.1");
    std::fs::write(&hosts, "127.0.0.2 moving.test\n").unwrap();
    service.line(&["addresses changed", "127.0.0.2"]).expect("the change is told");
    assert_eq!(told(addr), "127.0.0.2");
    let _ = std::fs::remove_dir_all(&dir);
}
