//! One connection in several processes: forked before, behind and in the middle.

use crate::calls::*;
use crate::cases;
use crate::duplicates::{RECORD, RECORDS, read_records, record, trips};
use crate::end::End;
use crate::waits::*;
use libc::{c_int, pid_t};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, IntoRawFd};

cases! {
    PROCESSES the_parent_closes_and_the_child_goes_on;
    PROCESSES the_child_exits_and_the_parent_goes_on;
    PROCESSES the_parent_writes_and_the_child_reads;
    PROCESSES parent_and_child_write_whole_records;
    PROCESSES parent_and_child_in_turns;
    PROCESSES a_fork_between_two_halves_of_a_message;
    PROCESSES children_of_children;
    PROCESSES a_child_that_closes_ends_nothing;
    PROCESSES a_process_goes_to_the_background;
    PROCESSES a_fork_while_a_thread_reads;
    PROCESSES forks_while_threads_use_a_set;
    PROCESSES a_fork_that_fails;
    OWN_PROCESSES a_server_that_forks_for_each;
    OWN_PROCESSES a_server_that_forked_before;
}

/// Runs in a child, which exits with success if it does not panic.
pub fn child(run: impl FnOnce()) -> pid_t {
    // SAFETY: the cases fork with one thread, or make calls only that are safe then.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        // SAFETY: does not return.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    pid
}

/// Its exit status.
pub fn join(pid: pid_t) -> c_int {
    let mut status = 0;
    // SAFETY: the status lives through the call.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        assert_eq!(errno(), libc::EINTR);
    }
    status
}

/// As PostgreSQL has it.
fn the_parent_closes_and_the_child_goes_on(end: &mut End) {
    let fd = end.fd;
    let serving = child(|| trips(end, fd, 300));
    close(fd);
    end.saw("child", join(serving));
    // The child has exited: so has the connection.
}

fn the_child_exits_and_the_parent_goes_on(end: &mut End) {
    for _ in 0..3 {
        let fd = end.fd;
        let asking = child(|| trips(end, fd, 40));
        end.saw("child", join(asking));
        end.meet();
        trips(end, end.fd, 40);
        end.meet();
    }
}

fn the_parent_writes_and_the_child_reads(end: &mut End) {
    const BYTES: usize = 3_000_000;
    let fd = end.fd;
    let mut expected = Digest::new();
    expected.add(&pattern(BYTES));
    let expected = expected.name();
    let reading = child(|| assert_eq!(read_digest(fd, BYTES), expected));
    for piece in pattern(BYTES).chunks(5000) {
        send_all(fd, piece);
    }
    end.saw("child", join(reading));
}

fn parent_and_child_write_whole_records(end: &mut End) {
    let fd = end.fd;
    if end.far() {
        read_records(end, 2, RECORDS);
        return;
    }
    let write_all = |writer| {
        for number in 0..RECORDS {
            assert_eq!(write(fd, &record(writer, number)), Ok(RECORD));
        }
    };
    let writing = child(|| write_all(1));
    write_all(0);
    end.saw("child", join(writing));
}

/// Now one, now the other, of a parent and a child that both have it.
fn parent_and_child_in_turns(end: &mut End) {
    let fd = end.fd;
    if end.far() {
        for _ in 0..20 {
            trips(end, fd, 6);
        }
        end.saw("all", ());
        return;
    }
    let (to_child, of_child) = pipe();
    let (to_parent, of_parent) = pipe();
    let other = child(|| {
        for _ in 0..10 {
            assert_eq!(read_exactly(to_child, 1), b"t");
            trips(end, fd, 6);
            send_all(of_parent, b"t");
        }
    });
    for _ in 0..10 {
        trips(end, fd, 6);
        send_all(of_child, b"t");
        assert_eq!(read_exactly(to_parent, 1), b"t");
    }
    end.saw("child", join(other));
}

fn pipe() -> (c_int, c_int) {
    let mut fds = [0; 2];
    // SAFETY: room for two.
    assert_eq!(unsafe { libc::pipe(fds.as_mut_ptr()) }, 0);
    (fds[0], fds[1])
}

fn a_fork_between_two_halves_of_a_message(end: &mut End) {
    let fd = end.fd;
    if end.near() {
        send_all(fd, &pattern(9000));
        end.meet();
    } else {
        end.meet();
        await_queued(fd, 9000);
        let mut all = read_exactly(fd, 100);
        let taken = pipe();
        let taking = child(|| send_all(taken.1, &read_exactly(fd, 4000)));
        end.saw("child", join(taking));
        all.extend(read_exactly(taken.0, 4000));
        all.extend(read_exactly(fd, 4900));
        end.saw("all in order", digest(&all));
    }
}

fn children_of_children(end: &mut End) {
    let fd = end.fd;
    let first = child(|| {
        trips(end, fd, 20);
        let second = child(|| {
            trips(end, fd, 20);
            let third = child(|| trips(end, fd, 20));
            assert_eq!(join(third), 0);
        });
        assert_eq!(join(second), 0);
        trips(end, fd, 20);
    });
    end.saw("child", join(first));
    trips(end, fd, 20);
}

fn a_child_that_closes_ends_nothing(end: &mut End) {
    for _ in 0..3 {
        let fd = end.fd;
        let closing = child(|| close(fd));
        end.saw("child", join(closing));
        trips(end, fd, 20);
    }
}

/// As daemon(3) does it: the parent exits at once.
fn a_process_goes_to_the_background(end: &mut End) {
    let fd = end.fd;
    if end.far() {
        trips(end, fd, 20);
        trips(end, fd, 40);
        end.saw("end", read(fd, 1));
        return;
    }
    let launching = child(|| {
        trips(end, fd, 20);
        child(|| {
            pause_ms(20);
            trips(end, fd, 40);
        });
    });
    close(fd);
    end.saw("launcher", join(launching));
}

fn a_fork_while_a_thread_reads(end: &mut End) {
    const BYTES: usize = 1_000_000;
    let fd = end.fd;
    if end.near() {
        for piece in pattern(BYTES).chunks(1000) {
            send_all(fd, piece);
        }
        return;
    }
    let reader = std::thread::spawn(move || read_digest(fd, BYTES));
    for _ in 0..20 {
        // SAFETY: the child makes no call that is not safe behind a fork of threads.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: does not return.
            unsafe { libc::_exit(0) };
        }
        assert_eq!(join(pid), 0);
    }
    let all = reader.join().unwrap();
    end.saw("all", all);
}

/// The child closes what it has, as children do, and must not wait for a thread that it has not.
fn forks_while_threads_use_a_set(end: &mut End) {
    let (fd, set) = (end.fd, epoll());
    add(set, fd, libc::EPOLLIN, 1);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(order) {
                    control(set, libc::EPOLL_CTL_MOD, fd, libc::EPOLLIN, 2);
                    wait(set, 0);
                }
            });
        }
        for _ in 0..100 {
            // SAFETY: the child makes no call that is not safe behind a fork of threads.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: does not return.
                unsafe {
                    libc::close(fd);
                    libc::close(set);
                    libc::_exit(0);
                }
            }
            assert_eq!(join(pid), 0);
        }
        is_over.store(true, order);
    });
    trips(end, fd, 20);
}

/// There is no child that has the connection: closing it over unread bytes resets it.
fn a_fork_that_fails(end: &mut End) {
    if end.near() {
        send_all(end.fd, b"unread");
        end.meet();
        end.meet();
        await_reset(end.fd);
        end.saw("end", read(end.fd, 1));
        return;
    }
    end.meet();
    await_queued(end.fd, 6);
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no pointers but the limit, which lives through the call; nobody else is this user's.
    unsafe {
        // Root has no such limit.
        if libc::getuid() == 0 {
            assert_eq!(libc::setresuid(54_321, 54_321, 54_321), 0);
        }
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const none), 0);
        let pid = libc::fork();
        if pid == 0 {
            libc::_exit(0);
        }
        assert_eq!((pid, errno()), (-1, libc::EAGAIN));
    }
    close(end.fd);
    end.meet();
}

fn a_server_that_forks_for_each(end: &mut End) {
    const CLIENTS: usize = 6;
    if end.far() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        end.tell(u64::from(listener.local_addr().unwrap().port()));
        let mut serving = Vec::new();
        for _ in 0..CLIENTS {
            let fd = listener.accept().unwrap().0.into_raw_fd();
            serving.push(child(|| {
                end.warm(fd);
                trips(end, fd, 100);
            }));
            close(fd);
        }
        for pid in serving {
            end.saw("served", join(pid));
        }
    } else {
        let port = end.hear() as u16;
        let connect = |_| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap().into_raw_fd();
        let fds: Vec<c_int> = (0..CLIENTS).map(connect).collect();
        for fd in &fds {
            end.warm(*fd);
            trips(end, *fd, 100);
        }
        for fd in fds {
            end.saw("end", read(fd, 1));
        }
    }
}

/// Several processes accept from one listener.
fn a_server_that_forked_before(end: &mut End) {
    const CLIENTS: usize = 9;
    if end.far() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        end.tell(u64::from(listener.local_addr().unwrap().port()));
        let serve = || loop {
            let null = std::ptr::null_mut();
            // SAFETY: no address is asked for.
            let fd = unsafe { libc::accept(listener.as_raw_fd(), null, null.cast()) };
            assert!(fd >= 0);
            match read_exactly(fd, 1)[0] {
                b'q' => return,
                _ => trips(end, fd, 50),
            }
            close(fd);
        };
        let serving: Vec<pid_t> = (0..3).map(|_| child(serve)).collect();
        for pid in serving {
            end.saw("served", join(pid));
        }
    } else {
        let port = end.hear() as u16;
        let connect = || std::net::TcpStream::connect(("127.0.0.1", port)).unwrap().into_raw_fd();
        for _ in 0..CLIENTS {
            let fd = connect();
            send_all(fd, b"s");
            trips(end, fd, 50);
            end.saw("end", read(fd, 1));
            close(fd);
        }
        for _ in 0..3 {
            send_all(connect(), b"q");
        }
    }
}
