//! Programs that others wrote, through `sosplice relay --udp`: a DNS server and its
//! client, a measuring pair with a TCP connection beside its datagrams, a log sender.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use serde_json::Value;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::datagrams::{V4, addr, relay_to, upstream};
use support::{Relay, WATCHDOG, number, skip, wait_until};

/// A server of somebody else's, killed when it goes out of scope.
struct Server {
    child: Child,
    addr: SocketAddr,
}

impl Server {
    /// None where the program is not installed.
    fn start(command: &mut Command, addr: SocketAddr) -> Option<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Some(Self { child: command.spawn().ok()?, addr })
    }

    /// Waits until it has bound its port, which /proc/net/udp or tcp shows.
    #[track_caller]
    fn listens(mut self, table: &str) -> Self {
        let port = format!(":{:04X}", self.addr.port());
        let path = format!("/proc/net/{table}");
        wait_until("the server listens", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended: {ended:?}");
            std::fs::read_to_string(&path).unwrap().lines().skip(1).any(|line| {
                line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&port))
            })
        });
        self
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free for both protocols a moment ago.
fn free_port() -> SocketAddr {
    loop {
        let tcp = TcpListener::bind((V4, 0)).unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            return addr(&udp);
        }
    }
}

/// Its output, within the watchdog's time; None where it is not installed.
#[track_caller]
fn run(command: &mut Command) -> Option<Output> {
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()?;
    let running = thread::spawn(move || child.wait_with_output());
    let deadline = Instant::now() + WATCHDOG;
    while !running.is_finished() {
        assert!(Instant::now() < deadline, "watchdog: {command:?} does not end");
        thread::sleep(Duration::from_millis(5));
    }
    Some(running.join().unwrap().unwrap())
}

/// What a TXT record of the test's server says: `strings` of 200 bytes.
fn text(strings: usize) -> Vec<String> {
    (0..strings).map(|i| format!("{i:03}-").repeat(50)).collect()
}

fn dns_server() -> Option<Server> {
    let at = free_port();
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv"]);
    command.args(["--no-hosts", "--bind-interfaces", "--log-facility=-", "--listen-address"]);
    command.arg(at.ip().to_string()).arg(format!("--port={}", at.port()));
    command.args(["--edns-packet-max=4096", "--local=/test/"]);
    // Who runs this may keep his rights: the server has no others to fall back to.
    if rustix::process::geteuid().is_root() {
        command.arg("--user=root");
    }
    for (name, strings) in [("large.test", 15), ("huge.test", 30)] {
        command.arg(format!("--txt-record={name},{}", text(strings).join(",")));
    }
    for host in 1..=40 {
        command.arg(format!("--host-record=host{host}.test,192.0.2.{host}"));
        command.arg(format!("--host-record=many.test,198.51.100.{host}"));
    }
    Server::start(&mut command, at).map(|server| server.listens("udp"))
}

/// What dig(1) prints for a question that it asks once.
#[track_caller]
fn dig(at: SocketAddr, question: &[&str]) -> Option<String> {
    let mut command = Command::new("dig");
    command.arg(format!("@{}", at.ip())).arg(format!("-p{}", at.port()));
    // UDP alone, one try; what it waits is the watchdog's business.
    command.args(["+tries=1", "+time=30", "+notcp", "+ignore", "-r"]).args(question);
    let output = run(&mut command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{question:?}: {text}");
    Some(text)
}

/// Answers of any size come as the server gave them: small ones, those beyond the 512
/// bytes of old, and those beyond the 1,232 that fit any packet.
#[test]
fn dns_through_the_relay_is_what_the_server_says() {
    let Some(server) = dns_server() else { return skip("dnsmasq is not installed") };
    let mut relay = relay_to(&[server.addr], &[]);
    let mut asked = 0;
    let mut ask = |question: &[&str]| {
        let answer = dig(relay.addr(), question)?;
        asked += 1;
        Some(answer)
    };
    let Some(first) = ask(&["host1.test", "+short"]) else {
        return skip("dig is not installed");
    };
    assert_eq!(first.trim(), "192.0.2.1");
    for host in 2..=20 {
        let answer = ask(&[&format!("host{host}.test"), "+short"]).unwrap();
        assert_eq!(answer.trim(), format!("192.0.2.{host}"));
    }
    let answer = ask(&["many.test", "+short"]).unwrap();
    assert_eq!(answer.lines().count(), 40, "{answer}");
    let answer = ask(&["large.test", "TXT", "+bufsize=4096"]).unwrap();
    for string in text(15) {
        assert!(answer.contains(&string), "{string} is not in {answer}");
    }
    assert!(received(&answer) > 3_000 && !is_cut(&answer), "{answer}");
    // What does not fit is cut by the server, who says so; not by the relay, who would not.
    for question in [&["huge.test", "TXT", "+bufsize=4096"], &["large.test", "TXT", "+noedns"]] {
        let answer = ask(question).unwrap();
        assert!(is_cut(&answer), "{answer}");
    }
    let answer = ask(&["nobody.test"]).unwrap();
    assert!(answer.contains("status: NXDOMAIN"), "{answer}");
    let stopped = relay.stop();
    assert_eq!((number(&stopped, "accepted"), number(&stopped, "dropped")), (asked, 0));
    for _ in 0..asked {
        let session = relay.next_session();
        assert_eq!((session.up_datagrams, session.down_datagrams), (1, 1), "{session:?}");
    }
}

/// The size of the answer, by dig's own count.
fn received(answer: &str) -> u64 {
    let size = answer.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: "));
    size.and_then(|size| size.trim().parse().ok()).unwrap_or(0)
}

fn is_cut(answer: &str) -> bool {
    answer.lines().any(|line| line.starts_with(";; flags:") && line.contains(" tc"))
}

/// A relay for each protocol on one port, as such programs want it.
fn both_relays(target: SocketAddr) -> (Relay, Relay) {
    loop {
        let tcp = Relay::to(target, &["--workers=1"]);
        // Who has the port meanwhile is asked for another.
        if UdpSocket::bind(tcp.addr()).is_ok() {
            let (listen, target) = (tcp.addr().to_string(), target.to_string());
            return (tcp, Relay::start(&["--udp", &listen, &target, "--workers=1"]));
        }
    }
}

/// Many datagrams at a rate, either way, and a connection that agrees on them: what was
/// sent was carried, in its order.
#[test]
fn iperf3_agrees_on_what_was_carried() {
    const DATAGRAMS: u64 = 600;
    const LEN: u64 = 1_400;
    for reverse in [false, true] {
        let at = free_port();
        let mut command = Command::new("iperf3");
        command.args(["--server", "--one-off", "--bind", "127.0.0.1"]);
        command.arg(format!("--port={}", at.port()));
        let Some(server) = Server::start(&mut command, at) else {
            return skip("iperf3 is not installed");
        };
        let server = server.listens("tcp");
        let (tcp, mut udp) = both_relays(server.addr);
        let mut command = Command::new("iperf3");
        command.args(["--client", "127.0.0.1", "--udp", "--json", "--bitrate=20M"]);
        command.arg(format!("--port={}", udp.addr().port()));
        command.arg(format!("--bytes={}", DATAGRAMS * LEN)).arg(format!("--length={LEN}"));
        command.args(reverse.then_some("--reverse"));
        let output = run(&mut command).unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success(), "{report}");
        let sum = &report["end"]["sum"];
        let sent = number(sum, "packets");
        let stopped = udp.stop();
        let session = udp.next_session();
        assert_eq!(number(&stopped, "accepted"), 1);
        let carried = if reverse { session.down_datagrams } else { session.up_datagrams };
        // And those by which the two find each other; what a receiver lost by himself was
        // carried too.
        assert!(
            sent >= DATAGRAMS && carried + number(&stopped, "dropped") > sent,
            "{session:?}, {sum}"
        );
        assert!(number(sum, "lost_packets") < sent, "{sum}");
        let stream = &report["end"]["streams"][0]["udp"];
        assert_eq!(stream["out_of_order"], 0, "{stream}");
        drop(tcp);
    }
}

/// logger(1) sends one datagram and has gone before the relay can answer anything.
#[test]
fn log_lines_arrive_as_they_were_sent() {
    let upstream = upstream();
    let relay = relay_to(&[addr(&upstream)], &[]);
    for number in 0..10 {
        let line = format!("line {number} of a log that goes over the network");
        let mut command = Command::new("logger");
        command.args(["--udp", "--server=127.0.0.1", "--rfc3164", "--tag=test"]);
        command.arg(format!("--port={}", relay.addr().port())).arg("--").arg(&line);
        let Some(output) = run(&mut command) else { return skip("logger is not installed") };
        assert!(output.status.success(), "{output:?}");
        let mut buffer = vec![0; 65_536];
        let count = upstream.recv(&mut buffer).unwrap();
        let told = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(told.starts_with('<') && told.ends_with(&line), "{told}");
    }
}
