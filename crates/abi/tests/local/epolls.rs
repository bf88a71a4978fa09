//! epoll: levels, one-shots, several sets, sets in sets, and registrations that change.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use crate::waits::*;
use libc::{
    EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, EPOLLEXCLUSIVE, EPOLLIN, EPOLLONESHOT, EPOLLOUT, POLLIN,
    c_int,
};

cases! {
    EVERY a_level_is_told_until_it_is_taken;
    EVERY once_and_not_again;
    EVERY exclusive_registrations;
    EVERY a_registration_is_changed;
    EVERY a_registration_is_removed_and_made_anew;
    EVERY registered_before_bytes_and_behind_them;
    EVERY two_sets;
    EVERY a_set_in_a_set;
    EVERY polled_sets;
    EVERY a_duplicate_of_the_set;
    EVERY fewer_events_than_are_ready;
    EVERY a_closed_socket_leaves_its_set;
    EVERY a_duplicate_in_the_set;
    EVERY added_while_another_thread_waits;
    EVERY the_other_names_of_epoll_wait;
    EVERY errors_of_registering;
}

pub const SOON: c_int = 20_000;

/// The near end sends, both know that it has arrived.
pub fn arrives(end: &End, bytes: &[u8], queued: usize) {
    if end.near() {
        send_all(end.fd, bytes);
        end.meet();
    } else {
        end.meet();
        await_queued(end.fd, queued);
    }
}

pub fn registered(end: &End, events: c_int) -> c_int {
    let set = epoll();
    add(set, end.fd, events, 0xfeed_beef_1234);
    set
}

fn a_level_is_told_until_it_is_taken(end: &mut End) {
    let set = registered(end, EPOLLIN);
    end.saw("nothing", wait(set, 20));
    end.meet();
    arrives(end, b"12345", 5);
    if end.far() {
        while queued(end.fd) > 0 {
            let found = wait(set, SOON);
            end.saw("level", found);
            read_exactly(end.fd, 1);
        }
        end.saw("taken", wait(set, 20));
    }
}

fn once_and_not_again(end: &mut End) {
    let set = registered(end, EPOLLIN | EPOLLONESHOT);
    end.meet();
    arrives(end, b"12345", 5);
    if end.far() {
        end.saw("once", wait(set, SOON));
        end.saw("spent", wait(set, 20));
    }
    end.meet();
    arrives(end, b"678", 8);
    if end.far() {
        end.saw("spent", wait(set, 20));
        control(set, EPOLL_CTL_MOD, end.fd, EPOLLIN | EPOLLONESHOT, 1);
        end.saw("armed", wait(set, SOON));
        end.saw("spent", wait(set, 20));
        read_exactly(end.fd, 8);
        control(set, EPOLL_CTL_MOD, end.fd, EPOLLIN | EPOLLONESHOT | EPOLLET, 2);
        end.saw("armed, nothing there", wait(set, 20));
    }
    end.meet();
    arrives(end, b"9", 1);
    if end.far() {
        end.saw("once", wait(set, SOON));
        end.saw("spent", wait(set, 20));
    }
}

/// Which of them is woken is nobody's business; one of them is.
fn exclusive_registrations(end: &mut End) {
    let sets = [epoll(), epoll()];
    for (number, set) in sets.iter().enumerate() {
        add(*set, end.fd, EPOLLIN | EPOLLEXCLUSIVE, number as u64);
    }
    end.meet();
    for round in 1..=5 {
        arrives(end, b"x", 1);
        if end.far() {
            eventually("one is told", || sets.iter().any(|set| !wait(*set, 0).is_empty()));
            end.saw("told", round);
            read_exactly(end.fd, 1);
            end.saw("taken", sets.map(|set| wait(set, 0).len()));
        }
        end.meet();
    }
}

fn a_registration_is_changed(end: &mut End) {
    let set = registered(end, EPOLLOUT);
    end.saw("writable", wait(set, SOON));
    control(set, EPOLL_CTL_MOD, end.fd, EPOLLIN, 2);
    end.saw("nothing to read", wait(set, 20));
    end.meet();
    arrives(end, b"x", 1);
    if end.far() {
        end.saw("readable", wait(set, SOON));
        control(set, EPOLL_CTL_MOD, end.fd, EPOLLIN | EPOLLOUT, 3);
        end.saw("both", wait(set, SOON));
        control(set, EPOLL_CTL_MOD, end.fd, 0, 4);
        end.saw("nothing asked", wait(set, 20));
        // A change tells the edge again.
        for data in 5..8 {
            control(set, EPOLL_CTL_MOD, end.fd, EPOLLIN | EPOLLET, data);
            end.saw("edge", wait(set, SOON));
            end.saw("told", wait(set, 5));
        }
    }
}

fn a_registration_is_removed_and_made_anew(end: &mut End) {
    let set = registered(end, EPOLLIN);
    end.meet();
    arrives(end, b"x", 1);
    if end.far() {
        for data in 0..4 {
            end.saw("there", wait(set, SOON));
            control(set, EPOLL_CTL_DEL, end.fd, 0, 0);
            end.saw("not there", wait(set, 10));
            add(set, end.fd, if data % 2 == 0 { EPOLLIN | EPOLLET } else { EPOLLIN }, data);
        }
    }
}

fn registered_before_bytes_and_behind_them(end: &mut End) {
    arrives(end, b"bytes", 5);
    if end.far() {
        for events in [EPOLLIN, EPOLLIN | EPOLLET, EPOLLIN | EPOLLOUT | EPOLLET] {
            let set = registered(end, events);
            end.saw("found", wait(set, SOON));
            close(set);
        }
        read_exactly(end.fd, 5);
        for events in [EPOLLIN, EPOLLIN | EPOLLET, EPOLLIN | EPOLLOUT | EPOLLET] {
            let set = registered(end, events);
            end.saw("found", wait(set, 10));
            close(set);
        }
    }
}

fn two_sets(end: &mut End) {
    let (level, edge) = (registered(end, EPOLLIN), registered(end, EPOLLIN | EPOLLET));
    end.meet();
    for round in 0..4 {
        arrives(end, b"xy", 2);
        if end.far() {
            end.saw("level", wait(level, SOON));
            end.saw("edge", wait(edge, SOON));
            end.saw("again", (wait(level, 5), wait(edge, 5)));
            read_exactly(end.fd, 2);
            end.saw("taken", (wait(level, 5), wait(edge, 5), round));
        }
        end.meet();
    }
}

fn a_set_in_a_set(end: &mut End) {
    let inner = registered(end, EPOLLIN);
    let outer = epoll();
    add(outer, inner, EPOLLIN, 77);
    end.saw("nothing", (wait(outer, 10), wait(inner, 0)));
    end.meet();
    for _ in 0..3 {
        arrives(end, b"x", 1);
        if end.far() {
            end.saw("outer", wait(outer, SOON));
            end.saw("inner", wait(inner, SOON));
            read_exactly(end.fd, 1);
            end.saw("taken", (wait(outer, 10), wait(inner, 0)));
        }
        end.meet();
    }
    // Asleep in the outer one.
    if end.near() {
        pause_ms(20);
        send_all(end.fd, b"x");
    } else {
        end.saw("woken", wait(outer, SOON));
        end.saw("inner", wait(inner, SOON));
    }
}

fn polled_sets(end: &mut End) {
    let set = registered(end, EPOLLIN);
    end.saw("nothing", poll(set, POLLIN, 10));
    end.meet();
    if end.near() {
        pause_ms(20);
        send_all(end.fd, b"x");
    } else {
        end.saw("poll", poll(set, POLLIN, SOON));
        end.saw("select", select(set, 10_000));
        read_exactly(end.fd, 1);
        end.saw("taken", poll(set, POLLIN, 10));
    }
}

fn a_duplicate_of_the_set(end: &mut End) {
    let set = registered(end, EPOLLIN);
    // SAFETY: no pointers.
    let other = unsafe { libc::dup(set) };
    for waiting in [other, set] {
        arrives_or_waits(end, waiting);
    }
    close(set);
    arrives_or_waits(end, other);
    control(other, EPOLL_CTL_DEL, end.fd, 0, 0);
    end.saw("removed", wait(other, 0));
    close(other);
}

/// The far end sleeps on the set before the near one sends.
fn arrives_or_waits(end: &mut End, set: c_int) {
    end.meet();
    if end.near() {
        pause_ms(20);
        send_all(end.fd, b"1");
    } else {
        end.saw("woken", wait(set, SOON));
        read_exactly(end.fd, 1);
        end.saw("nothing more", wait(set, 0));
    }
    end.meet();
}

fn fewer_events_than_are_ready(end: &mut End) {
    let fds: Vec<c_int> = (0..3).map(|_| end.another()).collect();
    for fd in &fds {
        end.warm(*fd);
    }
    if end.near() {
        for fd in &fds {
            send_all(*fd, b"x");
        }
        end.meet();
        end.meet();
        return;
    }
    end.meet();
    let set = epoll();
    for (number, fd) in fds.iter().enumerate() {
        await_queued(*fd, 1);
        add(set, *fd, EPOLLIN, number as u64);
    }
    let mut found = Vec::new();
    for _ in 0..3 {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one.
        assert_eq!(unsafe { libc::epoll_wait(set, &raw mut event, 1, 10_000) }, 1);
        found.push(event.u64);
    }
    found.sort_unstable();
    end.saw("each in its turn", found);
    end.meet();
}

fn a_closed_socket_leaves_its_set(end: &mut End) {
    let fd = end.another();
    end.warm(fd);
    if end.near() {
        send_all(fd, b"x");
        end.meet();
        end.meet();
    } else {
        end.meet();
        let set = epoll();
        add(set, fd, EPOLLIN, 1);
        await_queued(fd, 1);
        end.saw("there", wait(set, SOON));
        close(fd);
        end.saw("gone", wait(set, 20));
        end.meet();
    }
}

fn a_duplicate_in_the_set(end: &mut End) {
    let fd = end.another();
    end.warm(fd);
    // SAFETY: no pointers.
    let twin = unsafe { libc::dup(fd) };
    let set = epoll();
    add(set, fd, EPOLLIN, 1);
    add(set, twin, EPOLLIN, 2);
    end.meet();
    if end.near() {
        send_all(fd, b"x");
        end.meet();
        end.meet();
    } else {
        end.meet();
        await_queued(twin, 1);
        let mut found = wait(set, SOON);
        found.sort_unstable();
        end.saw("both", found);
        // The registration of the closed number lives on with the file.
        close(fd);
        let mut found = wait(set, SOON);
        found.sort_unstable();
        end.saw("still both", found);
        let got = read(twin, 5);
        end.saw("got", got);
        end.saw("taken", wait(set, 10));
        end.meet();
    }
}

fn added_while_another_thread_waits(end: &mut End) {
    let set = epoll();
    let waiter = std::thread::spawn(move || wait(set, SOON));
    pause_ms(20);
    add(set, end.fd, EPOLLIN, 4);
    end.meet();
    pause_ms(20);
    send_all(end.fd, b"x");
    end.saw("woken", waiter.join().unwrap());
}

fn the_other_names_of_epoll_wait(end: &mut End) {
    let set = registered(end, EPOLLIN);
    end.meet();
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    let at = &raw mut event;
    let short = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    let long = libc::timespec { tv_sec: 20, tv_nsec: 0 };
    let mask = std::ptr::null();
    // SAFETY: event and times live through the calls.
    unsafe {
        end.saw("epoll_pwait", libc::epoll_pwait(set, at, 1, 20, mask));
        let second = libc::syscall(libc::SYS_epoll_pwait2, set, at, 1, &raw const short, 0, 8);
        end.saw("epoll_pwait2", second);
        for turn in 0..3 {
            if end.near() {
                pause_ms(20);
                send_all(end.fd, b"x");
                assert_eq!(read_exactly(end.fd, 1), b"k");
                continue;
            }
            let found = match turn {
                0 => i64::from(libc::epoll_pwait(set, at, 1, SOON, mask)),
                1 => i64::from(libc::epoll_wait(set, at, 1, -1)),
                _ => libc::syscall(libc::SYS_epoll_pwait2, set, at, 1, &raw const long, 0, 8),
            };
            end.saw("woken", (found, event.events));
            read_exactly(end.fd, 1);
            send_all(end.fd, b"k");
        }
    }
}

fn errors_of_registering(end: &mut End) {
    let set = registered(end, EPOLLIN);
    let mut event = libc::epoll_event { events: EPOLLIN as u32, u64: 0 };
    let mut control = |op, fd| {
        // SAFETY: the event lives through the call.
        check(unsafe { libc::epoll_ctl(set, op, fd, &raw mut event) } as isize)
    };
    let twice = control(libc::EPOLL_CTL_ADD, end.fd);
    let removed = control(EPOLL_CTL_DEL, end.fd);
    let again = control(EPOLL_CTL_DEL, end.fd);
    let changed = control(EPOLL_CTL_MOD, end.fd);
    end.saw("errors", (twice, removed, again, changed));
}
