use super::super::head;
use super::*;
use crate::plan::Rule;

const AROUND: fn(bool) -> Surroundings = |forwarded_for| Surroundings {
    client: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
    local: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 80),
    forwarded_for,
};

fn with(request_edits: Vec<HeaderEdit>, response_edits: Vec<HeaderEdit>) -> Rule {
    Rule { name: "r".into(), conditions: vec![], action: None, request_edits, response_edits }
}

fn sent(text: &str, forwarded_for: bool, rules: &[Rule]) -> String {
    let mut slots = head::slots();
    let parsed = head::request(text.as_bytes(), &mut slots, 100).expect("a request");
    let mut out = b"left over".to_vec();
    request(&mut out, &parsed, AROUND(forwarded_for), rules.iter());
    String::from_utf8(out).expect("text")
}

fn answered(text: &str, persistence: Persistence, is_framed: bool, rules: &[Rule]) -> String {
    let mut slots = head::slots();
    let parsed = head::response(text.as_bytes(), &mut slots, 100).expect("an answer");
    let mut out = Vec::new();
    response(&mut out, &parsed, persistence, is_framed, AROUND(true).client, rules.iter());
    String::from_utf8(out).expect("text")
}

#[test]
fn what_was_meant_for_the_client_connection_stays_there() {
    let text = "POST http://b/c?d HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop, Authorization\r\n\
                X-Hop: 1\r\nAuthorization: me\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\n\
                X-Keep:  v \r\nUpgrade: websocket\r\nContent-Length: 007\r\n\r\n";
    assert_eq!(
        sent(text, false, &[]),
        "POST /c?d HTTP/1.1\r\nHost: b\r\nAuthorization: me\r\nX-Keep: v\r\nContent-Length: 7\r\n\r\n"
    );
}

#[test]
fn the_client_is_added_behind_those_who_came_before() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1\r\nX-Forwarded-For: 2, 3\r\n\r\n";
    assert_eq!(
        sent(text, true, &[]),
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1, 2, 3, 192.0.2.7\r\n\r\n"
    );
    assert!(sent(text, false, &[]).contains("For: 1\r\nX-Forwarded-For: 2, 3\r\n"));
    let trusts_nobody = with(vec![HeaderEdit::Remove { name: "x-forwarded-for".into() }], vec![]);
    assert!(sent(text, true, &[trusts_nobody]).ends_with("X-Forwarded-For: 192.0.2.7\r\n\r\n"));
}

#[test]
fn old_clients_become_clients_of_today() {
    let text = "GET / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(sent(text, false, &[]), "GET / HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n");
}

#[test]
fn upgrades_are_passed_on_but_not_to_what_rules_could_not_see() {
    let text = |to: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\nUpgrade: {to}\r\n\r\n"
        )
    };
    assert_eq!(
        sent(&text("websocket"), false, &[]),
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    );
    assert_eq!(sent(&text("h2c"), false, &[]), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(sent(&text("websocket, H2C"), false, &[]), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn edits_are_made_in_order() {
    let put = |how, name: &str, value: &str| HeaderEdit::Put {
        how,
        name: name.into(),
        value: value.into(),
    };
    let remove = |name: &str| HeaderEdit::Remove { name: name.into() };
    let rules = [
        with(
            vec![put(SetOrAdd::Add, "X-A", "2"), put(SetOrAdd::Set, "X-B", "gone"), remove("x-c")],
            vec![],
        ),
        with(
            vec![
                put(SetOrAdd::Set, "x-b", "for {client}, {client}"),
                put(SetOrAdd::Add, "X-C", "new"),
                put(SetOrAdd::Set, "Content-Length", "5"),
                put(SetOrAdd::Set, "Host", "other"),
            ],
            vec![],
        ),
    ];
    assert_eq!(
        sent("GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-B: 1\r\nX-C: 1\r\n\r\n", false, &rules),
        "GET / HTTP/1.1\r\nX-A: 1\r\nX-A: 2\r\nx-b: for 192.0.2.7, 192.0.2.7\r\nX-C: new\r\nHost: other\r\n\r\n"
    );
    let rules = [with(vec![], vec![remove("server"), put(SetOrAdd::Set, "X-A", "b")])];
    assert_eq!(
        answered(
            "HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 1\r\n\r\n",
            Persistence::Silent,
            true,
            &rules
        ),
        "HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 1\r\n\r\n"
    );
}

#[test]
fn answers_are_framed_once_and_by_their_status() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";
    assert_eq!(
        answered(chunked, Persistence::Silent, true, &[]),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        answered(chunked, Persistence::Close, false, &[]),
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    );
    let empty = "HTTP/1.0 204 No Content\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(
        answered(empty, Persistence::KeepAlive, true, &[]),
        "HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n"
    );
    let upgraded =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(
        answered(upgraded, Persistence::Upgrade, false, &[]),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    );
}

#[test]
fn a_redirect_stays_on_its_host() {
    let place = |template: &str, target: &str| {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a:80\r\n\r\n");
        let mut slots = head::slots();
        let parsed = head::request(text.as_bytes(), &mut slots, 100).expect("a request");
        let mut out = String::new();
        location(&mut out, template, &parsed).expect("a place");
        out
    };
    assert_eq!(place("https://{host}{path}{query}", "/b?c"), "https://a/b?c");
    assert_eq!(place("https://{host}{path}{query}", "//b"), "https://a//b");
    assert_eq!(place("{path}/x{query}", "///b/c?"), "/b/c/x?");
    assert_eq!(place("/{other}{", "/b"), "/{other}{");
}

/// An empty host would make the path's first segment one: `https:///b` is `https://b/` to browsers.
#[test]
fn a_redirect_to_a_host_that_was_not_named_is_refused() {
    let place = |template: &str, fields: &str| {
        let text = format!("GET /b HTTP/1.0\r\n{fields}\r\n");
        let mut slots = head::slots();
        let parsed = head::request(text.as_bytes(), &mut slots, 100).expect("a request");
        let mut out = String::new();
        location(&mut out, template, &parsed).map(|()| out).map_err(|refusal| refusal.status)
    };
    assert_eq!(place("https://{host}{path}", ""), Err(400));
    assert_eq!(place("https://{host}{path}", "Host: a\r\n"), Ok("https://a/b".into()));
    assert_eq!(place("https://c{path}", ""), Ok("https://c/b".into()));
}

/// The value of Date, which is of the right form, is left out.
fn undated(answer: &[u8]) -> String {
    let text = String::from_utf8(answer.to_vec()).expect("text");
    let at = text.find("\r\nDate: ").expect("a Date") + 6;
    let date = &text[at + 2..at + 2 + 29];
    assert!(httpdate::parse_http_date(date).is_ok() && date.ends_with(" GMT"), "{text}");
    text.replacen(&format!(": {date}"), "", 1)
}

#[test]
fn an_answer_of_our_own() {
    let mut out = Vec::new();
    let client = AROUND(true).client;
    let own = Own { status: 502, location: None, body: &["no", "\n"], is_head: false };
    answer(&mut out, own, Persistence::Close, client, [].iter());
    assert_eq!(
        undated(&out),
        "HTTP/1.1 502 Bad Gateway\r\nDate\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n"
    );
    let own = Own { status: 301, location: Some("/x"), body: &[], is_head: true };
    answer(&mut out, own, Persistence::Silent, client, [].iter());
    assert_eq!(
        undated(&out),
        "HTTP/1.1 301 Moved Permanently\r\nDate\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"
    );
}

fn set(name: &str, value: &str) -> HeaderEdit {
    HeaderEdit::Put { how: SetOrAdd::Set, name: name.into(), value: value.into() }
}

#[test]
fn a_rule_edits_its_own_answer_too() {
    let edits = vec![
        set("Content-Type", "text/html"),
        set("Cache-Control", "no-store"),
        set("Content-Length", "9"),
    ];
    let own = Own { status: 403, location: None, body: &["no"], is_head: false };
    let mut out = Vec::new();
    answer(&mut out, own, Persistence::Silent, AROUND(true).client, [with(vec![], edits)].iter());
    assert_eq!(
        undated(&out),
        "HTTP/1.1 403 Forbidden\r\nDate\r\nContent-Type: text/html\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nno"
    );
}

#[test]
fn a_rule_may_say_the_date_or_leave_it_out() {
    let own = Own { status: 403, location: None, body: &[], is_head: false };
    for (edit, field) in [
        (set("Date", "Sun, 06 Nov 1994 08:49:37 GMT"), "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
        (HeaderEdit::Remove { name: "date".into() }, ""),
    ] {
        let mut out = Vec::new();
        let rules = [with(vec![], vec![edit])];
        answer(&mut out, own, Persistence::Silent, AROUND(true).client, rules.iter());
        let wanted = format!("HTTP/1.1 403 Forbidden\r\n{field}Content-Length: 0\r\n\r\n");
        assert_eq!(String::from_utf8_lossy(&out), wanted);
    }
}

/// RFC 9110 section 7.6.2.
#[test]
fn max_forwards_counts_down_where_it_means_something() {
    let text = |method: &str, fields: &str| {
        sent(&format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), false, &[])
    };
    for (method, fields, forwarded) in [
        ("OPTIONS", "Max-Forwards: 10\r\n", "Max-Forwards: 9\r\n"),
        ("TRACE", "max-forwards: 001\r\nMax_Forwards: 7\r\n", "Max-Forwards: 0\r\n"),
        ("OPTIONS", "", ""),
        ("GET", "Max-Forwards: 0\r\n", "Max-Forwards: 0\r\n"),
    ] {
        assert_eq!(
            text(method, fields),
            format!("{method} / HTTP/1.1\r\nHost: a\r\n{forwarded}\r\n")
        );
    }
    let rules = [with(vec![set("Max-Forwards", "3")], vec![])];
    assert_eq!(
        sent("OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 9\r\n\r\n", false, &rules),
        "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n"
    );
}

#[test]
fn no_underscore_gets_past_what_takes_a_field_away() {
    let rules = [with(
        vec![set("X-User", "nobody"), HeaderEdit::Remove { name: "x-debug".into() }],
        vec![],
    )];
    let text = "GET / HTTP/1.1\r\nHost: a\r\nX_User: root\r\nx_debug: 1\r\nX_Forwarded-For: 9.9.9.9\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\nX_Other: 1\r\n\r\n";
    assert_eq!(
        sent(text, true, &rules),
        "GET / HTTP/1.1\r\nHost: a\r\nX_Other: 1\r\nX-User: nobody\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"
    );
}
