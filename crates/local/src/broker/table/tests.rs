#![allow(clippy::unwrap_used)]

use super::*;
use crate::wire::Announcement;
use proptest::prelude::*;
use std::net::SocketAddr;

const ROOM: Room = Room { of_member: 3, of_user: 5, of_all: 7 };

fn table(scope: Scope) -> Table {
    Table::new(scope, ROOM)
}

fn said(token: u64, local: &str, peer: &str, netns: u64) -> Announcement {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    Announcement { token, local: address(local), peer: address(peer), netns, ring_bytes: 4096 }
}

fn claim(member: u64, user: u32, token: u64, local: &str, peer: &str, netns: u64) -> Claim {
    Claim::new(Id(member), Some(user), &said(token, local, peer, netns)).unwrap()
}

fn unasked(_: &Claim) -> Owner {
    panic!("the two are one user's")
}

/// The tokens of a match.
fn matched(change: &Change) -> Option<[u64; 2]> {
    change.matched.map(|ends| ends.map(|end| end.token))
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:4000";

#[test]
fn the_two_ends_of_a_connection_match_and_nothing_else() {
    let mut table = table(Scope::Namespace);
    for (token, local, peer) in [(1, A, B), (2, A, "10.0.0.2:4001"), (3, "10.0.0.1:81", B)] {
        assert_eq!(matched(&table.announce(claim(1, 0, token, local, peer, 7), unasked)), None);
    }
    let change = table.announce(claim(2, 0, 9, B, A, 7), unasked);
    assert_eq!(matched(&change), Some([1, 9]));
    assert_eq!(table.waiting(), 2);
}

#[test]
fn one_process_may_have_both_ends() {
    let mut table = table(Scope::Namespace);
    table.announce(claim(1, 0, 1, A, B, 7), unasked);
    assert_eq!(matched(&table.announce(claim(1, 0, 2, B, A, 7), unasked)), Some([1, 2]));
    assert_eq!(table.waiting(), 0);
}

#[test]
fn a_mapped_address_is_the_address() {
    let mut table = table(Scope::Namespace);
    table.announce(claim(1, 0, 1, "[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.2]:4000", 7), unasked);
    assert_eq!(matched(&table.announce(claim(2, 0, 2, B, A, 7), unasked)), Some([1, 2]));
}

#[test]
fn namespaces_part_addresses_as_far_as_the_scope_says() {
    let pairs = |scope, local: &str, peer: &str| {
        let mut table = table(scope);
        table.announce(claim(1, 0, 1, local, peer, 7), unasked);
        matched(&table.announce(claim(2, 0, 2, peer, local, 8), unasked)).is_some()
    };
    assert!(!pairs(Scope::Namespace, A, B));
    assert!(pairs(Scope::Network, A, B));
    assert!(pairs(Scope::Network, "[2001:db8::1]:80", "[2001:db8::2]:4000"));
    // No packet leaves its namespace with these.
    for (local, peer) in [
        ("127.0.0.1:80", "127.0.0.1:4000"),
        ("[::1]:80", "[::1]:4000"),
        ("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:4000"),
        ("127.0.0.1:80", "10.0.0.2:4000"),
        ("[fe80::1]:80", "[fe80::2]:4000"),
        ("169.254.0.1:80", "169.254.0.2:4000"),
    ] {
        assert!(!pairs(Scope::Network, local, peer), "{local}");
    }
}

#[test]
fn what_is_no_connection_is_refused_with_its_reason() {
    let refused = |local, peer| Claim::new(Id(1), Some(0), &said(1, local, peer, 7)).unwrap_err();
    assert_eq!(refused(A, A), Reason::Itself);
    assert_eq!(refused("[::ffff:10.0.0.1]:80", A), Reason::Itself);
    for (local, peer) in [("0.0.0.0:80", B), (A, "[::]:80"), ("10.0.0.1:0", B), (A, "10.0.0.2:0")] {
        assert_eq!(refused(local, peer), Reason::Unusable);
    }
}

#[test]
fn a_port_that_is_used_again_belongs_to_the_later() {
    let mut table = table(Scope::Namespace);
    table.announce(claim(1, 0, 1, A, B, 7), unasked);
    let change = table.announce(claim(3, 0, 2, A, B, 7), unasked);
    assert_eq!(change.refused, [(claim(1, 0, 1, A, B, 7), Reason::Replaced)]);
    // The first one's withdrawal is late, and not the other's.
    assert_eq!(table.withdraw(Id(1), 1).withdrawn, 0);
    assert_eq!(matched(&table.announce(claim(2, 0, 9, B, A, 7), unasked)), Some([2, 9]));
}

#[test]
fn a_token_that_is_used_again_leaves_its_first_connection() {
    let mut table = table(Scope::Namespace);
    table.announce(claim(1, 0, 1, A, B, 7), unasked);
    table.announce(claim(1, 0, 1, A, "10.0.0.9:9", 7), unasked);
    assert_eq!(matched(&table.announce(claim(2, 0, 2, B, A, 7), unasked)), None);
    assert_eq!(table.waiting(), 2);
    // Also when it is paired.
    let change = table.announce(claim(3, 0, 3, "10.0.0.9:9", A, 7), unasked);
    table.paired(PairId(5), &change.matched.unwrap());
    let change = table.announce(claim(1, 0, 1, A, B, 7), unasked);
    assert_eq!((change.ended.clone(), matched(&change)), (vec![PairId(5)], Some([2, 1])));
}

#[test]
fn a_withdrawal_or_a_hang_up_ends_what_was_announced() {
    let mut table = table(Scope::Namespace);
    table.announce(claim(1, 0, 1, A, B, 7), unasked);
    let ends = table.announce(claim(2, 0, 2, B, A, 7), unasked).matched.unwrap();
    table.paired(PairId(5), &ends);
    table.announce(claim(1, 0, u64::MAX, A, "10.0.0.9:9", 7), unasked);
    table.announce(claim(2, 0, 4, B, "10.0.0.9:9", 7), unasked);
    let change = table.hang_up(Id(1));
    assert_eq!((change.ended, change.withdrawn), (vec![PairId(5)], 1));
    table.unpaired(PairId(5), &ends);
    assert!(table.withdraw(Id(2), 2).ended.is_empty());
    assert_eq!(table.withdraw(Id(2), 4).withdrawn, 1);
    assert_eq!((table.waiting(), table.places.len()), (0, 0));
}

#[test]
fn different_users_need_proof_and_a_liar_harms_nobody() {
    let (honest, liar, other) =
        (claim(1, 10, 1, A, B, 7), claim(2, 66, 2, A, B, 7), claim(3, 20, 3, B, A, 7));
    // The kernel's word: A is user 10's and B is user 20's.
    let owner = |claim: &Claim| Owner::User(if claim.local == honest.local { 10 } else { 20 });
    for order in [[honest, liar], [liar, honest]] {
        let mut table = table(Scope::Namespace);
        assert!(order.map(|claim| table.announce(claim, owner).refused.is_empty()) == [true; 2]);
        let change = table.announce(other, owner);
        assert_eq!(matched(&change), Some([1, 3]));
        assert!(change.refused.iter().all(|refused| *refused == (liar, Reason::DifferentUsers)));
    }
    // The liar comes last.
    let mut table = table(Scope::Namespace);
    table.announce(other, owner);
    let change = table.announce(liar, owner);
    assert_eq!(change.refused, [(liar, Reason::DifferentUsers)]);
    assert_eq!(matched(&table.announce(honest, owner)), Some([3, 1]));
}

#[test]
fn different_users_without_proof_stay_on_tcp() {
    let mut table = table(Scope::Namespace);
    table.announce(claim(1, 10, 1, A, B, 7), unasked);
    let change = table.announce(claim(2, 20, 2, B, A, 7), |_| Owner::Unknown);
    assert_eq!((matched(&change), change.refused.len(), table.waiting()), (None, 2, 0));
    // Two users who have no number here are not known to be one.
    let nobodys = |member, token, local, peer| {
        Claim::new(Id(member), None, &said(token, local, peer, 7)).unwrap()
    };
    table.announce(nobodys(1, 1, A, B), unasked);
    assert_eq!(matched(&table.announce(nobodys(2, 2, B, A), |_| Owner::Unknown)), None);
}

#[test]
fn what_is_too_much_is_refused_and_the_others_stay() {
    let mut table = table(Scope::Namespace);
    let mut count = 0;
    let mut more = |table: &mut Table, member, user| {
        count += 1;
        let peer = format!("10.0.0.2:{count}");
        let change = table.announce(claim(member, user, count, A, &peer, 7), unasked);
        change.refused.first().map(|(_, reason)| *reason)
    };
    assert_eq!([(); 4].map(|()| more(&mut table, 1, 10)), [None, None, None, Some(Reason::Limit)]);
    assert_eq!([(); 3].map(|()| more(&mut table, 2, 10)), [None, None, Some(Reason::Limit)]);
    assert_eq!([(); 3].map(|()| more(&mut table, 3, 20)), [None, None, Some(Reason::Limit)]);
    assert_eq!((table.waiting(), table.waiting_of(Id(1)), table.waiting_of(Id(3))), (7, 3, 2));
    // A match takes no room.
    let other = claim(4, 10, 1, "10.0.0.2:1", A, 7);
    assert!(matched(&table.announce(other, unasked)).is_some());
    assert_eq!(more(&mut table, 3, 20), None);
}

proptest! {
    /// Whatever comes in whatever order: the counts are those of the claims, and a pair is of
    /// two ends that mirror each other.
    #[test]
    fn the_books_balance(
        steps in proptest::collection::vec((0_u8..5, 0_u64..3, 0_u64..4, 1_u16..4, 1_u16..4), 0..80)
    ) {
        let mut table = table(Scope::Namespace);
        let mut next = 0;
        for (what, member, token, near, far) in steps {
            let change = match what {
                0..3 => {
                    let address = |port| format!("10.0.0.1:{port}");
                    let user = member as u32 / 2;
                    let Ok(claim) = Claim::new(
                        Id(member), Some(user), &said(token, &address(near), &address(far), 7),
                    ) else { continue };
                    table.announce(claim, |claim| match claim.local.port() {
                        1 => Owner::User(0),
                        2 => Owner::Nobody,
                        _ => Owner::Unknown,
                    })
                }
                3 => table.withdraw(Id(member), token),
                _ => table.hang_up(Id(member)),
            };
            if let Some(ends) = change.matched {
                prop_assert_eq!((ends[0].local, ends[0].peer), (ends[1].peer, ends[1].local));
                next += 1;
                table.paired(PairId(next), &ends);
            }
            let waiting: Vec<_> = table.waiting.values().flatten().collect();
            prop_assert_eq!(waiting.len(), table.waiting());
            prop_assert!(waiting.len() <= ROOM.of_all);
            for id in 0..3 {
                let of_member = waiting.iter().filter(|claim| claim.member == Id(id)).count();
                prop_assert_eq!(of_member, table.waiting_of(Id(id)));
            }
            for claim in &waiting {
                let place = table.places.get(&(claim.member, claim.token));
                prop_assert!(matches!(place, Some(Place::Waiting(_))));
            }
            prop_assert!(table.waiting.values().all(|claims| !claims.is_empty()));
        }
    }
}
