//! What a check makes of an answer: over a pipe in memory, so that the clock can be stopped.

use super::super::ask::ask;
use super::*;
use crate::plan::{CheckKind, Statuses};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

fn http() -> CheckKind {
    CheckKind::Http {
        method: "GET".into(),
        path: "/health?full".into(),
        host: None,
        statuses: Statuses::default(),
    }
}

fn expecting(expect: &str) -> CheckKind {
    CheckKind::SendExpect { send: b"PING\r\n".to_vec(), expect: expect.into() }
}

/// Asks a server that sends `pieces`, one at a time, and then its end.
async fn answered(kind: &CheckKind, pieces: &[&[u8]]) -> Result<(), String> {
    let (mut ours, mut theirs) = duplex(64 * 1024);
    let serve = async move {
        for piece in pieces {
            // It may have had enough.
            let _ = theirs.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        theirs
    };
    // The end comes with the drop.
    let (result, ()) = tokio::join!(ask(&mut ours, kind, "a:80"), async { drop(serve.await) });
    result.map_err(|why| why.to_string())
}

async fn request_of(mut theirs: DuplexStream, end: &str) -> (String, DuplexStream) {
    let mut request = Vec::new();
    while !request.ends_with(end.as_bytes()) {
        assert!(theirs.read_buf(&mut request).await.unwrap() > 0, "{request:?}");
    }
    (String::from_utf8(request).unwrap(), theirs)
}

#[tokio::test]
async fn the_request_is_what_a_server_expects() {
    for (host, sent) in [(None, "a:80"), (Some("example.com".to_owned()), "example.com")] {
        let (mut ours, theirs) = duplex(4096);
        let CheckKind::Http { method, path, statuses, .. } = http() else { panic!() };
        let kind = CheckKind::Http { method, path, host, statuses };
        let asking = ask(&mut ours, &kind, "a:80");
        let (_, (request, _)) = tokio::join!(asking, async {
            let (request, mut theirs) = request_of(theirs, "\r\n\r\n").await;
            theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            (request, theirs)
        });
        let mut lines = request.split("\r\n");
        assert_eq!(lines.next(), Some("GET /health?full HTTP/1.1"));
        assert!(request.contains(&format!("\r\nHost: {sent}\r\n")), "{request}");
        assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
    }
}

#[tokio::test]
async fn a_status_decides() {
    let head = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
    for (status, expected) in [
        ("200 OK", Ok(())),
        ("204 No Content", Ok(())),
        ("399 Odd", Ok(())),
        ("400 Bad Request", Err("status 400")),
        ("503 Service Unavailable", Err("status 503")),
        ("101 Switching Protocols", Err("status 101")),
    ] {
        let result = answered(&http(), &[head(status).as_bytes()]).await;
        assert_eq!(result, expected.map_err(str::to_owned));
    }
    let CheckKind::Http { method, path, host, .. } = http() else { panic!() };
    let statuses = Statuses(vec![(503, 503), (200, 200)]);
    let kind = CheckKind::Http { method, path, host, statuses };
    assert_eq!(answered(&kind, &[head("503 No").as_bytes()]).await, Ok(()));
    assert_eq!(answered(&kind, &[head("201 No").as_bytes()]).await, Err("status 201".to_owned()));
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte_and_behind_interim_ones() {
    let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.0 200 OK\r\nServer: x\r\n\r\n";
    let pieces: Vec<_> = text.iter().map(std::slice::from_ref).collect();
    assert_eq!(answered(&http(), &pieces).await, Ok(()));
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    let closed = "closed after 25 bytes without what was expected";
    assert_eq!(answered(&http(), &[interim]).await, Err(closed.to_owned()));
}

#[tokio::test]
async fn garbage_is_no_answer() {
    for garbage in [&b"SSH-2.0-OpenSSH_9\r\n"[..], b"\x16\x03\x01\x02", b"HTTP/1.1 two\r\n\r\n"] {
        let why = answered(&http(), &[garbage]).await.unwrap_err();
        assert!(why.starts_with("not HTTP: "), "{why}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(1000));
    let why = answered(&http(), &[many.as_bytes()]).await.unwrap_err();
    assert!(why.starts_with("not HTTP: "), "{why}");
    let closed = "closed after 0 bytes without what was expected";
    assert_eq!(answered(&http(), &[]).await, Err(closed.to_owned()));
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up_after_16_kib() {
    let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(32 * 1024));
    let why = answered(&http(), &[endless.as_bytes()]).await;
    assert_eq!(why, Err("16384 bytes without what was expected".to_owned()));
}

#[tokio::test]
async fn what_is_expected_may_be_anywhere_in_the_first_16_kib() {
    for before in [0, 1, 1000, 16 * 1024 - 5] {
        let answer = [vec![b'x'; before], b"+PONG".to_vec()].concat();
        assert_eq!(answered(&expecting("+PONG"), &[&answer]).await, Ok(()), "behind {before}");
    }
    let answer = [vec![b'x'; 16 * 1024 - 4], b"+PONG".to_vec()].concat();
    let why = answered(&expecting("+PONG"), &[&answer]).await;
    assert_eq!(why, Err("16384 bytes without what was expected".to_owned()));
    assert_eq!(answered(&expecting("+PONG"), &[b"+PO", b"N", b"G"]).await, Ok(()));
    let why = answered(&expecting("+PONG"), &[b"-ERR"]).await;
    assert_eq!(why, Err("closed after 4 bytes without what was expected".to_owned()));
}

#[tokio::test]
async fn what_is_to_be_sent_is_sent_and_nothing_is_if_it_is_empty() {
    let (mut ours, theirs) = duplex(4096);
    let kind = expecting("+PONG");
    let (result, _) = tokio::join!(ask(&mut ours, &kind, "a:80"), async {
        let (request, mut theirs) = request_of(theirs, "\r\n").await;
        assert_eq!(request, "PING\r\n");
        theirs.write_all(b"+PONG\r\n").await.unwrap();
        theirs
    });
    assert!(result.is_ok());
    let banner = CheckKind::SendExpect { send: Vec::new(), expect: b"220 ".to_vec() };
    assert_eq!(answered(&banner, &[b"220 mail ready\r\n"]).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_waited_for() {
    let (mut ours, _theirs) = duplex(4096);
    let kind = http();
    let asking = tokio::time::timeout(Duration::from_secs(3600), ask(&mut ours, &kind, "a:80"));
    assert!(asking.await.is_err(), "the time is the caller's to bound");
}
