//! What a broker leaves behind of the process that started it.

use rustix::fd::{BorrowedFd, RawFd};
use rustix::io::{Errno, FdFlags};

/// Descriptors that this process was given, but for the first three, are not given to the
/// programs that it starts. Otherwise a broker would hold, for as long as it runs, whatever
/// the shell of its first user had open: pipes that never end, file systems that stay busy.
pub fn keep_descriptors() -> Result<(), Errno> {
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    for entry in std::fs::read_dir("/proc/self/fd").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(fd) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        if fd <= 2 {
            continue;
        }
        // SAFETY: borrowed for one call, which changes nothing for its owner in this process.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let flags = rustix::io::fcntl_getfd(fd)?;
        rustix::io::fcntl_setfd(fd, flags | FdFlags::CLOEXEC)?;
    }
    Ok(())
}
