//! Several relays in one process, each to its upstream, and `check` of the same files.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::process::Signal;
use std::process::Command;
use support::datagrams::{self, Echo};
use support::pattern::Pattern;
use support::peers::{accept, addr, connect, finish, listener, wait_until_refused};
use support::serve::{
    Dir, Named, Serve, TOP, check, free_address, hello, refused_at_start, tcp, tcp_at, udp_at,
    upstream,
};

/// Two of streams and one of datagrams between them.
fn three(a: &Named, b: &Named, echo: &Echo) -> String {
    let any = "127.0.0.1:0".parse().unwrap();
    tcp("first", "a", "")
        + &udp_at(any, "datagrams", "e", "")
        + &tcp("second", "b", "listener = [{ address = \"127.0.0.1:0\" }]")
            .replace("name = \"second\"\nlisten = \"127.0.0.1:0\"", "name = \"second\"")
        + &upstream("a", &[a.addr], "")
        + &upstream("b", &[b.addr], "")
        + &upstream("e", &[echo.addr], "")
}

#[test]
fn each_relay_leads_to_its_own_upstream_and_is_named_in_the_log() {
    let (a, b, echo) = (Named::start('a'), Named::start('b'), Echo::start(datagrams::V4));
    let file = three(&a, &b, &echo);
    assert_eq!(check(&file).0, Some(0));
    let mut serve = Serve::start(&file);
    for _ in 0..4 {
        for (relay, name, server) in [("first", 'a', &a), ("second", 'b', &b)] {
            let client = serve.connect(relay);
            assert_eq!(hello(&client), name);
            finish(&client);
            let line = serve.next("connection closed");
            assert_eq!(line["relay"], relay, "{line}");
            assert_eq!(line["upstream"], server.addr.to_string(), "{line}");
            assert_eq!(line["client"], client.local_addr().unwrap().to_string(), "{line}");
        }
        let client = datagrams::client(serve.at("datagrams"));
        datagrams::send(&client, 7, 900);
        datagrams::expect_echo(&client, 7, 900);
    }
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait().code(), Some(0));
    let stopped = serve.next("stopped");
    assert_eq!(support::number(&stopped, "accepted"), 12, "{stopped}");
}

/// One thing stops them all, and running sessions of each are let go on.
#[test]
fn a_stop_lets_the_sessions_of_every_relay_finish() {
    let upstreams = [listener(), listener()];
    let echo = Echo::start(datagrams::V4);
    let file = format!("drain-timeout = \"1h\"\n{}", tcp("first", "a", ""))
        + &tcp("second", "b", "")
        + &udp_at("127.0.0.1:0".parse().unwrap(), "datagrams", "e", "")
        + &upstream("a", &[addr(&upstreams[0])], "")
        + &upstream("b", &[addr(&upstreams[1])], "")
        + &upstream("e", &[echo.addr], "");
    let mut serve = Serve::start(&file);
    let pairs = [("first", 0), ("second", 1)].map(|(relay, at)| {
        let client = serve.connect(relay);
        (client, accept(&upstreams[at]))
    });
    let client = datagrams::client(serve.at("datagrams"));
    datagrams::send(&client, 1, 10);
    datagrams::expect_echo(&client, 1, 10);
    serve.signal(Signal::TERM);
    wait_until_refused(serve.at("first"));
    wait_until_refused(serve.at("second"));
    for (client, server) in &pairs {
        Pattern::new(1).write(client, 100_000).unwrap();
        finish(client);
        Pattern::new(1).expect_whole(server, 100_000);
    }
    serve.assert_running();
    drop(pairs);
    assert_eq!(serve.wait().code(), Some(0));
}

#[test]
fn a_relay_listens_on_each_of_its_addresses() {
    let a = Named::start('a');
    let (one, other) = (free_address(), free_address());
    let file = format!(
        "[[relay]]\nname = \"front\"\nlisten = [\"{one}\", \"{other}\"]\nupstream = \"a\"\n{}",
        upstream("a", &[a.addr], "")
    );
    let _serve = Serve::start(&file);
    support::wait_until("both listen", || std::net::TcpStream::connect(other).is_ok());
    for at in [one, other] {
        assert_eq!(hello(&connect(at)), 'a');
    }
}

/// The same numbers, and another kind of port.
#[test]
fn streams_and_datagrams_share_an_address() {
    let (a, echo) = (Named::start('a'), Echo::start(datagrams::V4));
    let at = free_address();
    let file = tcp_at(at, "streams", "a", "")
        + &udp_at(at, "datagrams", "e", "")
        + &upstream("a", &[a.addr], "")
        + &upstream("e", &[echo.addr], "");
    let serve = Serve::start(&file);
    assert_eq!(serve.ask("streams"), 'a');
    let client = datagrams::client(at);
    datagrams::send(&client, 1, 10);
    datagrams::expect_echo(&client, 1, 10);
}

/// What `check` finds wrong does not start, and what it finds right does.
#[test]
fn check_and_serve_agree() {
    let a = Named::start('a');
    let good = tcp("front", "a", "") + &upstream("a", &[a.addr], "");
    let wrong = [
        good.replace("listen", "listne"),
        good.replace("upstream = \"a\"", "upstream = \"b\""),
        tcp("front", "a", "max-connections = 0") + &upstream("a", &[a.addr], ""),
        tcp("front", "a", "") + &tcp("front", "a", "") + &upstream("a", &[a.addr], ""),
        "relay =".to_owned(),
    ];
    for file in wrong {
        let (code, said) = check(&file);
        assert_eq!(code, Some(1), "{file}");
        // Each has a directory of its own.
        let problems = |said: &str| -> Vec<String> {
            let lines = said.lines().filter_map(|line| line.split_once("sosplice.toml:"));
            lines.map(|(_, problem)| problem.to_owned()).collect()
        };
        let refused = problems(&refused_at_start("true", &file));
        assert!(!refused.is_empty(), "{file}");
        assert_eq!(problems(&said), refused, "{file}");
    }
    assert_eq!(check(&good).0, Some(0));
    assert_eq!(Serve::start(&good).ask("front"), 'a');
}

/// The printed configuration means the same as the file.
#[test]
fn what_check_prints_serves_alike() {
    let (a, b, echo) = (Named::start('a'), Named::start('b'), Echo::start(datagrams::V4));
    let dir = Dir::new();
    let file = dir.write("one.toml", &format!("{TOP}{}", three(&a, &b, &echo)));
    let output =
        Command::new(support::BINARY).args(["check", "--print", "-c"]).arg(file).output().unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let serve = Serve::start_printed(&printed);
    assert_eq!((serve.ask("first"), serve.ask("second")), ('a', 'b'));
}

#[test]
fn an_address_that_is_taken_keeps_the_service_from_starting() {
    let (a, taken) = (Named::start('a'), listener());
    let file = tcp("front", "a", "")
        + &tcp_at(addr(&taken), "taken", "a", "")
        + &upstream("a", &[a.addr], "");
    let said = refused_at_start("true", &file);
    assert!(said.contains(&addr(&taken).to_string()) && said.contains("in use"), "{said}");
}

#[test]
fn a_relay_that_leads_to_itself_is_refused() {
    let at = free_address();
    let file = tcp_at(at, "front", "a", "") + &upstream("a", &[at], "");
    let said = refused_at_start("true", &file);
    assert!(said.contains("itself"), "{said}");
}
