//! One run: one contestant, one workload, a few seconds.
//!
//! Relay and server are started fresh for each run, on ports that no earlier
//! run used, so that nothing is inherited: no warm pool, no TIME_WAIT, no
//! memory grown by another workload.

use std::cell::Cell;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Error;
use super::child::Child;
use super::contestants::{Contestant, Log};
use super::netns::{Lab, Place, RELAY, SERVER};
use super::workload::{Metric, Sample, Workload};
use super::{cpu, load};

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

/// Ports below the ephemeral range of the namespaces, a fresh pair each run.
const PORTS: std::ops::Range<u16> = 2000..9998;

/// Runs trials in one lab.
pub struct Bench<'lab> {
    lab: &'lab Lab,
    /// Descriptors that a process may hold.
    descriptors: u64,
    next_port: Cell<u16>,
    /// Runs, and those during which other programs used the machine.
    runs: Cell<u32>,
    disturbed: Cell<u32>,
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

    /// Measures one contestant on one workload once.
    pub fn trial(
        &self,
        who: &Contestant,
        workload: Workload,
        seconds: f64,
    ) -> Result<Sample, Error> {
        let scene = self.set_up(who, workload, Log::Quiet)?;
        let sample = match workload {
            Workload::Idle => self.idle(who, &scene),
            _ => self.load(workload, &scene, seconds),
        };
        sample.map_err(|error| blame(error, &scene))
    }

    /// Runs a sosplice contestant once with its connection log on, and gives
    /// that log.
    pub fn connection_log(&self, who: &Contestant, workload: Workload) -> Result<String, Error> {
        let mut scene = self.set_up(who, workload, Log::Connections)?;
        self.load(workload, &scene, 1.0)?;
        let Some(relay) = scene.relay.as_mut() else {
            return Ok(String::new());
        };
        // Lines are written as connections end; the last end with the drain.
        std::thread::sleep(Duration::from_millis(300));
        relay.terminate();
        Ok(format!("{}{}", relay.stderr(), relay.stdout()))
    }

    fn set_up(&self, who: &Contestant, workload: Workload, log: Log) -> Result<Scene, Error> {
        let relay_at = SocketAddrV4::new(RELAY, self.port());
        let server_at = SocketAddrV4::new(SERVER, self.port());
        let mut server = self.start_server(workload, server_at)?;
        server.wait_listening(SERVER, server_at.port())?;
        let relay = match who.command(self.lab, relay_at, server_at, self.descriptors, log)? {
            None => None,
            Some(argv) => {
                let mut relay = Child::start(self.lab, Place::Relay, who.name(), &argv)?;
                relay.wait_listening(RELAY, relay_at.port())?;
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
                "during {disturbed} of {runs} runs other programs took over {:.0} % of a processor: \
                 run it again alone",
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
        };
        Child::start(self.lab, Place::Server, "server", &argv)
    }

    /// A workload that runs for a while and counts.
    fn load(&self, workload: Workload, scene: &Scene, seconds: f64) -> Result<Sample, Error> {
        let target = scene.target.to_string();
        let time = seconds.to_string();
        let argv = match workload {
            Workload::Stream { streams } => {
                let (ip, port) = (scene.target.ip().to_string(), scene.target.port().to_string());
                let whole = (seconds.ceil() as u64).max(1).to_string();
                let streams = streams.to_string();
                ["iperf3", "-J", "-c", &ip, "-p", &port, "-t", &whole, "-P", &streams]
                    .map(str::to_owned)
                    .to_vec()
            }
            Workload::Rr { size, connections } => own(&[
                "rr",
                &target,
                "--size",
                &size.to_string(),
                "--connections",
                &connections.to_string(),
                "--seconds",
                &time,
            ]),
            Workload::Conn => {
                own(&["conn", &target, "--size", "64", "--in-flight", "32", "--seconds", &time])
            }
            Workload::Idle => return Err(Error::Usage("idle is not a load".to_owned())),
        };
        let relay_before = scene.relay.as_ref().map(|relay| cpu::group_cpu_ms(relay.pid()));
        let mut ours = vec![own_group(), scene.server.pid()];
        ours.extend(scene.relay.as_ref().map(Child::pid));
        let start = Instant::now();
        let foreign_before = cpu::foreign_cpu_ms(&ours);
        let system_before = cpu::system_cpu_ms();
        let mut client = Child::start(self.lab, Place::Client, "client", &argv)?;
        let said = client.finish(Duration::from_secs_f64(seconds) + GRACE)?;
        let system = cpu::system_cpu_ms() - system_before;
        let relay = scene.relay.as_ref().map(|relay| cpu::group_cpu_ms(relay.pid()));

        ours.push(client.pid());
        let foreign = cpu::foreign_cpu_ms(&ours) - foreign_before;
        self.runs.set(self.runs.get() + 1);
        if foreign > FOREIGN_SHARE_MAX * start.elapsed().as_secs_f64() * 1e3 {
            self.disturbed.set(self.disturbed.get() + 1);
        }

        let (mut sample, work) = match workload {
            Workload::Stream { .. } => read_iperf(&said)?,
            _ => read_tally(&said)?,
        };
        sample.insert(Metric::SystemCpu, system / work);
        if let (Some(before), Some(after)) = (relay_before, relay) {
            sample.insert(Metric::RelayCpu, (after - before) / work);
        }
        Ok(sample)
    }

    /// Opens many connections, lets all come to rest, and looks.
    fn idle(&self, who: &Contestant, scene: &Scene) -> Result<Sample, Error> {
        let connections = who.idle_connections(self.descriptors);
        let Some(relay) = scene.relay.as_ref() else {
            return Err(Error::Usage("idle needs a relay".to_owned()));
        };
        let (memory, pipes) = (cpu::group_memory(relay.pid()), cpu::group_pipes(relay.pid()));
        let argv = own(&["idle", &scene.target.to_string(), "--count", &connections.to_string()]);
        let mut client = Child::start(self.lab, Place::Client, "client", &argv)?;
        client.wait_until(Duration::from_secs(60), "did not open its connections", |client| {
            client.stdout().contains(load::READY)
        })?;
        std::thread::sleep(Duration::from_secs(1));
        let before = cpu::group_cpu_fine_ms(relay.pid());
        std::thread::sleep(IDLE_WATCH);
        let used = cpu::group_cpu_fine_ms(relay.pid()) - before;
        let grown = cpu::group_memory(relay.pid()) as f64 - memory as f64;
        let held = cpu::group_pipes(relay.pid()).saturating_sub(pipes);
        Ok(Sample::from([
            (Metric::Memory, grown / connections as f64),
            (Metric::IdleCpu, used),
            (Metric::Pipes, held as f64),
            (Metric::Connections, connections as f64),
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
    let binary = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let mut argv = vec![binary.to_string_lossy().into_owned()];
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

fn unreadable(program: &str, said: &str) -> Error {
    Error::Program {
        program: program.to_owned(),
        said: format!("unreadable report: {}", said.lines().next().unwrap_or("empty")),
    }
}

/// Rate and work (GB) as received by the server, from `iperf3 -J`.
fn read_iperf(said: &str) -> Result<(Sample, f64), Error> {
    let report: Value = serde_json::from_str(said).map_err(|_| unreadable("iperf3", said))?;
    if let Some(error) = report["error"].as_str() {
        return Err(Error::Program { program: "iperf3".to_owned(), said: error.to_owned() });
    }
    let received = &report["end"]["sum_received"];
    match (received["bytes"].as_f64(), received["bits_per_second"].as_f64()) {
        (Some(bytes), Some(rate)) if bytes > 0.0 => {
            Ok((Sample::from([(Metric::Rate, rate / 1e9)]), bytes / 1e9))
        }
        _ => Err(unreadable("iperf3", "no bytes received")),
    }
}

/// Rate and work (thousands of transactions), from our own client.
fn read_tally(said: &str) -> Result<(Sample, f64), Error> {
    let report: Value = serde_json::from_str(said).map_err(|_| unreadable("load", said))?;
    let number = |key: &str| report[key].as_f64().ok_or_else(|| unreadable("load", said));
    let (count, seconds) = (number("count")?, number("seconds")?);
    if count < 1.0 || seconds <= 0.0 {
        return Err(unreadable("load", "no transaction done"));
    }
    let errors = number("errors")?;
    if errors > count / 100.0 {
        let said = format!("{errors} of {} connections failed", count + errors);
        return Err(Error::Program { program: "load".to_owned(), said });
    }
    let sample = Sample::from([
        (Metric::Rate, count / seconds),
        (Metric::P50, number("p50_us")?),
        (Metric::P99, number("p99_us")?),
    ]);
    Ok((sample, count / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iperf_is_read_at_the_receiver() {
        let said = r#"{"end":{"sum_sent":{"bytes":9e9},"sum_received":{"bytes":5e9,"bits_per_second":1e10}}}"#;
        let (sample, gigabytes) = read_iperf(said).unwrap_or_default();
        assert_eq!((sample.get(&Metric::Rate), gigabytes), (Some(&10.0), 5.0));
        assert!(read_iperf(r#"{"error":"refused"}"#).is_err());
        assert!(read_iperf("iperf3: error").is_err());
    }

    #[test]
    fn a_load_with_many_failures_is_no_result() {
        let good = r#"{"count":2000,"errors":1,"seconds":2,"p50_us":5,"p99_us":9}"#;
        let (sample, thousands) = read_tally(good).unwrap_or_default();
        assert_eq!((sample.get(&Metric::Rate), thousands), (Some(&1000.0), 2.0));
        assert!(read_tally(&good.replace("\"errors\":1", "\"errors\":100")).is_err());
        assert!(read_tally("").is_err());
    }
}
