//! Checks over real sockets, of servers that misbehave each in their way.

use super::super::probe::over_tcp;
use super::*;
use crate::plan::{CheckKind, Statuses};
use crate::upstream::Resolver;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

/// For what never comes.
const WATCHDOG: Duration = Duration::from_secs(30);

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Serves one connection on a thread.
fn serving<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let (listener, addr) = listener();
    let serving = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        serve(stream)
    });
    (addr, serving)
}

fn refusing() -> SocketAddr {
    listener().1
}

/// One check of a server at `addrs`.
async fn probed(addrs: &[SocketAddr], kind: CheckKind, timeout: Duration) -> Result<(), String> {
    let addrs = addrs.to_vec();
    let resolver: Resolver = Arc::new(move |_| Ok(addrs.clone()));
    let check = Check { kind, timeout, ..strict() };
    let plan = UpstreamPlan { check: Some(check.clone()), ..plan(&[server("a")]) };
    let upstreams = Upstreams::with_resolver(&[Arc::new(plan)], None, &resolver).unwrap();
    let server = Arc::clone(&upstreams.get(UpstreamId(0)).servers()[0]);
    over_tcp()(server, Arc::new(check)).await.map_err(|why| why.to_string())
}

fn http() -> CheckKind {
    let statuses = Statuses::default();
    CheckKind::Http { method: "GET".into(), path: "/".into(), host: None, statuses }
}

/// Reads to the end; an error, as after a reset, is a failure of the test.
fn until_end(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an end, and no reset");
    bytes
}

/// Until the check has hung up: its task must have run for that.
async fn joined<T: Send + 'static>(serving: JoinHandle<T>) -> T {
    tokio::task::spawn_blocking(move || serving.join().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_connection_is_enough_and_ends_without_a_reset() {
    // A server that greets: what it sends lies unread in a socket that is closed.
    let (addr, serving) = serving(|mut stream| {
        stream.write_all(&[b'x'; 10_000]).unwrap();
        let bytes = until_end(stream.try_clone().unwrap());
        // After a reset this would fail.
        stream.write_all(b"bye").unwrap();
        bytes
    });
    assert_eq!(probed(&[addr], CheckKind::Tcp, WATCHDOG).await, Ok(()));
    assert_eq!(joined(serving).await, b"");
}

#[tokio::test]
async fn an_http_check_ends_without_a_reset_though_the_body_is_ignored() {
    let (addr, serving) = serving(|mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").unwrap();
        stream.write_all(&[b'x'; 100_000]).unwrap();
        until_end(stream)
    });
    assert_eq!(probed(&[addr], http(), WATCHDOG).await, Ok(()));
    assert_eq!(joined(serving).await, b"");
}

#[tokio::test]
async fn a_server_that_refuses_has_failed() {
    let why = probed(&[refusing()], CheckKind::Tcp, WATCHDOG).await.unwrap_err();
    assert!(why.starts_with("connect: Connection refused"), "{why}");
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_has_failed() {
    let (addr, serving) = serving(until_end);
    let why = probed(&[addr], http(), Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(why, "no answer within the timeout");
    // The request, and then an end.
    assert!(joined(serving).await.starts_with(b"GET / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_server_that_never_accepts_passes_a_connect_and_nothing_else() {
    let (_listener, addr) = listener();
    assert_eq!(probed(&[addr], CheckKind::Tcp, WATCHDOG).await, Ok(()));
    assert!(probed(&[addr], http(), Duration::from_millis(50)).await.is_err());
}

#[tokio::test]
async fn a_server_that_resets_has_failed() {
    let (addr, serving) = serving(|stream| {
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    });
    let expecting = CheckKind::SendExpect { send: Vec::new(), expect: b"+PONG".to_vec() };
    let why = probed(&[addr], expecting, WATCHDOG).await.unwrap_err();
    assert!(why.contains("reset"), "{why}");
    joined(serving).await;
}

#[tokio::test]
async fn a_server_that_sends_without_end_is_given_up() {
    let (addr, serving) = serving(|mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {});
    let expecting = CheckKind::SendExpect { send: Vec::new(), expect: b"+PONG".to_vec() };
    let why = probed(&[addr], expecting, WATCHDOG).await.unwrap_err();
    assert_eq!(why, "16384 bytes without what was expected");
    // It is not listened to for ever.
    joined(serving).await;
}

#[tokio::test]
async fn an_address_that_fails_leaves_the_check_to_the_next() {
    let (_listener, addr) = listener();
    assert_eq!(probed(&[refusing(), addr], CheckKind::Tcp, WATCHDOG).await, Ok(()));
    let why = probed(&[refusing(), refusing()], CheckKind::Tcp, WATCHDOG).await.unwrap_err();
    assert!(why.starts_with("connect: "), "{why}");
}

#[tokio::test]
async fn an_address_that_is_silent_leaves_the_next_its_share_of_the_time() {
    let ((_silent, silent), (answering, serving)) = (
        listener(),
        serving(|mut stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            until_end(stream)
        }),
    );
    // Half the time is for the silent one, whatever is left for the other.
    assert_eq!(probed(&[silent, answering], http(), Duration::from_secs(6)).await, Ok(()));
    joined(serving).await;
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_is_noticed() {
    let (listener, addr) = listener();
    let check = Check { interval: Duration::from_millis(1), rise: 2, fall: 2, ..strict() };
    let plan = UpstreamPlan { check: Some(check), ..plan(&[server("a")]) };
    let resolver: Resolver = Arc::new(move |_| Ok(vec![addr]));
    let upstreams = Upstreams::with_resolver(&[Arc::new(plan)], None, &resolver).unwrap();
    let server = Arc::clone(&upstreams.get(UpstreamId(0)).servers()[0]);
    let _watch = watch_by(&upstreams, &over_tcp(), &resolver);
    let becomes = async |is_up: bool| {
        let waiting = async {
            while server.is_up() != is_up {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(WATCHDOG, waiting).await.expect("the change is noticed");
    };
    drop(listener);
    becomes(false).await;
    let again = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    again.set_reuse_address(true).unwrap();
    again.bind(&addr.into()).unwrap();
    again.listen(16).unwrap();
    becomes(true).await;
}
