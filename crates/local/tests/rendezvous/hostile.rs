//! Members that mean harm: they are let go, and nobody else notices.

use crate::place::{End, Place, RING, at, hung_up_on, next, offer, refusal, wait_until};
use sosplice_local::broker::{Limits, Options, Scope};
use sosplice_local::member::Mail;
use sosplice_local::wire::{Reason, Request};
use std::sync::atomic::Ordering;

const A: &str = "127.0.0.1:80";
const B: &str = "127.0.0.1:4000";

fn limited(limits: Limits) -> Place {
    Place::with(Options { limits, ..Options::new(Scope::Namespace) })
}

#[test]
fn what_is_no_request_ends_its_sender_alone() {
    let place = Place::new();
    let (server, client) = (place.join(), place.join());
    let hello = Request::Hello.encode();
    let mut newer = hello;
    newer[4] += 1;
    let announce = Request::Announce(sosplice_local::wire::Announcement {
        token: 1,
        local: at(A),
        peer: at(B),
        netns: 7,
        ring_bytes: RING + 1,
    });
    let long = vec![7; 100_000];
    let cases: [&[&[u8]]; 11] = [
        &[b"x"],
        &[&hello[..79]],
        &[&[0; 80]],
        &[&newer],
        &[&long],
        &[&[]],
        // Known words at the wrong time.
        &[&hello, &hello],
        &[&Request::Withdraw { token: 1 }.encode()],
        &[&hello, &Request::Expect.encode()],
        // A ring that is none, and a question that is none.
        &[&hello, &announce.encode()],
        &[b"ctl1{\"enable\":{}}"],
    ];
    for packets in cases {
        hung_up_on(&place, packets);
    }
    server.announce(1, at(A), at(B), 7, RING).unwrap();
    client.announce(1, at(B), at(A), 7, RING).unwrap();
    let _ends = (offer(&server), offer(&client));
    assert_eq!(place.status().members.len(), 2);
}

#[test]
fn a_flood_waits_in_its_senders_own_socket() {
    let place = limited(Limits { waiting_of_member: 50, ..Limits::default() });
    let (server, client, flood) = (place.join(), place.join(), place.join());
    // It reads no mail, and never stops; what does not go at once is its own loss.
    let mut lost = 0;
    for count in 0..20_000_u32 {
        let peer = (std::net::Ipv4Addr::from(0x0a00_0000 + count), 80).into();
        lost += u32::from(flood.announce(count.into(), at(A), peer, 7, RING).is_err());
    }
    server.announce(1, at(A), at(B), 7, RING).unwrap();
    client.announce(1, at(B), at(A), 7, RING).unwrap();
    let _ends = (offer(&server), offer(&client));
    wait_until("the flood is heard", || {
        let status = place.status();
        let refused = status.on_tcp.get("limit").copied().unwrap_or(0);
        status.members[2].waiting == 50 && refused == u64::from(20_000 - 50 - lost)
    });
}

/// Offers that one member leaves unread, until one does not fit: then the other end, which
/// may have the memory already, must learn that it is alone.
fn fill_the_mail_of_a_deaf_end(deaf_is_first: bool) -> End {
    let place = Place::new();
    let (deaf, other) = (place.join(), place.join());
    let mut last = None;
    for count in 0.. {
        let (a, b) = (at(A), at(&format!("127.0.0.1:{}", 1000 + count)));
        let (first, second) = if deaf_is_first { (&deaf, &other) } else { (&other, &deaf) };
        first.announce(count, a, b, 7, RING).unwrap();
        settle_unread(&place, count + 1);
        second.announce(count, b, a, 7, RING).unwrap();
        if !deaf_is_first {
            last = Some(offer(&other));
            wait_until("the second announcement is heard", || !waits(&place));
        }
        let mail = if deaf_is_first { Some(next(&other)) } else { other.next() };
        // Nothing came behind the offer.
        let Some(mail) = mail else { continue };
        match mail {
            Mail::Refused { token, reason } => {
                assert_eq!((token, reason), (count, Reason::MailUnread));
                break;
            }
            offer => last = Some(End::of(offer)),
        }
        assert!(count < 2000, "the mail has no end");
    }
    assert_eq!(place.status().on_tcp["an end leaves its mail unread"], 2);
    last.unwrap()
}

#[test]
fn who_reads_no_mail_leaves_the_other_end_on_tcp() {
    let of_an_earlier_pair = fill_the_mail_of_a_deaf_end(true);
    assert_eq!(of_an_earlier_pair.header().refused.load(Ordering::Acquire), 0);
    let alone = fill_the_mail_of_a_deaf_end(false);
    assert_eq!(alone.header().refused.load(Ordering::Acquire), 1);
}

fn waits(place: &Place) -> bool {
    place.status().members.iter().any(|member| member.waiting > 0)
}

/// The member that reads no mail cannot be asked; its announcements can be counted.
fn settle_unread(place: &Place, announced: u64) {
    wait_until("the announcement is heard", || {
        let status = place.status();
        let waiting: u64 = status.members.iter().map(|member| member.waiting).sum();
        status.pairs.len() as u64 + waiting >= announced
    });
}

#[test]
fn pairs_and_their_memory_are_bounded() {
    let room = 4096 + 2 * RING;
    for limits in [
        Limits { pairs: 1, ..Limits::default() },
        Limits { memory_bytes: 2 * room - 1, ..Limits::default() },
    ] {
        let place = limited(limits);
        let member = place.join();
        member.announce(1, at(A), at(B), 7, RING).unwrap();
        member.announce(2, at(B), at(A), 7, RING).unwrap();
        let ends = (offer(&member), offer(&member));
        let c = at("127.0.0.1:4001");
        member.announce(3, at(A), c, 7, RING).unwrap();
        member.announce(4, c, at(A), 7, RING).unwrap();
        assert_eq!(refusal(&member), (3, Reason::Limit));
        assert_eq!(refusal(&member), (4, Reason::Limit));
        // One that ends makes room.
        member.withdraw(ends.0.token);
        member.announce(3, at(A), c, 7, RING).unwrap();
        member.announce(4, c, at(A), 7, RING).unwrap();
        assert_eq!((offer(&member).token, offer(&member).token), (3, 4));
    }
}

#[test]
fn who_cannot_be_shown_to_be_the_user_is_refused_control() {
    if !rustix::process::geteuid().is_root() {
        return crate::place::skip("only root can be somebody else");
    }
    let place = Place::new();
    let dir = place.dir.clone();
    let refused = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        use sosplice_local::broker::{Ask, ask};
        [Ask::Status, Ask::Disable].map(|question| ask(&dir, &question).unwrap_err().to_string())
    });
    for said in refused.join().unwrap() {
        assert!(said.contains("number 0"), "{said}");
    }
    assert!(place.status().policy.enabled);
}
