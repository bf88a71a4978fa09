//! `sosplice bench tcp`: what it can be asked.

use super::Error;
use super::contestants::TCP_PEERS;
use super::rounds::{self, Options};
use super::workload::Protocol;

/// Arguments of `sosplice bench tcp`.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure: stream1 stream8 rr64x1 rr64x32 rr16kx1 rr16kx32 conn
    /// idle, or stream, rr for all of that kind [default: all]
    workloads: Vec<String>,
    /// Whom to measure beside sosplice: forward (the kernel forwarding
    /// packets: the bound), haproxy-splice, haproxy-copy (haproxy: both),
    /// nginx, socat, sosplice-copy, sosplice-pipe, sosplice-reno (with --congestion reno), or none
    #[arg(long, value_delimiter = ',', default_value = TCP_PEERS)]
    peers: Vec<String>,
    #[command(flatten)]
    options: Options,
}

/// Runs `sosplice bench tcp`.
pub fn run(args: &Args) -> Result<(), Error> {
    rounds::run(Protocol::Tcp, &args.workloads, &args.peers, &args.options)
}
