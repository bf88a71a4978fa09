//! What opens, copies and closes descriptors, and what changes a socket under its splice.

use super::{interposed, next};
use crate::checks;
use crate::client;
use crate::connection;
use crate::descriptors;
use crate::domain::{self, DOMAIN};
use crate::local;
use crate::lock;
use crate::own;
use crate::personality::Personality;
use crate::registrations;
use crate::sys::{self, Raw, enter, fail, ret};
use libc::{c_int, c_uint, c_ulong, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// The tables are this process's: it uses the option and is no child of vfork; and the call
/// is not our own.
fn keeps_tables() -> bool {
    domain::active() && !lock::is_mine() && connection::is_owner()
}

/// Before a descriptor is closed: its socket's splices end if it is the last. False for a
/// descriptor of ours, which the program has never opened.
fn leave(fd: c_int) -> bool {
    if local::is_on() && !lock::is_mine() {
        if descriptors::is_hidden(fd) {
            return false;
        }
        let twin = local::pairing::closing(fd);
        local::sets::closed(fd, twin);
        return true;
    }
    if !keeps_tables() {
        return true;
    }
    if descriptors::is_hidden(fd) {
        return false;
    }
    // A relative may have spliced it.
    descriptors::known(fd);
    let guard = lock::hold();
    registrations::closed(&guard, fd);
    descriptors::forget(&guard, fd);
    // A number that is not open may be ours in a moment.
    is_open(fd)
}

/// After a close: another thread may have spliced the socket in between.
fn left(fd: c_int) {
    if descriptors::has_entry(fd) && keeps_tables() {
        descriptors::known(fd);
    }
}

unsafe fn close_loud(fd: c_int) -> c_int {
    if !leave(fd) {
        return fail(libc::EBADF) as c_int;
    }
    // SAFETY: the caller's.
    let done = unsafe { next::close(fd) };
    left(fd);
    done
}

/// A range is closed around our own descriptors.
fn close_range_loud(first: c_uint, last: c_uint, flags: c_int) -> Raw {
    // SAFETY: no pointers.
    let close = |first: c_uint, last: c_uint| unsafe {
        if first > last { 0 } else { enter!(SYS_close_range, first, last, flags) }
    };
    const CLOEXEC: c_int = 4;
    if !(keeps_tables() || local::is_on()) || first > last || flags & CLOEXEC != 0 {
        // SAFETY: no pointers.
        return unsafe { enter!(SYS_close_range, first, last, flags) };
    }
    let number = |fd: c_uint| c_int::try_from(fd).unwrap_or(c_int::MAX);
    let entered = descriptors::entered(number(first), number(last));
    let mut known: Vec<c_int> = entered.map(|(fd, _)| fd).collect();
    if local::is_on() {
        known.extend(local::open_between(number(first), number(last)));
    }
    known.into_iter().for_each(|fd| {
        leave(fd);
    });
    let mut from = first;
    for fd in descriptors::hidden() {
        let fd = fd as c_uint;
        if (from..=last).contains(&fd) {
            let done = if fd > from { close(from, fd - 1) } else { 0 };
            if done < 0 {
                return done;
            }
            from = fd + 1;
        }
    }
    close(from, last)
}

/// Notes a duplicate. Cheap enough for programs that never use the option: they may use it
/// later.
fn duplicated(old: c_int, result: Raw) -> Raw {
    if result >= 0 && result != old as Raw {
        if local::is_on() {
            local::connections::duplicated(old, result as c_int);
            local::sets::duplicated(old, result as c_int);
        }
        if keeps_tables() {
            descriptors::known(old);
            own::duplicated(old, result as c_int);
            descriptors::duplicated(&lock::hold(), old, result as c_int);
        } else {
            descriptors::mark_twin(old);
            descriptors::mark_twin(result as c_int);
        }
    }
    result
}

fn dup_call(old: c_int) -> Raw {
    // SAFETY: no pointers.
    duplicated(old, unsafe { enter!(SYS_dup, old) })
}

fn dup3_call(old: c_int, new: c_int, flags: c_int) -> Raw {
    if old != new && local::is_on() && new >= 0 && is_open(old) {
        if descriptors::is_hidden(new) {
            local::make_way(new);
        } else {
            leave(new);
        }
    }
    if old != new && keeps_tables() && new >= 0 {
        if descriptors::is_hidden(new) {
            connection::make_way(&lock::hold(), new);
        } else if is_open(old) {
            leave(new);
        }
    }
    // SAFETY: no pointers.
    duplicated(old, unsafe { enter!(SYS_dup3, old, new, flags) })
}

fn dup2_call(old: c_int, new: c_int) -> Raw {
    if old == new {
        return if is_open(old) { old as Raw } else { -(libc::EBADF as Raw) };
    }
    dup3_call(old, new, 0)
}

fn is_open(fd: c_int) -> bool {
    // SAFETY: no pointers.
    unsafe { enter!(SYS_fcntl, fd, libc::F_GETFD) >= 0 }
}

/// libc's fcntl, without its record locks' cancellation: those go to libc when there are
/// threads.
fn fcntl_call(fd: c_int, command: c_int, arg: c_ulong) -> Raw {
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            // SAFETY: no pointers.
            duplicated(fd, unsafe { enter!(SYS_fcntl, fd, command, arg) })
        }
        libc::F_GETOWN => owner(fd),
        // SAFETY: the caller's.
        _ => unsafe { enter!(SYS_fcntl, fd, command, arg) },
    }
}

/// The kernel's plain answer for a process group looks like an error.
fn owner(fd: c_int) -> Raw {
    const F_GETOWN_EX: c_int = 16;
    const PROCESS_GROUP: c_int = 2;
    let mut owner: [c_int; 2] = [0; 2];
    // SAFETY: the record of two ints lives through the call.
    let done = unsafe { enter!(SYS_fcntl, fd, F_GETOWN_EX, owner.as_mut_ptr()) };
    match owner {
        _ if done < 0 => done,
        [PROCESS_GROUP, group] => -(group as Raw),
        [_, id] => id as Raw,
    }
}

unsafe fn fcntl_loud(fd: c_int, command: c_int, arg: c_ulong) -> c_int {
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC | libc::F_GETOWN => {
            ret(fcntl_call(fd, command, arg)) as c_int
        }
        _ => {
            if command == libc::F_SETFL && arg as c_int & libc::O_ASYNC != 0 {
                // Its signal is the kernel's, who does not know of the ring.
                local::doors::unseen(fd);
            }
            // SAFETY: the caller's.
            let done = unsafe { next::fcntl(fd, command, arg) };
            if command == libc::F_SETFL {
                local::options::nonblocking_may_have_changed(fd);
            }
            done
        }
    }
}

const FIOASYNC: c_ulong = 0x5452;

/// Bytes that were taken and not given are there to be read as well.
unsafe fn ioctl_loud(fd: c_int, request: c_ulong, arg: *mut c_void) -> Raw {
    if request == FIOASYNC {
        local::doors::unseen(fd);
    }
    // SAFETY: the caller's.
    unsafe {
        let done = enter!(SYS_ioctl, fd, request, arg);
        if done == 0 && request == libc::FIONBIO as c_ulong {
            local::options::nonblocking_may_have_changed(fd);
        } else if done == 0 {
            local::options::counted(fd, request, arg.cast());
        }
        if done == 0
            && request == libc::FIONREAD as c_ulong
            && let Some(slot) = descriptors::of(fd)
        {
            let count = arg.cast::<c_int>();
            *count = count.read().saturating_add(slot.residue.load(Ordering::Acquire) as c_int);
        }
        done
    }
}

fn listen_loud(fd: c_int, backlog: c_int) -> Raw {
    if descriptors::of(fd).is_some_and(|slot| slot.is_source() || slot.is_drain()) {
        let connecting =
            checks::is_connecting(fd) && Personality::current() == Personality::OpenBsd;
        return -(if connecting { libc::EOPNOTSUPP } else { libc::EINVAL } as Raw);
    }
    // SAFETY: no pointers.
    unsafe { enter!(SYS_listen, fd, backlog) }
}

fn shutdown_loud(fd: c_int, how: c_int) -> Raw {
    if local::is_on() {
        local::doors::shutting_down(fd, how);
    }
    // SAFETY: no pointers.
    let done = unsafe { enter!(SYS_shutdown, fd, how) };
    if local::is_on() {
        local::doors::has_shut_down(fd);
    }
    if done == 0
        && descriptors::of(fd).is_some_and(|slot| slot.is_source() || slot.is_drain())
        && let Some(id) = descriptors::known(fd)
    {
        let (read, write) = (how != libc::SHUT_WR, how != libc::SHUT_RD);
        // A carrier that is gone has ended everything.
        let _ = client::shutdown(&lock::hold(), id, read, write);
    }
    done
}

/// The end of a source, carried on to its drain. One that is gone needs none.
pub fn shut_down_write(fd: c_int) {
    shutdown_loud(fd, libc::SHUT_WR);
}

/// libc's function, looked up when it is first called.
fn libcs(cell: &AtomicPtr<c_void>, name: &str) -> *mut c_void {
    let mut found = cell.load(Ordering::Relaxed);
    if found.is_null() {
        found = next::find(name);
        cell.store(found, Ordering::Relaxed);
    }
    found
}

static FCLOSE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// stdio closes without asking anybody.
unsafe fn fclose_call(file: *mut libc::FILE) -> c_int {
    type Function = unsafe extern "C" fn(*mut libc::FILE) -> c_int;
    // SAFETY: the stream is the program's; dlsym gave the function for this name.
    unsafe {
        if (keeps_tables() || local::is_on()) && !file.is_null() && !super::stdio::is_ours(file) {
            leave(super::stdio::descriptor_of(file));
        }
        let fclose = libcs(&FCLOSE, "fclose\0");
        std::mem::transmute::<*mut c_void, Function>(fclose)(file)
    }
}

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type StartInt = extern "C" fn(*mut c_void) -> c_int;

/// With threads the calls go to libc, for cancellation.
fn expect_threads() {
    next::resolve();
    DOMAIN.loud.store(1, Ordering::Release);
}

static PTHREAD_CREATE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static THRD_CREATE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

unsafe fn pthread_create_call(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: Start,
    arg: *mut c_void,
) -> c_int {
    type Function = unsafe extern "C" fn(
        *mut libc::pthread_t,
        *const libc::pthread_attr_t,
        Start,
        *mut c_void,
    ) -> c_int;
    let found = libcs(&PTHREAD_CREATE, "pthread_create\0");
    if !next::is_resolved() {
        expect_threads();
    }
    // SAFETY: dlsym gave it for this name; the caller's for the rest.
    unsafe { std::mem::transmute::<*mut c_void, Function>(found)(thread, attributes, start, arg) }
}

unsafe fn thrd_create_call(thread: *mut libc::c_ulong, start: StartInt, arg: *mut c_void) -> c_int {
    type Function = unsafe extern "C" fn(*mut libc::c_ulong, StartInt, *mut c_void) -> c_int;
    let found = libcs(&THRD_CREATE, "thrd_create\0");
    if !next::is_resolved() {
        expect_threads();
    }
    // SAFETY: dlsym gave it for this name; the caller's for the rest.
    unsafe { std::mem::transmute::<*mut c_void, Function>(found)(thread, start, arg) }
}

interposed! {
    fn close(fd: c_int) -> c_int { quiet ret(sys::close(fd)); loud close_loud(fd) }
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        quiet ret(enter!(SYS_close_range, first, last, flags));
        loud ret(close_range_loud(first, last, flags))
    }
    fn closefrom(first: c_int) -> () {
        quiet drop_result(enter!(SYS_close_range, first.max(0), u32::MAX, 0));
        loud drop_result(close_range_loud(first.max(0) as c_uint, u32::MAX, 0))
    }
    fn fclose(file: *mut libc::FILE) -> c_int { quiet fclose_call(file); loud fclose_call(file) }
    fn dup(old: c_int) -> c_int { quiet ret(dup_call(old)); loud ret(dup_call(old)) }
    fn dup2(old: c_int, new: c_int) -> c_int {
        quiet ret(dup2_call(old, new)); loud ret(dup2_call(old, new))
    }
    fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
        quiet ret(dup3_call(old, new, flags)); loud ret(dup3_call(old, new, flags))
    }
    fn fcntl(fd: c_int, command: c_int, arg: c_ulong) -> c_int {
        quiet ret(fcntl_call(fd, command, arg)); loud fcntl_loud(fd, command, arg)
    }
    fn fcntl64(fd: c_int, command: c_int, arg: c_ulong) -> c_int {
        quiet ret(fcntl_call(fd, command, arg)); loud fcntl_loud(fd, command, arg)
    }
    fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
        quiet ret(enter!(SYS_ioctl, fd, request, arg)); loud ret(ioctl_loud(fd, request, arg))
    }
    fn listen(fd: c_int, backlog: c_int) -> c_int {
        quiet ret(enter!(SYS_listen, fd, backlog)); loud ret(listen_loud(fd, backlog))
    }
    fn shutdown(fd: c_int, how: c_int) -> c_int {
        quiet ret(enter!(SYS_shutdown, fd, how)); loud ret(shutdown_loud(fd, how))
    }
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        start: Start,
        arg: *mut c_void,
    ) -> c_int {
        quiet pthread_create_call(thread, attributes, start, arg);
        loud pthread_create_call(thread, attributes, start, arg)
    }
    fn thrd_create(thread: *mut libc::c_ulong, start: StartInt, arg: *mut c_void) -> c_int {
        quiet thrd_create_call(thread, start, arg); loud thrd_create_call(thread, start, arg)
    }
}

fn drop_result(_: Raw) {}
