//! Clients that send what no client should: refused, and nothing of it reaches a server.

use crate::harness::*;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Refused before a server was asked; and the smuggled request behind it is never answered.
#[tokio::test]
async fn no_request_is_smuggled() {
    const BEHIND: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\n";
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (text, status) in [
        (format!("{post}Content-Length: 0\r\nContent-Length: 35\r\n\r\n"), 400),
        (format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding: x\r\n\r\n0\r\n\r\n"), 501),
        (format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Content-Length: 0\nX: y\r\n\r\n"), 400),
        (format!("{post}Content-Length: 0\rX: y\r\n\r\n"), 400),
        (format!("{post}X: a\0b\r\n\r\n"), 400),
        (format!("{post}Host: b\r\n\r\n"), 400),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\n\n".into(), 400),
        ("GET /../x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".into(), 505),
        (format!("{chunked}0x1\r\nx\r\n0\r\n\r\n"), 400),
        (format!("{chunked}+1\r\nx\r\n0\r\n\r\n"), 400),
        (format!("{chunked}1 \r\nx\r\n0\r\n\r\n"), 400),
        (format!("{chunked}1\nx\n0\n\n"), 400),
        (format!("{chunked}1;\nx\r\n0\r\n\r\n"), 400),
        (format!("{chunked}2\r\nx\r\n0\r\n\r\n"), 400),
        (format!("{chunked}fffffffffffffffff\r\n"), 400),
        (format!("{chunked}0\r\nContent-Length: 5\r\n\r\n"), 400),
        (format!("{chunked}0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
        ("\u{16}\u{3}\u{1}\u{2}\0".into(), 400),
        ("HELO example\r\n\r\n".into(), 400),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000)), 414),
        (format!("{post}X: {}\r\n\r\n", "x".repeat(20_000)), 431),
        (format!("{post}{}\r\n", "A: b\r\n".repeat(101)), 431),
    ] {
        let bench = Bench::new().await;
        let mut client = bench.client().await;
        send(&mut client, format!("{text}{BEHIND}")).await;
        let answer = whole_rest(&mut client).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{text:?}: {answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("\r\nContent-Length: ").count(), 1, "{answer}");
        let line = bench.line(0).await;
        assert_eq!(
            (line.status, line.fault, line.server),
            (Some(status), Some("bad-request"), None)
        );
        assert_eq!((bench.connects(), bench.line_count()), (0, 1), "{text:?}");
    }
}

/// What turns out to be bad behind a good beginning breaks the request off: the server gets no
/// whole one.
#[tokio::test]
async fn bad_chunks_behind_good_ones_reach_no_server() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    send(&mut client, format!("{head}1\r\nx\r\n")).await;
    let mut server = bench.server().await;
    expect(&mut server, &format!("{head}1\r\nx\r\n")).await;
    send(&mut client, "1\r\ny\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").await;
    ended(&mut server).await;
    assert!(whole_rest(&mut client).await.starts_with("HTTP/1.1 400 "));
    assert_eq!((bench.line(0).await.fault, bench.pooled()), (Some("bad-request"), 0));
}

#[tokio::test]
async fn silence_ends_a_connection_and_half_a_head_is_told_so() {
    let mut plan = plan(http());
    plan.timeouts.head = Duration::from_secs(1);
    plan.timeouts.keep_alive = Duration::from_secs(1);
    let bench = Bench::with(plan, 1).await;
    let mut silent = bench.client().await;
    assert_eq!(whole_rest(&mut silent).await, "");
    let mut half = bench.client().await;
    send(&mut half, "GET / HTTP/1.1\r\nHo").await;
    assert!(whole_rest(&mut half).await.starts_with("HTTP/1.1 408 "));
    let line = bench.line(0).await;
    assert_eq!((line.fault, line.target.as_str()), (Some("head-timeout"), "GET / HTTP/1.1"));
    // Between two requests it goes without a word.
    let mut idle = bench.client().await;
    send(&mut idle, GET).await;
    let mut server = bench.server().await;
    expect(&mut server, GET).await;
    send(&mut server, OK).await;
    expect(&mut idle, OK).await;
    assert_eq!(whole_rest(&mut idle).await, "");
    // The head of the next request is limited too.
    assert_eq!(bench.line_count(), 2);
}

/// A close with unread bytes is a reset, which may overtake the answer.
#[tokio::test]
async fn a_client_that_is_refused_may_go_on_sending_for_a_while() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    send(&mut client, format!("POST / HTTP/1.1\r\n\r\n{}", "x".repeat(100_000))).await;
    assert!(whole_rest(&mut client).await.starts_with("HTTP/1.1 400 "));
    for _ in 0..10 {
        send(&mut client, "x".repeat(10_000)).await;
    }
}

#[tokio::test]
async fn endless_empty_lines_are_no_request() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    send(&mut client, "\r\n".repeat(200)).await;
    assert!(whole_rest(&mut client).await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_client_that_leaves_within_a_request_takes_the_servers_connection_with_it() {
    // By a FIN within the body, which can be answered.
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    send(&mut client, format!("{head}12345")).await;
    let mut server = bench.server().await;
    expect(&mut server, &format!("{head}12345")).await;
    client.shutdown().await.expect("half-close");
    ended(&mut server).await;
    assert!(whole_rest(&mut client).await.starts_with("HTTP/1.1 400 "));
    assert_eq!(bench.line(0).await.fault, Some("client-gone"));
    // By a reset while the answer is awaited, with and without a body on its way.
    for (text, place) in [(GET, 1), ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 2)]
    {
        let mut client = bench.client().await;
        send(&mut client, text).await;
        let mut server = bench.server().await;
        expect(&mut server, text).await;
        if place == 2 {
            send(&mut client, "12345").await;
            expect(&mut server, "12345").await;
        }
        reset(client);
        ended(&mut server).await;
        let line = bench.line(place).await;
        assert_eq!((line.fault, line.status), (Some("client-gone"), None));
    }
    // While an answer is under way that has stopped.
    let mut client = bench.client().await;
    send(&mut client, GET).await;
    let mut server = bench.server().await;
    expect(&mut server, GET).await;
    let part = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345";
    send(&mut server, part).await;
    expect(&mut client, part).await;
    reset(client);
    ended(&mut server).await;
    assert_eq!(bench.line(3).await.fault, Some("client-gone"));
    // Within a head, too.
    let client = {
        let mut client = bench.client().await;
        send(&mut client, "GET / HT").await;
        client
    };
    drop(client);
    assert_eq!(bench.line(4).await.fault, Some("client-gone"));
    assert_eq!(bench.pooled(), 0);
}

#[tokio::test]
async fn a_client_that_takes_nothing_or_sends_nothing_is_dropped() {
    let mut plan = plan(http());
    plan.timeouts.idle = Some(Duration::from_secs(1));
    let bench = Bench::with(plan, 1).await;
    let mut client = bench.client().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    send(&mut client, head).await;
    let mut server = bench.server().await;
    expect(&mut server, head).await;
    ended(&mut server).await;
    assert!(whole_rest(&mut client).await.starts_with("HTTP/1.1 408 "));
    assert_eq!(bench.line(0).await.fault, Some("client-idle"));

    let mut client = bench.client().await;
    send(&mut client, GET).await;
    let mut server = bench.server().await;
    expect(&mut server, GET).await;
    send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await;
    // Until the relay gives up.
    let body = vec![b'x'; 1 << 20];
    while server.write_all(&body).await.is_ok() {}
    assert_eq!(bench.line(1).await.fault, Some("client-idle"));
    // What it did not take does not stay in the kernel.
    assert!(!rest(&mut client).await.1);
}
