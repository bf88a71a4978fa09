//! A broker in a directory of its own, and members with a watchdog.

use rustix::fd::OwnedFd;
use sosplice_local::broker::{Answer, Ask, Broker, Options, Scope, ask, status::Status};
use sosplice_local::layout::{Header, pair_bytes};
use sosplice_local::member::{Mail, Member, map};
use sosplice_local::wire::Reason;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Nothing that works takes so long; whatever does hangs.
pub const WATCHDOG: Duration = Duration::from_secs(30);

pub const RING: u64 = 64 * 1024;

/// Skips a test that this machine cannot run, unless it was told that it can.
pub fn skip(why: &str) {
    assert!(std::env::var_os("SOSPLICE_NO_SKIP").is_none(), "must not be skipped: {why}");
    eprintln!("skipped: {why}");
}

#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + WATCHDOG;
    while !done() {
        assert!(Instant::now() < deadline, "watchdog: still waiting until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A directory with a broker in it.
pub struct Place {
    pub dir: PathBuf,
    ended: Receiver<()>,
    /// A connection that was there before the broker served: it is not idle until this goes.
    held: Option<OwnedFd>,
}

impl Place {
    pub fn new() -> Self {
        Self::with(Options::new(Scope::Namespace))
    }

    pub fn with(options: Options) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sosplice-rendezvous-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&dir);
        Self::again(dir, options)
    }

    /// In a directory that there is already.
    pub fn again(dir: PathBuf, options: Options) -> Self {
        let broker = Broker::bind(&dir, options).unwrap();
        let held = Some(connection(&dir));
        let (end, ended) = channel();
        // Ends by itself, or with the process.
        std::thread::spawn(move || {
            broker.run().unwrap();
            let _ = end.send(());
        });
        Self { dir, ended, held }
    }

    pub fn join(&self) -> Member {
        Member::join(&self.dir).unwrap()
    }

    pub fn status(&self) -> Status {
        match ask(&self.dir, &Ask::Status).unwrap() {
            Answer::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn tell(&self, what: &Ask) {
        assert_eq!(ask(&self.dir, what).unwrap(), Answer::Done);
    }

    /// From now on the broker goes when nobody needs it.
    pub fn release(&mut self) {
        self.held = None;
    }

    pub fn wait_for_end(&mut self) {
        self.release();
        self.ended.recv_timeout(WATCHDOG).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A pair's memory as one end has it.
#[derive(Debug)]
pub struct End {
    pub token: u64,
    pub role: usize,
    pub ring_bytes: usize,
    at: NonNull<u8>,
}

impl End {
    #[track_caller]
    pub fn of(mail: Mail) -> Self {
        match mail {
            Mail::Offer { token, role, ring_bytes, memory } => {
                Self { token, role, ring_bytes, at: map(memory, ring_bytes).unwrap() }
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn header(&self) -> &Header {
        // SAFETY: mapped as long as this lives, checked by `map`, of atomics alone.
        unsafe { self.at.cast().as_ref() }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nobody borrows it any more.
        let _ = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), pair_bytes(self.ring_bytes)) };
    }
}

/// The member's next mail, waited for.
#[track_caller]
pub fn next(member: &Member) -> Mail {
    let mut mail = None;
    wait_until("there is mail", || {
        if member.has_mail() {
            mail = member.next();
        }
        mail.is_some()
    });
    mail.unwrap()
}

#[track_caller]
pub fn offer(member: &Member) -> End {
    End::of(next(member))
}

#[track_caller]
pub fn refusal(member: &Member) -> (u64, Reason) {
    match next(member) {
        Mail::Refused { token, reason } => (token, reason),
        other => panic!("{other:?}"),
    }
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What was said before has been heard when this returns: the connection itself is asked, by
/// a claim that is refused at once.
#[track_caller]
pub fn settle(member: &Member) {
    let nowhere = at("1.1.1.1:1");
    member.announce(u64::MAX, nowhere, nowhere, 0, RING).unwrap();
    assert_eq!(refusal(member), (u64::MAX, Reason::Itself));
}

/// A connection to the broker that has said nothing.
fn connection(dir: &Path) -> OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket, sockopt};
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(WATCHDOG)).unwrap();
    connect(&socket, &SocketAddrUnix::new(dir.join("broker.sock").as_path()).unwrap()).unwrap();
    socket
}

/// Packets of any content on a connection of its own; then nothing until the broker hangs up.
#[track_caller]
pub fn hung_up_on(place: &Place, packets: &[&[u8]]) {
    use rustix::net::{RecvFlags, SendFlags, recv, send};
    let socket = connection(&place.dir);
    for packet in packets {
        let _ = send(&socket, packet, SendFlags::NOSIGNAL);
    }
    let mut answer = [0; 128];
    // Answers to what was good before come first.
    loop {
        match recv(&socket, &mut answer, RecvFlags::empty()) {
            Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => return,
            Ok(_) => {}
            Err(errno) => panic!("not hung up on: {errno}"),
        }
    }
}
