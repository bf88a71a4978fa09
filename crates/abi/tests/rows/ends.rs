//! Rows 2.4: how a splice ends, and what is reported to whom.

use crate::System::{FreeBsd, OpenBsd};
use crate::sockets::*;
use crate::{System, cases};
use libc::{EAGAIN, ECONNRESET, EFBIG, EPIPE, ETIMEDOUT, c_int};
use std::time::{Duration, Instant};

cases! {
    BOTH the_end_of_the_source;
    BOTH the_end_of_the_source_behind_data;
    BOTH the_maximum;
    BOTH the_maximum_leaves_the_rest_and_then_tells;
    BOTH a_maximum_while_running;
    BOTH the_error_is_told_once_by_each_call;
    OPENBSD the_idle_limit;
    OPENBSD the_idle_limit_counts_from_the_last_movement;
    FREEBSD the_time_limit_counts_from_the_beginning;
    BOTH splice_again_after_the_idle_limit;
    BOTH a_drain_that_was_shut_down;
    BOTH a_drain_that_is_shut_down_meanwhile;
    BOTH a_drain_whose_peer_resets;
    BOTH the_drains_pending_error;
    BOTH a_source_whose_peer_resets;
    BOTH a_source_that_was_reset_before;
    BOTH shutdown_of_the_sources_reading_side;
    BOTH shutdown_of_the_sources_writing_side;
    BOTH the_source_is_closed;
    BOTH the_drain_is_closed;
    OPENBSD errors_of_the_reverse_splice_are_not_its_own;
    OPENBSD a_loop;
    OPENBSD a_loop_of_many;
    FREEBSD a_loop_can_be_ended;
    OPENBSD peek_leaves_the_error;
    BOTH residue_is_read_first;
}

/// The error with which it ended, as each system tells it.
fn expect(system: System, openbsd: c_int) -> c_int {
    if system == OpenBsd { openbsd } else { 0 }
}

fn the_end_of_the_source(_: System) {
    let rig = Rig::spliced();
    rig.check(b"last words");
    shutdown(rig.feed, libc::SHUT_WR);
    rig.wait_end();
    assert_eq!(so_error(rig.source), 0);
    assert_eq!(read(rig.source, 9), Ok(vec![]));
    // Not propagated: that is for the program to do.
    assert_eq!(recv(rig.sink, 1, libc::MSG_DONTWAIT), Err(EAGAIN));
    send_all(rig.drain, b"more");
    assert_eq!(read_exactly(rig.sink, 4), b"more");
    assert_eq!(count(rig.source), Ok(10));
    assert!(unsplice(rig.source).is_err());
}

fn the_end_of_the_source_behind_data(_: System) {
    let rig = Rig::new();
    let bytes = pattern(3 << 20);
    let (feed, sent) = (rig.feed, bytes.clone());
    splice(rig.source, rig.drain).unwrap();
    let sender = std::thread::spawn(move || {
        send_all(feed, &sent);
        shutdown(feed, libc::SHUT_WR);
    });
    // The sink begins late.
    std::thread::sleep(Duration::from_millis(30));
    assert!(read_exactly(rig.sink, bytes.len()) == bytes);
    sender.join().unwrap();
    rig.wait_end();
    assert_eq!(count(rig.source), Ok(3 << 20));
}

fn the_maximum(system: System) {
    for max in [1, 1000, 65536, 3_000_000] {
        let rig = Rig::new();
        splice_max(rig.source, rig.drain, max).unwrap();
        let bytes = pattern(max as usize);
        let (feed, sent) = (rig.feed, bytes.clone());
        let sender = std::thread::spawn(move || send_all(feed, &sent));
        assert!(read_exactly(rig.sink, bytes.len()) == bytes);
        sender.join().unwrap();
        match system {
            OpenBsd => {
                rig.wait_end();
                assert_eq!(read(rig.source, 1), Err(EFBIG));
            }
            FreeBsd => eventually("the end", || !is_running(system, rig.source)),
        }
        assert_eq!(so_error(rig.source), 0);
        assert_eq!(count(rig.source), Ok(max));
    }
}

fn the_maximum_leaves_the_rest_and_then_tells(system: System) {
    let rig = Rig::new();
    splice_max(rig.source, rig.drain, 6).unwrap();
    send_all(rig.feed, b"headerbody");
    assert_eq!(read_exactly(rig.sink, 6), b"header");
    rig.wait_end();
    // As relayd reads: data first, then the error once.
    assert_eq!(read(rig.source, 2).unwrap(), b"bo");
    assert_eq!(read(rig.source, 9).unwrap(), b"dy");
    if system == OpenBsd {
        assert_eq!(read(rig.source, 9), Err(EFBIG));
    }
    assert_eq!(recv(rig.source, 9, libc::MSG_DONTWAIT), Err(EAGAIN));
    splice(rig.source, rig.drain).unwrap();
    rig.check(b"next");
}

fn a_maximum_while_running(_: System) {
    let rig = Rig::new();
    splice_max(rig.source, rig.drain, 10).unwrap();
    rig.check(b"12345");
    assert_eq!(poll(rig.source, libc::POLLIN, 30), 0);
    assert_eq!(count(rig.source), Ok(5));
    send_all(rig.feed, b"67890abc");
    assert_eq!(read_exactly(rig.sink, 5), b"67890");
    rig.wait_end();
    assert_eq!(read(rig.source, 9).unwrap(), b"abc");
}

fn ended_by_maximum(system: System) -> Rig {
    let rig = Rig::new();
    splice_max(rig.source, rig.drain, 1).unwrap();
    rig.check(b"1");
    eventually("the end", || !is_running(system, rig.source));
    rig
}

fn the_error_is_told_once_by_each_call(system: System) {
    if system == FreeBsd {
        let rig = ended_by_maximum(system);
        assert_eq!(so_error(rig.source), 0);
        assert_eq!(write(rig.source, b"x"), Ok(1));
        return;
    }
    let readers: [fn(c_int) -> Result<()>; 5] = [
        |fd| read(fd, 1).map(drop),
        |fd| recv(fd, 1, 0).map(drop),
        |fd| write(fd, b"x").map(drop),
        |fd| {
            // SAFETY: the byte lives through the call.
            check(unsafe { libc::send(fd, b"x".as_ptr().cast(), 1, 0) }).map(drop)
        },
        |fd| Err(so_error(fd)),
    ];
    for tell in readers {
        let rig = ended_by_maximum(system);
        assert_eq!(tell(rig.source), Err(EFBIG));
        assert_eq!(so_error(rig.source), 0);
        assert_eq!(recv(rig.source, 1, libc::MSG_DONTWAIT), Err(EAGAIN));
        assert_eq!(write(rig.source, b"x"), Ok(1));
    }
}

fn the_idle_limit(_: System) {
    let rig = Rig::new();
    let begun = Instant::now();
    splice_idle(rig.source, rig.drain, 100).unwrap();
    assert_eq!(read(rig.source, 1), Err(ETIMEDOUT));
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!(so_error(rig.source), 0);
    assert_eq!(count(rig.source), Ok(0));
}

fn the_idle_limit_counts_from_the_last_movement(_: System) {
    let rig = Rig::new();
    splice_idle(rig.source, rig.drain, 2000).unwrap();
    let begun = Instant::now();
    // Longer than the limit in all, with a generous distance from it in between.
    while begun.elapsed() < Duration::from_millis(2600) {
        rig.check(b"tick");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(poll(rig.source, libc::POLLIN, 0), 0);
    let last = Instant::now();
    assert_eq!(read(rig.source, 1), Err(ETIMEDOUT));
    assert!(last.elapsed() >= Duration::from_millis(1500));
}

fn the_time_limit_counts_from_the_beginning(system: System) {
    let rig = Rig::new();
    splice_idle(rig.source, rig.drain, 200).unwrap();
    eventually("the end", || {
        let _ = write(rig.feed, b"tick");
        !is_running(system, rig.source)
    });
    assert_eq!(so_error(rig.source), 0);
}

fn splice_again_after_the_idle_limit(system: System) {
    let rig = Rig::new();
    for _ in 0..3 {
        splice_idle(rig.source, rig.drain, 30).unwrap();
        match system {
            OpenBsd => assert_eq!(read(rig.source, 1), Err(ETIMEDOUT)),
            FreeBsd => {
                eventually("the end", || splice(rig.source, rig.drain).is_ok());
                unsplice(rig.source).unwrap();
            }
        }
    }
    splice(rig.source, rig.drain).unwrap();
    rig.check(b"alive");
}

fn a_drain_that_was_shut_down(system: System) {
    let rig = Rig::new();
    shutdown(rig.drain, libc::SHUT_WR);
    splice(rig.source, rig.drain).unwrap();
    let _ = write(rig.feed, b"too late");
    rig.wait_end();
    match expect(system, EPIPE) {
        0 => assert_eq!(read(rig.source, 99).unwrap(), b"too late"),
        errno => assert_eq!(so_error(rig.source), errno),
    }
}

fn a_drain_that_is_shut_down_meanwhile(system: System) {
    let rig = Rig::spliced();
    rig.check(b"before");
    shutdown(rig.drain, libc::SHUT_WR);
    eventually("the end", || !is_running(system, rig.source));
    assert_eq!(so_error(rig.source), expect(system, EPIPE));
    assert_eq!(count(rig.source), Ok(6));
}

fn a_drain_whose_peer_resets(system: System) {
    let rig = Rig::spliced();
    rig.check(b"before");
    reset(rig.sink);
    eventually("the end", || {
        let _ = write(rig.feed, b"x");
        !is_running(system, rig.source)
    });
    let error = so_error(rig.source);
    match system {
        OpenBsd => assert!(error == ECONNRESET || error == EPIPE, "{error}"),
        FreeBsd => assert_eq!(error, 0),
    }
}

fn the_drains_pending_error(system: System) {
    let rig = Rig::spliced();
    reset(rig.sink);
    eventually("the end", || !is_running(system, rig.source));
    assert_eq!(so_error(rig.source), expect(system, ECONNRESET));
    // It keeps its own on OpenBSD; on FreeBSD the failing send has taken it.
    assert_eq!(so_error(rig.drain), expect(system, ECONNRESET));
    assert_eq!(so_error(rig.drain), 0);
}

fn a_source_whose_peer_resets(_: System) {
    let rig = Rig::spliced();
    rig.check(b"before");
    reset(rig.feed);
    rig.wait_end();
    assert_eq!(so_error(rig.source), ECONNRESET);
    assert_eq!(so_error(rig.source), 0);
    // The drain is not touched.
    send_all(rig.drain, b"alive");
    assert_eq!(read_exactly(rig.sink, 5), b"alive");
}

fn a_source_that_was_reset_before(_: System) {
    let rig = Rig::new();
    reset(rig.feed);
    poll(rig.source, libc::POLLIN, -1);
    assert_eq!(splice(rig.source, rig.drain), Err(libc::ENOTCONN));
    assert_eq!(so_error(rig.source), ECONNRESET);
}

fn shutdown_of_the_sources_reading_side(_: System) {
    let rig = Rig::spliced();
    rig.check(b"before");
    shutdown(rig.source, libc::SHUT_RD);
    rig.wait_end();
    assert_eq!(so_error(rig.source), 0);
    assert_eq!(read(rig.source, 1), Ok(vec![]));
    assert!(unsplice(rig.source).is_err());
}

fn shutdown_of_the_sources_writing_side(system: System) {
    let rig = Rig::spliced();
    splice(rig.drain, rig.source).unwrap();
    shutdown(rig.source, libc::SHUT_WR);
    // The reverse splice ends.
    eventually("the end", || !is_running(system, rig.drain));
    assert_eq!(so_error(rig.drain), expect(system, EPIPE));
    rig.check(b"this way goes on");
}

fn the_source_is_closed(_: System) {
    let rig = Rig::spliced();
    rig.check(b"before");
    close(rig.source);
    assert_eq!(read(rig.feed, 1), Ok(vec![]));
    // The drain is free.
    let other = Rig::new();
    splice(other.source, rig.drain).unwrap();
    send_all(other.feed, b"other");
    assert_eq!(read_exactly(rig.sink, 5), b"other");
}

fn the_drain_is_closed(system: System) {
    let rig = Rig::spliced();
    rig.check(b"before");
    close(rig.drain);
    assert_eq!(read(rig.sink, 1), Ok(vec![]));
    assert!(unsplice(rig.source).is_err());
    let error = so_error(rig.source);
    assert!(error == 0 || (error == EPIPE && system == OpenBsd));
    assert_eq!(count(rig.source), Ok(6));
    send_all(rig.feed, b"for the source");
    assert_eq!(read_exactly(rig.source, 14), b"for the source");
}

fn errors_of_the_reverse_splice_are_not_its_own(system: System) {
    let rig = Rig::spliced();
    // The reverse splice ends with EFBIG, ETIMEDOUT pending on what is our drain.
    splice_max(rig.drain, rig.source, 1).unwrap();
    send_all(rig.sink, b"12");
    assert_eq!(read_exactly(rig.feed, 1), b"1");
    eventually("the end", || !is_running(system, rig.drain));
    rig.check(b"goes on");
    assert_eq!(read_exactly(rig.drain, 1), b"2");
    splice_idle(rig.drain, rig.source, 1).unwrap();
    eventually("the end", || !is_running(system, rig.drain));
    rig.check(b"goes on");
}

/// Splices that feed each other: what comes into one goes round.
fn ring(len: usize) -> Vec<(c_int, c_int)> {
    let ends: Vec<_> = (0..len).map(|_| tcp(false)).collect();
    // The far end of each connection feeds the near end of the next.
    for place in 0..len {
        splice(ends[place].1, ends[(place + 1) % len].0).unwrap();
    }
    ends
}

fn a_loop(_: System) {
    // Both ends of one connection echo.
    let (near, far) = tcp(false);
    splice(near, near).unwrap();
    send_all(far, b"round and round");
    poll(near, libc::POLLIN, 20);
    splice(far, far).unwrap();
    let ended = [near, far];
    let mut at = None;
    eventually("the end", || {
        at = ended.into_iter().find(|fd| poll(*fd, libc::POLLIN, 0) != 0);
        at.is_some()
    });
    let at = at.unwrap();
    assert_eq!(read_exactly(at, 15), b"round and round");
    assert_eq!(read(at, 1), Err(libc::ELOOP));
}

fn a_loop_of_many(_: System) {
    let ends = ring(3);
    // Into the stream of a source.
    send_all(ends[0].0, b"message");
    let mut at = None;
    eventually("the end", || {
        at = ends.iter().map(|end| end.1).find(|fd| poll(*fd, libc::POLLIN, 0) != 0);
        at.is_some()
    });
    let at = at.unwrap();
    let total: i64 = ends.iter().map(|end| count(end.1).unwrap()).sum();
    assert_eq!(total, 128 * 7);
    assert_eq!(read_exactly(at, 7), b"message");
    assert_eq!(so_error(at), libc::ELOOP);
}

fn a_loop_can_be_ended(_: System) {
    let ends = ring(2);
    send_all(ends[0].0, b"message");
    eventually("many rounds", || count(ends[0].1).unwrap() > 7 * 1000);
    unsplice(ends[0].1).unwrap();
    assert_eq!(read_exactly(ends[0].1, 7), b"message");
}

fn peek_leaves_the_error(system: System) {
    let rig = ended_by_maximum(system);
    assert_eq!(recv(rig.source, 1, libc::MSG_PEEK), Err(EFBIG));
    assert_eq!(recv(rig.source, 1, libc::MSG_PEEK), Err(EFBIG));
    assert_eq!(read(rig.source, 1), Err(EFBIG));
}

fn residue_is_read_first(_: System) {
    // A drain with little room whose peer reads a little now and then: whatever the
    // library holds at the end, nothing is lost and nothing is out of order.
    for round in 0..20usize {
        let rig = Rig::new();
        set_option(rig.drain, libc::SOL_SOCKET, libc::SO_SNDBUF, 4000 + round as c_int * 3000);
        let bytes = pattern(8 << 20);
        let (feed, sent) = (rig.feed, bytes.clone());
        let sender = std::thread::spawn(move || {
            send_all(feed, &sent);
            shutdown(feed, libc::SHUT_WR);
        });
        splice(rig.source, rig.drain).unwrap();
        let mut got = read_exactly(rig.sink, 100_000 * (round + 1));
        unsplice(rig.source).unwrap();
        let moved = count(rig.source).unwrap() as usize;
        shutdown(rig.drain, libc::SHUT_WR);
        got.extend(read_exactly(rig.sink, moved - got.len()));
        assert_eq!(read(rig.sink, 1), Ok(vec![]));
        got.extend(read_exactly(rig.source, bytes.len() - moved));
        assert!(got == bytes);
        sender.join().unwrap();
    }
}
