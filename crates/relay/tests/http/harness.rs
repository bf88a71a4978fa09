//! A relay with a scripted client before it and a scripted server behind it.

use sosplice::Carried;
use sosplice::EngineChoice;
use sosplice::tokio::Registered;
use sosplice_relay::http::{NoPlace, Peer, Pool, Record, Server, Site, serve};
use sosplice_relay::plan::{HttpPlan, Protocol, RelayPlan, Timeouts, UpstreamId};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// No test waits longer for anything that must come.
pub const WATCHDOG: Duration = Duration::from_secs(20);

pub struct Current(pub RelayPlan);

impl AsRef<RelayPlan> for Current {
    fn as_ref(&self) -> &RelayPlan {
        &self.0
    }
}

pub struct TestServer {
    name: String,
    address: SocketAddr,
}

impl Server for TestServer {
    fn name(&self) -> &str {
        &self.name
    }
    fn idle_connections_max(&self) -> usize {
        2
    }

    fn carried(&self, _up: u64, _down: u64) {}
}

/// What a record said.
#[derive(Clone, Debug)]
pub struct Line {
    pub target: String,
    pub status: Option<u16>,
    pub server: Option<String>,
    pub is_reused: bool,
    pub rule: Option<String>,
    pub matched: Vec<u16>,
    pub request: Carried,
    pub response: Carried,
    pub fault: Option<&'static str>,
}

pub struct TestSite {
    current: Arc<Current>,
    servers: Vec<Arc<TestServer>>,
    pool: Arc<Pool<TestServer>>,
    lines: watch::Sender<Vec<Line>>,
    stop: watch::Sender<bool>,
    pub connects: AtomicUsize,
    /// What `place` answers in place of a server.
    pub no_place: Mutex<Option<NoPlace>>,
}

impl Site for TestSite {
    type Current = Current;
    type Server = TestServer;
    type Place = Arc<TestServer>;
    type Tried = usize;

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current)
    }

    async fn place(
        &self,
        _: &Current,
        upstream: Option<UpstreamId>,
        _: IpAddr,
        tried: &mut usize,
    ) -> Result<Arc<TestServer>, NoPlace> {
        if let Some(no) = *self.no_place.lock().expect("lock") {
            return Err(no);
        }
        let servers = match upstream {
            // The upstreams of the tests have one server each.
            Some(UpstreamId(id)) => &self.servers[id..=id],
            None => &self.servers[..],
        };
        let server = servers.get(*tried).ok_or(NoPlace::Exhausted)?;
        *tried += 1;
        Ok(Arc::clone(server))
    }

    fn server(place: &Arc<TestServer>) -> &Arc<TestServer> {
        place
    }

    async fn connect(
        &self,
        _: &Current,
        place: &Arc<TestServer>,
        _: Peer,
    ) -> io::Result<Registered> {
        self.connects.fetch_add(1, Ordering::Relaxed);
        let stream = TcpStream::connect(place.address).await?;
        stream.set_nodelay(true)?;
        Registered::new(stream.into_std()?.into())
    }

    fn pool(&self) -> &Arc<Pool<TestServer>> {
        &self.pool
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    fn stopping(&self) -> impl Future<Output = ()> + Send {
        let mut stop = self.stop.subscribe();
        async move {
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    fn account(&self, _: &Current, record: &Record<'_>) {
        let line = Line {
            target: record.target.into(),
            status: record.status,
            server: record.server.map(Into::into),
            is_reused: record.is_reused,
            rule: record.rule.map(Into::into),
            matched: record.matched.into(),
            request: record.request,
            response: record.response,
            fault: record.fault.map(|fault| fault.word()),
        };
        self.lines.send_modify(|lines| lines.push(line));
    }
}

pub fn http() -> HttpPlan {
    HttpPlan { forwarded_for: false, ..HttpPlan::default() }
}

pub fn plan(http: HttpPlan) -> RelayPlan {
    RelayPlan {
        name: "test".into(),
        protocol: Protocol::Http(http),
        listeners: vec![],
        upstream: None,
        max_connections: None,
        max_per_client: None,
        send_proxy: None,
        timeouts: Timeouts::default(),
        max_bytes: None,
        engine: EngineChoice::Auto,
        congestion: None,
    }
}

/// A relay, and the servers behind it.
pub struct Bench {
    pub site: Arc<TestSite>,
    pub address: SocketAddr,
    pub servers: Vec<TcpListener>,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(plan(http()), 1).await
    }

    pub async fn with(plan: RelayPlan, count: usize) -> Self {
        let mut servers = Vec::new();
        for _ in 0..count {
            servers.push(TcpListener::bind("127.0.0.1:0").await.expect("bind"));
        }
        let known = servers.iter().enumerate().map(|(at, listener)| {
            let address = listener.local_addr().expect("address");
            Arc::new(TestServer { name: format!("s{at}"), address })
        });
        let site = Arc::new(TestSite {
            current: Arc::new(Current(plan)),
            servers: known.collect(),
            pool: Arc::default(),
            lines: watch::Sender::default(),
            stop: watch::Sender::default(),
            connects: AtomicUsize::new(0),
            no_place: Mutex::new(None),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(accept(listener, Arc::clone(&site)));
        Self { site, address, servers }
    }

    pub async fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        stream
    }

    /// The next connection to the first server.
    pub async fn server(&self) -> TcpStream {
        self.server_at(0).await
    }

    pub async fn server_at(&self, at: usize) -> TcpStream {
        let accepted = timeout(WATCHDOG, self.servers[at].accept()).await;
        let (stream, _) = accepted.expect("the relay connects").expect("accept");
        stream.set_nodelay(true).expect("nodelay");
        stream
    }

    /// The record of the request with this place, from 0.
    pub async fn line(&self, place: usize) -> Line {
        let mut lines = self.site.lines.subscribe();
        let lines = timeout(WATCHDOG, lines.wait_for(|lines| lines.len() > place)).await;
        lines.expect("a record").expect("site")[place].clone()
    }

    pub fn line_count(&self) -> usize {
        self.site.lines.borrow().len()
    }

    pub fn connects(&self) -> usize {
        self.site.connects.load(Ordering::Relaxed)
    }

    pub fn pooled(&self) -> usize {
        self.site.pool.len()
    }

    pub fn stop(&self) {
        self.site.stop.send_replace(true);
    }
}

async fn accept(listener: TcpListener, site: Arc<TestSite>) {
    loop {
        let (stream, client) = listener.accept().await.expect("accept");
        stream.set_nodelay(true).expect("nodelay");
        let local = stream.local_addr().expect("address");
        let fd = stream.into_std().expect("std").into();
        let client_end = Registered::new(fd).expect("register");
        tokio::spawn(serve(client_end, Peer { client, local }, Arc::clone(&site)));
    }
}

/// Sends all of it.
pub async fn send(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    timeout(WATCHDOG, stream.write_all(bytes.as_ref())).await.expect("in time").expect("sent");
}

/// The next bytes must be these.
#[track_caller]
pub fn expect<'s>(stream: &'s mut TcpStream, wanted: &'s str) -> impl Future<Output = ()> + 's {
    let caller = std::panic::Location::caller();
    async move {
        let mut got = Vec::new();
        while got.len() < wanted.len() {
            let mut piece = vec![0; wanted.len() - got.len()];
            let read = timeout(WATCHDOG, stream.read(&mut piece)).await;
            match read {
                Ok(Ok(len @ 1..)) => got.extend_from_slice(&piece[..len]),
                other => panic!(
                    "{caller}: wanted\n{wanted}\ngot\n{}\nand then {other:?}",
                    String::from_utf8_lossy(&got)
                ),
            }
        }
        let got = String::from_utf8_lossy(&got);
        assert_eq!(got, wanted, "{caller}");
    }
}

/// The same of an answer that the relay makes, but for the value of its Date.
#[track_caller]
pub fn expect_own<'s>(stream: &'s mut TcpStream, wanted: &'s str) -> impl Future<Output = ()> + 's {
    let caller = std::panic::Location::caller();
    let (before, behind) = wanted.split_once("\r\nDate\r\n").expect("a place for Date");
    async move {
        let mut got = vec![0; wanted.len() + ": Sun, 06 Nov 1994 08:49:37 GMT".len()];
        let read = timeout(WATCHDOG, stream.read_exact(&mut got)).await;
        assert!(matches!(read, Ok(Ok(_))), "{caller}: {read:?} {}", String::from_utf8_lossy(&got));
        let got = String::from_utf8(got).expect("text");
        let date = got
            .strip_prefix(&format!("{before}\r\nDate: "))
            .and_then(|rest| rest.strip_suffix(behind));
        assert!(date.is_some_and(|date| date.ends_with(" GMT\r\n")), "{caller}: {got}");
    }
}

/// Everything up to the end, and whether that was one: false is a reset.
pub async fn rest(stream: &mut TcpStream) -> (String, bool) {
    let mut rest = Vec::new();
    let end = timeout(WATCHDOG, stream.read_to_end(&mut rest)).await.expect("the connection ends");
    (String::from_utf8_lossy(&rest).into_owned(), end.is_ok())
}

/// Everything up to the end, which is none of a broken connection.
pub async fn whole_rest(stream: &mut TcpStream) -> String {
    let (rest, is_end) = rest(stream).await;
    assert!(is_end, "a reset after {rest:?}");
    rest
}

/// The connection ends, in whatever way, without another byte.
pub async fn ended(stream: &mut TcpStream) {
    assert_eq!(rest(stream).await.0, "");
}

/// A reset when this socket is closed.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
}

pub const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
