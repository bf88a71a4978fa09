//! What goes wrong around a UDP relay: upstreams that refuse, and more than it can take.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::net::UdpSocket;
use std::process::Command;
use support::datagrams::{
    Chatter, Dead, Echo, V4, V6, addr, client, expect, expect_echo, has_ipv6, is_quiet, join,
    relay_to, send, send_joined, send_to, upstream,
};
use support::{Relay, number, skip, wait_until};

/// The line of one who asks for it (`--log-level debug`).
const REFUSED: &str = "upstream refused";

/// Sends until the relay has heard that the upstream refuses, so that a new session finds
/// it so.
#[track_caller]
fn refuse(relay: &Relay, client: &UdpSocket) {
    while relay.lines(REFUSED) > 0 {
        relay.next(REFUSED);
    }
    send(client, 1, 100);
    relay.next(REFUSED);
}

/// The host of an upstream answers by ICMP that nobody is there. That is no datagram for
/// the client, no end of the session, and nothing to be busy with; and when the upstream
/// is there, it has its client at once.
#[test]
fn a_session_outlives_an_upstream_that_refuses() {
    for ip in [V4, V6] {
        if ip == V6 && !has_ipv6() {
            return skip("no IPv6 on loopback");
        }
        for engine in ["auto", "copy"] {
            let dead = Dead::new(ip);
            let mut relay = relay_to(&[dead.addr()], &["--engine", engine, "--log-level=debug"]);
            let client = client(relay.addr());
            for _ in 0..5 {
                refuse(&relay, &client);
            }
            // In one batch the second is told what became of the first.
            relay.freeze();
            for number in 0..20 {
                send(&client, number, [100, 100, 300][number as usize % 3]);
            }
            relay.thaw();
            relay.next(REFUSED);
            refuse(&relay, &client);
            relay.assert_rests("the upstream has refused");
            let upstream = dead.revive();
            // Its first answer is the first that the client hears at all.
            let session = join(&client, &upstream, 50);
            assert_eq!(join(&client, &upstream, 60), session);
            assert!(is_quiet(&client));
            let stopped = relay.stop();
            assert_eq!((number(&stopped, "accepted"), number(&stopped, "refused")), (1, 0));
            let told = relay.next_session();
            assert_eq!((told.down_datagrams, told.dropped), (2, 0), "{told:?}");
            // All were sent: what became of them the relay cannot count.
            assert_eq!(told.up_datagrams, 5 + 20 + 1 + 2, "{told:?}");
        }
    }
}

/// An upstream that is restarted again and again costs what it refused, and no more.
#[test]
fn an_upstream_that_comes_and_goes_loses_no_datagram_while_it_is_there() {
    let dead = Dead::new(V4);
    let relay = relay_to(&[dead.addr()], &["--log-level=debug"]);
    let client = client(relay.addr());
    refuse(&relay, &client);
    let upstream = dead.revive();
    for round in 0..20 {
        join(&client, &upstream, 100 + round);
        upstream.connect((V4, 1)).unwrap();
        refuse(&relay, &client);
        rustix::net::connect_unspec(&upstream).unwrap();
    }
    join(&client, &upstream, 500);
}

/// Of two upstreams one refuses: the sessions of the other do not notice, and new ones
/// go there.
#[test]
fn new_sessions_avoid_an_upstream_that_has_just_refused() {
    for balance in ["round-robin", "least-conn", "random", "source"] {
        let dead = Dead::new(V4);
        let upstream = upstream();
        let flags = ["--log-level=debug", "--balance", balance];
        let relay = relay_to(&[dead.addr(), addr(&upstream)], &flags);
        // One that was given to the upstream that refuses: the first or one of the next.
        let mut unlucky = None;
        for number in 0..40 {
            let client = client(relay.addr());
            send(&client, number, 64);
            let mut told = false;
            wait_until("the datagram is received or refused", || {
                told = relay.lines(REFUSED) > 0;
                told || !is_quiet(&upstream)
            });
            if told {
                unlucky = Some(client);
                break;
            }
            expect(&upstream, number, 64);
        }
        let Some(unlucky) = unlucky else {
            // By its address every client here has the other one.
            assert_eq!(balance, "source");
            continue;
        };
        let old = client(relay.addr());
        refuse(&relay, &unlucky);
        let session = join(&old, &upstream, 100);
        for number in 0..10 {
            refuse(&relay, &unlucky);
            let client = client(relay.addr());
            join(&client, &upstream, 200 + 2 * number);
            assert_eq!(join(&old, &upstream, 300 + 2 * number), session);
        }
        assert!(is_quiet(&unlucky));
        // It is not moved: its upstream may come back.
        let back = dead.revive();
        join(&unlucky, &back, 400);
    }
}

/// All refuse: a session is begun all the same, for whoever comes back.
#[test]
fn with_all_upstreams_refusing_a_session_waits_for_one() {
    let dead = [Dead::new(V4), Dead::new(V4)];
    let relay = relay_to(&[dead[0].addr(), dead[1].addr()], &["--log-level=debug"]);
    let clients: Vec<_> = (0..4).map(|_| client(relay.addr())).collect();
    for client in &clients {
        refuse(&relay, client);
    }
    let back = dead.map(Dead::revive);
    for (i, client) in clients.iter().enumerate() {
        join(client, &back[i % 2], 10 * i as u64);
    }
}

const DROPPED: &str =
    "datagrams of clients dropped by the kernel: they came faster than they could go";

/// Datagrams of that size come to a megabyte and more for sixteen.
const FLOOD_LEN: usize = 65_000;
/// More than any socket here can hold: the relay asks for 4 MiB, and gets twice that.
const FLOOD: u64 = 400;

/// What the kernel drops before the relay is nowhere else to be seen. It is told, the
/// counts are exact, and the relay goes on.
#[test]
fn what_the_kernel_drops_of_clients_is_counted() {
    for engine in ["auto", "copy"] {
        let echo = Echo::start(V4);
        let mut relay = relay_to(&[echo.addr], &["--engine", engine]);
        let client = client(relay.addr());
        send(&client, 1, 100);
        expect_echo(&client, 1, 100);
        relay.freeze();
        for _ in 0..FLOOD {
            send(&client, 2, FLOOD_LEN);
        }
        relay.thaw();
        // The count comes with a datagram that was taken after the drops. This one may
        // come too early itself, so it is sent until it is answered.
        let chatter = Chatter::start(&client, 3, 0);
        let warned = relay.next(DROPPED);
        assert!(number(&warned, "count") > 0, "{warned}");
        drop(chatter);
        let other = support::datagrams::client(relay.addr());
        send(&other, 4, 100);
        expect_echo(&other, 4, 100);
        let stopped = relay.stop();
        let mut through = [relay.next_session(), relay.next_session()];
        through.sort_by_key(|session| session.up);
        let [_, flooded] = through;
        let dropped = number(&stopped, "dropped");
        assert!(dropped > FLOOD / 4, "{stopped}");
        // The chatter's are empty, and some of them may be among those that were dropped.
        assert_eq!((flooded.up - 100) % FLOOD_LEN as u64, 0, "{flooded:?}");
        let went = flooded.up / FLOOD_LEN as u64;
        assert!(went > 0 && went < FLOOD, "{flooded:?}");
        assert!(went + dropped >= FLOOD, "{went} and {dropped} are not {FLOOD}");
    }
}

/// The same on the other side: the upstream answers faster than the relay takes.
#[test]
fn what_the_kernel_drops_of_answers_is_counted() {
    let upstream = upstream();
    let mut relay = relay_to(&[addr(&upstream)], &[]);
    let client = client(relay.addr());
    let session = join(&client, &upstream, 10);
    relay.freeze();
    for _ in 0..FLOOD {
        send_to(&upstream, session, 2, FLOOD_LEN);
    }
    relay.thaw();
    // Behind what was kept of the flood, so there is room for these.
    let mut buffer = vec![0; 65_536];
    while client.recv(&mut buffer).is_ok_and(|count| count == FLOOD_LEN) {
        if is_quiet(&client) {
            send_to(&upstream, session, 3, 100);
        }
    }
    let stopped = relay.stop();
    let told = relay.next_session();
    assert!(told.dropped > FLOOD / 4, "{told:?}");
    let went = told.down / FLOOD_LEN as u64;
    assert_eq!(went + told.dropped, FLOOD, "{told:?}");
    assert_eq!(number(&stopped, "dropped"), told.dropped, "{stopped}");
}

/// A way that carries packets of 1,500 bytes takes longer datagrams in fragments, and
/// refuses to cut joined ones into such: they must then go alone, all of them.
#[test]
fn datagrams_longer_than_a_packet_of_the_way_are_not_lost() {
    const INSIDE: &str = "SOSPLICE_TEST_SMALL_PACKETS";
    if std::env::var_os(INSIDE).is_none() {
        let name = "datagrams_longer_than_a_packet_of_the_way_are_not_lost";
        let inside = "ip link set lo mtu 1500 up && exec \"$0\" \"$@\"";
        let output = Command::new("unshare")
            .args(["-rn", "sh", "-c", inside])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output();
        return match output {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                if told.starts_with("unshare:") || told.starts_with("RTNETLINK") {
                    return skip(&format!("no network namespace: {told}"));
                }
                panic!("{told}{}", String::from_utf8_lossy(&output.stdout));
            }
            Err(error) => skip(&format!("unshare: {error}")),
        };
    }
    let upstream = upstream();
    let mut relay = relay_to(&[addr(&upstream)], &[]);
    let client = client(relay.addr());
    let session = join(&client, &upstream, 1_000);
    for (round, len) in [9000, 1473, 1472, 1200].into_iter().enumerate() {
        for down in [false, true] {
            let numbers = 100 * (round as u64 + 1)..100 * (round as u64 + 1) + 20;
            relay.freeze();
            for number in numbers.clone() {
                match down {
                    false => send(&client, number, len),
                    true => send_to(&upstream, session, number, len),
                }
            }
            relay.thaw();
            for number in numbers {
                expect(if down { &client } else { &upstream }, number, len);
            }
        }
    }
    // What fits is still joined by the sender, and by the relay.
    send_joined(&client, None, (5_000, 40), 1472);
    for number in 5_000..5_040 {
        expect(&upstream, number, 1472);
    }
    let _ = relay.stop();
    let told = relay.next_session();
    assert_eq!((told.up_datagrams, told.down_datagrams, told.dropped), (121, 81, 0), "{told:?}");
    assert!(told.up_gso >= 40 * 1472 && told.down_gso > 0, "{told:?}");
}
