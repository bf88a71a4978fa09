//! One run: two ends, a few seconds.

use std::cell::Cell;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use sosplice_local::broker::status::Status;
use sosplice_local::broker::{Answer, Ask, ask};

use super::accelerated;
use super::workload::{Place, Work, Workload};
use crate::bench::Error;
use crate::bench::child::Child;
use crate::bench::company::{self, Company};
use crate::bench::cpu;
use crate::bench::netns::{self, BRIDGED_SERVER, Lab};
use crate::bench::trial::own;
use crate::bench::workload::Protocol;

/// How long beyond its own time an end may take.
const GRACE: Duration = Duration::from_secs(15);

/// Ports below the ephemeral range of the namespaces, a fresh one each run.
const PORTS: std::ops::Range<u16> = 2000..9998;

/// How the two ends talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contestant {
    /// Plain TCP, blocking calls: what ratios are made to.
    Tcp,
    /// Plain TCP, both ends asking again and again.
    TcpSpin,
    /// Under `sosplice run`, with so many microseconds of busy polling.
    Ring { busy: u32 },
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Gbit/s or a second.
    pub rate: f64,
    /// Busy time of the machine, ms per GB or per 1000.
    pub system_ms: f64,
    /// Latency; zero for a stream.
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
}

/// Runs trials in one lab.
pub struct Bench<'lab> {
    lab: &'lab Lab,
    ring_kbytes: Option<u32>,
    seconds: f64,
    /// Where the accelerated ends meet.
    rendezvous: PathBuf,
    next_port: Cell<u16>,
    company: Company,
}

impl Contestant {
    /// Who takes part in a workload.
    pub fn list(workload: Workload, busy: &[u32]) -> Vec<Contestant> {
        let spins = matches!(workload.work, Work::RoundTrips(_)).then_some(Contestant::TcpSpin);
        let rings = busy.iter().map(|&busy| Contestant::Ring { busy });
        [Contestant::Tcp].into_iter().chain(spins).chain(rings).collect()
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contestant::Tcp => f.write_str("tcp"),
            Contestant::TcpSpin => f.write_str("tcp-spin"),
            Contestant::Ring { busy: 0 } => f.write_str("ring"),
            Contestant::Ring { busy } => write!(f, "ring-busy{busy}"),
        }
    }
}

impl<'lab> Bench<'lab> {
    pub fn new(lab: &'lab Lab, ring_kbytes: Option<u32>, seconds: f64) -> Bench<'lab> {
        Bench {
            lab,
            ring_kbytes,
            seconds,
            rendezvous: lab.scratch().join("rendezvous"),
            next_port: Cell::new(PORTS.start),
            company: Company::default(),
        }
    }

    /// See [`Company::disturbance`].
    pub fn disturbance(&self) -> Option<String> {
        self.company.disturbance()
    }

    /// Measures one contestant on one workload once.
    pub fn trial(&self, who: Contestant, workload: Workload) -> Result<Sample, Error> {
        self.company.alone(&format!("{workload} {who}"), || self.run(who, workload))
    }

    fn run(&self, who: Contestant, workload: Workload) -> Result<(Sample, f64), Error> {
        let address = match workload.place {
            Place::Bridge => BRIDGED_SERVER,
            Place::Loopback | Place::Redis => Ipv4Addr::LOCALHOST,
        };
        let target = SocketAddrV4::new(address, self.port());
        let near = match workload.place {
            Place::Bridge => netns::Place::Client,
            Place::Loopback | Place::Redis => netns::Place::Server,
        };
        let [serve, ask] = commands(who, workload, target, self.seconds);
        let (serve, ask) = (self.placed(who, serve, 0), self.placed(who, ask, 1));
        let mut server = Child::start(self.lab, netns::Place::Server, "server", &serve)?;
        server.wait_listening(Protocol::Tcp, address, target.port())?;
        company::settle(Some(&server));

        let carried = self.carried(who)?;
        let mut ours = vec![cpu::own_group(), server.pid()];
        let start = Instant::now();
        let (foreign, system) = (cpu::foreign_cpu_ms(&ours), cpu::system_cpu_ms());
        let mut client = Child::start(self.lab, near, "client", &ask)?;
        let asked = client.finish(Duration::from_secs_f64(self.seconds) * 4 + GRACE)?;
        let served = match workload.work {
            Work::Stream(_) => server.finish(GRACE)?,
            _ => String::new(),
        };
        let system = cpu::system_cpu_ms() - system;
        ours.push(client.pid());
        let foreign = cpu::foreign_cpu_ms(&ours) - foreign;
        let foreign = foreign / (start.elapsed().as_secs_f64() * 1e3);
        drop(server);
        self.check(who, carried)?;
        let sample = match workload.work {
            Work::RoundTrips(_) => round_trips(&asked, system)?,
            Work::Stream(_) => stream(&served, system)?,
            Work::Get(clients) => gets(&asked, system / (requests(clients, self.seconds) / 1e3))?,
        };
        Ok((sample, foreign))
    }

    /// An end's command, accelerated or not, on its own processor.
    fn placed(&self, who: Contestant, argv: Vec<String>, processor: usize) -> Vec<String> {
        let argv = match who {
            Contestant::Ring { busy } => {
                accelerated(argv, busy, self.ring_kbytes, &self.rendezvous)
            }
            Contestant::Tcp | Contestant::TcpSpin => argv,
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        if processors < 2 {
            return argv;
        }
        let pin = ["taskset".to_owned(), "-c".to_owned(), processor.to_string()];
        pin.into_iter().chain(argv).collect()
    }

    /// Bytes that have gone through rings so far.
    fn carried(&self, who: Contestant) -> Result<u64, Error> {
        match who {
            Contestant::Ring { .. } => self.status().map(|status| bytes(who, &status)),
            Contestant::Tcp | Contestant::TcpSpin => Ok(0),
        }
    }

    /// Fails if a run that should have used a ring has not.
    fn check(&self, who: Contestant, before: u64) -> Result<(), Error> {
        if !matches!(who, Contestant::Ring { .. }) {
            return Ok(());
        }
        let status = self.status()?;
        if bytes(who, &status) > before {
            return Ok(());
        }
        let reasons: Vec<String> =
            status.on_tcp.iter().map(|(reason, count)| format!("{reason} ({count})")).collect();
        let reasons = if reasons.is_empty() {
            "nobody has announced it".to_owned()
        } else {
            reasons.join(", ")
        };
        Err(Error::Usage(format!("the connection stayed on TCP: {reasons}")))
    }

    fn status(&self) -> Result<Status, Error> {
        match ask(&self.rendezvous, &Ask::Status) {
            Ok(Answer::Status(status)) => Ok(*status),
            Ok(_) => Err(Error::Usage("the broker speaks another version".to_owned())),
            Err(error) => Err(Error::Usage(format!("{}: {error}", self.rendezvous.display()))),
        }
    }

    fn port(&self) -> u16 {
        let port = self.next_port.get();
        self.next_port.set(if port + 1 < PORTS.end { port + 1 } else { PORTS.start });
        port
    }
}

/// Bytes of pairs. Without spinning bulk stays on TCP, also of a pair.
fn bytes(who: Contestant, status: &Status) -> u64 {
    let tcp = u64::from(who == Contestant::Ring { busy: 0 });
    let running = status.pairs.iter().flat_map(|pair| &pair.directions);
    status.ended.bytes
        + tcp * status.ended.tcp_bytes
        + running.map(|traffic| traffic.bytes + tcp * traffic.tcp_bytes).sum::<u64>()
}

/// The command lines of both ends: who listens, who connects.
fn commands(
    who: Contestant,
    workload: Workload,
    target: SocketAddrV4,
    seconds: f64,
) -> [Vec<String>; 2] {
    let (at, time) = (target.to_string(), seconds.to_string());
    let spin: &[&str] = if who == Contestant::TcpSpin { &["--spin"] } else { &[] };
    match workload.work {
        Work::RoundTrips(size) => {
            let size = size.to_string();
            let ask = ["ping", &at, "--size", &size, "--seconds", &time];
            [own(&[&["pong", &at, "--size", &size], spin].concat()), own(&[&ask, spin].concat())]
        }
        Work::Stream(size) => {
            let size = size.to_string();
            let pour = ["pour", &at, "--size", &size, "--seconds", &time];
            [own(&["drink", &at, "--size", &size]), own(&pour)]
        }
        Work::Get(clients) => redis(target.port(), clients, seconds),
    }
}

/// redis-benchmark counts requests, not seconds: so many that plain TCP takes about as long
/// as was asked for.
fn requests(clients: usize, seconds: f64) -> f64 {
    seconds * if clients == 1 { 12_000.0 } else { 80_000.0 }
}

fn redis(port: u16, clients: usize, seconds: f64) -> [Vec<String>; 2] {
    let requests = format!("{:.0}", requests(clients, seconds));
    let (port, clients) = (port.to_string(), clients.to_string());
    let serve = ["redis-server", "--port", &port, "--bind", "127.0.0.1", "--save", ""];
    let ask =
        ["redis-benchmark", "-p", &port, "-t", "get", "-c", &clients, "-n", &requests, "--csv"];
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    [words(&serve), words(&ask)]
}

fn unreadable(program: &str, said: &str) -> Error {
    let said = format!("unreadable report: {}", said.lines().next().unwrap_or("empty"));
    Error::Program { program: program.to_owned(), said }
}

fn round_trips(said: &str, system_ms: f64) -> Result<Sample, Error> {
    let report: Value = serde_json::from_str(said).map_err(|_| unreadable("ping", said))?;
    let number = |key: &str| report[key].as_f64().filter(|value| *value > 0.0);
    let read = || {
        let (count, seconds) = (number("count")?, number("seconds")?);
        Some(Sample {
            rate: count / seconds,
            system_ms: system_ms / (count / 1e3),
            p50_us: number("p50_us")?,
            p99_us: number("p99_us")?,
        })
    };
    read().ok_or_else(|| unreadable("ping", said))
}

/// As it was received.
fn stream(said: &str, system_ms: f64) -> Result<Sample, Error> {
    let report: Value = serde_json::from_str(said).map_err(|_| unreadable("drink", said))?;
    let number = |key: &str| report[key].as_f64().filter(|value| *value > 0.0);
    let read = || {
        let (bytes, seconds) = (number("bytes")?, number("seconds")?);
        let (rate, system_ms) = (bytes * 8e-9 / seconds, system_ms / (bytes / 1e9));
        Some(Sample { rate, system_ms, p50_us: 0.0, p99_us: 0.0 })
    };
    read().ok_or_else(|| unreadable("drink", said))
}

/// The last line of `redis-benchmark --csv`: test, rate, and latencies in ms (mean, least,
/// p50, p95, p99, most).
fn gets(said: &str, system_ms: f64) -> Result<Sample, Error> {
    let line = said.lines().rfind(|line| line.starts_with("\"GET\""));
    let read = || {
        let cells: Vec<f64> = line?
            .split(',')
            .skip(1)
            .map(|cell| cell.trim_matches('"').parse().ok())
            .collect::<Option<_>>()?;
        let [rate, _, _, p50, _, p99, _] = cells[..] else { return None };
        Some(Sample { rate, system_ms, p50_us: p50 * 1e3, p99_us: p99 * 1e3 })
    };
    read().ok_or_else(|| unreadable("redis-benchmark", said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_is_read_where_it_says_get() {
        let said = "\"test\",\"rps\",\"avg_latency_ms\",\"min\",\"p50\",\"p95\",\"p99\",\"max\"\n\
                    \"GET\",\"12345.5\",\"0.1\",\"0.01\",\"0.08\",\"0.2\",\"0.3\",\"4\"\n";
        let sample = gets(said, 5.0).unwrap_or(Sample {
            rate: 0.0,
            system_ms: 0.0,
            p50_us: 0.0,
            p99_us: 0.0,
        });
        assert_eq!((sample.rate, sample.p50_us, sample.p99_us), (12345.5, 80.0, 300.0));
        assert!(gets("Could not connect", 0.0).is_err());
    }

    #[test]
    fn a_report_without_work_is_none() {
        assert!(round_trips(r#"{"count":0,"seconds":1,"p50_us":1,"p99_us":1}"#, 1.0).is_err());
        assert!(stream(r#"{"bytes":0,"seconds":1}"#, 1.0).is_err());
        assert!(stream("", 1.0).is_err());
    }
}
