use super::super::framing::Body;
use super::*;
use proptest::prelude::*;

/// A request's head, with what its tests look at.
fn read(bytes: &[u8]) -> Result<(String, Body, bool, bool, Option<String>), Refusal> {
    let mut slots = slots();
    let request = request(bytes, &mut slots, 100)?;
    Ok((
        format!("{} {}", request.method, request.target.forwarded),
        request.framing.of_request(),
        request.link.persists,
        request.expects_continue,
        request.host.map(str::to_owned),
    ))
}

fn status(text: &str) -> u16 {
    read(text.as_bytes()).expect_err(text).status
}

pub(in crate::http) const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n";

/// Method and target, body, whether the connection goes on, whether a 100 is waited for, and the
/// host that is asked.
type Meaning = (&'static str, Body, bool, bool, Option<&'static str>);

/// Requests, and what they mean.
pub(in crate::http) const MEANINGS: &[(&str, Meaning)] = &[
    (
        "GET /a?b HTTP/1.1\r\nHost: a:80\r\n\r\n",
        ("GET /a?b", Body::None, true, false, Some("a:80")),
    ),
    (
        "POST / HTTP/1.1\r\nhost:a\r\nCONTENT-LENGTH:  7 \r\nExpect: 100-Continue\r\n\r\n",
        ("POST /", Body::Length(7), true, true, Some("a")),
    ),
    (
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nConnection: x, CLOSE\r\n\r\n",
        ("PUT /", Body::Chunked, false, false, Some("a")),
    ),
    ("GET / HTTP/1.0\r\n\r\n", ("GET /", Body::None, false, false, None)),
    (
        "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n",
        ("GET /", Body::None, true, false, None),
    ),
    (
        "GET http://b:1/c HTTP/1.1\r\nHost: a\r\n\r\n",
        ("GET /c", Body::None, true, false, Some("b:1")),
    ),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", ("OPTIONS *", Body::None, true, false, Some("a"))),
    (
        "CONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n",
        ("CONNECT b:1", Body::None, true, false, Some("b:1")),
    ),
];

#[test]
fn a_request_means_one_thing() {
    for &(text, means) in MEANINGS {
        let (target, body, persists, expects, host) = means;
        assert_eq!(
            read(text.as_bytes()),
            Ok((target.to_owned(), body, persists, expects, host.map(str::to_owned))),
            "{text}"
        );
    }
}

/// Fields behind [`GET`], and how they are refused.
pub(in crate::http) const SMUGGLING: &[(&str, u16)] = &[
    // Two lengths.
    ("Content-Length: 1\r\nContent-Length: 2\r\n", 400),
    ("Content-Length: 1\r\nContent-Length: 1\r\n", 400),
    ("Content-Length: 1, 1\r\n", 400),
    ("Content-Length: 1,2\r\n", 400),
    ("Content-Length: 1\r\ncontent-length: 1\r\n", 400),
    // Lengths that are not plain numbers.
    ("Content-Length: +1\r\n", 400),
    ("Content-Length: -1\r\n", 400),
    ("Content-Length: 0x1\r\n", 400),
    ("Content-Length: 1_0\r\n", 400),
    ("Content-Length: 1 0\r\n", 400),
    ("Content-Length: 1e1\r\n", 400),
    ("Content-Length: \"1\"\r\n", 400),
    ("Content-Length: 18446744073709551616\r\n", 400),
    ("Content-Length:\r\n", 400),
    // A length and chunks.
    ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
    ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", 400),
    ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
    ("Transfer-Encoding: identity\r\nContent-Length: 1\r\n", 501),
    // Chunks that one of two parsers might not see.
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400),
    ("Transfer-Encoding: chunked, chunked\r\n", 400),
    ("Transfer-Encoding: chunked, identity\r\n", 400),
    ("Transfer-Encoding: identity, chunked\r\n", 400),
    ("Transfer-Encoding: gzip, chunked\r\n", 400),
    ("Transfer-Encoding: gzip\r\n", 501),
    ("Transfer-Encoding: xchunked\r\n", 400),
    ("Transfer-Encoding: chunked;a=b\r\n", 400),
    ("Transfer-Encoding: \"chunked\"\r\n", 400),
    ("Transfer-Encoding: chunk\r\n", 501),
    ("Transfer-Encoding:\r\n", 501),
    ("Transfer-Encoding: ,chunked\r\n", 400),
    ("Transfer-Encoding : chunked\r\n", 400),
    ("Transfer-Encoding\t: chunked\r\n", 400),
    ("Transfer-Encoding: \u{b}chunked\r\n", 400),
    ("Content-Length : 1\r\n", 400),
    ("Content-Length\r\n", 400),
    (": x\r\n", 400),
    ("A B: c\r\n", 400),
    ("A\u{e4}: c\r\n", 400),
    ("A(: c\r\n", 400),
    // Two places.
    ("Host: a\r\n", 400),
    ("HOST: b\r\n", 400),
    // What cannot be kept.
    ("Expect: 200-ok\r\n", 417),
    ("Expect: 100-continue, x\r\n", 417),
];

/// What is refused, with which status. Each is a way to make two parsers find the end of a
/// message in two places, or to reach somewhere else.
#[test]
fn the_smuggling_corpus_is_refused() {
    for &(fields, refusal) in SMUGGLING {
        assert_eq!(status(&format!("{GET}{fields}\r\n")), refusal, "{fields}");
    }
}

/// First lines, and how they are refused.
pub(in crate::http) const FIRST_LINES: &[(&str, u16)] = &[
    ("GET / HTTP/2.0", 505),
    ("GET / HTTP/1.2", 505),
    ("GET / HTTP/0.9", 505),
    ("PRI * HTTP/2.0", 505),
    ("GET / HTTP/1.10", 400),
    ("GET / HTTP/01.1", 505),
    ("GET / http/1.1", 400),
    ("GET / HTTP/1.1 ", 400),
    ("GET  / HTTP/1.1", 400),
    ("GET /  HTTP/1.1", 400),
    ("GET\t/ HTTP/1.1", 400),
    ("GET /", 400),
    ("GET / b HTTP/1.1", 400),
    ("G(T / HTTP/1.1", 400),
    ("GET /../etc/passwd HTTP/1.1", 400),
    ("GET /a\\..\\b HTTP/1.1", 400),
    ("GET * HTTP/1.1", 400),
    ("GET ftp://a/ HTTP/1.1", 400),
];

#[test]
fn first_lines_that_are_none_are_refused() {
    let host = "\r\nHost: a\r\n\r\n";
    for &(line, refusal) in FIRST_LINES {
        assert_eq!(status(&format!("{line}{host}")), refusal, "{line}");
    }
    assert_eq!(status(&format!("{} / HTTP/1.1{host}", "M".repeat(33))), 501);
    for host in [
        "",
        "Host:\r\n",
        "Host: a b\r\n",
        "Host: a,b\r\n",
        "Host: u@a\r\n",
        "Host: a/b\r\n",
        "Host: \u{e4}\r\n",
    ] {
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{host}\r\n")), 400, "{host}");
    }
    assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    assert_eq!(status("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\n"), 400);
    assert_eq!(status(&format!("{GET}{}\r\n", "A: b\r\n".repeat(100))), 431);
}

/// Heads of answers, and whether they are taken.
pub(in crate::http) const ANSWERS: &[(&str, bool)] = &[
    ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true),
    ("HTTP/1.1 200\r\n\r\n", true),
    ("HTTP/1.0 599 Odd \u{e4}\r\n\r\n", false),
    ("HTTP/1.1 600 Odd\r\n\r\n", false),
    ("HTTP/1.1 099 Odd\r\n\r\n", false),
    ("HTTP/2 200 OK\r\n\r\n", false),
    ("ICY 200 OK\r\n\r\n", false),
    ("HTTP/1.1 20 OK\r\n\r\n", false),
    ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", false),
    ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", false),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", false),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false),
    ("HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\n", false),
    ("HTTP/1.1 200 OK\r\nA\r\n\r\n", false),
];

#[test]
fn an_answer_that_could_be_two_is_none() {
    let mut ok = 0;
    for &(text, good) in ANSWERS {
        let mut slots = slots();
        let response = response(text.as_bytes(), &mut slots, 100);
        if text.contains('\u{e4}') {
            // httparse takes other alphabets in a reason, or not: either is safe.
            continue;
        }
        assert_eq!(response.is_ok(), good, "{text}");
        ok += usize::from(good);
    }
    assert_eq!(ok, 2);
}

fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just(b"GET / HTTP/1.1\r\n".to_vec()),
        Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Just(b"Host: a\r\n".to_vec()),
        Just(b"Content-Length: 5\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..8),
        "[ -~]{0,20}\r\n".prop_map(String::into_bytes),
    ];
    proptest::collection::vec(line, 0..8).prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in plausible()) {
        let mut first = slots();
        let _ = request(&bytes, &mut first, 100);
        let mut second = slots();
        let _ = response(&bytes, &mut second, 3);
    }

    #[test]
    fn a_head_in_pieces_ends_where_it_ends_at_once(bytes in plausible(), cut in 1usize..7, max in 1usize..200) {
        use super::super::scan::Scan;
        let at_once = Scan::default().end(&bytes, max);
        let mut scan = Scan::default();
        let mut reach = 0;
        let in_pieces = loop {
            reach = (reach + cut).min(bytes.len());
            match scan.end(&bytes[..reach], max) {
                Ok(None) if reach < bytes.len() => {}
                found => break found,
            }
        };
        prop_assert_eq!(in_pieces, at_once);
        if let Ok(Some(len)) = at_once {
            prop_assert!(bytes[..len].ends_with(b"\r\n\r\n"));
            // What httparse takes, it takes to the same end.
            let mut slots = slots();
            if let Ok(request) = request(&bytes[..len], &mut slots, 100) {
                prop_assert!(!request.method.is_empty());
            }
        }
    }
}

#[test]
fn connection_names_no_more_than_can_be_searched() {
    let parsed = |len: usize| {
        let text =
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: b{}\r\n\r\n", ",".repeat(len - 1));
        request(text.as_bytes(), &mut slots(), 100).map(|request| request.link.names_fields)
    };
    assert_eq!(parsed(CONNECTION_LEN_MAX), Ok(true));
    assert_eq!(parsed(CONNECTION_LEN_MAX + 1).map_err(|refusal| refusal.status), Err(400));
}
