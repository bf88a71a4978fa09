//! What a file means, with and without what may be left out.

use crate::problems;
use sosplice::EngineChoice;
use sosplice_relay::config::parse;
use sosplice_relay::plan::*;
use std::time::Duration;

const SMALLEST: &str = "[[relay]]
name = \"a\"
listen = \"127.0.0.1:80\"
upstream = \"u\"
[[upstream]]
name = \"u\"
servers = \"10.0.0.5:80\"
";

#[test]
fn what_is_left_out_has_its_default() {
    let plan = parse(SMALLEST).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!((plan.workers, plan.busy_poll), (cores, Duration::ZERO));
    assert_eq!(plan.drain_timeout, Duration::from_secs(30));
    assert_eq!((plan.max_connections, plan.admin, plan.control), (None, None, None));
    let log = LogPlan { level: LogLevel::Info, format: LogFormat::Text, access: true };
    assert_eq!(plan.log, log);
    let relay = &plan.relays[0];
    assert_eq!(relay.protocol, Protocol::Tcp);
    assert_eq!(relay.upstream, Some(UpstreamId(0)));
    assert_eq!(relay.timeouts, Timeouts::default());
    assert_eq!((relay.timeouts.idle, relay.engine), (None, EngineChoice::Auto));
    let upstream = &plan.upstreams[0];
    assert_eq!((upstream.balance, &upstream.check), (Balance::RoundRobin, &None));
    assert_eq!((upstream.queue_max, upstream.queue_timeout), (1024, Duration::from_secs(5)));
    assert_eq!((upstream.idle_connections_max, upstream.resolve_interval), (32, None));
    let server = &upstream.servers[0];
    assert_eq!((server.name.as_str(), server.weight), ("10.0.0.5:80", 1));
    assert_eq!((server.is_backup, server.max_connections), (false, None));
}

#[test]
fn datagrams_and_http_end_in_silence_unless_told_otherwise() {
    for (protocol, idle) in [("tcp", None), ("udp", Some(60)), ("http", Some(60))] {
        let text = SMALLEST.replace("listen", &format!("protocol = \"{protocol}\"\nlisten"));
        let plan = parse(&text).unwrap();
        let idle = idle.map(Duration::from_secs);
        assert_eq!(plan.relays[0].timeouts.idle, idle, "{protocol}");
    }
    let text = SMALLEST
        .replace("upstream = ", "protocol = \"http\"\ntimeout.idle = \"none\"\nupstream = ");
    assert_eq!(parse(&text).unwrap().relays[0].timeouts.idle, None);
}

#[test]
fn a_check_has_its_defaults_and_its_jitter_follows_its_interval() {
    let check = |lines: &str| {
        let plan = parse(&format!("{SMALLEST}[upstream.check]\n{lines}")).unwrap();
        plan.upstreams[0].check.clone().unwrap()
    };
    let usual = check("");
    assert_eq!(usual.kind, CheckKind::Tcp);
    assert_eq!(
        (usual.interval, usual.jitter),
        (Duration::from_secs(5), Duration::from_millis(500))
    );
    assert_eq!((usual.timeout, usual.rise, usual.fall), (Duration::from_secs(2), 2, 3));
    assert_eq!(check("interval = \"1m\"").jitter, Duration::from_secs(6));
    let http = CheckKind::Http {
        method: "GET".into(),
        path: "/".into(),
        host: None,
        statuses: Statuses(vec![(200, 399)]),
    };
    assert_eq!(check("kind = \"http\"").kind, http);
    let statuses = check("kind = \"http\"\nstatus = [200, \"3xx\", \"401-403\"]");
    let CheckKind::Http { statuses, .. } = statuses.kind else { panic!("{statuses:?}") };
    assert_eq!(statuses, Statuses(vec![(200, 200), (300, 399), (401, 403)]));
    let bytes = check("kind = \"send-expect\"\nsend-hex = \"0d0A ff\"\nexpect = \"é\"").kind;
    let (send, expect) = (vec![0x0d, 0x0a, 0xff], "é".as_bytes().to_vec());
    assert_eq!(bytes, CheckKind::SendExpect { send, expect });
}

fn rule(lines: &str) -> Rule {
    let text = SMALLEST.replace("[[upstream]]", &format!("[[relay.rule]]\n{lines}\n[[upstream]]"));
    let text = text.replace("listen", "protocol = \"http\"\nlisten");
    match parse(&text) {
        Ok(plan) => match &plan.relays[0].protocol {
            Protocol::Http(http) => http.rules[0].clone(),
            other => panic!("{other:?}"),
        },
        Err(problems) => panic!("{problems:?} in\n{text}"),
    }
}

#[test]
fn a_rule_asks_what_it_says_and_not_what_it_denies() {
    let rule = rule(
        "host = \"WWW.Example.com\"\nheader.name = \"X-A\"\nnot = { client = \"10.0.0.1\", \
         header = [{ name = \"b\" }, { name = \"c\", value = \"1\" }] }",
    );
    let field = |name: &str, value: Option<&str>| {
        Match::Header(Field { name: name.into(), value: value.map(str::to_owned) })
    };
    let expected = [
        (Match::Host(vec!["www.example.com".into()]), false),
        (field("x-a", None), false),
        (field("b", None), true),
        (field("c", Some("1")), true),
        (Match::Client(vec!["10.0.0.1/32".parse().unwrap()]), true),
    ];
    let expected = expected.map(|(test, is_negated)| Condition { test, is_negated });
    assert_eq!(rule.conditions, expected);
    assert_eq!((rule.name.as_str(), rule.action), ("rule-1", None));
}

#[test]
fn edits_are_made_in_one_order_whatever_the_files() {
    let rule = rule(
        "add-header = { Z = [\"1\", \"2\"], B = \"3\" }\nset-header = { Host = \"x\" }\n\
         remove-header = \"X-Old\"\nresponse-remove-header = [\"Server\"]",
    );
    let put = |how, name: &str, value: &str| HeaderEdit::Put {
        how,
        name: name.into(),
        value: value.into(),
    };
    let expected = [
        HeaderEdit::Remove { name: "x-old".into() },
        put(SetOrAdd::Set, "Host", "x"),
        put(SetOrAdd::Add, "Z", "1"),
        put(SetOrAdd::Add, "Z", "2"),
        put(SetOrAdd::Add, "B", "3"),
    ];
    assert_eq!(rule.request_edits, expected);
    assert_eq!(rule.response_edits, [HeaderEdit::Remove { name: "server".into() }]);
}

#[test]
fn an_action_has_its_defaults() {
    let block = Action::Block { status: 403, body: String::new() };
    assert_eq!(rule("action = \"block\"").action, Some(block));
    let redirect = Action::Redirect { status: 302, location: "/new".into() };
    assert_eq!(rule("action = \"redirect\"\nlocation = \"/new\"").action, Some(redirect));
    let route = rule("action = \"route\"\nupstream = \"u\"").action;
    assert_eq!(route, Some(Action::Route(UpstreamId(0))));
}

#[test]
fn sections_stand_in_any_order() {
    let (relay, upstream) = SMALLEST.split_at(SMALLEST.find("[[upstream]]").unwrap());
    let turned = format!("{upstream}{relay}");
    assert_eq!(parse(&turned).unwrap(), parse(SMALLEST).unwrap());
}

#[test]
fn one_port_serves_streams_and_datagrams() {
    let udp = "[[relay]]\nname = \"b\"\nprotocol = \"udp\"\nlisten = \"127.0.0.1:80\"\nupstream = \"u\"\n";
    assert_eq!(problems(&format!("{udp}{SMALLEST}")), [""; 0]);
    // And so do different addresses of one port, and ports that the kernel chooses.
    for (first, second) in
        [("127.0.0.1:80", "127.0.0.2:80"), ("0.0.0.0:80", "[::1]:80"), ("[::]:0", "[::]:0")]
    {
        let listen = format!("listen = [\"{first}\", \"{second}\"]");
        let text = SMALLEST.replace("listen = \"127.0.0.1:80\"", &listen);
        assert_eq!(problems(&text), [""; 0]);
    }
}
