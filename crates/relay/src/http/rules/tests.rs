use super::super::head;
use super::*;
use crate::plan::UpstreamId;

fn rule(action: Option<Action>, tests: Vec<Match>) -> Rule {
    let conditions = tests.into_iter().map(|test| Condition { test, is_negated: false }).collect();
    Rule { name: "r".into(), conditions, action, request_edits: vec![], response_edits: vec![] }
}

/// The rules that matched a request.
fn matched(rules: &[Rule], line: &str, fields: &str) -> Result<Vec<u16>, Refusal> {
    let text = format!("{line} HTTP/1.1\r\nHost: Shop.Example.:80\r\n{fields}\r\n");
    let mut slots = head::slots();
    let request = head::request(text.as_bytes(), &mut slots, 100).expect("a request");
    let mut verdict = Verdict::default();
    verdict.judge(rules, &request, "::ffff:192.0.2.7".parse().expect("an address"))?;
    Ok(verdict.matched)
}

fn meets(test: Match, line: &str, fields: &str) -> bool {
    matched(&[rule(None, vec![test])], line, fields).expect("judged") == [0]
}

fn field(name: &str, value: Option<&str>) -> Field {
    Field { name: name.into(), value: value.map(Into::into) }
}

#[test]
fn each_test_asks_what_it_says() {
    let host = |host: &str| Match::Host(vec![host.into()]);
    let prefix = |path: &str| Match::Path(PathMatch::Prefix(path.into()));
    for (test, line, fields, met) in [
        (host("shop.example"), "GET /", "", true),
        (host("example"), "GET /", "", false),
        (host("*.example"), "GET /", "", true),
        (host("*.shop.example"), "GET /", "", false),
        (host("*.op.example"), "GET /", "", false),
        (host("other"), "GET http://OTHER:1/", "", true),
        (Match::Path(PathMatch::Exact("/a".into())), "GET /a?b", "", true),
        (Match::Path(PathMatch::Exact("/a".into())), "GET /a/", "", false),
        (prefix("/api"), "GET /api", "", true),
        (prefix("/api"), "GET /api/x", "", true),
        (prefix("/api"), "GET /apix", "", false),
        (prefix("/api/"), "GET /api/x", "", true),
        (prefix("/api/"), "GET /api", "", false),
        (prefix("/admin"), "GET /%61dmin/x", "", true),
        (prefix("/admin"), "GET //admin", "", true),
        (prefix("/%61dmin"), "GET /%61dmin", "", true),
        (prefix("/admin"), "GET /admin%20", "", true),
        (prefix("/admin"), "GET /admin%09.%0A/x", "", true),
        (prefix("/admin"), "GET /%61dmin%2e", "", true),
        (prefix("/admin"), "GET /admin%20;x", "", true),
        (prefix("/admin"), "GET /...;x/admin...", "", true),
        (prefix("/admin"), "GET /%20admin", "", false),
        (prefix("/admin"), "GET /admin%2520", "", false),
        (prefix("/admin"), "GET /admin+", "", false),
        (Match::Path(PathMatch::Exact("/a.".into())), "GET /a.", "", true),
        (Match::Path(PathMatch::Exact("/a%20".into())), "GET /a%20", "", true),
        (Match::Path(PathMatch::Exact("/".into())), "GET /%20", "", true),
        (Match::Path(PathMatch::Glob("/*.php".into())), "GET /x.ph%70", "", true),
        (Match::Method(vec!["PUT".into(), "GET".into()]), "GET /", "", true),
        (Match::Method(vec!["get".into()]), "GET /", "", false),
        (Match::Header(field("x-a", None)), "GET /", "X-A:\r\n", true),
        (Match::Header(field("x-a", Some("b"))), "GET /", "X-A: c\r\nX-A:  b \r\n", true),
        (Match::Header(field("x-a", Some("b"))), "GET /", "X-A: B\r\n", false),
        (Match::Cookie(field("id", Some("7"))), "GET /", "Cookie: a=b; id=7\r\n", true),
        (Match::Cookie(field("id", Some("7"))), "GET /", "Cookie: xid=7; id=8\r\n", false),
        (Match::Cookie(field("id", None)), "GET /", "Cookie: a\r\nCookie: id\r\n", true),
        (Match::Query(field("q", Some("1"))), "GET /?a&q=1", "", true),
        (Match::Query(field("q", Some(""))), "GET /?q", "", true),
        (Match::Query(field("q", None)), "GET /q=1", "", false),
        (Match::Client(vec!["192.0.2.0/24".parse().expect("net")]), "GET /", "", true),
        (Match::Client(vec!["198.51.100.0/24".parse().expect("net")]), "GET /", "", false),
    ] {
        assert_eq!(meets(test.clone(), line, fields), met, "{test:?} {line} {fields}");
    }
}

#[test]
fn the_first_that_decides_ends_it_and_all_conditions_must_hold() {
    let get = || Match::Method(vec!["GET".into()]);
    let put = || Match::Method(vec!["PUT".into()]);
    let mut not_put = rule(Some(Action::Route(UpstreamId(1))), vec![put()]);
    not_put.conditions[0].is_negated = true;
    let rules = [
        rule(None, vec![]),
        rule(Some(Action::Pass), vec![get(), put()]),
        not_put,
        rule(Some(Action::Pass), vec![get()]),
    ];
    assert_eq!(matched(&rules, "GET /", ""), Ok(vec![0, 2]));
    assert_eq!(matched(&rules, "PUT /", ""), Ok(vec![0]));
}

#[test]
fn a_path_that_rules_cannot_judge_is_refused_where_they_would() {
    let pathless = [rule(None, vec![])];
    assert_eq!(matched(&pathless, "GET /a%2fb", ""), Ok(vec![0]));
    let by_path = [rule(None, vec![Match::Path(PathMatch::Exact("/x".into()))])];
    for path in ["/a%2fb", "/a%5Cb", "/a\\b"] {
        assert!(matched(&by_path, &format!("GET {path}"), "").is_err(), "{path}");
    }
}

/// A Host is compared as it stands, and a server might decode it.
#[test]
fn no_host_rule_is_passed_by_an_encoded_name() {
    for line in
        ["GET / HTTP/1.1\r\nHost: sh%6fp.example", "GET http://sh%6fp.example/ HTTP/1.1\r\nHost: a"]
    {
        let text = format!("{line}\r\n\r\n");
        let mut slots = head::slots();
        let refused = head::request(text.as_bytes(), &mut slots, 100).map_err(|why| why.status);
        assert_eq!(refused.err(), Some(400), "{line}");
    }
}
