//! Load generators: this binary, re-executed inside a namespace.
//!
//! They share two cores with the relay they measure, so they are light: one
//! connection is served by plain blocking calls (read, write, nothing else),
//! many by one epoll thread a side, with one write and one read a message as
//! long as the socket takes it whole. Messages are fixed size. The content of a
//! stream is not looked at: correctness is what the tests are for. That of a
//! datagram is ([`udp::datagram`]), because a relay that drops, cuts or mixes up
//! datagrams looks fast otherwise.

mod client;
mod same_host;
mod server;
mod udp;

use std::net::SocketAddrV4;
use std::time::Duration;

use super::Error;
use super::netns::{progress, say};

/// Arguments of the hidden `bench load`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Answers every SIZE bytes with SIZE bytes
    Serve {
        listen: SocketAddrV4,
        #[arg(long)]
        size: usize,
        /// A blocking thread a connection, rather than one epoll thread
        #[arg(long)]
        threads: bool,
    },
    /// Request and response on connections that stay
    Rr {
        target: SocketAddrV4,
        #[arg(long)]
        size: usize,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        seconds: f64,
    },
    /// Connect, one request, one response, close
    Conn {
        target: SocketAddrV4,
        #[arg(long)]
        size: usize,
        #[arg(long)]
        in_flight: usize,
        #[arg(long)]
        seconds: f64,
    },
    /// Connections that pass one byte each way and then nothing
    Idle {
        target: SocketAddrV4,
        #[arg(long)]
        count: usize,
    },
    /// Answers one connection, SIZE bytes by SIZE bytes, with blocking calls
    Pong {
        listen: SocketAddrV4,
        #[arg(long)]
        size: usize,
        /// By asking again and again instead
        #[arg(long)]
        spin: bool,
    },
    /// Asks a pong
    Ping {
        target: SocketAddrV4,
        #[arg(long)]
        size: usize,
        #[arg(long)]
        seconds: f64,
        /// By asking again and again instead
        #[arg(long)]
        spin: bool,
    },
    /// Takes all that one connection brings, in pieces of SIZE bytes
    Drink {
        listen: SocketAddrV4,
        #[arg(long)]
        size: usize,
    },
    /// Sends to a drink, messages of SIZE bytes
    Pour {
        target: SocketAddrV4,
        #[arg(long)]
        size: usize,
        #[arg(long)]
        seconds: f64,
    },
    /// Counts the datagrams of a flood until no more come
    Sink {
        listen: SocketAddrV4,
        #[arg(long)]
        size: usize,
        /// Takes what arrives together as one
        #[arg(long)]
        gro: bool,
    },
    /// Datagrams one way, as fast as one socket sends them
    Flood {
        target: SocketAddrV4,
        #[arg(long)]
        size: usize,
        #[arg(long)]
        seconds: f64,
        /// As many datagrams a call as UDP_SEGMENT takes, rather than one
        #[arg(long)]
        gso: bool,
    },
    /// Answers every datagram with itself
    Echo { listen: SocketAddrV4 },
    /// Request and response of one datagram
    Ask {
        target: SocketAddrV4,
        #[arg(long)]
        clients: usize,
        #[arg(long)]
        seconds: f64,
    },
    /// Sessions that pass one datagram each way and then nothing
    Sessions {
        target: SocketAddrV4,
        #[arg(long)]
        count: usize,
    },
}

/// Runs the hidden `bench load`; prints what was counted as one JSON line.
pub fn run(args: Args) -> Result<(), Error> {
    let load = Error::io("load");
    match args.what {
        What::Serve { listen, size, threads } => {
            if threads { server::serve_threads(listen, size) } else { server::serve(listen, size) }
        }
        .map_err(load),
        What::Rr { target, size, connections, seconds } => {
            let time = Duration::from_secs_f64(seconds);
            let tally = if connections == 1 {
                client::rr_one(target, size, time)
            } else {
                client::rr_many(target, size, connections, time)
            };
            print(tally.map_err(load)?)
        }
        What::Conn { target, size, in_flight, seconds } => {
            let time = Duration::from_secs_f64(seconds);
            print(client::conn(target, size, in_flight, time).map_err(load)?)
        }
        What::Idle { target, count } => {
            let held = client::open_idle(target, count).map_err(load)?;
            hold(&held, "connections")
        }
        What::Pong { listen, size, spin } => {
            same_host::pong(listen, size, waits(spin)).map_err(load)
        }
        What::Ping { target, size, seconds, spin } => {
            let time = Duration::from_secs_f64(seconds);
            print(same_host::ping(target, size, time, waits(spin)).map_err(load)?)
        }
        What::Drink { listen, size } => {
            say(&same_host::drink(listen, size).map_err(load)?.to_string())
        }
        What::Pour { target, size, seconds } => {
            let time = Duration::from_secs_f64(seconds);
            say(&same_host::pour(target, size, time).map_err(load)?.to_string())
        }
        What::Sink { listen, size, gro } => {
            let receive = if gro { udp::Receive::Gathered } else { udp::Receive::Each };
            say(&udp::sink(listen, size, receive).map_err(load)?.to_string())
        }
        What::Flood { target, size, seconds, gso } => {
            let time = Duration::from_secs_f64(seconds);
            let burst = if gso { udp::Burst::Segments } else { udp::Burst::One };
            say(&udp::flood(target, size, burst, time).map_err(load)?.to_string())
        }
        What::Echo { listen } => udp::echo(listen).map_err(load),
        What::Ask { target, clients, seconds } => {
            let time = Duration::from_secs_f64(seconds);
            let tally = if clients == 1 {
                udp::ask_one(target, time)
            } else {
                udp::ask_many(target, clients, time)
            };
            print(tally.map_err(load)?)
        }
        What::Sessions { target, count } => {
            let held = udp::open_sessions(target, count).map_err(load)?;
            hold(&held, "sessions")
        }
    }
}

fn waits(spin: bool) -> same_host::Waits {
    if spin { same_host::Waits::Spinning } else { same_host::Waits::Blocking }
}

/// Says that all are open, and keeps them until killed; bounded should the
/// benchmark have died.
fn hold<Socket>(held: &[Socket], what: &str) -> Result<(), Error> {
    progress(&format!("{} {what} open", held.len()));
    say(READY)?;
    std::thread::sleep(Duration::from_secs(120));
    Ok(())
}

/// What a client prints once all its connections or sessions are open.
pub const READY: &str = "ready";

/// What a client counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Transactions done.
    pub count: u64,
    /// Transactions that failed (`conn`) or were not answered (`ask`); elsewhere a
    /// failure ends the run.
    pub errors: u64,
    /// Answers that were not what was sent (`ask`).
    pub corrupt: u64,
    /// Answers to a question before the one that was asked last (`ask`).
    pub late: u64,
    /// How long it took.
    pub seconds: f64,
    /// Latency of each transaction, ns.
    latency_ns: Vec<u32>,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            // Enough for ten seconds of a direct path, so that growing the
            // vector does not show as latency.
            latency_ns: Vec::with_capacity(2 << 20),
            ..Tally::default()
        }
    }

    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.latency_ns.push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
    }

    /// The latency below which this share of the transactions stayed, us.
    fn percentile_us(&mut self, share: f64) -> f64 {
        let last = self.latency_ns.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        if self.latency_ns.is_empty() {
            return 0.0;
        }
        let (_, value, _) = self.latency_ns.select_nth_unstable(at);
        f64::from(*value) / 1e3
    }
}

fn print(mut tally: Tally) -> Result<(), Error> {
    let report = serde_json::json!({
        "count": tally.count,
        "errors": tally.errors,
        "corrupt": tally.corrupt,
        "late": tally.late,
        "seconds": tally.seconds,
        "p50_us": tally.percentile_us(0.50),
        "p99_us": tally.percentile_us(0.99),
    });
    say(&report.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_row() {
        let mut tally =
            Tally { latency_ns: (0..=100).rev().map(|us| us * 1000).collect(), ..Tally::default() };
        assert_eq!(tally.percentile_us(0.50), 50.0);
        assert_eq!(tally.percentile_us(0.99), 99.0);
        assert_eq!(Tally::default().percentile_us(0.99), 0.0);
    }
}
