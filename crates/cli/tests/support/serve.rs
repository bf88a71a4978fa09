//! `sosplice serve` as a child process: its file, its reloads, and servers that tell their names.

use super::peers::{connect, listener};
use super::{BINARY, Relay, WATCHDOG, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// Stands at the top of each file; top-level keys may follow it. Two workers, so that what must
/// hold between them is seen to.
pub const TOP: &str = "log = { format = \"json\", level = \"debug\" }\nworkers = 2\n";

/// A directory of the test's own, gone with it.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("sosplice-serve-{}-{count}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running `sosplice serve`.
pub struct Serve {
    relay: Relay,
    dir: Dir,
    /// The name of each relay and where it listens, the newest last.
    listening: RefCell<Vec<(String, SocketAddr)>>,
}

impl Deref for Serve {
    type Target = Relay;

    fn deref(&self) -> &Relay {
        &self.relay
    }
}

impl DerefMut for Serve {
    fn deref_mut(&mut self) -> &mut Relay {
        &mut self.relay
    }
}

impl Serve {
    /// With a file of [`TOP`] and this, once it listens and obeys signals.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_after("true", config)
    }

    /// The same from a shell that runs `prepare` first (`ulimit -n 64`).
    #[track_caller]
    pub fn start_after(prepare: &str, config: &str) -> Self {
        Self::started(launch(prepare, &format!("{TOP}{config}")))
    }

    /// The same where it may not start at all.
    #[track_caller]
    pub fn try_start_after(prepare: &str, config: &str) -> Option<Self> {
        let (mut relay, dir) = launch(prepare, &format!("{TOP}{config}"));
        wait_until("it listens or has ended", || {
            relay.lines("listening") > 0 || relay.child.try_wait().unwrap().is_some()
        });
        (relay.lines("listening") > 0).then(|| Self::started((relay, dir)))
    }

    /// With a whole file.
    #[track_caller]
    pub fn start_printed(whole: &str) -> Self {
        Self::started(launch("true", whole))
    }

    #[track_caller]
    fn started((relay, dir): (Relay, Dir)) -> Self {
        let serve = Self { relay, dir, listening: RefCell::default() };
        serve.heard_listening(serve.relay.next("listening"));
        serve.relay.wait_until_it_obeys(&[Signal::TERM, Signal::INT, Signal::HUP]);
        serve
    }

    fn heard_listening(&self, line: Value) {
        let relay = line["relay"].as_str().unwrap().to_owned();
        let addr = line["addr"].as_str().unwrap().parse().unwrap();
        self.listening.borrow_mut().push((relay, addr));
    }

    /// Where the relay of this name listens: the last that it said.
    #[track_caller]
    pub fn at(&self, relay: &str) -> SocketAddr {
        while self.relay.lines("listening") > 0 {
            self.heard_listening(self.relay.next("listening"));
        }
        loop {
            let known = self.listening.borrow();
            if let Some((_, addr)) = known.iter().rev().find(|(name, _)| name == relay) {
                return *addr;
            }
            drop(known);
            self.heard_listening(self.relay.next("listening"));
        }
    }

    #[track_caller]
    pub fn connect(&self, relay: &str) -> TcpStream {
        connect(self.at(relay))
    }

    /// The name of the server that a new client comes to, which then leaves.
    #[track_caller]
    pub fn ask(&self, relay: &str) -> char {
        hello(&self.connect(relay))
    }

    /// Puts another file in the place of the present one and has it read. Other lines stay.
    #[track_caller]
    pub fn reload(&self, config: &str) {
        self.put(config);
        self.signal(Signal::HUP);
        self.relay.next("reloaded");
    }

    /// The same with a file that must not be taken: why it was not.
    #[track_caller]
    pub fn refuse(&self, config: &str) -> String {
        self.put(config);
        self.signal(Signal::HUP);
        let line = self.relay.next("not reloaded: what runs goes on as it is");
        line["why"].as_str().unwrap().to_owned()
    }

    fn put(&self, config: &str) {
        self.dir.write(FILE, &format!("{TOP}{config}"));
    }

    /// Threads of the process.
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().count()
    }
}

pub const FILE: &str = "sosplice.toml";

fn launch(prepare: &str, whole: &str) -> (Relay, Dir) {
    let dir = Dir::new();
    let file = dir.write(FILE, whole);
    (Relay::launch_serve(prepare, &file), dir)
}

/// What a service says that does not start.
#[track_caller]
pub fn refused_at_start(prepare: &str, config: &str) -> String {
    let (mut relay, _dir) = launch(prepare, &format!("{TOP}{config}"));
    assert_eq!(relay.wait().code(), Some(1));
    relay.plain()
}

/// The exit code of `sosplice check`, and all that it says.
pub fn check(config: &str) -> (Option<i32>, String) {
    let dir = Dir::new();
    let file = dir.write(FILE, &format!("{TOP}{config}"));
    let output = Command::new(BINARY).arg("check").arg("-c").arg(file).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// A TCP relay on any port of loopback. `more` are further keys.
pub fn tcp(name: &str, upstream: &str, more: &str) -> String {
    tcp_at("127.0.0.1:0".parse().unwrap(), name, upstream, more)
}

pub fn tcp_at(at: SocketAddr, name: &str, upstream: &str, more: &str) -> String {
    format!("[[relay]]\nname = \"{name}\"\nlisten = \"{at}\"\nupstream = \"{upstream}\"\n{more}\n")
}

pub fn udp_at(at: SocketAddr, name: &str, upstream: &str, more: &str) -> String {
    tcp_at(at, name, upstream, &format!("protocol = \"udp\"\n{more}"))
}

/// An upstream. `more` are further keys, and sections of it.
pub fn upstream(name: &str, servers: &[SocketAddr], more: &str) -> String {
    let servers: Vec<_> = servers.iter().map(|addr| format!("\"{addr}\"")).collect();
    format!("[[upstream]]\nname = \"{name}\"\nservers = [{}]\n{more}\n", servers.join(", "))
}

/// One of an upstream's servers, with further keys.
pub fn server(addr: SocketAddr, more: &str) -> String {
    format!("[[upstream.server]]\naddress = \"{addr}\"\n{more}\n")
}

/// The first byte that a client gets: the name of its server.
#[track_caller]
pub fn hello(mut client: &TcpStream) -> char {
    let mut name = [0];
    client.read_exact(&mut name).unwrap();
    char::from(name[0])
}

/// Says something and hears it again.
///
/// # Errors
/// What the socket says; or what came was something else.
pub fn echo(mut client: &TcpStream, said: &[u8]) -> std::io::Result<()> {
    client.write_all(said)?;
    let mut heard = vec![0; said.len()];
    client.read_exact(&mut heard)?;
    if heard == said { Ok(()) } else { Err(std::io::Error::other("other bytes")) }
}

/// A server that tells each client its name, one byte, and then sends back what it gets.
pub struct Named {
    pub addr: SocketAddr,
    stopped: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Named {
    pub fn start(name: char) -> Self {
        Self::serve(name, listener())
    }

    /// At an address where nobody listens now.
    pub fn start_at(name: char, addr: SocketAddr) -> Self {
        Self::serve(name, super::peers::listener_on(addr))
    }

    fn serve(name: char, listener: TcpListener) -> Self {
        let addr = listener.local_addr().unwrap();
        let (stopped, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stop, count) = (Arc::clone(&stopped), Arc::clone(&served));
        let thread = std::thread::spawn(move || {
            while let Ok((client, _)) = accept_again(&listener) {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                count.fetch_add(1, Ordering::AcqRel);
                std::thread::spawn(move || {
                    let _ = serve_one(name, &client);
                });
            }
        });
        Self { addr, stopped, served, thread: Some(thread) }
    }

    /// Connections so far.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::Acquire)
    }
}

/// Its watchdog is for tests that wait for a client; here one may never come.
fn accept_again(listener: &TcpListener) -> std::io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            accepted => return accepted,
        }
    }
}

fn serve_one(name: char, mut client: &TcpStream) -> std::io::Result<()> {
    client.write_all(&[name as u8])?;
    std::io::copy(&mut &*client, &mut client)?;
    client.shutdown(Shutdown::Write)
}

impl Drop for Named {
    /// No new client; those who are there stay.
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        if TcpStream::connect(self.addr).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// An address that nobody has, and nobody gets by chance while it is not in use: below the ports
/// that the kernel gives out by itself. Each test process looks from another place on.
pub fn free_address() -> SocketAddr {
    const PORTS: std::ops::Range<u32> = 12_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number =
            std::process::id().wrapping_mul(613) % 1_000_000 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        let addr = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        if TcpListener::bind(addr).is_ok() && UdpSocket::bind(addr).is_ok() {
            return addr;
        }
    }
}

/// A client from another address of loopback.
#[track_caller]
pub fn connect_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    stream
}

/// Another program, killed when it goes out of scope.
pub struct Program(pub Child);

impl Program {
    /// Started once it answers at `addr`; None where it is not there.
    #[track_caller]
    pub fn start(command: &mut Command, addr: SocketAddr) -> Option<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut program = match command.spawn() {
            Ok(child) => Self(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("{error}"),
        };
        wait_until("the program listens", || {
            assert!(program.0.try_wait().unwrap().is_none(), "{command:?} ended at its start");
            TcpStream::connect(addr).is_ok()
        });
        Some(program)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
