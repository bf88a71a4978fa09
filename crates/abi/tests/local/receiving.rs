//! What the flags and options of a receive or a send change.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use crate::waits::*;
use libc::{
    EAGAIN, EPOLLIN, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, POLLIN, POLLOUT, SO_RCVLOWAT,
    SO_RCVTIMEO, SO_SNDTIMEO, SOL_SOCKET,
};
use std::time::{Duration, Instant};

cases! {
    EVERY peek_takes_nothing;
    EVERY peek_sees_what_comes_later_too;
    EVERY peek_of_much;
    EVERY peek_for_all;
    EVERY peek_at_the_end;
    EVERY wait_for_all;
    EVERY wait_for_all_of_much;
    EVERY wait_for_all_until_the_end;
    EVERY wait_for_all_without_waiting;
    EVERY truncate_throws_away;
    EVERY truncate_while_peeking;
    EVERY do_not_wait;
    EVERY a_receive_with_a_time_limit;
    EVERY a_receive_for_all_with_a_time_limit;
    EVERY a_send_with_a_time_limit;
    EVERY a_low_water_mark_holds_back_a_receive;
    EVERY a_low_water_mark_holds_back_readiness;
    EVERY the_queue_is_counted;
    EVERY what_is_unsent_is_counted;
    EVERY urgent_data_stays_urgent;
    EVERY urgent_data_inline;
    EVERY more_is_to_come;
}

/// The near end sends, the far end finds so much queued.
fn deliver(end: &End, bytes: &[u8], queued: usize) {
    if end.near() {
        send_all(end.fd, bytes);
        end.meet();
    } else {
        end.meet();
        await_queued(end.fd, queued);
    }
}

fn peek_takes_nothing(end: &mut End) {
    deliver(end, b"0123456789", 10);
    if end.far() {
        for len in [4, 10, 100, 1] {
            let seen = recv(end.fd, len, MSG_PEEK);
            end.saw("peek", seen);
        }
        end.saw("queued", queued(end.fd));
        let got = read(end.fd, 5);
        end.saw("read", got);
        let seen = recv(end.fd, 100, MSG_PEEK);
        end.saw("peek", seen);
        let got = read(end.fd, 100);
        end.saw("read", got);
        let seen = recv(end.fd, 100, MSG_PEEK | MSG_DONTWAIT);
        end.saw("peek of nothing", seen);
    }
}

fn peek_sees_what_comes_later_too(end: &mut End) {
    for round in 1..=5 {
        deliver(end, b"a piece, ", 9 * round);
        if end.far() {
            for _ in 0..2 {
                let seen = recv(end.fd, 100, MSG_PEEK).unwrap();
                end.saw("peek", digest(&seen));
            }
        }
        end.meet();
    }
    if end.far() {
        let all = read(end.fd, 100).unwrap();
        end.saw("read", digest(&all));
    }
}

fn peek_of_much(end: &mut End) {
    const BYTES: usize = 60_000;
    deliver(end, &pattern(BYTES), BYTES);
    if end.far() {
        for len in [1, 4095, 4096, 4097, 20_000, BYTES, BYTES + 1000] {
            let seen = recv(end.fd, len, MSG_PEEK).unwrap();
            end.saw("peek", digest(&seen));
        }
        let got = read_digest(end.fd, BYTES);
        end.saw("read", got);
    }
}

/// MSG_PEEK with MSG_WAITALL waits too.
fn peek_for_all(end: &mut End) {
    deliver(end, b"half", 4);
    if end.near() {
        pause_ms(30);
        send_all(end.fd, b" and half");
    } else {
        let seen = recv(end.fd, 13, MSG_PEEK | MSG_WAITALL);
        end.saw("peek", seen);
        let got = read(end.fd, 100);
        end.saw("read", got);
    }
}

fn peek_at_the_end(end: &mut End) {
    deliver(end, b"last", 4);
    if end.near() {
        shutdown(end.fd, libc::SHUT_WR);
        end.meet();
    } else {
        end.meet();
        await_events(end.fd, libc::POLLRDHUP);
        for _ in 0..2 {
            let seen = recv(end.fd, 10, MSG_PEEK | MSG_WAITALL);
            end.saw("peek", seen);
        }
        let got = read(end.fd, 10);
        end.saw("read", got);
        for flags in [MSG_PEEK, MSG_PEEK, 0, 0] {
            let got = recv(end.fd, 10, flags);
            end.saw("the end", got);
        }
    }
}

fn wait_for_all(end: &mut End) {
    if end.near() {
        for piece in [b"12", b"34", b"56", b"78"] {
            send_all(end.fd, piece);
            pause_ms(10);
        }
    } else {
        let got = recv(end.fd, 7, MSG_WAITALL);
        end.saw("all", got);
        let got = recv(end.fd, 1, MSG_WAITALL);
        end.saw("the rest", got);
    }
}

fn wait_for_all_of_much(end: &mut End) {
    const BYTES: usize = 3_000_000;
    if end.near() {
        send_all(end.fd, &pattern(BYTES));
    } else {
        let got = recv(end.fd, BYTES, MSG_WAITALL).unwrap();
        end.saw("all", digest(&got));
    }
}

fn wait_for_all_until_the_end(end: &mut End) {
    if end.near() {
        send_all(end.fd, &pattern(5000));
        pause_ms(20);
        shutdown(end.fd, libc::SHUT_WR);
    } else {
        let got = recv(end.fd, 8000, MSG_WAITALL).unwrap();
        end.saw("until the end", digest(&got));
        let got = recv(end.fd, 10, MSG_WAITALL);
        end.saw("behind it", got);
    }
}

fn wait_for_all_without_waiting(end: &mut End) {
    deliver(end, b"12345", 5);
    if end.far() {
        let got = recv(end.fd, 10, MSG_WAITALL | MSG_DONTWAIT);
        end.saw("some", got);
        let got = recv(end.fd, 10, MSG_WAITALL | MSG_DONTWAIT);
        end.saw("none", got);
    }
}

fn truncate_throws_away(end: &mut End) {
    deliver(end, b"0123456789", 10);
    if end.far() {
        let mut buffer = *b"untouched";
        // SAFETY: the buffer lives through the call; a null one is never written to.
        let (one, other) = unsafe {
            let at = buffer.as_mut_ptr().cast();
            let one = libc::recv(end.fd, at, 4, MSG_TRUNC);
            (one, libc::recv(end.fd, std::ptr::null_mut(), 3, MSG_TRUNC))
        };
        end.saw("thrown away", (one, other, buffer.escape_ascii().to_string()));
        let got = read(end.fd, 100);
        end.saw("read", got);
    }
    end.meet();
    // More than one piece of the network's, and more than there is.
    deliver(end, &pattern(30_000), 30_000);
    if end.far() {
        // SAFETY: a null buffer is never written to.
        let thrown = unsafe { libc::recv(end.fd, std::ptr::null_mut(), 29_000, MSG_TRUNC) };
        end.saw("thrown away", thrown);
        let rest = read(end.fd, 5000).unwrap();
        end.saw("rest", digest(&rest));
        let at = std::ptr::null_mut();
        // SAFETY: as above.
        let thrown = unsafe { libc::recv(end.fd, at, 10, MSG_TRUNC | MSG_DONTWAIT) };
        end.saw("nothing", (thrown, errno() == EAGAIN));
    }
}

fn truncate_while_peeking(end: &mut End) {
    deliver(end, b"0123456789", 10);
    if end.far() {
        let at = std::ptr::null_mut();
        // SAFETY: a null buffer is never written to.
        let seen = unsafe { libc::recv(end.fd, at, 100, MSG_TRUNC | MSG_PEEK) };
        end.saw("seen", seen);
        let got = read(end.fd, 100);
        end.saw("read", got);
    }
}

fn do_not_wait(end: &mut End) {
    for flags in [MSG_DONTWAIT, MSG_DONTWAIT | MSG_PEEK, MSG_DONTWAIT | MSG_WAITALL] {
        let got = recv(end.fd, 10, flags);
        end.saw("nothing", got);
    }
    end.meet();
    if end.near() {
        let sent = stuff_for_good(end.fd);
        let full = send(end.fd, b"x", MSG_DONTWAIT);
        end.saw("full", full);
        end.tell(sent as u64);
        end.meet();
        await_events(end.fd, POLLOUT);
        let room = send(end.fd, b"x", MSG_DONTWAIT);
        end.saw("room", room);
    } else {
        let bytes = end.hear() as usize;
        let first = read_digest(end.fd, bytes);
        let mut expected = Digest::new();
        expected.add(&vec![b'x'; bytes]);
        end.saw("all of it", first == expected.name());
        end.meet();
        let rest = read_exactly(end.fd, 1);
        end.saw("rest", rest);
    }
}

/// Something with a time limit: what came of it, and whether it waited.
fn timed<T>(ms: u64, call: impl FnOnce() -> T) -> (T, bool) {
    let start = Instant::now();
    let found = call();
    // The kernel counts in ticks.
    (found, start.elapsed() + Duration::from_millis(12) >= Duration::from_millis(ms))
}

fn a_receive_with_a_time_limit(end: &mut End) {
    set_value(end.fd, SOL_SOCKET, SO_RCVTIMEO, &milliseconds(60)).unwrap();
    for flags in [0, MSG_PEEK, MSG_WAITALL] {
        let found = timed(60, || recv(end.fd, 10, flags));
        end.saw("nothing, and it waited", found);
    }
    let found = timed(60, || read(end.fd, 10));
    end.saw("nothing, and it waited", found);
    end.meet();
    set_value(end.fd, SOL_SOCKET, SO_RCVTIMEO, &milliseconds(15_000)).unwrap();
    if end.near() {
        pause_ms(20);
        send_all(end.fd, b"in time");
    } else {
        let got = read(end.fd, 10);
        end.saw("in time", got);
    }
}

fn a_receive_for_all_with_a_time_limit(end: &mut End) {
    deliver(end, b"12345", 5);
    if end.far() {
        set_value(end.fd, SOL_SOCKET, SO_RCVTIMEO, &milliseconds(50)).unwrap();
        let found = timed(50, || recv(end.fd, 10, MSG_WAITALL));
        end.saw("some, and it waited", found);
    }
    end.meet();
}

fn a_send_with_a_time_limit(end: &mut End) {
    if end.near() {
        set_value(end.fd, SOL_SOCKET, SO_SNDTIMEO, &milliseconds(50)).unwrap();
        let mut sent = stuff_for_good(end.fd);
        let found = timed(50, || write(end.fd, b"more"));
        end.saw("full, and it waited", found);
        // Part of it may go in while the peer reads; none is lost.
        end.tell(0);
        let bytes = vec![b'y'; 3_000_000];
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match write(end.fd, rest) {
                Ok(count) => rest = &rest[count..],
                Err(errno) => assert_eq!(errno, EAGAIN),
            }
        }
        sent += bytes.len();
        shutdown(end.fd, libc::SHUT_WR);
        end.tell(sent as u64);
    } else {
        end.hear();
        let got = read_to_end(end.fd).unwrap();
        let sent = end.hear() as usize;
        end.saw("all of it", sent == got.bytes());
    }
}

fn a_low_water_mark_holds_back_a_receive(end: &mut End) {
    if end.far() {
        set_option(end.fd, SOL_SOCKET, SO_RCVLOWAT, 100);
    }
    deliver(end, &pattern(50), 50);
    if end.near() {
        // A reader that has taken some is woken when as much as the mark is queued again.
        pause_ms(40);
        send_all(end.fd, &pattern(100));
        end.meet();
        send_all(end.fd, &pattern(20));
        end.meet();
    } else {
        let got = read(end.fd, 1000).unwrap();
        end.saw("both", digest(&got));
        end.meet();
        end.meet();
        await_queued(end.fd, 20);
        let got = recv(end.fd, 1000, MSG_DONTWAIT).unwrap();
        end.saw("below the mark, not waiting", digest(&got));
        end.saw("mark", option_of(end.fd, SOL_SOCKET, SO_RCVLOWAT));
    }
}

fn a_low_water_mark_holds_back_readiness(end: &mut End) {
    let epoll = epoll();
    if end.far() {
        set_option(end.fd, SOL_SOCKET, SO_RCVLOWAT, 100);
        add(epoll, end.fd, EPOLLIN, 3);
    }
    deliver(end, &pattern(50), 50);
    if end.far() {
        end.saw("poll below", poll(end.fd, POLLIN, 40));
        end.saw("epoll below", wait(epoll, 40));
        end.saw("select below", select(end.fd, 20));
    }
    end.meet();
    deliver(end, &pattern(50), 100);
    if end.far() {
        end.saw("poll at", poll(end.fd, POLLIN, 10_000));
        end.saw("epoll at", wait(epoll, 10_000));
        end.saw("select at", select(end.fd, 10_000));
        // Lowered again: what is there is enough.
        read_exactly(end.fd, 50);
        end.saw("poll below", poll(end.fd, POLLIN, 20));
        set_option(end.fd, SOL_SOCKET, SO_RCVLOWAT, 1);
        end.saw("poll lowered", poll(end.fd, POLLIN, 10_000));
    }
    end.meet();
    if end.far() {
        set_option(end.fd, SOL_SOCKET, SO_RCVLOWAT, 100);
        end.meet();
        // The end is worth telling whatever the mark.
        end.saw("epoll at the end", wait(epoll, 10_000));
        let rest = read_to_end(end.fd).unwrap();
        end.saw("rest", rest.name());
    } else {
        end.meet();
        shutdown(end.fd, libc::SHUT_WR);
    }
}

fn the_queue_is_counted(end: &mut End) {
    end.saw("nothing", queued(end.fd));
    end.meet();
    let mut total = 0;
    for size in [1usize, 99, 4000, 30_000] {
        total += size;
        deliver(end, &pattern(size), total);
        if end.far() {
            end.saw("queued", queued(end.fd));
        }
        end.meet();
    }
    if end.far() {
        for len in [1, 1000, 20_000] {
            read_exactly(end.fd, len);
            end.saw("left", queued(end.fd));
        }
        end.meet();
        await_events(end.fd, libc::POLLRDHUP);
        end.saw("left at the end", queued(end.fd));
        let rest = read_to_end(end.fd).unwrap();
        end.saw("rest", rest.name());
        end.saw("behind it", queued(end.fd));
    } else {
        shutdown(end.fd, libc::SHUT_WR);
        end.meet();
    }
}

fn unsent(fd: libc::c_int) -> libc::c_int {
    let mut count: libc::c_int = -1;
    // SAFETY: the count lives through the call.
    assert_eq!(unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut count) }, 0);
    count
}

fn what_is_unsent_is_counted(end: &mut End) {
    if end.near() {
        eventually("all acknowledged", || unsent(end.fd) == 0);
        send_all(end.fd, b"few");
        eventually("all acknowledged", || unsent(end.fd) == 0);
        let bytes = stuff_for_good(end.fd);
        end.saw("some unsent", unsent(end.fd) > 0);
        end.tell(bytes as u64 + 3);
        eventually("all acknowledged", || unsent(end.fd) == 0);
        end.saw("none unsent", unsent(end.fd));
    } else {
        let bytes = end.hear() as usize;
        read_digest(end.fd, bytes);
    }
    end.meet();
}

fn urgent_data_stays_urgent(end: &mut End) {
    if end.near() {
        send_all(end.fd, b"before");
        let sent = send(end.fd, b"!", libc::MSG_OOB);
        end.saw("sent", sent);
        send_all(end.fd, b"behind");
        end.meet();
    } else {
        end.meet();
        await_events(end.fd, libc::POLLPRI);
        let urgent = recv(end.fd, 10, libc::MSG_OOB);
        end.saw("urgent", urgent);
        let again = recv(end.fd, 10, libc::MSG_OOB);
        end.saw("again", again);
        // A read stops at the mark.
        for _ in 0..2 {
            let got = read(end.fd, 100);
            end.saw("read", got);
        }
    }
    end.meet();
    // And the connection goes on.
    if end.near() {
        send_all(end.fd, b"more");
        let answer = read_exactly(end.fd, 4);
        end.saw("answer", answer);
    } else {
        let got = read_exactly(end.fd, 4);
        send_all(end.fd, &got);
    }
}

fn urgent_data_inline(end: &mut End) {
    if end.far() {
        set_option(end.fd, SOL_SOCKET, libc::SO_OOBINLINE, 1);
    }
    end.meet();
    if end.near() {
        send_all(end.fd, b"before");
        let sent = send(end.fd, b"!", libc::MSG_OOB);
        end.saw("sent", sent);
        send_all(end.fd, b"behind");
        shutdown(end.fd, libc::SHUT_WR);
    } else {
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
    }
}

fn more_is_to_come(end: &mut End) {
    if end.near() {
        send(end.fd, b"more ", libc::MSG_MORE).unwrap();
        send(end.fd, b"to come ", libc::MSG_MORE).unwrap();
        send(end.fd, b"is here", 0).unwrap();
        // Alone it comes too, a little later.
        end.meet();
        send(end.fd, b"alone", libc::MSG_MORE).unwrap();
    } else {
        let got = read_exactly(end.fd, 20);
        end.saw("together", digest(&got));
        end.meet();
        let got = read_exactly(end.fd, 5);
        end.saw("alone", digest(&got));
    }
}
