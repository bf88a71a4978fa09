//! From a plain connection to a paired one.
//!
//! A connection that has shown by a few calls that it lives is announced; its peer's process
//! does the same. The memory comes whenever it comes: each call on a plain connection looks at
//! one word. Nobody waits for anybody.

use super::connections::{self, Connection, Last, State};
use super::socket::{Family, Socket};
use super::{sets, settings};
use crate::descriptors;
use crate::lock;
use crate::sys::{self, enter};
use libc::{c_int, sockaddr_storage, socklen_t};
use rustix::io::Errno;
use sosplice_local::end::{End, Found};
use sosplice_local::member::{self, Mail, Member};
use sosplice_local::ring::Ring;
use sosplice_local::stream::{self, Tcp};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// This process's membership; null for none. Never freed while the process lives, but by a
/// forked child for its parent's.
static MEMBER: AtomicPtr<Member> = AtomicPtr::new(std::ptr::null_mut());
/// When joining may be tried again.
static NOT_BEFORE: AtomicU64 = AtomicU64::new(0);

/// Between two tries to join; longer behind each but the first that the broker has left without an answer.
const RETRY_NS: u64 = 1_000_000_000;
const RETRY_NS_MAX: u64 = 64_000_000_000;
static RETRY: AtomicU64 = AtomicU64::new(RETRY_NS);

fn member() -> Option<&'static Member> {
    // SAFETY: a leaked box, or null.
    unsafe { MEMBER.load(Ordering::Acquire).as_ref() }
}

/// A connection begins, or is being made: connect(2) or accept(2) gave it. Whether it is one that
/// can be paired is looked at when it has shown that it is worth it.
pub fn begin(fd: c_int) {
    connections::enter(fd);
}

/// connect(2) has said that a connection is there, or is being made. Of one that carries bytes already it says so
/// again: begun anew, its count would be short of these.
pub fn connected(fd: c_int, is_dissolved: bool) {
    let before = connections::of(fd).filter(|found| !is_dissolved && found.has_carried());
    let Some(found) = before else { return begin(fd) };
    let inode = sys::socket_inode(fd);
    if found.state() == State::Paired && inode == Some(found.record.inode.load(Ordering::Relaxed)) {
        return;
    }
    if found.state() == State::Plain {
        found.give_up();
        withdraw(found);
    }
    // Or it is another socket's, which was closed behind our back. Nobody can tell.
    if let Some(made) = connections::enter(fd) {
        made.give_up();
    }
}

fn is_wanted(local: SocketAddr, peer: SocketAddr) -> bool {
    let Some(settings) = settings() else { return false };
    let ports = &settings.ports;
    let loopback = |address: IpAddr| address.to_canonical().is_loopback();
    local != peer
        && (ports.is_empty() || ports.contains(&local.port()) || ports.contains(&peer.port()))
        && (!settings.loopback_only || (loopback(local.ip()) && loopback(peer.ip())))
}

/// Both ends of a TCP connection; None for any other, and for one that is still being made.
fn addresses(fd: c_int) -> Option<(SocketAddr, SocketAddr)> {
    let protocol = sys::int_option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL).ok()?;
    if protocol != libc::IPPROTO_TCP {
        return None;
    }
    Some((name(fd, libc::SYS_getsockname)?, name(fd, libc::SYS_getpeername)?))
}

fn name(fd: c_int, call: libc::c_long) -> Option<SocketAddr> {
    // SAFETY: zeroes are a valid address record, and it has room for any.
    let mut storage: sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut len = size_of::<sockaddr_storage>() as socklen_t;
    let args = [fd as usize, (&raw mut storage) as usize, (&raw mut len) as usize, 0, 0, 0];
    // SAFETY: both outputs live through the call.
    if unsafe { sys::call(call, args) } < 0 {
        return None;
    }
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what it is.
            let v4 = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in>() };
            let ip = IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(ip, u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says what it is.
            let v6 = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in6>() };
            let ip = IpAddr::from(v6.sin6_addr.s6_addr).to_canonical();
            Some(SocketAddr::new(ip, u16::from_be(v6.sin6_port)))
        }
        _ => None,
    }
}

/// A call on a plain connection: its time to be announced may have come, or an offer.
#[inline]
pub fn attend(found: Connection) {
    let after = settings().map_or(u32::MAX, |settings| settings.after);
    if found.count_call() == after {
        announce(found);
    }
    if let Some(member) = member()
        && member.has_mail()
    {
        fetch();
    }
    if found.here.offer.load(Ordering::Relaxed) != 0 && found.may_attach() {
        attach(found);
    }
}

#[cold]
fn announce(found: Connection) {
    let guard = lock::hold();
    let fd = found.here.fd.load(Ordering::Relaxed);
    let announced = join(&guard).zip(addresses(fd)).zip(settings()).is_some_and(
        |((member, (local, peer)), settings)| {
            let ring_bytes = settings.ring_bytes as u64;
            let Some(inode) = sys::socket_inode(fd) else { return false };
            found.record.inode.store(inode, Ordering::Relaxed);
            is_wanted(local, peer)
                && namespace(fd).is_some_and(|namespace| {
                    say(member, |member| {
                        member.announce(found.token(), local, peer, namespace, ring_bytes)
                    })
                })
        },
    );
    if !announced {
        found.give_up();
    }
}

/// What cannot be said because the broker is gone is said to the next one, by the next connection.
fn say(member: &Member, what: impl Fn(&Member) -> Result<(), Errno>) -> bool {
    let said = what(member);
    if matches!(said, Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::BADF)) {
        for fd in member.raw_fds() {
            descriptors::forget_hidden(fd);
        }
        // Another thread may be looking at its mail; one page and a descriptor are the price.
        MEMBER.store(std::ptr::null_mut(), Ordering::Release);
    }
    said.is_ok()
}

/// The network namespace of a socket, by its inode: this thread's, if it has made the socket there.
fn namespace(fd: c_int) -> Option<u64> {
    let inode = rustix::fs::stat(c"/proc/thread-self/ns/net").ok()?.st_ino;
    let Ok(of_socket) = sys::namespace_cookie(fd) else {
        // Linux before 5.14.
        return Some(inode);
    };
    // SAFETY: no pointers.
    let own =
        unsafe { enter!(SYS_socket, libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let here = sys::namespace_cookie(own as c_int);
    sys::close(own as c_int);
    (here == Ok(of_socket)).then_some(inode)
}

fn join(_: &lock::Guard) -> Option<&'static Member> {
    if let Some(member) = member() {
        return Some(member);
    }
    let now = sys::now_ns();
    if now < NOT_BEFORE.load(Ordering::Relaxed) {
        return None;
    }
    let joined = Member::join(&settings()?.dir);
    let retry = match &joined {
        // It has kept the program waiting. Once may be chance.
        Err(Errno::AGAIN) => RETRY.load(Ordering::Relaxed),
        _ => RETRY_NS,
    };
    let next = if joined.is_err() { retry * 2 } else { RETRY_NS };
    RETRY.store(next.min(RETRY_NS_MAX), Ordering::Relaxed);
    NOT_BEFORE.store(now + retry, Ordering::Relaxed);
    let joined = joined.ok()?;
    joined.renumber(descriptors::hide);
    MEMBER.store(Box::into_raw(Box::new(joined)), Ordering::Release);
    member()
}

/// If the membership has this descriptor it gets another. What is said would go to the program's socket else.
pub fn make_way(fd: c_int) {
    let _guard = lock::hold();
    let Some(member) = member().filter(|member| member.raw_fds().contains(&fd)) else { return };
    descriptors::forget_hidden(fd);
    // The present number stays open: nobody else may get it before the program does.
    // SAFETY: no pointers.
    let other = unsafe { enter!(SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 0) };
    if other < 0 {
        MEMBER.store(std::ptr::null_mut(), Ordering::Release);
    } else {
        member.renumber(|_| descriptors::hide(other as c_int));
    }
}

#[cold]
fn fetch() {
    let _guard = lock::hold();
    let Some(member) = member() else { return };
    while let Some(mail) = member.next() {
        match mail {
            Mail::Offer { token, role, ring_bytes, memory } => {
                let Ok(mapped) = member::map(memory, ring_bytes) else {
                    member.withdraw(token);
                    continue;
                };
                match connections::by_token(token) {
                    Some(found) if found.state() == State::Plain => {
                        found.set_memory(mapped, ring_bytes, role);
                        found.here.offer.store(1, Ordering::Release);
                    }
                    _ => {
                        // SAFETY: mapped above with this length, and nobody has it yet.
                        let header =
                            unsafe { mapped.cast::<sosplice_local::layout::Header>().as_ref() };
                        header.refused.store(1, Ordering::Release);
                        let bytes = sosplice_local::layout::pair_bytes(ring_bytes);
                        // SAFETY: as above.
                        unsafe { enter!(SYS_munmap, mapped.as_ptr(), bytes) };
                        member.withdraw(token);
                    }
                }
            }
            Mail::Refused { token, .. } => {
                if let Some(found) = connections::by_token(token) {
                    found.give_up();
                }
            }
        }
    }
}

/// The memory is there: goes to it when no call is in the kernel.
#[cold]
fn attach(found: Connection) {
    let _guard = lock::hold();
    if found.here.offer.load(Ordering::Acquire) == 0 {
        return;
    }
    let fd = found.here.fd.load(Ordering::Relaxed);
    let Some(end) = found.end() else { return };
    // The lock keeps another thread from closing it under this.
    let attached = found.attach(|| {
        // No call is in the kernel: what the socket has carried is what was counted.
        end.begin(Socket { fd, flags: 0 }.carried());
        let is_same = sys::socket_inode(fd) == Some(found.record.inode.load(Ordering::Relaxed));
        // While a socket has its connection no other one has these addresses. Before, the peer may have been found
        // for its successor.
        is_same && sys::is_connected(fd) && prepare(found, fd)
    });
    match attached {
        None => {}
        Some(true) => {
            found.here.offer.store(0, Ordering::Release);
            end.attach();
            if let Some(used) = found.used() {
                sets::enliven(&used);
            }
        }
        Some(false) => {
            found.here.offer.store(0, Ordering::Release);
            end.header.refused.store(1, Ordering::Release);
            withdraw(found);
        }
    }
}

/// Doorbells must go out at once, and be told one by one. False where the program has asked for
/// what a ring does not give.
fn prepare(found: Connection, fd: c_int) -> bool {
    let option = |level, name| sys::int_option(fd, level, name).unwrap_or(0);
    if option(libc::SOL_SOCKET, libc::SO_RCVLOWAT) > 1
        || option(libc::SOL_SOCKET, libc::SO_ZEROCOPY) != 0
        || sys::is_signal_driven(fd)
    {
        return false;
    }
    let no_delay = option(libc::IPPROTO_TCP, libc::TCP_NODELAY);
    let cork = option(libc::IPPROTO_TCP, libc::TCP_CORK);
    let is_timed = sys::receive_limit(fd).is_some();
    found.record.is_timed.store(is_timed.into(), Ordering::Relaxed);
    found.record.no_delay.store(no_delay as u32, Ordering::Relaxed);
    found.record.cork.store(cork as u32, Ordering::Relaxed);
    if cork != 0 {
        sys::set_int_option(fd, libc::IPPROTO_TCP, libc::TCP_CORK, 0);
    }
    if no_delay == 0 {
        sys::set_int_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    }
    found.record.nonblocking.store(sys::is_nonblocking(fd).into(), Ordering::Relaxed);
    true
}

/// TCP has its options back as the program has set them.
pub fn restore(found: &Connection, fd: c_int) {
    let options =
        [(libc::TCP_NODELAY, &found.record.no_delay), (libc::TCP_CORK, &found.record.cork)];
    for (name, word) in options {
        let value = word.load(Ordering::Relaxed) as c_int;
        sys::set_int_option(fd, libc::IPPROTO_TCP, name, value);
    }
    let low_water = found.record.low_water.load(Ordering::Relaxed) as c_int;
    if low_water != 1 {
        sys::set_int_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, low_water);
    }
}

/// A descriptor is about to be closed. The end of a paired connection is made what TCP would make
/// of it. Another descriptor of the same connection, if there is one.
pub fn closing(fd: c_int) -> Option<c_int> {
    if connections::of(fd).is_none() || !connections::is_owner() {
        return None;
    }
    let (found, last) = connections::forget(fd)?;
    if last == Last::No {
        return Some(found.here.fd.load(Ordering::Relaxed));
    }
    if last == Last::Anywhere {
        if found.state() == State::Paired
            && let Some(end) = found.end()
        {
            finish(&end, fd);
        }
        withdraw(found);
        found.release();
    } else {
        found.unmap();
    }
    None
}

/// The connection stays on TCP.
pub fn withdraw(found: Connection) {
    if let Some(member) = member() {
        member.withdraw(found.token());
    }
}

/// The last descriptor goes. Unread bytes make a reset; a doorbell is no byte.
fn finish(end: &End<'static, Ring>, fd: c_int) {
    let socket = Socket { fd, flags: 0 };
    stream::hush(end, &socket, &Family);
    let Ok(mut reading) = stream::held_reading(end, &socket, &Family) else { return };
    let due = reading.bells_due();
    if due > 0 && reading.take_bells(|| socket.discard(due)).is_err() {
        // The connection has ended by itself.
    }
    if matches!(reading.peek(), Ok(Found::Ring(_))) {
        let reset = libc::linger { l_onoff: 1, l_linger: 0 };
        let len = size_of::<libc::linger>();
        // SAFETY: the record lives through the call.
        unsafe {
            enter!(SYS_setsockopt, fd, libc::SOL_SOCKET, libc::SO_LINGER, &raw const reset, len)
        };
    }
    end.close();
    stream::unpark_all(end, &socket);
}

/// The process ends by itself: what only it has is finished as if it were closed.
pub fn exiting() {
    // A child of vfork ends alone.
    if !connections::is_owner() {
        return;
    }
    for (fd, found) in connections::all() {
        if found.here.fd.load(Ordering::Relaxed) == fd
            && let Some(used) = found.used()
            && found.lets_go()
        {
            finish(&used.end, fd);
        }
    }
}

/// A forked child has its parent's membership, which is not its own.
pub fn after_fork_in_child() {
    connections::own();
    let inherited = MEMBER.swap(std::ptr::null_mut(), Ordering::AcqRel);
    NOT_BEFORE.store(0, Ordering::Relaxed);
    if !inherited.is_null() {
        // SAFETY: leaked by `join`; the child has one thread.
        let inherited = unsafe { Box::from_raw(inherited) };
        for fd in inherited.raw_fds() {
            descriptors::forget_hidden(fd);
        }
        inherited.abandon();
    }
}
