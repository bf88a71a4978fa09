//! Three network namespaces, and the janitor that takes them away: client, relay
//! and server in a row, joined by two veth pairs; or client and server as two
//! containers on the bridge of a host, which is the third.
//!
//! A namespace outlives its maker, and a signal handler is not the place to
//! run `ip netns del`. So removal is the job of a second process, the janitor:
//! it holds the read end of a pipe whose write end only the benchmark holds,
//! and at end of file it kills what still lives inside the three namespaces
//! and deletes them. The benchmark returning, failing, and dying of SIGINT,
//! SIGTERM or even SIGKILL are all the same event to it: one path, no handler.

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Error;

/// The relay's address on the client's side: where a relay listens.
pub const RELAY: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// The server's address: where a relay connects to.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);

/// How the places are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// The relay's place routes between the other two.
    Routed,
    /// A bridge in the relay's place joins the other two.
    Bridged,
}

/// The client's address on a bridge.
pub const BRIDGED_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 1);
/// The server's address on a bridge.
pub const BRIDGED_SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 2);

/// The benchmark's three places.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// Where load comes from.
    Client,
    /// Where the contestant runs.
    Relay,
    /// Where load ends.
    Server,
}

/// The namespaces, a scratch directory, and the janitor that removes both.
pub struct Lab {
    tag: String,
    scratch: PathBuf,
    janitor: Option<std::process::Child>,
}

impl Lab {
    /// Makes everything. Whatever fails half-way is removed by the janitor,
    /// which is started first.
    pub fn new(topology: Topology) -> Result<Lab, Error> {
        require_privilege()?;
        if !installed("ip") {
            return Err(Error::NotInstalled { program: "ip", package: "iproute2" });
        }
        let pid = std::process::id();
        let tag = format!("sb{pid}");
        let scratch = std::env::temp_dir().join(format!("sosplice-bench-{pid}"));
        let lab = Lab { janitor: Some(start_janitor(&tag, &scratch)?), tag, scratch };
        fs::create_dir(&lab.scratch)
            .map_err(Error::io(format!("make {}", lab.scratch.display())))?;
        lab.make_namespaces()?;
        match topology {
            Topology::Routed => lab.route()?,
            Topology::Bridged => lab.bridge()?,
        }
        Ok(lab)
    }

    /// Where config files and the children's output go.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The namespace's name, for `ip netns exec`.
    pub fn namespace(&self, place: Place) -> String {
        namespace(&self.tag, place)
    }

    fn make_namespaces(&self) -> Result<(), Error> {
        for ns in [Place::Client, Place::Relay, Place::Server].map(|p| self.namespace(p)) {
            ip(&["netns", "add", &ns])?;
            ip(&["-n", &ns, "link", "set", "lo", "up"])?;
            // New connections by the ten thousand a second: ports in TIME_WAIT
            // are reused after a second, and there are many. Listeners of the
            // benchmark stay below 10000, out of the ephemeral range.
            set(&ns, "net/ipv4/tcp_tw_reuse", "1")?;
            set(&ns, "net/ipv4/ip_local_port_range", "10000 65535")?;
        }
        Ok(())
    }

    /// Two veth pairs, and forwarding between them.
    fn route(&self) -> Result<(), Error> {
        let [c, r, s] = [Place::Client, Place::Relay, Place::Server].map(|p| self.namespace(p));
        let [c0, r0, r1, s0] = ["c0", "r0", "r1", "s0"].map(|end| format!("{}{end}", self.tag));
        for (ns_a, a, ns_b, b) in [(&c, &c0, &r, &r0), (&r, &r1, &s, &s0)] {
            veth(ns_a, a, ns_b, b)?;
        }
        for (ns, dev, address) in [
            (&c, &c0, "10.77.1.2/24"),
            (&r, &r0, "10.77.1.1/24"),
            (&r, &r1, "10.77.2.1/24"),
            (&s, &s0, "10.77.2.2/24"),
        ] {
            ip(&["-n", ns, "addr", "add", address, "dev", dev])?;
            ip(&["-n", ns, "link", "set", dev, "up"])?;
        }
        for (ns, via) in [(&c, "10.77.1.1"), (&s, "10.77.2.1")] {
            ip(&["-n", ns, "route", "add", "default", "via", via])?;
        }
        set(&r, "net/ipv4/ip_forward", "1")
    }

    /// Two veth pairs, whose far ends are ports of one bridge.
    fn bridge(&self) -> Result<(), Error> {
        let host = self.namespace(Place::Relay);
        let bridge = format!("{}br", self.tag);
        ip(&["-n", &host, "link", "add", &bridge, "type", "bridge"])?;
        ip(&["-n", &host, "link", "set", &bridge, "up"])?;
        for (place, near, far, address) in [
            (Place::Client, "c0", "r0", BRIDGED_CLIENT),
            (Place::Server, "s0", "r1", BRIDGED_SERVER),
        ] {
            let ns = self.namespace(place);
            let [near, far] = [near, far].map(|end| format!("{}{end}", self.tag));
            veth(&ns, &near, &host, &far)?;
            ip(&["-n", &host, "link", "set", &far, "master", &bridge, "up"])?;
            ip(&["-n", &ns, "addr", "add", &format!("{address}/24"), "dev", &near])?;
            ip(&["-n", &ns, "link", "set", &near, "up"])?;
        }
        Ok(())
    }
}

/// Interface names hold the pid too: two benchmarks may run at once, and `ip` makes
/// a pair in the host before it moves the ends.
fn veth(ns_a: &str, a: &str, ns_b: &str, b: &str) -> Result<(), Error> {
    ip(&["link", "add", a, "netns", ns_a, "type", "veth", "peer", "name", b, "netns", ns_b])
}

impl Drop for Lab {
    /// Lets the janitor work and waits for it, so that nothing is left when
    /// the command has returned.
    fn drop(&mut self) {
        if let Some(mut janitor) = self.janitor.take() {
            drop(janitor.stdin.take());
            let deadline = Instant::now() + Duration::from_secs(20);
            while matches!(janitor.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn namespace(tag: &str, place: Place) -> String {
    let end = match place {
        Place::Client => "client",
        Place::Relay => "relay",
        Place::Server => "server",
    };
    format!("{tag}-{end}")
}

/// Arguments of the hidden `bench janitor`.
#[derive(clap::Args)]
pub struct JanitorArgs {
    tag: String,
    scratch: PathBuf,
}

fn start_janitor(tag: &str, scratch: &Path) -> Result<std::process::Child, Error> {
    Command::new("/proc/self/exe")
        .args(["bench", "janitor", tag])
        .arg(scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // Its own group: Ctrl-C ends the benchmark, not the one who cleans up.
        .process_group(0)
        .spawn()
        .map_err(Error::io("start the janitor"))
}

/// Runs the hidden `bench janitor`: waits for the benchmark's end, then removes.
pub fn run_janitor(args: &JanitorArgs) -> Result<(), Error> {
    let mut nothing = Vec::new();
    // The benchmark never writes; this returns when it is gone.
    let _ = std::io::stdin().read_to_end(&mut nothing);
    for place in [Place::Client, Place::Relay, Place::Server] {
        let ns = namespace(&args.tag, place);
        if Path::new("/run/netns").join(&ns).exists() {
            empty_namespace(&ns);
            ip(&["netns", "del", &ns])?;
        }
    }
    match fs::remove_dir_all(&args.scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).map_err(Error::io(format!("remove {}", args.scratch.display())))
        }
        _ => Ok(()),
    }
}

/// Kills the processes inside one of our own namespaces: all are children of
/// the benchmark or theirs, for nobody else knows the namespace. Asked again a
/// few times because a forking relay may win the first race.
fn empty_namespace(ns: &str) {
    for _ in 0..20 {
        let Ok(out) = ip_command().args(["netns", "pids", ns]).output() else {
            return;
        };
        let pids: Vec<i32> = String::from_utf8_lossy(&out.stdout)
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids.into_iter().filter_map(rustix::process::Pid::from_raw) {
            // Gone already is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ip(args: &[&str]) -> Result<(), Error> {
    run_ip(ip_command().args(args), &args.join(" "))
}

/// Writes one sysctl of a namespace. /proc/sys/net shows the namespace of the
/// one who opens the file, so the writer has to be inside.
fn set(ns: &str, key: &str, value: &str) -> Result<(), Error> {
    let script = format!("echo {value} > /proc/sys/{key}");
    run_ip(ip_command().args(["netns", "exec", ns, "sh", "-c", &script]), &format!("set {key}"))
}

fn run_ip(command: &mut Command, what: &str) -> Result<(), Error> {
    let out = command.stdin(Stdio::null()).output().map_err(Error::io("start ip"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(Error::Program {
        program: format!("ip {what}"),
        said: said.trim().lines().last().unwrap_or("failed").to_owned(),
    })
}

/// `ip`, with the directories of daemons on the PATH: those of root's shell
/// are often not those of the user who typed sudo. `ip netns exec` hands them on.
pub fn ip_command() -> Command {
    let mut command = Command::new("ip");
    if let Ok(path) = std::env::join_paths(search_path()) {
        command.env("PATH", path);
    }
    command
}

fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(daemons).collect()
}

/// Whether a program can be started.
pub fn installed(program: &str) -> bool {
    search_path().iter().any(|dir| dir.join(program).is_file())
}

fn require_privilege() -> Result<(), Error> {
    const CAP_SYS_ADMIN: u64 = 21;
    let status =
        fs::read_to_string("/proc/self/status").map_err(Error::io("read /proc/self/status"))?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    if effective >> CAP_SYS_ADMIN & 1 == 1 { Ok(()) } else { Err(Error::Privilege) }
}

/// Lets this process and its children hold the descriptors of the `idle`
/// workload, as far as the system allows, and says how many that is. Beyond
/// the hard limit takes CAP_SYS_RESOURCE, which root in a container often
/// lacks: then fewer idle connections are measured, and the report says so.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const WANTED: u64 = 131_072;
    let before = getrlimit(Resource::Nofile);
    for maximum in [before.maximum.map(|most| most.max(WANTED)), before.maximum] {
        let current = Some(maximum.map_or(WANTED, |most| most.min(WANTED)));
        if setrlimit(Resource::Nofile, Rlimit { current, maximum }).is_ok() {
            break;
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(WANTED)
}

/// Says something on stdout; a reader who left (`| head`) ends the benchmark
/// with a line, not with a panic.
pub fn say(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::io("write to stdout"))
}

/// Says a line of progress on stderr; a closed stderr is no reason to stop.
pub fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
