//! The synchronous driver on real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use sosplice::{Cause, EngineChoice, Error, Limits, Splicer};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use support::{pattern, read_exactly, reset, send_and_finish, tcp_pair};

const MIB: usize = 1 << 20;

fn is_nonblocking(socket: &impl AsFd) -> bool {
    fcntl_getfl(socket).unwrap().contains(OFlags::NONBLOCK)
}

/// peer -> (source -> drain) -> far
fn chain() -> (TcpStream, TcpStream, TcpStream, TcpStream) {
    let (peer, source) = tcp_pair();
    let (drain, far) = tcp_pair();
    (peer, source, drain, far)
}

#[test]
fn bulk_arrives_whole_and_by_the_pipe() {
    let (peer, source, drain, mut far) = chain();
    let splicer = Splicer::with_workers(1).unwrap();
    let splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    let bytes = pattern(64 * MIB);
    let sender = send_and_finish(peer, bytes.clone());
    assert!(read_exactly(&mut far, bytes.len()) == bytes);
    sender.join().unwrap();
    let end = splice.wait();
    assert_eq!((end.cause, end.bytes), (Cause::Eof, bytes.len() as u64));
    assert!(end.carried.pipe * 100 >= end.bytes * 99, "{:?}", end.carried);
    assert_eq!(splice.transferred(), end.bytes);
    // The end of file was not forwarded: the drain is still ours to write to.
    (&drain).write_all(b"more").unwrap();
    assert_eq!(read_exactly(&mut far, 4), b"more");
}

#[test]
fn every_engine_is_byte_exact_at_every_boundary() {
    let splicer = Splicer::new().unwrap();
    for engine in [EngineChoice::Auto, EngineChoice::Pipe, EngineChoice::Copy] {
        for len in [0, 1, 1448, 65_535, 65_536, 65_537, 3 * MIB + 1] {
            let (peer, source, drain, mut far) = chain();
            let limits = Limits { engine, ..Limits::default() };
            let splice = splicer.splice(&source, &drain, limits).unwrap();
            let bytes = pattern(len);
            let sender = send_and_finish(peer, bytes.clone());
            assert!(read_exactly(&mut far, len) == bytes, "{engine:?} {len}");
            sender.join().unwrap();
            let end = splice.wait();
            assert_eq!((end.cause, end.bytes), (Cause::Eof, len as u64));
            match engine {
                EngineChoice::Pipe => assert_eq!(end.carried.copy, 0),
                EngineChoice::Copy => assert_eq!(end.carried.pipe, 0),
                EngineChoice::Auto => {}
            }
        }
    }
}

#[test]
fn a_byte_that_the_receiver_has_seen_is_counted() {
    let (mut peer, source, drain, mut far) = chain();
    let splicer = Splicer::with_workers(1).unwrap();
    for engine in [EngineChoice::Copy, EngineChoice::Pipe] {
        let splice =
            splicer.splice(&source, &drain, Limits { engine, ..Limits::default() }).unwrap();
        for seen in 1..=500 {
            peer.write_all(b"x").unwrap();
            read_exactly(&mut far, 1);
            assert_eq!(splice.transferred(), seen);
        }
        assert_eq!(splice.unsplice().cause, Cause::Unspliced);
    }
}

#[test]
fn max_is_exact_and_the_rest_stays_readable() {
    let splicer = Splicer::with_workers(1).unwrap();
    for max in [1, 100, 70_000, 900_001] {
        let (peer, mut source, drain, mut far) = chain();
        let bytes = pattern(MIB);
        let sender = send_and_finish(peer, bytes.clone());
        let limits = Limits { max: Some(max as u64), ..Limits::default() };
        let reader = std::thread::spawn(move || read_exactly(&mut far, max));
        let end = splicer.splice(&source, &drain, limits).unwrap().wait();
        assert_eq!((end.cause, end.bytes), (Cause::Max, max as u64));
        assert!(end.residue.is_empty());
        assert!(reader.join().unwrap() == bytes[..max]);
        assert!(read_exactly(&mut source, MIB - max) == bytes[max..]);
        sender.join().unwrap();
    }
}

#[test]
fn an_idle_splice_ends_and_can_be_made_again() {
    let (mut peer, source, drain, mut far) = chain();
    let splicer = Splicer::with_workers(1).unwrap();
    let limits = Limits { idle: Some(Duration::from_millis(30)), ..Limits::default() };
    for round in 0..3u8 {
        peer.write_all(&[round]).unwrap();
        let end = splicer.splice(&source, &drain, limits).unwrap().wait();
        assert_eq!((end.cause, end.bytes), (Cause::Idle, 1));
        assert_eq!(read_exactly(&mut far, 1), [round]);
    }
}

#[test]
fn unsplice_leaves_what_was_not_taken() {
    let (mut peer, mut source, drain, mut far) = chain();
    let splicer = Splicer::with_workers(1).unwrap();
    let splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    peer.write_all(b"one").unwrap();
    assert_eq!(read_exactly(&mut far, 3), b"one");
    assert_eq!(splice.unsplice().cause, Cause::Unspliced);
    // A second time, and by force, changes nothing.
    assert_eq!(splice.unsplice_by_force().bytes, 3);
    peer.write_all(b"two").unwrap();
    assert_eq!(read_exactly(&mut source, 3), b"two");
}

#[test]
fn force_hands_over_what_a_stuck_drain_did_not_take() {
    let (peer, mut source, drain, mut far) = chain();
    let splicer = Splicer::with_workers(1).unwrap();
    let splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    let bytes = pattern(32 * MIB);
    let sender = send_and_finish(peer, bytes.clone());
    // Nobody reads, so both socket buffers fill up and the splice holds something.
    let mut last = 0;
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = splice.transferred();
        if now == last && now > 0 {
            break;
        }
        last = now;
    }
    let end = splice.unsplice_by_force();
    assert_eq!(end.cause, Cause::Unspliced);
    let given = end.bytes as usize;
    assert!(read_exactly(&mut far, given) == bytes[..given]);
    let held = end.residue.len();
    assert!(end.residue == bytes[given..given + held]);
    let rest = read_exactly(&mut source, bytes.len() - given - held);
    assert!(rest == bytes[given + held..]);
    sender.join().unwrap();
}

#[test]
fn blocking_sockets_are_blocking_again_behind_the_last_splice() {
    let (_peer, a, b, _far) = chain();
    let splicer = Splicer::with_workers(2).unwrap();
    assert!(!is_nonblocking(&a) && !is_nonblocking(&b));
    let there = splicer.splice(&a, &b, Limits::default()).unwrap();
    let back = splicer.splice(&b, &a, Limits::default()).unwrap();
    assert!(is_nonblocking(&a) && is_nonblocking(&b));
    there.unsplice();
    // The other direction still needs it: a worker would sleep otherwise.
    assert!(is_nonblocking(&a) && is_nonblocking(&b));
    back.unsplice();
    assert!(!is_nonblocking(&a) && !is_nonblocking(&b));
    // One that was non-blocking stays so.
    a.set_nonblocking(true).unwrap();
    splicer.splice(&a, &b, Limits::default()).unwrap().unsplice();
    assert!(is_nonblocking(&a) && !is_nonblocking(&b));
}

#[test]
fn the_end_makes_a_descriptor_readable() {
    let (peer, source, drain, _far) = chain();
    let splicer = Splicer::with_workers(1).unwrap();
    let splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    let readable = |ms: i64| {
        let mut fds = [PollFd::from_borrowed_fd(splice.as_fd().unwrap(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: ms * 1_000_000 })).unwrap() == 1
    };
    assert!(!readable(0));
    assert!(splice.end().is_none());
    drop(peer);
    splice.wait();
    assert!(readable(900));
    // Asked for only afterwards, it is readable at once.
    let (peer, source, drain, _far) = chain();
    let splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    drop(peer);
    splice.wait();
    let mut fds = [PollFd::from_borrowed_fd(splice.as_fd().unwrap(), PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap(), 1);
}

#[test]
fn what_cannot_be_spliced_is_refused_with_its_name() {
    let splicer = Splicer::with_workers(1).unwrap();
    let (a, b) = tcp_pair();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let limits = Limits::default();
    let says = |error: Error| error.to_string();
    let error = says(splicer.splice(&udp, &b, limits).unwrap_err());
    assert!(error.contains("source") && error.contains("datagram"), "{error}");
    let error = says(splicer.splice(&a, &udp, limits).unwrap_err());
    assert!(error.contains("drain") && error.contains("datagram"), "{error}");
    let error = says(splicer.splice(&listener, &b, limits).unwrap_err());
    assert!(error.contains("source") && error.contains("listening"), "{error}");
    let unconnected =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let error = says(splicer.splice(&a, &unconnected, limits).unwrap_err());
    assert!(error.contains("drain") && error.contains("not connected"), "{error}");
    // A refused splice leaves no trace.
    assert!(!is_nonblocking(&a) && !is_nonblocking(&b));
}

#[test]
fn a_drain_that_is_still_connecting_gets_its_bytes_later() {
    let (mut peer, source) = tcp_pair();
    // A listener that accepts nothing: its queue takes the connection whenever it likes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let drain = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    drain.set_nonblocking(true).unwrap();
    let _ = drain.connect(&listener.local_addr().unwrap().into());
    let splicer = Splicer::with_workers(1).unwrap();
    let _splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    peer.write_all(b"early").unwrap();
    let (mut far, _) = listener.accept().unwrap();
    assert_eq!(read_exactly(&mut far, 5), b"early");
}

#[test]
fn a_closed_drain_ends_a_silent_splice() {
    // Nothing is sent, so no write can fail: the hang-up itself must end it.
    let (_peer, source, drain, far) = chain();
    let splicer = Splicer::with_workers(1).unwrap();
    let splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    reset(far);
    let end = splice.wait();
    assert!(matches!(end.cause, Cause::DrainError(_) | Cause::DrainClosed), "{:?}", end.cause);
}

#[test]
fn a_reset_source_is_told_behind_its_bytes() {
    let (mut peer, source, drain, mut far) = chain();
    peer.write_all(b"last words").unwrap();
    let splicer = Splicer::with_workers(1).unwrap();
    let splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    assert_eq!(read_exactly(&mut far, 10), b"last words");
    reset(peer);
    let end = splice.wait();
    assert_eq!(end.bytes, 10);
    assert!(
        matches!(end.cause, Cause::SourceError(error) if error.raw() == 104),
        "{:?}",
        end.cause
    );
}

#[test]
fn an_urgent_mark_hangs_no_flow() {
    let splicer = Splicer::with_workers(1).unwrap();
    for engine in [EngineChoice::Auto, EngineChoice::Pipe, EngineChoice::Copy] {
        let (mut peer, source, drain, mut far) = chain();
        let splice =
            splicer.splice(&source, &drain, Limits { engine, ..Limits::default() }).unwrap();
        for _ in 0..50 {
            peer.write_all(b"before").unwrap();
            socket2::SockRef::from(&peer).send_out_of_band(b"!").unwrap();
            peer.write_all(b"behind").unwrap();
            assert_eq!(read_exactly(&mut far, 12), b"beforebehind", "{engine:?}");
        }
        drop(peer);
        assert_eq!(splice.wait().cause, Cause::Eof);
    }
}

#[test]
fn a_socket_spliced_to_itself_is_an_echo() {
    let (mut peer, source) = tcp_pair();
    let splicer = Splicer::with_workers(1).unwrap();
    let splice = splicer.splice(&source, &source, Limits::default()).unwrap();
    for round in 0..100u8 {
        peer.write_all(&[round; 100]).unwrap();
        assert_eq!(read_exactly(&mut peer, 100), [round; 100]);
    }
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(splice.wait().cause, Cause::Eof);
}

#[test]
fn unix_sockets_use_both_engines() {
    let (mut peer, source) = UnixStream::pair().unwrap();
    let (drain, mut far) = UnixStream::pair().unwrap();
    let splicer = Splicer::with_workers(1).unwrap();
    let splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    let bytes = pattern(8 * MIB);
    let sent = bytes.clone();
    let sender = std::thread::spawn(move || peer.write_all(&sent).unwrap());
    assert!(read_exactly(&mut far, bytes.len()) == bytes);
    sender.join().unwrap();
    let end = splice.wait();
    assert_eq!((end.cause, end.bytes), (Cause::Eof, bytes.len() as u64));
    assert!(end.carried.pipe > 0, "{:?}", end.carried);
}

#[test]
fn files_and_pipes_are_copied() {
    let splicer = Splicer::with_workers(1).unwrap();
    let bytes = pattern(3 * MIB + 7);
    let path = std::env::temp_dir().join(format!("sosplice-test-{}", std::process::id()));
    std::fs::write(&path, &bytes).unwrap();
    // A regular file, which epoll does not take, into a pipe, into a socket.
    let file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let (drain, mut far) = tcp_pair();
    let first = splicer.splice(&file, &writer, Limits::default()).unwrap();
    drop(writer);
    let second = splicer.splice(&reader, &drain, Limits::default()).unwrap();
    assert!(read_exactly(&mut far, bytes.len()) == bytes);
    for end in [first.wait(), second.wait()] {
        assert_eq!((end.cause, end.carried.copy), (Cause::Eof, bytes.len() as u64));
    }
}

#[test]
fn a_splice_outlives_its_handle_and_the_callers_descriptors() {
    let (mut peer, source, drain, mut far) = chain();
    let splicer = Splicer::with_workers(1).unwrap();
    drop(splicer.splice(&source, &drain, Limits::default()).unwrap());
    drop((source, drain));
    peer.write_all(b"on").unwrap();
    assert_eq!(read_exactly(&mut far, 2), b"on");
    drop(splicer);
    // The splicer's end closes its descriptors, and with them the connections.
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
}

#[test]
fn dropping_the_splicer_tells_every_handle() {
    let (_peer, source, drain, _far) = chain();
    let splicer = Splicer::with_workers(1).unwrap();
    let splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    let both = splicer.splice_both(&source, &drain, Limits::default()).unwrap();
    drop(splicer);
    assert_eq!(splice.wait().cause, Cause::Unspliced);
    assert_eq!(both.wait().a_to_b.cause, Cause::Unspliced);
    assert_eq!(splice.unsplice().cause, Cause::Unspliced);
    assert!(!is_nonblocking(&source) && !is_nonblocking(&drain));
}

/// Fills everything between a source and its drain, whose far end does not read.
fn fill(mut peer: &TcpStream, splice_takes: impl Fn() -> u64) {
    peer.set_nonblocking(true).unwrap();
    let mut last = (u64::MAX, 0);
    // Full when neither the peer nor the splice got rid of anything for a while.
    loop {
        let mut wrote = 0;
        while let Ok(count) = peer.write(&[1; 65536]) {
            wrote += count;
        }
        let now = (splice_takes(), wrote);
        if wrote == 0 && now.0 == last.0 {
            return;
        }
        last = now;
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_reset_source_is_seen_behind_a_full_drain() {
    // The direction waits for room and does not read: no call would meet the reset.
    let splicer = Splicer::with_workers(1).unwrap();
    for engine in [EngineChoice::Pipe, EngineChoice::Copy] {
        let limits = Limits { engine, ..Limits::default() };
        let (peer, source, drain, _far) = chain();
        let splice = splicer.splice(&source, &drain, limits).unwrap();
        fill(&peer, || splice.transferred());
        reset(peer);
        assert!(matches!(splice.wait().cause, Cause::SourceError(error) if error.raw() == 104));

        let (peer, a, b, _far) = chain();
        let both = splicer.splice_both(&a, &b, limits).unwrap();
        fill(&peer, || both.carried().0.total());
        reset(peer);
        let ends = both.wait();
        assert!(matches!(ends.a_to_b.cause, Cause::SourceError(_)), "{:?}", ends.a_to_b.cause);
        assert!(matches!(ends.b_to_a.cause, Cause::DrainError(_)), "{:?}", ends.b_to_a.cause);
    }
}
