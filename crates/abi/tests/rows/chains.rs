//! Many splices at a time.

use crate::sockets::*;
use crate::{System, cases};
use libc::c_int;

cases! {
    BOTH a_chain_of_200_under_a_limit_of_500_descriptors;
    BOTH thousands_of_idle_splices_are_small;
}

fn limit_descriptors(count: u64) {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: count };
    // SAFETY: the record lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

fn a_chain_of_200_under_a_limit_of_500_descriptors(_: System) {
    limit_descriptors(500);
    let ends: Vec<(c_int, c_int)> = (0..201).map(|_| tcp(false)).collect();
    for pair in ends.windows(2) {
        splice(pair[0].1, pair[1].0).unwrap();
    }
    let (feed, sink) = (ends[0].0, ends[200].1);
    for len in [1, 10_000, 2_000_000] {
        let bytes = pattern(len);
        let sent = bytes.clone();
        let sender = std::thread::spawn(move || send_all(feed, &sent));
        assert!(read_exactly(sink, len) == bytes);
        sender.join().unwrap();
    }
    for end in &ends[..200] {
        assert_eq!(count(end.1), Ok(2_010_001));
    }
}

/// Private and shared memory of a process, in KiB.
fn memory(pid: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |name: &str| -> usize {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    field("Pss:")
}

/// The processes of that name whose parent is not us: the carrier of this case is the one
/// that has our sockets open.
pub fn carrier(of: c_int) -> String {
    carrier_but(of, &[std::process::id()]).to_string()
}

pub fn carrier_but(of: c_int, others: &[u32]) -> c_int {
    let own = std::fs::read_link(format!("/proc/self/fd/{of}")).unwrap();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().into_string().unwrap();
        // `self` and `thread-self` are us as well.
        let Ok(number) = pid.parse::<u32>() else { continue };
        if others.contains(&number) {
            continue;
        }
        let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for fd in fds.flatten() {
            if std::fs::read_link(fd.path()).is_ok_and(|link| link == own) {
                return number as c_int;
            }
        }
    }
    panic!("nobody has the socket open");
}

fn thousands_of_idle_splices_are_small(_: System) {
    const SPLICES: usize = 2000;
    limit_descriptors(20_000);
    let first = Rig::spliced();
    first.check(b"x");
    let carrier = carrier(first.source);
    let rigs: Vec<Rig> = (0..SPLICES).map(|_| Rig::new()).collect();
    let measure = || memory("self") + memory(&carrier);
    let before = measure();
    for rig in &rigs {
        splice(rig.source, rig.drain).unwrap();
    }
    let grown = measure() - before;
    // The pages of the shared records are among it: none is touched before it is used.
    assert!(grown * 2 < SPLICES * 3, "{grown} KiB for {SPLICES} splices");
    rigs[SPLICES - 1].check(b"alive");
}
