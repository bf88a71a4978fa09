//! Rows 2.1: what is refused, in which order, and what is allowed. And 2.2: taking back.

use crate::System::{FreeBsd, OpenBsd};
use crate::sockets::*;
use crate::{System, cases};
use libc::{
    EBADF, EBUSY, EFAULT, EINVAL, ENOTCONN, ENOTSOCK, EOPNOTSUPP, EPROTO, EPROTONOSUPPORT,
    SOCK_DGRAM, SOCK_STREAM, c_int,
};

cases! {
    BOTH a_source_that_is_no_open_socket;
    BOTH an_absent_value;
    BOTH a_value_that_is_too_short;
    BOTH the_int_form;
    BOTH a_record_with_more_behind_it;
    BOTH an_address_that_is_none;
    BOTH a_source_that_cannot_be_spliced;
    BOTH a_negative_maximum;
    BOTH an_invalid_idle_time;
    BOTH a_huge_idle_time;
    BOTH a_drain_that_is_not_open;
    BOTH a_drain_that_is_no_socket;
    BOTH a_drain_of_another_protocol;
    BOTH udp;
    BOTH listening_sockets;
    BOTH an_unconnected_source;
    BOTH an_unconnected_drain;
    BOTH a_busy_source_or_drain;
    BOTH both_ways_and_chains_are_allowed;
    BOTH the_order_of_the_checks;
    OPENBSD the_limits_are_checked_for_an_unsplice_too;
    FREEBSD the_limits_are_not_checked_for_an_unsplice;
    BOTH taking_back;
    BOTH unsplice_of_what_is_not_spliced;
    BOTH unsplice_leaves_what_was_not_moved;
    BOTH the_count_where_nothing_was_spliced;
    BOTH a_count_in_a_small_buffer;
    BOTH other_options_pass_with_errno_untouched;
}

fn open_file() -> c_int {
    // SAFETY: a constant path.
    unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) }
}

fn unix() -> c_int {
    let mut fds = [0; 2];
    // SAFETY: room for two.
    unsafe { libc::socketpair(libc::AF_UNIX, SOCK_STREAM, 0, fds.as_mut_ptr()) };
    fds[0]
}

/// A number that nothing has.
const CLOSED: c_int = 399;

fn record(drain: c_int) -> Record {
    Record { drain, max: 0, idle_s: 0, idle_us: 0 }
}

fn a_source_that_is_no_open_socket(_: System) {
    let rig = Rig::new();
    assert_eq!(splice(CLOSED, rig.drain), Err(EBADF));
    assert_eq!(splice(-1, rig.drain), Err(EBADF));
    assert_eq!(splice(open_file(), rig.drain), Err(ENOTSOCK));
    assert_eq!(unsplice(CLOSED), Err(EBADF));
    assert_eq!(unsplice(open_file()), Err(ENOTSOCK));
    assert_eq!(count(CLOSED), Err(EBADF));
    assert_eq!(count(open_file()), Err(ENOTSOCK));
}

fn an_absent_value(system: System) {
    let rig = Rig::spliced();
    match system {
        OpenBsd => {
            assert_eq!(set_raw(rig.source, std::ptr::null(), 0), Ok(()));
            assert_eq!(set_raw(rig.source, std::ptr::null(), 0), Err(EPROTO));
            splice(rig.source, rig.drain).unwrap();
            let byte = 0u8;
            assert_eq!(set_raw(rig.source, (&raw const byte).cast(), 0), Ok(()));
        }
        FreeBsd => {
            assert_eq!(set_raw(rig.source, std::ptr::null(), 0), Err(EINVAL));
            assert_eq!(set_raw(rig.source, std::ptr::null(), 32), Err(EFAULT));
            rig.check(b"still spliced");
        }
    }
}

fn a_value_that_is_too_short(_: System) {
    let rig = Rig::new();
    let record = record(rig.drain);
    for len in 1..4 {
        assert_eq!(set_raw(rig.source, (&raw const record).cast(), len), Err(EINVAL), "{len}");
    }
}

fn the_int_form(system: System) {
    for len in [4, 8, 31] {
        let rig = Rig::new();
        // A maximum that would be refused: the int form does not read it.
        let record = Record { max: -1, ..record(rig.drain) };
        let done = set_raw(rig.source, (&raw const record).cast(), len);
        match system {
            OpenBsd => {
                assert_eq!(done, Ok(()));
                rig.check(b"by an int");
                let none = Record { drain: -1, ..record };
                assert_eq!(set_raw(rig.source, (&raw const none).cast(), len), Ok(()));
            }
            FreeBsd => assert_eq!(done, Err(EINVAL)),
        }
    }
}

fn a_record_with_more_behind_it(_: System) {
    let rig = Rig::new();
    let records = [record(rig.drain), record(CLOSED)];
    assert_eq!(set_raw(rig.source, records.as_ptr().cast(), 40), Ok(()));
    rig.check(b"more behind it");
}

fn an_address_that_is_none(_: System) {
    let rig = Rig::new();
    assert_eq!(set_raw(rig.source, 8 as *const _, 32), Err(EFAULT));
    let mut len = 8;
    // SAFETY: the library checks the addresses.
    let done = unsafe {
        libc::getsockopt(rig.source, libc::SOL_SOCKET, SO_SPLICE, 8 as *mut _, &raw mut len)
    };
    assert_eq!(check(done as isize), Err(EFAULT));
    // SAFETY: as above.
    let done = unsafe {
        libc::getsockopt(rig.source, libc::SOL_SOCKET, SO_SPLICE, 8 as *mut _, 8 as *mut _)
    };
    assert_eq!(check(done as isize), Err(EFAULT));
}

fn a_source_that_cannot_be_spliced(system: System) {
    let rig = Rig::new();
    for source in [unix(), unconnected_raw()] {
        assert_eq!(splice(source, rig.drain), Err(EPROTONOSUPPORT));
        // First of all on OpenBSD, behind the drain's descriptor on FreeBSD.
        let bad = Record { max: -1, ..record(CLOSED) };
        let first = if system == OpenBsd { EPROTONOSUPPORT } else { EBADF };
        assert_eq!(set(source, &bad), Err(first));
    }
    if system == OpenBsd {
        assert_eq!(unsplice(unix()), Err(EPROTONOSUPPORT));
    }
}

/// A raw socket if the test may have one; another that cannot be spliced if not.
fn unconnected_raw() -> c_int {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) };
    if fd < 0 { unix() } else { fd }
}

fn a_negative_maximum(_: System) {
    let rig = Rig::new();
    assert_eq!(splice_max(rig.source, rig.drain, -1), Err(EINVAL));
    assert_eq!(splice_max(rig.source, rig.drain, i64::MIN), Err(EINVAL));
    // Zero is none.
    splice_max(rig.source, rig.drain, 0).unwrap();
    rig.check(&pattern(100_000));
}

fn an_invalid_idle_time(system: System) {
    for (idle_s, idle_us) in [(-1, 0), (0, -1), (0, 1_000_000), (1, i64::MAX)] {
        let rig = Rig::new();
        let done = set(rig.source, &Record { idle_s, idle_us, ..record(rig.drain) });
        match system {
            OpenBsd => assert_eq!(done, Err(EINVAL), "{idle_s} {idle_us}"),
            FreeBsd => assert_eq!(done, Ok(()), "{idle_s} {idle_us}"),
        }
    }
}

fn a_huge_idle_time(_: System) {
    let rig = Rig::new();
    let huge = Record { idle_s: 1 << 62, idle_us: 999_999, ..record(rig.drain) };
    set(rig.source, &huge).unwrap();
    rig.check(b"for ever");
}

fn a_drain_that_is_not_open(_: System) {
    let rig = Rig::new();
    assert_eq!(splice(rig.source, CLOSED), Err(EBADF));
    assert_eq!(splice(rig.source, c_int::MAX), Err(EBADF));
}

fn a_drain_that_is_no_socket(_: System) {
    assert_eq!(splice(Rig::new().source, open_file()), Err(ENOTSOCK));
}

fn a_drain_of_another_protocol(_: System) {
    let rig = Rig::new();
    assert_eq!(splice(rig.source, unix()), Err(EPROTONOSUPPORT));
    assert_eq!(splice(rig.source, Rig::udp().drain), Err(EPROTONOSUPPORT));
    assert_eq!(splice(Rig::udp().source, rig.drain), Err(EPROTONOSUPPORT));
    for (source_v6, drain_v6) in [(false, true), (true, false), (true, true)] {
        let rig = Rig::with(source_v6, drain_v6);
        splice(rig.source, rig.drain).unwrap();
        rig.check(b"mixed");
    }
}

fn udp(system: System) {
    let rig = Rig::udp();
    match system {
        OpenBsd => {
            splice(rig.source, rig.drain).unwrap();
            rig.check(b"datagram");
        }
        FreeBsd => assert_eq!(splice(rig.source, rig.drain), Err(EPROTONOSUPPORT)),
    }
}

fn listening_sockets(system: System) {
    let rig = Rig::new();
    let refused = Err(if system == OpenBsd { EOPNOTSUPP } else { EINVAL });
    assert_eq!(splice(listening(), rig.drain), refused);
    assert_eq!(splice(rig.source, listening()), refused);
    assert_eq!(unsplice(listening()), Err(if system == OpenBsd { EPROTO } else { EINVAL }));
    let counted = count(listening());
    assert_eq!(counted, if system == OpenBsd { Ok(0) } else { Err(ENOTCONN) });
}

fn an_unconnected_source(system: System) {
    let rig = Rig::new();
    assert_eq!(splice(unconnected(SOCK_STREAM), rig.drain), Err(ENOTCONN));
    if system == OpenBsd {
        assert_eq!(splice(unconnected(SOCK_DGRAM), Rig::udp().drain), Ok(()));
    }
}

fn an_unconnected_drain(system: System) {
    assert_eq!(splice(Rig::new().source, unconnected(SOCK_STREAM)), Err(ENOTCONN));
    if system == OpenBsd {
        assert_eq!(splice(Rig::udp().source, unconnected(SOCK_DGRAM)), Err(ENOTCONN));
    }
}

fn a_busy_source_or_drain(_: System) {
    let rig = Rig::spliced();
    let other = Rig::new();
    assert_eq!(splice(rig.source, other.drain), Err(EBUSY));
    assert_eq!(splice(other.source, rig.drain), Err(EBUSY));
    assert_eq!(splice(rig.source, rig.drain), Err(EBUSY));
    rig.check(b"not disturbed");
}

fn both_ways_and_chains_are_allowed(_: System) {
    let rig = Rig::spliced();
    splice(rig.drain, rig.source).unwrap();
    rig.check(b"there");
    send_all(rig.sink, b"back");
    assert_eq!(read_exactly(rig.feed, 4), b"back");
    let chain = Rig::new();
    splice(rig.sink, chain.drain).unwrap();
    send_all(rig.feed, b"and on");
    assert_eq!(read_exactly(chain.sink, 6), b"and on");
}

fn the_order_of_the_checks(system: System) {
    let rig = Rig::new();
    let listening = listening();
    let lone = unconnected(SOCK_STREAM);
    let worst = Record { drain: CLOSED, max: -1, idle_s: -1, idle_us: 0 };
    match system {
        OpenBsd => {
            assert_eq!(set(unix(), &worst), Err(EPROTONOSUPPORT));
            assert_eq!(set(rig.source, &worst), Err(EINVAL));
            assert_eq!(set(rig.source, &Record { max: 0, ..worst }), Err(EINVAL));
            assert_eq!(splice(lone, CLOSED), Err(EBADF));
            assert_eq!(splice(lone, unix()), Err(EPROTONOSUPPORT));
            assert_eq!(splice(lone, listening), Err(EOPNOTSUPP));
            assert_eq!(splice(lone, unconnected(SOCK_STREAM)), Err(ENOTCONN));
            let busy = Rig::spliced();
            assert_eq!(splice(busy.source, lone), Err(ENOTCONN));
            assert_eq!(splice(lone, busy.drain), Err(ENOTCONN));
        }
        FreeBsd => {
            let short = set_raw(CLOSED, (&raw const worst).cast(), 8);
            assert_eq!(short, Err(EBADF));
            assert_eq!(set(unix(), &worst), Err(EBADF));
            assert_eq!(set(unix(), &Record { drain: rig.drain, ..worst }), Err(EINVAL));
            assert_eq!(splice(unix(), rig.drain), Err(EPROTONOSUPPORT));
            assert_eq!(splice(listening, lone), Err(EINVAL));
            assert_eq!(splice(lone, listening), Err(ENOTCONN));
            // The source's EBUSY comes before anything of the drain's.
            let busy = Rig::spliced();
            assert_eq!(splice(busy.source, listening), Err(EBUSY));
            assert_eq!(splice(busy.source, lone), Err(EBUSY));
            assert_eq!(splice(rig.source, listening), Err(EINVAL));
            assert_eq!(splice(rig.source, lone), Err(ENOTCONN));
            assert_eq!(splice(rig.source, busy.drain), Err(EBUSY));
        }
    }
}

fn the_limits_are_checked_for_an_unsplice_too(_: System) {
    let rig = Rig::spliced();
    assert_eq!(splice_max(rig.source, -1, -1), Err(EINVAL));
    assert_eq!(splice_idle(rig.source, -1, -1000), Err(EINVAL));
    rig.check(b"still spliced");
}

fn the_limits_are_not_checked_for_an_unsplice(_: System) {
    let rig = Rig::spliced();
    assert_eq!(splice_max(rig.source, -1, -1), Ok(()));
}

fn taking_back(_: System) {
    let rig = Rig::spliced();
    rig.check(b"through");
    unsplice(rig.source).unwrap();
    assert_eq!(so_error(rig.source), 0);
    assert_eq!(count(rig.source), Ok(7));
    send_all(rig.feed, b"to the source");
    assert_eq!(read_exactly(rig.source, 13), b"to the source");
    // Any negative descriptor.
    splice(rig.source, rig.drain).unwrap();
    splice(rig.source, -77).unwrap();
    // And again, with a fresh count.
    splice(rig.source, rig.drain).unwrap();
    assert_eq!(count(rig.source), Ok(0));
    rig.check(b"again");
}

fn unsplice_of_what_is_not_spliced(system: System) {
    let refused = Err(if system == OpenBsd { EPROTO } else { ENOTCONN });
    let rig = Rig::new();
    assert_eq!(unsplice(rig.source), refused);
    splice(rig.source, rig.drain).unwrap();
    assert_eq!(unsplice(rig.drain), refused);
    unsplice(rig.source).unwrap();
    assert_eq!(unsplice(rig.source), refused);
}

fn unsplice_leaves_what_was_not_moved(_: System) {
    let rig = Rig::spliced();
    // The sink does not read: most of this stays behind.
    let bytes = pattern(32 << 20);
    nonblocking(rig.feed, true);
    let mut sent = 0;
    while let Ok(count) = write(rig.feed, &bytes[sent..]) {
        sent += count;
        // It may fill and empty again: what counts is that something is left.
        if count == 0 || sent == bytes.len() {
            break;
        }
    }
    unsplice(rig.source).unwrap();
    let moved = count(rig.source).unwrap() as usize;
    shutdown(rig.feed, libc::SHUT_WR);
    let rest = read_exactly(rig.source, sent - moved);
    assert!(rest == bytes[moved..sent], "what is left is not what follows");
    assert_eq!(read(rig.source, 1), Ok(vec![]));
    shutdown(rig.drain, libc::SHUT_WR);
    assert!(read_exactly(rig.sink, moved) == bytes[..moved]);
    assert_eq!(read(rig.sink, 1), Ok(vec![]));
}

fn the_count_where_nothing_was_spliced(_: System) {
    for fd in [Rig::new().source, unix(), unconnected(SOCK_STREAM), unconnected(SOCK_DGRAM)] {
        assert_eq!(count(fd), Ok(0));
    }
}

fn a_count_in_a_small_buffer(_: System) {
    let rig = Rig::spliced();
    rig.check(&pattern(0x1234));
    for room in [0usize, 1, 4, 7] {
        let mut bytes = [0xEEu8; 9];
        let mut len = room as libc::socklen_t;
        let at = bytes.as_mut_ptr().cast();
        // SAFETY: the bytes live through the call.
        let done =
            unsafe { libc::getsockopt(rig.source, libc::SOL_SOCKET, SO_SPLICE, at, &raw mut len) };
        assert_eq!((done, len as usize), (0, room));
        assert_eq!(bytes[..room], 0x1234i64.to_ne_bytes()[..room]);
        assert!(bytes[room..].iter().all(|byte| *byte == 0xEE));
    }
}

fn other_options_pass_with_errno_untouched(_: System) {
    let rig = Rig::spliced();
    // SAFETY: this thread's errno.
    unsafe { *libc::__errno_location() = 4242 };
    set_option(rig.source, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    assert_eq!(option(rig.source, libc::SO_TYPE), SOCK_STREAM);
    splice(Rig::new().source, Rig::new().drain).unwrap();
    count(rig.source).unwrap();
    assert_eq!(errno(), 4242);
    // SAFETY: no pointers.
    let done = unsafe { libc::setsockopt(rig.source, 77, 77, std::ptr::null(), 0) };
    assert_eq!(check(done as isize), Err(libc::ENOPROTOOPT));
}
