//! How connections come and go: families, many at once, one after the other, refused.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use libc::{MSG_DONTWAIT, POLLIN, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, c_int};
use std::io::Read as _;
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};

cases! {
    OWN over_the_other_family;
    OWN mapped_addresses;
    OWN a_listener_of_both_families;
    OWN two_hundred_at_once;
    OWN a_thousand_short_ones;
    OWN flags_of_accept;
    OWN a_connect_that_does_not_wait;
    OWN bytes_before_the_accept;
    OWN ended_before_the_accept;
    OWN reset_before_the_accept;
    OWN the_same_ports_again_and_again;
    OWN asked_again_whether_it_is_connected;
    OWN the_same_ports_beside_a_dead_connection;
    OWN_PROCESSES the_same_ports_in_two_namespaces;
    OWN a_disconnected_socket_connects_anew;
    OWN a_refused_connect;
    OWN a_socket_that_connects_to_itself;
    OWN both_ends_in_one_thread;
    OWN other_sockets_beside;
}

/// The far end listens, the near one connects to `target` at its port.
fn connect(end: &mut End, listen: SocketAddr, target: SocketAddr) {
    end.fd = if end.far() {
        let listener = TcpListener::bind(listen).unwrap();
        end.tell(u64::from(listener.local_addr().unwrap().port()));
        listener.accept().unwrap().0.into_raw_fd()
    } else {
        let port = end.hear() as u16;
        TcpStream::connect(SocketAddr::new(target.ip(), port)).unwrap().into_raw_fd()
    };
    end.warm_up();
}

/// Something in both directions.
fn talk(end: &mut End, fd: c_int, bytes: usize) {
    if end.near() {
        send_all(fd, &pattern(bytes));
        let answer = read_exactly(fd, 6);
        end.saw("answer", digest(&answer));
    } else {
        let got = read_digest(fd, bytes);
        end.saw("got", got);
        send_all(fd, b"answer");
    }
}

fn any_port(address: impl Into<std::net::IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), 0)
}

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn over_the_other_family(end: &mut End) {
    let address = any_port(Ipv6Addr::LOCALHOST);
    connect(end, address, address);
    talk(end, end.fd, 100_000);
}

fn mapped_addresses(end: &mut End) {
    connect(end, any_port(LOOPBACK), any_port(LOOPBACK.to_ipv6_mapped()));
    talk(end, end.fd, 100_000);
}

fn a_listener_of_both_families(end: &mut End) {
    connect(end, any_port(Ipv6Addr::UNSPECIFIED), any_port(LOOPBACK));
    talk(end, end.fd, 100_000);
    connect(end, any_port(Ipv6Addr::UNSPECIFIED), any_port(Ipv6Addr::LOCALHOST));
    talk(end, end.fd, 100_000);
}

fn two_hundred_at_once(end: &mut End) {
    let fds: Vec<c_int> = (0..200).map(|_| end.another()).collect();
    for (number, fd) in fds.iter().enumerate() {
        if number % 20 == 0 {
            end.warm(*fd);
        }
    }
    for round in 0..10 {
        for (number, fd) in fds.iter().enumerate() {
            let message = pattern(1 + (number * 7 + round * 31) % 900);
            if end.near() {
                send_all(*fd, &message);
            } else {
                assert_eq!(read_exactly(*fd, message.len()), message);
                send_all(*fd, &[number as u8]);
            }
        }
        for (number, fd) in fds.iter().enumerate() {
            if end.near() {
                assert_eq!(read_exactly(*fd, 1), [number as u8]);
            }
        }
    }
    for fd in fds {
        shutdown(fd, libc::SHUT_WR);
        assert_eq!(read(fd, 1), Ok(vec![]));
        close(fd);
    }
    end.saw("all", ());
}

fn a_thousand_short_ones(end: &mut End) {
    let mut all = Digest::new();
    if end.far() {
        let listener = TcpListener::bind(any_port(LOOPBACK)).unwrap();
        end.tell(u64::from(listener.local_addr().unwrap().port()));
        for round in 0..1000usize {
            let fd = listener.accept().unwrap().0.into_raw_fd();
            let question = read_exactly(fd, 20);
            all.add(&question);
            send_all(fd, &pattern(round % 5000));
            close(fd);
        }
    } else {
        let port = end.hear() as u16;
        for round in 0..1000usize {
            let fd = TcpStream::connect((LOOPBACK, port)).unwrap().into_raw_fd();
            send_all(fd, format!("question number {round:04}").as_bytes());
            let answer = read_to_end(fd).unwrap();
            assert_eq!(answer.bytes(), round % 5000);
            all.add(&answer.hash().to_ne_bytes());
            close(fd);
        }
    }
    end.saw("all", all.name());
}

fn flags_of_accept(end: &mut End) {
    for flags in [0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC] {
        if end.near() {
            let port = end.hear() as u16;
            let fd = TcpStream::connect((LOOPBACK, port)).unwrap().into_raw_fd();
            end.meet();
            send_all(fd, b"hello");
            assert_eq!(read_exactly(fd, 5), b"hello");
            close(fd);
            continue;
        }
        let listener = TcpListener::bind(any_port(LOOPBACK)).unwrap();
        end.tell(u64::from(listener.local_addr().unwrap().port()));
        let null = std::ptr::null_mut();
        // SAFETY: no address is asked for.
        let fd = unsafe { libc::accept4(listener.as_raw_fd(), null, null.cast(), flags) };
        // SAFETY: no pointers.
        let found = unsafe { (libc::fcntl(fd, libc::F_GETFL), libc::fcntl(fd, libc::F_GETFD)) };
        end.saw("flags", found);
        if flags & SOCK_NONBLOCK != 0 {
            end.saw("nothing", read(fd, 1));
        }
        end.meet();
        await_queued(fd, 5);
        send_all(fd, &read_exactly(fd, 5));
        close(fd);
    }
}

fn address(port: u16) -> (libc::sockaddr_in, libc::socklen_t) {
    // SAFETY: zeroes are a valid address.
    let mut address: libc::sockaddr_in = unsafe { zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    address.sin_port = port.to_be();
    (address, size_of::<libc::sockaddr_in>() as libc::socklen_t)
}

fn connect_raw(fd: c_int, port: u16) -> Result<usize> {
    let (address, len) = address(port);
    // SAFETY: the address lives through the call.
    check(unsafe { libc::connect(fd, (&raw const address).cast(), len) } as isize)
}

fn stream(flags: c_int) -> c_int {
    // SAFETY: no pointers.
    unsafe { libc::socket(libc::AF_INET, SOCK_STREAM | flags, 0) }
}

fn a_connect_that_does_not_wait(end: &mut End) {
    if end.far() {
        end.fd = end.another();
    } else {
        let port = end.hear() as u16;
        end.fd = stream(SOCK_NONBLOCK);
        let begun = connect_raw(end.fd, port);
        end.saw("begun", begun == Err(libc::EINPROGRESS) || begun == Ok(0));
        await_events(end.fd, libc::POLLOUT);
        end.saw("done", so_error(end.fd));
        end.saw("again", connect_raw(end.fd, port) == Err(libc::EISCONN) || begun.is_err());
        nonblocking(end.fd, false);
    }
    end.warm_up();
    talk(end, end.fd, 10_000);
}

fn bytes_before_the_accept(end: &mut End) {
    if end.far() {
        let listener = TcpListener::bind(any_port(LOOPBACK)).unwrap();
        end.tell(u64::from(listener.local_addr().unwrap().port()));
        end.meet();
        end.fd = listener.accept().unwrap().0.into_raw_fd();
        let got = read_digest(end.fd, 50_000);
        end.saw("got", got);
    } else {
        let port = end.hear() as u16;
        end.fd = TcpStream::connect((LOOPBACK, port)).unwrap().into_raw_fd();
        for _ in 0..50 {
            send_all(end.fd, &pattern(1000));
        }
        end.meet();
    }
    end.warm_up();
    talk(end, end.fd, 10_000);
}

fn ended_before_the_accept(end: &mut End) {
    if end.far() {
        let listener = TcpListener::bind(any_port(LOOPBACK)).unwrap();
        end.tell(u64::from(listener.local_addr().unwrap().port()));
        end.meet();
        let fd = listener.accept().unwrap().0.into_raw_fd();
        let all = read_to_end(fd).unwrap();
        end.saw("all", all.name());
    } else {
        let port = end.hear() as u16;
        let fd = TcpStream::connect((LOOPBACK, port)).unwrap().into_raw_fd();
        send_all(fd, &pattern(5000));
        close(fd);
        end.meet();
    }
}

fn reset_before_the_accept(end: &mut End) {
    if end.far() {
        let listener = TcpListener::bind(any_port(LOOPBACK)).unwrap();
        end.tell(u64::from(listener.local_addr().unwrap().port()));
        end.meet();
        let fd = listener.accept().unwrap().0.into_raw_fd();
        end.saw("read", read(fd, 10));
        end.saw("read", read(fd, 10));
    } else {
        let port = end.hear() as u16;
        let fd = TcpStream::connect((LOOPBACK, port)).unwrap().into_raw_fd();
        reset(fd);
        end.meet();
    }
}

/// A connection with the addresses of one that has just ended is another connection.
fn the_same_ports_again_and_again(end: &mut End) {
    let listener = end.far().then(|| TcpListener::bind(any_port(LOOPBACK)).unwrap());
    if let Some(listener) = &listener {
        end.tell(u64::from(listener.local_addr().unwrap().port()));
    }
    let target = if end.near() { end.hear() as u16 } else { 0 };
    let mut own = 0;
    for round in 0..20 {
        end.fd = if let Some(listener) = &listener {
            listener.accept().unwrap().0.into_raw_fd()
        } else {
            let fd = stream(0);
            set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
            let (address, len) = address(own);
            // SAFETY: the address lives through the call.
            assert_eq!(unsafe { libc::bind(fd, (&raw const address).cast(), len) }, 0);
            connect_raw(fd, target).unwrap();
            own = port_of(fd);
            fd
        };
        if round % 4 == 0 {
            end.warm_up();
        }
        talk(end, end.fd, 1 + round * 313);
        end.meet();
        // A reset, so that the addresses are free at once.
        if end.near() {
            reset(end.fd);
            end.meet();
        } else {
            end.meet();
            await_reset(end.fd);
            end.saw("read", read(end.fd, 1));
            close(end.fd);
        }
        end.meet();
    }
}

fn port_of(fd: c_int) -> u16 {
    let (mut found, mut len) = address(0);
    // SAFETY: address and length live through the call.
    unsafe { libc::getsockname(fd, (&raw mut found).cast(), &raw mut len) };
    u16::from_be(found.sin_port)
}

/// Both ends of a connection between these two ports, of which zero is any.
fn own_connection(from: u16, to: u16) -> (c_int, c_int) {
    use socket2::{Domain, SockAddr, Socket, Type};
    let address = |port| SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let bound = |port| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address(port)).unwrap();
        socket
    };
    let listener = bound(to);
    listener.listen(1).unwrap();
    let near = bound(from);
    near.connect(&listener.local_addr().unwrap()).unwrap();
    (near.into_raw_fd(), listener.accept().unwrap().0.into_raw_fd())
}

/// The ports of a connection's ends.
fn ports(fd: c_int) -> (u16, u16) {
    // SAFETY: borrowed for two calls.
    let socket = std::mem::ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(fd) });
    (socket.local_addr().unwrap().port(), socket.peer_addr().unwrap().port())
}

/// Calls that make a connection be announced, and take what the answer may be.
fn show(fd: c_int) {
    for _ in 0..20 {
        let _ = recv(fd, 1, MSG_DONTWAIT);
        pause_ms(1);
    }
    poll(fd, POLLIN, 0);
}

/// By a second connect, behind bytes that were sent already.
fn asked_again_whether_it_is_connected(end: &mut End) {
    use socket2::{Domain, SockAddr, Socket, Type};
    if end.near() {
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = SockAddr::from(listener.local_addr().unwrap());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let _ = socket.connect(&address);
    let served = listener.accept().unwrap().0.into_raw_fd();
    await_events(socket.as_raw_fd(), libc::POLLOUT);
    let fd = socket.as_raw_fd();
    send_all(fd, b"early");
    end.saw("connected", socket.connect(&address).is_ok());
    end.saw("early", read_exactly(served, 5));
    show(fd);
    show(served);
    show(fd);
    // As many as it would be short of.
    for byte in b"12345, and more" {
        send_all(fd, &[*byte]);
    }
    end.saw("all", read_exactly(served, 15));
}

/// A server has not looked yet at the reset of a connection, and its client connects anew.
fn the_same_ports_beside_a_dead_connection(end: &mut End) {
    if end.near() {
        return;
    }
    let (first, dead) = own_connection(0, 0);
    let (from, to) = ports(first);
    show(dead);
    reset(first);
    await_reset(dead);
    let (second, served) = own_connection(from, to);
    show(second);
    show(dead);
    send_all(second, b"for the second");
    await_queued(served, 14);
    end.saw("the second", read(served, 100));
    end.saw("the first", recv(dead, 100, MSG_DONTWAIT));
}

/// A process that goes to another network keeps the sockets that it had.
fn the_same_ports_in_two_namespaces(end: &mut End) {
    if end.near() {
        return;
    }
    let here = own_connection(0, 0);
    let (from, to) = ports(here.0);
    // SAFETY: this process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } < 0 {
        return;
    }
    loopback_up();
    let there = own_connection(from, to);
    show(here.0);
    show(there.1);
    show(here.0);
    send_all(here.0, b"here");
    send_all(there.0, b"there");
    await_queued(here.1, 4);
    await_queued(there.1, 5);
    end.saw("here", read(here.1, 100));
    end.saw("there", read(there.1, 100));
}

fn loopback_up() {
    // SAFETY: zeroes are a valid request; it lives through the calls.
    unsafe {
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l' as _;
        request.ifr_name[1] = b'o' as _;
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        request.ifr_ifru.ifru_flags = libc::IFF_UP as _;
        assert_eq!(libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request), 0);
        libc::close(socket);
    }
}

fn a_disconnected_socket_connects_anew(end: &mut End) {
    let listener = end.far().then(|| TcpListener::bind(any_port(LOOPBACK)).unwrap());
    if let Some(listener) = &listener {
        end.tell(u64::from(listener.local_addr().unwrap().port()));
    }
    let target = if end.near() { end.hear() as u16 } else { 0 };
    end.fd = stream(0);
    for round in 0..3 {
        if let Some(listener) = &listener {
            end.fd = listener.accept().unwrap().0.into_raw_fd();
        } else {
            end.saw("connect", connect_raw(end.fd, target));
        }
        end.warm_up();
        talk(end, end.fd, 3000 + round);
        end.meet();
        if end.near() {
            let (mut nobody, len) = address(0);
            nobody.sin_family = libc::AF_UNSPEC as u16;
            let at = (&raw const nobody).cast();
            // SAFETY: the address lives through the call.
            let done = check(unsafe { libc::connect(end.fd, at, len) } as isize);
            end.saw("disconnected", done);
            end.saw("read", read(end.fd, 1));
            end.saw("sent", send(end.fd, b"x", libc::MSG_NOSIGNAL));
            end.meet();
        } else {
            end.meet();
            await_reset(end.fd);
            end.saw("read", read(end.fd, 1));
            close(end.fd);
        }
    }
}

fn a_refused_connect(end: &mut End) {
    let listener = TcpListener::bind(any_port(LOOPBACK)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let fd = stream(0);
    end.saw("read", read(fd, 1));
    end.saw("sent", send(fd, b"x", libc::MSG_NOSIGNAL));
    end.saw("refused", connect_raw(fd, port));
    end.saw("read", read(fd, 1));
    close(fd);
}

fn a_socket_that_connects_to_itself(end: &mut End) {
    let fd = stream(0);
    let (any, len) = address(0);
    // SAFETY: the address lives through the call.
    assert_eq!(unsafe { libc::bind(fd, (&raw const any).cast(), len) }, 0);
    end.saw("connect", connect_raw(fd, port_of(fd)));
    for round in 0..20 {
        let bytes = pattern(1 + round * 100);
        send_all(fd, &bytes);
        let got = read_exactly(fd, bytes.len());
        end.saw("got", digest(&got));
    }
    shutdown(fd, libc::SHUT_WR);
    end.saw("end", read(fd, 1));
}

fn both_ends_in_one_thread(end: &mut End) {
    let listener = TcpListener::bind(any_port(LOOPBACK)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap().into_raw_fd();
    let far = listener.accept().unwrap().0.into_raw_fd();
    for round in 0..200 {
        let bytes = pattern(1 + round * 20);
        for (from, to) in [(near, far), (far, near)] {
            send_all(from, &bytes);
            await_queued(to, bytes.len());
            assert_eq!(read_exactly(to, bytes.len()), bytes);
        }
    }
    let sent = stuff_for_good(near);
    let got = read_digest(far, sent);
    let mut expected = Digest::new();
    expected.add(&vec![b'x'; sent]);
    end.saw("all of it", got == expected.name());
    close(near);
    end.saw("end", read(far, 1));
    close(far);
}

/// Pipes, datagrams and unix sockets are none of the library's business.
fn other_sockets_beside(end: &mut End) {
    end.connect();
    end.warm_up();
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let udp = std::net::UdpSocket::bind(any_port(LOOPBACK)).unwrap();
    udp.connect(udp.local_addr().unwrap()).unwrap();
    for round in 0..20 {
        send_all(near.as_raw_fd(), b"unix");
        end.saw("unix", read(far.as_raw_fd(), 10));
        udp.send(b"datagram").unwrap();
        end.saw("udp", recv(udp.as_raw_fd(), 3, libc::MSG_TRUNC).map(|bytes| bytes.len()));
        talk(end, end.fd, 1 + round);
    }
    let mut rest = Vec::new();
    drop(near);
    (&far).read_to_end(&mut rest).unwrap();
    end.saw("end", rest);
}
