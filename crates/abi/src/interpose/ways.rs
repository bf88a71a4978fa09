//! The ways past the reading and writing calls: files and pipes straight to a socket, system calls
//! by number, stdio, and other programs.

use super::{descriptors, epoll, interposed, next, poll, read, write};
use crate::local::{self, doors};
use crate::sys::{self, Raw, enter, ret};
use libc::{c_int, c_long, c_uint, c_void, off_t, size_t, ssize_t};
use std::sync::atomic::{AtomicPtr, Ordering};

unsafe fn sendfile_call(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> Raw {
    // SAFETY: the caller's.
    unsafe {
        local::calls::send_file(to, from, offset, count)
            .unwrap_or_else(|| enter!(SYS_sendfile, to, from, offset, count))
    }
}

unsafe fn splice_call(
    from: c_int,
    from_offset: *mut i64,
    to: c_int,
    to_offset: *mut i64,
    len: size_t,
    flags: c_uint,
) -> Raw {
    // SAFETY: the caller's.
    let call = || unsafe { enter!(SYS_splice, from, from_offset, to, to_offset, len, flags) };
    if !local::is_on() {
        return call();
    }
    // SAFETY: the caller's.
    unsafe { local::calls::splice_to(to, call) }
        .or_else(|| local::calls::splice_from(from, to, len, call))
        .unwrap_or_else(call)
}

interposed! {
    fn sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
        quiet ret(enter!(SYS_sendfile, to, from, offset, count));
        loud ret(sendfile_call(to, from, offset, count))
    }
    fn sendfile64(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
        quiet ret(enter!(SYS_sendfile, to, from, offset, count));
        loud ret(sendfile_call(to, from, offset, count))
    }
    fn splice(
        from: c_int,
        from_offset: *mut i64,
        to: c_int,
        to_offset: *mut i64,
        len: size_t,
        flags: c_uint,
    ) -> ssize_t {
        quiet ret(enter!(SYS_splice, from, from_offset, to, to_offset, len, flags));
        loud ret(splice_call(from, from_offset, to, to_offset, len, flags))
    }
    fn syscall(
        number: c_long,
        a: usize,
        b: usize,
        c: usize,
        d: usize,
        e: usize,
        f: usize,
    ) -> c_long {
        quiet ret(sys::call(number, [a, b, c, d, e, f]));
        loud by_number(number, [a, b, c, d, e, f])
    }
}

/// The process ends without libc's farewell.
fn leave_quickly(status: c_int) -> ! {
    if local::is_on() {
        local::pairing::exiting();
    }
    loop {
        // SAFETY: does not return.
        unsafe { enter!(SYS_exit_group, status) };
    }
}

/// # Safety
/// As libc's function of this name.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _exit(status: c_int) -> ! {
    leave_quickly(status)
}

/// # Safety
/// As libc's function of this name.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_snake_case, reason = "libc's name")]
pub unsafe extern "C" fn _Exit(status: c_int) -> ! {
    leave_quickly(status)
}

/// A system call that the program makes by its number, where it has a name that is ours.
unsafe fn by_number(number: c_long, args: [usize; 6]) -> c_long {
    let [a, b, c, d, e, f] = args;
    let fd = a as c_int;
    if !local::is_on() || crate::lock::is_mine() {
        // SAFETY: the caller's.
        return unsafe { ret(sys::call(number, args)) as c_long };
    }
    // SAFETY: the caller's: the arguments are what the call by its name takes.
    let done = unsafe {
        match number {
            libc::SYS_read => read::read(fd, b as *mut c_void, c),
            libc::SYS_readv => read::readv(fd, b as *const _, c as c_int),
            libc::SYS_recvfrom => {
                read::recvfrom(fd, b as *mut c_void, c, d as c_int, e as *mut _, f as *mut _)
            }
            libc::SYS_recvmsg => read::recvmsg(fd, b as *mut _, c as c_int),
            libc::SYS_write => write::write(fd, b as *const c_void, c),
            libc::SYS_writev => write::writev(fd, b as *const _, c as c_int),
            libc::SYS_sendto => {
                write::sendto(fd, b as *const c_void, c, d as c_int, e as *const _, f as _)
            }
            libc::SYS_sendmsg => write::sendmsg(fd, b as *const _, c as c_int),
            libc::SYS_sendmmsg => {
                write::sendmmsg(fd, b as *mut _, c as c_uint, d as c_int) as isize
            }
            libc::SYS_recvmmsg => {
                let timeout = e as *mut libc::timespec;
                read::recvmmsg(fd, b as *mut _, c as c_uint, d as c_int, timeout) as isize
            }
            libc::SYS_sendfile => sendfile(fd, b as c_int, c as *mut off_t, d),
            libc::SYS_splice => {
                splice(fd, b as *mut i64, c as c_int, d as *mut i64, e, f as c_uint)
            }
            libc::SYS_close => descriptors::close(fd) as isize,
            libc::SYS_close_range => {
                descriptors::close_range(a as c_uint, b as c_uint, c as c_int) as isize
            }
            libc::SYS_dup => descriptors::dup(fd) as isize,
            libc::SYS_dup3 => descriptors::dup3(fd, b as c_int, c as c_int) as isize,
            libc::SYS_fcntl => descriptors::fcntl(fd, b as c_int, c as libc::c_ulong) as isize,
            libc::SYS_ioctl => descriptors::ioctl(fd, b as libc::c_ulong, c as *mut _) as isize,
            libc::SYS_shutdown => descriptors::shutdown(fd, b as c_int) as isize,
            libc::SYS_setsockopt => {
                let (level, name) = (b as c_int, c as c_int);
                super::option::setsockopt(fd, level, name, d as *const _, e as _) as isize
            }
            libc::SYS_getsockopt => {
                let (level, name) = (b as c_int, c as c_int);
                super::option::getsockopt(fd, level, name, d as *mut _, e as *mut _) as isize
            }
            libc::SYS_connect => {
                super::make::connect(fd, b as *const _, c as libc::socklen_t) as isize
            }
            libc::SYS_accept => super::make::accept(fd, b as *mut _, c as *mut _) as isize,
            libc::SYS_accept4 => {
                super::make::accept4(fd, b as *mut _, c as *mut _, d as c_int) as isize
            }
            libc::SYS_epoll_ctl => {
                epoll::epoll_ctl(fd, b as c_int, c as c_int, d as *mut _) as isize
            }
            libc::SYS_epoll_pwait => {
                let (count, timeout) = (c as c_int, d as c_int);
                epoll::epoll_pwait(fd, b as *mut _, count, timeout, e as *const _) as isize
            }
            libc::SYS_epoll_pwait2 => {
                let (count, timeout) = (c as c_int, d as *const libc::timespec);
                epoll::epoll_pwait2(fd, b as *mut _, count, timeout, e as *const _) as isize
            }
            libc::SYS_pselect6 => {
                // The last argument is of a mask and its size.
                let mask = if f == 0 { std::ptr::null() } else { *(f as *const *const _) };
                let timeout = e as *const libc::timespec;
                super::select::pselect(fd, b as *mut _, c as *mut _, d as *mut _, timeout, mask)
                    as isize
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_select => {
                let timeout = e as *mut libc::timeval;
                super::select::select(fd, b as *mut _, c as *mut _, d as *mut _, timeout) as isize
            }
            libc::SYS_ppoll => {
                let (count, timeout) = (b as libc::nfds_t, c as *const libc::timespec);
                poll::ppoll(a as *mut _, count, timeout, d as *const _) as isize
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => poll::poll(a as *mut _, b as libc::nfds_t, c as c_int) as isize,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait => {
                epoll::epoll_wait(fd, b as *mut _, c as c_int, d as c_int) as isize
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2 => descriptors::dup2(fd, b as c_int) as isize,
            libc::SYS_execve | libc::SYS_execveat => {
                doors::before_exec();
                ret(sys::call(number, args))
            }
            _ => ret(sys::call(number, args)),
        }
    };
    done as c_long
}

/// A name behind which libc goes its own way: `before` is asked first, with the first argument.
/// The arguments may be any, so they are put aside and given on as they came.
macro_rules! around {
    ($($name:ident: $before:ident;)*) => {$(
        /// # Safety
        /// As libc's function of this name.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            extern "C" fn before(first: usize) -> *mut c_void {
                static NEXT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
                $before(first);
                following(&NEXT, concat!(stringify!($name), "\0"))
            }
            #[cfg(target_arch = "x86_64")]
            std::arch::naked_asm!(
                "push rdi", "push rsi", "push rdx", "push rcx", "push r8", "push r9", "push rax",
                "sub rsp, 128",
                "movups [rsp], xmm0", "movups [rsp + 16], xmm1",
                "movups [rsp + 32], xmm2", "movups [rsp + 48], xmm3",
                "movups [rsp + 64], xmm4", "movups [rsp + 80], xmm5",
                "movups [rsp + 96], xmm6", "movups [rsp + 112], xmm7",
                "call {before}",
                "mov r11, rax",
                "movups xmm0, [rsp]", "movups xmm1, [rsp + 16]",
                "movups xmm2, [rsp + 32]", "movups xmm3, [rsp + 48]",
                "movups xmm4, [rsp + 64]", "movups xmm5, [rsp + 80]",
                "movups xmm6, [rsp + 96]", "movups xmm7, [rsp + 112]",
                "add rsp, 128",
                "pop rax", "pop r9", "pop r8", "pop rcx", "pop rdx", "pop rsi", "pop rdi",
                "jmp r11",
                before = sym before,
            );
            #[cfg(target_arch = "aarch64")]
            std::arch::naked_asm!(
                "stp x29, x30, [sp, #-208]!",
                "stp x0, x1, [sp, #16]", "stp x2, x3, [sp, #32]",
                "stp x4, x5, [sp, #48]", "stp x6, x7, [sp, #64]",
                "stp q0, q1, [sp, #80]", "stp q2, q3, [sp, #112]",
                "stp q4, q5, [sp, #144]", "stp q6, q7, [sp, #176]",
                "bl {before}",
                "mov x16, x0",
                "ldp q6, q7, [sp, #176]", "ldp q4, q5, [sp, #144]",
                "ldp q2, q3, [sp, #112]", "ldp q0, q1, [sp, #80]",
                "ldp x6, x7, [sp, #64]", "ldp x4, x5, [sp, #48]",
                "ldp x2, x3, [sp, #32]", "ldp x0, x1, [sp, #16]",
                "ldp x29, x30, [sp], #208",
                "br x16",
                before = sym before,
            );
        }
    )*};
}

around! {
    dprintf: stdio;
    vdprintf: stdio;
    __dprintf_chk: stdio;
    __vdprintf_chk: stdio;
    execl: program;
    execle: program;
    execlp: program;
    execv: program;
    execve: program;
    execvp: program;
    execvpe: program;
    execveat: program;
    fexecve: program;
    posix_spawn: program;
    posix_spawnp: program;
    system: program;
    popen: program;
}

/// libc's own write to the descriptor is not ours to see.
fn stdio(fd: usize) {
    doors::written_unseen(fd as c_int);
}

fn program(_: usize) {
    doors::before_exec();
}

/// libc's function behind ours, looked up once.
pub fn following(next: &AtomicPtr<c_void>, name: &str) -> *mut c_void {
    let mut found = next.load(Ordering::Relaxed);
    if found.is_null() {
        found = next::find(name);
        next.store(found, Ordering::Relaxed);
    }
    found
}
