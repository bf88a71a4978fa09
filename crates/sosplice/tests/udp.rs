//! Datagram splices on workers and in the caller's thread. What was sent before a splice
//! begins is small enough for the sockets' buffers, so nothing is dropped on loopback.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use rustix::net::{Shutdown, shutdown};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use sosplice::{Both, BothEnds, Cause, End, EngineChoice, Error, Limits, Splice, Splicer};
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::tcp_pair;
use support::udp::*;

const NONE: Limits = Limits { max: None, idle: None, engine: EngineChoice::Auto, piece: None };

fn max(bytes: u64) -> Limits {
    Limits { max: Some(bytes), ..NONE }
}

fn by(engine: EngineChoice) -> Limits {
    Limits { engine, ..NONE }
}

fn splicer() -> Splicer {
    Splicer::with_workers(1).unwrap()
}

fn watch(fd: BorrowedFd<'_>) {
    let timeout = Timespec { tv_sec: WATCHDOG.as_secs() as i64, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)).unwrap();
    assert_eq!(ended, 1, "watchdog: no end");
}

/// The end of its own accord.
fn end(splice: &Splice) -> End {
    watch(splice.as_fd().unwrap());
    splice.end().unwrap()
}

fn ends(both: &Both) -> BothEnds {
    watch(both.as_fd().unwrap());
    both.end().unwrap()
}

fn is_refusal(cause: Cause) -> bool {
    cause.os_error().is_some_and(|error| error.raw() == libc::ECONNREFUSED)
}

#[test]
fn every_boundary_is_kept_across_address_families() {
    let lens = [0, 1, 512, 1472, 9000, 65_507, 512, 512, 511, 512, 0, 0, 1472, 1];
    let splicer = splicer();
    for (first, second) in [(V4, V4), (V4, V6), (V6, V4)] {
        for engine in [EngineChoice::Auto, EngineChoice::Pipe, EngineChoice::Copy] {
            let it = chain_over(first, second);
            let sent = datagrams(&lens);
            // One burst: all of it waits when the splice begins.
            send_all(&it.sender, &sent);
            let splice = splicer.splice(&it.source, &it.drain, by(engine)).unwrap();
            let got = receive_count(&it.receiver, sent.len());
            assert!(got == sent, "{first} to {second} by {engine:?}");
            let end = splice.unsplice();
            assert_eq!(end.cause, Cause::Unspliced);
            assert_eq!(end.carried.datagrams, lens.len() as u64);
            assert_eq!(end.bytes, lens.iter().sum::<usize>() as u64);
            assert!(end.residue.is_empty() && end.boundaries.is_empty());
        }
    }
}

#[test]
fn the_order_is_kept_and_each_comes_once() {
    let splicer = splicer();
    for len in [40, 1400] {
        let it = chain();
        let splice = splicer.splice(&it.source, &it.drain, NONE).unwrap();
        for round in 0..400 {
            let sent = numbered(round * 50..(round + 1) * 50, len);
            send_all(&it.sender, &sent);
            assert!(receive_count(&it.receiver, sent.len()) == sent, "round {round}");
        }
        assert_eq!(splice.unsplice().carried.datagrams, 20_000);
    }
}

#[test]
fn a_max_is_exact_and_leaves_the_rest_on_the_source() {
    let it = chain();
    let sent = datagrams(&[100; 10]);
    send_all(&it.sender, &sent);
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, max(500)).unwrap();
    let end = end(&splice);
    assert_eq!((end.cause, end.bytes), (Cause::Max, 500));
    assert!(end.residue.is_empty());
    assert!(receive_count(&it.receiver, 5) == sent[..5]);
    assert!(waiting(&it.source) == sent[5..]);
    assert!(waiting(&it.receiver).is_empty());
}

#[test]
fn a_max_of_a_large_batch_is_exact() {
    // Above the longest datagram the source is not looked at one by one.
    let it = chain();
    let sent = datagrams(&[1000; 80]);
    send_all(&it.sender, &sent);
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, max(70_000)).unwrap();
    assert_eq!(end(&splice).cause, Cause::Max);
    assert!(receive_count(&it.receiver, 70) == sent[..70]);
    assert!(waiting(&it.source) == sent[70..]);
}

#[test]
fn a_datagram_across_the_max_stays_whole() {
    let it = chain();
    let sent = datagrams(&[100, 0, 100, 7]);
    send_all(&it.sender, &sent);
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, max(150)).unwrap();
    let end = end(&splice);
    assert_eq!((end.cause, end.bytes), (Cause::MaxInside, 100));
    assert!(receive_count(&it.receiver, 2) == sent[..2]);
    assert!(waiting(&it.source) == sent[2..]);
}

#[test]
fn a_datagram_beyond_the_send_buffer_stays_whole() {
    let it = chain();
    SockRef::from(&it.drain).set_send_buffer_size(10_000).unwrap();
    let sent = datagrams(&[1, 10_000, 30_000, 1]);
    send_all(&it.sender, &sent);
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, NONE).unwrap();
    let end = end(&splice);
    assert_eq!((end.cause, end.bytes), (Cause::MessageTooLong, 10_001));
    assert!(receive_count(&it.receiver, 2) == sent[..2]);
    assert!(waiting(&it.source) == sent[2..]);
}

#[test]
fn joined_datagrams_are_not_taken_for_one_beyond_the_send_buffer() {
    let it = chain();
    SockRef::from(&it.drain).set_send_buffer_size(10_000).unwrap();
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, NONE).unwrap();
    cut_into(&it.sender, 1000);
    it.sender.send(&datagram(0, 30_000)).unwrap();
    assert_eq!(receive_count(&it.receiver, 30).concat(), datagram(0, 30_000));
    assert_eq!(splice.unsplice().carried.datagrams, 30);
}

#[test]
fn an_unconnected_source_takes_from_everyone() {
    let source = bound(V4);
    let (drain, receiver) = connected(V4);
    let splicer = splicer();
    let splice = splicer.splice(&source, &drain, NONE).unwrap();
    for number in 0..20 {
        let sender = bound(V4);
        sender.send_to(&datagram(number, 100), addr(&source)).unwrap();
        assert!(receive(&receiver) == datagram(number, 100));
    }
    assert_eq!(splice.unsplice().carried.datagrams, 20);
}

#[test]
fn a_drain_that_is_not_connected_is_refused_by_its_name() {
    let splicer = splicer();
    let (a, _peer) = connected(V4);
    let nowhere = bound(V4);
    let name = |error| match error {
        Error::NotConnected { end } => end,
        error => panic!("{error}"),
    };
    assert_eq!(name(splicer.splice(&a, &nowhere, NONE).unwrap_err()), "drain");
    assert_eq!(name(splicer.splice_both(&nowhere, &a, NONE).unwrap_err()), "first socket");
    assert_eq!(name(splicer.splice_both(&a, &nowhere, NONE).unwrap_err()), "second socket");
    // A refused splice leaves no trace.
    assert!(!joins(&a) && !joins(&nowhere));
}

#[test]
fn a_stream_and_a_datagram_socket_are_refused_by_their_names() {
    let splicer = splicer();
    let (udp, _peer) = connected(V4);
    let (tcp, _far) = tcp_pair();
    let names = |error| match error {
        Error::Mixed { messages, stream } => (messages, stream),
        error => panic!("{error}"),
    };
    let error = splicer.splice(&udp, &tcp, NONE).unwrap_err();
    assert_eq!(names(error), ("source", "drain"));
    let error = splicer.splice(&tcp, &udp, NONE).unwrap_err();
    assert_eq!(names(error), ("drain", "source"));
    let error = splicer.splice_both(&tcp, &udp, NONE).unwrap_err();
    assert_eq!(names(error), ("second socket", "first socket"));
    let (unix, _far) = UnixDatagram::pair().unwrap();
    let error = splicer.splice(&udp, &unix, NONE).unwrap_err();
    assert!(matches!(error, Error::NotAStream { end: "drain", kind: "datagram" }), "{error}");
}

#[test]
fn datagrams_of_other_protocols_are_refused() {
    let splicer = splicer();
    let (udp, _peer) = connected(V4);
    // Ping sockets and UDP-Lite: a kernel, or a user, may have neither.
    let make = |protocol| Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::from(protocol)));
    let others: Vec<_> = [libc::IPPROTO_ICMP, libc::IPPROTO_UDPLITE].map(make).into();
    if others.iter().all(Result::is_err) {
        assert!(std::env::var_os("SOSPLICE_NO_SKIP").is_none(), "must not be skipped");
        eprintln!("skipped: no datagram socket but UDP is to be had");
    }
    for other in others.into_iter().flatten() {
        let error = splicer.splice(&other, &udp, NONE).unwrap_err();
        assert!(matches!(error, Error::NotAStream { end: "source", .. }), "{error}");
    }
}

#[test]
fn a_refusal_ends_a_splice_whose_source_is_silent() {
    let (_sender, source) = connected(V4);
    let drain = refused();
    let splicer = splicer();
    let splice = splicer.splice(&source, &drain, NONE).unwrap();
    // The program's own datagram is refused, and no call of the splice meets it.
    drain.send(b"x").unwrap();
    let end = end(&splice);
    assert!(matches!(end.cause, Cause::DrainError(_)) && is_refusal(end.cause), "{end:?}");
    assert_eq!((end.carried.datagrams, end.boundaries.len()), (0, 0));
}

#[test]
fn a_refused_drain_leaves_what_it_did_not_take() {
    let splicer = splicer();
    for lens in [&[100][..], &[100, 200, 300], &[100; 50]] {
        let (sender, source) = connected(V4);
        let drain = refused();
        // Pending when the first send comes: that one is refused.
        drain.send(b"x").unwrap();
        let sent = datagrams(lens);
        send_all(&sender, &sent);
        let splice = splicer.splice(&source, &drain, NONE).unwrap();
        let end = end(&splice);
        assert!(matches!(end.cause, Cause::DrainError(_)) && is_refusal(end.cause), "{end:?}");
        let mut left = residue(&end);
        left.extend(waiting(&source));
        assert!(left == sent[end.carried.datagrams as usize..]);
        assert!(!left.is_empty(), "the first send is refused");
    }
}

#[test]
fn refused_datagrams_end_the_splice() {
    let splicer = splicer();
    for lens in [&[100][..], &[100, 200, 300], &[100; 50]] {
        let (sender, source) = connected(V4);
        let drain = refused();
        let splice = splicer.splice(&source, &drain, NONE).unwrap();
        send_all(&sender, &datagrams(lens));
        let end = end(&splice);
        assert!(matches!(end.cause, Cause::DrainError(_)) && is_refusal(end.cause), "{end:?}");
    }
}

#[test]
fn a_failed_source_is_told_as_such() {
    let source = refused();
    let (drain, _receiver) = connected(V4);
    let splicer = splicer();
    let splice = splicer.splice(&source, &drain, NONE).unwrap();
    source.send(b"x").unwrap();
    let end = end(&splice);
    assert!(matches!(end.cause, Cause::SourceError(_)) && is_refusal(end.cause), "{end:?}");
}

#[test]
fn a_refusal_ends_both_directions_of_a_pair() {
    let splicer = splicer();
    // Met by a read (nothing goes through the pair), by a send (the error was there before),
    // or by whatever comes first.
    for (through, before) in [(false, false), (true, true), (true, false)] {
        let (client, a) = connected(V4);
        let b = refused();
        if before {
            b.send(b"x").unwrap();
            client.send(b"x").unwrap();
        }
        let both = splicer.splice_both(&a, &b, NONE).unwrap();
        if !before {
            if through {
                client.send(b"x").unwrap()
            } else {
                b.send(b"x").unwrap()
            };
        }
        let ends = ends(&both);
        assert!(matches!(ends.a_to_b.cause, Cause::DrainError(_)), "{ends:?}");
        assert!(matches!(ends.b_to_a.cause, Cause::SourceError(_)), "{ends:?}");
        assert!(is_refusal(ends.a_to_b.cause) && is_refusal(ends.b_to_a.cause));
    }
}

#[test]
fn silence_ends_a_splice_and_a_pair_with_an_idle_limit() {
    let it = chain();
    let limits = Limits { idle: Some(Duration::from_millis(30)), ..NONE };
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, limits).unwrap();
    assert_eq!(end(&splice).cause, Cause::Idle);
    let ends = sosplice::splice_both(&it.source, &it.drain, limits).unwrap();
    assert_eq!((ends.a_to_b.cause, ends.b_to_a.cause), (Cause::Idle, Cause::Idle));
}

#[test]
fn an_unspliced_source_is_the_programs_again() {
    let it = chain();
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, NONE).unwrap();
    send_all(&it.sender, &datagrams(&[10]));
    assert!(receive(&it.receiver) == datagram(0, 10));
    assert_eq!(splice.unsplice().cause, Cause::Unspliced);
    it.sender.send(b"mine").unwrap();
    assert_eq!(receive(&it.source), b"mine");
    assert!(waiting(&it.receiver).is_empty());
}

#[test]
fn a_datagram_that_was_seen_is_in_the_count() {
    let it = chain();
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, NONE).unwrap();
    for round in 1..=2000 {
        it.sender.send(&[7; 100]).unwrap();
        receive(&it.receiver);
        assert_eq!(splice.transferred(), 100 * round);
        assert_eq!(splice.carried().datagrams, round);
    }
}

#[test]
fn the_sockets_flags_are_left_alone() {
    let it = chain();
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, NONE).unwrap();
    for socket in [&it.source, &it.drain] {
        let flags = rustix::fs::fcntl_getfl(socket).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    }
    drop(splice);
}

#[test]
fn a_joined_message_keeps_its_boundaries() {
    let it = chain();
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, NONE).unwrap();
    assert!(joins(&it.source) && !joins(&it.drain));
    cut_into(&it.sender, 1000);
    let whole = datagram(0, 10_500);
    for _ in 0..5 {
        it.sender.send(&whole).unwrap();
        let got = receive_count(&it.receiver, 11);
        assert!(got.iter().map(Vec::len).eq([&[1000; 10][..], &[500]].concat()));
        assert!(got.concat() == whole);
    }
    let end = splice.unsplice();
    assert_eq!((end.carried.engine(), end.carried.datagrams), ("udp-gso", 55));
    assert!(!joins(&it.source), "switched off with the splice");
}

#[test]
fn a_copy_is_a_call_each_and_joins_nothing() {
    let it = chain();
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, by(EngineChoice::Copy)).unwrap();
    assert!(!joins(&it.source));
    cut_into(&it.sender, 1000);
    it.sender.send(&datagram(0, 10_500)).unwrap();
    assert!(receive_count(&it.receiver, 11).concat() == datagram(0, 10_500));
    let end = splice.unsplice();
    assert_eq!((end.carried.engine(), end.carried.plain), ("udp-plain", 10_500));
}

#[test]
fn a_program_that_joins_goes_on_joining() {
    let it = chain();
    set_joins(&it.source);
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, NONE).unwrap();
    cut_into(&it.sender, 1000);
    it.sender.send(&datagram(0, 3000)).unwrap();
    assert!(receive_count(&it.receiver, 3).concat() == datagram(0, 3000));
    splice.unsplice();
    assert!(joins(&it.source));
    it.sender.send(&datagram(1, 3000)).unwrap();
    assert!(receive(&it.source) == datagram(1, 3000), "one message, as the program wants it");
}

#[test]
fn with_a_max_nothing_is_joined() {
    let it = chain();
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, max(1500)).unwrap();
    assert!(!joins(&it.source));
    cut_into(&it.sender, 500);
    it.sender.send(&datagram(0, 3000)).unwrap();
    assert_eq!(end(&splice).cause, Cause::Max);
    assert!(receive_count(&it.receiver, 3).concat() == datagram(0, 3000)[..1500]);
    let left = waiting(&it.source);
    assert!(left.iter().all(|datagram| datagram.len() == 500), "they stay, one by one");
    assert!(left.concat() == datagram(0, 3000)[1500..]);
}

/// Sends runs of numbered datagrams, joined, until told to stop.
fn flood(sender: &UdpSocket, stop: &AtomicBool, from: u32) -> u32 {
    let mut number = from;
    while !stop.load(Ordering::Relaxed) {
        let run = numbered(number..number + 20, 100).concat();
        sender.send(&run).unwrap();
        number += 20;
    }
    number
}

#[test]
fn no_joined_message_is_left_behind_as_one_datagram() {
    let it = chain();
    cut_into(&it.sender, 100);
    let splicer = splicer();
    let mut number = 0;
    for round in 0..100 {
        let stop = AtomicBool::new(false);
        let splice = splicer.splice(&it.source, &it.drain, NONE).unwrap();
        let (end, next) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| flood(&it.sender, &stop, number));
            receive(&it.receiver);
            let end = if round % 2 == 0 { splice.unsplice() } else { splice.unsplice_by_force() };
            stop.store(true, Ordering::Relaxed);
            (end, sender.join().unwrap())
        });
        number = next;
        // In order, where the sockets had no room for some: given, residue, still there.
        let mut all = waiting(&it.receiver);
        all.extend(residue(&end));
        all.extend(waiting(&it.source));
        assert!(all.iter().all(|datagram| datagram.len() == 100), "round {round}");
        assert!(all.is_sorted_by_key(|datagram| number_of(datagram)), "round {round}");
    }
}

#[test]
fn a_pair_carries_both_ways_without_a_half_close() {
    let splicer = splicer();
    let (client, a) = connected(V4);
    let (b, server) = connected(V6);
    let both = splicer.splice_both(&a, &b, NONE).unwrap();
    for number in 0..100 {
        let question = datagram(number, number * 10);
        client.send(&question).unwrap();
        assert!(receive(&server) == question);
        server.send(&question).unwrap();
        assert!(receive(&client) == question);
    }
    assert_eq!((both.carried().0.datagrams, both.carried().1.datagrams), (100, 100));
    // One direction ends; the other goes on, and nothing was shut down.
    shutdown(&a, Shutdown::Read).unwrap();
    server.send(b"still").unwrap();
    assert_eq!(receive(&client), b"still");
    let ends = both.unsplice();
    assert_eq!((ends.a_to_b.cause, ends.b_to_a.cause), (Cause::Eof, Cause::Unspliced));
    b.send(b"open").unwrap();
    assert_eq!(receive(&server), b"open");
}

#[test]
fn a_source_shut_for_reading_ends_behind_its_datagrams() {
    let splicer = splicer();
    for before in [true, false] {
        let it = chain();
        let sent = datagrams(&[100; 100]);
        if before {
            send_all(&it.sender, &sent);
            shutdown(&it.source, Shutdown::Read).unwrap();
        }
        let splice = splicer.splice(&it.source, &it.drain, NONE).unwrap();
        if !before {
            send_all(&it.sender, &sent);
            receive(&it.receiver);
            shutdown(&it.source, Shutdown::Read).unwrap();
        }
        let end = end(&splice);
        assert_eq!((end.cause, end.carried.datagrams), (Cause::Eof, 100));
        let left = if before { 100 } else { 99 };
        assert!(receive_count(&it.receiver, left) == sent[100 - left..]);
    }
}

#[test]
fn a_drain_shut_for_writing_is_told_from_a_failed_one() {
    let it = chain();
    shutdown(&it.drain, Shutdown::Write).unwrap();
    it.sender.send(b"too late").unwrap();
    let splicer = splicer();
    let splice = splicer.splice(&it.source, &it.drain, NONE).unwrap();
    let end = end(&splice);
    assert_eq!((end.cause, end.residue.as_slice()), (Cause::DrainClosed, &b"too late"[..]));
}

#[test]
fn a_socket_spliced_to_itself_is_an_echo() {
    let (peer, socket) = connected(V4);
    let splicer = splicer();
    let splice = splicer.splice(&socket, &socket, NONE).unwrap();
    for number in 0..100 {
        peer.send(&datagram(number, 1000)).unwrap();
        assert!(receive(&peer) == datagram(number, 1000));
    }
    assert_eq!(splice.unsplice().carried.datagrams, 100);
}
