//! Servers that misbehave, each in its way: the right status or a broken message, and never a
//! connection that is used again.

use crate::harness::*;
use sosplice_relay::http::NoPlace;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// A request that has reached the server.
async fn asked(bench: &Bench, request: &str) -> (tokio::net::TcpStream, tokio::net::TcpStream) {
    let mut client = bench.client().await;
    send(&mut client, request).await;
    let mut server = bench.server().await;
    expect(&mut server, request).await;
    (client, server)
}

#[tokio::test]
async fn what_is_no_answer_becomes_a_502_and_a_closed_connection() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101));
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17);
    for answer in [
        "garbage\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX\0: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        &long,
        &many,
        &interim,
    ] {
        let bench = Bench::new().await;
        let (mut client, mut server) = asked(&bench, GET).await;
        send(&mut server, answer).await;
        ended(&mut server).await;
        if answer == interim {
            expect(&mut client, &"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(16)).await;
        }
        let wanted = "HTTP/1.1 502 Bad Gateway\r\nDate\r\nContent-Type: text/plain; charset=utf-8\r\n\
                      Content-Length: 32\r\n\r\nthe server gave no valid answer\n";
        println!("{}", answer.get(..60).unwrap_or(answer).escape_debug());
        expect_own(&mut client, wanted).await;
        let line = bench.line(0).await;
        assert_eq!((line.status, line.fault), (Some(502), Some("bad-answer")));
        assert_eq!(bench.pooled(), 0);
        // The client has done nothing wrong, and may go on.
        send(&mut client, GET).await;
        let mut server = bench.server().await;
        expect(&mut server, GET).await;
        send(&mut server, OK).await;
        expect(&mut client, OK).await;
    }
}

#[tokio::test]
async fn a_server_that_closes_without_an_answer_is_a_502() {
    for (sent, resets) in [("", false), ("", true), ("HTTP/1.1 200 OK\r\nConte", false)] {
        let bench = Bench::new().await;
        let (mut client, mut server) = asked(&bench, GET).await;
        send(&mut server, sent).await;
        if resets {
            reset(server);
        } else {
            drop(server);
        }
        expect(&mut client, "HTTP/1.1 502 Bad Gateway\r\n").await;
        let line = bench.line(0).await;
        assert_eq!((line.fault, bench.connects()), (Some("server-gone"), 1), "never twice");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_never_looks_whole() {
    for (sent, resets) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n12345", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n12345", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\nA: b\r\n", false),
    ] {
        let bench = Bench::new().await;
        let (mut client, mut server) = asked(&bench, GET).await;
        send(&mut server, sent).await;
        expect(&mut client, sent).await;
        if resets {
            reset(server);
        } else {
            drop(server);
        }
        ended(&mut client).await;
        let line = bench.line(0).await;
        assert_eq!((line.status, line.fault), (Some(200), Some("truncated")), "{sent:?}");
    }
    // Without a length it would look whole, so it must be a reset.
    let bench = Bench::new().await;
    let (mut client, mut server) = asked(&bench, GET).await;
    send(&mut server, "HTTP/1.1 200 OK\r\n\r\n12345").await;
    expect(&mut client, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n12345").await;
    reset(server);
    assert_eq!(rest(&mut client).await, (String::new(), false));
    assert_eq!(bench.line(0).await.fault, Some("truncated"));
}

#[tokio::test]
async fn bad_chunks_of_an_answer_break_it_off() {
    let bench = Bench::new().await;
    let (mut client, mut server) = asked(&bench, GET).await;
    let good = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n";
    send(&mut server, good).await;
    expect(&mut client, good).await;
    send(&mut server, "5\r\n123456\r\n0\r\n\r\n").await;
    ended(&mut server).await;
    let (rest, _) = rest(&mut client).await;
    assert!(!rest.contains("0\r\n\r\n"), "{rest:?}");
    assert_eq!(bench.line(0).await.fault, Some("bad-answer"));
}

#[tokio::test]
async fn a_slow_server_is_a_504_and_a_stopped_one_a_cut() {
    let mut plan = plan(http());
    plan.timeouts.idle = Some(Duration::from_secs(1));
    let bench = Bench::with(plan, 1).await;
    let (mut client, mut server) = asked(&bench, GET).await;
    send(&mut server, "HTTP/1.1 200").await;
    expect(&mut client, "HTTP/1.1 504 Gateway Timeout\r\n").await;
    ended(&mut server).await;
    assert_eq!(bench.line(0).await.fault, Some("server-idle"));
    let (mut client, mut server) = asked(&bench, GET).await;
    let part = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345";
    send(&mut server, part).await;
    expect(&mut client, part).await;
    ended(&mut client).await;
    assert_eq!(bench.line(1).await.fault, Some("server-idle"));
}

#[tokio::test]
async fn a_connection_that_was_closed_unused_costs_no_request() {
    let bench = Bench::new().await;
    for is_idempotent in [true, false] {
        let request = if is_idempotent {
            GET
        } else {
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
        };
        let (mut client, mut server) = asked(&bench, request).await;
        send(&mut server, OK).await;
        expect(&mut client, OK).await;
        drop(server);
        // The runtime may know of the close or not: the second request is answered either way.
        send(&mut client, request).await;
        let mut server = bench.server().await;
        expect(&mut server, request).await;
        send(&mut server, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .await;
        expect(&mut client, OK).await;
    }
    assert_eq!(bench.connects(), 4);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_answers_nobody() {
    let bench = Bench::new().await;
    let (mut client, mut server) = asked(&bench, GET).await;
    send(&mut server, OK).await;
    expect(&mut client, OK).await;
    bench.line(0).await;
    send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
    send(&mut client, GET).await;
    let mut other = bench.server().await;
    expect(&mut other, GET).await;
    send(&mut other, OK).await;
    expect(&mut client, OK).await;
    assert_eq!(bench.connects(), 2);
}

#[tokio::test]
async fn a_request_is_repeated_once_if_nothing_could_have_come_of_it() {
    for (request, is_repeated) in [
        (GET, true),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", true),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", false),
    ] {
        let bench = Bench::new().await;
        let (mut client, mut server) = asked(&bench, GET).await;
        send(&mut server, OK).await;
        expect(&mut client, OK).await;
        // The server takes the next request, and closes.
        send(&mut client, request).await;
        expect(&mut server, request).await;
        drop(server);
        if is_repeated {
            let mut server = bench.server().await;
            expect(&mut server, request).await;
            send(&mut server, OK).await;
            expect(&mut client, OK).await;
            assert!(!bench.line(1).await.is_reused);
            // The new connection is not given up for a third.
            send(&mut client, request).await;
            expect(&mut server, request).await;
            send(&mut server, "HTTP/1.1 1").await;
            drop(server);
        }
        expect(&mut client, "HTTP/1.1 502 Bad Gateway\r\n").await;
        assert_eq!(bench.connects(), 1 + usize::from(is_repeated), "{request}");
    }
}

#[tokio::test]
async fn another_server_is_asked_when_one_takes_no_connection() {
    let mut bench = Bench::with(plan(http()), 2).await;
    drop(bench.servers.remove(0));
    let mut client = bench.client().await;
    send(&mut client, GET).await;
    let mut server = bench.server().await;
    expect(&mut server, GET).await;
    send(&mut server, OK).await;
    expect(&mut client, OK).await;
    assert_eq!(bench.line(0).await.server.as_deref(), Some("s1"));
    drop(bench.servers.remove(0));
    drop(server);
    // A client that was served by a connection that is gone now, and by none that is new.
    send(&mut client, GET).await;
    expect(&mut client, "HTTP/1.1 502 Bad Gateway\r\n").await;
    assert_eq!(bench.line(1).await.fault, Some("connect"));
}

#[tokio::test]
async fn no_server_at_all_is_a_503() {
    let bench = Bench::new().await;
    for no in [NoPlace::Down, NoPlace::QueueFull, NoPlace::QueueTimeout] {
        *bench.site.no_place.lock().expect("lock") = Some(no);
        let mut client = bench.client().await;
        send(&mut client, GET).await;
        expect(&mut client, "HTTP/1.1 503 Service Unavailable\r\n").await;
    }
    assert_eq!(bench.line(2).await.fault, Some("no-server"));
}

#[tokio::test]
async fn an_answer_before_the_request_is_whole_is_passed_on_and_ends_the_connection() {
    let bench = Bench::new().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    let (mut client, mut server) = asked(&bench, head).await;
    let answer = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n";
    send(&mut server, answer).await;
    expect(
        &mut client,
        "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n",
    )
    .await;
    ended(&mut server).await;
    assert_eq!(whole_rest(&mut client).await, "");
    let line = bench.line(0).await;
    assert_eq!((line.status, line.fault, bench.pooled()), (Some(413), None, 0));
}

#[tokio::test]
async fn an_answer_that_comes_with_the_request_flows_beside_it() {
    // A server that answers each byte.
    let bench = Bench::new().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    let (mut client, mut server) = asked(&bench, head).await;
    send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").await;
    expect(&mut client, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n").await;
    for byte in ["a", "b", "c"] {
        send(&mut client, byte).await;
        expect(&mut server, byte).await;
        send(&mut server, byte).await;
        expect(&mut client, byte).await;
    }
    assert_eq!(whole_rest(&mut client).await, "");
    let line = bench.line(0).await;
    assert_eq!((line.request.total(), line.response.total(), line.fault), (3, 3, None));
}

#[tokio::test]
async fn a_server_that_stops_reading_may_still_answer() {
    let bench = Bench::new().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";
    let (client, mut server) = asked(&bench, head).await;
    send(&mut server, "HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n").await;
    server.shutdown().await.expect("shutdown");
    let (mut from_relay, mut to_relay) = client.into_split();
    let writer = tokio::spawn(async move {
        let body = vec![b'x'; 1 << 16];
        for _ in 0..20 {
            if to_relay.write_all(&body).await.is_err() {
                break;
            }
        }
        to_relay
    });
    use tokio::io::AsyncReadExt;
    let mut head = vec![0; 15];
    from_relay.read_exact(&mut head).await.expect("an answer");
    assert_eq!(head, b"HTTP/1.1 413 No");
    drop(writer.await);
}

#[tokio::test]
async fn a_body_that_was_not_due_never_becomes_the_next_answer() {
    for (method, status) in
        [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
    {
        let bench = Bench::new().await;
        let request = GET.replacen("GET", method, 1);
        let (mut client, mut server) = asked(&bench, &request).await;
        send(&mut server, format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n")).await;
        // It would send the body now, and another client's request may be quicker.
        ended(&mut server).await;
        let length = if status.starts_with("204") { "" } else { "Content-Length: 5\r\n" };
        expect(&mut client, &format!("HTTP/1.1 {status}\r\n{length}\r\n")).await;
        assert_eq!((bench.line(0).await.fault, bench.pooled()), (None, 0));
        send(&mut client, GET).await;
        expect(&mut bench.server().await, GET).await;
    }
}

#[tokio::test]
async fn unused_connections_are_bounded_and_the_last_one_goes_first() {
    let bench = Bench::new().await;
    let mut pairs = Vec::new();
    for _ in 0..3 {
        pairs.push(asked(&bench, GET).await);
    }
    for (client, server) in &mut pairs {
        send(server, OK).await;
        expect(client, OK).await;
    }
    bench.line(2).await;
    let (client, server) = &mut pairs[2];
    send(client, GET).await;
    expect(server, GET).await;
    send(server, OK).await;
    expect(client, OK).await;
    // Two may be kept: the first is closed.
    ended(&mut pairs[0].1).await;
    assert_eq!((bench.pooled(), bench.connects()), (2, 3));
}

#[tokio::test]
async fn an_unused_connection_is_closed_in_the_end() {
    let mut plan = plan(http());
    plan.timeouts.keep_alive = Duration::from_secs(1);
    let bench = Bench::with(plan, 1).await;
    let (mut client, mut server) = asked(&bench, GET).await;
    send(&mut server, OK).await;
    expect(&mut client, OK).await;
    ended(&mut server).await;
    assert_eq!(bench.pooled(), 0);
}

#[tokio::test]
async fn a_switch_of_protocols_within_a_request_is_none() {
    let bench = Bench::new().await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let mut client = bench.client().await;
    send(&mut client, request).await;
    let mut server = bench.server().await;
    expect(&mut server, "POST / HTTP/1.1\r\n").await;
    send(&mut server, "HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n").await;
    assert!(whole_rest(&mut client).await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn a_stopping_relay_ends_connections_behind_their_answers() {
    let bench = Bench::new().await;
    let (mut client, mut server) = asked(&bench, GET).await;
    let mut idle = bench.client().await;
    send(&mut idle, GET).await;
    let mut other = bench.server().await;
    expect(&mut other, GET).await;
    send(&mut other, OK).await;
    expect(&mut idle, OK).await;
    bench.stop();
    assert_eq!(whole_rest(&mut idle).await, "");
    send(&mut server, OK).await;
    expect(&mut client, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        .await;
    assert_eq!(whole_rest(&mut client).await, "");
}
