//! The origin over real sockets on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{Lookup, PATIENCE, Passage, Patience, content, serve_with};

const GET: &str = "GET / HTTP/1.1\r\nHost: relay:80\r\n";

async fn origin(patience: Patience, lookup: Lookup) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(serve_with(listener, lookup, patience));
    address
}

async fn client() -> TcpStream {
    let nothing: Lookup = std::sync::Arc::new(|_| None);
    TcpStream::connect(origin(PATIENCE, nothing).await).await.expect("connect")
}

/// One answer, its head and its body, from a stream that may hold more.
async fn answer(stream: &mut TcpStream, head_only: bool) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text");
    let len: usize = field(&head, "Content-Length").parse().expect("a length");
    let mut body = vec![0; if head_only { 0 } else { len }];
    stream.read_exact(&mut body).await.expect("a body");
    (head, body)
}

fn field<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .unwrap_or_else(|| panic!("no {name} in {head}"))
}

/// Everything up to the end of the stream, which must come in time.
async fn rest(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut rest))
        .await
        .expect("the connection ends")
        .expect("without a reset");
    String::from_utf8(rest).expect("text")
}

#[tokio::test]
async fn the_checksum_in_the_head_is_that_of_the_body() {
    let mut stream = client().await;
    for len in [0, 1, 65_520, 65_521, 65_522, 65_536, 1_000_003, 20_000_000] {
        let request = format!("GET /bytes/{len} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("send");
        let (head, body) = answer(&mut stream, false).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(body.len(), len);
        let sum = format!("{:08x}", crc32fast::hash(&body));
        assert_eq!(field(&head, "Sosplice-Crc32"), sum);
    }
}

#[tokio::test]
async fn head_says_the_same_without_a_body() {
    let mut stream = client().await;
    let requests = "HEAD /bytes/1099511627776 HTTP/1.1\r\nHost: a\r\n\r\n\
                    HEAD / HTTP/1.1\r\nHost: a\r\n\r\n\
                    HEAD /none HTTP/1.1\r\nHost: a\r\n\r\n\
                    GET /bytes/3 HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.expect("send");
    let (head, _) = answer(&mut stream, true).await;
    assert_eq!(field(&head, "Content-Length"), "1099511627776");
    let sum = format!("{:08x}", content::crc32(1 << 40));
    assert_eq!(field(&head, "Sosplice-Crc32"), sum);
    let (head, _) = answer(&mut stream, true).await;
    assert!(head.contains("text/plain"));
    let (head, _) = answer(&mut stream, true).await;
    assert!(head.starts_with("HTTP/1.1 404"));
    let (_, body) = answer(&mut stream, false).await;
    assert_eq!(body.len(), 3);
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order_and_after_the_clients_fin() {
    let mut stream = client().await;
    let mut requests = String::new();
    for len in 1..=200 {
        requests.push_str(&format!("GET /bytes/{len} HTTP/1.1\r\nHost: a\r\n\r\n\r\n"));
    }
    stream.write_all(requests.as_bytes()).await.expect("send");
    stream.shutdown().await.expect("half-close");
    for len in 1..=200 {
        assert_eq!(answer(&mut stream, false).await.1.len(), len);
    }
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte() {
    let mut stream = client().await;
    stream.set_nodelay(true).expect("nodelay");
    for byte in format!("{GET}Accept: text/html\r\n\r\n").bytes() {
        stream.write_u8(byte).await.expect("send");
        tokio::task::yield_now().await;
    }
    let (head, body) = answer(&mut stream, false).await;
    assert!(head.contains("text/html") && body.starts_with(b"<!doctype html>"));
}

#[tokio::test]
async fn the_page_tells_what_the_relay_knows_of_this_connection() {
    let lookup: Lookup = std::sync::Arc::new(|peer| {
        Some(Passage {
            client: "192.0.2.1:7".parse().expect("an address"),
            up_copy: u64::from(peer.port()),
            up_pipe: 0,
            down_copy: 5,
            down_pipe: 123_456_789,
        })
    });
    let address = origin(PATIENCE, lookup).await;
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(format!("{GET}\r\n").as_bytes()).await.expect("send");
    let (_, body) = answer(&mut stream, false).await;
    let page = String::from_utf8(body).expect("text");
    let port = stream.local_addr().expect("address").port().to_string();
    assert!(page.replace(',', "").contains(&port), "{page}");
    assert!(page.contains("192.0.2.1:7") && page.contains("123,456,789"));
    assert!(page.contains("http://relay:80/bytes/"));
}

#[tokio::test]
async fn a_small_body_is_skipped_and_a_large_one_refused() {
    let mut stream = client().await;
    let body = "GET /bytes/9 HTTP/1.1\r\n\r\n".repeat(500);
    let request = format!("{GET}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("send");
    assert!(answer(&mut stream, false).await.0.contains("200 OK"));
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    stream.write_all(request.as_bytes()).await.expect("send");
    let (head, _) = answer(&mut stream, false).await;
    assert_eq!(field(&head, "Allow"), "GET, HEAD");
    let request = format!("{GET}Content-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    stream.write_all(request.as_bytes()).await.expect("send");
    let end = rest(&mut stream).await;
    assert!(end.starts_with("HTTP/1.1 413 ") && end.contains("Connection: close\r\n"), "{end}");
}

#[tokio::test]
async fn what_is_not_understood_is_answered_and_closed() {
    let long = format!("{GET}X: {}", "x".repeat(20_000));
    for (request, status) in [
        ("\u{16}\u{3}\u{1}\u{2}", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505"),
        (&format!("{GET}Transfer-Encoding: chunked\r\n\r\n0"), "501"),
        (&long, "431"),
    ] {
        let mut stream = client().await;
        stream.write_all(request.as_bytes()).await.expect("send");
        let end = rest(&mut stream).await;
        assert!(end.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {end}");
    }
}

#[tokio::test]
async fn persistence_is_what_the_client_asked_for() {
    let mut stream = client().await;
    stream
        .write_all(format!("{GET}Connection: close\r\n\r\n{GET}\r\n").as_bytes())
        .await
        .expect("send");
    let end = rest(&mut stream).await;
    assert_eq!(end.matches("HTTP/1.1 ").count(), 1, "{end}");
    assert!(end.contains("Connection: close\r\n"));

    let mut stream = client().await;
    let request = "GET /none HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("send");
    let (head, _) = answer(&mut stream, false).await;
    assert_eq!(field(&head, "Connection"), "keep-alive");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("send");
    assert!(rest(&mut stream).await.contains("Connection: close\r\n"));
}

#[tokio::test]
async fn silence_ends_a_connection_and_half_a_head_is_told_so() {
    let short = Patience { head: Duration::from_millis(100), ..PATIENCE };
    let address = origin(short, std::sync::Arc::new(|_| None)).await;
    let mut idle = TcpStream::connect(address).await.expect("connect");
    let mut half = TcpStream::connect(address).await.expect("connect");
    half.write_all(GET.as_bytes()).await.expect("send");
    assert_eq!(rest(&mut idle).await, "");
    assert!(rest(&mut half).await.starts_with("HTTP/1.1 408 "));
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_dropped_and_a_slow_one_is_not() {
    let short = Patience { stall: Duration::from_millis(300), ..PATIENCE };
    let address = origin(short, std::sync::Arc::new(|_| None)).await;
    let request = b"GET /bytes/30000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut stuck = TcpStream::connect(address).await.expect("connect");
    stuck.write_all(request).await.expect("send");
    let mut slow = TcpStream::connect(address).await.expect("connect");
    slow.write_all(request).await.expect("send");
    let (mut taken, mut buffer) = (0, vec![0; 4_000_000]);
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        match slow.read(&mut buffer).await.expect("no reset") {
            0 => break,
            run => taken += run,
        }
    }
    assert!(taken > 30_000_000, "{taken}");
    let mut rest = Vec::new();
    // Ended before its length, by a close or a reset: what matters is that it ended.
    let _ = timeout(Duration::from_secs(10), stuck.read_to_end(&mut rest))
        .await
        .expect("the connection ends");
    assert!(rest.len() < 30_000_000, "{}", rest.len());
}

#[tokio::test]
async fn a_long_answer_leaves_other_connections_their_turn() {
    let address = origin(PATIENCE, std::sync::Arc::new(|_| None)).await;
    // A reader on its own thread, so that the origin's socket stays writable.
    let reader = tokio::task::spawn_blocking(move || {
        use rustix::net::{RecvFlags, recv};
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(address).expect("connect");
        let request = b"GET /bytes/1099511627776 HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(request).expect("send");
        let mut buffer = vec![0; 1 << 20];
        let end = std::time::Instant::now() + Duration::from_secs(1);
        while std::time::Instant::now() < end {
            // Thrown away in the kernel, so that the reader is the faster one
            // and the origin finds its socket writable again and again.
            let (_, run) = recv(&stream, &mut buffer[..], RecvFlags::TRUNC).expect("read");
            assert_ne!(run, 0, "ended early");
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut stream = TcpStream::connect(address).await.expect("connect");
    for _ in 0..20 {
        stream.write_all(format!("{GET}\r\n").as_bytes()).await.expect("send");
        timeout(Duration::from_secs(1), answer(&mut stream, false))
            .await
            .expect("an answer while the long one runs");
    }
    assert!(!reader.is_finished(), "the long answer ran meanwhile");
    reader.await.expect("reader");
}
