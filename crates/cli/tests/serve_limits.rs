//! Limits of a relay, of a client, of a server; the queue of an upstream; and nobody to go to.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use support::pattern::{Ending, Pattern};
use support::peers::{
    LISTEN, Refusing, accept, addr, finish, listener, queues, reset, someone_waits,
};
use support::serve::{Named, Serve, connect_from, echo, hello, server, tcp, upstream};
use support::wait_until;

fn expect_reset(client: &TcpStream) {
    let ending = Pattern::new(1).expect_to_end(client);
    assert_eq!(ending, Ending::Failed(ErrorKind::ConnectionReset));
}

/// A relay to servers that each have a limit, with a queue.
fn queued(servers: &[SocketAddr], max: u32, queue: &str) -> String {
    let limit = format!("max-connections = {max}");
    let servers: String = servers.iter().map(|addr| server(*addr, &limit)).collect();
    tcp("front", "servers", "") + &format!("[[upstream]]\nname = \"servers\"\n{queue}\n") + &servers
}

#[test]
fn clients_over_the_limit_of_a_relay_wait_and_are_served() {
    let a = Named::start('a');
    let file = tcp("front", "a", "max-connections = 3") + &tcp("other", "a", "");
    let serve = Serve::start(&(file + &upstream("a", &[a.addr], "")));
    let first: Vec<_> = (0..3).map(|_| serve.connect("front")).collect();
    first.iter().for_each(|client| _ = hello(client));
    let waiting: Vec<_> = (0..10).map(|_| serve.connect("front")).collect();
    // The relay works meanwhile, others are not held up, and nobody else is let through.
    for _ in 0..20 {
        first.iter().for_each(|client| echo(client, b"work").unwrap());
    }
    let other = serve.connect("other");
    hello(&other);
    assert_eq!(a.served(), 4);
    drop(first);
    // In no promised order, since each worker has a queue of its own.
    waiting.iter().for_each(finish);
    for client in &waiting {
        hello(client);
    }
    assert_eq!(a.served(), 14);
    assert_eq!(serve.lines("connection refused"), 0);
}

/// The whole service's limit is for all relays together.
#[test]
fn the_limit_of_the_service_is_for_all_relays_together() {
    let a = Named::start('a');
    let file = format!("max-connections = 2\n{}", tcp("one", "a", "")) + &tcp("two", "a", "");
    let serve = Serve::start(&(file + &upstream("a", &[a.addr], "")));
    let (one, two) = (serve.connect("one"), serve.connect("two"));
    hello(&one);
    hello(&two);
    let third = serve.connect("two");
    let backlog = || queues(serve.at("two").port(), LISTEN).map(|(_, waiting)| waiting);
    wait_until("the third is accepted and waits", || backlog() == Some(0));
    for _ in 0..20 {
        echo(&one, b"work").unwrap();
    }
    assert_eq!(a.served(), 2);
    drop(one);
    hello(&third);
}

#[test]
fn a_client_with_too_many_is_reset_and_others_are_not() {
    let a = Named::start('a');
    let file = tcp("front", "a", "max-connections-per-client = 2") + &upstream("a", &[a.addr], "");
    let serve = Serve::start(&file);
    let (one, two) = (serve.connect("front"), serve.connect("front"));
    hello(&one);
    hello(&two);
    for _ in 0..3 {
        let third = serve.connect("front");
        expect_reset(&third);
        let line = serve.next("connection refused");
        assert_eq!(line["client"], third.local_addr().unwrap().to_string());
        assert_eq!(
            (&line["cause"], &line["relay"]),
            (&"too-many-of-client".into(), &"front".into())
        );
        assert_eq!(serve.lines("connection refused"), 0, "one line");
    }
    hello(&connect_from("127.0.0.2".parse().unwrap(), serve.at("front")));
    // Who leaves makes room.
    drop(one);
    serve.next_closed();
    wait_until("there is room again", || {
        let mut next = serve.connect("front");
        next.read(&mut [0]).is_ok()
    });
    echo(&two, b"here").unwrap();
}

/// Takes the only place and then lets clients come one after the other, each known to wait.
fn wait_in_line(
    serve: &Serve,
    upstream: &TcpListener,
    count: usize,
) -> (TcpStream, TcpStream, Vec<TcpStream>) {
    let first = serve.connect("front");
    let served = accept(upstream);
    let waiting = (0..count)
        .map(|number| {
            let client = serve.connect("front");
            Pattern::new(number as u64).write(&client, 100).unwrap();
            serve.next("waiting for a place");
            client
        })
        .collect();
    (first, served, waiting)
}

#[test]
fn the_queue_of_an_upstream_is_served_in_its_order() {
    let upstream = listener();
    let serve = Serve::start(&queued(&[addr(&upstream)], 1, "queue-timeout = \"1h\""));
    let (first, served, waiting) = wait_in_line(&serve, &upstream, 8);
    assert!(!someone_waits(&upstream));
    drop((first, served));
    for (number, client) in (0..).zip(waiting) {
        let server = accept(&upstream);
        Pattern::new(number).expect(&server, 100);
        assert!(!someone_waits(&upstream), "two at a time");
        drop((client, server));
    }
}

#[test]
fn who_finds_the_queue_full_is_reset() {
    let upstream = listener();
    let serve =
        Serve::start(&queued(&[addr(&upstream)], 1, "queue-timeout = \"1h\"\nqueue-max = 2"));
    let (first, served, waiting) = wait_in_line(&serve, &upstream, 2);
    let next = serve.connect("front");
    expect_reset(&next);
    let line = serve.next("connection refused");
    assert_eq!(line["client"], next.local_addr().unwrap().to_string());
    assert!(line["error"].as_str().unwrap().contains("queue"), "{line}");
    drop((first, served));
    for (number, client) in (0..).zip(waiting) {
        let server = accept(&upstream);
        Pattern::new(number).expect(&server, 100);
        drop((client, server));
    }
}

#[test]
fn who_waits_too_long_is_reset() {
    let upstream = listener();
    let serve = Serve::start(&queued(&[addr(&upstream)], 1, "queue-timeout = \"300ms\""));
    let (first, served, waiting) = wait_in_line(&serve, &upstream, 3);
    for client in waiting {
        expect_reset(&client);
        let line = serve.next("connection refused");
        assert!(line["error"].as_str().unwrap().contains("queue timeout"), "{line}");
    }
    Pattern::new(1).write(&first, 100).unwrap();
    Pattern::new(1).expect(&served, 100);
    assert!(!someone_waits(&upstream));
}

/// One that has given up takes no place from those behind it, neither in the queue nor at the
/// server.
#[test]
fn a_client_that_leaves_the_queue_is_not_served() {
    let upstream = listener();
    let serve =
        Serve::start(&queued(&[addr(&upstream)], 1, "queue-timeout = \"1h\"\nqueue-max = 2"));
    let (first, served, mut waiting) = wait_in_line(&serve, &upstream, 2);
    let left = waiting.remove(0);
    let name = left.local_addr().unwrap().to_string();
    reset(left);
    let line = serve.next("connection refused");
    assert_eq!((&line["client"], &line["cause"]), (&name.into(), &"client-left".into()));
    // There is room for one more in the queue.
    let next = serve.connect("front");
    Pattern::new(7).write(&next, 100).unwrap();
    serve.next("waiting for a place");
    drop((first, served));
    for (number, client) in [(1, waiting.remove(0)), (7, next)] {
        let server = accept(&upstream);
        Pattern::new(number).expect(&server, 100);
        drop((client, server));
    }
}

/// It may have said all that it wants to say, and wait for the answer.
#[test]
fn a_client_that_has_finished_keeps_its_place_in_the_queue() {
    let upstream = listener();
    let serve = Serve::start(&queued(&[addr(&upstream)], 1, "queue-timeout = \"1h\""));
    let (first, served, waiting) = wait_in_line(&serve, &upstream, 1);
    finish(&waiting[0]);
    drop((first, served));
    let server = accept(&upstream);
    Pattern::new(0).expect_whole(&server, 100);
    Pattern::new(5).write(&server, 1_000).unwrap();
    drop(server);
    Pattern::new(5).expect_whole(&waiting[0], 1_000);
}

/// A place that is free at another server is not waited for.
#[test]
fn servers_fill_up_one_after_the_other() {
    let servers = ['a', 'b', 'c'].map(Named::start);
    let addrs = servers.each_ref().map(|server| server.addr);
    let serve = Serve::start(&queued(&addrs, 2, "queue-max = 0"));
    let clients: Vec<_> = (0..6).map(|_| serve.connect("front")).collect();
    let mut asked: Vec<_> = clients.iter().map(hello).collect();
    asked.sort_unstable();
    assert_eq!(asked, ['a', 'a', 'b', 'b', 'c', 'c']);
    expect_reset(&serve.connect("front"));
    serve.next("connection refused");
    drop(clients);
    wait_until("there is room again", || serve.connect("front").read(&mut [0]).is_ok());
}

#[test]
fn without_any_server_clients_are_reset_with_one_line_each() {
    let (one, other) = (Refusing::new(), Refusing::new());
    let file = tcp("front", "servers", "") + &upstream("servers", &[one.1, other.1], "");
    let mut serve = Serve::start(&file);
    for _ in 0..20 {
        let client = serve.connect("front");
        expect_reset(&client);
        let line = serve.next("connection refused");
        assert_eq!(line["client"], client.local_addr().unwrap().to_string());
        assert_eq!(line["relay"], "front");
        assert_eq!(serve.lines("connection refused"), 0, "one line a client");
    }
    serve.assert_running();
}
