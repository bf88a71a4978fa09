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
use super::contestants::{Contestant, Log, own_binary};
use super::netns::{Lab, Place, RELAY, SERVER, progress};
use super::workload::{Metric, Sample, Workload};
use super::{cpu, load, reading};

/// How long beyond its own time a load generator may take.
const GRACE: Duration = Duration::from_secs(15);

/// How long an idle relay is watched.
const IDLE_WATCH: Duration = Duration::from_secs(3);

/// How long the machine is looked at before a run, and how often at most.
const QUIET_WINDOW: Duration = Duration::from_millis(150);
const QUIET_LOOKS_MAX: u32 = 20;

/// Busy ms in that window above which somebody else is at work: more than a
/// tick on each of two processors, so more than the clock's own grain.
const QUIET_BUSY_MS: f64 = 20.0;

/// Share of one processor that others may take during a run. Even little
/// company changes what one connection sees: a processor that never sleeps is
/// never woken, and request/response looks several times faster.
const FOREIGN_SHARE_MAX: f64 = 0.05;

/// How often a run is tried that other programs disturb; the last one counts.
const TRIES: u32 = 3;

/// Ports below the ephemeral range of the namespaces, a fresh pair each run.
const PORTS: std::ops::Range<u16> = 2000..9998;

/// Runs trials in one lab.
pub struct Bench<'lab> {
    lab: &'lab Lab,
    /// Descriptors that a process may hold.
    descriptors: u64,
    next_port: Cell<u16>,
    /// Runs that counted, and those during which other programs used the machine.
    runs: Cell<u32>,
    disturbed: Cell<u32>,
}

/// What one load gave.
struct Run {
    sample: Sample,
    /// The share of one processor that other programs took meanwhile.
    foreign: f64,
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
        Bench {
            lab,
            descriptors,
            next_port: Cell::new(PORTS.start),
            runs: Cell::new(0),
            disturbed: Cell::new(0),
        }
    }

    /// Measures one contestant on one workload once: again if others used the
    /// machine meanwhile, but not for ever.
    pub fn trial(
        &self,
        who: &Contestant,
        workload: Workload,
        seconds: f64,
    ) -> Result<Sample, Error> {
        let mut tries = 1;
        loop {
            let mut scene = self.set_up(who, workload, Log::Quiet)?;
            if workload.rests() {
                return self.rest(who, workload, &scene).map_err(|error| blame(error, &scene));
            }
            let run = self.load(workload, &mut scene, seconds);
            let Run { sample, foreign } = run.map_err(|error| blame(error, &scene))?;
            let disturbed = foreign > FOREIGN_SHARE_MAX;
            if !disturbed || tries == TRIES {
                self.runs.set(self.runs.get() + 1);
                self.disturbed.set(self.disturbed.get() + u32::from(disturbed));
                return Ok(sample);
            }
            tries += 1;
            let share = foreign * 100.0;
            progress(&format!(
                "{} {} again: other programs took {share:.0} % of a processor",
                workload.name(),
                who.name()
            ));
        }
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
        self.settle(relay.as_ref());
        Ok(Scene { relay, server, target })
    }

    /// Waits, but not for ever, until nothing but the relay itself uses the
    /// machine: start-up work, the end of the last run's connections, or
    /// somebody's compiler. What the relay uses (it may spin) does not count.
    fn settle(&self, relay: Option<&Child>) {
        let foreign = || cpu::system_cpu_ms() - relay.map_or(0.0, |r| cpu::group_cpu_ms(r.pid()));
        for _ in 0..QUIET_LOOKS_MAX {
            let before = foreign();
            std::thread::sleep(QUIET_WINDOW);
            if foreign() - before <= QUIET_BUSY_MS {
                return;
            }
        }
    }

    /// What to say about the company that was kept, if any.
    pub fn disturbance(&self) -> Option<String> {
        let (disturbed, runs) = (self.disturbed.get(), self.runs.get());
        (disturbed > 0).then(|| {
            format!(
                "during {disturbed} of {runs} runs other programs took over {:.0} % of a processor, \
                 {TRIES} times running: run it again alone",
                FOREIGN_SHARE_MAX * 100.0
            )
        })
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
        };
        Child::start(self.lab, Place::Server, "server", &argv)
    }

    /// The load of a workload that runs for a while and counts.
    fn load_command(workload: Workload, target: SocketAddrV4, seconds: f64) -> Vec<String> {
        let (at, time) = (target.to_string(), seconds.to_string());
        match workload {
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
        }
    }

    /// A workload that runs for a while and counts.
    fn load(&self, workload: Workload, scene: &mut Scene, seconds: f64) -> Result<Run, Error> {
        let argv = Self::load_command(workload, scene.target, seconds);
        let relay_before = scene.relay.as_ref().map(|relay| cpu::group_cpu_ms(relay.pid()));
        let mut ours = vec![own_group(), scene.server.pid()];
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
            _ => reading::tally(&said)?,
        };
        sample.insert(Metric::SystemCpu, system / work);
        if let (Some(before), Some(after)) = (relay_before, relay) {
            sample.insert(Metric::RelayCpu, (after - before) / work);
        }
        Ok(Run { sample, foreign })
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
        let mut argv = Self::load_command(workload, scene.target, 0.0);
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

/// The benchmark's own process group.
fn own_group() -> u32 {
    rustix::process::getpgrp().as_raw_nonzero().get().unsigned_abs()
}

/// This binary as a load generator.
fn own(args: &[&str]) -> Vec<String> {
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
