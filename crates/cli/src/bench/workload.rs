//! What is asked of a relay, and what is read off afterwards.

use std::collections::BTreeMap;

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
}

/// All workloads by name, in the order of the report.
pub const WORKLOADS: [(&str, Workload); 8] = [
    ("stream1", Workload::Stream { streams: 1 }),
    ("stream8", Workload::Stream { streams: 8 }),
    ("rr64x1", Workload::Rr { size: 64, connections: 1 }),
    ("rr64x32", Workload::Rr { size: 64, connections: 32 }),
    ("rr16kx1", Workload::Rr { size: 16 << 10, connections: 1 }),
    ("rr16kx32", Workload::Rr { size: 16 << 10, connections: 32 }),
    ("conn", Workload::Conn),
    ("idle", Workload::Idle),
];

/// One thing that is read off a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Gbit/s, or transactions a second.
    Rate,
    /// Processor time of the relay, ms per GB or per 1000 transactions.
    RelayCpu,
    /// Busy time of the machine, in the same unit.
    SystemCpu,
    /// Latency, us: half of the transactions are below it.
    P50,
    /// Latency, us: 99 of 100 are below it.
    P99,
    /// User memory of an idle connection, bytes.
    Memory,
    /// Processor time while all is idle, ms over 3 s.
    IdleCpu,
    /// Pipe descriptors held by idle connections.
    Pipes,
    /// Idle connections that were held.
    Connections,
}

/// What one run of one contestant gave.
pub type Sample = BTreeMap<Metric, f64>;

impl Workload {
    /// The workload of this name.
    pub fn named(name: &str) -> Option<Workload> {
        WORKLOADS.iter().find(|(known, _)| *known == name).map(|(_, workload)| *workload)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        WORKLOADS.iter().find(|(_, workload)| *workload == self).map_or("?", |(name, _)| name)
    }

    /// What is judged first: the metric that ratios are made of.
    pub fn main_metric(self) -> Metric {
        match self {
            Workload::Idle => Metric::Memory,
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
            Workload::Rr { .. } | Workload::Conn => &[
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
        }
    }
}

impl Metric {
    /// Its key in the machine-readable report.
    pub fn key(self) -> &'static str {
        match self {
            Metric::Rate => "rate",
            Metric::RelayCpu => "relay_cpu_ms",
            Metric::SystemCpu => "system_cpu_ms",
            Metric::P50 => "p50_us",
            Metric::P99 => "p99_us",
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
    fn names_go_both_ways() {
        for (name, workload) in WORKLOADS {
            assert_eq!(Workload::named(name), Some(workload));
            assert_eq!(workload.name(), name);
        }
        assert_eq!(Workload::named("stream2"), None);
    }
}
