//! A hostile or careless program: it never crashes, hangs or leaks. Bounded in rounds;
//! SOSPLICE_FUZZ_SEEDS asks for more of them.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "preloaded/library.rs"]
mod library;
#[path = "preloaded/needs.rs"]
mod needs;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

/// Processes of this program that are still there, carriers included.
fn alive(program: &Path) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            std::fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == program)
        })
        .count()
}

#[test]
fn a_careless_program_ends_and_leaves_nothing() {
    if !needs::has("cc") {
        return;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("careless");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Command::new("cc")
        .args(["-O1", "-pthread", "-I"])
        .arg(manifest.join("include"))
        .arg(manifest.join("tests/c/careless.c"))
        .arg("-o")
        .arg(&program)
        .status()
        .unwrap();
    assert!(built.success());
    let program = program.canonicalize().unwrap();
    let library = library::path();
    let seeds = std::env::var("SOSPLICE_FUZZ_SEEDS").map_or(6, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let personality = if seed % 3 == 2 { "freebsd" } else { "openbsd" };
        let mut child = Command::new(&program)
            .args([seed.to_string(), "1500".to_owned()])
            .env("LD_PRELOAD", &library)
            .env("SOSPLICE_PERSONALITY", personality)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let limit = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > limit {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("seed {seed} hangs");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "seed {seed}: {status}");
        let limit = Instant::now() + LIMIT;
        while alive(&program) > 0 {
            assert!(Instant::now() < limit, "seed {seed} leaves processes");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
