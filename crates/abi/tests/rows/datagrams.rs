//! UDP, which OpenBSD splices: message by message.

use crate::System::OpenBsd;
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
    OPENBSD a_burst_of_all_sizes;
    OPENBSD a_burst_that_the_sender_joined;
    OPENBSD a_burst_that_the_program_has_joined;
    OPENBSD a_maximum_in_the_middle_of_a_burst;
    OPENBSD a_maximum_inside_a_datagram_of_a_burst;
    OPENBSD one_too_long_in_the_middle_of_a_burst;
    OPENBSD an_unsplice_in_the_middle_of_a_burst;
    OPENBSD what_is_left_of_a_burst_has_its_senders;
    OPENBSD empty_datagrams_that_the_program_had_looked_at;
    OPENBSD a_burst_leaves_the_peek_offset_alone;
    OPENBSD a_source_shut_down_for_reading;
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

/// Large enough for every burst of these tests.
fn roomy() -> Rig {
    let rig = Rig::udp();
    for fd in [rig.source, rig.sink] {
        set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 1 << 22);
    }
    rig
}

/// Reads until nothing is there.
fn rest(fd: c_int) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| recv(fd, 65_536, libc::MSG_DONTWAIT).ok()).collect()
}

/// One message to the kernel, which it cuts into datagrams.
fn send_joined(fd: c_int, bytes: &[u8], segment: c_int) {
    set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    assert_eq!(write(fd, bytes), Ok(bytes.len()));
    set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0);
}

fn a_burst_of_all_sizes(_: System) {
    let rig = roomy();
    let lens = [0, 1, 1000, 1000, 1000, 300, 9000, 0, 0, 60_000, 1472, 1473, 7, 7, 7, 0];
    let burst: Vec<Vec<u8>> = lens.iter().cycle().take(100).map(|len| pattern(*len)).collect();
    for datagram in &burst {
        write(rig.feed, datagram).unwrap();
    }
    splice(rig.source, rig.drain).unwrap();
    for datagram in &burst {
        assert_eq!(&read(rig.sink, 65_536).unwrap(), datagram);
    }
    let bytes: usize = burst.iter().map(Vec::len).sum();
    assert_eq!(count(rig.source), Ok(bytes as i64));
    assert!(rest(rig.sink).is_empty() && is_running(OpenBsd, rig.source));
}

fn a_burst_that_the_sender_joined(_: System) {
    let rig = roomy();
    splice(rig.source, rig.drain).unwrap();
    let bytes = pattern(19_500);
    for _ in 0..10 {
        send_joined(rig.feed, &bytes, 1000);
        for part in bytes.chunks(1000) {
            assert_eq!(read(rig.sink, 65_536).unwrap(), part);
        }
    }
    assert_eq!(count(rig.source), Ok(195_000));
}

fn a_burst_that_the_program_has_joined(_: System) {
    let rig = roomy();
    set_option(rig.source, libc::SOL_UDP, libc::UDP_GRO, 1);
    let bytes = pattern(19_500);
    for _ in 0..5 {
        send_joined(rig.feed, &bytes, 1000);
    }
    splice(rig.source, rig.drain).unwrap();
    for _ in 0..5 {
        for part in bytes.chunks(1000) {
            assert_eq!(read(rig.sink, 65_536).unwrap(), part);
        }
    }
    assert_eq!(count(rig.source), Ok(97_500));
}

fn a_maximum_in_the_middle_of_a_burst(_: System) {
    let rig = roomy();
    for number in 0..100u8 {
        write(rig.feed, &[number; 100]).unwrap();
    }
    splice_max(rig.source, rig.drain, 5000).unwrap();
    rig.wait_end();
    assert_eq!(count(rig.source), Ok(5000));
    let numbers = |fd| rest(fd).iter().map(|datagram| datagram[0]).collect::<Vec<u8>>();
    assert_eq!(numbers(rig.sink), (0..50).collect::<Vec<u8>>());
    assert_eq!(so_error(rig.source), EFBIG);
    assert_eq!(numbers(rig.source), (50..100).collect::<Vec<u8>>());
}

fn a_maximum_inside_a_datagram_of_a_burst(_: System) {
    let rig = roomy();
    for number in 0..100u8 {
        write(rig.feed, &[number; 100]).unwrap();
    }
    splice_max(rig.source, rig.drain, 5050).unwrap();
    rig.wait_end();
    assert_eq!(count(rig.source), Ok(5000));
    assert_eq!(so_error(rig.source), 0);
    assert_eq!(rest(rig.sink).len(), 50);
    let left = rest(rig.source);
    assert_eq!((left.len(), left[0].clone()), (50, vec![50; 100]));
}

fn one_too_long_in_the_middle_of_a_burst(_: System) {
    let rig = roomy();
    set_option(rig.drain, libc::SOL_SOCKET, libc::SO_SNDBUF, 10_000);
    for number in 0..20u8 {
        write(rig.feed, &pattern(if number == 12 { 20_000 } else { 500 })).unwrap();
    }
    splice(rig.source, rig.drain).unwrap();
    rig.wait_end();
    assert_eq!(rest(rig.sink).len(), 12);
    assert_eq!(count(rig.source), Ok(6000));
    assert_eq!(read(rig.source, 65_536).unwrap().len(), 20_000);
    assert_eq!(so_error(rig.source), EMSGSIZE);
    assert_eq!(rest(rig.source).len(), 7);
}

fn an_unsplice_in_the_middle_of_a_burst(_: System) {
    let rig = roomy();
    let datagram = |number: u32| number.to_ne_bytes().repeat(1 + number as usize % 50);
    let feed = rig.feed;
    splice(rig.source, rig.drain).unwrap();
    let sender = std::thread::spawn(move || {
        for number in 0..2000 {
            write(feed, &datagram(number)).unwrap();
        }
    });
    eventually("some have gone", || count(rig.source).unwrap() > 10_000);
    unsplice(rig.source).unwrap();
    sender.join().unwrap();
    let (mut all, left) = (rest(rig.sink), rest(rig.source));
    let moved: usize = all.iter().map(Vec::len).sum();
    assert_eq!(count(rig.source), Ok(moved as i64));
    all.extend(left);
    assert_eq!(all.len(), 2000);
    for (number, got) in (0..).zip(all) {
        assert_eq!(got, datagram(number));
    }
}

fn what_is_left_of_a_burst_has_its_senders(_: System) {
    let source = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let rig = Rig::udp();
    let at = source.local_addr().unwrap();
    let senders: Vec<_> =
        (0..20).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for sender in &senders {
        sender.send_to(b"ten bytes.", at).unwrap();
    }
    let fd = std::os::fd::AsRawFd::as_raw_fd(&source);
    splice_max(fd, rig.drain, 100).unwrap();
    eventually("the end", || !is_running(OpenBsd, fd));
    assert_eq!(rest(rig.sink).len(), 10);
    assert_eq!(so_error(fd), EFBIG);
    for sender in &senders[10..] {
        let (len, from) = source.recv_from(&mut [0; 20]).unwrap();
        assert_eq!((len, from), (10, sender.local_addr().unwrap()));
    }
}

fn empty_datagrams_that_the_program_had_looked_at(_: System) {
    let rig = roomy();
    // Looks see one behind the other: the kernel marks the empty ones as seen.
    set_option(rig.source, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0);
    let burst: Vec<&[u8]> = [b"" as &[u8], b"a", b"", b"b", b""].repeat(20);
    for datagram in &burst {
        write(rig.feed, datagram).unwrap();
        recv(rig.source, 9, libc::MSG_PEEK).unwrap();
    }
    set_option(rig.source, libc::SOL_SOCKET, libc::SO_PEEK_OFF, -1);
    splice(rig.source, rig.drain).unwrap();
    write(rig.feed, b"last").unwrap();
    let mut got = Vec::new();
    while got.last().is_none_or(|datagram| datagram != b"last") {
        got.push(read(rig.sink, 9).unwrap());
    }
    got.extend(rest(rig.sink));
    assert_eq!(got.len(), burst.len() + 1, "each once");
    got.retain(|datagram| !datagram.is_empty());
    let letters: Vec<&[u8]> = burst.into_iter().filter(|datagram| !datagram.is_empty()).collect();
    assert_eq!(got[..letters.len()], letters, "in their order");
    assert_eq!(count(rig.source), Ok(44));
}

fn a_burst_leaves_the_peek_offset_alone(_: System) {
    let rig = roomy();
    assert_eq!(option(rig.source, libc::SO_PEEK_OFF), -1);
    for _ in 0..100 {
        write(rig.feed, b"some").unwrap();
    }
    splice(rig.source, rig.drain).unwrap();
    assert_eq!(count(rig.source), Ok(400));
    assert_eq!(option(rig.source, libc::SO_PEEK_OFF), -1);
}

fn a_source_shut_down_for_reading(_: System) {
    let rig = spliced();
    write(rig.feed, b"before").unwrap();
    assert_eq!(read(rig.sink, 9).unwrap(), b"before");
    shutdown(rig.source, libc::SHUT_RD);
    rig.wait_end();
    assert_eq!(so_error(rig.source), 0);
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
