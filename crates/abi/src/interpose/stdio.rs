//! stdio on a connection of ours: a stream that reads and writes by the interposed names. libc's own
//! streams enter the kernel by themselves, and would meet doorbells.

use super::descriptors::close;
use super::interposed;
use super::read::read;
use super::write::write;
use crate::local::{self, connections};
use crate::sys::fail;
use libc::{FILE, c_char, c_int, c_void, size_t, ssize_t};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard};

/// As fopencookie(3) takes it.
#[repr(C)]
struct Functions {
    read: Option<unsafe extern "C" fn(*mut c_void, *mut c_char, size_t) -> ssize_t>,
    write: Option<unsafe extern "C" fn(*mut c_void, *const c_char, size_t) -> ssize_t>,
    seek: Option<unsafe extern "C" fn(*mut c_void, *mut i64, c_int) -> c_int>,
    close: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
}

unsafe extern "C" {
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: Functions) -> *mut FILE;
}

/// The descriptors of our streams: libc knows of none.
static STREAMS: Mutex<BTreeMap<usize, c_int>> = Mutex::new(BTreeMap::new());
static ANY: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn read_cookie(cookie: *mut c_void, buf: *mut c_char, len: size_t) -> ssize_t {
    // SAFETY: libc's buffer.
    unsafe { read(cookie as c_int, buf.cast(), len) }
}

unsafe extern "C" fn write_cookie(cookie: *mut c_void, buf: *const c_char, len: size_t) -> ssize_t {
    // SAFETY: libc's buffer.
    let written = unsafe { write(cookie as c_int, buf.cast(), len) };
    // An error is zero here (fopencookie(3)).
    written.max(0)
}

unsafe extern "C" fn close_cookie(cookie: *mut c_void) -> c_int {
    let fd = cookie as c_int;
    if let Ok(mut streams) = STREAMS.lock() {
        streams.retain(|_, of| *of != fd);
    }
    // SAFETY: the stream's own descriptor.
    unsafe { close(fd) }
}

unsafe fn fdopen_call(fd: c_int, mode: *const c_char) -> *mut FILE {
    static NEXT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    type Function = unsafe extern "C" fn(c_int, *const c_char) -> *mut FILE;
    if !local::is_on() || connections::of(fd).is_none() {
        let found = super::ways::following(&NEXT, "fdopen\0");
        // SAFETY: dlsym gave it for this name; the caller's for the rest.
        return unsafe { std::mem::transmute::<*mut c_void, Function>(found)(fd, mode) };
    }
    let functions = Functions {
        read: Some(read_cookie),
        write: Some(write_cookie),
        seek: None,
        close: Some(close_cookie),
    };
    // SAFETY: the mode is the program's; the functions fit the cookie.
    let file = unsafe { fopencookie(fd as usize as *mut c_void, mode, functions) };
    if !file.is_null()
        && let Ok(mut streams) = STREAMS.lock()
    {
        streams.insert(file as usize, fd);
        ANY.store(true, Ordering::Release);
    }
    file
}

/// The descriptor of a stream, ours or libc's.
///
/// # Safety
/// The stream is open.
pub unsafe fn descriptor_of(file: *mut FILE) -> c_int {
    static NEXT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    type Function = unsafe extern "C" fn(*mut FILE) -> c_int;
    if ANY.load(Ordering::Acquire)
        && let Ok(streams) = STREAMS.lock()
        && let Some(fd) = streams.get(&(file as usize))
    {
        return *fd;
    }
    let found = super::ways::following(&NEXT, "fileno\0");
    if found.is_null() {
        return fail(libc::EBADF) as c_int;
    }
    // SAFETY: dlsym gave it for this name; the caller's for the rest.
    unsafe { std::mem::transmute::<*mut c_void, Function>(found)(file) }
}

/// Nobody else knows of streams as long as this lives.
pub type Streams = MutexGuard<'static, BTreeMap<usize, c_int>>;

/// Before a fork: see [`Streams`].
pub fn hold() -> Option<Streams> {
    STREAMS.lock().ok()
}

/// Whether the stream is one of ours, which closes its descriptor by the interposed name.
pub fn is_ours(file: *mut FILE) -> bool {
    ANY.load(Ordering::Acquire)
        && STREAMS.lock().is_ok_and(|streams| streams.contains_key(&(file as usize)))
}

interposed! {
    fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
        quiet fdopen_call(fd, mode); loud fdopen_call(fd, mode)
    }
    fn fileno(file: *mut FILE) -> c_int {
        quiet descriptor_of(file); loud descriptor_of(file)
    }
    fn fileno_unlocked(file: *mut FILE) -> c_int {
        quiet descriptor_of(file); loud descriptor_of(file)
    }
}
