//! Ends: half-close, close, reset, and what the other side sees of each.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use libc::{MSG_DONTWAIT, MSG_NOSIGNAL, POLLHUP, POLLRDHUP, SHUT_RD, SHUT_RDWR, SHUT_WR};

cases! {
    EVERY half_closed_and_still_answered;
    EVERY half_closed_by_the_other;
    EVERY both_half_close_at_once;
    EVERY the_end_is_read_again_and_again;
    EVERY a_shutdown_of_reading;
    EVERY a_shutdown_wakes_a_sleeping_reader;
    EVERY a_shutdown_of_writing_refuses_writes;
    EVERY a_shutdown_of_both;
    EVERY close_behind_the_last_byte;
    EVERY close_behind_more_than_fits;
    EVERY close_with_unread_bytes_resets;
    EVERY what_came_before_a_reset_is_read;
    EVERY a_reset_by_linger;
    EVERY a_reset_behind_bytes;
    EVERY a_write_to_a_closed_peer;
    EVERY a_read_behind_a_failed_write;
    EVERY an_error_is_told_once;
    EVERY a_sleeping_reader_sees_the_end;
    EVERY a_sleeping_reader_sees_the_reset;
    EVERY a_sleeping_writer_sees_the_reset;
    EVERY a_writer_sees_the_end_of_a_peer_that_does_not_read;
    EVERY a_close_that_lingers;
    EVERY calls_on_a_closed_descriptor;
    PROCESSES a_broken_pipe_kills;
    PROCESSES a_broken_pipe_is_a_signal_or_none;
}

fn half_closed_and_still_answered(end: &mut End) {
    if end.near() {
        send_all(end.fd, &pattern(100_000));
        shutdown(end.fd, SHUT_WR);
        let answer = read_to_end(end.fd).unwrap();
        end.saw("answer", answer.name());
    } else {
        let question = read_to_end(end.fd).unwrap();
        end.saw("question", question.name());
        send_all(end.fd, &pattern(1 << 20));
        pause_ms(10);
        send_all(end.fd, b"and the last");
        shutdown(end.fd, SHUT_WR);
    }
}

fn half_closed_by_the_other(end: &mut End) {
    if end.far() {
        send_all(end.fd, b"that is all of mine");
        shutdown(end.fd, SHUT_WR);
        let answer = read_to_end(end.fd).unwrap();
        end.saw("answer", answer.name());
    } else {
        let question = read_to_end(end.fd).unwrap();
        end.saw("question", question.name());
        for round in 0..30 {
            send_all(end.fd, &pattern(round * 100));
        }
        shutdown(end.fd, SHUT_WR);
    }
}

fn both_half_close_at_once(end: &mut End) {
    send_all(end.fd, &pattern(50_000));
    shutdown(end.fd, SHUT_WR);
    let other = read_to_end(end.fd).unwrap();
    end.saw("other", other.name());
    await_events(end.fd, POLLHUP);
    end.saw("behind it", read(end.fd, 1));
}

fn the_end_is_read_again_and_again(end: &mut End) {
    if end.near() {
        shutdown(end.fd, SHUT_WR);
    } else {
        for flags in [0, 0, MSG_DONTWAIT, libc::MSG_PEEK, libc::MSG_WAITALL, 0] {
            end.saw("end", recv(end.fd, 10, flags));
        }
        end.saw("ready", poll(end.fd, libc::POLLIN, 10_000));
    }
}

/// Linux lets bytes in all the same.
fn a_shutdown_of_reading(end: &mut End) {
    if end.far() {
        shutdown(end.fd, SHUT_RD);
        end.saw("read", read(end.fd, 10));
        end.saw("ready", poll(end.fd, libc::POLLIN | POLLRDHUP, 0));
        end.meet();
        end.meet();
        await_queued(end.fd, 5);
        end.saw("read", read(end.fd, 10));
        end.saw("read", read(end.fd, 10));
        send_all(end.fd, b"still writing");
    } else {
        end.meet();
        end.saw("sent", write(end.fd, b"bytes"));
        end.meet();
        let got = read_exactly(end.fd, 13);
        end.saw("got", digest(&got));
    }
}

fn a_shutdown_wakes_a_sleeping_reader(end: &mut End) {
    for how in [SHUT_RD, SHUT_RDWR] {
        let fd = end.another();
        end.warm(fd);
        if end.far() {
            let reader = std::thread::spawn(move || read(fd, 10));
            pause_ms(30);
            shutdown(fd, how);
            end.saw("woken", reader.join().unwrap());
        }
        end.meet();
    }
}

fn a_shutdown_of_writing_refuses_writes(end: &mut End) {
    if end.near() {
        shutdown(end.fd, SHUT_WR);
        for _ in 0..2 {
            end.saw("sent", send(end.fd, b"x", MSG_NOSIGNAL));
        }
        // SAFETY: no pointers.
        end.saw("again", check(unsafe { libc::shutdown(end.fd, SHUT_WR) } as isize));
        end.meet();
        let got = read_exactly(end.fd, 5);
        end.saw("got", got);
    } else {
        end.saw("end", read(end.fd, 1));
        end.meet();
        send_all(end.fd, b"hello");
    }
}

fn a_shutdown_of_both(end: &mut End) {
    if end.near() {
        send_all(end.fd, b"before");
        shutdown(end.fd, SHUT_RDWR);
        end.saw("read", read(end.fd, 10));
        end.saw("sent", send(end.fd, b"x", MSG_NOSIGNAL));
        end.saw("ready", poll(end.fd, libc::POLLIN | libc::POLLOUT | POLLRDHUP, 0));
    } else {
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
    }
}

fn close_behind_the_last_byte(end: &mut End) {
    for size in [1usize, 4000, 5000, 100_000] {
        let fd = end.another();
        end.warm(fd);
        if end.near() {
            send_all(fd, &pattern(size));
            close(fd);
            end.meet();
        } else {
            end.meet();
            let all = read_to_end(fd).unwrap();
            end.saw("all", all.name());
            close(fd);
        }
    }
}

/// What neither ring nor network has taken by then is still delivered.
fn close_behind_more_than_fits(end: &mut End) {
    if end.near() {
        nonblocking(end.fd, true);
        let bytes = pattern(10 << 20);
        let mut sent = 0;
        while let Ok(count) = write(end.fd, &bytes[sent..sent + 50_000]) {
            sent += count;
        }
        close(end.fd);
        let mut expected = Digest::new();
        expected.add(&bytes[..sent]);
        end.tell(sent as u64);
        end.tell(expected.hash());
    } else {
        let (sent, hash) = (end.hear() as usize, end.hear());
        pause_ms(30);
        let all = read_to_end(end.fd).unwrap();
        end.saw("all of it", (all.bytes() == sent, all.hash() == hash));
    }
}

fn close_with_unread_bytes_resets(end: &mut End) {
    if end.near() {
        send_all(end.fd, b"never read");
        end.meet();
        end.meet();
        await_reset(end.fd);
        end.saw("ready", poll(end.fd, libc::POLLIN | libc::POLLOUT | POLLRDHUP, 0));
        end.saw("read", read(end.fd, 10));
        end.saw("read", read(end.fd, 10));
        end.saw("sent", send(end.fd, b"x", MSG_NOSIGNAL));
    } else {
        end.meet();
        await_queued(end.fd, 10);
        close(end.fd);
        end.meet();
    }
}

fn what_came_before_a_reset_is_read(end: &mut End) {
    if end.near() {
        send_all(end.fd, b"never read");
        end.meet();
        end.meet();
        await_reset(end.fd);
        end.saw("queued", queued(end.fd));
        end.saw("read", read(end.fd, 3));
        end.saw("read", read(end.fd, 30));
        end.saw("read", read(end.fd, 10));
        end.saw("read", read(end.fd, 10));
    } else {
        end.meet();
        await_queued(end.fd, 10);
        send_all(end.fd, b"the answer");
        close(end.fd);
        end.meet();
    }
}

fn a_reset_by_linger(end: &mut End) {
    if end.near() {
        reset(end.fd);
        end.meet();
    } else {
        end.meet();
        await_reset(end.fd);
        end.saw("sent", send(end.fd, b"x", MSG_NOSIGNAL));
        end.saw("sent", send(end.fd, b"x", MSG_NOSIGNAL));
        end.saw("read", read(end.fd, 1));
        end.saw("error", so_error(end.fd));
    }
}

fn a_reset_behind_bytes(end: &mut End) {
    if end.near() {
        send_all(end.fd, &pattern(3000));
        end.meet();
        reset(end.fd);
    } else {
        await_queued(end.fd, 3000);
        end.meet();
        await_reset(end.fd);
        end.saw("queued", queued(end.fd));
        let got = read(end.fd, 5000).unwrap();
        end.saw("read", digest(&got));
        end.saw("read", read(end.fd, 1));
        end.saw("read", read(end.fd, 1));
    }
}

fn a_write_to_a_closed_peer(end: &mut End) {
    if end.far() {
        close(end.fd);
        end.meet();
        return;
    }
    end.meet();
    await_events(end.fd, POLLRDHUP);
    end.saw("ready", poll(end.fd, libc::POLLIN | libc::POLLOUT | POLLRDHUP, 0));
    end.saw("read", read(end.fd, 1));
    end.saw("sent", send(end.fd, b"the first", MSG_NOSIGNAL));
    await_reset(end.fd);
    end.saw("ready", poll(end.fd, libc::POLLIN | libc::POLLOUT | POLLRDHUP, 0));
    for _ in 0..2 {
        end.saw("sent", send(end.fd, b"the next", MSG_NOSIGNAL));
    }
    end.saw("read", read(end.fd, 1));
}

fn a_read_behind_a_failed_write(end: &mut End) {
    if end.far() {
        send_all(end.fd, b"the last words");
        close(end.fd);
        end.meet();
        return;
    }
    end.meet();
    await_events(end.fd, POLLRDHUP);
    end.saw("sent", send(end.fd, b"the first", MSG_NOSIGNAL));
    await_reset(end.fd);
    end.saw("read", read(end.fd, 5));
    end.saw("read", read(end.fd, 50));
    end.saw("read", read(end.fd, 50));
    end.saw("error", so_error(end.fd));
    end.saw("sent", send(end.fd, b"the next", MSG_NOSIGNAL));
}

fn an_error_is_told_once(end: &mut End) {
    if end.near() {
        reset(end.fd);
        end.meet();
    } else {
        end.meet();
        await_reset(end.fd);
        end.saw("errors", (so_error(end.fd), so_error(end.fd)));
        end.saw("read", read(end.fd, 1));
        end.saw("sent", send(end.fd, b"x", MSG_NOSIGNAL));
        end.saw("peer", peer_is_known(end.fd));
    }
}

fn peer_is_known(fd: libc::c_int) -> Result<usize> {
    // SAFETY: zeroes are a valid address; it and its length live through the call.
    unsafe {
        let mut address: libc::sockaddr_storage = std::mem::zeroed();
        let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        check(libc::getpeername(fd, (&raw mut address).cast(), &raw mut len) as isize)
    }
}

fn a_sleeping_reader_sees_the_end(end: &mut End) {
    for close_it in [true, false] {
        let fd = end.another();
        end.warm(fd);
        end.meet();
        if end.near() {
            pause_ms(30);
            if close_it { close(fd) } else { shutdown(fd, SHUT_WR) }
        } else {
            end.saw("read", read(fd, 10));
        }
        end.meet();
    }
}

fn a_sleeping_reader_sees_the_reset(end: &mut End) {
    end.meet();
    if end.near() {
        pause_ms(30);
        reset(end.fd);
    } else {
        end.saw("read", read(end.fd, 10));
        end.saw("read", read(end.fd, 10));
    }
}

fn a_sleeping_writer_sees_the_reset(end: &mut End) {
    if end.near() {
        stuff_for_good(end.fd);
        end.meet();
        let bytes = vec![b'x'; 5_000_000];
        end.saw("sent", send(end.fd, &bytes, MSG_NOSIGNAL).map(|sent| sent < bytes.len()));
        end.saw("sent", send(end.fd, &bytes, MSG_NOSIGNAL));
    } else {
        end.meet();
        pause_ms(30);
        reset(end.fd);
    }
}

/// The peer closes its socket while this end sleeps in a write: its unread bytes make it a reset.
fn a_writer_sees_the_end_of_a_peer_that_does_not_read(end: &mut End) {
    if end.near() {
        end.meet();
        let bytes = vec![b'x'; 20_000_000];
        // As much as went in before is counted first.
        let first = send(end.fd, &bytes, MSG_NOSIGNAL);
        end.saw("some went in", first.is_ok_and(|sent| sent > 0 && sent < bytes.len()));
        end.saw("and then", send(end.fd, &bytes, MSG_NOSIGNAL));
        end.saw("and then", send(end.fd, &bytes, MSG_NOSIGNAL));
    } else {
        end.meet();
        eventually("bytes", || queued(end.fd) > 0);
        pause_ms(50);
        close(end.fd);
    }
}

fn a_close_that_lingers(end: &mut End) {
    const BYTES: usize = 300_000;
    if end.near() {
        let linger = libc::linger { l_onoff: 1, l_linger: 20 };
        set_value(end.fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger).unwrap();
        send_all(end.fd, &pattern(BYTES));
        close(end.fd);
        end.saw("closed", ());
    } else {
        pause_ms(20);
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
        close(end.fd);
    }
}

fn calls_on_a_closed_descriptor(end: &mut End) {
    // SAFETY: no pointers.
    let fd = unsafe { libc::fcntl(end.fd, libc::F_DUPFD, if end.far() { 700 } else { 800 }) };
    close(fd);
    end.saw("read", read(fd, 1));
    end.saw("sent", send(fd, b"x", MSG_NOSIGNAL));
    end.saw("polled", poll(fd, libc::POLLIN, 0));
    // SAFETY: no pointers.
    end.saw("closed", check(unsafe { libc::close(fd) } as isize));
    end.meet();
    send_all(end.fd, b"x");
    let got = read_exactly(end.fd, 1);
    end.saw("the other number works", got);
}

/// The signal as the shell would give it, in a child.
fn a_broken_pipe_kills(end: &mut End) {
    if end.far() {
        close(end.fd);
        end.meet();
        return;
    }
    end.meet();
    await_events(end.fd, POLLRDHUP);
    send_all(end.fd, b"the first");
    await_reset(end.fd);
    // SAFETY: the case has one thread; the child calls nothing that it must not.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: no handler.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let _ = write(end.fd, b"the next");
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: the status lives through the call.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    end.saw("killed by", (libc::WIFSIGNALED(status), libc::WTERMSIG(status)));
}

static BROKEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

extern "C" fn count_broken(_: libc::c_int) {
    BROKEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

fn a_broken_pipe_is_a_signal_or_none(end: &mut End) {
    let broken = || BROKEN.load(std::sync::atomic::Ordering::Relaxed);
    if end.far() {
        close(end.fd);
        end.meet();
        return;
    }
    end.meet();
    let handler: extern "C" fn(libc::c_int) = count_broken;
    // SAFETY: the handler only counts.
    unsafe { libc::signal(libc::SIGPIPE, handler as libc::sighandler_t) };
    await_events(end.fd, POLLRDHUP);
    send_all(end.fd, b"the first");
    await_reset(end.fd);
    let parts = [libc::iovec { iov_base: b"xy".as_ptr().cast_mut().cast(), iov_len: 2 }];
    end.saw("write", (write(end.fd, b"x"), broken()));
    end.saw("send", (send(end.fd, b"x", 0), broken()));
    end.saw("send without", (send(end.fd, b"x", MSG_NOSIGNAL), broken()));
    // SAFETY: the pieces live through the call.
    let vector = check(unsafe { libc::writev(end.fd, parts.as_ptr(), 1) });
    end.saw("writev", (vector, broken()));
    end.saw("nothing", (write(end.fd, b""), broken()));
}
