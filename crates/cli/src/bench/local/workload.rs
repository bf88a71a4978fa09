//! What the two ends do.

use std::fmt;

use crate::bench::Error;

/// Where the two ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In one network namespace.
    Loopback,
    /// In two, on one bridge.
    Bridge,
    /// In one; the ends are redis-server and redis-benchmark.
    Redis,
}

/// What they do there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Request and response of so many bytes, one after the other.
    RoundTrips(usize),
    /// Messages of so many bytes, one way.
    Stream(usize),
    /// redis-benchmark GET with so many clients.
    Get(usize),
}

/// One kind of work at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    pub place: Place,
    pub work: Work,
}

const NAMES: [(&str, Work); 10] = [
    ("rr1", Work::RoundTrips(1)),
    ("rr64", Work::RoundTrips(64)),
    ("rr1k", Work::RoundTrips(1 << 10)),
    ("rr16k", Work::RoundTrips(16 << 10)),
    ("stream1k", Work::Stream(1 << 10)),
    ("stream4k", Work::Stream(4 << 10)),
    ("stream64k", Work::Stream(64 << 10)),
    ("stream1m", Work::Stream(1 << 20)),
    ("redis1", Work::Get(1)),
    ("redis50", Work::Get(50)),
];

impl Workload {
    /// All of them, in the order of the report.
    fn all() -> impl Iterator<Item = Workload> {
        let at = |wanted: Place| {
            let of = move |work: Work| match work {
                Work::Get(_) => wanted == Place::Redis,
                _ => wanted != Place::Redis,
            };
            let works = NAMES.iter().map(|(_, work)| *work).filter(move |work| of(*work));
            works.map(move |work| Workload { place: wanted, work })
        };
        [Place::Loopback, Place::Bridge, Place::Redis].into_iter().flat_map(at)
    }

    /// What is counted.
    pub fn unit(self) -> &'static str {
        match self.work {
            Work::Stream(_) => "Gbit/s",
            _ => "per s",
        }
    }

    /// The names that stand for it and others.
    fn kind(self) -> &'static str {
        match (self.place, self.work) {
            (Place::Bridge, _) => "bridge",
            (Place::Redis, _) => "redis",
            (_, Work::Stream(_)) => "stream",
            _ => "rr",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, work)| *work == self.work).map_or("?", |(name, _)| name);
        let place = if self.place == Place::Bridge { "bridge-" } else { "" };
        // Padded as one word.
        f.pad(&format!("{place}{name}"))
    }
}

/// The workloads by name or kind, each once, in the order of the report.
pub fn chosen(names: &[String]) -> Result<Vec<Workload>, Error> {
    let meant = |workload: Workload, name: &String| {
        name == "all" || *name == workload.to_string() || name == workload.kind()
    };
    if let Some(name) = names.iter().find(|name| !Workload::all().any(|all| meant(all, name))) {
        let known: Vec<String> = Workload::all().map(|workload| workload.to_string()).collect();
        let known = known.join(", ");
        let kinds = "rr, stream, bridge, redis, all";
        return Err(Error::Usage(format!("no workload '{name}'; there are {known}; {kinds}")));
    }
    let wanted =
        |workload: &Workload| names.is_empty() || names.iter().any(|name| meant(*workload, name));
    Ok(Workload::all().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str]) -> Option<Vec<String>> {
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        Some(chosen(&wanted).ok()?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn workloads_by_name_and_kind_each_once() {
        let found = names(&["redis", "rr1", "redis50"]);
        assert_eq!(found, Some(["rr1", "redis1", "redis50"].map(str::to_owned).to_vec()));
        assert_eq!(names(&[]).map(|all| all.len()), Some(18));
        assert_eq!(names(&["bridge"]).map(|all| all.len()), Some(8));
        assert_eq!(names(&["rr2"]), None);
    }
}
