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
pub mod make;
pub mod next;
pub mod option;
pub mod poll;
pub mod read;
pub mod select;
pub mod stdio;
pub mod ways;
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

/// The names of a program's inner loop, in exactly the instructions that libc takes: one
/// question, the system call, one look at the result. `prepare` puts arguments where the
/// kernel expects them. Other architectures have them as [`interposed`] names.
macro_rules! hot {
    ($(fn $name:ident($($arg:ident: $kind:ty),* $(,)?) -> $ret:ty {
        number $number:ident; prepare [$($prepare:literal),*]; quiet $quiet:expr; loud $loud:ident
    })*) => {
        #[cfg(not(target_arch = "x86_64"))]
        $crate::interpose::interposed! {
            $(fn $name($($arg: $kind),*) -> $ret { quiet $quiet; loud $loud($($arg),*) })*
        }
        $(
            /// # Safety
            /// As libc's function of this name.
            #[cfg(target_arch = "x86_64")]
            #[cfg_attr(not(test), unsafe(no_mangle))]
            #[unsafe(naked)]
            #[allow(clippy::too_many_arguments, reason = "libc's signature")]
            pub unsafe extern "C" fn $name($($arg: $kind),*) -> $ret {
                // `loud` is the domain's first word.
                std::arch::naked_asm!(
                    "cmp dword ptr [rip + {domain}], 0",
                    "jne {loud}",
                    $($prepare,)*
                    "mov eax, {number}",
                    "syscall",
                    "cmp rax, -4095",
                    "jae 2f",
                    "ret",
                    "2:",
                    "mov rdi, rax",
                    "jmp {fail}",
                    domain = sym $crate::domain::DOMAIN,
                    loud = sym $loud,
                    number = const libc::$number,
                    fail = sym $crate::sys::fail_with,
                )
            }
        )*
    };
}
pub(crate) use hot;

/// Runs when the library is loaded.
extern "C" fn loaded() {
    crate::domain::share();
    fork::register();
    crate::local::begin();
}

#[used]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static LOADED: extern "C" fn() = loaded;

/// Runs when the process ends by itself.
extern "C" fn unloaded() {
    if crate::local::is_on() {
        crate::local::pairing::exiting();
    }
}

#[used]
#[cfg_attr(not(test), unsafe(link_section = ".fini_array"))]
static UNLOADED: extern "C" fn() = unloaded;
