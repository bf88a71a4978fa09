//! select, poll and epoll: the end of a splice is what makes its source readable, and
//! nothing before.

use crate::System::{FreeBsd, OpenBsd};
use crate::sockets::*;
use crate::waits::*;
use crate::{System, cases};
use libc::{EFBIG, EPOLLET, EPOLLIN, EPOLLOUT, POLLIN, POLLOUT, c_int};
use std::time::Duration;

cases! {
    BOTH a_running_source_is_not_readable;
    BOTH a_source_with_waiting_bytes_is_not_readable;
    BOTH the_end_wakes_every_kind_of_waiter;
    BOTH an_error_at_the_end_wakes_every_kind_of_waiter;
    BOTH a_waiter_from_before_the_splice_is_woken_at_the_end;
    BOTH registrations_from_before_the_option_was_used;
    BOTH unsplice_wakes_a_waiter_if_there_is_data;
    BOTH a_source_may_be_polled_for_writing;
    BOTH other_descriptors_in_the_set_work;
    OPENBSD a_drain_may_be_polled_for_writing;
    FREEBSD a_drain_is_not_writable_for_poll;
    BOTH an_edge_is_told_once_and_a_level_until_it_is_read;
    BOTH a_registration_that_is_changed_while_spliced;
    BOTH data_of_registrations_is_kept;
    BOTH an_epoll_set_inside_another;
    BOTH many_threads_wait_for_many_ends;
    BOTH ends_without_a_moving_byte_are_seen_by_epoll;
    BOTH select_keeps_its_other_bits;
    BOTH time_limits_are_kept;
    BOTH oneshot;
    BOTH a_oneshot_that_is_spent_stays_so;
    BOTH an_exclusive_registration;
    BOTH the_kernel_is_not_asked_for_what_is_hidden;
    BOTH a_waiter_whose_notice_was_closed_behind_the_librarys_back;
}

fn a_running_source_is_not_readable(_: System) {
    let rig = Rig::spliced();
    for (name, is_readable) in waiters() {
        rig.check(&pattern(200_000));
        assert!(!is_readable(rig.source, 0), "{name}");
        assert!(!is_readable(rig.source, 20), "{name}");
    }
}

fn stalled() -> Rig {
    let rig = Rig::spliced();
    nonblocking(rig.feed, true);
    for _ in 0..20 {
        stuff(rig.feed);
        std::thread::sleep(Duration::from_millis(2));
    }
    rig
}

fn a_source_with_waiting_bytes_is_not_readable(_: System) {
    let rig = stalled();
    for (name, is_readable) in waiters() {
        assert!(!is_readable(rig.source, 20), "{name}");
    }
    unsplice(rig.source).unwrap();
    for (name, is_readable) in waiters() {
        assert!(is_readable(rig.source, 0), "{name}");
    }
}

fn the_end_wakes_every_kind_of_waiter(_: System) {
    for (name, is_readable) in waiters() {
        let rig = Rig::spliced();
        let source = rig.source;
        let waiter = std::thread::spawn(move || is_readable(source, 20_000));
        std::thread::sleep(Duration::from_millis(20));
        rig.check(b"goes by");
        assert!(!waiter.is_finished(), "{name}");
        shutdown(rig.feed, libc::SHUT_WR);
        assert!(waiter.join().unwrap(), "{name}");
        assert_eq!(read(rig.source, 1), Ok(vec![]));
    }
}

fn an_error_at_the_end_wakes_every_kind_of_waiter(system: System) {
    for (name, is_readable) in waiters() {
        let rig = Rig::new();
        splice_max(rig.source, rig.drain, 3).unwrap();
        let source = rig.source;
        let waiter = std::thread::spawn(move || is_readable(source, 20_000));
        std::thread::sleep(Duration::from_millis(20));
        send_all(rig.feed, b"123");
        if system == FreeBsd {
            // Nothing to tell: the waiter waits for the next byte.
            read_exactly(rig.sink, 3);
            send_all(rig.feed, b"4");
        }
        assert!(waiter.join().unwrap(), "{name}");
        if system == OpenBsd {
            assert!(is_readable(rig.source, 0), "{name}: until it is told");
            assert_eq!(read(rig.source, 1), Err(EFBIG));
            assert!(!is_readable(rig.source, 0), "{name}: told");
        }
    }
}

fn a_waiter_from_before_the_splice_is_woken_at_the_end(_: System) {
    for events in [EPOLLIN, EPOLLIN | EPOLLET] {
        let rig = Rig::new();
        let epoll = epoll();
        add(epoll, rig.source, events, 7);
        let waiter = std::thread::spawn(move || wait(epoll, 20_000));
        std::thread::sleep(Duration::from_millis(20));
        splice(rig.source, rig.drain).unwrap();
        rig.check(&pattern(100_000));
        assert!(!waiter.is_finished());
        shutdown(rig.feed, libc::SHUT_WR);
        let found = waiter.join().unwrap();
        assert!(found.len() == 1 && found[0].1 == 7 && found[0].0 & EPOLLIN as u32 != 0);
    }
}

fn registrations_from_before_the_option_was_used(_: System) {
    // The first thing that the process does with the option is behind these.
    let rig = Rig::new();
    let epoll = epoll();
    add(epoll, rig.source, EPOLLIN, u64::MAX - 5);
    add(epoll, rig.sink, EPOLLIN | EPOLLET, 5);
    splice(rig.source, rig.drain).unwrap();
    send_all(rig.feed, b"bytes");
    assert_eq!(wait(epoll, 20_000), [(EPOLLIN as u32, 5)]);
    assert_eq!(wait(epoll, 20), []);
    shutdown(rig.feed, libc::SHUT_WR);
    let found = wait(epoll, 20_000);
    assert!(found.len() == 1 && found[0].1 == u64::MAX - 5);
}

fn unsplice_wakes_a_waiter_if_there_is_data(_: System) {
    for (name, is_readable) in waiters() {
        let rig = stalled();
        let source = rig.source;
        let waiter = std::thread::spawn(move || is_readable(source, 20_000));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished(), "{name}");
        unsplice(rig.source).unwrap();
        assert!(waiter.join().unwrap(), "{name}");
    }
}

fn a_source_may_be_polled_for_writing(_: System) {
    let rig = stalled();
    assert_eq!(poll(rig.source, POLLIN | POLLOUT, 0), POLLOUT);
    let epoll = epoll();
    add(epoll, rig.source, EPOLLIN | EPOLLOUT, 3);
    assert_eq!(wait(epoll, 0), [(EPOLLOUT as u32, 3)]);
}

fn other_descriptors_in_the_set_work(_: System) {
    let rig = stalled();
    let other = Rig::new();
    send_all(other.feed, b"x");
    poll(other.source, POLLIN, -1);
    for many in [0, 100] {
        let mut fds = vec![libc::pollfd { fd: rig.source, events: POLLIN, revents: 9 }];
        fds.push(libc::pollfd { fd: other.source, events: POLLIN, revents: 9 });
        fds.push(libc::pollfd { fd: -1, events: POLLIN, revents: 9 });
        fds.push(libc::pollfd { fd: 399, events: POLLIN, revents: 9 });
        fds.resize(4 + many, libc::pollfd { fd: other.drain, events: POLLIN, revents: 9 });
        // SAFETY: the set lives through the call.
        let found = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as u64, -1) };
        assert_eq!(found, 2);
        let told: Vec<_> = fds.iter().map(|fd| fd.revents).take(4).collect();
        assert_eq!(told, [0, POLLIN, 0, libc::POLLNVAL]);
        assert!(fds[4..].iter().all(|fd| fd.revents == 0));
    }
}

fn a_drain_may_be_polled_for_writing(_: System) {
    let rig = Rig::spliced();
    assert_eq!(poll(rig.drain, POLLOUT, 0), POLLOUT);
}

fn a_drain_is_not_writable_for_poll(_: System) {
    let rig = Rig::spliced();
    assert_eq!(poll(rig.drain, POLLOUT, 0), 0);
    unsplice(rig.source).unwrap();
    assert_eq!(poll(rig.drain, POLLOUT, 0), POLLOUT);
}

fn an_edge_is_told_once_and_a_level_until_it_is_read(system: System) {
    for (events, times) in [(EPOLLIN | EPOLLET, 1), (EPOLLIN, 3)] {
        let rig = Rig::new();
        let epoll = epoll();
        add(epoll, rig.source, events, 7);
        splice_max(rig.source, rig.drain, 3).unwrap();
        assert_eq!(wait(epoll, 10), []);
        send_all(rig.feed, if system == OpenBsd { b"123" } else { b"1234" });
        assert_eq!(wait(epoll, 20_000), [(EPOLLIN as u32, 7)]);
        for time in 1..4 {
            assert_eq!(wait(epoll, 0).len(), usize::from(time < times), "{time}");
            if time + 1 == times {
                let _ = read(rig.source, 9);
            }
        }
    }
}

fn a_registration_that_is_changed_while_spliced(_: System) {
    let rig = stalled();
    let epoll = epoll();
    add(epoll, rig.source, EPOLLIN, 1);
    assert_eq!(wait(epoll, 5), []);
    control(epoll, libc::EPOLL_CTL_MOD, rig.source, EPOLLIN | EPOLLOUT, 2);
    assert_eq!(wait(epoll, 5), [(EPOLLOUT as u32, 2)]);
    control(epoll, libc::EPOLL_CTL_DEL, rig.source, 0, 0);
    assert_eq!(wait(epoll, 5), []);
    add(epoll, rig.source, EPOLLIN | EPOLLET, 3);
    assert_eq!(wait(epoll, 5), []);
    unsplice(rig.source).unwrap();
    let found = wait(epoll, 20_000);
    assert!(found.len() == 1 && found[0].1 == 3);
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: the event lives through the call.
    let done = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, rig.source, &raw mut event) };
    assert_eq!(check(done as isize), Err(libc::EEXIST));
}

fn data_of_registrations_is_kept(_: System) {
    for data in [0, u64::MAX, 1 << 63, 0x50F7_11CE << 32] {
        let rig = Rig::new();
        let epoll = epoll();
        add(epoll, rig.source, EPOLLIN, data);
        splice(rig.source, rig.drain).unwrap();
        shutdown(rig.feed, libc::SHUT_WR);
        let found = wait(epoll, 20_000);
        assert!(found.len() == 1 && found[0].1 == data);
    }
}

fn an_epoll_set_inside_another(_: System) {
    let rig = Rig::spliced();
    let (inner, outer) = (epoll(), epoll());
    add(inner, rig.source, EPOLLIN, 1);
    add(outer, inner, EPOLLIN, 2);
    assert_eq!(wait(inner, 0), []);
    shutdown(rig.feed, libc::SHUT_WR);
    let found = wait(outer, 20_000);
    assert!(found.len() == 1 && found[0].1 == 2);
    eventually("the inner event", || wait(inner, 10).len() == 1);
}

fn many_threads_wait_for_many_ends(_: System) {
    let rigs: Vec<Rig> = (0..120).map(|_| Rig::spliced()).collect();
    let waiters: Vec<_> = rigs
        .iter()
        .enumerate()
        .map(|(place, rig)| {
            let (_, is_readable) = waiters()[place % 6];
            let source = rig.source;
            std::thread::spawn(move || is_readable(source, 30_000))
        })
        .collect();
    for rig in &rigs {
        shutdown(rig.feed, libc::SHUT_WR);
    }
    for waiter in waiters {
        assert!(waiter.join().unwrap());
    }
}

fn ends_without_a_moving_byte_are_seen_by_epoll(system: System) {
    let rig = Rig::new();
    let epoll = epoll();
    add(epoll, rig.source, EPOLLIN, 1);
    splice_idle(rig.source, rig.drain, 50).unwrap();
    if system == FreeBsd {
        eventually("the end", || !is_running(system, rig.source));
        assert_eq!(wait(epoll, 0), []);
        return;
    }
    assert_eq!(wait(epoll, 20_000), [(EPOLLIN as u32, 1)]);
    assert_eq!(read(rig.source, 1), Err(libc::ETIMEDOUT));
    assert_eq!(wait(epoll, 0), []);
}

fn select_keeps_its_other_bits(_: System) {
    let rig = stalled();
    // SAFETY: zeroes are an empty set; the sets live through the calls.
    unsafe {
        let mut read: libc::fd_set = std::mem::zeroed();
        let mut write: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(rig.source, &raw mut read);
        libc::FD_SET(rig.sink, &raw mut read);
        libc::FD_SET(rig.source, &raw mut write);
        libc::FD_SET(rig.sink, &raw mut write);
        let null = std::ptr::null_mut();
        let found = libc::select(1024, &raw mut read, &raw mut write, null, std::ptr::null_mut());
        assert_eq!(found, 3);
        assert!(!libc::FD_ISSET(rig.source, &raw const read));
        assert!(libc::FD_ISSET(rig.sink, &raw const read));
        assert!(libc::FD_ISSET(rig.source, &raw const write));
        assert!(libc::FD_ISSET(rig.sink, &raw const write));
        let mut bad: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(rig.source, &raw mut bad);
        libc::FD_SET(399, &raw mut bad);
        let found = libc::select(400, &raw mut bad, null, null, std::ptr::null_mut());
        assert_eq!(check(found as isize), Err(libc::EBADF));
    }
}

fn time_limits_are_kept(_: System) {
    let rig = Rig::spliced();
    for (name, is_readable) in waiters() {
        let begun = std::time::Instant::now();
        assert!(!is_readable(rig.source, 60), "{name}");
        assert!(begun.elapsed() >= Duration::from_millis(59), "{name}");
    }
}

fn oneshot(_: System) {
    let rig = Rig::new();
    let epoll = epoll();
    add(epoll, rig.source, EPOLLIN | libc::EPOLLONESHOT, 1);
    splice(rig.source, rig.drain).unwrap();
    rig.check(b"by");
    assert_eq!(wait(epoll, 5), []);
    shutdown(rig.feed, libc::SHUT_WR);
    assert_eq!(wait(epoll, 20_000).len(), 1);
    assert_eq!(wait(epoll, 5), []);
}

fn a_oneshot_that_is_spent_stays_so(_: System) {
    let rig = Rig::new();
    let epoll = epoll();
    add(epoll, rig.source, EPOLLIN | EPOLLOUT | libc::EPOLLONESHOT, 1);
    assert_eq!(wait(epoll, 20_000), [(EPOLLOUT as u32, 1)]);
    splice(rig.source, rig.drain).unwrap();
    rig.check(b"by");
    shutdown(rig.feed, libc::SHUT_WR);
    rig.wait_end();
    assert_eq!(wait(epoll, 5), []);
    // And one that is spent while the splice runs.
    let rig = Rig::new();
    add(epoll, rig.source, EPOLLIN | EPOLLOUT | libc::EPOLLONESHOT, 2);
    splice(rig.source, rig.drain).unwrap();
    assert_eq!(wait(epoll, 20_000), [(EPOLLOUT as u32, 2)]);
    shutdown(rig.feed, libc::SHUT_WR);
    rig.wait_end();
    assert_eq!(wait(epoll, 5), []);
    control(epoll, libc::EPOLL_CTL_MOD, rig.source, EPOLLIN | libc::EPOLLONESHOT, 3);
    assert_eq!(wait(epoll, 20_000), [(EPOLLIN as u32, 3)]);
}

fn an_exclusive_registration(_: System) {
    let rig = Rig::new();
    let epoll = epoll();
    add(epoll, rig.source, EPOLLIN | libc::EPOLLEXCLUSIVE, 1);
    stuff(rig.drain);
    splice(rig.source, rig.drain).unwrap();
    send_all(rig.feed, b"held up");
    assert_eq!(wait(epoll, 20), []);
    unsplice(rig.source).unwrap();
    assert_eq!(wait(epoll, 20_000), [(EPOLLIN as u32, 1)]);
}

/// Hidden from the kernel too: otherwise a waiter would be woken, again and again, to be told
/// nothing.
fn the_kernel_is_not_asked_for_what_is_hidden(_: System) {
    let rig = Rig::new();
    let (before, meanwhile) = (epoll(), epoll());
    add(before, rig.source, EPOLLIN, 1);
    stuff(rig.drain);
    splice(rig.source, rig.drain).unwrap();
    add(meanwhile, rig.source, EPOLLIN, 2);
    send_all(rig.feed, b"held up");
    eventually("the bytes are there", || queued(rig.source) == 7);
    for epoll in [before, meanwhile] {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        // SAFETY: room for so many; the kernel's own call.
        let found =
            unsafe { libc::syscall(libc::SYS_epoll_pwait, epoll, events.as_mut_ptr(), 4, 0, 0, 8) };
        let told = &events[..found as usize];
        // The library's own eventfd may be among them.
        assert!(told.iter().all(|event| event.u64 as u32 == u32::MAX));
    }
    unsplice(rig.source).unwrap();
    assert_eq!(wait(before, 20_000), [(EPOLLIN as u32, 1)]);
    assert_eq!(wait(meanwhile, 20_000), [(EPOLLIN as u32, 2)]);
}

fn queued(fd: c_int) -> c_int {
    let mut count: c_int = 0;
    // SAFETY: the call writes one int, which is live.
    unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) };
    count
}

fn a_waiter_whose_notice_was_closed_behind_the_librarys_back(_: System) {
    let rig = Rig::spliced();
    assert_eq!(poll(rig.source, POLLIN, 5), 0);
    let above = [rig.feed, rig.source, rig.drain, rig.sink].into_iter().max().unwrap() + 1;
    // SAFETY: no pointers; nobody else in this process has these open.
    unsafe { libc::syscall(libc::SYS_close_range, above, c_int::MAX, 0) };
    assert_eq!(poll(rig.source, POLLIN, 5), 0);
    rig.check(b"through");
}
