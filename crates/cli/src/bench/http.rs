//! `sosplice bench http`: what it can be asked.

use super::Error;
use super::contestants::HTTP_PEERS;
use super::rounds::{self, Options};
use super::workload::Protocol;

/// Arguments of `sosplice bench http`.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure, on connections that are kept: get1kx32 get1kx64 (answers of 1 KiB on so
    /// many connections; get1k for both), get64kx16, get1mx8, put1mx8 (uploads) [default: all]
    workloads: Vec<String>,
    /// Whom to measure beside sosplice: forward (the kernel forwarding packets: no relay),
    /// haproxy-splice, haproxy-copy (haproxy: both), nginx (as a proxy that keeps its
    /// connections), sosplice-copy, sosplice-pipe, sosplice-reno (with --congestion reno), or none
    #[arg(long, value_delimiter = ',', default_value = HTTP_PEERS)]
    peers: Vec<String>,
    #[command(flatten)]
    options: Options,
}

/// Runs `sosplice bench http`.
pub fn run(args: &Args) -> Result<(), Error> {
    rounds::run(Protocol::Http, &args.workloads, &args.peers, &args.options)
}
