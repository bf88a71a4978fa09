//! epoll by edges: when one is told, and loops that rest on every edge coming.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use crate::epolls::{SOON, arrives, registered};
use crate::waits::*;
use libc::{EAGAIN, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP};

cases! {
    EVERY an_edge_is_told_once;
    EVERY an_edge_for_each_arrival;
    EVERY an_edge_behind_the_last_of_the_bytes;
    EVERY a_reader_by_edges_gets_everything;
    EVERY a_writer_by_edges_sends_everything;
    EVERY both_by_edges;
    EVERY an_edge_of_room;
    EVERY an_edge_of_the_end;
    EVERY an_edge_of_a_reset;
}

fn an_edge_is_told_once(end: &mut End) {
    let set = registered(end, EPOLLIN | EPOLLET);
    end.saw("nothing", wait(set, 20));
    end.meet();
    arrives(end, b"12345", 5);
    if end.far() {
        end.saw("edge", wait(set, SOON));
        end.saw("told", wait(set, 20));
        read_exactly(end.fd, 2);
        end.saw("told", wait(set, 20));
        read_exactly(end.fd, 3);
        end.saw("empty", recv(end.fd, 1, libc::MSG_DONTWAIT));
        end.saw("told", wait(set, 20));
    }
    end.meet();
    arrives(end, b"6", 1);
    if end.far() {
        end.saw("edge", wait(set, SOON));
        end.saw("told", wait(set, 20));
    }
}

/// Also while earlier bytes are still unread.
fn an_edge_for_each_arrival(end: &mut End) {
    let set = registered(end, EPOLLIN | EPOLLET);
    end.meet();
    for round in 1..=6 {
        arrives(end, b"xy", 2 * round);
        if end.far() {
            end.saw("edge", wait(set, SOON));
            end.saw("told", wait(set, 5));
        }
        end.meet();
    }
}

/// A reader that knows it has all does not ask for EAGAIN: a short read is enough.
fn an_edge_behind_the_last_of_the_bytes(end: &mut End) {
    let set = registered(end, EPOLLIN | EPOLLET);
    end.meet();
    for round in 0..20 {
        if end.near() {
            send_all(end.fd, &pattern(100 + round));
            assert_eq!(read_exactly(end.fd, 1), b"k");
        } else {
            let found = wait(set, SOON);
            assert_eq!(found.len(), 1, "stalled");
            let got = read(end.fd, 1000).unwrap();
            end.saw("short", digest(&got));
            send_all(end.fd, b"k");
        }
    }
}

fn a_reader_by_edges_gets_everything(end: &mut End) {
    const BYTES: usize = 3_000_000;
    if end.near() {
        let mut sizes = Numbers(5);
        let bytes = pattern(BYTES);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let size = (1 + sizes.below(20_000)).min(rest.len());
            send_all(end.fd, &rest[..size]);
            rest = &rest[size..];
            if sizes.below(16) == 0 {
                pause_ms(1);
            }
        }
        shutdown(end.fd, libc::SHUT_WR);
        return;
    }
    let set = registered(end, EPOLLIN | EPOLLET | EPOLLRDHUP);
    nonblocking(end.fd, true);
    let mut seen = Digest::new();
    loop {
        assert_ne!(wait(set, SOON).len(), 0, "stalled at {}", seen.bytes());
        let over = loop {
            match read(end.fd, 9000) {
                Ok(piece) if piece.is_empty() => break true,
                Ok(piece) => seen.add(&piece),
                Err(errno) => {
                    assert_eq!(errno, EAGAIN);
                    break false;
                }
            }
        };
        if over {
            break;
        }
    }
    end.saw("all", seen.name());
}

fn a_writer_by_edges_sends_everything(end: &mut End) {
    const BYTES: usize = 6_000_000;
    if end.far() {
        let mut seen = Digest::new();
        while seen.bytes() < BYTES {
            seen.add(&read(end.fd, 50_000).unwrap());
            if seen.bytes().is_multiple_of(7) {
                pause_ms(1);
            }
        }
        end.saw("all", seen.name());
        return;
    }
    let set = registered(end, EPOLLOUT | EPOLLET);
    nonblocking(end.fd, true);
    let bytes = pattern(BYTES);
    let mut sent = 0;
    while sent < BYTES {
        assert_ne!(wait(set, SOON).len(), 0, "stalled at {sent}");
        while sent < BYTES {
            match write(end.fd, &bytes[sent..(sent + 30_000).min(BYTES)]) {
                Ok(count) => sent += count,
                Err(errno) => {
                    assert_eq!(errno, EAGAIN);
                    break;
                }
            }
        }
    }
}

fn both_by_edges(end: &mut End) {
    const BYTES: usize = 2_000_000;
    let set = registered(end, EPOLLIN | EPOLLOUT | EPOLLET);
    nonblocking(end.fd, true);
    let bytes = pattern(BYTES);
    let (mut sent, mut seen) = (0, Digest::new());
    while sent < BYTES || seen.bytes() < BYTES {
        assert_ne!(wait(set, SOON).len(), 0, "stalled at {sent}, {}", seen.bytes());
        while sent < BYTES {
            match write(end.fd, &bytes[sent..(sent + 10_000).min(BYTES)]) {
                Ok(count) => sent += count,
                Err(errno) => {
                    assert_eq!(errno, EAGAIN);
                    break;
                }
            }
        }
        while seen.bytes() < BYTES {
            match read(end.fd, 7000) {
                Ok(piece) => seen.add(&piece),
                Err(errno) => {
                    assert_eq!(errno, EAGAIN);
                    break;
                }
            }
        }
    }
    end.saw("all", seen.name());
}

fn an_edge_of_room(end: &mut End) {
    if end.near() {
        let set = registered(end, EPOLLOUT | EPOLLET);
        end.saw("room", wait(set, SOON));
        let bytes = stuff_for_good(end.fd);
        wait(set, 0);
        end.saw("full", wait(set, 20));
        end.tell(bytes as u64);
        end.saw("room", wait(set, SOON));
        let sent = write(end.fd, b"x");
        end.saw("sent", sent);
    } else {
        let bytes = end.hear() as usize;
        read_digest(end.fd, bytes);
        let rest = read_exactly(end.fd, 1);
        end.saw("rest", rest);
    }
}

fn an_edge_of_the_end(end: &mut End) {
    let set = registered(end, EPOLLIN | EPOLLRDHUP | EPOLLET);
    end.meet();
    if end.near() {
        send_all(end.fd, b"last");
        end.meet();
        end.meet();
        shutdown(end.fd, libc::SHUT_WR);
    } else {
        end.meet();
        end.saw("bytes", wait(set, SOON));
        end.meet();
        end.saw("end", wait(set, SOON));
        let rest = read_to_end(end.fd).unwrap();
        end.saw("rest", rest.name());
        end.saw("told", wait(set, 20));
    }
}

fn an_edge_of_a_reset(end: &mut End) {
    let set = registered(end, EPOLLIN | EPOLLRDHUP | EPOLLET);
    end.meet();
    if end.near() {
        reset(end.fd);
    } else {
        await_reset(end.fd);
        end.saw("reset", wait(set, SOON));
        // The kernel wakes for the state and again for the error: one edge or two.
        wait(set, 20);
        end.saw("told", wait(set, 20));
        let got = read(end.fd, 1);
        end.saw("read", got);
    }
}
