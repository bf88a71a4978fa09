//! The one thing that a program started by `run` is denied: to make an io_uring. It would move
//! the bytes of its sockets past the preload library, which then can neither pair them
//! nor keep a doorbell from being read as data.

#![allow(unsafe_code, reason = "no library in use has a name for seccomp filters")]

use std::io::{Error, Result};

/// The call's number, the same for each instruction set that the processor runs (compat ones
/// too), so that the filter need not look which one a call is of.
const IO_URING_SETUP: u32 = libc::SYS_io_uring_setup as u32;
const _: () = assert!(IO_URING_SETUP == 425);

/// Set in the numbers of x86-64's 32-bit variant (x32), and in no other number.
const X32: u32 = 0x4000_0000;

/// From now on, for this process and what it becomes and starts, io_uring_setup is a call
/// that the kernel has not.
pub fn deny_io_uring() -> Result<()> {
    let install = || {
        let step =
            |code: u32, k: u32, jt: u8| libc::sock_filter { code: code as u16, jt, jf: 0, k };
        let mut steps = [
            // The first word of struct seccomp_data is the number.
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, !X32, 0),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, IO_URING_SETUP, 1),
            step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
            step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, 0),
        ];
        let program =
            libc::sock_fprog { len: steps.len() as libc::c_ushort, filter: steps.as_mut_ptr() };
        // SAFETY: the kernel copies the program, whose steps live until the call returns.
        let done = unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
        };
        if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    };
    match install() {
        // Who is not root must first give up what a set-user-ID program could gain.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            rustix::thread::set_no_new_privs(true)?;
            install()
        }
        other => other,
    }
}
