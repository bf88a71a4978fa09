//! Processes that die with a connection: exits, aborts and SIGKILL at any instruction.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use crate::forks::{child, join};
use libc::{ECONNRESET, EPIPE, c_int};

cases! {
    PROCESSES an_exit_delivers_what_was_written;
    PROCESSES an_abort_delivers_what_was_written;
    PROCESSES an_exit_with_unread_bytes_resets;
    OWN_PROCESSES a_writer_is_killed_at_full_speed;
    OWN_PROCESSES a_writer_of_large_pieces_is_killed;
    OWN_PROCESSES a_full_writer_is_killed;
    OWN_PROCESSES a_reader_is_killed;
    OWN_PROCESSES a_sleeping_reader_is_killed;
    OWN_PROCESSES a_partner_of_round_trips_is_killed;
    OWN_PROCESSES one_of_two_processes_is_killed;
}

fn kill(pid: libc::pid_t) {
    // SAFETY: our own child, not reaped yet.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    assert!(libc::WIFSIGNALED(join(pid)));
}

fn an_exit_delivers_what_was_written(end: &mut End) {
    if end.near() {
        let fd = end.fd;
        let going = child(|| send_all(fd, &pattern(40_000)));
        close(fd);
        end.saw("exit", join(going));
        end.meet();
    } else {
        end.meet();
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
    }
}

fn an_abort_delivers_what_was_written(end: &mut End) {
    if end.near() {
        let fd = end.fd;
        let going = child(|| {
            // SAFETY: no core file of a case; then it does not return.
            unsafe {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                send_all(fd, &pattern(3000));
                libc::abort();
            }
        });
        close(fd);
        end.saw("signal", libc::WTERMSIG(join(going)));
        end.meet();
    } else {
        end.meet();
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
    }
}

fn an_exit_with_unread_bytes_resets(end: &mut End) {
    if end.near() {
        let fd = end.fd;
        send_all(fd, b"never read");
        end.meet();
        end.meet();
        await_reset(fd);
        end.saw("read", (read(fd, 5), read(fd, 5)));
    } else {
        end.meet();
        let fd = end.fd;
        await_queued(fd, 10);
        let going = child(|| assert_eq!(read_exactly(fd, 2), b"ne"));
        close(fd);
        end.saw("exit", join(going));
        end.meet();
    }
}

/// A child of the near end writes and is killed; the far end checks each byte by its place.
fn killed_writers(end: &mut End, pauses: &[u64], piece: usize, slow: bool) {
    let bytes = pattern(1 << 22);
    for pause in pauses {
        let fd = end.another();
        end.warm(fd);
        if end.near() {
            let writing = child(|| {
                for piece in bytes.chunks(piece).cycle() {
                    send_all(fd, piece);
                }
            });
            close(fd);
            pause_ms(*pause);
            kill(writing);
            end.meet();
            continue;
        }
        let mut at = 0;
        let ended = loop {
            match read(fd, 30_000) {
                Ok(got) if got.is_empty() => break Ok(()),
                Ok(got) => {
                    for byte in got {
                        assert_eq!(byte, bytes[at % bytes.len()], "a wrong byte at {at}");
                        at += 1;
                    }
                }
                Err(errno) => break Err(errno),
            }
            if slow {
                pause_ms(2);
            }
        };
        end.saw("whole, in order, and then", ended);
        end.meet();
        close(fd);
    }
}

fn a_writer_is_killed_at_full_speed(end: &mut End) {
    killed_writers(end, &[0, 1, 1, 2, 3, 5, 8, 13, 21, 30], 8, false);
}

fn a_writer_of_large_pieces_is_killed(end: &mut End) {
    killed_writers(end, &[0, 1, 2, 3, 5, 8, 13, 20], 100_000, false);
}

/// Killed while it sleeps: what it had written by then comes all the same.
fn a_full_writer_is_killed(end: &mut End) {
    killed_writers(end, &[100, 150], 5000, true);
}

/// How a writer learns of it depends on what was unread; that it does is certain.
fn refused(errno: c_int) -> bool {
    errno == ECONNRESET || errno == EPIPE
}

fn a_reader_is_killed(end: &mut End) {
    for pause in [0, 1, 2, 5, 10, 20] {
        let fd = end.another();
        end.warm(fd);
        if end.far() {
            let reading = child(|| {
                loop {
                    read(fd, 10_000).unwrap();
                }
            });
            close(fd);
            end.meet();
            pause_ms(pause);
            kill(reading);
            continue;
        }
        end.meet();
        let bytes = pattern(7000);
        let errno = loop {
            if let Err(errno) = send(fd, &bytes, libc::MSG_NOSIGNAL) {
                break errno;
            }
        };
        end.saw("refused", refused(errno));
        close(fd);
    }
}

fn a_sleeping_reader_is_killed(end: &mut End) {
    let fd = end.another();
    end.warm(fd);
    if end.far() {
        let reading = child(|| {
            let _ = read(fd, 10);
        });
        close(fd);
        pause_ms(30);
        kill(reading);
        end.meet();
    } else {
        end.meet();
        await_events(fd, libc::POLLRDHUP);
        end.saw("read", read(fd, 10));
        end.saw("sent", send(fd, b"x", libc::MSG_NOSIGNAL));
        await_reset(fd);
        end.saw("sent", send(fd, b"x", libc::MSG_NOSIGNAL));
    }
}

fn a_partner_of_round_trips_is_killed(end: &mut End) {
    for pause in [0, 1, 2, 3, 5, 8, 13] {
        let fd = end.another();
        end.warm(fd);
        if end.far() {
            let answering = child(|| {
                loop {
                    send_all(fd, &read_exactly(fd, 100));
                }
            });
            close(fd);
            end.meet();
            pause_ms(pause);
            kill(answering);
            continue;
        }
        end.meet();
        let message = pattern(100);
        loop {
            if let Err(errno) = send(fd, &message, libc::MSG_NOSIGNAL) {
                assert!(refused(errno));
                break;
            }
            match recv(fd, 100, libc::MSG_WAITALL) {
                // An answer is whole or cut by the death, never wrong.
                Ok(answer) if answer.len() == 100 => assert_eq!(answer, message),
                Ok(answer) => {
                    assert!(message.starts_with(&answer));
                    break;
                }
                Err(errno) => {
                    assert!(refused(errno));
                    break;
                }
            }
        }
        end.saw("it ended", ());
        close(fd);
    }
}

/// The other one still has the connection, which goes on. Each is killed wherever it happens to be: it writes
/// records, and takes an acknowledgement now and then so that no buffer fills.
fn one_of_two_processes_is_killed(end: &mut End) {
    const ROUNDS: u8 = 12;
    /// Between two acknowledgements.
    const RECORDS: u32 = 16;
    let fd = end.another();
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    end.warm(fd);
    if end.near() {
        let mut ends = [0; 2];
        // SAFETY: room for two.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        let [heard, said] = ends;
        for round in 0..ROUNDS {
            let writing = child(|| {
                for number in 0u32.. {
                    let mut record = [round; 64];
                    record[..4].copy_from_slice(&number.to_le_bytes());
                    assert_eq!(write(fd, &record), Ok(64));
                    if number % RECORDS == RECORDS - 1 {
                        assert_eq!(read_exactly(fd, 1), b"a");
                    }
                    if number == 30 * u32::from(round) {
                        assert_eq!(write(said, b"x"), Ok(1));
                    }
                }
            });
            assert_eq!(read_exactly(heard, 1), b"x");
            kill(writing);
            send_all(fd, &[0x80 | round; 64]);
            while read_exactly(fd, 1) != b"w" {}
        }
        end.saw("each time", ROUNDS);
    } else {
        for round in 0..ROUNDS {
            let mut next = 0u32;
            loop {
                let record = read_exactly(fd, 64);
                if record == [0x80 | round; 64] {
                    break;
                }
                assert_eq!(record[..4], next.to_le_bytes());
                assert_eq!(record[4..], [round; 60]);
                next += 1;
                if next.is_multiple_of(RECORDS) {
                    send_all(fd, b"a");
                }
            }
            send_all(fd, b"w");
        }
        end.saw("whole records, and then the other's", ());
    }
}
