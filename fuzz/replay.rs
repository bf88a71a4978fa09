//! A fuzz target's seeds, and so many changes of each, given to it in a plain test: always the
//! same ones, so that a failure is the code's and happens again. The crates that have targets
//! include this file.

use std::path::PathBuf;

/// Of each seed.
const CHANGED_MAX: usize = 200;
/// Changes of all seeds together, about: long ones take long.
const BYTES_MAX: usize = 4 << 20;

/// Gives `target` its seeds, and changes of them.
pub fn replay(name: &str, target: fn(&[u8])) {
    let seeds = read(name);
    assert!(!seeds.is_empty(), "no seeds for {name}");
    let bytes: usize = seeds.iter().map(Vec::len).sum();
    let changed_max = CHANGED_MAX.min(BYTES_MAX / (bytes + 1));
    let mut draw = Draw(1);
    for seed in &seeds {
        tried(seed, target);
        for _ in 0..changed_max {
            let mut bytes = seed.clone();
            for _ in 0..=draw.below(4) {
                change(&mut bytes, &seeds, &mut draw);
            }
            tried(&bytes, target);
        }
    }
}

/// Checks that the seeds that are kept are these ones; with SOSPLICE_WRITE_SEEDS in the
/// environment they become so.
pub fn seeds_are(name: &str, seeds: &[Vec<u8>]) {
    if std::env::var_os("SOSPLICE_WRITE_SEEDS").is_some() {
        let dir = dir(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory");
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(dir.join(format!("{number:02}")), seed).expect("a file");
        }
    }
    assert_eq!(read(name), seeds, "{name}: run this test with SOSPLICE_WRITE_SEEDS=1");
}

fn dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(name)
}

/// In the order of their names.
fn read(name: &str) -> Vec<Vec<u8>> {
    let Ok(files) = std::fs::read_dir(dir(name)) else { return Vec::new() };
    let mut paths: Vec<_> = files.map(|file| file.expect("an entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).expect("a file")).collect()
}

fn tried(bytes: &[u8], target: fn(&[u8])) {
    /// Says what was tried if that is where it ends.
    struct Tried<'b>(&'b [u8]);
    impl Drop for Tried<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("with b\"{}\"", self.0.escape_ascii());
            }
        }
    }
    let tried = Tried(bytes);
    target(tried.0);
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], draw: &mut Draw) {
    let at = draw.below(bytes.len() + 1);
    let end = at + draw.below(bytes.len() - at + 1).min(16);
    match draw.below(7) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => bytes.insert(at, draw.next() as u8),
        // What lines and fields are made of.
        3 => bytes.insert(at, *draw.of(b"\r\n\t :;,=./%\\\"-_0aZ\0\x7f\xff")),
        4 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << draw.below(8);
            }
        }
        5 => {
            let again = bytes[at..end].to_vec();
            drop(bytes.splice(end..end, again));
        }
        _ => {
            let other = draw.of(seeds);
            let from = draw.below(other.len() + 1);
            let len = draw.below(other.len() - from + 1);
            drop(bytes.splice(at..end, other[from..from + len].iter().copied()));
        }
    }
}

/// Numbers that look random (splitmix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }
}
