//! One run: one contestant, one workload, a few seconds.
//!
//! Relay and server are started fresh for each run, on ports that no earlier
//! run used, so that nothing is inherited: no warm pool, no TIME_WAIT, no
//! memory grown by another workload.

use std::cell::Cell;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::Error;
use super::child::Child;
use super::company::{self, Company};
use super::contestants::{Contestant, Log, own_binary};
use super::netns::{Lab, Place, RELAY, SERVER};
use super::workload::{Metric, Sample, Workload};
use super::{cpu, load, origin, reading, wrk};

/// How long beyond its own time a load generator may take.
const GRACE: Duration = Duration::from_secs(15);

/// How long an idle relay is watched.
const IDLE_WATCH: Duration = Duration::from_secs(3);

/// Ports below the ephemeral range of the namespaces, a fresh pair each run.
const PORTS: std::ops::Range<u16> = 2000..9998;

/// Runs trials in one lab.
pub struct Bench<'lab> {
    lab: &'lab Lab,
    /// Descriptors that a process may hold.
    descriptors: u64,
    next_port: Cell<u16>,
    company: Company,
}

/// The processes of one trial. Fields drop in order: the relay is gone before
/// the server, as a relay is the one that would log the server's end.
struct Scene {
    relay: Option<Child>,
    server: Child,
    /// Where the client connects.
    target: SocketAddrV4,
}

impl<'lab> Bench<'lab> {
    /// A bench in this lab, whose processes may hold so many descriptors.
    pub fn new(lab: &'lab Lab, descriptors: u64) -> Bench<'lab> {
        Bench { lab, descriptors, next_port: Cell::new(PORTS.start), company: Company::default() }
    }

    /// Measures one contestant on one workload once: again if others used the
    /// machine meanwhile, but not for ever.
    pub fn trial(
        &self,
        who: &Contestant,
        workload: Workload,
        seconds: f64,
    ) -> Result<Sample, Error> {
        let told = format!("{} {}", workload.name(), who.name());
        self.company.alone(&told, || {
            let mut scene = self.set_up(who, workload, Log::Quiet)?;
            let run = if workload.rests() {
                self.rest(who, workload, &scene).map(|sample| (sample, 0.0))
            } else {
                self.load(workload, &mut scene, seconds)
            };
            run.map_err(|error| blame(error, &scene))
        })
    }

    /// Runs a sosplice contestant once with its connection log on, and gives
    /// that log.
    pub fn connection_log(&self, who: &Contestant, workload: Workload) -> Result<String, Error> {
        let mut scene = self.set_up(who, workload, Log::Connections)?;
        self.load(workload, &mut scene, 1.0)?;
        let Some(relay) = scene.relay.as_mut() else {
            return Ok(String::new());
        };
        // Lines are written as connections end; the last of them, and sessions,
        // end with the drain.
        std::thread::sleep(Duration::from_millis(300));
        relay.terminate();
        Ok(format!("{}{}", relay.stderr(), relay.stdout()))
    }

    fn set_up(&self, who: &Contestant, workload: Workload, log: Log) -> Result<Scene, Error> {
        let relay_at = SocketAddrV4::new(RELAY, self.port());
        let server_at = SocketAddrV4::new(SERVER, self.port());
        let protocol = workload.protocol();
        let mut server = self.start_server(workload, server_at)?;
        server.wait_listening(protocol, SERVER, server_at.port())?;
        let command =
            who.command(self.lab, protocol, relay_at, server_at, self.descriptors, log)?;
        let relay = match command {
            None => None,
            Some(argv) => {
                let mut relay = Child::start(self.lab, Place::Relay, who.name(), &argv)?;
                relay.wait_listening(protocol, RELAY, relay_at.port())?;
                Some(relay)
            }
        };
        let target = if relay.is_some() { relay_at } else { server_at };
        company::settle(relay.as_ref());
        Ok(Scene { relay, server, target })
    }

    /// What to say about the company that was kept, if any.
    pub fn disturbance(&self) -> Option<String> {
        self.company.disturbance()
    }

    fn start_server(&self, workload: Workload, at: SocketAddrV4) -> Result<Child, Error> {
        let argv: Vec<String> = match workload {
            Workload::Stream { .. } => {
                let (ip, port) = (at.ip().to_string(), at.port().to_string());
                ["iperf3", "-s", "-1", "-B", &ip, "-p", &port].map(str::to_owned).to_vec()
            }
            Workload::Rr { size, connections: 1 } => {
                own(&["serve", &at.to_string(), "--threads", "--size", &size.to_string()])
            }
            Workload::Rr { size, .. } => {
                own(&["serve", &at.to_string(), "--size", &size.to_string()])
            }
            Workload::Conn => own(&["serve", &at.to_string(), "--size", "64"]),
            Workload::Idle => own(&["serve", &at.to_string(), "--size", "1"]),
            Workload::Single { size } => {
                own(&["sink", &at.to_string(), "--size", &size.to_string()])
            }
            Workload::Gso { size } => {
                own(&["sink", &at.to_string(), "--size", &size.to_string(), "--gro"])
            }
            Workload::Ask { .. } | Workload::Sessions => own(&["echo", &at.to_string()]),
            Workload::Http { .. } => origin::command(self.lab.scratch(), at)?,
        };
        Child::start(self.lab, Place::Server, "server", &argv)
    }

    /// The load of a workload that runs for a while and counts.
    fn load_command(
        &self,
        workload: Workload,
        target: SocketAddrV4,
        seconds: f64,
    ) -> Result<Vec<String>, Error> {
        let (at, time) = (target.to_string(), seconds.to_string());
        Ok(match workload {
            Workload::Stream { streams } => {
                let (ip, port) = (target.ip().to_string(), target.port().to_string());
                let whole = (seconds.ceil() as u64).max(1).to_string();
                let streams = streams.to_string();
                ["iperf3", "-J", "-c", &ip, "-p", &port, "-t", &whole, "-P", &streams]
                    .map(str::to_owned)
                    .to_vec()
            }
            Workload::Rr { size, connections } => {
                let (size, connections) = (size.to_string(), connections.to_string());
                let how = ["--size", &size, "--connections", &connections, "--seconds", &time];
                own(&[&["rr", &at][..], &how].concat())
            }
            Workload::Conn => {
                own(&["conn", &at, "--size", "64", "--in-flight", "32", "--seconds", &time])
            }
            Workload::Single { size } => {
                own(&["flood", &at, "--size", &size.to_string(), "--seconds", &time])
            }
            Workload::Gso { size } => {
                own(&["flood", &at, "--size", &size.to_string(), "--seconds", &time, "--gso"])
            }
            Workload::Ask { clients } => {
                own(&["ask", &at, "--clients", &clients.to_string(), "--seconds", &time])
            }
            Workload::Idle => own(&["idle", &at]),
            Workload::Sessions => own(&["sessions", &at]),
            Workload::Http { verb, size, connections } => {
                wrk::command(self.lab.scratch(), verb, size, connections, target, seconds)?
            }
        })
    }

    /// A workload that runs for a while and counts; and the share of one processor that other
    /// programs took meanwhile.
    fn load(
        &self,
        workload: Workload,
        scene: &mut Scene,
        seconds: f64,
    ) -> Result<(Sample, f64), Error> {
        let argv = self.load_command(workload, scene.target, seconds)?;
        let relay_before = scene.relay.as_ref().map(|relay| cpu::group_cpu_ms(relay.pid()));
        let mut ours = vec![cpu::own_group(), scene.server.pid()];
        ours.extend(scene.relay.as_ref().map(Child::pid));
        let start = Instant::now();
        let foreign_before = cpu::foreign_cpu_ms(&ours);
        let system_before = cpu::system_cpu_ms();
        let mut client = Child::start(self.lab, Place::Client, "client", &argv)?;
        let said = client.finish(Duration::from_secs_f64(seconds) + GRACE)?;
        let caught = match workload {
            // The sink ends by itself when no more comes.
            Workload::Single { .. } | Workload::Gso { .. } => scene.server.finish(GRACE)?,
            _ => String::new(),
        };
        let system = cpu::system_cpu_ms() - system_before;
        let relay = scene.relay.as_ref().map(|relay| cpu::group_cpu_ms(relay.pid()));

        ours.push(client.pid());
        let foreign = cpu::foreign_cpu_ms(&ours) - foreign_before;
        let foreign = foreign / (start.elapsed().as_secs_f64() * 1e3);

        let (mut sample, work) = match workload {
            Workload::Stream { .. } => reading::iperf(&said)?,
            Workload::Single { .. } | Workload::Gso { .. } => reading::flood(&said, &caught)?,
            Workload::Ask { .. } => reading::answers(&said)?,
            Workload::Http { verb, size, .. } => wrk::read(&said, verb, size, workload.is_bulk())?,
            _ => reading::tally(&said)?,
        };
        sample.insert(Metric::SystemCpu, system / work);
        if let (Some(before), Some(after)) = (relay_before, relay) {
            sample.insert(Metric::RelayCpu, (after - before) / work);
        }
        Ok((sample, foreign))
    }

    /// Opens many connections or sessions, lets all come to rest, and looks.
    fn rest(&self, who: &Contestant, workload: Workload, scene: &Scene) -> Result<Sample, Error> {
        let count = who.held(workload, self.descriptors);
        let Some(relay) = scene.relay.as_ref() else {
            return Err(Error::Usage(format!("{} needs a relay", workload.name())));
        };
        let descriptors = |kind| cpu::group_descriptors(relay.pid(), kind);
        let (memory, pipes) = (cpu::group_memory(relay.pid()), descriptors("pipe"));
        let sockets = descriptors("socket");
        let mut argv = self.load_command(workload, scene.target, 0.0)?;
        argv.extend(["--count".to_owned(), count.to_string()]);
        let mut client = Child::start(self.lab, Place::Client, "client", &argv)?;
        client.wait_until(Duration::from_secs(60), "did not open all", |client| {
            client.stdout().contains(load::READY)
        })?;
        std::thread::sleep(Duration::from_secs(1));
        let before = cpu::group_cpu_fine_ms(relay.pid());
        std::thread::sleep(IDLE_WATCH);
        let used = cpu::group_cpu_fine_ms(relay.pid()) - before;
        let grown = cpu::group_memory(relay.pid()) as f64 - memory as f64;
        // What a relay has given up costs nothing, and must not look cheap.
        let held = descriptors("socket").saturating_sub(sockets) as u64;
        if held < count {
            let said = format!("holds {held} sockets for {count} of the client's");
            return Err(Error::Program { program: who.name().to_owned(), said });
        }
        let pipes = descriptors("pipe").saturating_sub(pipes);
        Ok(Sample::from([
            (Metric::Memory, grown / count as f64),
            (Metric::IdleCpu, used),
            (Metric::Pipes, pipes as f64),
            (Metric::Connections, count as f64),
        ]))
    }

    fn port(&self) -> u16 {
        let port = self.next_port.get();
        let next = if port + 1 < PORTS.end { port + 1 } else { PORTS.start };
        self.next_port.set(next);
        port
    }
}

/// This binary as a load generator.
pub fn own(args: &[&str]) -> Vec<String> {
    let mut argv = vec![own_binary().to_string_lossy().into_owned()];
    argv.extend(["bench", "load"].iter().chain(args).map(|&word| word.to_owned()));
    argv
}

/// A failed load is often the relay's or the server's doing: their last words
/// are added.
fn blame(error: Error, scene: &Scene) -> Error {
    let last = |child: &Child| {
        let said = child.stderr();
        said.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    };
    let relay = scene.relay.as_ref().and_then(last).map(|said| format!("; the relay said: {said}"));
    let server = last(&scene.server).map(|said| format!("; the server said: {said}"));
    match (error, relay, server) {
        (error, None, None) => error,
        (error, relay, server) => Error::Usage(format!(
            "{error}{}{}",
            relay.unwrap_or_default(),
            server.unwrap_or_default()
        )),
    }
}
