//! A connection beside, through and behind other programs: exec, spawned shells, descriptors
//! that are passed on.

use crate::calls::*;
use crate::cases;
use crate::duplicates::trips;
use crate::end::End;
use crate::forks::{child, join};
use crate::needs::has;
use libc::{c_char, c_int};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

cases! {
    PROCESSES a_program_that_inherits_the_connection;
    PROCESSES this_program_becomes_another;
    PROCESSES a_static_program_that_inherits_the_connection;
    PROCESSES bytes_are_waiting_when_another_program_begins;
    PROCESSES closed_by_exec;
    PROCESSES programs_beside_it;
    PROCESSES cat_with_the_connection_as_its_ends;
    PROCESSES a_shell_that_writes_to_it;
    PROCESSES passed_to_a_process_that_was_there_before;
    PROCESSES passed_and_kept;
    PROCESSES passed_with_bytes_waiting;
    PROCESSES passed_behind_a_large_message;
    PROCESSES becomes_another_behind_an_overflow;
    PROCESSES passed_to_oneself;
}

/// This binary as another program: answers everything on a descriptor, as `trips` asks it.
pub fn answer(fd: &str, count: &str) {
    let fd: c_int = fd.parse().unwrap();
    for round in 0..count.parse().unwrap() {
        let message = pattern(1 + round * 13 % 700);
        assert_eq!(read_exactly(fd, message.len()), message);
        send_all(fd, &message);
    }
}

fn this_binary(fd: c_int, count: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--program", "answer", &fd.to_string(), &count.to_string()]);
    command
}

/// Accepted sockets of the standard library are closed by exec.
fn inheritable(fd: c_int) {
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }, 0);
}

fn a_program_that_inherits_the_connection(end: &mut End) {
    for _ in 0..3 {
        if end.near() {
            trips(end, end.fd, 30);
            end.meet();
            trips(end, end.fd, 30);
            end.meet();
        } else {
            trips(end, end.fd, 30);
            inheritable(end.fd);
            let mut other = this_binary(end.fd, 30).spawn().unwrap();
            end.meet();
            end.saw("program", other.wait().unwrap().success());
            end.meet();
        }
    }
    trips(end, end.fd, 30);
}

fn this_program_becomes_another(end: &mut End) {
    if end.near() {
        trips(end, end.fd, 50);
        trips(end, end.fd, 50);
        end.saw("end", read(end.fd, 1));
    } else {
        let fd = end.fd;
        let becoming = child(|| {
            trips(end, fd, 50);
            inheritable(fd);
            use std::os::unix::process::CommandExt;
            panic!("{}", this_binary(fd, 50).exec());
        });
        close(fd);
        end.saw("program", join(becoming));
    }
}

/// Answers like this binary, and enters the kernel without the C library that is preloaded to.
fn static_program() -> Option<PathBuf> {
    if !has("cc") {
        return None;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = dir.join(format!("answer-{}", std::process::id()));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c/answer.c");
    let mut command = Command::new("cc");
    command.args(["-O2", "-static", source, "-o"]).arg(&program).env_remove("LD_PRELOAD");
    assert!(command.status().unwrap().success());
    Some(program)
}

fn a_static_program_that_inherits_the_connection(end: &mut End) {
    if end.near() {
        if end.hear() == 0 {
            return;
        }
        for round in 0..40 {
            let message = pattern(1 + round * 17);
            send_all(end.fd, &message);
            assert_eq!(read_exactly(end.fd, message.len()), message);
            if round == 20 {
                pause_ms(10);
            }
        }
        send_all(end.fd, &pattern(200_000));
        let all = read_digest(end.fd, 200_000);
        end.saw("answer", all);
        shutdown(end.fd, libc::SHUT_WR);
        end.saw("end", read(end.fd, 1));
        return;
    }
    let Some(program) = static_program() else {
        end.tell(0);
        return;
    };
    inheritable(end.fd);
    let mut other = Command::new(&program).arg(end.fd.to_string()).spawn().unwrap();
    close(end.fd);
    end.tell(1);
    end.saw("program", other.wait().unwrap().success());
    std::fs::remove_file(program).unwrap();
}

fn bytes_are_waiting_when_another_program_begins(end: &mut End) {
    if end.near() {
        send_all(end.fd, &pattern(1));
        send_all(end.fd, &pattern(14));
        send_all(end.fd, &pattern(27));
        end.meet();
        let answers = read_exactly(end.fd, 42);
        end.saw("answers", digest(&answers));
    } else {
        end.meet();
        await_queued(end.fd, 42);
        inheritable(end.fd);
        let done = this_binary(end.fd, 3).status().unwrap().success();
        end.saw("program", done);
    }
}

/// More than the smallest ring holds is unread when this program becomes another.
fn becomes_another_behind_an_overflow(end: &mut End) {
    if end.near() {
        for round in 0..40 {
            send_all(end.fd, &pattern(1 + round * 13 % 700));
        }
        end.meet();
        let answers = (0..40).map(|round| 1 + round * 13 % 700).sum();
        let answers = read_exactly(end.fd, answers);
        end.saw("answers", digest(&answers));
        return;
    }
    end.meet();
    await_queued(end.fd, (0..40).map(|round| 1 + round * 13 % 700).sum());
    inheritable(end.fd);
    let fd = end.fd;
    let becoming = child(|| {
        use std::os::unix::process::CommandExt;
        panic!("{}", this_binary(fd, 40).exec());
    });
    close(fd);
    end.saw("program", join(becoming));
}

/// Only the program that goes had it: the peer sees the end while the new one still runs.
fn closed_by_exec(end: &mut End) {
    if end.near() {
        let fd = end.fd;
        let becoming = child(|| {
            send_all(fd, &pattern(1000));
            // SAFETY: no pointers.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            use std::os::unix::process::CommandExt;
            panic!("{}", Command::new("sleep").arg("60").exec());
        });
        close(fd);
        end.meet();
        // SAFETY: our own child.
        unsafe { libc::kill(becoming, libc::SIGKILL) };
        join(becoming);
    } else {
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
        end.meet();
    }
}

fn programs_beside_it(end: &mut End) {
    for round in 0..4 {
        trips(end, end.fd, 20);
        let text = match round {
            // SAFETY: the text is a C string.
            0 => unsafe { libc::system(c"exit 3".as_ptr()) }.to_string(),
            1 => {
                let said = Command::new("echo").arg("spawned").output().unwrap();
                String::from_utf8(said.stdout).unwrap()
            }
            2 => popen("echo from a pipe"),
            _ => {
                let said = Command::new("cat").stdin(Stdio::null()).output().unwrap();
                said.status.to_string()
            }
        };
        end.saw("program", text);
        trips(end, end.fd, 20);
    }
}

fn popen(command: &str) -> String {
    let command = CString::new(command).unwrap();
    let mut line = [0 as c_char; 100];
    // SAFETY: stream and line live through the calls; the line ends in a zero.
    unsafe {
        let stream = libc::popen(command.as_ptr(), c"r".as_ptr());
        libc::fgets(line.as_mut_ptr(), 100, stream);
        assert_eq!(libc::pclose(stream), 0);
        std::ffi::CStr::from_ptr(line.as_ptr()).to_string_lossy().into_owned()
    }
}

fn cat_with_the_connection_as_its_ends(end: &mut End) {
    if end.near() {
        send_all(end.fd, &pattern(300_000)[..100_000]);
        end.meet();
        send_all(end.fd, &pattern(300_000)[..70_000]);
        shutdown(end.fd, libc::SHUT_WR);
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
    } else {
        use std::os::fd::FromRawFd;
        // SAFETY: the descriptors are this end's own.
        let (input, output) =
            unsafe { (Stdio::from_raw_fd(libc::dup(end.fd)), Stdio::from_raw_fd(end.fd)) };
        let mut cat = Command::new("cat").stdin(input).stdout(output).spawn().unwrap();
        end.meet();
        end.saw("cat", cat.wait().unwrap().success());
    }
}

fn a_shell_that_writes_to_it(end: &mut End) {
    if end.near() {
        let lines = read_exactly(end.fd, 28);
        end.saw("lines", digest(&lines));
        send_all(end.fd, b"the answer\n");
        let rest = read_exactly(end.fd, 16);
        end.saw("rest", digest(&rest));
    } else {
        inheritable(end.fd);
        let fd = end.fd;
        let script = format!(
            "echo one >&{fd}; echo and two >&{fd}; printf 'three %d\\n' 4 5 >&{fd}; \
             read line <&{fd}; echo got: \"$line\" >&{fd}"
        );
        let done = Command::new("sh").args(["-c", &script]).status().unwrap().success();
        end.saw("shell", done);
    }
    trips(end, end.fd, 20);
}

/// SCM_RIGHTS.
fn pass(by: c_int, fd: c_int) {
    let mut control = [0u64; 4];
    let mut byte = [b'd'];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: zeroes are a valid message; all that it names lives through the call.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(fd);
        assert_eq!(libc::sendmsg(by, &raw const message, 0), 1);
    }
}

fn take(by: c_int) -> c_int {
    let mut control = [0u64; 4];
    let mut byte = [0u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: as above.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = 32;
        assert_eq!(libc::recvmsg(by, &raw mut message, 0), 1);
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        assert!(!header.is_null(), "no descriptor came");
        libc::CMSG_DATA(header).cast::<c_int>().read_unaligned()
    }
}

fn unix_pair() -> (c_int, c_int) {
    let mut fds = [0; 2];
    // SAFETY: room for two.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, fds.as_mut_ptr()) };
    assert_eq!(made, 0);
    (fds[0], fds[1])
}

fn passed_to_a_process_that_was_there_before(end: &mut End) {
    let (here, there) = unix_pair();
    let inherited = end.fd;
    let helping = child(|| {
        // What it inherited is not what it uses.
        close(inherited);
        close(here);
        let fd = take(there);
        trips(end, fd, 60);
    });
    trips(end, end.fd, 20);
    pass(here, end.fd);
    close(end.fd);
    end.saw("helper", join(helping));
}

/// Sender and receiver of the descriptor both use it.
fn passed_and_kept(end: &mut End) {
    if end.near() {
        trips(end, end.fd, 90);
        return;
    }
    let (here, there) = unix_pair();
    let inherited = end.fd;
    let helping = child(|| {
        close(inherited);
        let fd = take(there);
        // The middle third of what is asked.
        for round in 30..60 {
            let len = 1 + round * 13 % 700;
            let got = read_exactly(fd, len);
            send_all(fd, &got);
        }
    });
    trips(end, end.fd, 30);
    pass(here, end.fd);
    end.saw("helper", join(helping));
    for round in 60..90 {
        let got = read_exactly(end.fd, 1 + round * 13 % 700);
        send_all(end.fd, &got);
    }
}

fn passed_with_bytes_waiting(end: &mut End) {
    passed_behind(end, 5000);
}

/// Much more than the ring holds, and the writer may still be in its call.
fn passed_behind_a_large_message(end: &mut End) {
    passed_behind(end, 1_000_000);
}

/// So many bytes are on the way when the connection is passed on.
fn passed_behind(end: &mut End, count: usize) {
    if end.near() {
        end.meet();
        send_all(end.fd, &pattern(count));
        let answer = read_exactly(end.fd, 16);
        end.saw("answer", answer);
        return;
    }
    let (here, there) = unix_pair();
    let inherited = end.fd;
    let helping = child(|| {
        close(inherited);
        let fd = take(there);
        let first = read_exactly(fd, 2000);
        let rest = read_exactly(fd, count - 2000);
        assert_eq!([first, rest].concat(), pattern(count));
        send_all(fd, b"all of it as was");
    });
    end.meet();
    eventually("bytes are queued", || queued(end.fd) >= count.min(100_000));
    pass(here, end.fd);
    close(end.fd);
    end.saw("helper", join(helping));
}

fn passed_to_oneself(end: &mut End) {
    let (here, there) = unix_pair();
    pass(here, end.fd);
    let twin = take(there);
    end.saw("another number", twin != end.fd);
    trips(end, twin, 20);
    trips(end, end.fd, 20);
    close(end.fd);
    trips(end, twin, 20);
}
