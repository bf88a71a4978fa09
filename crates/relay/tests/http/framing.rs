//! The table: raw bytes in, raw bytes out, on both sides; and which connections live on.

use crate::harness::*;

struct Case {
    client: &'static str,
    server_gets: &'static str,
    server: &'static str,
    client_gets: &'static str,
    /// The client's connection takes another request.
    keeps: bool,
    /// The server's does.
    reuses: bool,
}

const CASES: &[Case] = &[
    // Lengths.
    Case {
        client: "GET /a?b=c HTTP/1.1\r\nHost: a:1\r\nAccept: x\r\n\r\n",
        server_gets: "GET /a?b=c HTTP/1.1\r\nHost: a:1\r\nAccept: x\r\n\r\n",
        server: "HTTP/1.1 200 Fine\r\nX: y\r\nContent-Length: 5\r\n\r\nhello",
        client_gets: "HTTP/1.1 200 Fine\r\nX: y\r\nContent-Length: 5\r\n\r\nhello",
        keeps: true,
        reuses: true,
    },
    Case {
        client: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        server_gets: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        server: "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
        client_gets: "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
        keeps: true,
        reuses: true,
    },
    Case {
        client: "\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        server_gets: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        server: "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        client_gets: "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
        keeps: true,
        reuses: true,
    },
    // Chunks, both ways, with extensions and trailers.
    Case {
        client: "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n",
        server_gets: "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n",
        server: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n00\r\nC: d\r\n\r\n",
        client_gets: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n00\r\nC: d\r\n\r\n",
        keeps: true,
        reuses: true,
    },
    // No body whatever the fields say.
    // Announced and not due: a server that sends it all the same must not be asked again.
    Case {
        client: "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        server_gets: "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        server: "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        client_gets: "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        keeps: true,
        reuses: false,
    },
    Case {
        client: "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        server_gets: "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        server: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        client_gets: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        keeps: true,
        reuses: false,
    },
    Case {
        client: GET,
        server_gets: GET,
        server: "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        client_gets: "HTTP/1.1 204 No Content\r\n\r\n",
        keeps: true,
        reuses: false,
    },
    Case {
        client: GET,
        server_gets: GET,
        server: "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n",
        client_gets: "HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\n\r\n",
        keeps: true,
        reuses: false,
    },
    // Interim answers.
    Case {
        client: GET,
        server_gets: GET,
        server: "HTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 3\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        client_gets: "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        keeps: true,
        reuses: true,
    },
    // Who closes.
    Case {
        client: "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        server_gets: GET,
        server: OK,
        client_gets: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        keeps: false,
        reuses: true,
    },
    Case {
        client: GET,
        server_gets: GET,
        server: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        client_gets: OK,
        keeps: true,
        reuses: false,
    },
    // Old ones.
    Case {
        client: "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        server_gets: GET,
        server: OK,
        client_gets: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        keeps: false,
        reuses: true,
    },
    Case {
        client: "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        server_gets: GET,
        server: OK,
        client_gets: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
        keeps: true,
        reuses: true,
    },
    Case {
        client: "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        server_gets: GET,
        server: "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n",
        client_gets: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde",
        keeps: false,
        reuses: true,
    },
    Case {
        client: GET,
        server_gets: GET,
        server: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        client_gets: OK,
        keeps: true,
        reuses: false,
    },
    Case {
        client: GET,
        server_gets: GET,
        server: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        client_gets: OK,
        keeps: true,
        reuses: true,
    },
    // Bytes behind an answer belong to no request.
    Case {
        client: GET,
        server_gets: GET,
        server: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        client_gets: OK,
        keeps: true,
        reuses: false,
    },
    // Other forms of targets, and fields for one connection only.
    Case {
        client: "GET http://b:8/c HTTP/1.1\r\nHost: a\r\nConnection: X-Hop\r\nX-Hop: 1\r\nTE: gzip\r\nProxy-Connection: close\r\n\r\n",
        server_gets: "GET /c HTTP/1.1\r\nHost: b:8\r\n\r\n",
        server: OK,
        client_gets: OK,
        keeps: true,
        reuses: true,
    },
    Case {
        client: "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        server_gets: "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        server: OK,
        client_gets: OK,
        keeps: true,
        reuses: true,
    },
];

#[tokio::test]
async fn each_message_ends_where_it_ends_on_both_sides() {
    for case in CASES {
        for is_slow in [false, true] {
            one(case, is_slow).await;
        }
    }
}

async fn one(case: &Case, is_slow: bool) {
    println!("{} (a byte at a time: {is_slow})", case.client.escape_debug());
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    let write = async |stream: &mut tokio::net::TcpStream, text: &str| {
        if !is_slow {
            return send(stream, text).await;
        }
        for byte in text.as_bytes() {
            send(stream, [*byte]).await;
            tokio::task::yield_now().await;
        }
    };
    write(&mut client, case.client).await;
    let mut server = bench.server().await;
    expect(&mut server, case.server_gets).await;
    // What comes behind an answer must be there with it: else it is the next one's.
    if case.reuses {
        write(&mut server, case.server).await;
    } else {
        send(&mut server, case.server).await;
    }
    expect(&mut client, case.client_gets).await;
    let line = bench.line(0).await;
    assert_eq!(line.fault, None);
    if !case.keeps {
        assert_eq!(whole_rest(&mut client).await, "");
        client = bench.client().await;
    }
    send(&mut client, GET).await;
    if !case.reuses {
        ended(&mut server).await;
        server = bench.server().await;
    }
    expect(&mut server, GET).await;
    send(&mut server, OK).await;
    expect(&mut client, OK).await;
    assert_eq!(bench.connects(), 1 + usize::from(!case.reuses));
    assert_eq!(bench.line(1).await.is_reused, case.reuses);
}

#[tokio::test]
async fn an_answer_that_ends_by_close_ends_the_clients_connection() {
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    send(&mut client, GET).await;
    let mut server = bench.server().await;
    expect(&mut server, GET).await;
    send(&mut server, "HTTP/1.1 200 OK\r\n\r\nhello").await;
    expect(&mut client, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello").await;
    send(&mut server, " world").await;
    drop(server);
    assert_eq!(whole_rest(&mut client).await, " world");
    let line = bench.line(0).await;
    assert_eq!((line.fault, line.response.total(), bench.pooled()), (None, 11, 0));
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order_and_also_after_a_fin() {
    use tokio::io::AsyncWriteExt;
    let bench = Bench::new().await;
    let mut client = bench.client().await;
    let mut all = String::new();
    for place in 0..50 {
        let body = format!("GET /hidden{place} HTTP/1.1\r\nHost: b\r\n\r\n");
        all += &format!(
            "PUT /{place} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    send(&mut client, &all).await;
    client.shutdown().await.expect("half-close");
    let mut server = bench.server().await;
    for place in 0..50 {
        let body = format!("GET /hidden{place} HTTP/1.1\r\nHost: b\r\n\r\n");
        let wanted = format!(
            "PUT /{place} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        expect(&mut server, &wanted).await;
        send(&mut server, format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{place:03}")).await;
        expect(&mut client, &format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{place:03}"))
            .await;
    }
    assert_eq!(whole_rest(&mut client).await, "");
    assert_eq!((bench.connects(), bench.line_count()), (1, 50));
}
