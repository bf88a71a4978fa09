//! How clients are shared out among the workers: told by the numbers of their sessions, of which
//! each worker has its own.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use support::pattern::Pattern;
use support::peers::{accept, addr, finish, listener};
use support::serve::{Dir, Serve, tcp, upstream};
use support::{WATCHDOG, wait_until};

/// Those that one worker is left with, and those that then come: together the other worker has fewer
/// even with all who come.
const STAY: usize = 20;
const COME: usize = 10;
/// How many come at first: a few more than twice those who stay, for the shares are only about equal.
const FIRST: usize = 2 * STAY + 6;

struct Shared {
    serve: Serve,
    control: PathBuf,
    _dir: Dir,
}

/// A client, and the number of its session.
type Client = (TcpStream, u64);

impl Shared {
    /// One relay by the name of "r", of two workers.
    fn start(relay: &str) -> Self {
        let dir = Dir::new();
        let control = dir.path().join("control");
        let serve = Serve::start(&with_control(&control, relay));
        Self { serve, control, _dir: dir }
    }

    fn reload(&self, config: &str) {
        self.serve.reload(&with_control(&self.control, config));
    }

    fn sessions(&self) -> Vec<Value> {
        let mut stream = UnixStream::connect(&self.control).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        stream.write_all(b"{\"version\":1,\"request\":\"sessions\"}\n").unwrap();
        let mut all = Vec::new();
        for line in BufReader::new(stream).lines() {
            let told: Value = serde_json::from_str(&line.unwrap()).unwrap();
            all.extend(told["answer"]["sessions"].as_array().unwrap().iter().cloned());
            if told["more"] == false {
                break;
            }
        }
        all
    }

    /// Clients that the relay serves, each with its session.
    fn clients(&self, count: usize) -> Vec<Client> {
        let clients: Vec<_> = (0..count).map(|_| self.serve.connect("r")).collect();
        wait_until("all are served", || {
            let served = self.sessions();
            clients.iter().all(|client| session(&served, client).is_some())
        });
        let served = self.sessions();
        clients
            .into_iter()
            .map(|client| {
                let id = session(&served, &client).unwrap();
                (client, id)
            })
            .collect()
    }

    /// One worker has clients, the other none. Their servers, if there are any, send nothing and take
    /// their leave: a session ends when its client leaves too.
    fn lopsided(&self, servers: Option<&TcpListener>) -> Vec<Client> {
        let (stay, leave): (Vec<_>, Vec<_>) =
            self.clients(FIRST).into_iter().partition(|(_, id)| worker(*id) == 0);
        if let Some(servers) = servers {
            (0..FIRST).for_each(|_| drop(accept(servers)));
        }
        assert!(stay.len() >= STAY && leave.len() >= STAY, "{} and {}", stay.len(), leave.len());
        drop(leave);
        wait_until("they have left", || self.sessions().len() == stay.len());
        stay
    }
}

/// Which worker has given a session its number: two workers and the sessions of datagrams take turns.
fn worker(id: u64) -> u64 {
    (id - 1) % 3
}

fn with_control(control: &Path, config: &str) -> String {
    format!("control = \"{}\"\n{config}", control.display())
}

fn session(served: &[Value], client: &TcpStream) -> Option<u64> {
    let addr = client.local_addr().unwrap().to_string();
    served.iter().find(|session| session["client"] == addr.as_str())?["id"].as_u64()
}

/// By the kernel's hash alone, half of those who come would be the busy worker's.
#[test]
fn who_comes_goes_to_the_worker_with_fewer_sessions() {
    let upstream_end = listener();
    let file = tcp("r", "u", "") + &upstream("u", &[addr(&upstream_end)], "");
    let shared = Shared::start(&file);
    let stay = shared.lopsided(Some(&upstream_end));
    let come = shared.clients(COME);
    assert!(come.iter().all(|(_, id)| worker(*id) == 1), "{come:?}");
    drop((stay, come));
}

/// A session that was handed over is one like any other: it carries, is counted once, and is waited
/// for at the end.
#[test]
fn who_was_handed_over_is_served_to_the_end() {
    let upstream_end = listener();
    let file = tcp("r", "u", "") + &upstream("u", &[addr(&upstream_end)], "");
    let mut shared = Shared::start(&format!("drain-timeout = \"1h\"\n{file}"));
    let stay = shared.lopsided(Some(&upstream_end));
    let come: Vec<_> =
        (0..COME).map(|_| (shared.serve.connect("r"), accept(&upstream_end))).collect();
    shared.serve.signal(Signal::TERM);
    drop(stay);
    for (client, server) in &come {
        Pattern::new(1).write(client, 100_000).unwrap();
        finish(client);
        Pattern::new(1).expect_whole(server, 100_000);
        Pattern::new(2).write(server, 100_000).unwrap();
        finish(server);
        Pattern::new(2).expect_whole(client, 100_000);
    }
    assert_eq!(shared.serve.wait().code(), Some(0));
    let stopped = shared.serve.next("stopped");
    let count = |key| support::number(&stopped, key) as usize;
    assert_eq!((count("accepted"), count("refused")), (FIRST + COME, 0), "{stopped}");
}

/// What is in force is asked of the listener of the relay that the client has come to: a reload holds from
/// the next request on.
#[test]
fn who_was_handed_over_hears_of_a_reload() {
    let file = |[r, s]: [u16; 2]| {
        let relay = |name, status| {
            format!(
                "[[relay]]\nname = \"{name}\"\nprotocol = \"http\"\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
                 [[relay.rule]]\naction = \"block\"\nstatus = {status}\n"
            )
        };
        relay("s", s) + &relay("r", r) + &upstream("u", &["127.0.0.1:9".parse().unwrap()], "")
    };
    let shared = Shared::start(&file([403, 404]));
    let stay = shared.lopsided(None);
    let come = shared.clients(COME);
    for (client, _) in &come {
        assert_eq!(status(client), "403");
    }
    shared.reload(&file([410, 451]));
    for (client, _) in stay.iter().chain(&come) {
        assert_eq!(status(client), "410");
    }
}

/// Of the answer to a request.
fn status(mut client: &TcpStream) -> String {
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap();
    let len = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
    let mut body = vec![0; len.unwrap().parse().unwrap()];
    client.read_exact(&mut body).unwrap();
    head.split(' ').nth(1).unwrap().to_owned()
}
