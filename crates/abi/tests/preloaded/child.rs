//! A case's process: a time limit, what it said, and nothing of it left behind.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Runs a case to its end. What it wrote to stdout, or why it failed.
///
/// Its output goes to files: a pipe would stay open as long as any child that the case has
/// left behind.
pub fn finish(command: &mut Command, limit: Duration) -> Result<String, String> {
    let (mut stdout, mut stderr) = (scratch(), scratch());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap())
        .process_group(0)
        .spawn()
        .map_err(|error| error.to_string())?;
    let limit = Instant::now() + limit;
    let mut ended = false;
    while !ended && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(2));
        ended = has_ended(child.id());
    }
    // SAFETY: the group of this child, which is not reaped yet: its number is nobody else's.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
    let status = child.wait().map_err(|error| error.to_string())?;
    if ended && status.success() {
        return Ok(text(&mut stdout));
    }
    let why = match status.signal() {
        _ if !ended => "the time limit\n".to_owned(),
        Some(_) => format!("{status}\n"),
        None => String::new(),
    };
    Err(why + &text(&mut stderr))
}

/// Looks without reaping.
fn has_ended(pid: u32) -> bool {
    // SAFETY: zeroes are a valid record, which lives through the call.
    unsafe {
        let mut found: libc::siginfo_t = std::mem::zeroed();
        let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        assert_eq!(libc::waitid(libc::P_PID, pid, &raw mut found, how), 0);
        found.si_pid() != 0
    }
}

/// A file without a name.
fn scratch() -> File {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = dir.join(format!("said-{}-{next}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
