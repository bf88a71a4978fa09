//! What is asked of a connection beside its bytes.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use libc::{IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET, TCP_CORK, TCP_NODELAY, c_int};
use std::mem::zeroed;

cases! {
    EVERY options_keep_their_values;
    EVERY corked_and_uncorked;
    EVERY the_names_of_both_ends;
    EVERY the_kind_of_socket;
    EVERY the_state_of_the_connection;
    EVERY a_connected_socket_stays_connected;
    EVERY flags_of_the_file;
    EVERY nonblocking_by_ioctl;
    EVERY smaller_and_larger_buffers;
    PROCESSES numbers_are_the_lowest;
}

fn options_keep_their_values(end: &mut End) {
    for (level, name) in [
        (IPPROTO_TCP, TCP_NODELAY),
        (SOL_SOCKET, SO_KEEPALIVE),
        (IPPROTO_TCP, TCP_CORK),
        (IPPROTO_TCP, libc::TCP_KEEPIDLE),
        (IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
        (SOL_SOCKET, libc::SO_REUSEADDR),
        (SOL_SOCKET, libc::SO_RCVLOWAT),
    ] {
        let before = option_of(end.fd, level, name);
        set_option(end.fd, level, name, 1);
        end.saw("option", (name, before, option_of(end.fd, level, name)));
    }
    set_option(end.fd, IPPROTO_TCP, TCP_CORK, 0);
    end.meet();
    send_all(end.fd, b"as ever");
    let got = read_exactly(end.fd, 7);
    end.saw("got", digest(&got));
}

fn corked_and_uncorked(end: &mut End) {
    for round in 0..5 {
        if end.near() {
            set_option(end.fd, IPPROTO_TCP, TCP_CORK, 1);
            send_all(end.fd, b"head ");
            send_all(end.fd, &pattern(100 * round));
            set_option(end.fd, IPPROTO_TCP, TCP_CORK, 0);
            assert_eq!(read_exactly(end.fd, 1), b"k");
        } else {
            let got = read_exactly(end.fd, 5 + 100 * round);
            end.saw("got", digest(&got));
            send_all(end.fd, b"k");
        }
    }
}

type NameOf = unsafe extern "C" fn(c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> c_int;

fn port(fd: c_int, name_of: NameOf) -> (u16, u32, u16) {
    // SAFETY: zeroes are a valid address; it and its length live through the call.
    unsafe {
        let mut address: libc::sockaddr_in = zeroed();
        let mut len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        assert_eq!(name_of(fd, (&raw mut address).cast(), &raw mut len), 0);
        (address.sin_family, u32::from_be(address.sin_addr.s_addr), u16::from_be(address.sin_port))
    }
}

fn the_names_of_both_ends(end: &mut End) {
    let (own, other) = (port(end.fd, libc::getsockname), port(end.fd, libc::getpeername));
    end.saw("family and address", (own.0, own.1, other.0, other.1));
    end.tell(u64::from(own.2) << 16 | u64::from(other.2));
    let told = end.hear();
    end.saw("the other says the same", told == u64::from(other.2) << 16 | u64::from(own.2));
}

fn the_kind_of_socket(end: &mut End) {
    for name in [libc::SO_TYPE, libc::SO_DOMAIN, libc::SO_PROTOCOL, libc::SO_ACCEPTCONN] {
        end.saw("kind", option_of(end.fd, SOL_SOCKET, name));
    }
    // SAFETY: zeroes are a valid record, which lives through the call.
    let mode = unsafe {
        let mut found: libc::stat = zeroed();
        assert_eq!(libc::fstat(end.fd, &raw mut found), 0);
        found.st_mode & libc::S_IFMT == libc::S_IFSOCK
    };
    // SAFETY: no pointers.
    let (position, terminal) =
        unsafe { (libc::lseek(end.fd, 0, libc::SEEK_CUR), libc::isatty(end.fd)) };
    end.saw("a socket", (mode, position, terminal));
}

fn state(fd: c_int) -> u8 {
    let mut info = [0u8; 8];
    let mut len = 8;
    let at = info.as_mut_ptr().cast();
    // SAFETY: value and length live through the call.
    let done = unsafe { libc::getsockopt(fd, IPPROTO_TCP, libc::TCP_INFO, at, &raw mut len) };
    assert_eq!(done, 0);
    info[0]
}

fn the_state_of_the_connection(end: &mut End) {
    end.saw("established", state(end.fd));
    end.meet();
    if end.near() {
        shutdown(end.fd, libc::SHUT_WR);
        end.meet();
        eventually("the other has seen it", || state(end.fd) == 5);
    } else {
        end.meet();
        eventually("the peer's end", || state(end.fd) == 8);
    }
    end.saw("half closed", state(end.fd));
}

fn a_connected_socket_stays_connected(end: &mut End) {
    // SAFETY: zeroes are a valid address, which lives through the calls.
    unsafe {
        let mut address: libc::sockaddr_in = zeroed();
        address.sin_family = libc::AF_INET as u16;
        address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        address.sin_port = 1u16.to_be();
        let at = (&raw const address).cast();
        let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        end.saw("connect", check(libc::connect(end.fd, at, len) as isize));
        end.saw("bind", check(libc::bind(end.fd, at, len) as isize));
        end.saw("listen", check(libc::listen(end.fd, 5) as isize));
        let null = std::ptr::null_mut();
        end.saw("accept", check(libc::accept(end.fd, null, null.cast()) as isize));
    }
    end.meet();
    send_all(end.fd, b"as ever");
    let got = read_exactly(end.fd, 7);
    end.saw("got", digest(&got));
}

fn flags_of_the_file(end: &mut End) {
    for on in [true, false, true] {
        nonblocking(end.fd, on);
        // SAFETY: no pointers.
        let flags = unsafe { libc::fcntl(end.fd, libc::F_GETFL) };
        end.saw("flags", flags);
    }
    end.saw("nothing", read(end.fd, 1));
    // SAFETY: no pointers.
    let close_on_exec = unsafe {
        libc::fcntl(end.fd, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(end.fd, libc::F_GETFD)
    };
    end.saw("close on exec", close_on_exec);
}

fn nonblocking_by_ioctl(end: &mut End) {
    for on in [1, 0, 1] {
        let on: c_int = on;
        // SAFETY: the number lives through the call.
        unsafe { libc::ioctl(end.fd, libc::FIONBIO, &raw const on) };
        // SAFETY: no pointers.
        end.saw("flags", unsafe { libc::fcntl(end.fd, libc::F_GETFL) });
    }
    end.saw("nothing", read(end.fd, 1));
    end.meet();
    send_all(end.fd, b"x");
    await_queued(end.fd, 1);
    end.saw("one", read(end.fd, 5));
}

fn smaller_and_larger_buffers(end: &mut End) {
    // Smaller ones than this make plain TCP wait for its delayed acknowledgements.
    for bytes in [100_000, 400_000] {
        for name in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
            set_option(end.fd, SOL_SOCKET, name, bytes);
        }
        end.meet();
        if end.near() {
            send_all(end.fd, &pattern(1_000_000));
        } else {
            let all = read_digest(end.fd, 1_000_000);
            end.saw("all", all);
        }
    }
}

/// What the library opens for itself is out of the program's way.
fn numbers_are_the_lowest(end: &mut End) {
    let next = || {
        // SAFETY: no pointers.
        let fd = unsafe { libc::dup(2) };
        close(fd);
        fd
    };
    let before = next();
    for round in 0..50 {
        if end.near() {
            send_all(end.fd, &pattern(round * 50 + 1));
        } else {
            read_digest(end.fd, round * 50 + 1);
        }
    }
    end.saw("the same number is next", before == next());
    let fd = end.another();
    end.saw("a connection has it, or a listener had", fd - before <= 1);
    end.warm(fd);
    close(fd);
    end.saw("the same number is next", before == next());
}
