//! Matching, and what the two get.

use crate::place::{Place, RING, at, offer, refusal, settle};
use sosplice_local::broker::status::Route;
use sosplice_local::broker::{Options, Scope};
use sosplice_local::layout::ROUTE_RING;
use sosplice_local::wire::Reason;
use std::sync::atomic::Ordering;

const A: &str = "127.0.0.1:6379";
const B: &str = "127.0.0.1:40000";

#[test]
fn the_two_ends_get_one_memory_and_different_roles() {
    let place = Place::new();
    let (server, client) = (place.join(), place.join());
    assert!(!server.has_mail() && server.next().is_none());
    server.announce(11, at(A), at(B), 7, RING).unwrap();
    settle(&server);
    client.announce(22, at(B), at(A), 7, RING / 2).unwrap();
    let (first, second) = (offer(&server), offer(&client));
    assert_eq!((first.token, first.role), (11, 0));
    assert_eq!((second.token, second.role), (22, 1));
    // Nobody gets more than he has asked for.
    assert_eq!((first.ring_bytes, second.ring_bytes), (RING as usize / 2, RING as usize / 2));
    first.header().lanes[0].written.head.store(77, Ordering::Release);
    assert_eq!(second.header().lanes[0].written.head.load(Ordering::Acquire), 77);
    assert!(server.next().is_none() && !server.has_mail());
}

#[test]
fn status_shows_what_the_ends_have_counted() {
    let place = Place::new();
    let (server, client) = (place.join(), place.join());
    server
        .announce(1, at("[::ffff:127.0.0.1]:6379"), at("[::ffff:127.0.0.1]:40000"), 7, RING)
        .unwrap();
    settle(&server);
    client.announce(1, at(B), at(A), 7, RING).unwrap();
    client.announce(2, at(B), at("127.0.0.1:1"), 7, RING).unwrap();
    let (first, _second) = (offer(&server), offer(&client));
    let lane = &first.header().lanes[0];
    lane.written.head.store(1000, Ordering::Relaxed);
    lane.written.route.store(ROUTE_RING, Ordering::Relaxed);
    lane.written.bells.store(3, Ordering::Relaxed);
    lane.written.messages.store(10, Ordering::Relaxed);
    lane.written.overflows.store(2, Ordering::Relaxed);
    lane.written.tcp_bytes.store(5, Ordering::Relaxed);
    lane.written.spins.store(4, Ordering::Relaxed);
    lane.taken.spins.store(40, Ordering::Relaxed);
    settle(&client);

    let status = place.status();
    let [pair] = &status.pairs[..] else { panic!("{status:?}") };
    assert_eq!(pair.ends.clone().map(|end| end.address), [at(A), at(B)]);
    let own = std::fs::read_to_string("/proc/self/comm").unwrap();
    for end in &pair.ends {
        assert_eq!((end.pid, &*end.command), (std::process::id(), own.trim()));
        assert_eq!(end.uid, Some(rustix::process::geteuid().as_raw()));
    }
    let [there, back] = pair.directions;
    assert_eq!((there.route, there.bytes, there.doorbells), (Route::Ring, 1000, 3));
    assert_eq!((there.messages, there.overflows, there.tcp_bytes, there.spins), (10, 2, 5, 44));
    assert_eq!((back.route, back.bytes), (Route::Tcp, 0));
    assert_eq!((pair.ring_bytes, pair.memory_bytes), (RING, 4096 + 2 * RING));
    assert_eq!(status.memory_bytes, pair.memory_bytes);
    let members: Vec<_> = status.members.iter().map(|one| (one.pairs, one.waiting)).collect();
    assert_eq!(members, [(1, 0), (1, 1)]);
    assert_eq!(status.on_tcp["peer has not announced"], 1);
    // As text and back it is the same.
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(
        serde_json::from_str::<sosplice_local::broker::status::Status>(&text).unwrap(),
        status
    );

    // The pair's end keeps its sums.
    server.withdraw(1);
    settle(&server);
    let status = place.status();
    assert_eq!((status.pairs.len(), status.memory_bytes), (0, 0));
    assert_eq!((status.ended.pairs, status.ended.bytes, status.ended.spins), (1, 1000, 44));
}

#[test]
fn a_pair_that_an_end_refused_counts_among_those_on_tcp() {
    let place = Place::new();
    let member = place.join();
    member.announce(1, at(A), at(B), 7, RING).unwrap();
    member.announce(2, at(B), at(A), 7, RING).unwrap();
    let (one, _other) = (offer(&member), offer(&member));
    one.header().refused.store(1, Ordering::Release);
    member.withdraw(1);
    settle(&member);
    let status = place.status();
    assert_eq!((status.ended.pairs, status.on_tcp["refused by an end"]), (0, 2));
}

#[test]
fn both_ends_closed_is_the_end_though_nobody_could_say_so() {
    let place = Place::new();
    let member = place.join();
    member.announce(1, at(A), at(B), 7, RING).unwrap();
    member.announce(2, at(B), at(A), 7, RING).unwrap();
    let (one, _other) = (offer(&member), offer(&member));
    one.header().closed[0].store(1, Ordering::Release);
    assert_eq!(place.status().pairs.len(), 1);
    one.header().closed[1].store(1, Ordering::Release);
    let status = place.status();
    assert_eq!((status.pairs.len(), status.ended.pairs), (0, 1));
}

#[test]
fn what_mirrors_in_another_namespace_is_another_connection() {
    let place = Place::new();
    let (server, client) = (place.join(), place.join());
    server.announce(1, at(A), at(B), 7, RING).unwrap();
    client.announce(1, at(B), at(A), 8, RING).unwrap();
    settle(&server);
    settle(&client);
    assert_eq!(place.status().pairs.len(), 0);
    assert_eq!(place.status().on_tcp["peer has not announced"], 2);
}

#[test]
fn a_directory_for_one_network_pairs_routable_addresses_across_namespaces() {
    let place = Place::with(Options::new(Scope::Network));
    let (server, client) = (place.join(), place.join());
    let (a, b) = (at("10.0.0.1:80"), at("10.0.0.2:4000"));
    server.announce(1, at(A), at(B), 7, RING).unwrap();
    client.announce(1, at(B), at(A), 8, RING).unwrap();
    server.announce(2, a, b, 7, RING).unwrap();
    client.announce(2, b, a, 8, RING).unwrap();
    assert_eq!((offer(&server).token, offer(&client).token), (2, 2));
    let status = place.status();
    assert!(status.one_network && status.pairs.len() == 1);
    assert_eq!(status.on_tcp["peer has not announced"], 2);
}

#[test]
fn a_port_that_is_used_again_is_matched_anew() {
    let place = Place::new();
    let (server, client) = (place.join(), place.join());
    for round in 0..3 {
        server.announce(round, at(A), at(B), 7, RING).unwrap();
        client.announce(round, at(B), at(A), 7, RING).unwrap();
        assert_eq!((offer(&server).token, offer(&client).token), (round, round));
        server.withdraw(round);
        client.withdraw(round);
    }
    settle(&server);
    settle(&client);
    assert_eq!(place.status().ended.pairs, 3);
    // Announced twice without an end between: the later counts.
    server.announce(8, at(A), at(B), 7, RING).unwrap();
    server.announce(9, at(A), at(B), 7, RING).unwrap();
    assert_eq!(refusal(&server), (8, Reason::Replaced));
    client.announce(10, at(B), at(A), 7, RING).unwrap();
    assert_eq!(offer(&server).token, 9);
}

#[test]
fn what_is_no_connection_of_two_is_refused() {
    let place = Place::new();
    let member = place.join();
    member.announce(1, at(A), at(A), 7, RING).unwrap();
    assert_eq!(refusal(&member), (1, Reason::Itself));
    member.announce(2, at("0.0.0.0:80"), at(A), 7, RING).unwrap();
    assert_eq!(refusal(&member), (2, Reason::Unusable));
}

/// Each end has withdrawn its old connection before the new one is announced, but to a broker that
/// may hear the new one first.
#[test]
fn the_same_addresses_again_do_not_meet_their_predecessors() {
    let place = Place::new();
    let (server, client) = (place.join(), place.join());
    for round in 0..400 {
        let (old, new) = (2 * round, 2 * round + 1);
        server.announce(old, at(A), at(B), 7, RING).unwrap();
        settle(&server);
        client.withdraw(old);
        server.withdraw(old);
        // One that nobody answered.
        server.announce(3 << 20 | old, at(A), at(B), 7, RING).unwrap();
        server.withdraw(3 << 20 | old);
        client.announce(new, at(B), at(A), 7, RING).unwrap();
        server.announce(new, at(A), at(B), 7, RING).unwrap();
        for member in [&server, &client] {
            let offer = offer(member);
            assert_eq!(offer.token, new, "round {round}");
        }
        for member in [&server, &client] {
            member.withdraw(new);
        }
        settle(&client);
    }
}
