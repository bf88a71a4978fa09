//! Bodies of all sizes, byte-exact, by the engine that they are meant for.

use crate::harness::*;
use sosplice::Carried;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const MEBI: usize = 1 << 20;

/// Bytes that do not repeat in any piece that a relay works in.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 65_521 % 251) as u8 ^ (at >> 16) as u8).collect()
}

/// Sends in pieces of many sizes, with pauses if it is a slow end.
async fn write(stream: &mut TcpStream, bytes: &[u8], is_slow: bool) {
    let mut at = 0;
    for step in 0.. {
        let len = (1 + step * 7919 % 400_000).min(bytes.len() - at);
        timeout(WATCHDOG, stream.write_all(&bytes[at..at + len]))
            .await
            .expect("in time")
            .expect("sent");
        at += len;
        if at == bytes.len() {
            return;
        }
        if is_slow {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn read(stream: &mut TcpStream, len: usize, is_slow: bool) -> Vec<u8> {
    let mut got = vec![0; len];
    let mut at = 0;
    while at < len {
        let reach = if is_slow { (at + 300_000).min(len) } else { len };
        let run = timeout(WATCHDOG, stream.read(&mut got[at..reach]))
            .await
            .expect("in time")
            .expect("read");
        assert_ne!(run, 0, "ended after {at} of {len}");
        at += run;
        if is_slow {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    got
}

/// A body in chunks of `len`, framed.
fn chunked(body: &[u8], len: usize) -> Vec<u8> {
    let mut framed = Vec::new();
    for chunk in body.chunks(len) {
        framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(b"0\r\nDigest: x\r\n\r\n");
    framed
}

fn piped(carried: Carried) -> f64 {
    carried.pipe as f64 / carried.total() as f64
}

/// One request and its answer with these bodies, as they are framed.
async fn exchange(fields: &str, body: &[u8], slow: (bool, bool)) -> (Carried, Carried) {
    let bench = Bench::new().await;
    let (mut client, request, answer) = (
        bench.client().await,
        format!("PUT / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"),
        format!("HTTP/1.1 200 OK\r\n{fields}\r\n"),
    );
    // Twice, on the same connections.
    let client_side = async {
        for _ in 0..2 {
            send(&mut client, &request).await;
            write(&mut client, body, slow.0).await;
            expect(&mut client, &answer).await;
            assert!(read(&mut client, body.len(), slow.1).await == body, "down");
        }
    };
    let server_side = async {
        let mut server = bench.server().await;
        for _ in 0..2 {
            expect(&mut server, &request).await;
            assert!(read(&mut server, body.len(), slow.1).await == body, "up");
            send(&mut server, &answer).await;
            write(&mut server, body, slow.0).await;
        }
    };
    tokio::join!(client_side, server_side);
    let (first, line) = (bench.line(0).await, bench.line(1).await);
    assert_eq!((first.fault, line.fault, bench.connects()), (None, None, 1));
    assert_eq!(first.request.total(), body.len() as u64);
    assert_eq!(line.response.total(), body.len() as u64);
    (line.request, line.response)
}

#[tokio::test]
async fn a_body_is_the_same_on_the_other_side_whatever_its_length() {
    for len in [1, 100, 8_000, 8_192, 16_384, 65_535, 65_536, 100_000] {
        let body = content(len);
        let (up, down) =
            exchange(&format!("Content-Length: {len}\r\n"), &body, (false, false)).await;
        println!("{len}: {up:?} {down:?}");
        for chunk_len in [1, 3, 1_000, 40_000, 70_000] {
            if len / chunk_len <= 10_000 {
                let framed = chunked(&body, chunk_len);
                exchange("Transfer-Encoding: chunked\r\n", &framed, (false, false)).await;
            }
        }
    }
}

#[tokio::test]
async fn large_bodies_never_see_user_space() {
    let body = content(MEBI);
    let (up, down) = exchange(&format!("Content-Length: {MEBI}\r\n"), &body, (false, false)).await;
    assert!(piped(up) > 0.99 && piped(down) > 0.99, "{up:?} {down:?}");
    for slow in [(true, false), (false, true)] {
        let body = content(20 * MEBI);
        let fields = format!("Content-Length: {}\r\n", body.len());
        let (up, down) = exchange(&fields, &body, slow).await;
        assert!(piped(up) > 0.99 && piped(down) > 0.99, "{up:?} {down:?}");
    }
}

#[tokio::test]
async fn large_chunks_are_spliced_and_small_ones_are_not() {
    let framed = chunked(&content(20 * MEBI), 256 * 1024);
    for slow in [(true, false), (false, true)] {
        let (up, down) = exchange("Transfer-Encoding: chunked\r\n", &framed, slow).await;
        assert!(piped(up) > 0.95 && piped(down) > 0.95, "{up:?} {down:?}");
    }
    let framed = chunked(&content(MEBI), 4 * 1024);
    let (up, down) = exchange("Transfer-Encoding: chunked\r\n", &framed, (false, false)).await;
    assert_eq!((up.pipe, down.pipe), (0, 0));
}

#[tokio::test]
async fn a_body_that_ends_by_close_is_whole_and_spliced() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    send(&mut client, GET).await;
    let mut server = bench.server().await;
    expect(&mut server, GET).await;
    let body = content(20 * MEBI);
    let serving = async {
        send(&mut server, "HTTP/1.1 200 OK\r\n\r\n").await;
        write(&mut server, &body, false).await;
        drop(server);
    };
    let taking = async {
        expect(&mut client, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
        assert!(read(&mut client, body.len(), true).await == body);
        assert_eq!(whole_rest(&mut client).await, "");
    };
    tokio::join!(serving, taking);
    let line = bench.line(0).await;
    assert!(line.fault.is_none() && piped(line.response) > 0.9, "{:?}", line.response);
}
