//! One connection, several descriptors and threads.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use libc::{F_DUPFD, F_DUPFD_CLOEXEC, O_CLOEXEC, c_int};

cases! {
    EVERY every_kind_of_duplicate;
    EVERY one_duplicate_reads_and_one_writes;
    EVERY duplicates_share_their_flags;
    EVERY the_last_duplicate_ends_the_connection;
    EVERY a_descriptor_put_over_the_connection_ends_it;
    EVERY the_connection_put_over_another_descriptor;
    PROCESSES the_connection_put_over_every_number;
    EVERY a_closed_range;
    EVERY a_thread_reads_and_a_thread_writes;
    EVERY several_readers;
    EVERY several_writers_of_whole_records;
    EVERY sleeping_readers_and_a_shutdown;
}

/// So many round trips; the near end asks.
pub fn trips(end: &End, fd: c_int, count: usize) {
    for round in 0..count {
        let message = pattern(1 + round * 13 % 700);
        if end.near() {
            send_all(fd, &message);
            assert_eq!(read_exactly(fd, message.len()), message);
        } else {
            let got = read_exactly(fd, message.len());
            send_all(fd, &got);
        }
    }
}

fn dup(fd: c_int) -> c_int {
    // SAFETY: no pointers.
    let new = unsafe { libc::dup(fd) };
    assert!(new >= 0);
    new
}

fn every_kind_of_duplicate(end: &mut End) {
    // Numbers of their own for each end: in one arrangement they share a process.
    let at = if end.near() { 300 } else { 400 };
    // SAFETY: no pointers.
    let twins = unsafe {
        [
            libc::dup(end.fd),
            libc::dup2(end.fd, at),
            libc::dup3(end.fd, at + 1, O_CLOEXEC),
            libc::fcntl(end.fd, F_DUPFD, at + 2),
            libc::fcntl(end.fd, F_DUPFD_CLOEXEC, at + 3),
        ]
    };
    for twin in twins {
        trips(end, twin, 5);
        trips(end, end.fd, 5);
    }
    close(end.fd);
    for twin in twins {
        trips(end, twin, 5);
        if end.near() {
            send_all(twin, &pattern(1000));
        } else {
            let got = read_exactly(twin, 1000);
            end.saw("got", digest(&got));
        }
        end.meet();
        close(twin);
    }
    end.saw("all", ());
}

fn one_duplicate_reads_and_one_writes(end: &mut End) {
    let twin = dup(end.fd);
    for round in 0..50 {
        if end.near() {
            send_all(end.fd, &pattern(round * 100 + 1));
            assert_eq!(read_exactly(twin, 2), b"ok");
        } else {
            let got = read_exactly(twin, round * 100 + 1);
            end.saw("got", digest(&got));
            send_all(end.fd, b"ok");
        }
    }
}

fn duplicates_share_their_flags(end: &mut End) {
    let twin = dup(end.fd);
    nonblocking(twin, true);
    end.saw("nothing", read(end.fd, 1));
    nonblocking(end.fd, false);
    end.meet();
    if end.near() {
        pause_ms(20);
        send_all(end.fd, b"x");
    } else {
        end.saw("waited", read(twin, 1));
    }
}

fn the_last_duplicate_ends_the_connection(end: &mut End) {
    if end.near() {
        let twins = [dup(end.fd), dup(end.fd)];
        close(end.fd);
        send_all(twins[0], b"one ");
        close(twins[0]);
        send_all(twins[1], b"and the other");
        end.meet();
        close(twins[1]);
    } else {
        let got = read_exactly(end.fd, 17);
        end.saw("got", digest(&got));
        end.saw("nothing", recv(end.fd, 1, libc::MSG_DONTWAIT));
        end.meet();
        end.saw("end", read(end.fd, 1));
    }
}

fn a_descriptor_put_over_the_connection_ends_it(end: &mut End) {
    if end.near() {
        send_all(end.fd, b"last");
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::dup2(2, end.fd) }, end.fd);
        end.saw("no socket any more", send(end.fd, b"", 0));
    } else {
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
    }
}

fn the_connection_put_over_another_descriptor(end: &mut End) {
    let other = end.another();
    end.warm(other);
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::dup2(end.fd, other) }, other);
    trips(end, other, 20);
    trips(end, end.fd, 20);
    // Over itself: nothing happens.
    // SAFETY: no pointers.
    end.saw("itself", unsafe { libc::dup2(end.fd, end.fd) == end.fd });
    trips(end, other, 20);
}

/// A number that the program takes may be the library's own: what that had to say must not go into a socket of the
/// program's.
fn the_connection_put_over_every_number(end: &mut End) {
    let limit = 4096;
    let places: Vec<c_int> =
        // SAFETY: no pointers; whatever is open has another place.
        (100..limit).filter(|place| unsafe { libc::dup2(end.fd, *place) } == *place).collect();
    end.meet();
    let others: Vec<c_int> = (0..3).map(|_| end.another()).collect();
    for other in others {
        end.warm(other);
        trips(end, other, 20);
        close(other);
    }
    end.meet();
    end.saw("queued", queued(end.fd));
    end.meet();
    trips(end, end.fd, 20);
    places.into_iter().for_each(close);
    trips(end, end.fd, 20);
}

fn a_closed_range(end: &mut End) {
    if end.near() {
        // SAFETY: no pointers; these numbers are this end's.
        unsafe {
            let (low, high) =
                (libc::fcntl(end.fd, F_DUPFD, 500), libc::fcntl(end.fd, F_DUPFD, 510));
            close(end.fd);
            send_all(low, b"from one, ");
            libc::syscall(libc::SYS_close_range, 500, 505, 0);
            send_all(high, b"from the other");
            libc::close_range(500, 520, 0);
        }
    } else {
        let all = read_to_end(end.fd).unwrap();
        end.saw("all", all.name());
    }
}

fn a_thread_reads_and_a_thread_writes(end: &mut End) {
    const BYTES: usize = 4_000_000;
    let fd = end.fd;
    let writer = std::thread::spawn(move || {
        let bytes = pattern(BYTES);
        for piece in bytes.chunks(3333) {
            send_all(fd, piece);
        }
    });
    let all = read_digest(fd, BYTES);
    writer.join().unwrap();
    end.saw("all", all);
}

/// Who gets which byte is open; each comes to somebody, once.
fn several_readers(end: &mut End) {
    const BYTES: usize = 400_000;
    let fd = end.fd;
    if end.near() {
        for piece in pattern(BYTES).chunks(100) {
            send_all(fd, piece);
        }
        shutdown(fd, libc::SHUT_WR);
        return;
    }
    let readers: Vec<_> = (0..4)
        .map(|number| {
            std::thread::spawn(move || {
                let mut counts = [0usize; 256];
                loop {
                    let piece = read(fd, 50 + number * 100).unwrap();
                    if piece.is_empty() {
                        return counts;
                    }
                    piece.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
                }
            })
        })
        .collect();
    let mut counts = [0usize; 256];
    for reader in readers {
        for (all, own) in counts.iter_mut().zip(reader.join().unwrap()) {
            *all += own;
        }
    }
    let mut expected = [0usize; 256];
    pattern(BYTES).iter().for_each(|byte| expected[usize::from(*byte)] += 1);
    end.saw("every byte once", counts == expected);
}

pub const RECORD: usize = 64;

/// Records of one size: who wrote it, and its number.
pub fn record(writer: u8, number: u32) -> [u8; RECORD] {
    let mut record = [writer; RECORD];
    record[..4].copy_from_slice(&number.to_le_bytes());
    record
}

/// Every record is whole, and each writer's come in order.
pub fn read_records(end: &mut End, writers: usize, each: u32) {
    let mut next = vec![0u32; writers];
    for _ in 0..writers as u32 * each {
        let got = read_exactly(end.fd, RECORD);
        let writer = got[RECORD - 1];
        let expected = record(writer, next[usize::from(writer)]);
        assert_eq!(got, expected, "a record is torn, or out of its order");
        next[usize::from(writer)] += 1;
    }
    end.saw("records", next);
}

/// Few enough for the buffers of plain TCP, which tears a record only where memory runs out.
pub const RECORDS: u32 = 100;

fn several_writers_of_whole_records(end: &mut End) {
    let fd = end.fd;
    if end.far() {
        read_records(end, 4, RECORDS);
        return;
    }
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            std::thread::spawn(move || {
                for number in 0..RECORDS {
                    assert_eq!(write(fd, &record(writer, number)), Ok(RECORD));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
}

fn sleeping_readers_and_a_shutdown(end: &mut End) {
    let fd = end.fd;
    if end.near() {
        pause_ms(40);
        shutdown(fd, libc::SHUT_WR);
        return;
    }
    let readers: Vec<_> = (0..3).map(|_| std::thread::spawn(move || read(fd, 10))).collect();
    for reader in readers {
        end.saw("end", reader.join().unwrap());
    }
}
