//! Upstreams by their effect: balance, backups, checks, and servers that go.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::process::Signal;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use support::peers::{Refusing, connect};
use support::serve::{
    Dir, Named, Program, Serve, connect_from, echo, free_address, hello, server, tcp, upstream,
};
use support::{Relay, skip, wait_until};

fn front(servers: &[SocketAddr], more: &str) -> String {
    tcp("front", "servers", "") + &upstream("servers", servers, more)
}

/// With servers that have keys of their own.
fn front_of(more: &str, servers: &[String]) -> String {
    tcp("front", "servers", "")
        + &format!("[[upstream]]\nname = \"servers\"\n{more}\n{}", servers.concat())
}

/// How many clients, one after the other, come to which server.
fn ask(serve: &Serve, clients: usize) -> HashMap<char, usize> {
    let mut asked = HashMap::new();
    for _ in 0..clients {
        *asked.entry(serve.ask("front")).or_default() += 1;
    }
    asked
}

#[test]
fn round_robin_goes_by_weight() {
    let [a, b, c] = ['a', 'b', 'c'].map(Named::start);
    let servers = [server(a.addr, "weight = 3"), server(b.addr, ""), server(c.addr, "weight = 2")];
    let serve = Serve::start(&front_of("balance = \"round-robin\"", &servers));
    assert_eq!(ask(&serve, 60), HashMap::from([('a', 30), ('b', 10), ('c', 20)]));
}

#[test]
fn least_connections_evens_out_running_sessions() {
    let [a, b, c] = ['a', 'b', 'c'].map(Named::start);
    let servers = [server(a.addr, "weight = 2"), server(b.addr, ""), server(c.addr, "")];
    let serve = Serve::start(&front_of("balance = \"least-connections\"", &servers));
    let held: Vec<_> = (0..16).map(|_| serve.connect("front")).collect();
    let names_of: Vec<_> = held.iter().map(hello).collect();
    let mut names = names_of.clone();
    names.sort_unstable();
    assert_eq!(names.iter().collect::<String>(), "aaaaaaaabbbbcccc");
    // All of one server's go; the next ones are its.
    let mut held: Vec<_> = held.into_iter().zip(names_of).collect();
    held.retain(|(_, name)| *name != 'b');
    (0..4).for_each(|_| _ = serve.next_closed());
    let next: Vec<_> = (0..4).map(|_| serve.connect("front")).collect();
    assert_eq!(next.iter().map(hello).collect::<String>(), "bbbb");
}

/// Chance decides, but not everything: the bounds are those that one run in millions misses.
#[test]
fn random_and_two_choices_leave_no_server_out() {
    for (balance, bounds) in [("random", 60..=140), ("two-choices", 60..=140)] {
        let servers = ['a', 'b', 'c'].map(Named::start);
        let addrs = servers.each_ref().map(|server| server.addr);
        let serve = Serve::start(&front(&addrs, &format!("balance = \"{balance}\"")));
        let asked = ask(&serve, 300);
        assert!(asked.len() == 3 && asked.values().all(|n| bounds.contains(n)), "{asked:?}");
    }
}

#[test]
fn two_choices_avoids_the_busy() {
    let [a, b] = ['a', 'b'].map(Named::start);
    let serve = Serve::start(&front(&[a.addr, b.addr], "balance = \"two-choices\""));
    // With two servers the choice is between all there are.
    let held: Vec<_> = (0..20).map(|_| serve.connect("front")).collect();
    let names: String = held.iter().map(hello).collect();
    assert_eq!(names.matches('a').count(), 10, "{names}");
}

#[test]
fn source_keeps_each_client_at_its_server() {
    let servers = ['a', 'b', 'c', 'd'].map(Named::start);
    let addrs = servers.each_ref().map(|server| server.addr);
    let balance = "balance = \"source\"";
    let serve = Serve::start(&front(&addrs, balance));
    let ask_all = || -> Vec<char> {
        (1..=40).map(|n| hello(&connect_from([127, 0, 1, n].into(), serve.at("front")))).collect()
    };
    let first = ask_all();
    for name in ['a', 'b', 'c', 'd'] {
        assert!(first.contains(&name), "{first:?}");
    }
    assert_eq!(ask_all(), first);
    // Another order and one server less: only its own clients move.
    serve.reload(&front(&[addrs[3], addrs[1], addrs[0]], balance));
    for (before, now) in first.iter().zip(ask_all()) {
        assert!(*before == 'c' && now != 'c' || *before == now, "{before} became {now}");
    }
}

#[test]
fn a_refused_connect_goes_to_the_next_server_and_comes_back() {
    let (refusing, a) = (Refusing::new(), Named::start('a'));
    for balance in ["round-robin", "least-connections", "two-choices", "random", "source"] {
        let file = front(&[refusing.1, a.addr], &format!("balance = \"{balance}\""));
        let serve = Serve::start(&file);
        assert_eq!(ask(&serve, 10), HashMap::from([('a', 10)]), "{balance}");
        assert_eq!(serve.lines("connection refused"), 0, "{balance}");
    }
}

/// A server in a process of its own: a relay to one that tells its name.
struct Mortal {
    process: Relay,
    named: Named,
}

impl Mortal {
    fn start(name: char) -> Self {
        let named = Named::start(name);
        Self { process: Relay::to(named.addr, &["--workers", "1"]), named }
    }

    fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
    }
}

/// Short sessions: those that began when the server was gone must not notice.
fn load(at: SocketAddr, killed: &AtomicBool, stop: &AtomicBool, done: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let after = killed.load(Ordering::Acquire);
        let session = || {
            let mut client = TcpStream::connect(at)?;
            client.set_read_timeout(Some(support::WATCHDOG))?;
            client.read_exact(&mut [0])?;
            echo(&client, b"load")
        };
        match session() {
            Ok(()) => _ = done.fetch_add(1, Ordering::AcqRel),
            Err(error) if after => failures.push(error.to_string()),
            Err(_) => {}
        }
    }
    failures
}

#[test]
fn a_killed_server_costs_only_the_sessions_that_it_carried() {
    let mut servers = ['a', 'b', 'c'].map(Mortal::start);
    let addrs = servers.each_ref().map(|server| server.process.addr());
    let mut serve = Serve::start(&front(&addrs, ""));
    let held: Vec<_> = (0..9)
        .map(|_| {
            let client = serve.connect("front");
            (hello(&client), client)
        })
        .collect();
    let (killed, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let done = AtomicUsize::new(0);
    let more = |than: usize| wait_until("sessions go on", || done.load(Ordering::Acquire) > than);
    let at = serve.at("front");
    thread::scope(|scope| {
        let loads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| load(at, &killed, &stop, &done))).collect();
        more(50);
        servers[1].kill();
        killed.store(true, Ordering::Release);
        more(done.load(Ordering::Acquire) + 200);
        stop.store(true, Ordering::Release);
        let failures: Vec<_> = loads.into_iter().flat_map(|load| load.join().unwrap()).collect();
        assert_eq!(failures, Vec::<String>::new());
    });
    for (name, client) in &held {
        if *name == 'b' {
            assert!(!matches!({ client }.read(&mut [0]), Ok(1..)), "its server is gone");
        } else {
            echo(client, &[9; 100_000]).unwrap();
        }
    }
    assert_eq!(held.iter().filter(|(name, _)| *name == 'b').count(), 3);
    assert_eq!(serve.lines("connection refused"), 0, "nobody was turned away");
    assert!(servers.iter().all(|server| server.named.served() > 3));
    serve.assert_running();
}

/// Quick, so that a test need not wait long.
const QUICK: &str = "interval = \"50ms\"\njitter = \"0s\"\ntimeout = \"2s\"\nrise = 2\nfall = 2\n";

fn check(kind: &str) -> String {
    format!("[upstream.check]\n{kind}\n{QUICK}")
}

#[test]
fn a_check_takes_a_server_out_and_back_in() {
    let (at_a, at_b) = (free_address(), free_address());
    let (a, b) = (Named::start_at('a', at_a), Named::start_at('b', at_b));
    let serve = Serve::start(&front(&[at_a, at_b], &check("kind = \"tcp\"")));
    assert_eq!(ask(&serve, 4), HashMap::from([('a', 2), ('b', 2)]));
    drop(a);
    let line = serve.next("server down");
    assert_eq!((&line["server"], &line["upstream"]), (&at_a.to_string().into(), &"servers".into()));
    assert_eq!(line["checks"], 2, "{line}");
    // Not even tried, whoever listens there.
    while serve.lines("connect failed") > 0 {
        serve.next("connect failed");
    }
    assert_eq!(ask(&serve, 6), HashMap::from([('b', 6)]));
    assert_eq!(serve.lines("connect failed"), 0);
    let _a = Named::start_at('A', at_a);
    let line = serve.next("server up");
    assert_eq!((&line["server"], &line["checks"]), (&at_a.to_string().into(), &2.into()));
    wait_until("it is in use again", || serve.ask("front") == 'A');
    // All of them.
    drop((_a, b));
    serve.next("server down");
    serve.next("server down");
    let mut client = serve.connect("front");
    assert!(client.read(&mut [0]).is_err());
    let line = serve.next("connection refused");
    assert!(line["error"].as_str().unwrap().contains("down"), "{line}");
}

#[test]
fn backups_are_used_when_no_other_is_up_and_only_then() {
    let at_a = free_address();
    let (a, b, c) = (Named::start_at('a', at_a), Named::start('b'), Named::start('c'));
    let servers =
        [server(b.addr, "backup = true"), server(at_a, ""), server(c.addr, "backup = true")];
    let serve = Serve::start(&front_of("", &[servers.concat(), check("kind = \"tcp\"")]));
    assert_eq!(ask(&serve, 6), HashMap::from([('a', 6)]));
    drop(a);
    // Before a check has found it, by the connect that fails.
    assert_ne!(serve.ask("front"), 'a');
    serve.next("server down");
    assert_eq!(ask(&serve, 6), HashMap::from([('b', 3), ('c', 3)]));
    let _a = Named::start_at('A', at_a);
    serve.next("server up");
    assert_eq!(ask(&serve, 6), HashMap::from([('A', 6)]));
}

#[test]
fn redis_is_asked_whether_it_answers() {
    let at = free_address();
    let dir = Dir::new();
    let redis = || {
        let (port, dir) = (at.port().to_string(), dir.path().to_string_lossy().into_owned());
        let arguments = ["--bind", "127.0.0.1", "--port", &port, "--save", "", "--dir", &dir];
        Program::start(Command::new("redis-server").args(arguments), at)
    };
    let Some(first) = redis() else { return skip("no redis-server") };
    // Accepts, and is no redis.
    let other = Named::start('x');
    let kind = "kind = \"send-expect\"\nsend = \"PING\\r\\n\"\nexpect = \"+PONG\"";
    let serve = Serve::start(&front(&[other.addr, at], &check(kind)));
    let line = serve.next("server down");
    assert_eq!(line["server"], other.addr.to_string());
    let ping = |mut client: TcpStream| {
        let mut answer = [0; 7];
        client.write_all(b"PING\r\n")?;
        client.read_exact(&mut answer)?;
        std::io::Result::Ok(answer == *b"+PONG\r\n")
    };
    for _ in 0..4 {
        assert!(ping(serve.connect("front")).unwrap());
    }
    // It hangs: it accepts, and answers nothing.
    drop(first);
    let line = serve.next("server down");
    assert_eq!(line["server"], at.to_string());
    assert!(ping(serve.connect("front")).is_err());
    let Some(_again) = redis() else { return skip("no redis-server") };
    let line = serve.next("server up");
    assert_eq!(line["server"], at.to_string());
    assert!(ping(serve.connect("front")).unwrap());
}

#[test]
fn nginx_is_asked_for_a_status() {
    let (dir, well, ill) = (Dir::new(), free_address(), free_address());
    let path = dir.path().display().to_string();
    std::fs::write(dir.path().join("healthy"), "yes").unwrap();
    let text = format!(
        "daemon off; master_process off; pid {path}/pid; error_log /dev/null;\n\
         events {{}}\nhttp {{ access_log off; client_body_temp_path {path}/c; proxy_temp_path {path}/p;\n\
         fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;\n\
         server {{ listen {well}; root {path}; location = /health {{ try_files /healthy =503; }} }}\n\
         server {{ listen {ill}; return 500; }} }}\n"
    );
    let file = dir.write("nginx.conf", &text);
    let mut command = Command::new("nginx");
    command.arg("-c").arg(file).arg("-p").arg(dir.path()).args(["-e", "/dev/null"]);
    let Some(_nginx) = Program::start(&mut command, well) else { return skip("no nginx") };
    let kind = "kind = \"http\"\npath = \"/health\"\nstatus = [200]";
    let serve = Serve::start(&front(&[ill, well], &check(kind)));
    let line = serve.next("server down");
    assert_eq!(line["server"], ill.to_string());
    assert!(line["why"].as_str().unwrap().contains("500"), "{line}");
    let get = || {
        let mut client = connect(serve.at("front"));
        client.write_all(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).map(|_| answer)
    };
    for _ in 0..4 {
        assert!(get().unwrap().ends_with("yes"));
    }
    std::fs::remove_file(dir.path().join("healthy")).unwrap();
    let line = serve.next("server down");
    assert_eq!(line["server"], well.to_string());
    assert!(get().is_err());
    std::fs::write(dir.path().join("healthy"), "again").unwrap();
    serve.next("server up");
    assert!(get().unwrap().ends_with("again"));
}

/// What is known of a server is known after a reload, too.
#[test]
fn a_reload_keeps_a_server_down() {
    let (refusing, a) = (Refusing::new(), Named::start('a'));
    let checked =
        |more: &str| front(&[refusing.1, a.addr], &format!("{more}\n{}", check("kind = \"tcp\"")));
    let serve = Serve::start(&checked(""));
    serve.next("server down");
    while serve.lines("connect failed") > 0 {
        serve.next("connect failed");
    }
    serve.reload(&checked("balance = \"random\""));
    assert_eq!(ask(&serve, 10), HashMap::from([('a', 10)]));
    assert_eq!(serve.lines("connect failed"), 0, "it was tried");
    assert_eq!(serve.lines("server down"), 0, "it was down already");
}
