//! The libc names that a program meets.
//!
//! Each begins with the same question: is the domain quiet, without a splice and without a
//! thread? Then it makes the system call itself, in as many instructions as libc takes
//! (which asks whether there are threads). Otherwise it looks whether the descriptor's socket
//! matters, and if not goes to libc's function, which knows about cancellation. errno is
//! touched only by a call that fails.
//!
//! Names that libc also has under a fortified or a 64-bit spelling are here under each.

pub mod descriptors;
pub mod epoll;
pub mod fork;
pub mod next;
pub mod option;
pub mod poll;
pub mod read;
pub mod select;
pub mod write;

/// Defines interposed names: what is done in a quiet domain, and otherwise.
macro_rules! interposed {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) -> $ret:ty {
        quiet $quiet:expr; loud $loud:expr
    })*) => {$(
        $(#[$meta])*
        /// # Safety
        /// As libc's function of this name.
        // The test harness keeps libc's own.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[allow(clippy::too_many_arguments, reason = "libc's signature")]
        #[allow(unused_unsafe, clippy::unnecessary_cast, reason = "not for every name")]
        pub unsafe extern "C" fn $name($($arg: $kind),*) -> $ret {
            if $crate::domain::quiet() {
                // SAFETY: the caller's.
                unsafe { ($quiet) as $ret }
            } else {
                // SAFETY: the caller's.
                unsafe { ($loud) as $ret }
            }
        }
    )*};
}
pub(crate) use interposed;

/// Runs when the library is loaded.
extern "C" fn loaded() {
    crate::domain::share();
    fork::register();
}

#[used]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static LOADED: extern "C" fn() = loaded;
