//! Tests that look at the whole process, and so have one to themselves: one test a
//! binary would do; here they take turns.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use sosplice::{Cause, EngineChoice, Limits, Splicer};
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use support::{descriptors, pattern, reset, send_and_finish, tcp_pair};

/// One at a time: they count what the process has.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn failures_leave_no_descriptor_and_no_pipe() {
    let _turn = TURN.lock();
    let splicer = Splicer::with_workers(1).unwrap();
    let before = descriptors();
    for round in 0..60 {
        let (peer, source) = tcp_pair();
        let (drain, far) = tcp_pair();
        let limits = Limits { engine: EngineChoice::Pipe, ..Limits::default() };
        let splice = splicer.splice(&source, &drain, limits).unwrap();
        // Nobody reads: the pipe is full when the reset comes.
        let mut sender = peer.try_clone().unwrap();
        sender.set_nonblocking(true).unwrap();
        while sender.write(&[1; 65536]).is_ok() {}
        let end = if round % 2 == 0 {
            reset(far);
            splice.wait()
        } else {
            drop(sender);
            reset(peer);
            splice.unsplice_by_force()
        };
        assert_ne!(end.cause, Cause::Eof);
    }
    // One pipe at rest may stay in the pool of the one worker.
    let others = |links: &[String]| {
        links.iter().filter(|link| !link.starts_with("pipe:")).cloned().collect::<Vec<_>>()
    };
    let after = descriptors();
    assert_eq!(others(&after), others(&before));
    assert!(after.len() <= before.len() + 2, "{before:?} became {after:?}");
}

#[test]
fn an_idle_splice_holds_no_pipe() {
    let _turn = TURN.lock();
    let splicer = Splicer::with_workers(1).unwrap();
    let pipes = || descriptors().iter().filter(|link| link.starts_with("pipe:")).count();
    let before = pipes();
    let mut ends = Vec::new();
    for _ in 0..100 {
        let (mut peer, source) = tcp_pair();
        let (drain, mut far) = tcp_pair();
        let limits = Limits { engine: EngineChoice::Pipe, ..Limits::default() };
        let splice = splicer.splice(&source, &drain, limits).unwrap();
        peer.write_all(b"x").unwrap();
        support::read_exactly(&mut far, 1);
        // The count is read behind the step, and behind the step the pipe is back.
        assert_eq!(splice.carried().pipe, 1);
        ends.push((peer, source, drain, far, splice));
    }
    // Two descriptors of one pipe at rest.
    assert!(pipes() <= before + 2, "{} pipes for 100 idle splices", pipes() - before);
}

/// Runs this test binary again, for one test, with the variable set.
fn child(test: &str) -> std::process::ExitStatus {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("SOSPLICE_TEST_CHILD", test)
        .status()
        .unwrap()
}

fn is_child(test: &str) -> bool {
    std::env::var_os("SOSPLICE_TEST_CHILD").is_some_and(|name| name == *test)
}

/// splice(2) raises SIGPIPE on a closed drain; a C program has not ignored it.
#[test]
#[allow(unsafe_code)]
fn sigpipe_never_kills() {
    const NAME: &str = "sigpipe_never_kills";
    if !is_child(NAME) {
        let _turn = TURN.lock();
        let status = child(NAME);
        assert!(status.success(), "exit {:?}, signal {:?}", status.code(), status.signal());
        return;
    }
    // SAFETY: the default action has no handler that could be called.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    for engine in [EngineChoice::Pipe, EngineChoice::Copy] {
        let limits = Limits { engine, ..Limits::default() };
        let splicer = Splicer::with_workers(1).unwrap();
        let closed_drain = || {
            let (peer, source) = tcp_pair();
            let (drain, far) = tcp_pair();
            drain.shutdown(std::net::Shutdown::Write).unwrap();
            let sender = send_and_finish(peer, pattern(100_000));
            (source, drain, far, sender)
        };
        let (source, drain, _far, sender) = closed_drain();
        let end = splicer.splice(&source, &drain, limits).unwrap().wait();
        assert_eq!(end.cause, Cause::DrainClosed);
        sender.join().unwrap();
        // In the caller's own thread, whose mask is as before afterwards.
        let (source, drain, far, sender) = closed_drain();
        let watched = drain.try_clone().unwrap();
        let closer = std::thread::spawn(move || {
            // Not before the splice runs: it would find a dead drain and refuse it.
            while !rustix::fs::fcntl_getfl(&watched).unwrap().contains(rustix::fs::OFlags::NONBLOCK)
            {
                std::thread::yield_now();
            }
            drop(far);
            sender.join().unwrap();
        });
        let both = sosplice::splice_both(&source, &drain, limits).unwrap();
        closer.join().unwrap();
        assert_eq!(both.a_to_b.cause, Cause::DrainClosed);
    }
    // SAFETY: sigpending fills the set that it is given.
    let pending = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigpending(&raw mut set);
        libc::sigismember(&raw const set, libc::SIGPIPE)
    };
    assert_eq!(pending, 0, "a SIGPIPE of ours is left for the caller");
}

/// Sends without a pause until the flag is set, and closes.
fn send_until_stopped(mut peer: TcpStream) -> (Arc<AtomicBool>, JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let sender = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            peer.write_all(&[0; 1 << 20]).unwrap();
        }
    });
    (stop, sender)
}

/// SO_RCVLOWAT, set first if asked.
#[allow(unsafe_code)]
fn low_water(socket: &impl AsRawFd, set: Option<i32>) -> i32 {
    let mut value: i32 = set.unwrap_or(0);
    let mut len = 4;
    let fd = socket.as_raw_fd();
    // SAFETY: value and len live through the call, and len is the size of value.
    let done = unsafe {
        match set {
            Some(_) => libc::setsockopt(fd, 1, libc::SO_RCVLOWAT, (&raw const value).cast(), 4),
            None => {
                libc::getsockopt(fd, 1, libc::SO_RCVLOWAT, (&raw mut value).cast(), &raw mut len)
            }
        }
    };
    assert_eq!(done, 0);
    value
}

/// SO_RCVLOWAT of a source in bulk is the caller's again at the end.
#[test]
fn the_low_water_mark_is_put_back() {
    let _turn = TURN.lock();
    let (peer, source) = tcp_pair();
    let (drain, far) = tcp_pair();
    let low_water = |set| low_water(&source, set);
    low_water(Some(7));
    let splicer = Splicer::with_workers(1).unwrap();
    let splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    // A flow is bulk only while it is not held up, so it goes on until it was seen.
    let (stop, sender) = send_until_stopped(peer);
    let reader = std::thread::spawn(move || std::io::copy(&mut { far }, &mut std::io::sink()));
    while low_water(None) <= 7 {
        assert!(splice.transferred() < 100 << 30, "100 GiB were not taken for bulk");
        std::thread::yield_now();
    }
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    assert_eq!(splice.wait().cause, Cause::Eof);
    assert_eq!(low_water(None), 7);
    drop(drain);
    reader.join().unwrap().unwrap();
}

/// Between two polls the mark stands: one that each poll took away again saved nothing.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn the_mark_of_bulk_stands_between_polls() {
    let turn = TURN.lock();
    let ((peer, source), (drain, far)) = (tcp_pair(), tcp_pair());
    let watched = source.try_clone().unwrap();
    let (stop, sender) = send_until_stopped(peer);
    let reader = std::thread::spawn(move || std::io::copy(&mut { far }, &mut std::io::sink()));
    let socket = |socket: std::net::TcpStream| {
        socket.set_nonblocking(true).unwrap();
        tokio::net::TcpStream::from_std(socket).unwrap()
    };
    let (source, drain) = (socket(source), socket(drain));
    let splice = tokio::spawn(async move {
        sosplice::tokio::splice(&source, &drain, Limits::default()).await.unwrap()
    });
    // One thread runs both tasks, so this one looks only between polls of the other.
    while low_water(&watched, None) == 1 {
        assert!(!splice.is_finished());
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    let end = splice.await.unwrap();
    assert_eq!(end.cause, Cause::Eof);
    assert_eq!(low_water(&watched, None), 1);
    sender.join().unwrap();
    reader.join().unwrap().unwrap();
    drop(turn);
}
