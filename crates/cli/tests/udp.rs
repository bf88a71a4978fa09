//! `sosplice relay --udp`: every datagram whole, in its order, from and to the addresses
//! that it belongs to.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use support::datagrams::{
    Echo, LONGEST, V4, V6, addr, client, expect, expect_echo, has_ipv6, is_quiet, join, relay_to,
    send, send_joined, send_to, socket_on, upstream,
};
use support::{Relay, Session, skip};

/// None, one byte, the classic limit of DNS, an Ethernet packet, a jumbo one, the longest.
const SIZES: [usize; 6] = [0, 1, 512, 1472, 9000, LONGEST];
const ENGINES: [&str; 2] = ["auto", "copy"];

/// The one session of a relay that is stopped now.
#[track_caller]
fn only_session(mut relay: Relay) -> Session {
    let stopped = relay.stop();
    assert_eq!(stopped["accepted"], 1, "{stopped}");
    relay.next_session()
}

/// Truncation at 8 KiB, and empty datagrams that are taken for an end.
#[test]
fn a_datagram_of_any_size_goes_through_whole() {
    for engine in ENGINES {
        let upstream = upstream();
        let relay = relay_to(&[addr(&upstream)], &["--engine", engine]);
        let client = client(relay.addr());
        for (number, len) in (0..).zip(SIZES) {
            send(&client, number, len);
            let session = expect(&upstream, number, len);
            send_to(&upstream, session, 100 + number, len);
            expect(&client, 100 + number, len);
        }
        let session = only_session(relay);
        let (count, bytes) = (SIZES.len() as u64, SIZES.iter().sum::<usize>() as u64);
        assert_eq!((session.up, session.up_datagrams), (bytes, count));
        assert_eq!((session.down, session.down_datagrams), (bytes, count));
        assert_eq!((session.engine.as_str(), session.dropped), ("udp-plain", 0));
    }
}

/// A burst that the relay finds waiting is one batch: its datagrams must not be joined,
/// cut, left out, or written over one another.
#[test]
fn a_mixed_burst_keeps_its_boundaries_and_its_order() {
    for engine in ENGINES {
        let upstream = upstream();
        let relay = relay_to(&[addr(&upstream)], &["--engine", engine]);
        let client = client(relay.addr());
        let session = join(&client, &upstream, 1_000);
        // Each size behind each, and runs of equal ones.
        let pairs = SIZES[..4].iter().flat_map(|&a| SIZES[..4].iter().map(move |&b| [a, b]));
        let burst: Vec<usize> =
            pairs.flatten().chain([700; 9]).chain([9000, 300, 300, 299]).collect();
        for down in [false, true] {
            relay.freeze();
            for (number, &len) in (0..).zip(&burst) {
                match down {
                    false => send(&client, number, len),
                    true => send_to(&upstream, session, number, len),
                }
            }
            relay.thaw();
            for (number, &len) in (0..).zip(&burst) {
                expect(if down { &client } else { &upstream }, number, len);
            }
        }
        let told = only_session(relay);
        let (count, bytes) = (burst.len() as u64 + 1, burst.iter().sum::<usize>() as u64 + 100);
        assert_eq!((told.up_datagrams, told.down_datagrams), (count, count), "{told:?}");
        assert_eq!((told.up, told.down, told.dropped), (bytes, bytes, 0), "{told:?}");
        let batched = told.up_gso > 0 && told.up_mmsg > 0 && told.down_gso > 0;
        assert_eq!(batched, engine == "auto", "{told:?}");
    }
}

/// What a sender has joined (UDP_SEGMENT) arrives joined (UDP_GRO). It must go out as the
/// datagrams that it stands for, and be joined again for the way: the fast path that is
/// silently off is the commonest fault of relays.
#[test]
fn datagrams_that_were_sent_joined_arrive_one_by_one() {
    for engine in ENGINES {
        let upstream = upstream();
        let relay = relay_to(&[addr(&upstream)], &["--engine", engine]);
        let client = client(relay.addr());
        let session = join(&client, &upstream, 1_000);
        let (mut number, mut datagrams, mut bytes) = (0, 1, 100);
        for (len, count) in [(1, 64), (1472, 44), (512, 2), (9000, 7), (32_000, 2), (1200, 33)] {
            for down in [false, true] {
                match down {
                    false => send_joined(&client, None, (number, count), len),
                    true => send_joined(&upstream, Some(session), (number, count), len),
                }
                for number in (number..).take(count) {
                    expect(if down { &client } else { &upstream }, number, len);
                }
                number += count as u64;
            }
            datagrams += count as u64;
            bytes += (count * len) as u64;
        }
        let told = only_session(relay);
        assert_eq!((told.up, told.up_datagrams), (bytes, datagrams), "{told:?}");
        assert_eq!((told.down, told.down_datagrams), (bytes, datagrams), "{told:?}");
        // All but the one of the beginning.
        let gso = if engine == "auto" { bytes - 100 } else { 0 };
        assert_eq!((told.up_gso, told.down_gso), (gso, gso), "{told:?}");
        let name = if engine == "auto" { "udp-gso" } else { "udp-plain" };
        assert_eq!(told.engine, name);
    }
}

/// Two senders in one batch, datagram by datagram in turn: each one's are put together
/// and none may go the other's way.
#[test]
fn interleaved_clients_are_not_mixed_up() {
    const ROUNDS: u64 = 20;
    let upstream = upstream();
    let relay = relay_to(&[addr(&upstream)], &[]);
    let clients: Vec<_> = (0..3).map(|_| client(relay.addr())).collect();
    let sessions: Vec<_> =
        (0..).zip(&clients).map(|(i, client)| join(client, &upstream, 9_000 + 2 * i)).collect();
    let number = |round: u64, who: usize| 100 * round + who as u64;
    let len = |round: u64, who: usize| [100, 100, 700][(round as usize + who) % 3];
    relay.freeze();
    for round in 0..ROUNDS {
        for (who, client) in clients.iter().enumerate() {
            send(client, number(round, who), len(round, who));
        }
    }
    relay.thaw();
    // In what order the sessions come is not promised; that of each one's datagrams is.
    let mut seen = [0; 3];
    let mut buffer = vec![0; 65_536];
    for _ in 0..ROUNDS as usize * clients.len() {
        let (count, from) = upstream.recv_from(&mut buffer).unwrap();
        let who = sessions.iter().position(|session| *session == from).unwrap();
        let (number, len) = (number(seen[who], who), len(seen[who], who));
        let expected = support::pattern::datagram(number, len);
        assert!(buffer[..count] == *expected, "datagram {number} of client {who}");
        seen[who] += 1;
        send_to(&upstream, from, 50_000 + number, len);
    }
    for (who, client) in clients.iter().enumerate() {
        for round in 0..ROUNDS {
            expect(client, 50_000 + number(round, who), len(round, who));
        }
        assert!(is_quiet(client));
    }
}

/// All sessions are open before the first burst, two workers serve them, and each burst
/// has sizes and bytes of its own client's.
#[test]
fn two_hundred_clients_get_only_their_own_answers_in_order() {
    const CLIENTS: u64 = 200;
    const AT_ONCE: usize = 10;
    const SIZES: [usize; 9] = [64, 64, 64, 0, 1200, 1200, 1, 700, 64];
    let echo = Echo::start(V4);
    let target = echo.addr.to_string();
    let mut relay = Relay::start(&["--udp", "127.0.0.1:0", &target, "--workers=2"]);
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(relay.addr())).collect();
    let crowd: Vec<_> = (0_u64..).zip(&clients).collect();
    for (number, client) in &crowd {
        send(client, *number, 32);
    }
    for (number, client) in &crowd {
        expect_echo(client, *number, 32);
    }
    let lens = |client: u64| (0_u64..).zip(SIZES).map(move |(i, len)| (client * 100 + i, len));
    for round in 0..3 {
        for few in crowd.chunks(AT_ONCE) {
            // One datagram each in turn, so that they lie mixed.
            for step in 0..SIZES.len() {
                for (number, client) in few {
                    let (number, len) = lens(number + 1_000 * round).nth(step).unwrap();
                    send(client, number, len);
                }
            }
            for (number, client) in few {
                for (number, len) in lens(number + 1_000 * round) {
                    expect_echo(client, number, len);
                }
            }
        }
    }
    assert!(clients.iter().all(is_quiet));
    let stopped = relay.stop();
    assert_eq!((&stopped["accepted"], &stopped["dropped"]), (&CLIENTS.into(), &0.into()));
    for _ in 0..CLIENTS {
        let session = relay.next_session();
        assert_eq!((session.up_datagrams, session.down_datagrams), (28, 28), "{session:?}");
        assert_eq!(session.up, session.down);
    }
}

/// Addresses of one family are written otherwise than those of the other, which are
/// mapped on a socket for both.
#[test]
fn the_upstream_may_be_of_the_other_family() {
    if !has_ipv6() {
        return skip("no IPv6 on loopback");
    }
    for (listen, target) in [("127.0.0.1:0", V6), ("[::1]:0", V4), ("[::1]:0", V6)] {
        let upstream = socket_on(target);
        let target = addr(&upstream).to_string();
        let relay = Relay::start(&["--udp", listen, &target, "--workers=1"]);
        let client = client(relay.addr());
        for (number, len) in (0..).zip(SIZES) {
            send(&client, number, len);
            let session = expect(&upstream, number, len);
            send_to(&upstream, session, 100 + number, len);
            expect(&client, 100 + number, len);
        }
        let name = addr(&client).to_string();
        let session = only_session(relay);
        assert_eq!((session.client, session.upstream), (name, target));
    }
}

/// Over IPv6 a datagram may be 20 bytes longer. It is lost alone: not with its
/// neighbours, and not the session with it.
#[test]
fn a_datagram_too_long_for_the_other_family_is_dropped_alone() {
    if !has_ipv6() {
        return skip("no IPv6 on loopback");
    }
    const TOO_LONG: usize = LONGEST + 20;
    for engine in ENGINES {
        let upstream = upstream();
        let target = addr(&upstream).to_string();
        let flags = ["--udp", "[::1]:0", &target, "--workers=1", "--engine", engine];
        let relay = Relay::start(&flags);
        let client = client(relay.addr());
        join(&client, &upstream, 1_000);
        relay.freeze();
        let burst = [300, 300, TOO_LONG, 300, 300];
        for (number, len) in (0..).zip(burst) {
            send(&client, number, len);
        }
        relay.thaw();
        for (number, len) in (0..).zip(burst).filter(|(_, len)| *len != TOO_LONG) {
            expect(&upstream, number, len);
        }
        let session = only_session(relay);
        assert_eq!((session.dropped, session.up_datagrams), (1, 5), "{session:?}");
        // What was refused was no fault of the joined ones.
        assert_eq!(session.up_gso, if engine == "auto" { 1200 } else { 0 }, "{session:?}");
    }
}

/// A client takes answers from the address that it asked, and a host may have several.
/// The relay that answers from the first one is not heard.
#[test]
fn the_answer_comes_from_the_address_that_was_asked() {
    let second: IpAddr = Ipv4Addr::new(127, 0, 0, 2).into();
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let both = listen.starts_with('[');
        if both && !has_ipv6() {
            return skip("no IPv6 on loopback");
        }
        for engine in ENGINES {
            let upstream = upstream();
            let target = addr(&upstream).to_string();
            let args = ["--udp", listen, &target, "--workers=1", "--engine", engine];
            let relay = Relay::start(&args);
            let port = relay.addr().port();
            for ip in [V4, second, V6].into_iter().filter(|ip| both || ip.is_ipv4()) {
                // Connected: what comes from elsewhere is not received.
                let client = client(SocketAddr::new(ip, port));
                let session = join(&client, &upstream, 10);
                relay.freeze();
                for number in 20..30 {
                    send_to(&upstream, session, number, 300);
                }
                relay.thaw();
                for number in 20..30 {
                    expect(&client, number, 300);
                }
            }
        }
    }
}

/// One socket that asks two addresses of the relay has two conversations.
#[test]
fn a_client_that_asks_two_addresses_has_two_sessions() {
    let upstream = upstream();
    let target = addr(&upstream).to_string();
    let relay = Relay::start(&["--udp", "0.0.0.0:0", &target, "--workers=1"]);
    let client = socket_on(V4);
    let asked = [1, 2, 1, 2]
        .map(|last| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), relay.addr().port())));
    let mut sessions = Vec::new();
    for (number, to) in (0..).zip(asked) {
        send_to(&client, to, number, 100);
        let session = expect(&upstream, number, 100);
        send_to(&upstream, session, 50 + number, 100);
        assert_eq!(expect(&client, 50 + number, 100), to);
        sessions.push(session);
    }
    assert_eq!(sessions[..2], sessions[2..]);
    assert_ne!(sessions[0], sessions[1]);
}

/// The upstream alone may answer: others on the host cannot speak to a client through
/// its session.
#[test]
fn a_stranger_cannot_answer_in_place_of_the_upstream() {
    let upstream = upstream();
    let relay = relay_to(&[addr(&upstream)], &[]);
    let client = client(relay.addr());
    let session = join(&client, &upstream, 10);
    let stranger = UdpSocket::bind((V4, 0)).unwrap();
    for _ in 0..10 {
        stranger.send_to(b"forged", session).unwrap();
    }
    join(&client, &upstream, 20);
    assert!(is_quiet(&client));
    assert_eq!(only_session(relay).down_datagrams, 2);
}
