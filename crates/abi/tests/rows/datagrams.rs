//! UDP, which OpenBSD splices: message by message.

use crate::sockets::*;
use crate::{System, cases};
use libc::{ECONNREFUSED, EFBIG, EMSGSIZE, c_int};

cases! {
    OPENBSD boundaries_are_kept;
    OPENBSD an_empty_datagram_is_one;
    OPENBSD a_maximum_between_datagrams;
    OPENBSD a_maximum_inside_a_datagram;
    OPENBSD a_datagram_that_the_drain_can_never_take;
    OPENBSD a_refused_port_behind_the_drain;
    OPENBSD from_anyone;
    OPENBSD many_datagrams_in_order;
    OPENBSD a_datagram_loop;
    OPENBSD the_idle_limit_of_datagrams;
}

fn spliced() -> Rig {
    let rig = Rig::udp();
    splice(rig.source, rig.drain).unwrap();
    rig
}

fn boundaries_are_kept(_: System) {
    let rig = spliced();
    for len in [1, 100, 1472, 9000, 60_000] {
        let bytes = pattern(len);
        assert_eq!(write(rig.feed, &bytes), Ok(len));
        assert_eq!(read(rig.sink, 65_536).unwrap(), bytes);
    }
    assert_eq!(count(rig.source), Ok(1 + 100 + 1472 + 9000 + 60_000));
}

fn an_empty_datagram_is_one(_: System) {
    let rig = spliced();
    write(rig.feed, b"").unwrap();
    write(rig.feed, b"next").unwrap();
    assert_eq!(read(rig.sink, 9).unwrap(), b"");
    assert_eq!(read(rig.sink, 9).unwrap(), b"next");
    assert_eq!(count(rig.source), Ok(4));
}

fn a_maximum_between_datagrams(_: System) {
    let rig = Rig::udp();
    splice_max(rig.source, rig.drain, 10).unwrap();
    for text in [b"12345", b"67890", b"later"] {
        write(rig.feed, text).unwrap();
    }
    assert_eq!(read(rig.sink, 9).unwrap(), b"12345");
    assert_eq!(read(rig.sink, 9).unwrap(), b"67890");
    rig.wait_end();
    assert_eq!(count(rig.source), Ok(10));
    assert_eq!(read(rig.source, 9).unwrap(), b"later");
    assert_eq!(read(rig.source, 9), Err(EFBIG));
}

fn a_maximum_inside_a_datagram(_: System) {
    let rig = Rig::udp();
    splice_max(rig.source, rig.drain, 7).unwrap();
    write(rig.feed, b"12345").unwrap();
    write(rig.feed, b"67890").unwrap();
    assert_eq!(read(rig.sink, 9).unwrap(), b"12345");
    rig.wait_end();
    assert_eq!(so_error(rig.source), 0);
    assert_eq!(read(rig.source, 9).unwrap(), b"67890");
}

fn a_datagram_that_the_drain_can_never_take(_: System) {
    let rig = Rig::udp();
    set_option(rig.drain, libc::SOL_SOCKET, libc::SO_SNDBUF, 10_000);
    splice(rig.source, rig.drain).unwrap();
    write(rig.feed, &pattern(10_000)).unwrap();
    assert_eq!(read(rig.sink, 65_536).unwrap().len(), 10_000);
    write(rig.feed, &pattern(30_000)).unwrap();
    rig.wait_end();
    assert_eq!(read(rig.source, 65_536).unwrap().len(), 30_000);
    assert_eq!(read(rig.source, 1), Err(EMSGSIZE));
}

fn a_refused_port_behind_the_drain(_: System) {
    let rig = spliced();
    close(rig.sink);
    write(rig.feed, b"nobody there").unwrap();
    rig.wait_end();
    assert_eq!(so_error(rig.source), ECONNREFUSED);
    assert_eq!(so_error(rig.source), 0);
    assert_eq!(so_error(rig.drain), ECONNREFUSED);
}

fn from_anyone(_: System) {
    let source = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let rig = Rig::udp();
    let at = source.local_addr().unwrap();
    splice(raw(source), rig.drain).unwrap();
    for text in [b"one", b"two"] {
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(text, at).unwrap();
        assert_eq!(read(rig.sink, 9).unwrap(), text);
    }
}

fn many_datagrams_in_order(_: System) {
    let rig = spliced();
    let buffer: c_int = 1 << 20;
    set_option(rig.sink, libc::SOL_SOCKET, libc::SO_RCVBUF, buffer);
    for number in 0..5000u32 {
        write(rig.feed, &number.to_ne_bytes()).unwrap();
        if number % 50 == 49 {
            for expected in number - 49..=number {
                assert_eq!(read(rig.sink, 9).unwrap(), expected.to_ne_bytes());
            }
        }
    }
    assert_eq!(count(rig.source), Ok(20_000));
}

fn a_datagram_loop(_: System) {
    let (near, far) = udp();
    splice(near, near).unwrap();
    splice(far, far).unwrap();
    // From a third party nothing comes in: both are connected. So by the drain itself.
    write(near, b"round").unwrap();
    let mut at = -1;
    eventually("the end", || {
        at = [near, far].into_iter().find(|fd| poll(*fd, libc::POLLIN, 0) != 0).unwrap_or(-1);
        at >= 0
    });
    assert_eq!(read(at, 9).unwrap(), b"round");
    assert_eq!(read(at, 9), Err(libc::ELOOP));
    assert_eq!(count(near).unwrap() + count(far).unwrap(), 128 * 5);
}

fn the_idle_limit_of_datagrams(_: System) {
    let rig = Rig::udp();
    splice_idle(rig.source, rig.drain, 50).unwrap();
    assert_eq!(read(rig.source, 1), Err(libc::ETIMEDOUT));
}
