//! SIGPIPE: splice(2) has no MSG_NOSIGNAL, so the thread that moves holds it back.

use std::mem::MaybeUninit;

/// Blocks every signal on the calling thread, for ever: a worker runs no handler of
/// the program that it serves, and its SIGPIPE stays pending and unseen.
#[allow(unsafe_code, reason = "rustix has no signal masks")]
pub(crate) fn block_all() {
    let mut all = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set that it is given, and pthread_sigmask
    // reads it; a null old set is allowed.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
    }
}

/// Holds SIGPIPE back on the calling thread until dropped, and then takes away the one
/// that came meanwhile; one that was pending before stays.
#[derive(Debug)]
pub(crate) struct HoldSigpipe {
    /// SIGPIPE was blocked or pending before: nothing is to be put back.
    leave: bool,
}

#[allow(unsafe_code, reason = "rustix has no signal masks")]
impl HoldSigpipe {
    pub(crate) fn new() -> Self {
        let mut old = MaybeUninit::uninit();
        let mut pending = MaybeUninit::uninit();
        // SAFETY: each call initialises or reads a set that lives through it.
        let leave = unsafe {
            libc::sigpending(pending.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, sigpipe().as_ptr(), old.as_mut_ptr());
            libc::sigismember(old.as_ptr(), libc::SIGPIPE) == 1
                || libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
        };
        Self { leave }
    }
}

#[allow(unsafe_code, reason = "rustix has no signal masks")]
impl Drop for HoldSigpipe {
    fn drop(&mut self) {
        if self.leave {
            return;
        }
        let set = sigpipe();
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: set and now live through both calls; null is allowed for what is not
        // wanted. sigtimedwait answers EAGAIN at once when nothing is pending.
        unsafe {
            libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &raw const now);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
        }
    }
}

#[allow(unsafe_code, reason = "rustix has no signal masks")]
fn sigpipe() -> MaybeUninit<libc::sigset_t> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set, sigaddset then changes it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
    }
    set
}
