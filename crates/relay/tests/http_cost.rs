//! What a small request costs on connections that are there: system calls and allocations,
//! counted, not timed. Alone in its file: it looks at one thread of its process.

use sosplice::tokio::Registered;
use sosplice_relay::http::{NoPlace, Peer, Pool, Record, Server, Site, serve};
use sosplice_relay::plan::{Action, HttpPlan, Protocol, RelayPlan, Rule, Timeouts, UpstreamId};
use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const WATCHDOG: Duration = Duration::from_secs(20);
const REQUESTS: usize = 100;

struct Current(RelayPlan);

impl AsRef<RelayPlan> for Current {
    fn as_ref(&self) -> &RelayPlan {
        &self.0
    }
}

struct OneServer(SocketAddr);

impl Server for OneServer {
    fn name(&self) -> &str {
        "one"
    }
    fn idle_connections_max(&self) -> usize {
        4
    }

    fn carried(&self, _up: u64, _down: u64) {}
}

struct TestSite {
    current: Arc<Current>,
    server: Arc<OneServer>,
    pool: Arc<Pool<OneServer>>,
}

impl Site for TestSite {
    type Current = Current;
    type Server = OneServer;
    type Place = Arc<OneServer>;
    type Tried = ();

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current)
    }

    async fn place(
        &self,
        _: &Current,
        _: Option<UpstreamId>,
        _: IpAddr,
        (): &mut (),
    ) -> Result<Arc<OneServer>, NoPlace> {
        Ok(Arc::clone(&self.server))
    }

    fn server(place: &Arc<OneServer>) -> &Arc<OneServer> {
        place
    }

    async fn connect(
        &self,
        _: &Current,
        place: &Arc<OneServer>,
        _: Peer,
    ) -> io::Result<Registered> {
        let stream = tokio::net::TcpStream::connect(place.0).await?;
        Registered::new(stream.into_std()?.into())
    }

    fn pool(&self) -> &Arc<Pool<OneServer>> {
        &self.pool
    }

    fn is_stopping(&self) -> bool {
        false
    }

    fn stopping(&self) -> impl Future<Output = ()> + Send {
        pending()
    }

    fn account(&self, _: &Current, record: &Record<'_>) {
        assert!(record.fault.is_none(), "{record:?}");
    }
}

/// Answers are the relay's own, as large as the server's.
fn own() -> HttpPlan {
    let action = Some(Action::Block { status: 403, body: "x".repeat(1024) });
    let rule = Rule {
        name: "all".into(),
        conditions: vec![],
        action,
        request_edits: vec![],
        response_edits: vec![],
    };
    HttpPlan { rules: vec![rule], ..HttpPlan::default() }
}

fn plan(http: HttpPlan) -> RelayPlan {
    let timeouts = Timeouts { idle: Some(Duration::from_secs(60)), ..Timeouts::default() };
    RelayPlan {
        name: "cost".into(),
        protocol: Protocol::Http(http),
        listeners: vec![],
        upstream: None,
        max_connections: None,
        max_per_client: None,
        send_proxy: None,
        timeouts,
        max_bytes: None,
        engine: sosplice::EngineChoice::Auto,
        congestion: None,
    }
}

/// Answers every request on every connection with a kilobyte.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            stream.set_nodelay(true).expect("nodelay");
            std::thread::spawn(move || {
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024));
                let mut piece = [0; 4096];
                // Each request comes in one piece.
                while stream.read(&mut piece).is_ok_and(|len| len > 0) {
                    stream.write_all(answer.as_bytes()).expect("sent");
                }
            });
        }
    });
    address
}

/// The client's thread: so many requests for each number that comes, and an answer when they are
/// done.
struct Client {
    orders: mpsc::Sender<usize>,
    done: tokio::sync::mpsc::Receiver<()>,
}

fn client(address: SocketAddr) -> Client {
    let (orders, jobs) = mpsc::channel::<usize>();
    let (finished, done) = tokio::sync::mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(WATCHDOG)).expect("watchdog");
        for count in jobs {
            for _ in 0..count {
                stream
                    .write_all(
                        b"GET /a HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n",
                    )
                    .expect("sent");
                let (mut got, mut len) = ([0; 4096], 0);
                while !got[..len].ends_with(&[b'x'; 1024]) {
                    len += stream.read(&mut got[len..]).expect("an answer");
                }
            }
            finished.blocking_send(()).expect("told");
        }
    });
    Client { orders, done }
}

/// A runtime with a relay in it, and a client that has made some requests.
fn warm(http: HttpPlan) -> (tokio::runtime::Runtime, Client) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let site = Arc::new(TestSite {
        current: Arc::new(Current(plan(http))),
        server: Arc::new(OneServer(origin())),
        pool: Arc::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut client = client(listener.local_addr().expect("address"));
    let (stream, peer) = listener.accept().expect("accept");
    stream.set_nodelay(true).expect("nodelay");
    let local = stream.local_addr().expect("address");
    runtime.block_on(async {
        let end = Registered::new(stream.into()).expect("register");
        let served = serve(end, Peer { client: peer, local }, site);
        println!("{} bytes of task", size_of_val(&served));
        assert!(size_of_val(&served) <= 2560, "an idle connection has that");
        tokio::spawn(served);
        client.orders.send(5).expect("sent");
        client.done.recv().await.expect("done");
    });
    (runtime, client)
}

/// Allocations by the requests.
fn allocated(http: HttpPlan) -> u64 {
    let (runtime, mut client) = warm(http);
    client.orders.send(REQUESTS).expect("sent");
    let counted = allocation_counter::measure(|| {
        runtime.block_on(async { client.done.recv().await.expect("done") });
    });
    println!("{} allocations by {REQUESTS} requests", counted.count_total);
    counted.count_total
}

#[test]
fn a_request_on_warm_connections_allocates_nothing() {
    for http in [HttpPlan::default(), own()] {
        // What is left is the runtime's own and the pool's look after old connections.
        assert!(allocated(http) < REQUESTS as u64 / 10);
    }
}

/// System calls by the requests; None where they cannot be traced.
fn traced(http: HttpPlan) -> Option<BTreeMap<String, usize>> {
    let (runtime, mut client) = warm(http);
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let output =
        std::env::temp_dir().join(format!("sosplice-http-cost-{}-{thread}", std::process::id()));
    // On a thread of its own: this one is traced, and must not wait for its tracer.
    let orders = client.orders.clone();
    let path = output.clone();
    let tracing = std::thread::spawn(move || {
        let mut strace = Command::new("strace")
            .args(["-qqq", "-p", &thread.to_string(), "-o"])
            .arg(&path)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("strace: {error}"))?;
        let began = Instant::now();
        let status = format!("/proc/self/task/{thread}/status");
        while std::fs::read_to_string(&status).expect("proc").contains("TracerPid:\t0\n") {
            if strace.try_wait().expect("strace").is_some() || began.elapsed() > WATCHDOG {
                orders.send(REQUESTS).expect("sent");
                return Err("strace does not attach".to_owned());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        orders.send(REQUESTS).expect("sent");
        Ok(strace)
    });
    runtime.block_on(async { client.done.recv().await.expect("done") });
    let mut strace = match tracing.join().expect("the tracing thread") {
        Ok(strace) => strace,
        Err(why) => {
            assert!(std::env::var_os("SOSPLICE_NO_SKIP").is_none(), "skipped: {why}");
            println!("skipped: {why}");
            return None;
        }
    };
    let pid = rustix::process::Pid::from_child(&strace);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("strace runs");
    strace.wait().expect("strace ends");
    let text = std::fs::read_to_string(&output).expect("a trace");
    // Gone or not: it is in the directory for such files.
    let _ = std::fs::remove_file(&output);
    let mut calls = BTreeMap::<String, usize>::new();
    for line in text.lines() {
        let name = line.split_once('(').map_or("", |(name, _)| name);
        *calls.entry(name.to_owned()).or_default() += 1;
    }
    println!("{REQUESTS} requests: {calls:?}");
    Some(calls)
}

#[test]
fn a_request_on_warm_connections_takes_four_calls_and_its_waits() {
    let Some(calls) = traced(HttpPlan::default()) else { return };
    takes(2 * REQUESTS, &calls);
}

/// Also none for its Date.
#[test]
fn an_answer_of_our_own_takes_two_calls_and_its_wait() {
    let Some(calls) = traced(own()) else { return };
    takes(REQUESTS, &calls);
}

/// So many reads and so many writes, waits for each, and little else.
#[track_caller]
fn takes(each: usize, calls: &BTreeMap<String, usize>) {
    let of = |names: &[&str]| names.iter().filter_map(|name| calls.get(*name)).sum::<usize>();
    assert_eq!(of(&["recvfrom"]), each, "{calls:?}");
    assert_eq!(of(&["sendto", "sendmsg"]), each, "{calls:?}");
    assert!(of(&["epoll_wait", "epoll_pwait"]) <= each + REQUESTS, "{calls:?}");
    let known = of(&["recvfrom", "sendto", "sendmsg", "epoll_wait", "epoll_pwait"]);
    let others = calls.values().sum::<usize>() - known;
    assert!(others <= 25, "{calls:?}");
}
