//! Rows 2.3: while a splice runs.

use crate::System::{FreeBsd, OpenBsd};
use crate::sockets::*;
use crate::{System, cases};
use libc::{EAGAIN, EFBIG, EINVAL, EOPNOTSUPP, c_int};
use std::time::{Duration, Instant};

cases! {
    BOTH what_is_buffered_moves_inside_the_call;
    BOTH a_splice_that_ends_at_once_is_a_success;
    BOTH much_goes_through_whole;
    BOTH the_count_has_every_byte_that_was_seen;
    BOTH a_drain_that_is_full_holds_the_source_back;
    BOTH writes_on_the_drain_interleave;
    OPENBSD a_read_from_the_source_finds_nothing;
    OPENBSD a_blocking_read_waits_for_the_end;
    OPENBSD a_blocking_read_keeps_its_time_limit;
    OPENBSD a_blocking_read_is_interrupted_by_a_handler;
    FREEBSD a_reader_of_the_source_is_let_in;
    BOTH o_nonblock_is_the_programs;
    BOTH the_low_water_mark_is_the_programs;
    BOTH the_sources_low_water_mark_does_not_hold_bytes_back;
    BOTH listen_is_refused;
    BOTH no_sigpipe;
    BOTH a_connecting_drain_is_waited_for;
    BOTH no_low_descriptor_is_taken;
    BOTH urgent_data_inline;
    BOTH urgent_data_out_of_line;
    BOTH a_self_splice_echoes;
    BOTH splice_again_and_again;
}

fn what_is_buffered_moves_inside_the_call(_: System) {
    let rig = Rig::new();
    let bytes = pattern(50_000);
    send_all(rig.feed, &bytes);
    eventually("all is there", || {
        recv(rig.source, 60_000, libc::MSG_PEEK).unwrap().len() == 50_000
    });
    splice(rig.source, rig.drain).unwrap();
    assert_eq!(count(rig.source), Ok(50_000));
    assert_eq!(read_exactly(rig.sink, 50_000), bytes);
}

fn a_splice_that_ends_at_once_is_a_success(system: System) {
    let rig = Rig::new();
    send_all(rig.feed, b"0123456789");
    poll(rig.source, libc::POLLIN, -1);
    splice_max(rig.source, rig.drain, 4).unwrap();
    // It is over when the call returns.
    let error = if system == OpenBsd { EFBIG } else { 0 };
    assert_eq!(so_error(rig.source), error);
    assert_eq!(count(rig.source), Ok(4));
    assert_eq!(read(rig.source, 99).unwrap(), b"456789");
    let rig = Rig::new();
    shutdown(rig.feed, libc::SHUT_WR);
    poll(rig.source, libc::POLLIN, -1);
    splice(rig.source, rig.drain).unwrap();
    assert_eq!(read(rig.source, 1), Ok(vec![]));
    assert!(unsplice(rig.source).is_err());
}

fn much_goes_through_whole(_: System) {
    for (v6, nonblock) in [(false, false), (true, true)] {
        let rig = Rig::with(v6, v6);
        for fd in [rig.source, rig.drain] {
            nonblocking(fd, nonblock);
        }
        splice(rig.source, rig.drain).unwrap();
        let bytes = pattern(64 << 20);
        let (feed, sink) = (rig.feed, rig.sink);
        let sent = bytes.clone();
        let sender = std::thread::spawn(move || {
            send_all(feed, &sent);
            shutdown(feed, libc::SHUT_WR);
        });
        assert!(read_exactly(sink, bytes.len()) == bytes);
        sender.join().unwrap();
        nonblocking(rig.source, false);
        rig.wait_end();
        assert_eq!(count(rig.source), Ok(64 << 20));
        assert_eq!(read(rig.source, 1), Ok(vec![]));
    }
}

fn the_count_has_every_byte_that_was_seen(_: System) {
    let rig = Rig::spliced();
    let mut seen = 0;
    for round in 0..500 {
        send_all(rig.feed, &vec![1; 1 + round * 7]);
        seen += read(rig.sink, 100_000).unwrap().len() as i64;
        assert!(count(rig.source).unwrap() >= seen);
    }
}

fn a_drain_that_is_full_holds_the_source_back(_: System) {
    let rig = Rig::spliced();
    nonblocking(rig.feed, true);
    let mut sent = 0;
    let mut stalled = 0;
    while stalled < 50 {
        match stuff(rig.feed) {
            0 => stalled += 1,
            more => {
                sent += more;
                stalled = 0;
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(sent < 64 << 20, "there is no end to what it takes");
    assert!((count(rig.source).unwrap() as usize) < sent);
    assert_eq!(read_exactly(rig.sink, sent).len(), sent);
    assert_eq!(count(rig.source), Ok(sent as i64));
}

fn writes_on_the_drain_interleave(_: System) {
    let rig = Rig::spliced();
    send_all(rig.drain, b"own ");
    assert_eq!(read_exactly(rig.sink, 4), b"own ");
    rig.check(b"spliced");
    send_all(rig.drain, b"again");
    assert_eq!(read_exactly(rig.sink, 5), b"again");
    assert_eq!(count(rig.source), Ok(7));
}

fn a_read_from_the_source_finds_nothing(_: System) {
    let rig = Rig::spliced();
    // The sink reads nothing: the source has bytes, and yet there are none.
    nonblocking(rig.feed, true);
    for _ in 0..20 {
        stuff(rig.feed);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(recv(rig.source, 9, libc::MSG_DONTWAIT), Err(EAGAIN));
    assert_eq!(recv(rig.source, 9, libc::MSG_DONTWAIT | libc::MSG_PEEK), Err(EAGAIN));
    nonblocking(rig.source, true);
    assert_eq!(read(rig.source, 9), Err(EAGAIN));
    let mut bytes = [0u8; 9];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 9 };
    // SAFETY: the records live through the calls.
    unsafe {
        assert_eq!(check(libc::readv(rig.source, &raw const iov, 1)), Err(EAGAIN));
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        assert_eq!(check(libc::recvmsg(rig.source, &raw mut message, 0)), Err(EAGAIN));
        let mut messages = libc::mmsghdr { msg_hdr: message, msg_len: 0 };
        let done = libc::recvmmsg(rig.source, &raw mut messages, 1, 0, std::ptr::null_mut());
        assert_eq!(check(done as isize), Err(EAGAIN));
        let at = bytes.as_mut_ptr().cast();
        let (no_address, no_len) = (std::ptr::null_mut(), std::ptr::null_mut());
        let done = libc::recvfrom(rig.source, at, 9, 0, no_address, no_len);
        assert_eq!(check(done), Err(EAGAIN));
    }
}

fn a_blocking_read_waits_for_the_end(_: System) {
    let rig = Rig::spliced();
    let source = rig.source;
    let reader = std::thread::spawn(move || read(source, 100));
    rig.check(b"not for the reader");
    assert!(!reader.is_finished());
    unsplice(rig.source).unwrap();
    send_all(rig.feed, b"for the reader");
    assert_eq!(reader.join().unwrap().unwrap(), b"for the reader");
}

fn a_blocking_read_keeps_its_time_limit(_: System) {
    let rig = Rig::spliced();
    let limit = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
    let len = size_of::<libc::timeval>() as libc::socklen_t;
    let at = (&raw const limit).cast();
    // SAFETY: the value lives through the call.
    unsafe { libc::setsockopt(rig.source, libc::SOL_SOCKET, libc::SO_RCVTIMEO, at, len) };
    let begun = Instant::now();
    assert_eq!(read(rig.source, 1), Err(EAGAIN));
    assert!(begun.elapsed() >= Duration::from_millis(50));
}

extern "C" fn nothing(_: c_int) {}

fn a_blocking_read_is_interrupted_by_a_handler(_: System) {
    let rig = Rig::spliced();
    // SAFETY: the records are filled as the calls ask.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        let every = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
    assert_eq!(read(rig.source, 1), Err(libc::EINTR));
}

fn a_reader_of_the_source_is_let_in(_: System) {
    let rig = Rig::spliced();
    // Who gets the bytes is not said, but each gets there once.
    let source = rig.source;
    nonblocking(source, true);
    let reader = std::thread::spawn(move || {
        let mut own = 0;
        loop {
            match read(source, 10) {
                Ok(bytes) if bytes.is_empty() => return own,
                Ok(bytes) => own += bytes.len(),
                Err(EAGAIN) => std::thread::yield_now(),
                Err(errno) => panic!("{errno}"),
            }
        }
    });
    for _ in 0..1000 {
        send_all(rig.feed, &[7; 50]);
    }
    shutdown(rig.feed, libc::SHUT_WR);
    let own = reader.join().unwrap();
    let moved = count(rig.source).unwrap() as usize;
    assert_eq!(own + moved, 50_000);
    assert_eq!(read_exactly(rig.sink, moved).len(), moved);
}

fn flags(fd: c_int) -> c_int {
    // SAFETY: no pointers.
    unsafe { libc::fcntl(fd, libc::F_GETFL) }
}

fn o_nonblock_is_the_programs(_: System) {
    for on in [false, true] {
        let rig = Rig::new();
        for fd in [rig.source, rig.drain] {
            nonblocking(fd, on);
        }
        let before = (flags(rig.source), flags(rig.drain));
        splice(rig.source, rig.drain).unwrap();
        rig.check(&pattern(300_000));
        assert_eq!((flags(rig.source), flags(rig.drain)), before);
        // And from outside: the flag of the file, not what fcntl says.
        for fd in [rig.source, rig.drain] {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
            let value = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let value = c_int::from_str_radix(value.trim(), 8).unwrap();
            assert_eq!(value & libc::O_NONBLOCK != 0, on);
        }
        unsplice(rig.source).unwrap();
        assert_eq!((flags(rig.source), flags(rig.drain)), before);
    }
}

fn the_low_water_mark_is_the_programs(_: System) {
    let rig = Rig::new();
    set_option(rig.source, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 5);
    splice(rig.source, rig.drain).unwrap();
    let (feed, sink) = (rig.feed, rig.sink);
    let sender = std::thread::spawn(move || send_all(feed, &vec![0; 32 << 20]));
    read_exactly(sink, 32 << 20);
    sender.join().unwrap();
    unsplice(rig.source).unwrap();
    assert_eq!(option(rig.source, libc::SO_RCVLOWAT), 5);
}

fn the_sources_low_water_mark_does_not_hold_bytes_back(_: System) {
    let rig = Rig::new();
    splice(rig.source, rig.drain).unwrap();
    set_option(rig.source, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 100);
    rig.check(b"a few");
}

fn listen_is_refused(system: System) {
    let rig = Rig::spliced();
    for fd in [rig.source, rig.drain] {
        // SAFETY: no pointers.
        assert_eq!(check(unsafe { libc::listen(fd, 1) } as isize), Err(EINVAL));
    }
    let (slow, _kept) = connecting();
    splice(Rig::new().source, slow).unwrap();
    // SAFETY: no pointers.
    let done = check(unsafe { libc::listen(slow, 1) } as isize);
    assert_eq!(done, Err(if system == OpenBsd { EOPNOTSUPP } else { EINVAL }));
}

fn no_sigpipe(_: System) {
    // The harness and std ignore it: as in a C program.
    // SAFETY: a default action.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let rig = Rig::spliced();
    reset(rig.sink);
    for _ in 0..100 {
        if write(rig.feed, &pattern(100_000)).is_err() || poll(rig.source, libc::POLLIN, 0) != 0 {
            break;
        }
    }
    rig.wait_end();
}

fn a_connecting_drain_is_waited_for(system: System) {
    let rig = Rig::new();
    let (slow, kept) = connecting();
    splice(rig.source, slow).unwrap();
    if system == FreeBsd {
        return;
    }
    send_all(rig.feed, b"wait for it");
    assert_eq!(poll(rig.source, libc::POLLIN, 100), 0);
    assert_eq!(count(rig.source), Ok(0));
    // The backlog empties, and the connect is tried again.
    let mut ends = Vec::new();
    nonblocking(kept[0], true);
    let mut peer = -1;
    eventually("the connection", || {
        // SAFETY: null addresses are allowed.
        let end = unsafe { libc::accept(kept[0], std::ptr::null_mut(), std::ptr::null_mut()) };
        if end >= 0 {
            ends.push(end);
        }
        for end in &ends {
            if let Ok(bytes) = recv(*end, 11, libc::MSG_DONTWAIT | libc::MSG_PEEK)
                && bytes == b"wait for it"
            {
                peer = *end;
            }
        }
        peer >= 0
    });
    assert_eq!(count(rig.source), Ok(11));
}

fn no_low_descriptor_is_taken(_: System) {
    let lowest = || {
        // SAFETY: no pointers.
        let fd = unsafe { libc::dup(0) };
        close(fd);
        fd
    };
    let rigs: Vec<Rig> = (0..5).map(|_| Rig::new()).collect();
    let before = lowest();
    // SAFETY: no pointers.
    let is_open = |fd: &c_int| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0;
    let open: Vec<c_int> = (0..1024).filter(is_open).collect();
    for rig in &rigs {
        splice(rig.source, rig.drain).unwrap();
        rig.check(&pattern(200_000));
        poll(rig.source, libc::POLLIN, 1);
    }
    assert_eq!(lowest(), before);
    // What a program closes that it did not open: nothing.
    for fd in (0..1024).filter(|fd| !open.contains(fd)) {
        // SAFETY: ours or nobody's.
        assert_eq!(check(unsafe { libc::close(fd) } as isize), Err(libc::EBADF), "{fd}");
    }
    rigs[0].check(b"still");
}

fn send_urgent(fd: c_int, byte: u8) {
    // SAFETY: the byte lives through the call.
    let done = unsafe { libc::send(fd, (&raw const byte).cast(), 1, libc::MSG_OOB) };
    assert_eq!(done, 1);
}

fn urgent_data_inline(system: System) {
    let rig = Rig::new();
    set_option(rig.source, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1);
    splice(rig.source, rig.drain).unwrap();
    rig.check(b"before");
    send_urgent(rig.feed, b'!');
    if system == OpenBsd {
        assert_ne!(poll(rig.sink, libc::POLLPRI, 20_000) & libc::POLLPRI, 0);
        assert_eq!(recv(rig.sink, 1, libc::MSG_OOB).unwrap(), b"!");
    }
    send_all(rig.feed, b"after");
    let got = read_exactly(rig.sink, 5);
    match system {
        OpenBsd => assert_eq!(got, b"after"),
        FreeBsd => assert_eq!(got, b"!afte"),
    }
    eventually("the urgent byte is counted", || count(rig.source) == Ok(12));
}

fn urgent_data_out_of_line(_: System) {
    let rig = Rig::spliced();
    rig.check(b"before");
    send_urgent(rig.feed, b'!');
    rig.check(b"after");
    assert_eq!(count(rig.source), Ok(11));
    assert_eq!(recv(rig.source, 1, libc::MSG_OOB).unwrap(), b"!");
}

fn a_self_splice_echoes(_: System) {
    let (near, far) = tcp(false);
    splice(far, far).unwrap();
    for len in [1, 1000, 300_000] {
        let bytes = pattern(len);
        let sent = bytes.clone();
        let sender = std::thread::spawn(move || send_all(near, &sent));
        assert!(read_exactly(near, len) == bytes);
        sender.join().unwrap();
    }
    assert_eq!(count(far), Ok(301_001));
    unsplice(far).unwrap();
}

fn splice_again_and_again(_: System) {
    let rig = Rig::new();
    for round in 0..200usize {
        splice(rig.source, rig.drain).unwrap();
        rig.check(&pattern(1 + round * 13));
        unsplice(rig.source).unwrap();
        assert_eq!(count(rig.source), Ok(1 + round as i64 * 13));
        send_all(rig.feed, b"between");
        assert_eq!(read_exactly(rig.source, 7), b"between");
    }
}
