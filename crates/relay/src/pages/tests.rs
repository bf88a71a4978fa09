//! Clients that want more than there is, over real sockets on loopback.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No test waits longer for anything that must come.
const WATCHDOG: Duration = Duration::from_secs(20);

/// Nobody goes for being slow.
const FOR_EVER: Patience =
    Patience { head: Duration::from_hours(1), stall: Duration::from_hours(1), answer: None };

const CONTENT: u64 = 1 << 40;

/// `/` is short, `/endless` is more than anybody takes.
struct Test;

impl Pages for Test {
    type Page = bool;

    fn find(path: &str) -> Result<bool, Refusal> {
        Ok(path == "/endless")
    }

    fn show(&self, is_endless: &bool, _: &Request<bool>, _: SocketAddr) -> Shown {
        let content = if *is_endless { CONTENT } else { 0 };
        Shown { status: "200 OK", fields: String::new(), body: "here\n".to_owned(), content }
    }

    fn content(_: u64, len: u64, slices: &mut Vec<IoSlice<'_>>) {
        if len > 0 {
            slices.push(IoSlice::new(&[0; 4096]));
        }
    }
}

async fn server(max: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(serve("test", listener, Arc::new(Test), FOR_EVER, max));
    address
}

/// A client that has sent this.
async fn client(to: SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.expect("connect");
    stream.write_all(bytes.as_bytes()).await.expect("send");
    stream
}

#[track_caller]
fn is_shown(answer: &[u8]) {
    let answer = String::from_utf8_lossy(answer);
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\nDate: ") && answer.ends_with("\r\n\r\nhere\n"),
        "{answer:?}"
    );
}

async fn whole(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A client that is sent away may see a reset.
    let _ = timeout(WATCHDOG, stream.read_to_end(&mut all)).await.expect("the connection ends");
    all
}

const HALF: &str = "GET / HTTP/1.1\r\nHost: a\r\n";
const WHOLE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn half_heads_keep_nobody_from_being_answered() {
    let to = server(3).await;
    let mut half = Vec::new();
    for _ in 0..20 {
        half.push(client(to, HALF).await);
    }
    is_shown(&whole(&mut client(to, WHOLE).await).await);
    // The oldest had to go, without a word; the last two were not in the way.
    for stream in &mut half[..18] {
        assert_eq!(whole(stream).await, b"");
    }
    for stream in &mut half[18..] {
        stream.write_all(b"Connection: close\r\n\r\n").await.expect("send");
        is_shown(&whole(stream).await);
    }
}

/// They have asked, and are preferred to those who have not; but not for ever.
#[tokio::test]
async fn answers_that_nobody_takes_keep_nobody_from_being_answered() {
    let to = server(3).await;
    let endless = "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut deaf = Vec::new();
    for _ in 0..3 {
        let mut stream = client(to, endless).await;
        // So that it is being answered when the next one comes.
        stream.read_exact(&mut [0; 1]).await.expect("an answer");
        deaf.push(stream);
    }
    is_shown(&whole(&mut client(to, WHOLE).await).await);
    let mut idle = client(to, HALF).await;
    is_shown(&whole(&mut client(to, WHOLE).await).await);
    let taken = whole(&mut deaf[0]).await;
    assert!((taken.len() as u64) < CONTENT, "the first of them had to go");
    for stream in &mut deaf[1..] {
        timeout(WATCHDOG, stream.read_exact(&mut [0; 100_000]))
            .await
            .expect("in time")
            .expect("more");
    }
    assert_eq!(whole(&mut idle).await, b"", "before the second of them this one had to");
}
