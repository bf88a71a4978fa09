//! A service with a control socket, in a directory of its own.

use crate::support::pattern::Pattern;
use crate::support::peers::{accept, addr, connect};
use crate::support::{BINARY, Relay, serve};
use serde_json::Value;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory with a control socket and a configuration.
pub struct Dir(serve::Dir);

impl Dir {
    pub fn new() -> Self {
        Self(serve::Dir::new())
    }

    pub fn socket(&self) -> PathBuf {
        self.0.path().join("control.sock")
    }

    pub fn file(&self) -> PathBuf {
        self.0.path().join(serve::FILE)
    }

    /// Writes the configuration: a control socket, an admin address, and this.
    pub fn configure(&self, rest: &str) {
        let control = self.socket();
        let text = format!(
            "control = {control:?}\nworkers = 2\ndrain-timeout = \"1h\"\n[log]\nformat = \"json\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n{rest}"
        );
        self.0.write(serve::FILE, &text);
    }
}

/// One relay, `db`, to an upstream `u` of these servers.
pub fn relay_to(servers: &[&TcpListener]) -> String {
    let servers: Vec<_> = servers.iter().map(|server| addr(server).to_string()).collect();
    format!(
        "[[relay]]\nname = \"db\"\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
         [[upstream]]\nname = \"u\"\nservers = {servers:?}\n"
    )
}

pub struct Service {
    pub relay: Relay,
    pub dir: Dir,
}

impl Service {
    #[track_caller]
    pub fn to(servers: &[&TcpListener]) -> Self {
        Self::with(&relay_to(servers))
    }

    /// With the rest of its configuration.
    #[track_caller]
    pub fn with(rest: &str) -> Self {
        let dir = Dir::new();
        dir.configure(rest);
        Self { relay: Relay::serve(&dir.file()), dir }
    }

    /// `sosplice ctl ARGS`.
    pub fn ctl(&self, args: &[&str]) -> Output {
        ctl(&self.dir.socket(), args)
    }

    /// The same, which must be done: what it prints.
    #[track_caller]
    pub fn done(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), told.as_str()), (Some(0), ""), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[args, &["--json"]].concat())).unwrap()
    }

    /// The same, which must be refused: what it says.
    #[track_caller]
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        self.relay.next("metrics and health")["addr"].as_str().unwrap().parse().unwrap()
    }
}

pub fn ctl(socket: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("ctl").arg("--socket").arg(socket).args(args).stdin(Stdio::null());
    command.output().unwrap()
}

/// A client and the server that it came to, by its place in `servers`.
#[track_caller]
pub fn arrive(relay: &Relay, servers: &[&TcpListener]) -> (TcpStream, TcpStream, usize) {
    use rustix::event::{PollFd, PollFlags, poll};
    let client = connect(relay.addr());
    let mut fds: Vec<_> = servers.iter().map(|s| PollFd::new(*s, PollFlags::IN)).collect();
    let limit = crate::support::WATCHDOG.try_into().unwrap();
    assert!(poll(&mut fds, Some(&limit)).unwrap() > 0, "watchdog: no server was asked");
    let at = fds.iter().position(|fd| !fd.revents().is_empty()).unwrap();
    let server = accept(servers[at]);
    (client, server, at)
}

/// A byte each way.
#[track_caller]
pub fn greet(client: &TcpStream, server: &TcpStream) {
    Pattern::new(0).write(client, 1).unwrap();
    Pattern::new(0).expect(server, 1);
    Pattern::new(0).write(server, 1).unwrap();
    Pattern::new(0).expect(client, 1);
}
