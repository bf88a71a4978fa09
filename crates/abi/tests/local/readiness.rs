//! What poll, select and epoll say of a connection in each of its states, when they wake and
//! when they do not.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use crate::waits::*;
use libc::{
    EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, POLLIN, POLLOUT, POLLPRI, POLLRDHUP, c_int, c_short,
};
use std::time::{Duration, Instant};

cases! {
    EVERY the_states_of_a_connection;
    EVERY both_directions_ended;
    EVERY a_reset_is_an_error_and_a_hangup;
    EVERY a_full_connection_is_not_writable;
    EVERY every_waiter_is_woken_by_bytes;
    EVERY every_waiter_is_woken_by_the_end;
    EVERY every_waiter_is_woken_by_a_reset;
    EVERY every_waiter_is_woken_by_room;
    EVERY every_waiter_times_out;
    EVERY a_poll_that_asks_for_nothing;
    EVERY many_descriptors_in_a_poll;
    EVERY readiness_lasts_until_it_is_taken;
    EVERY a_loop_of_poll_and_nonblocking_calls;
    EVERY a_loop_of_select_and_blocking_calls;
}

const ALL: c_short = POLLIN | POLLOUT | POLLPRI | POLLRDHUP;

/// What every call says of a descriptor now.
fn say(end: &mut End, state: &str) {
    let polled = poll(end.fd, ALL, 0);
    let epoll = epoll();
    add(epoll, end.fd, EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP, 5);
    let found = wait(epoll, 0);
    close(epoll);
    let edged = crate::waits::epoll();
    add(edged, end.fd, EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | libc::EPOLLET, 5);
    let edge = wait(edged, 0);
    close(edged);
    end.saw(state, format!("poll {polled:#x}, epoll {found:x?}, edge {edge:x?}"));
    let sets = selected(end.fd, 0);
    end.saw(state, format!("select: read, write, except {sets:?}"));
}

/// select for everything: readable, writable, exceptional.
fn selected(fd: c_int, ms: u64) -> [bool; 3] {
    // SAFETY: zeroes are empty sets; sets and time live through the calls.
    unsafe {
        let mut sets: [libc::fd_set; 3] = std::mem::zeroed();
        for set in &mut sets {
            libc::FD_SET(fd, set);
        }
        let [r, w, x] = &mut sets;
        let mut time = milliseconds(ms);
        let found = libc::select(fd + 1, r, w, x, &raw mut time);
        let set = sets.map(|set| libc::FD_ISSET(fd, &raw const set));
        assert_eq!(found as usize, set.iter().filter(|is_set| **is_set).count());
        set
    }
}

fn the_states_of_a_connection(end: &mut End) {
    say(end, "idle");
    end.meet();
    if end.near() {
        send_all(end.fd, b"some");
        end.meet();
        end.meet();
        shutdown(end.fd, libc::SHUT_WR);
        end.meet();
        say(end, "has ended its direction");
    } else {
        end.meet();
        await_queued(end.fd, 4);
        say(end, "bytes");
        read_exactly(end.fd, 2);
        say(end, "fewer bytes");
        read_exactly(end.fd, 2);
        say(end, "idle again");
        end.meet();
        end.meet();
        await_events(end.fd, POLLRDHUP);
        say(end, "the peer has ended");
        assert_eq!(read(end.fd, 1), Ok(vec![]));
        say(end, "the end was read");
    }
}

fn both_directions_ended(end: &mut End) {
    if end.near() {
        send_all(end.fd, b"last");
    }
    shutdown(end.fd, libc::SHUT_WR);
    await_events(end.fd, libc::POLLHUP);
    say(end, "both ended");
    if end.far() {
        let rest = read_to_end(end.fd).unwrap();
        end.saw("rest", rest.name());
    }
    say(end, "all was read");
}

fn a_reset_is_an_error_and_a_hangup(end: &mut End) {
    if end.near() {
        reset(end.fd);
    } else {
        await_reset(end.fd);
        say(end, "reset");
        end.saw("error", so_error(end.fd));
        say(end, "the error was taken");
        let got = read(end.fd, 1);
        end.saw("read", got);
        let sent = send(end.fd, b"x", libc::MSG_NOSIGNAL);
        end.saw("sent", sent);
    }
}

fn a_full_connection_is_not_writable(end: &mut End) {
    if end.near() {
        let bytes = stuff_for_good(end.fd);
        say(end, "full");
        end.saw("poll waits", poll(end.fd, POLLOUT, 50));
        end.tell(bytes as u64);
        await_events(end.fd, POLLOUT);
        end.meet();
        say(end, "room");
        let sent = write(end.fd, b"and more");
        end.saw("sent", sent);
    } else {
        let bytes = end.hear() as usize;
        read_digest(end.fd, bytes);
        end.meet();
        let rest = read_exactly(end.fd, 8);
        end.saw("rest", digest(&rest));
    }
}

fn every_waiter_is_woken_by_bytes(end: &mut End) {
    for (name, waits) in waiters() {
        for _ in 0..5 {
            if end.near() {
                end.meet();
                pause_ms(5);
                send_all(end.fd, name.as_bytes());
                end.meet();
            } else {
                end.meet();
                end.saw(name, waits(end.fd, 20_000));
                let got = read_exactly(end.fd, name.len());
                end.saw("got", digest(&got));
                end.meet();
            }
        }
    }
}

fn every_waiter_is_woken_by_the_end(end: &mut End) {
    for (name, waits) in waiters() {
        let fd = end.another();
        end.warm(fd);
        if end.near() {
            end.meet();
            pause_ms(15);
            shutdown(fd, libc::SHUT_WR);
        } else {
            end.meet();
            end.saw(name, waits(fd, 20_000));
            let got = read(fd, 1);
            end.saw("got", got);
        }
        end.meet();
        close(fd);
    }
}

fn every_waiter_is_woken_by_a_reset(end: &mut End) {
    for (name, waits) in waiters() {
        let fd = end.another();
        end.warm(fd);
        if end.near() {
            end.meet();
            pause_ms(15);
            reset(fd);
        } else {
            end.meet();
            end.saw(name, waits(fd, 20_000));
            let got = read(fd, 1);
            end.saw("got", got);
            close(fd);
        }
    }
}

fn every_waiter_is_woken_by_room(end: &mut End) {
    let writable: [(&str, Waiter); 4] = [
        ("poll", |fd, ms| poll(fd, POLLOUT, ms as c_int) == POLLOUT),
        ("select", |fd, ms| selected_for_writing(fd, ms)),
        ("epoll level", |fd, ms| epoll_for_writing(fd, ms, EPOLLOUT)),
        ("epoll edge", |fd, ms| epoll_for_writing(fd, ms, EPOLLOUT | libc::EPOLLET)),
    ];
    for (name, waits) in writable {
        if end.near() {
            let bytes = stuff_for_good(end.fd);
            end.tell(bytes as u64);
            end.saw(name, waits(end.fd, 20_000));
            end.meet();
        } else {
            let bytes = end.hear() as usize;
            pause_ms(15);
            read_digest(end.fd, bytes);
            end.meet();
        }
    }
}

fn selected_for_writing(fd: c_int, ms: i64) -> bool {
    // SAFETY: zeroes are an empty set; set and time live through the calls.
    unsafe {
        let mut set: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(fd, &raw mut set);
        let mut time = milliseconds(ms as u64);
        let null = std::ptr::null_mut();
        libc::select(fd + 1, null, &raw mut set, null, &raw mut time) == 1
    }
}

fn epoll_for_writing(fd: c_int, ms: i64, events: c_int) -> bool {
    let epoll = epoll();
    add(epoll, fd, events, 1);
    let found = wait(epoll, ms as c_int);
    close(epoll);
    found == [(EPOLLOUT as u32, 1)]
}

fn every_waiter_times_out(end: &mut End) {
    for (name, waits) in waiters() {
        for ms in [0, 1, 30] {
            let start = Instant::now();
            let found = waits(end.fd, ms);
            end.saw(name, (found, start.elapsed() >= Duration::from_millis(ms as u64)));
        }
    }
    // select writes back what is left of its time.
    // SAFETY: zeroes are an empty set; set and time live through the calls.
    let left = unsafe {
        let mut set: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(end.fd, &raw mut set);
        let mut time = milliseconds(20);
        let null = std::ptr::null_mut();
        libc::select(end.fd + 1, &raw mut set, null, null, &raw mut time);
        (time.tv_sec, time.tv_usec, libc::FD_ISSET(end.fd, &raw const set))
    };
    end.saw("select's rest", left);
    // Bytes came just before: no wait at all.
    end.meet();
    send_all(end.fd, b"x");
    await_queued(end.fd, 1);
    for (name, waits) in waiters() {
        end.saw(name, waits(end.fd, 0));
    }
}

fn a_poll_that_asks_for_nothing(end: &mut End) {
    if end.near() {
        send_all(end.fd, b"bytes");
        end.meet();
        end.meet();
        reset(end.fd);
    } else {
        end.meet();
        await_queued(end.fd, 5);
        end.saw("nothing", poll(end.fd, 0, 20));
        end.saw("priority", poll(end.fd, POLLPRI, 20));
        end.saw("hangup of the peer", poll(end.fd, POLLRDHUP, 20));
        end.meet();
        end.saw("told all the same", poll(end.fd, 0, 20_000));
    }
}

fn many_descriptors_in_a_poll(end: &mut End) {
    let fds: Vec<c_int> = (0..4).map(|_| end.another()).collect();
    for fd in &fds {
        end.warm(*fd);
    }
    let (out, into) = (end.fd, fds[0]);
    for round in 0..8 {
        if end.near() {
            send_all(fds[round % 4], b"x");
            if round % 2 == 0 {
                send_all(out, b"y");
            }
            end.meet();
            end.meet();
            continue;
        }
        end.meet();
        await_queued(fds[round % 4], 1);
        await_queued(out, usize::from(round % 2 == 0));
        let asked = |fd: &c_int| libc::pollfd { fd: *fd, events: POLLIN, revents: -1 };
        let mut set: Vec<_> = fds.iter().chain([&out, &-1]).map(asked).collect();
        // SAFETY: the set lives through the call.
        let found = unsafe { libc::poll(set.as_mut_ptr(), set.len() as _, 10_000) };
        let ready: Vec<c_short> = set.iter().map(|one| one.revents).collect();
        end.saw("found", (found, ready));
        read_exactly(fds[round % 4], 1);
        if round % 2 == 0 {
            read_exactly(out, 1);
        }
        end.meet();
    }
    end.saw("idle", poll(into, POLLIN, 0));
}

fn readiness_lasts_until_it_is_taken(end: &mut End) {
    if end.near() {
        send_all(end.fd, b"12345");
        end.meet();
        end.meet();
        return;
    }
    end.meet();
    let epoll = epoll();
    add(epoll, end.fd, EPOLLIN, 9);
    await_queued(end.fd, 5);
    for _ in 0..5 {
        let found = wait(epoll, 10_000);
        let polled = poll(end.fd, POLLIN, 0);
        let seen = recv(end.fd, 1, libc::MSG_PEEK);
        let got = read(end.fd, 1);
        end.saw("one at a time", (found, polled, seen, got));
    }
    end.saw("taken", (wait(epoll, 10), poll(end.fd, POLLIN, 10)));
    end.meet();
}

/// The commonest loop of small servers.
fn a_loop_of_poll_and_nonblocking_calls(end: &mut End) {
    const MESSAGES: usize = 400;
    nonblocking(end.fd, true);
    let message = pattern(3000);
    if end.near() {
        for _ in 0..MESSAGES {
            let mut rest = &message[..];
            while !rest.is_empty() {
                match write(end.fd, rest) {
                    Ok(count) => rest = &rest[count..],
                    Err(errno) => {
                        assert_eq!(errno, libc::EAGAIN);
                        assert_ne!(poll(end.fd, POLLOUT, 20_000), 0, "stalled");
                    }
                }
            }
        }
        assert_ne!(poll(end.fd, POLLIN, 20_000), 0, "stalled");
        let answer = read(end.fd, 10);
        end.saw("answer", answer);
    } else {
        let mut seen = Digest::new();
        while seen.bytes() < MESSAGES * message.len() {
            match read(end.fd, 5000) {
                Ok(piece) => seen.add(&piece),
                Err(errno) => {
                    assert_eq!(errno, libc::EAGAIN);
                    assert_ne!(poll(end.fd, POLLIN, 20_000), 0, "stalled");
                }
            }
        }
        send_all(end.fd, b"ok");
        end.saw("all", seen.name());
    }
}

fn a_loop_of_select_and_blocking_calls(end: &mut End) {
    let mut sizes = Numbers(11);
    for _ in 0..300 {
        let size = 1 + sizes.below(2000);
        if end.near() {
            send_all(end.fd, &pattern(size));
            assert!(select(end.fd, 20_000), "stalled");
            assert_eq!(read(end.fd, 1), Ok(b"k".to_vec()));
        } else {
            let mut got = Digest::new();
            while got.bytes() < size {
                assert!(select(end.fd, 20_000), "stalled");
                got.add(&read(end.fd, 700).unwrap());
            }
            end.saw("message", got.name());
            send_all(end.fd, b"k");
        }
    }
}
