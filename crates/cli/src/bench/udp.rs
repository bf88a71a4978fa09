//! `sosplice bench udp`: what it can be asked.

use super::Error;
use super::contestants::UDP_PEERS;
use super::rounds::{self, Options};
use super::workload::Protocol;

/// Arguments of `sosplice bench udp`.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure: single64 single512 single1400 (one sender, a call a
    /// datagram; single for all three), gso1400 (a sender with UDP_SEGMENT), lone
    /// (one client asks and waits), clients (200 do), sessions (memory) [default: all]
    workloads: Vec<String>,
    /// Whom to measure beside sosplice: forward (the kernel forwarding packets:
    /// the bound), plain (a simple relay: a receive and a send call a datagram),
    /// nginx, socat, sosplice-copy, or none
    #[arg(long, value_delimiter = ',', default_value = UDP_PEERS)]
    peers: Vec<String>,
    #[command(flatten)]
    options: Options,
}

/// Runs `sosplice bench udp`.
pub fn run(args: &Args) -> Result<(), Error> {
    rounds::run(Protocol::Udp, &args.workloads, &args.peers, &args.options)
}
