//! Bytes: all of them, once, in order, at every size and pace.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use libc::{EAGAIN, POLLIN, POLLOUT};

cases! {
    EVERY messages_of_every_size_both_ways;
    EVERY many_small_round_trips;
    EVERY random_sizes_both_ways_at_once;
    EVERY one_way_and_then_the_other;
    EVERY a_slow_reader;
    EVERY a_slow_writer;
    EVERY odd_pieces;
    EVERY pauses_between_bursts;
    EVERY nonblocking_reads_and_writes;
    EVERY a_read_takes_what_is_there;
    EVERY two_writes_are_read_as_one;
    EVERY nothing_in_and_nothing_out;
}

fn messages_of_every_size_both_ways(end: &mut End) {
    let sizes = (0..=20).flat_map(|log| [(1usize << log) - 1, 1 << log, (1 << log) + 1]);
    for size in sizes.filter(|size| *size > 0) {
        if end.near() {
            send_all(end.fd, &pattern(size));
            let answer = read_exactly(end.fd, size);
            end.saw("answer", digest(&answer));
        } else {
            let mut question = read_exactly(end.fd, size);
            end.saw("question", digest(&question));
            question.reverse();
            send_all(end.fd, &question);
        }
    }
    end.still_paired();
}

fn many_small_round_trips(end: &mut End) {
    let mut sizes = Numbers(42);
    let mut seen = Digest::new();
    for round in 0..3000 {
        let message = &pattern(300)[..1 + sizes.below(256)];
        let message: Vec<u8> = message.iter().map(|byte| byte ^ round as u8).collect();
        if end.near() {
            send_all(end.fd, &message);
            seen.add(&read_exactly(end.fd, message.len()));
        } else {
            seen.add(&read_exactly(end.fd, message.len()));
            send_all(end.fd, &message);
        }
    }
    end.saw("all", seen.name());
    end.still_paired();
}

/// Both ends write and read whenever they can.
fn random_sizes_both_ways_at_once(end: &mut End) {
    const BYTES: usize = 6_000_000;
    let bytes = pattern(BYTES);
    let mut sizes = Numbers(if end.near() { 7 } else { 77 });
    let mut got = Digest::new();
    let mut sent = 0;
    nonblocking(end.fd, true);
    while sent < BYTES || got.bytes() < BYTES {
        let wanted = if sent < BYTES { POLLIN | POLLOUT } else { POLLIN };
        let ready = poll(end.fd, wanted, WATCHDOG.as_millis() as i32);
        assert_ne!(ready, 0, "stalled at {sent} and {}", got.bytes());
        if ready & POLLOUT != 0 && sent < BYTES {
            let size = (1 + sizes.below(40_000)).min(BYTES - sent);
            match write(end.fd, &bytes[sent..sent + size]) {
                Ok(count) => sent += count,
                Err(errno) => assert_eq!(errno, EAGAIN),
            }
        }
        if ready & POLLIN != 0 {
            match read(end.fd, 1 + sizes.below(30_000)) {
                Ok(piece) => got.add(&piece),
                Err(errno) => assert_eq!(errno, EAGAIN),
            }
        }
    }
    end.saw("all", got.name());
}

fn one_way_and_then_the_other(end: &mut End) {
    const BYTES: usize = 8 << 20;
    let bytes = pattern(BYTES);
    for turn in 0..4 {
        if end.near() == (turn % 2 == 0) {
            send_all(end.fd, &bytes);
        } else {
            let digest = read_digest(end.fd, BYTES);
            end.saw("bulk", digest);
        }
    }
}

fn a_slow_reader(end: &mut End) {
    const BYTES: usize = 1_500_000;
    if end.near() {
        send_all(end.fd, &pattern(BYTES));
        shutdown(end.fd, libc::SHUT_WR);
    } else {
        let mut seen = Digest::new();
        let mut sizes = Numbers(3);
        loop {
            if sizes.below(8) == 0 {
                pause_ms(1);
            }
            let piece = read(end.fd, 1 + sizes.below(12_000)).unwrap();
            if piece.is_empty() {
                break;
            }
            seen.add(&piece);
        }
        end.saw("all", seen.name());
    }
}

fn a_slow_writer(end: &mut End) {
    const PIECES: usize = 60;
    if end.near() {
        for piece in 0..PIECES {
            send_all(end.fd, &pattern(1 + piece * 37));
            pause_ms(1);
        }
        shutdown(end.fd, libc::SHUT_WR);
    } else {
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
    }
}

fn odd_pieces(end: &mut End) {
    const BYTES: usize = 700_001;
    let bytes = pattern(BYTES);
    let mut sizes = Numbers(if end.near() { 9 } else { 10 });
    if end.near() {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let size = (1 + sizes.below(777)).min(rest.len());
            send_all(end.fd, &rest[..size]);
            rest = &rest[size..];
        }
        assert_eq!(read_exactly(end.fd, 1), b"k");
    } else {
        let mut seen = Digest::new();
        while seen.bytes() < BYTES {
            seen.add(&read(end.fd, (1 + sizes.below(1999)).min(BYTES - seen.bytes())).unwrap());
        }
        send_all(end.fd, b"k");
        end.saw("all", seen.name());
    }
}

/// Both ends sleep in between, so each burst begins with somebody asleep.
fn pauses_between_bursts(end: &mut End) {
    for burst in 0..25 {
        let size = 1 + burst * 997;
        if end.near() {
            pause_ms(2);
            send_all(end.fd, &pattern(size));
            send_all(end.fd, b"!");
            let answer = read_exactly(end.fd, 5);
            end.saw("answer", digest(&answer));
        } else {
            let bytes = read_exactly(end.fd, size + 1);
            end.saw("burst", digest(&bytes));
            pause_ms(2);
            send_all(end.fd, b"again");
        }
    }
}

fn nonblocking_reads_and_writes(end: &mut End) {
    nonblocking(end.fd, true);
    let nothing = read(end.fd, 10);
    end.saw("nothing", nothing);
    end.meet();
    if end.near() {
        let sent = write(end.fd, b"hello");
        end.saw("sent", sent);
        end.meet();
    } else {
        end.meet();
        await_queued(end.fd, 5);
        for _ in 0..3 {
            let piece = read(end.fd, 3);
            end.saw("piece", piece);
        }
    }
    end.meet();
    // Full, and then taken.
    if end.near() {
        let bytes = pattern(1 << 20);
        let mut sent = 0;
        while let Ok(count) = write(end.fd, &bytes[..100_000]) {
            sent += count;
        }
        let full = write(end.fd, b"more");
        end.saw("full", full.map(drop).err() == Some(EAGAIN) || sent > 0);
        end.tell(sent as u64 + full.unwrap_or(0) as u64);
        end.meet();
        await_events(end.fd, POLLOUT);
        let sent = write(end.fd, b"room");
        end.saw("room", sent);
    } else {
        let bytes = end.hear() as usize;
        nonblocking(end.fd, false);
        let mut got = 0;
        while got < bytes {
            got += read(end.fd, bytes - got).unwrap().len();
        }
        end.meet();
        let rest = read_exactly(end.fd, 4);
        end.saw("rest", digest(&rest));
    }
}

fn a_read_takes_what_is_there(end: &mut End) {
    for size in [1usize, 10, 1000, 3000] {
        if end.near() {
            send_all(end.fd, &pattern(size));
            end.meet();
            end.meet();
        } else {
            end.meet();
            await_queued(end.fd, size);
            let found = read(end.fd, 10_000).unwrap();
            end.saw("found", digest(&found));
            end.meet();
        }
    }
}

fn two_writes_are_read_as_one(end: &mut End) {
    if end.near() {
        for piece in ["one ", "and two ", "and three"] {
            send_all(end.fd, piece.as_bytes());
        }
        end.meet();
    } else {
        end.meet();
        await_queued(end.fd, 21);
        let found = read(end.fd, 100);
        end.saw("found", found);
    }
}

fn nothing_in_and_nothing_out(end: &mut End) {
    let sent = write(end.fd, b"");
    end.saw("written", sent);
    let sent = send(end.fd, b"", 0);
    end.saw("sent", sent);
    let got = read(end.fd, 0);
    end.saw("read", got);
    // A receive of no bytes waits for some, unlike a read.
    let got = recv(end.fd, 0, libc::MSG_DONTWAIT);
    end.saw("received of nothing", got);
    end.meet();
    send_all(end.fd, b"x");
    end.meet();
    await_queued(end.fd, 1);
    let got = recv(end.fd, 0, 0);
    end.saw("received", got);
    let got = read(end.fd, 5);
    end.saw("and then", got);
}
