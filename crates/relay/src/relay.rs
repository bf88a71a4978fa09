//! Start and stop.

use crate::error::Error;
use crate::upstream::{Balance, Pool, Target};
use crate::{listener, worker};
use sosplice::Limits;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a relay is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where to go.
    pub targets: Vec<Target>,
    /// How to choose among them.
    pub balance: Balance,
    /// Limits of each session.
    pub limits: Limits,
    /// How long a connect may take.
    pub connect_timeout: Duration,
    /// Threads.
    pub workers: usize,
}

/// What all workers read.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pool: Pool,
    pub(crate) limits: Limits,
    pub(crate) connect_timeout: Duration,
}

/// A relay.
pub struct Relay;

impl Relay {
    /// Runs.
    pub fn run(config: Config) -> Result<(), Error> {
        let addrs = config.targets.iter().map(Target::resolve).collect::<Result<_, _>>()?;
        let listeners = listener::bind(config.listen, config.workers)?;
        let shared = Arc::new(Shared {
            pool: Pool::new(addrs, config.balance),
            limits: config.limits,
            connect_timeout: config.connect_timeout,
        });
        let threads: Vec<_> = listeners
            .into_iter()
            .map(|l| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || worker::run(shared, l))
            })
            .collect();
        for t in threads {
            let _ = t.join();
        }
        Ok(())
    }
}
