//! The metrics: names, help, labels, and the text.
//!
//! `prometheus-client` writes the format; the numbers are asked for at each scrape, so nothing is
//! kept twice.

use crate::control::{Bytes, RelaySnapshot, StageWord, Stats};
use crate::upstream::{Admin, Health, ServerSnapshot};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text as encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt::Error;

/// Of [`text`] (OpenMetrics section 4.2).
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics.
pub(super) fn text(stats: Stats, servers: Vec<ServerSnapshot>) -> String {
    let mut registry = Registry::with_prefix("sosplice");
    registry.register_collector(Box::new(Told { stats, servers }));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Told {
    stats: Stats,
    servers: Vec<ServerSnapshot>,
}

impl Collector for Told {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut families = Families(encoder);
        process(&mut families, &self.stats)?;
        relays(&mut families, &self.stats.relays)?;
        http(&mut families, &self.stats.relays)?;
        servers(&mut families, &self.servers)?;
        upstreams(&mut families, &self.servers)
    }
}

/// The encoder escapes the value.
type Label<'l> = (&'static str, &'l str);

const fn label<'l>(name: &'static str, value: &'l str) -> Label<'l> {
    (name, value)
}

struct Families<'e>(DescriptorEncoder<'e>);

impl Families<'_> {
    /// What only grows. The name is without the `_total` that the format adds.
    fn counter<'l, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = ([Label<'l>; N], u64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in samples {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge<'l, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        samples: impl IntoIterator<Item = ([Label<'l>; N], u64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn process(families: &mut Families<'_>, stats: &Stats) -> Result<(), Error> {
    let mut build = families.0.encode_descriptor("build", "What runs", None, MetricType::Info)?;
    build.encode_info(&[("version", stats.program.as_str())])?;
    let help = "When the process began, in seconds since 1970";
    let began = ConstGauge::new(stats.began_ms as f64 / 1000.0);
    let unit = Some(&Unit::Seconds);
    began.encode(families.0.encode_descriptor("start_time", help, unit, MetricType::Gauge)?)?;
    let help = "1 while the service accepts no more and waits for what runs";
    let draining = ConstGauge::new(u64::from(stats.stage == StageWord::Draining));
    draining.encode(families.0.encode_descriptor("draining", help, None, MetricType::Gauge)?)?;
    families.counter(
        ("reloads", "Reloads of the configuration, by what became of them"),
        None,
        [("done", stats.reloads), ("refused", stats.reloads_refused)]
            .map(|(result, count)| ([("result", result)], count)),
    )
}

fn relays(families: &mut Families<'_>, relays: &[RelaySnapshot]) -> Result<(), Error> {
    let of = |number: fn(&RelaySnapshot) -> u64| {
        relays.iter().map(move |relay| ([label("relay", &relay.relay)], number(relay)))
    };
    families.counter(
        (
            "relay_sessions_accepted",
            "Sessions that were accepted, those refused afterwards included",
        ),
        None,
        of(|relay| relay.accepted),
    )?;
    families.counter(
        ("relay_sessions_refused", "Sessions that got no server, or were one too many of a client"),
        None,
        of(|relay| relay.refused),
    )?;
    families.counter(
        ("relay_sessions_ended", "Sessions that had a server and have ended"),
        None,
        of(|relay| relay.ended),
    )?;
    families.gauge(("relay_sessions", "Sessions that are there now"), of(|relay| relay.running))?;
    let udp = || relays.iter().filter(|relay| relay.protocol == "udp");
    families.counter(
        ("relay_sessions_evicted", "UDP sessions that have made room for others"),
        None,
        udp().map(|relay| ([label("relay", &relay.relay)], relay.evicted)),
    )?;
    families.counter(
        ("relay_datagrams_dropped", "Datagrams that were lost in the relay"),
        None,
        udp().map(|relay| ([label("relay", &relay.relay)], relay.dropped)),
    )?;
    families.counter(
        (
            "relay",
            "Carried bytes by direction (up is to the server) and engine (pipe: never in user space); HTTP: of bodies",
        ),
        Some(&Unit::Bytes),
        relays.iter().flat_map(|relay| {
            let directions = [("up", relay.up), ("down", relay.down)];
            directions.into_iter().flat_map(move |(direction, bytes)| {
                engines(relay, bytes).map(move |(engine, bytes)| {
                    let (direction, engine) = (direction, engine);
                    let relay = label("relay", &relay.relay);
                    ([relay, ("direction", direction), ("engine", engine)], bytes)
                })
            })
        }),
    )
}

/// Those that a relay of its protocol can use, so that none is missing before its first byte.
fn engines(relay: &RelaySnapshot, bytes: Bytes) -> impl Iterator<Item = (&'static str, u64)> {
    let datagrams = relay.protocol == "udp";
    let of_streams = |engine: &str| matches!(engine, "copy" | "pipe");
    bytes.by_engine().into_iter().filter(move |(engine, _)| of_streams(engine) != datagrams)
}

fn http(families: &mut Families<'_>, relays: &[RelaySnapshot]) -> Result<(), Error> {
    let http = || relays.iter().filter(|relay| relay.protocol == "http");
    families.counter(
        ("relay_requests", "HTTP requests that have ended"),
        None,
        http().map(|relay| ([label("relay", &relay.relay)], relay.requests)),
    )?;
    families.counter(
        ("relay_responses", "Answers that clients got, by the class of their status"),
        None,
        http().flat_map(|relay| {
            relay
                .statuses
                .by_class()
                .map(|(class, count)| ([label("relay", &relay.relay), ("status", class)], count))
        }),
    )?;
    families.counter(
        ("relay_rule_matches", "Requests that a rule has matched"),
        None,
        http().flat_map(|relay| {
            relay.rules.iter().map(|rule| {
                ([label("relay", &relay.relay), label("rule", &rule.rule)], rule.matched)
            })
        }),
    )
}

fn servers(families: &mut Families<'_>, servers: &[ServerSnapshot]) -> Result<(), Error> {
    let of = |number: fn(&ServerSnapshot) -> u64| {
        servers.iter().map(move |server| {
            let upstream = label("upstream", &server.upstream);
            ([upstream, label("server", &server.server)], number(server))
        })
    };
    families.gauge(
        ("server_up", "1 for a server that is well, as far as is known"),
        of(|server| u64::from(server.state != Health::Down)),
    )?;
    families.gauge(
        ("server_enabled", "1 for a server that the administrator lets have new sessions"),
        of(|server| u64::from(server.admin == Admin::Enabled)),
    )?;
    families.gauge(
        ("server_sessions", "Sessions (HTTP: requests) that are with the server now"),
        of(|server| server.sessions),
    )?;
    families.counter(
        ("server_sessions_started", "Sessions (HTTP: requests) that the server was chosen for"),
        None,
        of(|server| server.total),
    )?;
    families.counter(
        ("server_failures", "Connects that failed, and datagrams that were refused"),
        None,
        of(|server| server.failures),
    )?;
    families.counter(
        ("server", "Carried bytes by direction (up is to the server), of sessions that have ended"),
        Some(&Unit::Bytes),
        servers.iter().flat_map(|server| {
            [("up", server.bytes_up), ("down", server.bytes_down)].map(|(direction, bytes)| {
                let upstream = label("upstream", &server.upstream);
                let server = label("server", &server.server);
                ([upstream, server, ("direction", direction)], bytes)
            })
        }),
    )
}

fn upstreams(families: &mut Families<'_>, servers: &[ServerSnapshot]) -> Result<(), Error> {
    // Each server says the same of its upstream.
    let groups = servers.chunk_by(|a, b| a.upstream == b.upstream);
    families.gauge(
        ("upstream_queued", "Sessions that wait because all servers have as many as they may"),
        groups.filter_map(|group| {
            let server = group.first()?;
            Some(([label("upstream", &server.upstream)], server.queued as u64))
        }),
    )
}

#[cfg(test)]
mod tests;
