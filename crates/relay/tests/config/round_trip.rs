//! What is printed is read as the same plan, for any plan that a file could make.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use sosplice::EngineChoice;
use sosplice_relay::Congestion;
use sosplice_relay::config::{parse, print};
use sosplice_relay::plan::*;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How many upstreams each generated plan has.
const UPSTREAMS: usize = 2;

fn limit() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (1..=365 * 24 * 3600u64).prop_map(Duration::from_secs),
        (1..100_000u64).prop_map(Duration::from_millis),
        (1..u64::from(u32::MAX)).prop_map(Duration::from_nanos),
    ]
}

fn text() -> impl Strategy<Value = String> {
    // Whatever a field's value may be, quotes and backslashes among it.
    "[!-~é]([ -~é\t]{0,12}[!-~é])?"
}

const TOKEN: &str = "x[a-z0-9!#$%&'*+.^_`|~-]{0,8}";

fn network() -> impl Strategy<Value = ipnet::IpNet> {
    prop_oneof![
        (any::<u32>(), 0..=32u8)
            .prop_map(|(ip, len)| ipnet::IpNet::new(Ipv4Addr::from(ip).into(), len)),
        (any::<u128>(), 0..=128u8)
            .prop_map(|(ip, len)| ipnet::IpNet::new(Ipv6Addr::from(ip).into(), len)),
    ]
    .prop_map(|network| network.unwrap().trunc())
}

fn count() -> impl Strategy<Value = Option<u64>> {
    option::of(prop_oneof![1..1000u64, Just(i64::MAX as u64)])
}

fn field(name: &'static str, value: &'static str) -> impl Strategy<Value = Field> {
    (name, option::of(value)).prop_map(|(name, value)| Field { name, value })
}

/// At most one of each kind, in the order in which a file's are put.
fn conditions(is_negated: bool) -> impl Strategy<Value = Vec<Condition>> {
    let host = vec(select(vec!["a.example", "*.b.example", "[::1]", "localhost"]), 1..3);
    let host = host.prop_map(|hosts| Match::Host(hosts.into_iter().map(str::to_owned).collect()));
    let path = |test: fn(String) -> PathMatch| move |path: String| Match::Path(test(path));
    let query = || field("[a-z%+.-]{1,6}", "[a-z%=+.-]{0,6}").prop_map(Match::Query);
    (
        option::of(host),
        option::of("/[a-z/%]{0,8}".prop_map(path(PathMatch::Exact))),
        option::of("/[a-z/%]{0,8}".prop_map(path(PathMatch::Prefix))),
        option::of("[/*][a-z/*?%]{0,8}".prop_map(path(PathMatch::Glob))),
        option::of(vec(select(vec!["GET", "PUT", "PROPFIND"]), 1..3)),
        vec(field(TOKEN, "[!-~]([ -~]{0,6}[!-~])?").prop_map(Match::Header), 0..3),
        vec(field(TOKEN, "[a-z0-9=\"]{0,6}").prop_map(Match::Cookie), 0..3),
        vec(query(), 0..2),
        option::of(vec(network(), 1..3).prop_map(Match::Client)),
    )
        .prop_map(
            move |(host, exact, prefix, glob, method, headers, cookies, queries, client)| {
                let methods = |them: Vec<&str>| them.into_iter().map(str::to_owned).collect();
                let tests = [host, exact, prefix, glob, method.map(methods).map(Match::Method)];
                let tests =
                    tests.into_iter().flatten().chain(headers).chain(cookies).chain(queries);
                tests.chain(client).map(|test| Condition { test, is_negated }).collect()
            },
        )
}

/// Taken out, then set, then added, no name set twice.
fn edits() -> impl Strategy<Value = Vec<HeaderEdit>> {
    let put = |how| {
        move |(name, value): (String, String)| HeaderEdit::Put {
            how,
            name: format!("X-{name}"),
            value,
        }
    };
    let set = proptest::collection::btree_map(TOKEN, text(), 0..3);
    let add = proptest::collection::btree_map(TOKEN, vec(text(), 1..3), 0..3);
    (vec(TOKEN, 0..3), set, add).prop_map(move |(removed, set, add)| {
        let removed = removed.into_iter().map(|name| HeaderEdit::Remove { name });
        let add = add
            .into_iter()
            .flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)));
        removed
            .chain(set.into_iter().map(put(SetOrAdd::Set)))
            .chain(add.map(put(SetOrAdd::Add)))
            .collect()
    })
}

fn action() -> impl Strategy<Value = Option<Action>> {
    let places =
        select(vec!["/", "https://{host}{path}{query}", "http://a.example/x", "/?a={query}"]);
    prop_oneof![
        Just(None),
        Just(Some(Action::Pass)),
        (0..UPSTREAMS).prop_map(|id| Some(Action::Route(UpstreamId(id)))),
        (400..600u16, "[ -~\r\n\té]{0,20}")
            .prop_map(|(status, body)| Some(Action::Block { status, body })),
        (select(vec![301, 302, 303, 307, 308]), places).prop_map(|(status, location)| {
            Some(Action::Redirect { status, location: location.to_owned() })
        }),
    ]
}

type Parts = (Vec<Condition>, Vec<Condition>, Option<Action>, Vec<HeaderEdit>, Vec<HeaderEdit>);

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = (conditions(false), conditions(true), action(), edits(), edits());
    vec(rule, 0..4).prop_map(|rules| {
        let last = rules.len().saturating_sub(1);
        let rule = |(index, parts): (usize, Parts)| {
            let (mut conditions, negated, mut action, mut request, response) = parts;
            conditions.extend(negated);
            // Behind a rule that decides everything none may stand.
            if conditions.is_empty() && index < last {
                action = None;
            }
            if matches!(action, Some(Action::Block { .. } | Action::Redirect { .. })) {
                request = Vec::new();
            }
            let name = format!("rule-{}", index + 1);
            Rule { name, conditions, action, request_edits: request, response_edits: response }
        };
        rules.into_iter().enumerate().map(rule).collect()
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    let http = (rules(), 1024..1_048_577usize, 1..1001usize, any::<bool>());
    prop_oneof![
        Just(Protocol::Tcp),
        count().prop_map(|max_sessions| Protocol::Udp { max_sessions }),
        http.prop_map(|(rules, head_max, fields_max, forwarded_for)| {
            Protocol::Http(HttpPlan { rules, head_max, fields_max, forwarded_for })
        }),
    ]
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    (limit(), option::of(limit()), option::of(limit()), limit(), limit()).prop_map(
        |(connect, idle, half_closed, head, keep_alive)| Timeouts {
            connect,
            idle,
            half_closed,
            head,
            keep_alive,
        },
    )
}

/// A relay whose number makes its name and ports its own.
fn relay() -> impl Strategy<Value = RelayPlan> {
    let listeners = vec((any::<bool>(), vec(network(), 0..3)), 1..3);
    let limits = (count(), count(), count());
    let send_proxy = option::of(select(vec![ProxyVersion::V1, ProxyVersion::V2]));
    let engine = select(vec![EngineChoice::Auto, EngineChoice::Pipe, EngineChoice::Copy]);
    let congestion = option::of("[a-z]{1,15}");
    let upstream = option::of((0..UPSTREAMS).prop_map(UpstreamId));
    (protocol(), listeners, limits, timeouts(), send_proxy, engine, congestion, upstream).prop_map(
        |(protocol, listeners, limits, timeouts, send_proxy, engine, congestion, upstream)| {
            let listener = |(is_v6, accept_proxy_from)| {
                let ip =
                    if is_v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
                ListenerPlan { address: SocketAddr::new(ip, 0), accept_proxy_from }
            };
            let listeners = listeners.into_iter().map(listener).collect();
            let mut plan = RelayPlan::new(String::new(), protocol, listeners);
            plan.upstream = upstream;
            plan.engine = engine;
            (plan.max_connections, plan.max_per_client, plan.max_bytes) = limits;
            plan.send_proxy = send_proxy;
            plan.congestion = congestion.map(Congestion);
            plan.timeouts = timeouts;
            plan
        },
    )
}

/// Without what its protocol has no key for.
fn fitting(mut plan: RelayPlan, number: usize) -> RelayPlan {
    plan.name = format!("relay-{number}");
    let default = Timeouts::of(&plan.protocol);
    match plan.protocol {
        Protocol::Http(_) => plan.max_bytes = None,
        Protocol::Tcp => plan.timeouts.keep_alive = default.keep_alive,
        Protocol::Udp { .. } => {
            plan.timeouts = Timeouts { idle: plan.timeouts.idle.or(default.idle), ..default };
            (plan.max_connections, plan.max_per_client, plan.max_bytes) = (None, None, None);
            (plan.send_proxy, plan.congestion) = (None, None);
            plan.upstream = plan.upstream.or(Some(UpstreamId(0)));
            plan.listeners.iter_mut().for_each(|listener| listener.accept_proxy_from.clear());
            if plan.engine == EngineChoice::Pipe {
                plan.engine = EngineChoice::Auto;
            }
        }
    }
    for (index, listener) in plan.listeners.iter_mut().enumerate() {
        listener.address.set_port((1000 + number * 10 + index) as u16);
    }
    plan
}

fn check() -> impl Strategy<Value = Check> {
    let bytes = || vec(any::<u8>(), 1..20);
    let statuses = vec((100..600u16, 100..600u16), 1..4)
        .prop_map(|them| Statuses(them.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect()));
    let hosts = option::of(select(vec!["a.example", "a.example:80", "[::1]:80"]));
    let http = (select(vec!["GET", "HEAD", "X-A"]), "/[a-z?=%]{0,9}", hosts, statuses);
    let kind = prop_oneof![
        Just(CheckKind::Tcp),
        (vec(any::<u8>(), 0..20), bytes())
            .prop_map(|(send, expect)| CheckKind::SendExpect { send, expect }),
        ("[ -~\r\n\0é]{0,9}", "[ -~é\u{7f}]{1,9}").prop_map(|(send, expect)| {
            CheckKind::SendExpect { send: send.into_bytes(), expect: expect.into_bytes() }
        }),
        http.prop_map(|(method, path, host, statuses)| CheckKind::Http {
            method: method.to_owned(),
            path,
            host: host.map(str::to_owned),
            statuses,
        }),
    ];
    let jitter = prop_oneof![Just(Duration::ZERO), limit()];
    (kind, limit(), jitter, limit(), 1..1001u32, 1..1001u32).prop_map(
        |(kind, interval, jitter, timeout, rise, fall)| Check {
            kind,
            interval,
            jitter,
            timeout,
            rise,
            fall,
        },
    )
}

fn upstream() -> impl Strategy<Value = UpstreamPlan> {
    let target = select(vec!["10.0.0.5:80", "[2001:db8::1]:80", "web.internal:8080"]);
    let server = (target, option::of("[a-z.]{1,5}"), 1..1001u32, any::<bool>(), count());
    let balances = vec![
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::TwoChoices,
        Balance::Random,
        Balance::Source,
    ];
    let queue = (0..1_000_001usize, limit(), 0..1_000_001usize);
    (vec(server, 1..4), select(balances), option::of(check()), option::of(limit()), queue).prop_map(
        |(servers, balance, check, resolve_interval, queue)| {
            let server = |(index, server): (usize, (&str, Option<String>, u32, bool, _))| {
                let (target, name, weight, is_backup, max_connections) = server;
                let name = format!("{}-{index}", name.as_deref().unwrap_or(target));
                let target = target.parse().unwrap();
                // Not all of them.
                let is_backup = is_backup && index > 0;
                ServerPlan { name, target, weight, is_backup, max_connections }
            };
            let servers = servers.into_iter().enumerate().map(server).collect();
            let (queue_max, queue_timeout, idle_connections_max) = queue;
            UpstreamPlan {
                name: String::new(),
                balance,
                servers,
                check,
                resolve_interval,
                queue_max,
                queue_timeout,
                idle_connections_max,
            }
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let log = (
        select(vec![LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug]),
        select(vec![LogFormat::Text, LogFormat::Json]),
        any::<bool>(),
    )
        .prop_map(|(level, format, access)| LogPlan { level, format, access });
    let drain = prop_oneof![Just(Duration::ZERO), limit()];
    let admin = option::of(Just("127.0.0.1:999".parse().unwrap()));
    let control = option::of("/[ -~é]{0,40}[a-z\"\\\\é]".prop_map(PathBuf::from));
    let relays = vec(relay(), 1..3);
    let upstreams = vec(upstream(), UPSTREAMS);
    (1..1025usize, any::<u32>(), drain, count(), admin, control, log, relays, upstreams).prop_map(
        |(
            workers,
            poll,
            drain_timeout,
            max_connections,
            admin,
            control,
            log,
            relays,
            upstreams,
        )| {
            let named = |(number, plan): (_, UpstreamPlan)| {
                Arc::new(UpstreamPlan { name: format!("upstream-{number}"), ..plan })
            };
            let fitting = |(number, plan)| Arc::new(fitting(plan, number));
            Plan {
                workers,
                busy_poll: Duration::from_micros(poll.into()),
                drain_timeout,
                max_connections,
                admin,
                control,
                log,
                relays: relays.into_iter().enumerate().map(fitting).collect(),
                upstreams: upstreams.into_iter().enumerate().map(named).collect(),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_read_as_the_same_plan(plan in plan()) {
        let printed = print(&plan);
        match parse(&printed) {
            Ok(again) => prop_assert_eq!(&plan, &again, "printed:\n{}", printed),
            Err(problems) => {
                let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
                prop_assert!(false, "{}\nprinted:\n{}", lines.join("\n"), printed);
            }
        }
    }
}
