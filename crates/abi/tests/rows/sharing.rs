//! State per socket: duplicates, children, processes that go.

use crate::System::OpenBsd;
use crate::sockets::*;
use crate::{System, cases};
use libc::{EAGAIN, EFBIG, c_int};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

cases! {
    BOTH a_duplicate_is_the_same_socket;
    BOTH a_duplicate_from_before_the_splice;
    BOTH closing_one_of_two_duplicates_ends_nothing;
    BOTH dup2_over_the_source_ends_it;
    BOTH every_kind_of_duplicate;
    BOTH close_range_ends_and_spares;
    BOTH fclose_ends;
    BOTH a_child_can_do_everything;
    BOTH the_parent_closes_and_the_child_goes_on;
    BOTH the_child_closes_and_the_parent_goes_on;
    BOTH a_child_splices_and_exits;
    BOTH a_child_from_before_the_splice;
    BOTH a_grandchild_and_many_children;
    BOTH a_killed_process_closes_both_connections;
    BOTH a_killed_process_whose_child_lives;
    BOTH exit_while_splicing_closes_both;
    BOTH vfork_and_spawn_end_nothing;
    BOTH exec_keeps_what_it_inherits;
    BOTH a_descriptor_that_was_passed;
    BOTH a_descriptor_that_was_passed_and_not_told_of;
    BOTH a_child_that_became_another_program_keeps_what_its_parent_closes;
    BOTH the_carrier_goes_with_the_last_process;
    BOTH close_behind_the_librarys_back;
    BOTH nothing_is_left_when_all_is_closed;
    BOTH no_child_is_to_be_waited_for;
    BOTH a_range_beyond_every_descriptor_closes_nothing;
    BOTH without_a_free_descriptor_first_and_with_one_later;
    BOTH a_fork_while_another_thread_begins;
    BOTH an_answer_that_a_careless_thread_takes_is_asked_for_again;
    BOTH what_a_careless_thread_writes_to_the_connection_is_passed_over;
}

/// Runs in a child; true if it does not panic.
pub fn child(run: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the case has one thread when it forks.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        // SAFETY: does not return.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    pid
}

pub fn join(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: the status lives through the call.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0, "the child failed");
}

fn kill(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: our own child; the status lives through the call.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, &raw mut status, 0);
    }
}

fn dup(fd: c_int) -> c_int {
    // SAFETY: no pointers.
    let new = unsafe { libc::dup(fd) };
    assert!(new >= 0);
    new
}

fn end_of_file(fd: c_int) {
    assert_eq!(read(fd, 1).unwrap_or_default(), b"");
}

fn a_duplicate_is_the_same_socket(system: System) {
    let rig = Rig::spliced();
    let twin = dup(rig.source);
    rig.check(b"12345");
    assert_eq!(count(twin), Ok(5));
    assert_eq!(splice(twin, rig.drain), Err(libc::EBUSY));
    if system == OpenBsd {
        assert_eq!(recv(twin, 1, libc::MSG_DONTWAIT), Err(EAGAIN));
    }
    assert_eq!(poll(twin, libc::POLLIN, 0), 0);
    unsplice(twin).unwrap();
    assert!(unsplice(rig.source).is_err());
    send_all(rig.feed, b"abc");
    assert_eq!(read_exactly(twin, 3), b"abc");
    // An error at the end is told once, to whoever comes first.
    splice_max(twin, rig.drain, 1).unwrap();
    rig.check(b"1");
    eventually("the end", || !is_running(system, rig.source));
    if system == OpenBsd {
        assert_eq!(read(rig.source, 1), Err(EFBIG));
    }
    assert_eq!(so_error(twin), 0);
}

fn a_duplicate_from_before_the_splice(_: System) {
    let rig = Rig::new();
    let twin = dup(rig.source);
    splice(rig.source, rig.drain).unwrap();
    rig.check(b"12345");
    assert_eq!(count(twin), Ok(5));
    assert_eq!(poll(twin, libc::POLLIN, 0), 0);
    close(rig.source);
    rig.check(b"goes on");
    close(twin);
    end_of_file(rig.feed);
}

fn closing_one_of_two_duplicates_ends_nothing(_: System) {
    let rig = Rig::spliced();
    let (source, drain) = (dup(rig.source), dup(rig.drain));
    close(rig.source);
    close(rig.drain);
    rig.check(b"goes on");
    assert_eq!(count(source), Ok(7));
    close(drain);
    end_of_file(rig.sink);
    close(source);
    end_of_file(rig.feed);
}

fn dup2_over_the_source_ends_it(_: System) {
    let rig = Rig::spliced();
    rig.check(b"before");
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::dup2(rig.sink, rig.source) }, rig.source);
    end_of_file(rig.feed);
    assert_eq!(count(rig.source), Ok(0));
    send_all(rig.drain, b"to the sink");
    assert_eq!(read_exactly(rig.source, 11), b"to the sink");
}

fn every_kind_of_duplicate(_: System) {
    // SAFETY: no pointers.
    let kinds: [fn(c_int) -> c_int; 5] = [
        |fd| unsafe { libc::dup(fd) },
        |fd| unsafe { libc::dup2(fd, 300) },
        |fd| unsafe { libc::dup3(fd, 301, libc::O_CLOEXEC) },
        |fd| unsafe { libc::fcntl(fd, libc::F_DUPFD, 302) },
        |fd| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 303) },
    ];
    for duplicate in kinds {
        let rig = Rig::spliced();
        let twin = duplicate(rig.source);
        assert!(twin >= 0);
        close(rig.source);
        rig.check(b"goes on");
        assert_eq!(count(twin), Ok(7));
        close(twin);
        end_of_file(rig.feed);
    }
}

fn close_range_ends_and_spares(_: System) {
    let (one, two) = (Rig::spliced(), Rig::spliced());
    // SAFETY: no pointers.
    let close_range = |first: c_int, last: c_int, flags: c_int| unsafe {
        libc::close_range(first as u32, last as u32, flags)
    };
    for fd in [one.source, one.drain] {
        assert_eq!(close_range(fd, fd, 0), 0);
    }
    end_of_file(one.feed);
    end_of_file(one.sink);
    two.check(b"spared");
    // Moved down, so that everything above can go.
    let twin = dup(two.feed);
    assert!(twin < two.source || two.source > 2);
    assert_eq!(close_range(two.source, c_int::MAX, 0), 0);
    end_of_file(two.feed);
    // And the library still works.
    Rig::spliced().check(b"after");
}

fn fclose_ends(_: System) {
    let rig = Rig::spliced();
    // SAFETY: the stream takes the descriptor over.
    unsafe {
        let file = libc::fdopen(rig.source, c"r+".as_ptr());
        assert_eq!(libc::fclose(file), 0);
    }
    end_of_file(rig.feed);
}

fn a_child_can_do_everything(system: System) {
    let rig = Rig::spliced();
    rig.check(b"12345");
    join(child(|| {
        assert_eq!(count(rig.source), Ok(5));
        rig.check(b"67890");
        assert_eq!(count(rig.source), Ok(10));
        assert_eq!(poll(rig.source, libc::POLLIN, 5), 0);
        if system == OpenBsd {
            assert_eq!(recv(rig.source, 1, libc::MSG_DONTWAIT), Err(EAGAIN));
        }
        unsplice(rig.source).unwrap();
        send_all(rig.feed, b"io");
        assert_eq!(read_exactly(rig.source, 2), b"io");
        splice_max(rig.source, rig.drain, 3).unwrap();
    }));
    assert_eq!(count(rig.source), Ok(0));
    rig.check(b"abc");
    eventually("the end", || !is_running(system, rig.source));
    if system == OpenBsd {
        assert_eq!(read(rig.source, 1), Err(EFBIG));
    }
    assert_eq!(count(rig.source), Ok(3));
}

fn the_parent_closes_and_the_child_goes_on(_: System) {
    let rig = Rig::spliced();
    let mut go = [0; 2];
    // SAFETY: room for two.
    unsafe { libc::pipe(go.as_mut_ptr()) };
    let pid = child(|| {
        close(rig.feed);
        close(rig.sink);
        close(go[1]);
        read(go[0], 1).unwrap();
    });
    close(rig.source);
    close(rig.drain);
    rig.check(&pattern(100_000));
    close(go[1]);
    join(pid);
    end_of_file(rig.feed);
    end_of_file(rig.sink);
}

fn the_child_closes_and_the_parent_goes_on(_: System) {
    let rig = Rig::spliced();
    join(child(|| {
        close(rig.source);
        close(rig.drain);
    }));
    join(child(|| {}));
    rig.check(b"goes on");
    assert_eq!(count(rig.source), Ok(7));
}

fn a_child_splices_and_exits(_: System) {
    // The parent has never used the option.
    let rig = Rig::new();
    join(child(|| splice(rig.source, rig.drain).unwrap()));
    rig.check(&pattern(100_000));
    assert_eq!(count(rig.source), Ok(100_000));
    unsplice(rig.source).unwrap();
    send_all(rig.feed, b"mine");
    assert_eq!(read_exactly(rig.source, 4), b"mine");
    // And one that has.
    let other = Rig::new();
    join(child(|| splice(other.source, other.drain).unwrap()));
    other.check(b"as well");
    close(other.source);
    end_of_file(other.feed);
}

fn a_child_from_before_the_splice(_: System) {
    for used in [false, true] {
        if used {
            Rig::spliced().check(b"used");
        }
        let rig = Rig::new();
        let mut go = [0; 2];
        // SAFETY: room for two.
        unsafe { libc::pipe(go.as_mut_ptr()) };
        let pid = child(|| {
            read(go[0], 1).unwrap();
            assert_eq!(count(rig.source), Ok(5));
            assert_eq!(poll(rig.source, libc::POLLIN, 5), 0);
            rig.check(b"from the child");
            unsplice(rig.source).unwrap();
        });
        splice(rig.source, rig.drain).unwrap();
        rig.check(b"12345");
        send_all(go[1], b"!");
        join(pid);
        assert!(unsplice(rig.source).is_err());
        assert_eq!(count(rig.source), Ok(19));
    }
}

fn a_grandchild_and_many_children(_: System) {
    let rig = Rig::spliced();
    let pids: Vec<_> = (0..20)
        .map(|number| {
            child(|| {
                join(child(|| {
                    assert!(count(rig.source).is_ok());
                    if number % 2 == 0 {
                        close(rig.source);
                    }
                }));
            })
        })
        .collect();
    pids.into_iter().for_each(join);
    rig.check(b"goes on");
    let other = Rig::new();
    join(child(|| {
        join(child(|| splice(other.source, other.drain).unwrap()));
        other.check(b"the child's child did");
    }));
    other.check(b"and both are gone");
}

fn a_killed_process_closes_both_connections(_: System) {
    let rig = Rig::new();
    let pid = child(|| {
        close(rig.feed);
        close(rig.sink);
        splice(rig.source, rig.drain).unwrap();
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    close(rig.source);
    close(rig.drain);
    rig.check(b"runs");
    kill(pid);
    end_of_file(rig.feed);
    end_of_file(rig.sink);
}

fn a_killed_process_whose_child_lives(_: System) {
    let rig = Rig::new();
    let mut told = [0; 2];
    // SAFETY: room for two.
    unsafe { libc::pipe(told.as_mut_ptr()) };
    let pid = child(|| {
        splice(rig.source, rig.drain).unwrap();
        let inner = child(|| {
            close(rig.feed);
            close(rig.sink);
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        send_all(told[1], &inner.to_ne_bytes());
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    let inner = c_int::from_ne_bytes(read_exactly(told[0], 4).try_into().unwrap());
    close(rig.source);
    close(rig.drain);
    kill(pid);
    rig.check(b"the grandchild holds it");
    // SAFETY: started by this case.
    unsafe { libc::kill(inner, libc::SIGKILL) };
    end_of_file(rig.feed);
    end_of_file(rig.sink);
}

fn exit_while_splicing_closes_both(_: System) {
    for _ in 0..20 {
        let rig = Rig::new();
        let pid = child(|| {
            close(rig.feed);
            close(rig.sink);
            splice(rig.source, rig.drain).unwrap();
        });
        close(rig.source);
        close(rig.drain);
        join(pid);
        end_of_file(rig.feed);
        end_of_file(rig.sink);
    }
}

fn vfork_and_spawn_end_nothing(_: System) {
    let rig = Rig::spliced();
    // SAFETY: the child only closes and exits, as vfork(2) demands; it has the parent's
    // memory and its own descriptors.
    #[allow(deprecated, reason = "what is tested")]
    unsafe {
        let pid = libc::vfork();
        if pid == 0 {
            libc::close(rig.source);
            libc::close(rig.drain);
            libc::_exit(0);
        }
        join(pid);
    }
    rig.check(b"vfork");
    for _ in 0..5 {
        assert!(std::process::Command::new("/bin/true").status().unwrap().success());
    }
    rig.check(b"spawn");
    assert_eq!(count(rig.source), Ok(10));
}

fn exec_keeps_what_it_inherits(_: System) {
    let rig = Rig::new();
    let mut go = [0; 2];
    // SAFETY: room for two; no pointers.
    unsafe {
        libc::pipe(go.as_mut_ptr());
        for fd in [rig.source, rig.drain] {
            libc::fcntl(fd, libc::F_SETFD, 0);
        }
    }
    let pid = child(|| {
        for fd in [rig.feed, rig.sink, go[1]] {
            close(fd);
        }
        splice(rig.source, rig.drain).unwrap();
        // A program that knows nothing of it, and waits for its input to end.
        // SAFETY: constant strings.
        unsafe {
            libc::dup2(go[0], 0);
            let name = c"/bin/cat".as_ptr();
            libc::execl(name, name, std::ptr::null::<libc::c_char>());
        }
        panic!("no exec");
    });
    close(rig.source);
    close(rig.drain);
    rig.check(b"before or after");
    eventually("the exec", || {
        std::fs::read_link(format!("/proc/{pid}/exe")).unwrap().ends_with("cat")
    });
    rig.check(b"after");
    close(go[1]);
    join(pid);
    end_of_file(rig.feed);
}

fn a_descriptor_that_was_passed(_: System) {
    let rig = Rig::spliced();
    let mut pair = [0; 2];
    // SAFETY: room for two.
    unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr()) };
    let pid = child(|| {
        close(rig.source);
        let fd = receive_descriptor(pair[1]);
        rig.check(b"passed");
        assert_eq!(count(fd), Ok(6));
        unsplice(fd).unwrap();
    });
    send_descriptor(pair[0], rig.source);
    join(pid);
    assert!(unsplice(rig.source).is_err());
}

/// The receiver says nothing of it: it is found.
fn a_descriptor_that_was_passed_and_not_told_of(_: System) {
    Rig::spliced().check(b"the option is in use");
    for is_spliced_before in [true, false] {
        let (mut pair, mut go) = ([0; 2], [0; 2]);
        // SAFETY: room for two.
        unsafe {
            libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr());
            libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, go.as_mut_ptr());
        }
        let pid = child(|| {
            close(go[0]);
            let mut byte = 0u8;
            for _ in 0..2 {
                let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
                let header = libc::cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 };
                let mut rights = Rights { header, fd: -1, pad: 0 };
                let mut message = message(&mut rights, &mut iov);
                // SAFETY: the message lives through the call, which is the kernel's own.
                let got = unsafe { libc::syscall(libc::SYS_recvmsg, pair[1], &raw mut message, 0) };
                assert_eq!(got, 1);
            }
            send_all(go[1], b"!");
            read(go[1], 1).unwrap();
        });
        // Made behind the fork: the child has them by this way alone.
        let rig = Rig::new();
        if is_spliced_before {
            splice(rig.source, rig.drain).unwrap();
        }
        for fd in [rig.source, rig.drain] {
            send_descriptor(pair[0], fd);
        }
        read_exactly(go[0], 1);
        if !is_spliced_before {
            splice(rig.source, rig.drain).unwrap();
        }
        close(rig.source);
        close(rig.drain);
        rig.check(b"goes on");
        close(go[0]);
        join(pid);
        end_of_file(rig.feed);
        end_of_file(rig.sink);
    }
}

fn a_child_that_became_another_program_keeps_what_its_parent_closes(_: System) {
    Rig::spliced().check(b"the option is in use");
    let rig = Rig::new();
    let mut go = [0; 2];
    // SAFETY: room for two; no pointers.
    unsafe {
        libc::pipe(go.as_mut_ptr());
        for fd in [rig.source, rig.drain] {
            libc::fcntl(fd, libc::F_SETFD, 0);
        }
    }
    splice(rig.source, rig.drain).unwrap();
    let pid = child(|| {
        for fd in [rig.feed, rig.sink, go[1]] {
            close(fd);
        }
        // SAFETY: constant strings.
        unsafe {
            libc::dup2(go[0], 0);
            let name = c"/bin/cat".as_ptr();
            libc::execl(name, name, std::ptr::null::<libc::c_char>());
        }
        panic!("no exec");
    });
    eventually("the exec", || {
        std::fs::read_link(format!("/proc/{pid}/exe")).unwrap().ends_with("cat")
    });
    close(rig.source);
    close(rig.drain);
    rig.check(b"goes on");
    close(go[1]);
    join(pid);
    end_of_file(rig.feed);
}

/// Also when the end of the last splice has to be searched for.
fn the_carrier_goes_with_the_last_process(_: System) {
    let rig = Rig::new();
    let mut told = [0; 2];
    // SAFETY: room for two.
    unsafe { libc::pipe(told.as_mut_ptr()) };
    let pid = child(|| {
        splice(rig.source, rig.drain).unwrap();
        let carrier: i32 = crate::chains::carrier_but(rig.source, &[std::process::id(), parent()]);
        send_all(told[1], &carrier.to_ne_bytes());
        // Nothing but the search keeps it awake then: its timer for stuck moves has run out.
        std::thread::sleep(Duration::from_millis(100));
    });
    let carrier = c_int::from_ne_bytes(read_exactly(told[0], 4).try_into().unwrap());
    for fd in [rig.source, rig.drain] {
        // SAFETY: the case's own descriptor; the library is not told.
        unsafe { libc::syscall(libc::SYS_close, fd) };
    }
    join(pid);
    // SAFETY: signal zero only asks.
    eventually("its end", || unsafe { libc::kill(carrier, 0) } != 0 || is_defunct(carrier));
}

fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

/// Nobody waits for what has lost its parent in a namespace without a proper process 1.
fn is_defunct(pid: c_int) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    fd: c_int,
    pad: c_int,
}

fn message(rights: &mut Rights, iov: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: zeroes are a valid message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iov;
    message.msg_iovlen = 1;
    message.msg_control = std::ptr::from_mut(rights).cast();
    message.msg_controllen = size_of::<Rights>();
    message
}

fn send_descriptor(over: c_int, fd: c_int) {
    let mut byte = 0u8;
    let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let header = libc::cmsghdr {
        cmsg_len: size_of::<libc::cmsghdr>() + 4,
        cmsg_level: libc::SOL_SOCKET,
        cmsg_type: libc::SCM_RIGHTS,
    };
    let mut rights = Rights { header, fd, pad: 0 };
    let message = message(&mut rights, &mut iov);
    // SAFETY: the message lives through the call.
    check(unsafe { libc::sendmsg(over, &raw const message, 0) }).unwrap();
}

fn receive_descriptor(over: c_int) -> c_int {
    let mut byte = 0u8;
    let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let header = libc::cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 };
    let mut rights = Rights { header, fd: -1, pad: 0 };
    let mut message = message(&mut rights, &mut iov);
    // SAFETY: the message lives through the call.
    check(unsafe { libc::recvmsg(over, &raw mut message, 0) }).unwrap();
    rights.fd
}

fn close_behind_the_librarys_back(_: System) {
    let rig = Rig::spliced();
    // SAFETY: the case's own descriptor, closed as libc's own functions do.
    unsafe { libc::syscall(libc::SYS_close, rig.source) };
    // The number is another's now, and is not mistaken for the source.
    let other = Rig::new();
    assert!([other.feed, other.source, other.drain, other.sink].contains(&rig.source));
    send_all(other.feed, b"plain");
    assert_eq!(read_exactly(other.source, 5), b"plain");
    end_of_file(rig.feed);
}

fn nothing_is_left_when_all_is_closed(_: System) {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let rig = Rig::spliced();
    rig.check(b"x");
    poll(rig.source, libc::POLLIN, 1);
    let before = open();
    for round in 0..200 {
        let rig = Rig::spliced();
        rig.check(&pattern(1000 + round));
        poll(rig.source, libc::POLLIN, 0);
        for fd in [rig.source, rig.drain, rig.feed, rig.sink] {
            close(fd);
        }
    }
    assert_eq!(open(), before);
}

fn no_child_is_to_be_waited_for(_: System) {
    let _rig = Rig::spliced();
    let mut status = 0;
    // SAFETY: the status lives through the call.
    let found = unsafe { libc::waitpid(-1, &raw mut status, 0) };
    assert_eq!(check(found as isize), Err(libc::ECHILD));
}

fn a_range_beyond_every_descriptor_closes_nothing(_: System) {
    let rig = Rig::spliced();
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::close_range(1 << 31, u32::MAX, 0) }, 0);
    rig.check(b"through");
}

fn without_a_free_descriptor_first_and_with_one_later(_: System) {
    let rig = Rig::new();
    let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
    // SAFETY: the record lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let mut taken = Vec::new();
    // SAFETY: no pointers.
    while let fd @ 0.. = unsafe { libc::dup(rig.feed) } {
        taken.push(fd);
    }
    assert_eq!(splice(rig.source, rig.drain), Err(libc::EMFILE));
    taken.into_iter().for_each(close);
    splice(rig.source, rig.drain).unwrap();
    rig.check(b"through");
}

/// A child that was born while another thread made the carrier is as any other.
fn a_fork_while_another_thread_begins(_: System) {
    // Many pages make forks slow, so that two meet.
    let pages = vec![1u8; 32 << 20];
    for _ in 0..6 {
        join(child(|| {
            let rig = Rig::new();
            let (begin, begun) = (std::sync::Barrier::new(2), AtomicBool::new(false));
            std::thread::scope(|scope| {
                let forker = scope.spawn(|| {
                    let mut children = Vec::new();
                    begin.wait();
                    while !begun.load(Ordering::Acquire) && children.len() < 50 {
                        children.push(child(|| {
                            // It has the lock to itself.
                            let _ = unsplice(rig.feed);
                            Rig::spliced().check(b"child");
                        }));
                    }
                    children.into_iter().for_each(join);
                });
                begin.wait();
                splice(rig.source, rig.drain).unwrap();
                begun.store(true, Ordering::Release);
                forker.join().unwrap();
            });
            rig.check(b"parent");
        }));
    }
    drop(pages);
}

/// What the library has open that is no TCP: its connection to the carrier.
fn connection() -> c_int {
    let is_unix = |fd: &c_int| {
        let (mut domain, mut len) = (0, 4);
        let at = (&raw mut domain).cast::<libc::c_void>();
        // SAFETY: value and length live through the call.
        let done =
            unsafe { libc::getsockopt(*fd, libc::SOL_SOCKET, libc::SO_DOMAIN, at, &raw mut len) };
        done == 0 && domain == libc::AF_UNIX
    };
    (3..8192).find(is_unix).expect("no connection")
}

fn an_answer_that_a_careless_thread_takes_is_asked_for_again(_: System) {
    let parents = Rig::spliced();
    join(child(|| {
        let rig = Rig::new();
        count(parents.source).unwrap();
        let (connection, is_taken) = (connection(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut bytes = [0u8; 256];
                // SAFETY: the bytes live through the call, which is the kernel's own.
                while unsafe {
                    libc::syscall(libc::SYS_read, connection, bytes.as_mut_ptr(), bytes.len())
                } <= 0
                {}
                is_taken.store(true, Ordering::Release);
            });
            while !is_taken.load(Ordering::Acquire) {
                splice(rig.source, rig.drain).unwrap();
                rig.check(b"done once");
                assert_eq!(count(rig.source), Ok(9));
                unsplice(rig.source).unwrap();
            }
        });
    }));
}

fn what_a_careless_thread_writes_to_the_connection_is_passed_over(_: System) {
    let rig = Rig::spliced();
    let connection = connection();
    for len in [1, 8, 39, 40, 41, 300] {
        let bytes = vec![0u8; len];
        // SAFETY: the bytes live through the call, which is the kernel's own.
        let sent =
            unsafe { libc::syscall(libc::SYS_write, connection, bytes.as_ptr(), bytes.len()) };
        assert_eq!(sent, len as i64);
        rig.check(&pattern(100));
    }
    assert_eq!(count(rig.source), Ok(600));
    // It still knows where to tell of an end.
    let source = rig.source;
    let waiter = std::thread::spawn(move || poll(source, libc::POLLIN, 20_000));
    std::thread::sleep(Duration::from_millis(20));
    shutdown(rig.feed, libc::SHUT_WR);
    assert_ne!(waiter.join().unwrap(), 0);
}
