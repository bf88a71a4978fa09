//! What operators say, live.

use crate::place::{Place, RING, at, offer, refusal, settle};
use sosplice_local::broker::Ask;
use sosplice_local::broker::policy::Policy;
use sosplice_local::wire::Reason;

#[test]
fn disable_refuses_at_once_and_leaves_running_pairs_alone() {
    let place = Place::new();
    let (server, client) = (place.join(), place.join());
    let (a, b, c) = (at("127.0.0.1:80"), at("127.0.0.1:1000"), at("127.0.0.1:1001"));
    server.announce(1, a, b, 7, RING).unwrap();
    client.announce(1, b, a, 7, RING).unwrap();
    let _ends = (offer(&server), offer(&client));
    server.announce(2, a, c, 7, RING).unwrap();
    settle(&server);
    place.tell(&Ask::Disable);
    // The one that waited, and the one that comes too late.
    assert_eq!(refusal(&server), (2, Reason::Disabled));
    client.announce(2, c, a, 7, RING).unwrap();
    assert_eq!(refusal(&client), (2, Reason::Disabled));
    let status = place.status();
    assert!(!status.policy.enabled && status.policy_was_set);
    assert_eq!((status.pairs.len(), status.on_tcp["disabled"]), (1, 2));
    // And back.
    place.tell(&Ask::Enable(Policy::default()));
    server.announce(2, a, c, 7, RING).unwrap();
    client.announce(2, c, a, 7, RING).unwrap();
    assert_eq!((offer(&server).token, offer(&client).token), (2, 2));
}

#[test]
fn ports_and_loopback_are_looked_at_on_both_ends() {
    let place = Place::new();
    let member = place.join();
    let ports = Policy { ports: vec![80], ..Policy::default() };
    place.tell(&Ask::Enable(ports.clone()));
    member.announce(1, at("127.0.0.1:80"), at("127.0.0.1:1000"), 7, RING).unwrap();
    member.announce(2, at("127.0.0.1:1000"), at("127.0.0.1:80"), 7, RING).unwrap();
    let _ends = (offer(&member), offer(&member));
    member.announce(3, at("127.0.0.1:81"), at("127.0.0.1:1000"), 7, RING).unwrap();
    assert_eq!(refusal(&member), (3, Reason::Port));
    place.tell(&Ask::Enable(Policy { loopback_only: true, ..ports }));
    member.announce(4, at("10.0.0.1:80"), at("10.0.0.2:1000"), 7, RING).unwrap();
    assert_eq!(refusal(&member), (4, Reason::NotLoopback));
}

#[test]
fn a_process_pairs_only_in_a_cgroup_of_the_policy() {
    let place = Place::new();
    let member = place.join();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().next().and_then(|line| line.splitn(3, ':').nth(2)).unwrap();
    let (a, b) = (at("127.0.0.1:80"), at("127.0.0.1:1000"));
    let of = |group: &str| Ask::Enable(Policy { cgroups: vec![group.into()], ..Policy::default() });
    place.tell(&of("/no-such-group"));
    member.announce(1, a, b, 7, RING).unwrap();
    assert_eq!(refusal(&member), (1, Reason::Cgroup));
    place.tell(&of(own));
    member.announce(1, a, b, 7, RING).unwrap();
    member.announce(2, b, a, 7, RING).unwrap();
    assert_eq!((offer(&member).token, offer(&member).token), (1, 2));
}
