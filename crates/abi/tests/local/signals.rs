//! Signals that come while an end sleeps on the connection.
//!
//! A timer repeats the signal, so it does not matter whether the first one comes before the
//! call has begun to sleep.

use crate::calls::*;
use crate::cases;
use crate::duplicates::trips;
use crate::end::End;
use crate::waits::*;
use libc::{EPOLLIN, MSG_NOSIGNAL, MSG_WAITALL, POLLIN, SA_RESTART, c_int};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

cases! {
    PROCESSES a_receive_is_interrupted;
    PROCESSES a_receive_is_restarted;
    PROCESSES a_receive_with_a_time_limit_is_not_restarted;
    PROCESSES a_receive_for_all_gives_what_it_has;
    PROCESSES a_receive_for_all_is_restarted_with_nothing;
    PROCESSES a_send_is_interrupted;
    PROCESSES a_send_is_restarted;
    PROCESSES a_send_gives_what_it_has;
    PROCESSES waits_are_interrupted_and_never_restarted;
    PROCESSES a_mask_is_changed_for_the_wait_alone;
    PROCESSES a_handler_that_writes;
    PROCESSES a_handler_that_reads;
    PROCESSES interrupted_all_the_time;
    PROCESSES a_signal_tells_of_bytes;
}

static COUNT: AtomicUsize = AtomicUsize::new(0);
static SOCKET: AtomicI32 = AtomicI32::new(-1);

extern "C" fn count(_: c_int) {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// One byte goes out of the handler.
extern "C" fn write_one(_: c_int) {
    if COUNT.fetch_add(1, Ordering::Relaxed) < 3 {
        let _ = write(SOCKET.load(Ordering::Relaxed), b"h");
    }
}

/// One byte is taken by the handler.
extern "C" fn read_one(_: c_int) {
    let mut byte = 0u8;
    let fd = SOCKET.load(Ordering::Relaxed);
    // SAFETY: the byte lives through the call.
    let got = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_DONTWAIT) };
    COUNT.fetch_add(usize::from(got == 1), Ordering::Relaxed);
}

/// SIGALRM goes to `handler`, every 15 ms.
fn alarms(handler: extern "C" fn(c_int), flags: c_int) {
    COUNT.store(0, Ordering::Relaxed);
    // SAFETY: zeroes are a valid action; the handlers make calls that they may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()), 0);
    }
    every(15_000);
}

/// So many microseconds between alarms; zero stops them.
fn every(us: i64) {
    let time = libc::timeval { tv_sec: 0, tv_usec: us };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    let none = std::ptr::null_mut::<libc::itimerval>();
    // SAFETY: the timer lives through the call.
    unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, none) };
}

fn came() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

/// A sleep begins in another way than it goes on: signals come in both.
const EARLY_AND_LATE_US: [i64; 2] = [2_000, 15_000];

fn a_receive_is_interrupted(end: &mut End) {
    if end.near() {
        let each =
            [0, libc::MSG_PEEK, MSG_WAITALL].map(|flags| EARLY_AND_LATE_US.map(|us| (flags, us)));
        for (flags, us) in each.into_iter().flatten() {
            alarms(count, 0);
            every(us);
            let found = recv(end.fd, 10, flags);
            every(0);
            end.saw("interrupted", (found, came()));
        }
        end.meet();
        let got = read_exactly(end.fd, 5);
        end.saw("and then", got);
    } else {
        end.meet();
        send_all(end.fd, b"hello");
    }
}

fn a_receive_is_restarted(end: &mut End) {
    for us in EARLY_AND_LATE_US {
        if end.near() {
            alarms(count, SA_RESTART);
            every(us);
            end.meet();
            let found = read(end.fd, 10);
            every(0);
            end.saw("restarted", (found, came()));
        } else {
            end.meet();
            pause_ms(120);
            send_all(end.fd, b"hello");
        }
    }
}

fn a_receive_with_a_time_limit_is_not_restarted(end: &mut End) {
    if end.near() {
        set_value(end.fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &milliseconds(15_000)).unwrap();
        for us in EARLY_AND_LATE_US {
            alarms(count, SA_RESTART);
            every(us);
            let found = read(end.fd, 10);
            every(0);
            end.saw("interrupted", (found, came()));
        }
    }
}

fn a_receive_for_all_gives_what_it_has(end: &mut End) {
    let each = [0, SA_RESTART].map(|flags| EARLY_AND_LATE_US.map(|us| (flags, us)));
    for (flags, us) in each.into_iter().flatten() {
        if end.near() {
            end.meet();
            await_queued(end.fd, 5);
            alarms(count, flags);
            every(us);
            let found = recv(end.fd, 10, MSG_WAITALL);
            every(0);
            end.saw("some", (found, came()));
        } else {
            send_all(end.fd, b"12345");
            end.meet();
        }
        end.meet();
    }
}

fn a_receive_for_all_is_restarted_with_nothing(end: &mut End) {
    if end.near() {
        alarms(count, SA_RESTART);
        end.meet();
        let found = recv(end.fd, 10, MSG_WAITALL);
        every(0);
        end.saw("all", (found, came()));
    } else {
        end.meet();
        pause_ms(100);
        send_all(end.fd, b"1234567890");
    }
}

fn a_send_is_interrupted(end: &mut End) {
    if end.near() {
        let bytes = stuff_for_good(end.fd);
        for _ in 0..2 {
            alarms(count, 0);
            let found = send(end.fd, b"does not fit", MSG_NOSIGNAL);
            every(0);
            end.saw("interrupted", (found, came()));
        }
        end.tell(bytes as u64);
        shutdown(end.fd, libc::SHUT_WR);
    } else {
        let bytes = end.hear() as usize;
        let all = read_to_end(end.fd).unwrap();
        end.saw("exactly what went in", all.bytes() == bytes);
    }
}

fn a_send_is_restarted(end: &mut End) {
    if end.near() {
        let bytes = stuff_for_good(end.fd);
        end.tell(bytes as u64);
        alarms(count, SA_RESTART);
        let found = send(end.fd, b"later", MSG_NOSIGNAL);
        every(0);
        end.saw("restarted", (found, came()));
    } else {
        let bytes = end.hear() as usize;
        pause_ms(120);
        read_digest(end.fd, bytes);
        let rest = read_exactly(end.fd, 5);
        end.saw("rest", rest);
    }
}

/// Large writes are cut where they are; what they say is what went in.
fn a_send_gives_what_it_has(end: &mut End) {
    const BYTES: usize = 12_000_000;
    if end.near() {
        let bytes = pattern(BYTES);
        alarms(count, SA_RESTART);
        end.meet();
        let mut sent = 0;
        while sent < BYTES {
            match send(end.fd, &bytes[sent..], MSG_NOSIGNAL) {
                Ok(count) => sent += count,
                Err(errno) => assert_eq!(errno, libc::EINTR),
            }
        }
        eventually("an alarm", came);
        every(0);
    } else {
        end.meet();
        pause_ms(60);
        let mut all = Digest::new();
        while all.bytes() < BYTES {
            all.add(&read(end.fd, 100_000).unwrap());
            if all.bytes().is_multiple_of(5) {
                pause_ms(1);
            }
        }
        end.saw("all", all.name());
    }
}

fn waits_are_interrupted_and_never_restarted(end: &mut End) {
    if end.far() {
        return;
    }
    let set = epoll();
    add(set, end.fd, EPOLLIN, 1);
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    let each = [0, SA_RESTART].map(|flags| EARLY_AND_LATE_US.map(|us| (flags, us)));
    for (flags, us) in each.into_iter().flatten() {
        for name in ["poll", "epoll_wait", "select"] {
            alarms(count, flags);
            every(us);
            let mut fds = [libc::pollfd { fd: end.fd, events: POLLIN, revents: 0 }];
            // SAFETY: sets, event and time live through the calls.
            let found = check(unsafe {
                match name {
                    "poll" => libc::poll(fds.as_mut_ptr(), 1, -1),
                    "epoll_wait" => libc::epoll_wait(set, &raw mut event, 1, -1),
                    _ => {
                        let mut readable: libc::fd_set = std::mem::zeroed();
                        libc::FD_SET(end.fd, &raw mut readable);
                        let null = std::ptr::null_mut();
                        libc::select(end.fd + 1, &raw mut readable, null, null, null.cast())
                    }
                }
            } as isize);
            every(0);
            end.saw(name, (found, came()));
        }
    }
}

/// A signal that waits behind the mask comes in, and ends the wait.
fn a_mask_is_changed_for_the_wait_alone(end: &mut End) {
    if end.far() {
        return;
    }
    let set = epoll();
    add(set, end.fd, EPOLLIN, 1);
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: all that the calls name lives through them; the process has one thread.
    unsafe {
        let mut blocked: libc::sigset_t = std::mem::zeroed();
        let mut none = blocked;
        libc::sigemptyset(&raw mut none);
        libc::sigemptyset(&raw mut blocked);
        libc::sigaddset(&raw mut blocked, libc::SIGALRM);
        alarms(count, 0);
        every(0);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut());
        for name in ["ppoll", "pselect", "epoll_pwait"] {
            COUNT.store(0, Ordering::Relaxed);
            libc::raise(libc::SIGALRM);
            let before = came();
            let long = libc::timespec { tv_sec: 20, tv_nsec: 0 };
            let mut fds = [libc::pollfd { fd: end.fd, events: POLLIN, revents: 0 }];
            let found = check(match name {
                "ppoll" => libc::ppoll(fds.as_mut_ptr(), 1, &raw const long, &raw const none),
                "epoll_pwait" => libc::epoll_pwait(set, &raw mut event, 1, 20_000, &raw const none),
                _ => {
                    let mut readable: libc::fd_set = std::mem::zeroed();
                    libc::FD_SET(end.fd, &raw mut readable);
                    let null = std::ptr::null_mut();
                    let (time, mask) = (&raw const long, &raw const none);
                    libc::pselect(end.fd + 1, &raw mut readable, null, null, time, mask)
                }
            } as isize);
            end.saw(name, (before, found, came()));
        }
    }
}

/// The handler uses the socket that the interrupted call sleeps on.
fn a_handler_that_writes(end: &mut End) {
    if end.near() {
        SOCKET.store(end.fd, Ordering::Relaxed);
        alarms(write_one, SA_RESTART);
        let got = read_exactly(end.fd, 2);
        every(0);
        end.saw("got", got);
    } else {
        let got = read_exactly(end.fd, 3);
        end.saw("from the handler", got);
        send_all(end.fd, b"ok");
    }
}

fn a_handler_that_reads(end: &mut End) {
    const BYTES: usize = 2_000_000;
    if end.near() {
        SOCKET.store(end.fd, Ordering::Relaxed);
        alarms(read_one, SA_RESTART);
        every(300);
        let mut got = 0;
        while got + COUNT.load(Ordering::Relaxed) < BYTES {
            match recv(end.fd, 500, libc::MSG_DONTWAIT) {
                Ok(piece) => got += piece.len(),
                Err(errno) => assert!(errno == libc::EAGAIN || errno == libc::EINTR),
            }
        }
        every(0);
        end.saw("all", got + COUNT.load(Ordering::Relaxed));
    } else {
        send_all(end.fd, &pattern(BYTES));
    }
}

fn interrupted_all_the_time(end: &mut End) {
    const BYTES: usize = 3_000_000;
    alarms(count, SA_RESTART);
    every(500);
    let bytes = pattern(BYTES);
    for turn in 0..2 {
        if end.near() == (turn == 0) {
            send_all(end.fd, &bytes);
        } else {
            let all = read_digest(end.fd, BYTES);
            end.saw("all", all);
        }
    }
    for round in 0..500 {
        if end.near() {
            send_all(end.fd, &bytes[..1 + round]);
            assert_eq!(read_exactly(end.fd, 1), b"k");
        } else {
            assert_eq!(read_exactly(end.fd, 1 + round), &bytes[..1 + round]);
            send_all(end.fd, b"k");
        }
    }
    every(0);
}

/// SIGIO: nobody waits in any call. The second round sets it up before there is anything to pair.
fn a_signal_tells_of_bytes(end: &mut End) {
    static TOLD: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    extern "C" fn told(_: c_int) {
        TOLD.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    let other = end.another();
    for (fd, is_late) in [(end.fd, false), (other, true)] {
        if end.far() {
            // SAFETY: the handler counts; no other pointers.
            unsafe {
                libc::signal(libc::SIGIO, told as extern "C" fn(c_int) as usize);
                libc::fcntl(fd, libc::F_SETOWN, libc::getpid());
                let flags = libc::fcntl(fd, libc::F_GETFL);
                assert_eq!(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC), 0);
            }
        }
        end.meet();
        if is_late {
            trips(end, fd, 20);
        }
        end.meet();
        for _ in 0..3 {
            if end.far() {
                nonblocking(fd, true);
                end.saw("nothing", read(fd, 9));
                TOLD.store(0, std::sync::atomic::Ordering::SeqCst);
            }
            end.meet();
            if end.near() {
                send_all(fd, b"news");
            } else {
                let order = std::sync::atomic::Ordering::SeqCst;
                eventually("a signal", || TOLD.load(order) > 0);
                await_queued(fd, 4);
                end.saw("news", read(fd, 9));
            }
            end.meet();
        }
    }
}
