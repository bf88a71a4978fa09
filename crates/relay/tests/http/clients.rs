//! Clients that wait, upgrade, and connect through.

use crate::harness::*;
use tokio::io::AsyncWriteExt;

const EXPECTING: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

#[tokio::test]
async fn a_100_of_the_server_is_passed_on() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    send(&mut client, EXPECTING).await;
    let mut server = bench.server().await;
    expect(&mut server, EXPECTING).await;
    send(&mut server, "HTTP/1.1 100 Continue\r\n\r\n").await;
    expect(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    send(&mut client, "hello").await;
    expect(&mut server, "hello").await;
    send(&mut server, OK).await;
    expect(&mut client, OK).await;
    send(&mut client, GET).await;
    expect(&mut server, GET).await;
}

#[tokio::test]
async fn a_server_that_knows_no_100_leaves_no_client_waiting() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    send(&mut client, EXPECTING).await;
    let mut server = bench.server().await;
    expect(&mut server, EXPECTING).await;
    // The relay's own.
    expect(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    send(&mut client, "hello").await;
    expect(&mut server, "hello").await;
    // One that comes late is one too many.
    send(&mut server, format!("HTTP/1.1 100 Continue\r\n\r\n{OK}")).await;
    expect(&mut client, OK).await;
}

#[tokio::test]
async fn a_refusal_in_place_of_a_100_ends_the_connection() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    send(&mut client, EXPECTING).await;
    let mut server = bench.server().await;
    expect(&mut server, EXPECTING).await;
    send(&mut server, "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").await;
    // Nobody knows whether the body comes.
    expect(&mut client, "HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(whole_rest(&mut client).await, "");
    ended(&mut server).await;
}

#[tokio::test]
async fn an_upgraded_connection_is_spliced_both_ways_with_what_came_early() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    let upgrade = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nConnection: upgrade\r\n\r\n";
    send(&mut client, format!("{upgrade}early")).await;
    let mut server = bench.server().await;
    expect(&mut server, upgrade).await;
    let switched =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    send(&mut server, format!("{switched}welcome")).await;
    expect(&mut client, &format!("{switched}welcome")).await;
    expect(&mut server, "early").await;
    for (from_client, from_server) in [("a", "bc"), ("def", "g")] {
        send(&mut client, from_client).await;
        expect(&mut server, from_client).await;
        send(&mut server, from_server).await;
        expect(&mut client, from_server).await;
    }
    // A half-close goes through, and so does what comes after it.
    client.shutdown().await.expect("half-close");
    assert_eq!(whole_rest(&mut server).await, "");
    send(&mut server, "bye").await;
    drop(server);
    assert_eq!(whole_rest(&mut client).await, "bye");
    let line = bench.line(0).await;
    assert_eq!((line.request.total(), line.response.total(), line.status), (9, 13, Some(101)));
    assert_eq!(line.fault, None);
}

#[tokio::test]
async fn a_reset_within_an_upgraded_connection_is_one_for_the_other_side() {
    for client_fails in [true, false] {
        let bench = Bench::new().await;
        let mut client = bench.client().await;
        let request = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
        send(&mut client, request).await;
        let mut server = bench.server().await;
        expect(&mut server, request).await;
        let switched = "HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
        send(&mut server, switched).await;
        expect(&mut client, switched).await;
        let (failing, mut other) = if client_fails { (client, server) } else { (server, client) };
        reset(failing);
        assert_eq!(rest(&mut other).await, (String::new(), false));
        assert!(bench.line(0).await.fault.is_some());
    }
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_a_request_like_another() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    send(&mut client, upgrade).await;
    let mut server = bench.server().await;
    expect(&mut server, upgrade).await;
    send(&mut server, OK).await;
    expect(&mut client, OK).await;
    send(&mut client, GET).await;
    expect(&mut server, GET).await;
}

#[tokio::test]
async fn connect_is_a_tunnel_if_the_server_makes_one() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    let connect = "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n";
    send(&mut client, format!("{connect}\x16\x03")).await;
    let mut server = bench.server().await;
    expect(&mut server, connect).await;
    send(&mut server, "HTTP/1.1 200 Connected\r\nContent-Length: 5\r\n\r\nhi").await;
    // The length means nothing here (RFC 9110 section 9.3.6).
    expect(&mut client, "HTTP/1.1 200 Connected\r\n\r\nhi").await;
    expect(&mut server, "\x16\x03").await;
    drop(server);
    assert_eq!(whole_rest(&mut client).await, "");
    drop(client);
    assert_eq!(bench.line(0).await.status, Some(200));

    let mut client = bench.client().await;
    // What was meant for a tunnel that is refused is no request.
    send(&mut client, format!("{connect}{GET}")).await;
    let mut server = bench.server().await;
    expect(&mut server, connect).await;
    send(&mut server, "HTTP/1.1 405 No\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = "HTTP/1.1 405 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    assert_eq!(whole_rest(&mut client).await, answer);
    assert_eq!((bench.line(1).await.status, bench.line_count()), (Some(405), 2));
}

#[tokio::test]
async fn a_client_that_ends_its_side_still_gets_its_answer() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    send(&mut client, GET).await;
    client.shutdown().await.expect("half-close");
    let mut server = bench.server().await;
    expect(&mut server, GET).await;
    send(&mut server, OK).await;
    assert_eq!(whole_rest(&mut client).await, OK);
}
