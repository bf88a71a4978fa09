//! What is asked of a relay, and what is read off afterwards.

use std::collections::BTreeMap;

/// What the relay relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams, and sessions by the client's address.
    Udp,
    /// Requests and answers of HTTP/1.1.
    Http,
}

/// Which way the bodies of a workload go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// To the client.
    Get,
    /// To the server.
    Put,
}

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// iperf3, so many parallel streams, one way.
    Stream { streams: usize },
    /// Request and response of `size` bytes on so many connections.
    Rr { size: usize, connections: usize },
    /// New connections: connect, 64 bytes each way, close; 32 in flight.
    Conn,
    /// Relayed connections that have passed one byte each way, and rest.
    Idle,
    /// Datagrams of `size` bytes one way, as fast as one socket sends them, one
    /// call a datagram.
    Single { size: usize },
    /// The same with as many datagrams a call as UDP_SEGMENT takes.
    Gso { size: usize },
    /// Request and response of one 64-byte datagram, so many clients at once.
    Ask { clients: usize },
    /// Sessions that have passed one datagram each way, and rest.
    Sessions,
    /// wrk on so many connections that are kept: bodies of `size` bytes.
    Http { verb: Verb, size: usize, connections: usize },
}

/// Bodies from this size on are bulk: what they cost is counted by the GB, not by the request.
const BULK_LEN: usize = 64 << 10;

/// All workloads by name, in the order of the report.
pub const WORKLOADS: [(&str, Workload); 20] = [
    ("stream1", Workload::Stream { streams: 1 }),
    ("stream8", Workload::Stream { streams: 8 }),
    ("rr64x1", Workload::Rr { size: 64, connections: 1 }),
    ("rr64x32", Workload::Rr { size: 64, connections: 32 }),
    ("rr16kx1", Workload::Rr { size: 16 << 10, connections: 1 }),
    ("rr16kx32", Workload::Rr { size: 16 << 10, connections: 32 }),
    ("conn", Workload::Conn),
    ("idle", Workload::Idle),
    ("single64", Workload::Single { size: 64 }),
    ("single512", Workload::Single { size: 512 }),
    ("single1400", Workload::Single { size: 1400 }),
    ("gso1400", Workload::Gso { size: 1400 }),
    ("lone", Workload::Ask { clients: 1 }),
    ("clients", Workload::Ask { clients: 200 }),
    ("sessions", Workload::Sessions),
    ("get1kx32", Workload::Http { verb: Verb::Get, size: 1 << 10, connections: 32 }),
    ("get1kx64", Workload::Http { verb: Verb::Get, size: 1 << 10, connections: 64 }),
    ("get64kx16", Workload::Http { verb: Verb::Get, size: 64 << 10, connections: 16 }),
    ("get1mx8", Workload::Http { verb: Verb::Get, size: 1 << 20, connections: 8 }),
    ("put1mx8", Workload::Http { verb: Verb::Put, size: 1 << 20, connections: 8 }),
];

/// One thing that is read off a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Gbit/s, transactions or delivered datagrams a second.
    Rate,
    /// Bytes of bodies, MB/s.
    Bandwidth,
    /// Processor time of the relay, ms per GB of payload or per 1000 transactions; s per
    /// million datagrams, which is the same number as ms per 1000.
    RelayCpu,
    /// Busy time of the machine, in the same unit.
    SystemCpu,
    /// Latency, us: half of the transactions are below it.
    P50,
    /// Latency, us: 99 of 100 are below it.
    P99,
    /// Datagrams sent and not delivered, or asked and not answered, %.
    Loss,
    /// Datagrams whose size or content was not what was sent.
    Corrupt,
    /// Datagrams that came behind a later one, or twice.
    Late,
    /// User memory of an idle connection or session, bytes.
    Memory,
    /// Processor time while all is idle, ms over 3 s.
    IdleCpu,
    /// Pipe descriptors held by idle connections.
    Pipes,
    /// Idle connections or sessions that were held.
    Connections,
}

/// What must not happen at all, and is shown where it does: metric, words.
pub const FAULTS: [(Metric, &str); 2] =
    [(Metric::Corrupt, "corrupted"), (Metric::Late, "reordered or doubled")];

/// What one run of one contestant gave.
pub type Sample = BTreeMap<Metric, f64>;

impl Protocol {
    /// The engines that a relay of ours names in its log, the best one first.
    pub fn engines(self) -> &'static [&'static str] {
        match self {
            Protocol::Tcp | Protocol::Http => &["pipe", "copy"],
            Protocol::Udp => &["gso", "mmsg", "plain"],
        }
    }

    /// Its workloads, in the order of the report.
    pub fn workloads(self) -> impl Iterator<Item = Workload> {
        let all = WORKLOADS.iter().map(|(_, workload)| *workload);
        all.filter(move |workload| workload.protocol() == self)
    }
}

impl Workload {
    /// What is relayed.
    pub fn protocol(self) -> Protocol {
        match self {
            Workload::Stream { .. } | Workload::Rr { .. } | Workload::Conn | Workload::Idle => {
                Protocol::Tcp
            }
            Workload::Single { .. }
            | Workload::Gso { .. }
            | Workload::Ask { .. }
            | Workload::Sessions => Protocol::Udp,
            Workload::Http { .. } => Protocol::Http,
        }
    }

    /// The name that stands for it and others of its kind, if there are any.
    pub fn kind(self) -> Option<&'static str> {
        match self {
            Workload::Stream { .. } => Some("stream"),
            Workload::Rr { .. } => Some("rr"),
            Workload::Single { .. } => Some("single"),
            Workload::Http { .. } => self.name().split_once('x').map(|(kind, _)| kind),
            _ => None,
        }
    }

    /// Whether bytes count, rather than transactions.
    pub fn is_bulk(self) -> bool {
        match self {
            Workload::Stream { .. } => true,
            Workload::Http { size, .. } => size >= BULK_LEN,
            _ => false,
        }
    }

    /// Whether the relay is looked at while nothing happens, so that without a
    /// relay there is nothing to see.
    pub fn rests(self) -> bool {
        matches!(self, Workload::Idle | Workload::Sessions)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        WORKLOADS.iter().find(|(_, workload)| *workload == self).map_or("?", |(name, _)| name)
    }

    /// What is judged first: the metric that ratios are made of.
    pub fn main_metric(self) -> Metric {
        match self {
            Workload::Idle | Workload::Sessions => Metric::Memory,
            // One client waits for each answer: its rate is its latency, and less telling.
            Workload::Ask { clients: 1 } => Metric::P50,
            _ => Metric::Rate,
        }
    }

    /// What the report shows, in this order: metric, heading, decimals.
    pub fn columns(self) -> &'static [(Metric, &'static str, usize)] {
        match self {
            Workload::Stream { .. } => &[
                (Metric::Rate, "Gbit/s", 2),
                (Metric::RelayCpu, "relay ms/GB", 0),
                (Metric::SystemCpu, "system ms/GB", 0),
            ],
            Workload::Http { .. } if self.is_bulk() => &[
                (Metric::Rate, "per s", 0),
                (Metric::Bandwidth, "MB/s", 0),
                (Metric::RelayCpu, "relay ms/GB", 0),
                (Metric::SystemCpu, "system ms/GB", 0),
                (Metric::P50, "p50 us", 0),
                (Metric::P99, "p99 us", 0),
            ],
            Workload::Rr { .. } | Workload::Conn | Workload::Http { .. } => &[
                (Metric::Rate, "per s", 0),
                (Metric::RelayCpu, "relay ms/1000", 1),
                (Metric::SystemCpu, "system ms/1000", 1),
                (Metric::P50, "p50 us", 1),
                (Metric::P99, "p99 us", 1),
            ],
            Workload::Idle => &[
                (Metric::Memory, "user B/conn", 0),
                (Metric::IdleCpu, "cpu ms/3 s", 1),
                (Metric::Pipes, "pipe fds", 0),
                (Metric::Connections, "connections", 0),
            ],
            Workload::Single { .. } | Workload::Gso { .. } => &[
                (Metric::Rate, "per s", 0),
                (Metric::RelayCpu, "relay s/M", 2),
                (Metric::SystemCpu, "system s/M", 2),
                (Metric::Loss, "lost %", 1),
            ],
            Workload::Ask { clients: 1 } => &[
                (Metric::P50, "p50 us", 1),
                (Metric::P99, "p99 us", 1),
                (Metric::Rate, "per s", 0),
                (Metric::RelayCpu, "relay s/M", 1),
                (Metric::SystemCpu, "system s/M", 1),
                (Metric::Loss, "lost %", 2),
            ],
            Workload::Ask { .. } => &[
                (Metric::Rate, "per s", 0),
                (Metric::RelayCpu, "relay s/M", 1),
                (Metric::SystemCpu, "system s/M", 1),
                (Metric::P50, "p50 us", 1),
                (Metric::P99, "p99 us", 1),
                (Metric::Loss, "lost %", 2),
            ],
            Workload::Sessions => &[
                (Metric::Memory, "user B/session", 0),
                (Metric::IdleCpu, "cpu ms/3 s", 1),
                (Metric::Connections, "sessions", 0),
            ],
        }
    }
}

impl Metric {
    /// Its key in the machine-readable report.
    pub fn key(self) -> &'static str {
        match self {
            Metric::Rate => "rate",
            Metric::Bandwidth => "megabytes_per_s",
            Metric::RelayCpu => "relay_cpu_ms",
            Metric::SystemCpu => "system_cpu_ms",
            Metric::P50 => "p50_us",
            Metric::P99 => "p99_us",
            Metric::Loss => "lost_percent",
            Metric::Corrupt => "corrupted",
            Metric::Late => "reordered_or_doubled",
            Metric::Memory => "memory_bytes",
            Metric::IdleCpu => "idle_cpu_ms",
            Metric::Pipes => "pipe_fds",
            Metric::Connections => "connections",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_stands_for_two() {
        for (name, workload) in WORKLOADS {
            assert_eq!(workload.name(), name);
        }
    }

    #[test]
    fn the_main_metric_has_a_column() {
        for (name, workload) in WORKLOADS {
            let shown = workload.columns().iter().any(|(m, ..)| *m == workload.main_metric());
            assert!(shown, "{name}");
        }
    }
}
