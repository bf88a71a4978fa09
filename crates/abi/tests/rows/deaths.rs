//! The carrier is killed: nobody who waits is left waiting, and what comes next works.

use crate::chains::carrier;
use crate::sharing::{child, join};
use crate::sockets::*;
use crate::{System, cases};
use libc::{EAGAIN, EIO, EPOLLET, EPOLLIN, POLLIN, c_int};
use std::time::Duration;

cases! {
    BOTH after_the_death_of_the_carrier_all_begins_anew;
    BOTH its_death_wakes_every_kind_of_waiter;
    OPENBSD its_death_wakes_threads_that_read;
    BOTH its_death_wakes_relatives;
    BOTH its_death_leaves_the_data_and_the_low_water_mark;
    BOTH numbers_survive_it;
    BOTH it_is_killed_again_and_again;
    BOTH it_is_reaped;
}

/// Kills the carrier of a spliced socket.
fn kill_carrier(of: c_int) {
    let pid: i32 = carrier(of).parse().unwrap();
    // SAFETY: the process that this case's own library has made.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

fn after_the_death_of_the_carrier_all_begins_anew(_: System) {
    let old = Rig::spliced();
    old.check(b"old");
    // SAFETY: no pointers.
    let epoll = unsafe { libc::epoll_create1(0) };
    let mut event = libc::epoll_event { events: EPOLLIN as u32, u64: 1 };
    for rig in [&old, &Rig::new()] {
        event.u64 = rig.source as u64;
        // SAFETY: the event lives through the call.
        let done =
            unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, rig.source, &raw mut event) };
        assert_eq!(done, 0);
    }
    kill_carrier(old.source);
    let rig = Rig::new();
    // The next that asks makes another, and does not notice.
    splice(rig.source, rig.drain).unwrap();
    nonblocking(old.source, true);
    assert_eq!(read(old.source, 1), Err(EIO));
    assert_eq!(read(old.source, 1), Err(EAGAIN));
    // What the old sockets do ends nothing of the new ones.
    close(old.source);
    close(old.drain);
    rig.check(b"new");
    event.u64 = 7;
    // SAFETY: the event lives through the calls.
    unsafe {
        let add = libc::EPOLL_CTL_ADD;
        assert_eq!(libc::epoll_ctl(epoll, add, rig.source, &raw mut event), 0);
        shutdown(rig.feed, libc::SHUT_WR);
        assert_eq!(libc::epoll_wait(epoll, &raw mut event, 1, 20_000), 1);
    }
    assert_eq!({ event.u64 }, 7);
}

fn select(fd: c_int) -> bool {
    // SAFETY: zeroes are an empty set; the set lives through the calls.
    unsafe {
        let mut set: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(fd, &raw mut set);
        let null = std::ptr::null_mut();
        libc::select(fd + 1, &raw mut set, null, null, std::ptr::null_mut()) == 1
    }
}

fn epoll(fd: c_int, events: c_int) -> bool {
    let mut event = libc::epoll_event { events: events as u32, u64: 7 };
    // SAFETY: the event lives through the calls.
    unsafe {
        let epoll = libc::epoll_create1(0);
        assert_eq!(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event), 0);
        let found = libc::epoll_wait(epoll, &raw mut event, 1, -1);
        close(epoll);
        found == 1 && { event.u64 } == 7 && event.events & EPOLLIN as u32 != 0
    }
}

type Waiter = fn(c_int) -> bool;

const WAITERS: [(&str, Waiter); 4] = [
    ("poll", |fd| poll(fd, POLLIN, -1) & POLLIN != 0),
    ("select", select),
    ("level", |fd| epoll(fd, EPOLLIN)),
    ("edge", |fd| epoll(fd, EPOLLIN | EPOLLET)),
];

/// Two threads that sleep without a limit; the case's own is the watchdog. Each kind alone: one
/// that notices wakes the others.
fn its_death_wakes_every_kind_of_waiter(_: System) {
    for (name, is_readable) in WAITERS {
        let rigs = [Rig::spliced(), Rig::spliced()];
        let sources = rigs.each_ref().map(|rig| rig.source);
        let waiters = sources.map(|source| std::thread::spawn(move || is_readable(source)));
        std::thread::sleep(Duration::from_millis(30));
        kill_carrier(sources[0]);
        for (waiter, source) in waiters.into_iter().zip(sources) {
            assert!(waiter.join().unwrap(), "{name}");
            assert_eq!(read(source, 1), Err(EIO), "{name}");
            assert_eq!(recv(source, 1, libc::MSG_DONTWAIT), Err(EAGAIN), "{name}");
        }
    }
}

fn its_death_wakes_threads_that_read(_: System) {
    // With a time limit the carrier is looked after, without one the kernel tells.
    for limit_s in [0, 25] {
        let rigs: Vec<Rig> = (0..4).map(|_| Rig::spliced()).collect();
        let limit = libc::timeval { tv_sec: limit_s, tv_usec: 0 };
        let len = size_of::<libc::timeval>() as libc::socklen_t;
        let (name, at) = (libc::SO_RCVTIMEO, (&raw const limit).cast());
        let read_all = |rig: &Rig| {
            let source = rig.source;
            // SAFETY: the value lives through the call.
            unsafe { libc::setsockopt(source, libc::SOL_SOCKET, name, at, len) };
            std::thread::spawn(move || read(source, 1))
        };
        let readers: Vec<_> = rigs.iter().map(read_all).collect();
        std::thread::sleep(Duration::from_millis(30));
        kill_carrier(rigs[0].source);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), Err(EIO));
        }
    }
}

fn its_death_wakes_relatives(system: System) {
    let rigs: Vec<Rig> = (0..4).map(|_| Rig::spliced()).collect();
    let children: Vec<_> = rigs
        .iter()
        .zip(WAITERS)
        .map(|(rig, (_, is_readable))| {
            child(|| {
                assert!(is_readable(rig.source));
                assert_eq!(read(rig.source, 1), Err(EIO));
                let rig = Rig::spliced();
                rig.check(b"the child's own");
            })
        })
        .collect();
    let readers = Rig::spliced();
    let reader = child(|| {
        if system == System::OpenBsd {
            assert_eq!(read(readers.source, 1), Err(EIO));
        }
    });
    std::thread::sleep(Duration::from_millis(100));
    kill_carrier(rigs[0].source);
    children.into_iter().for_each(join);
    join(reader);
    Rig::spliced().check(b"the parent's");
}

fn its_death_leaves_the_data_and_the_low_water_mark(_: System) {
    let rig = Rig::new();
    set_option(rig.source, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 3);
    splice(rig.source, rig.drain).unwrap();
    let carrier_of = rig.source;
    rig.check(b"goes by");
    kill_carrier(carrier_of);
    eventually("its end", || poll(rig.source, POLLIN, 0) != 0);
    send_all(rig.feed, b"for the source");
    assert_eq!(read_exactly(rig.source, 14), b"for the source");
    assert_eq!(so_error(rig.source), EIO);
    assert_eq!(option(rig.source, libc::SO_RCVLOWAT), 3);
    // And the sockets can be spliced again.
    splice(rig.source, rig.drain).unwrap();
    rig.check(b"once more");
    assert_eq!(count(rig.source), Ok(9));
}

/// The next carrier does not give a record that is still known to another socket.
fn numbers_survive_it(_: System) {
    let old: Vec<Rig> = (0..5).map(|_| Rig::spliced()).collect();
    kill_carrier(old[0].source);
    let new: Vec<Rig> = (0..5).map(|_| Rig::spliced()).collect();
    for rig in &old {
        assert_eq!(so_error(rig.source), EIO);
        assert!(unsplice(rig.source).is_err());
        splice(rig.source, rig.drain).unwrap();
    }
    for (old, new) in old.iter().zip(&new) {
        close(old.source);
        new.check(b"goes on");
        assert_eq!(count(new.source), Ok(7));
    }
}

fn it_is_killed_again_and_again(_: System) {
    let rig = Rig::new();
    for round in 0..20 {
        splice(rig.source, rig.drain).unwrap();
        rig.check(&pattern(1000));
        let source = rig.source;
        let waiter = std::thread::spawn(move || poll(source, POLLIN, -1));
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        kill_carrier(rig.source);
        assert_ne!(waiter.join().unwrap(), 0);
        assert_eq!(so_error(rig.source), EIO);
    }
}

fn it_is_reaped(_: System) {
    let rig = Rig::spliced();
    let pid = carrier(rig.source);
    kill_carrier(rig.source);
    eventually("its end", || poll(rig.source, POLLIN, 0) != 0);
    // At the latest who makes the next one waits for it.
    splice(rig.source, rig.drain).unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}
