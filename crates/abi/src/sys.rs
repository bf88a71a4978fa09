//! System calls without libc: its names may be ours, and its errno is the program's.
//!
//! Each returns what the kernel returns: a value, or an errno negated.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

/// A result of the kernel: at least zero, or an errno negated.
pub type Raw = isize;

/// Enters the kernel.
///
/// # Safety
/// As the call itself: pointers must be what it expects.
#[inline(always)]
pub unsafe fn call(number: libc::c_long, args: [usize; 6]) -> Raw {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's calling convention; it changes rcx, r11 and memory only.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the kernel's calling convention.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1], in("x2") args[2], in("x3") args[3],
            in("x4") args[4], in("x5") args[5],
            options(nostack),
        );
    }
    result
}

/// Enters the kernel with as many arguments as there are; the call is unsafe.
macro_rules! enter {
    ($number:ident $(, $arg:expr)*) => {
        $crate::sys::enter_with($crate::sys::call, libc::$number, &[$($arg as usize),*])
    };
}
pub(crate) use enter;

/// Pads the arguments; inlined, so that a call costs what it costs in libc.
///
/// # Safety
/// As [`call`].
#[inline(always)]
pub unsafe fn enter_with(
    call: unsafe fn(libc::c_long, [usize; 6]) -> Raw,
    number: libc::c_long,
    given: &[usize],
) -> Raw {
    let mut args = [0; 6];
    let mut i = 0;
    while i < given.len() {
        args[i] = given[i];
        i += 1;
    }
    // SAFETY: the caller's.
    unsafe { call(number, args) }
}

/// The libc convention: -1 and errno.
#[inline(always)]
pub fn ret(result: Raw) -> isize {
    if result as usize > -4096isize as usize { fail(-result as c_int) } else { result }
}

/// Sets errno; always -1.
#[cold]
pub fn fail(errno: c_int) -> isize {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// [`ret`] for a call that has failed, from assembly.
#[cfg(target_arch = "x86_64")]
pub extern "C" fn fail_with(result: Raw) -> isize {
    fail(-result as c_int)
}

/// An int option of a socket.
pub fn int_option(fd: c_int, level: c_int, name: c_int) -> Result<c_int, c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: both outputs live through the call.
    let done = unsafe { enter!(SYS_getsockopt, fd, level, name, &raw mut value, &raw mut len) };
    if done < 0 { Err(-done as c_int) } else { Ok(value) }
}

/// Bytes that a TCP socket's peer has acknowledged, and that have come from it (tcp_info; Linux 4.1).
pub fn tcp_counts(fd: c_int) -> Option<(u64, u64)> {
    // struct tcp_info of linux/tcp.h, as far as it is needed.
    const ACKED: usize = 120;
    const RECEIVED: usize = 128;
    let mut info = [0u8; 136];
    let mut len = info.len() as libc::socklen_t;
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    let at = info.as_mut_ptr();
    // SAFETY: both outputs live through the call.
    let done = unsafe { enter!(SYS_getsockopt, fd, level, name, at, &raw mut len) };
    let count = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    if done < 0 || (len as usize) < info.len() {
        return None;
    }
    Some((count(ACKED)?, count(RECEIVED)?))
}

/// What an ioctl(2) that counts says: FIONREAD, TIOCOUTQ.
pub fn queued(fd: c_int, request: libc::c_ulong) -> Option<u64> {
    let mut count: c_int = 0;
    // SAFETY: the count lives through the call.
    let done = unsafe { enter!(SYS_ioctl, fd, request, &raw mut count) };
    if done < 0 { None } else { u64::try_from(count).ok() }
}

/// SO_RCVTIMEO, if it is set.
pub fn receive_limit(fd: c_int) -> Option<libc::timespec> {
    let mut limit = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut len = size_of::<libc::timeval>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
    // SAFETY: both outputs live through the call.
    unsafe { enter!(SYS_getsockopt, fd, level, name, &raw mut limit, &raw mut len) };
    let is_set = limit.tv_sec != 0 || limit.tv_usec != 0;
    is_set.then_some(libc::timespec { tv_sec: limit.tv_sec, tv_nsec: limit.tv_usec * 1000 })
}

/// Sets an int option of a socket, if it takes it.
pub fn set_int_option(fd: c_int, level: c_int, name: c_int, value: c_int) {
    // SAFETY: the value lives through the call.
    unsafe { enter!(SYS_setsockopt, fd, level, name, &raw const value, size_of::<c_int>()) };
}

/// The inode of a socket; None for what is no socket, or not open.
pub fn socket_inode(fd: c_int) -> Option<u64> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the call fills the record; on the architectures served libc's is the kernel's.
    let done = unsafe { enter!(SYS_fstat, fd, stat.as_mut_ptr()) };
    if done < 0 {
        return None;
    }
    // SAFETY: zeroed and then filled; every bit pattern is valid.
    let stat = unsafe { stat.assume_init() };
    (stat.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(stat.st_ino)
}

pub fn pid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { enter!(SYS_getpid) as u32 }
}

pub fn close(fd: c_int) -> Raw {
    // SAFETY: closing is sound; whose descriptor it is, is the caller's concern.
    unsafe { enter!(SYS_close, fd) }
}

/// Whether a call on the descriptor is not to wait.
pub fn is_nonblocking(fd: c_int) -> bool {
    // SAFETY: no pointers.
    let flags = unsafe { enter!(SYS_fcntl, fd, libc::F_GETFL) };
    flags >= 0 && flags as c_int & libc::O_NONBLOCK != 0
}

/// Which network namespace a socket is in (SO_NETNS_COOKIE).
pub fn namespace_cookie(fd: c_int) -> Result<u64, c_int> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE);
    // SAFETY: the outputs live through the call.
    let done = unsafe { enter!(SYS_getsockopt, fd, level, name, &raw mut cookie, &raw mut len) };
    if done == 0 { Ok(cookie) } else { Err(-done as c_int) }
}

/// Whether a TCP socket has its connection, or what is left of one; not one that was reset.
pub fn is_connected(fd: c_int) -> bool {
    const SYN_SENT: u8 = 2;
    const CLOSE: u8 = 7;
    const LISTEN: u8 = 10;
    let mut state = CLOSE;
    let mut len = 1u32;
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    // SAFETY: the outputs live through the call; the state is the first byte (struct tcp_info).
    let done = unsafe { enter!(SYS_getsockopt, fd, level, name, &raw mut state, &raw mut len) };
    done == 0 && !matches!(state, SYN_SENT | CLOSE | LISTEN)
}

/// Whether the kernel sends a signal for what comes (O_ASYNC).
pub fn is_signal_driven(fd: c_int) -> bool {
    // SAFETY: no pointers.
    let flags = unsafe { enter!(SYS_fcntl, fd, libc::F_GETFL) };
    flags >= 0 && flags as c_int & libc::O_ASYNC != 0
}

/// Moves a descriptor of ours to a number that no program expects to be free.
pub fn hide(fd: c_int) -> c_int {
    let mut limit = libc::rlimit { rlim_cur: 1024, rlim_max: 1024 };
    // SAFETY: the record lives through the call; a null new limit is allowed.
    unsafe { enter!(SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, &raw mut limit) };
    // Not near the top of a large limit: the kernel's table grows up to the number.
    let minimum = (limit.rlim_cur.clamp(96, 4096) - 48) as c_int;
    // SAFETY: no pointers.
    let hidden = unsafe { enter!(SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, minimum) };
    if hidden < 0 {
        return fd;
    }
    close(fd);
    hidden as c_int
}

/// Copies from the program's memory without trusting the address: EFAULT.
pub fn copy_in(to: &mut [u8], from: *const c_void) -> Result<(), c_int> {
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: from.cast_mut(), iov_len: to.len() };
    // SAFETY: `local` describes `to`; the kernel checks `remote`.
    let done = unsafe {
        enter!(SYS_process_vm_readv, pid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    if done == to.len() as isize { Ok(()) } else { Err(libc::EFAULT) }
}

/// Copies to the program's memory without trusting the address: EFAULT.
pub fn copy_out(to: *mut c_void, from: &[u8]) -> Result<(), c_int> {
    let local = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    let remote = libc::iovec { iov_base: to, iov_len: from.len() };
    // SAFETY: `local` describes `from`, which is only read; the kernel checks `remote`.
    let done = unsafe {
        enter!(SYS_process_vm_writev, pid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    if done == from.len() as isize { Ok(()) } else { Err(libc::EFAULT) }
}

/// Sleeps while the word has this value. EAGAIN, EINTR and ETIMEDOUT are returned as
/// they come.
pub fn futex_wait(
    word: &std::sync::atomic::AtomicU32,
    value: u32,
    timeout: Option<&libc::timespec>,
) -> Raw {
    let timeout = timeout.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word and the timeout live through the call. Not FUTEX_PRIVATE: the
    // memory may be shared with other processes.
    unsafe { enter!(SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, timeout, 0, 0) }
}

/// struct futex_waitv of linux/futex.h.
#[repr(C)]
pub struct Waiter {
    value: u64,
    word: u64,
    flags: u32,
    reserved: u32,
}

impl Waiter {
    pub fn new(word: &std::sync::atomic::AtomicU32, value: u32) -> Self {
        // Not private: the memory is shared with other processes.
        const FUTEX_32: u32 = 2;
        Self {
            value: value.into(),
            word: word.as_ptr().addr() as u64,
            flags: FUTEX_32,
            reserved: 0,
        }
    }
}

/// Sleeps while each word has its value, until this time of CLOCK_MONOTONIC (Linux 5.16). Unlike [`futex_wait`] with a time
/// limit it is restarted by the kernel behind a signal handler that says so (SA_RESTART).
pub fn futex_waitv(waiters: &[Waiter], until: Option<&libc::timespec>) -> Raw {
    let until = until.map_or(std::ptr::null(), std::ptr::from_ref);
    let (at, count) = (waiters.as_ptr(), waiters.len());
    // SAFETY: the records, their words and the time live through the call; a null time is no limit.
    unsafe { enter!(SYS_futex_waitv, at, count, 0, until, libc::CLOCK_MONOTONIC) }
}

pub fn timespec_of(ns: u64) -> libc::timespec {
    libc::timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
}

/// How many were woken.
pub fn futex_wake(word: &std::sync::atomic::AtomicU32, count: c_int) -> Raw {
    // SAFETY: the word lives through the call.
    unsafe { enter!(SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count, 0, 0, 0) }
}

/// Blocks every signal on this thread; returns the mask from before.
pub fn block_signals() -> u64 {
    let all = u64::MAX;
    let mut before = 0u64;
    // SAFETY: both masks live through the call and have the size that is named.
    unsafe {
        enter!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, 8);
    }
    before
}

pub fn restore_signals(before: u64) {
    // SAFETY: as above.
    unsafe { enter!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const before, 0, 8) };
}

/// A clock that only goes forward, in nanoseconds.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the record lives through the call.
    unsafe { enter!(SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The next byte of the stream is the urgent one (SIOCATMARK, tcp(7)).
pub fn at_mark(fd: c_int) -> bool {
    const SIOCATMARK: c_int = 0x8905;
    let mut mark: c_int = 0;
    // SAFETY: the call writes one int, which is live.
    unsafe { enter!(SYS_ioctl, fd, SIOCATMARK, &raw mut mark) == 0 && mark != 0 }
}

/// A descriptor of ours in the program's process.
///
/// Not std's: that one closes by libc's name, and aborts when the number was closed by
/// somebody else, which a careless program does.
pub struct Fd(c_int);

impl Fd {
    /// The same file under a number that the program does not come across: a stale number
    /// of its own would have it read or duplicate what is ours.
    pub fn out_of_reach(self) -> Self {
        Self(hide(self.into_raw()))
    }

    pub fn into_raw(self) -> c_int {
        let fd = self.0;
        std::mem::forget(self);
        fd
    }

    pub fn raw(&self) -> c_int {
        self.0
    }
}

impl From<rustix::fd::OwnedFd> for Fd {
    fn from(fd: rustix::fd::OwnedFd) -> Self {
        Self(std::os::fd::IntoRawFd::into_raw_fd(fd))
    }
}

impl rustix::fd::AsFd for Fd {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        // SAFETY: open as long as this lives, unless the program closes what is not its own;
        // then the kernel says EBADF.
        unsafe { rustix::fd::BorrowedFd::borrow_raw(self.0) }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        close(self.0);
    }
}
