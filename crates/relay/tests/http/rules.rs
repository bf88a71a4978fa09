//! Rules that answer, route and edit.

use crate::harness::*;
use sosplice_relay::plan::{
    Action, Condition, HeaderEdit, HttpPlan, Match, PathMatch, Rule, SetOrAdd, UpstreamId,
};

fn rule(name: &str, prefix: &str, action: Option<Action>) -> Rule {
    let test = Match::Path(PathMatch::Prefix(prefix.into()));
    Rule {
        name: name.into(),
        conditions: vec![Condition { test, is_negated: false }],
        action,
        request_edits: vec![],
        response_edits: vec![],
    }
}

fn put(name: &str, value: &str) -> HeaderEdit {
    HeaderEdit::Put { how: SetOrAdd::Set, name: name.into(), value: value.into() }
}

#[tokio::test]
async fn a_rule_answers_routes_and_edits() {
    let mut edits = rule("edits", "/", None);
    edits.request_edits = vec![put("X-Client", "{client}")];
    edits.response_edits =
        vec![put("Server", "none"), HeaderEdit::Remove { name: "x-debug".into() }];
    let block = Action::Block { status: 403, body: "not here\n".into() };
    let redirect = Action::Redirect { status: 308, location: "https://{host}{path}{query}".into() };
    let rules = vec![
        edits,
        rule("admin", "/admin", Some(block)),
        rule("old", "/old", Some(redirect)),
        rule("api", "/api", Some(Action::Route(UpstreamId(1)))),
    ];
    let http = HttpPlan { rules, forwarded_for: true, ..HttpPlan::default() };
    let bench = Bench::with(plan(http), 2).await;
    let mut client = bench.client().await;
    let blocked = "HTTP/1.1 403 Forbidden\r\nDate\r\nContent-Type: text/plain; charset=utf-8\r\nServer: none\r\nContent-Length: 9\r\n\r\n";
    // The body is passed over, not taken for a request.
    send(&mut client, "POST /admin HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET ").await;
    expect_own(&mut client, &format!("{blocked}not here\n")).await;
    send(&mut client, "HEAD /;a/%61dmin;b=c/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    expect_own(&mut client, blocked).await;
    send(&mut client, "GET /old/x?y=z HTTP/1.1\r\nHost: a:80\r\n\r\n").await;
    expect_own(
        &mut client,
        "HTTP/1.1 308 Permanent Redirect\r\nDate\r\nLocation: https://a/old/x?y=z\r\nServer: none\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    for (path, at) in [("/api/x", 1), ("/other", 0)] {
        send(&mut client, format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Client: forged\r\n\r\n"))
            .await;
        let mut server = bench.server_at(at).await;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nX-Client: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
        );
        expect(&mut server, &head).await;
        send(
            &mut server,
            "HTTP/1.1 200 OK\r\nServer: s\r\nX-Debug: 1\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        expect(&mut client, "HTTP/1.1 200 OK\r\nServer: none\r\nContent-Length: 0\r\n\r\n").await;
    }
    let decided: Vec<_> = [
        (Some("admin"), Some(403), vec![0, 1], 9),
        (Some("admin"), Some(403), vec![0, 1], 0),
        (Some("old"), Some(308), vec![0, 2], 0),
        (Some("api"), Some(200), vec![0, 3], 0),
        (None, Some(200), vec![0], 0),
    ]
    .into();
    for (place, (rule, status, matched, len)) in decided.into_iter().enumerate() {
        let line = bench.line(place).await;
        assert_eq!((line.rule.as_deref(), line.status, line.matched), (rule, status, matched));
        assert_eq!((line.response.copy, line.fault), (len, None));
    }
    // A large body is not waited for.
    send(&mut client, "POST /admin HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\nGET ")
        .await;
    assert!(whole_rest(&mut client).await.contains("\r\nConnection: close\r\n"));
}

/// A host that a server would decode, a path whose end it would cut off, a host that is not there.
#[tokio::test]
async fn no_spelling_gets_past_a_rule_on_its_way_to_a_server() {
    let host = Condition { test: Match::Host(vec!["shop.example".into()]), is_negated: false };
    let block = || Some(Action::Block { status: 403, body: String::new() });
    let mut shop = rule("shop", "/", block());
    shop.conditions = vec![host];
    let redirect = Action::Redirect { status: 308, location: "https://{host}{path}".into() };
    let rules = vec![shop, rule("admin", "/admin", block()), rule("old", "/old", Some(redirect))];
    let bench = Bench::with(plan(HttpPlan { rules, ..http() }), 1).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: SHOP.example.:80\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: shop%2Eexample\r\n", 400),
        ("GET http://shop%2Eexample/ HTTP/1.1\r\nHost: a\r\n", 400),
        ("GET /admin%20 HTTP/1.1\r\nHost: a\r\n", 403),
        ("GET /admin./x HTTP/1.1\r\nHost: a\r\n", 403),
        ("GET /old HTTP/1.0\r\n", 400),
        ("GET /old HTTP/1.0\r\nHost: a\r\n", 308),
    ] {
        let mut client = bench.client().await;
        send(&mut client, format!("{request}Connection: close\r\n\r\n")).await;
        let answer = whole_rest(&mut client).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    assert_eq!(bench.connects(), 0);
}

/// RFC 9110 section 7.6.2: who may not forward answers, and does not send a request back to whoever
/// sees what was in it.
#[tokio::test]
async fn a_request_that_may_go_no_further_is_answered() {
    let mut edits = rule("edits", "/", None);
    edits.response_edits = vec![put("Server", "none")];
    let block = Action::Block { status: 403, body: String::new() };
    let rules = vec![edits, rule("admin", "/admin", Some(block))];
    let bench = Bench::with(plan(HttpPlan { rules, ..http() }), 1).await;
    let mut client = bench.client().await;
    let last = |method: &str, path: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: a\r\nCookie: secret\r\nMax-Forwards: 0\r\n\r\n")
    };
    send(&mut client, last("OPTIONS", "/")).await;
    let own = "HTTP/1.1 200 OK\r\nDate\r\nServer: none\r\nContent-Length: 0\r\n\r\n";
    expect_own(&mut client, own).await;
    send(&mut client, last("OPTIONS", "/admin")).await;
    let blocked = "HTTP/1.1 403 Forbidden\r\nDate\r\nServer: none\r\nContent-Length: 0\r\n\r\n";
    expect_own(&mut client, blocked).await;
    send(&mut client, last("TRACE", "/")).await;
    let own = "HTTP/1.1 501 Not Implemented\r\nDate\r\nServer: none\r\nContent-Length: 0\r\n\r\n";
    expect_own(&mut client, own).await;
    assert_eq!((bench.connects(), bench.line(2).await.status), (0, Some(501)));
    // The others go on, one less.
    send(&mut client, last("GET", "/")).await;
    let mut server = bench.server().await;
    expect(&mut server, "GET / HTTP/1.1\r\nHost: a\r\nCookie: secret\r\nMax-Forwards: 0\r\n\r\n")
        .await;
    send(&mut server, OK).await;
    expect(&mut client, "HTTP/1.1 200 OK\r\nServer: none\r\nContent-Length: 2\r\n\r\nok").await;
    send(&mut client, "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\n\r\n").await;
    expect(&mut server, "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n").await;
    send(&mut server, OK).await;
    // This path is not that of the edits.
    expect(&mut client, OK).await;
    for wrong in ["Max-Forwards: x", "Max-Forwards: -1", "Max-Forwards: 1\r\nMax-Forwards: 1"] {
        let mut client = bench.client().await;
        send(&mut client, format!("OPTIONS / HTTP/1.1\r\nHost: a\r\n{wrong}\r\n\r\n")).await;
        assert!(whole_rest(&mut client).await.starts_with("HTTP/1.1 400 "), "{wrong}");
    }
}
