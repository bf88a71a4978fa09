//! Side doors: calls that reach a socket without the plain names. Fortified names, stdio,
//! numbers of system calls, files, pipes.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use crate::pieces::message;
use libc::{c_char, c_int, c_void, iovec, size_t, ssize_t};
use std::ffi::CStr;
use std::ptr::null_mut;

cases! {
    EVERY fortified_names;
    EVERY stdio_both_ways;
    EVERY stdio_by_lines;
    EVERY formatted_to_the_descriptor;
    EVERY system_calls_by_number;
    EVERY a_file_is_sent;
    EVERY a_large_file_is_sent;
    EVERY a_pipe_is_spliced_in;
    EVERY a_pipe_is_spliced_out;
    EVERY sent_without_a_copy;
}

// What a compiler puts in place of the plain names with -D_FORTIFY_SOURCE=2.
unsafe extern "C" {
    fn __read_chk(fd: c_int, at: *mut c_void, len: size_t, room: size_t) -> ssize_t;
    fn __recv_chk(fd: c_int, at: *mut c_void, len: size_t, room: size_t, flags: c_int) -> ssize_t;
    fn __recvfrom_chk(
        fd: c_int,
        at: *mut c_void,
        len: size_t,
        room: size_t,
        flags: c_int,
        from: *mut libc::sockaddr,
        from_len: *mut libc::socklen_t,
    ) -> ssize_t;
    fn __poll_chk(fds: *mut libc::pollfd, n: libc::nfds_t, ms: c_int, room: size_t) -> c_int;
    fn __ppoll_chk(
        fds: *mut libc::pollfd,
        n: libc::nfds_t,
        time: *const libc::timespec,
        mask: *const libc::sigset_t,
        room: size_t,
    ) -> c_int;
    fn __fgets_chk(at: *mut c_char, room: size_t, len: c_int, file: *mut libc::FILE)
    -> *mut c_char;
    fn dprintf(fd: c_int, format: *const c_char, ...) -> c_int;
    fn __dprintf_chk(fd: c_int, flag: c_int, format: *const c_char, ...) -> c_int;
}

fn fortified_names(end: &mut End) {
    if end.near() {
        // SAFETY: the format takes one number.
        let sent = unsafe { __dprintf_chk(end.fd, 1, c"%d and more, ".as_ptr().cast(), 42) };
        end.saw("sent", sent);
        send_all(end.fd, b"0123456789");
        end.meet();
        return;
    }
    end.meet();
    await_queued(end.fd, 23);
    let mut bytes = [0u8; 8];
    let at: *mut c_void = bytes.as_mut_ptr().cast();
    let mut fds = [libc::pollfd { fd: end.fd, events: libc::POLLIN, revents: 0 }];
    let room = size_of::<libc::pollfd>();
    let soon = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    for turn in 0..4 {
        // SAFETY: buffer, set and time live through the calls.
        let got = unsafe {
            match turn {
                0 => __read_chk(end.fd, at, 8, 8),
                1 => __recv_chk(end.fd, at, 8, 8, 0),
                2 => __recvfrom_chk(end.fd, at, 3, 8, 0, null_mut(), null_mut()),
                _ => __read_chk(end.fd, at, 5, 8),
            }
        };
        end.saw("got", (got, bytes.escape_ascii().to_string()));
        // SAFETY: as above.
        let ready = unsafe {
            (
                __poll_chk(fds.as_mut_ptr(), 1, 0, room),
                __ppoll_chk(fds.as_mut_ptr(), 1, &raw const soon, std::ptr::null(), room),
            )
        };
        if turn < 3 {
            end.saw("ready", ready);
        } else {
            end.saw("not ready", ready);
        }
    }
}

fn stream(fd: c_int, mode: &CStr) -> *mut libc::FILE {
    // SAFETY: a duplicate that the stream owns.
    let file = unsafe { libc::fdopen(libc::dup(fd), mode.as_ptr()) };
    assert!(!file.is_null());
    file
}

fn stdio_both_ways(end: &mut End) {
    let (input, output) = (stream(end.fd, c"r"), stream(end.fd, c"w"));
    let mut buffer = vec![0u8; 20_000];
    for size in [1usize, 100, 4096, 4097, 20_000] {
        // SAFETY: streams and buffer live through the calls.
        unsafe {
            let at: *mut c_void = buffer.as_mut_ptr().cast();
            if end.near() {
                let bytes = pattern(size);
                assert_eq!(libc::fwrite(bytes.as_ptr().cast(), 1, size, output), size);
                assert_eq!(libc::fflush(output), 0);
                let got = libc::fread(at, 1, size, input);
                end.saw("answer", digest(&buffer[..got]));
            } else {
                let got = libc::fread(at, 1, size, input);
                end.saw("question", digest(&buffer[..got]));
                buffer[..size].reverse();
                assert_eq!(libc::fwrite(at, 1, size, output), size);
                assert_eq!(libc::fflush(output), 0);
            }
        }
    }
    // SAFETY: the streams are not used again.
    unsafe { (libc::fclose(input), libc::fclose(output)) };
    // The connection is still there.
    if end.near() {
        send_all(end.fd, b"plain again");
    } else {
        let got = read_exactly(end.fd, 11);
        end.saw("got", digest(&got));
    }
}

fn stdio_by_lines(end: &mut End) {
    if end.near() {
        for line in 0..200 {
            send_all(end.fd, format!("line {line} {}\n", "-".repeat(line)).as_bytes());
        }
        shutdown(end.fd, libc::SHUT_WR);
        let answer = read_to_end(end.fd).unwrap();
        end.saw("answer", answer.name());
    } else {
        let (input, output) = (stream(end.fd, c"r"), stream(end.fd, c"w"));
        let mut lines = Digest::new();
        let mut line = [0 as c_char; 300];
        // SAFETY: streams and line live through the calls; the line ends in a zero.
        unsafe {
            while !__fgets_chk(line.as_mut_ptr(), 300, 300, input).is_null() {
                let text = CStr::from_ptr(line.as_ptr());
                lines.add(text.to_bytes());
                assert!(libc::fputs(text.as_ptr(), output) >= 0);
            }
            libc::fclose(input);
            assert_eq!(libc::fclose(output), 0);
        }
        end.saw("lines", lines.name());
        close(end.fd);
    }
}

fn formatted_to_the_descriptor(end: &mut End) {
    if end.near() {
        for number in 0..50 {
            // SAFETY: the format takes a number and a text.
            let sent = unsafe { dprintf(end.fd, c"%d:%s;".as_ptr(), number, c"text".as_ptr()) };
            assert!(sent > 0);
            if number % 10 == 0 {
                send_all(end.fd, b"between;");
            }
        }
        shutdown(end.fd, libc::SHUT_WR);
    } else {
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
    }
}

fn system_calls_by_number(end: &mut End) {
    let mut bytes = [0u8; 64];
    for (write_by, read_by) in [
        (libc::SYS_write, libc::SYS_read),
        (libc::SYS_sendto, libc::SYS_recvfrom),
        (libc::SYS_writev, libc::SYS_readv),
        (libc::SYS_sendmsg, libc::SYS_recvmsg),
    ] {
        let text = format!("by number {write_by}");
        let len = if end.near() { text.len() } else { 64 };
        if end.near() {
            bytes[..len].copy_from_slice(text.as_bytes());
        } else {
            bytes.fill(0);
        }
        let at = bytes.as_mut_ptr();
        let mut parts = [iovec { iov_base: at.cast(), iov_len: len }];
        let mut message = message(&mut parts);
        let by = if end.near() { write_by } else { read_by };
        let fd = end.fd;
        // SAFETY: everything lives through the calls, and has the types that they take.
        let done = unsafe {
            match by {
                libc::SYS_write | libc::SYS_read => libc::syscall(by, fd, at, len),
                libc::SYS_sendto | libc::SYS_recvfrom => {
                    libc::syscall(by, fd, at, len, 0, 0usize, 0usize)
                }
                libc::SYS_writev | libc::SYS_readv => libc::syscall(by, fd, parts.as_ptr(), 1),
                _ => libc::syscall(by, fd, &raw mut message, 0),
            }
        };
        end.saw("done", done);
        if end.far() {
            end.saw("bytes", bytes[..done as usize].escape_ascii().to_string());
            send_all(fd, b"next");
        } else {
            assert_eq!(read_exactly(fd, 4), b"next");
        }
    }
    for turn in 0..20 {
        if end.near() {
            send_all(end.fd, &pattern(turn * 100 + 1));
        } else {
            let got = read_digest(end.fd, turn * 100 + 1);
            end.saw("as ever", got);
        }
    }
}

/// A file without a name, with these bytes.
fn file(bytes: &[u8]) -> c_int {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"file".as_ptr(), 0) };
    send_all(fd, bytes);
    fd
}

fn a_file_is_sent(end: &mut End) {
    if end.near() {
        let file = file(&pattern(10_000));
        let mut from = 100;
        // SAFETY: the offset lives through the call.
        let sent = unsafe { libc::sendfile(end.fd, file, &raw mut from, 5000) };
        end.saw("sent", (sent, from));
        send_all(end.fd, b"between");
        // SAFETY: as above.
        let sent = unsafe { libc::sendfile64(end.fd, file, &raw mut from, 1_000_000) };
        end.saw("sent", (sent, from));
        send_all(end.fd, b"behind");
        shutdown(end.fd, libc::SHUT_WR);
    } else {
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
    }
}

fn a_large_file_is_sent(end: &mut End) {
    const BYTES: usize = 5 << 20;
    if end.near() {
        let file = file(&pattern(BYTES));
        let mut from = 0;
        while (from as usize) < BYTES {
            // SAFETY: the offset lives through the call.
            assert!(unsafe { libc::sendfile(end.fd, file, &raw mut from, BYTES) } > 0);
        }
        let answer = read_exactly(end.fd, 2);
        end.saw("answer", answer);
    } else {
        let all = read_digest(end.fd, BYTES);
        end.saw("all", all);
        send_all(end.fd, b"ok");
    }
}

fn pipe() -> (c_int, c_int) {
    let mut fds = [0; 2];
    // SAFETY: room for two.
    assert_eq!(unsafe { libc::pipe(fds.as_mut_ptr()) }, 0);
    (fds[0], fds[1])
}

fn splice_through(from: c_int, to: c_int, len: usize) -> Result<usize> {
    let null = null_mut();
    // SAFETY: no offsets.
    check(unsafe { libc::splice(from, null, to, null, len, libc::SPLICE_F_MOVE) })
}

fn a_pipe_is_spliced_in(end: &mut End) {
    if end.near() {
        let (out, into) = pipe();
        for round in 0..20 {
            let size = 1 + round * 1500;
            send_all(into, &pattern(size));
            let mut left = size;
            while left > 0 {
                left -= splice_through(out, end.fd, left).unwrap();
            }
            send_all(end.fd, b"|");
        }
        shutdown(end.fd, libc::SHUT_WR);
    } else {
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
    }
}

fn a_pipe_is_spliced_out(end: &mut End) {
    const BYTES: usize = 400_000;
    if end.near() {
        send_all(end.fd, &pattern(BYTES));
        shutdown(end.fd, libc::SHUT_WR);
    } else {
        let (out, into) = pipe();
        let first = read_exactly(end.fd, 1000);
        end.saw("first", digest(&first));
        let mut rest = Digest::new();
        loop {
            let count = splice_through(end.fd, into, 30_000).unwrap();
            if count == 0 {
                break;
            }
            rest.add(&read_exactly(out, count));
        }
        end.saw("rest", rest.name());
    }
}

fn sent_without_a_copy(end: &mut End) {
    const MSG_ZEROCOPY: c_int = 0x400_0000;
    if end.near() {
        set_option(end.fd, libc::SOL_SOCKET, 60, 1);
        let bytes = pattern(20_000);
        let sent = send(end.fd, &bytes, MSG_ZEROCOPY);
        end.saw("sent", sent);
        send_all(end.fd, b"and a copy");
        // The kernel says when the memory is free again.
        await_events(end.fd, libc::POLLERR);
        let mut control = [0u64; 16];
        let mut message = message(&mut []);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = 128 as _;
        // SAFETY: everything that the message names lives through the call.
        let told = unsafe { libc::recvmsg(end.fd, &raw mut message, libc::MSG_ERRQUEUE) };
        end.saw("told", (told, message.msg_flags & libc::MSG_ERRQUEUE != 0));
        end.meet();
    } else {
        let all = read_digest(end.fd, 20_010);
        end.saw("all", all);
        end.meet();
    }
}
