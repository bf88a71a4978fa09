//! Same-host acceleration: a TCP connection whose other end is a program on this host that was
//! started so too moves its bytes through a ring (crate `sosplice-local`).
//!
//! It is on when the environment says so (`sosplice run`). Then the interposed names ask here
//! first:
//!
//! * [`connections`] knows which descriptors may be paired or are.
//! * [`pairing`] announces connections and attaches those that found their peer.
//! * [`calls`] are the reading and writing calls, [`waits`] poll and select, [`sets`] epoll.
//! * [`doors`] are the ways around: what cannot be served brings a connection back to TCP.
//!
//! Wherever something is missing or goes wrong the connection is plain TCP.

pub mod calls;
pub mod connections;
pub mod doors;
pub mod options;
pub mod pairing;
pub mod sets;
pub mod socket;
pub mod waits;

use crate::domain::DOMAIN;
use crate::interpose::next;
use sosplice_local::settings::{Settings, VARIABLE};
use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static IS_ON: AtomicBool = AtomicBool::new(false);
/// How long a wait may spin, in nanoseconds.
static SPIN_NS: AtomicU64 = AtomicU64::new(0);
static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// Runs when the library is loaded.
pub fn begin() {
    let name = format!("{VARIABLE}\0");
    // SAFETY: a string that ends with a zero byte.
    let text = unsafe { libc::getenv(name.as_ptr().cast()) };
    if text.is_null() {
        return;
    }
    // SAFETY: libc's string, which stays as long as nobody changes the variable.
    let text = unsafe { CStr::from_ptr(text) };
    let Ok(settings) = Settings::from_env(text.to_bytes()) else {
        say("SOSPLICE_LOCAL is not understood; every connection stays on TCP");
        return;
    };
    if !connections::begin() || !sets::begin() {
        return;
    }
    SPIN_NS.store(settings.busy_poll.as_nanos() as u64, Ordering::Relaxed);
    let _ = SETTINGS.set(settings);
    next::resolve();
    DOMAIN.loud.store(1, Ordering::Release);
    IS_ON.store(true, Ordering::Release);
}

/// A line to stderr, if there is one.
fn say(message: &str) {
    let line = format!("sosplice: {message}\n");
    // SAFETY: the text lives through the call.
    unsafe { crate::sys::enter!(SYS_write, 2, line.as_ptr(), line.len()) };
}

/// Whether this process takes part.
#[inline]
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Whether a call on the descriptor is libc's alone. To be asked first: most descriptors are neither a connection's
/// nor, where there is no splice, a splice's.
#[inline(always)]
pub fn is_none_of_ours(fd: libc::c_int) -> bool {
    is_on() && connections::is_unknown(fd) && !crate::domain::active()
}

/// As [`is_none_of_ours`], of any descriptors that are polled.
#[inline(always)]
pub fn has_none() -> bool {
    is_on() && !connections::any_paired() && !crate::domain::active()
}

fn spin_ns() -> u64 {
    SPIN_NS.load(Ordering::Relaxed)
}

fn settings() -> Option<&'static Settings> {
    SETTINGS.get()
}

/// The program is about to put a descriptor of its own where one of ours is.
pub fn make_way(fd: libc::c_int) {
    pairing::make_way(fd);
    sets::make_way(fd);
}

/// Descriptors in a range that something here knows.
pub fn open_between(first: libc::c_int, last: libc::c_int) -> Vec<libc::c_int> {
    let mut all: Vec<_> = connections::all().map(|(fd, _)| fd).collect();
    all.extend(sets::known());
    all.retain(|fd| (first..=last).contains(fd));
    all
}
