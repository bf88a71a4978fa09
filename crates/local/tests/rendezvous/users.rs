//! Users and network namespaces as the kernel has them: threads with an identity or a
//! namespace of their own, and real connections.

use crate::place::{End, Place, RING, offer, refusal, settle, skip};
use rustix::process::Uid;
use sosplice_local::broker::{Options, Scope};
use sosplice_local::member::Member;
use sosplice_local::wire::Reason;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

const NOBODY: u32 = 65534;

fn own_netns() -> u64 {
    rustix::fs::stat("/proc/thread-self/ns/net").unwrap().st_ino
}

/// What `what` returns in a thread that is somebody else.
fn as_user<T: Send + 'static>(uid: u32, what: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        let uid = Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        what()
    });
    thread.join().unwrap()
}

fn ends(stream: &TcpStream) -> (SocketAddr, SocketAddr) {
    (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
}

struct Connection {
    listener: TcpListener,
    dir: PathBuf,
}

impl Connection {
    /// A client of another user, connected and joined.
    fn client(&self, uid: u32) -> (TcpStream, Member) {
        let (to, dir) = (self.listener.local_addr().unwrap(), self.dir.clone());
        as_user(uid, move || (TcpStream::connect(to).unwrap(), Member::join(&dir).unwrap()))
    }
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("only root can be somebody else");
    }
    root
}

#[test]
fn users_pair_if_the_kernel_shows_whose_the_sockets_are() {
    if !root() {
        return;
    }
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let place = Place::new();
        let listener = TcpListener::bind(address).unwrap();
        let connection = Connection { listener, dir: place.dir.clone() };
        let (client, other) = connection.client(NOBODY);
        let (server, _) = connection.listener.accept().unwrap();
        let own = place.join();
        let ((a, b), (c, d)) = (ends(&server), ends(&client));
        let netns = own_netns();
        // The liar claims the server's end, which is root's.
        let liar = as_user(NOBODY - 1, {
            let dir = place.dir.clone();
            move || Member::join(&dir).unwrap()
        });
        liar.announce(66, a, b, netns, RING).unwrap();
        other.announce(2, c, d, netns, RING).unwrap();
        assert_eq!(refusal(&liar), (66, Reason::DifferentUsers));
        own.announce(1, a, b, netns, RING).unwrap();
        let pair: (End, End) = (offer(&own), offer(&other));
        assert_eq!((pair.0.token, pair.1.token), (1, 2));
        let [first, second] = &place.status().pairs[0].ends;
        assert_eq!((first.uid, second.uid), (Some(NOBODY), Some(0)));
    }
}

#[test]
fn users_whose_sockets_cannot_be_looked_up_stay_on_tcp() {
    if !root() {
        return;
    }
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = Connection { listener, dir: place.dir.clone() };
    let (client, other) = connection.client(NOBODY);
    let (server, _) = connection.listener.accept().unwrap();
    let own = place.join();
    let ((a, b), (c, d)) = (ends(&server), ends(&client));
    // They say that they are in a namespace that the broker does not see.
    own.announce(1, a, b, 1, RING).unwrap();
    settle(&own);
    other.announce(2, c, d, 1, RING).unwrap();
    assert_eq!(refusal(&other), (2, Reason::DifferentUsers));
    assert_eq!(refusal(&own), (1, Reason::DifferentUsers));
    // A connection that there is not is nobody's, a listener's port though it is.
    let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let (listening, netns) = (connection.listener.local_addr().unwrap(), own_netns());
    own.announce(3, listening, nowhere, netns, RING).unwrap();
    settle(&own);
    other.announce(4, nowhere, listening, netns, RING).unwrap();
    assert_eq!(refusal(&other), (4, Reason::DifferentUsers));
    assert_eq!(place.status().pairs.len(), 0);
}

/// A real connection over the loopback of a namespace that this thread has made, on a port
/// that is the same in each: both ends announced.
fn alone(dir: PathBuf) -> Option<(Member, TcpStream, TcpStream)> {
    let thread = thread::spawn(move || {
        let flags = rustix::thread::UnshareFlags::NEWNET;
        // SAFETY: the namespace is the thread's alone; no memory or table is unshared.
        unsafe { rustix::thread::unshare_unsafe(flags) }.ok()?;
        up();
        let listener = TcpListener::bind("127.0.0.1:7000").unwrap();
        let client = socket_from(7001, listener.local_addr().unwrap());
        let (server, _) = listener.accept().unwrap();
        let member = Member::join(&dir).unwrap();
        let ((a, b), (c, d)) = (ends(&server), ends(&client));
        let netns = own_netns();
        member.announce(1, a, b, netns, RING).unwrap();
        member.announce(2, c, d, netns, RING).unwrap();
        Some((member, server, client))
    });
    thread.join().unwrap()
}

/// Brings the loopback device up, which a new namespace has down.
fn up() {
    let status = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(status.unwrap().success());
}

fn socket_from(port: u16, to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    connect(&socket, &to).unwrap();
    socket.into()
}

#[test]
fn equal_loopback_connections_in_two_namespaces_are_two_pairs() {
    if !root() {
        return;
    }
    // Also where the directory says that its users are one network.
    for scope in [Scope::Namespace, Scope::Network] {
        let place = Place::with(Options::new(scope));
        let Some(one) = alone(place.dir.clone()) else {
            return skip("no network namespace can be made");
        };
        let two = alone(place.dir.clone()).unwrap();
        assert_eq!(ends(&one.1), ends(&two.1));
        // Each has both ends of its own pair.
        for (member, ..) in [&one, &two] {
            let both = [offer(member), offer(member)];
            assert_eq!(both.each_ref().map(|end| end.token), [1, 2]);
            both[0].header().closed[0].store(9, std::sync::atomic::Ordering::Release);
            let seen = both[1].header().closed[0].load(std::sync::atomic::Ordering::Acquire);
            assert_eq!(seen, 9);
        }
        assert_eq!(place.status().pairs.len(), 2);
    }
}
