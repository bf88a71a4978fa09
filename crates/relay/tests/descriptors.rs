//! The constants of the descriptor budget against what the runtime really
//! opens. Alone in its file: it counts the descriptors of its whole process,
//! and a test beside it would be counted too.

use sosplice_relay::budget::{PROCESS_DESCRIPTORS, WORKER_DESCRIPTORS};

fn open() -> u64 {
    // The directory that is read is itself open while it is.
    std::fs::read_dir("/proc/self/fd").expect("proc").count() as u64 - 1
}

#[test]
fn a_worker_takes_no_more_than_its_share() {
    let before = open();
    let mut runtimes = Vec::new();
    for _ in 0..8 {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let kind = tokio::signal::unix::SignalKind::terminate();
            drop(tokio::signal::unix::signal(kind).expect("a handler"));
        });
        runtimes.push(runtime);
    }
    let taken = open() - before;
    // The pair of the signal handler is the process's, and comes with the first.
    println!("{taken} descriptors by 8 workers, {before} at start");
    assert!(taken > 8, "the runtimes opened something: {taken}");
    assert!(taken <= 8 * WORKER_DESCRIPTORS + 2, "{taken} by 8 workers");
    assert!(before + 2 <= PROCESS_DESCRIPTORS, "{before} at start");
}
