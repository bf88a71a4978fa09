//! The descriptor budget: how many connections and pipes fit the limit on open
//! files, settled once at start and before anything listens.
//!
//! A relay that finds out under load that it has no descriptors left drops
//! connections; one whose pipe pool got nothing moves every byte by copying and
//! nobody notices. Both have happened to others, by a default that was computed
//! in passing. So the arithmetic stands here alone, has no side effect, and
//! never gives a budget without room for a connection and a pipe on each worker.
//!
//! It counts descriptors only. What the kernel gives to pipes in pages
//! (fs.pipe-user-pages-soft) is another limit: see `sosplice doctor`.

use crate::counted::counted;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors of the process as a whole: the three standard streams, the pair
/// of the signal handler, and room for what is opened in passing (a log that
/// is rotated, a file of /proc or of the name service that is read).
pub const PROCESS_DESCRIPTORS: u64 = 3 + 2 + 11;

/// Descriptors of one worker, its listeners aside: its epoll instance and the
/// second descriptor for it that the runtime keeps for registering, the eventfd
/// that wakes it, its end of the signal pair, one connection that waits for its turn,
/// the socket for the next one's upstream, and one to spare.
pub const WORKER_DESCRIPTORS: u64 = 7;

/// Descriptors of one pipe: its two ends.
pub const PIPE_DESCRIPTORS: u64 = 2;

/// Descriptors of one relayed connection: the client's and the upstream's.
pub const SESSION_DESCRIPTORS: u64 = 2;

/// Descriptors of one relayed connection to the built-in origin, whose own end
/// of it is in this process as well.
pub const ORIGIN_SESSION_DESCRIPTORS: u64 = 3;

/// Descriptors of one UDP session: the socket that is connected to its upstream.
pub const UDP_SESSION_DESCRIPTORS: u64 = 1;

/// Pipes that a worker wishes for when nobody says otherwise: flows in bulk hold
/// one only while bytes are in it, so a worker that runs one flow at a time
/// needs few, and a drain that is slow may keep one for long.
pub const PIPES_PER_WORKER_WISHED: u64 = sosplice::store::PIPES_MAX as u64;

/// The most that pipes may take of what is left after the fixed part, as a
/// divisor, when the limit is too low for both: pipes serve connections.
const PIPES_SHARE: u64 = 4;

/// What the budget is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The soft limit on open files (RLIMIT_NOFILE), as [`raise_nofile`] gives it.
    pub nofile: u64,
    /// Workers; 0 counts as 1.
    pub workers: u64,
    /// Listening sockets of each worker, that of the built-in origin included.
    pub listeners_per_worker: u64,
    /// Descriptors that one connection takes: [`SESSION_DESCRIPTORS`] or
    /// [`ORIGIN_SESSION_DESCRIPTORS`].
    pub per_session: u64,
    /// Pipes that each worker would like in its pool, at most; 0 counts as 1.
    pub pipes_per_worker: u64,
    /// Connections at once that the user asked for, all workers together.
    pub max_connections: Option<u64>,
    /// The flag that he asks by, for the errors.
    pub flag: &'static str,
}

/// What fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Connections at once, all workers together; at least 1.
    pub max_connections: u64,
    /// Pipes that exist at once on each worker, in use or in its pool; at least
    /// 1 and at most what was asked for. A flow that finds none is copied.
    pub pipes_per_worker: u64,
}

/// Why there is no budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// The limit does not even hold one connection and one pipe a worker.
    #[error(
        "the limit on open files is {nofile}, and for {} it has to be {needed} at least: \
         raise it (ulimit -n {needed}) or run fewer workers",
        counted(*workers, "worker")
    )]
    TooLow {
        /// The soft limit on open files.
        nofile: u64,
        /// The workers that were to run.
        workers: u64,
        /// The least limit that would do.
        needed: u64,
    },
    /// More connections were asked for than the limit holds.
    #[error(
        "{flag} {asked} needs a limit on open files of {needed}, and it is {nofile}, \
         enough for {fits}: raise it (ulimit -n {needed}) or ask for fewer"
    )]
    TooMany {
        /// The flag that asked.
        flag: &'static str,
        /// The connections asked for.
        asked: u64,
        /// The most that the present limit holds.
        fits: u64,
        /// The soft limit on open files.
        nofile: u64,
        /// The limit that holds them with all the pipes that were wished for.
        needed: u64,
    },
    /// A relay for no connection at all was asked for.
    #[error("{flag} 0 leaves nothing to relay: ask for at least 1")]
    None {
        /// The flag that asked.
        flag: &'static str,
    },
}

impl Demand {
    /// Settles how many connections and pipes fit.
    ///
    /// Without `max_connections`, pipes get what was wished for, but no more
    /// than a quarter of what the fixed part leaves, and connections the rest.
    /// With it, the connections come first and pipes shrink to what is left.
    ///
    /// # Errors
    ///
    /// [`BudgetError`], which names the limit that would do.
    pub fn budget(&self) -> Result<Budget, BudgetError> {
        let workers = self.workers.max(1);
        let per_session = self.per_session.max(1);
        // Of one pipe on every worker.
        let pipe_each = workers.saturating_mul(PIPE_DESCRIPTORS);
        let wished = self.pipes_per_worker.max(1);
        let fixed = WORKER_DESCRIPTORS
            .saturating_add(self.listeners_per_worker)
            .saturating_mul(workers)
            .saturating_add(PROCESS_DESCRIPTORS);
        let least = fixed.saturating_add(pipe_each).saturating_add(per_session);
        // A sum that ran into the end of its type is no sum.
        if self.nofile < least || least == u64::MAX {
            return Err(BudgetError::TooLow { nofile: self.nofile, workers, needed: least });
        }
        let left = self.nofile - fixed;
        match self.max_connections {
            None => {
                let pipes_per_worker = wished.min(left / PIPES_SHARE / pipe_each).max(1);
                let max_connections = (left - pipes_per_worker * pipe_each) / per_session;
                Ok(Budget { max_connections, pipes_per_worker })
            }
            Some(0) => Err(BudgetError::None { flag: self.flag }),
            Some(asked) => {
                let fits = (left - pipe_each) / per_session;
                let taken = asked.saturating_mul(per_session);
                if asked > fits {
                    return Err(BudgetError::TooMany {
                        flag: self.flag,
                        asked,
                        fits,
                        nofile: self.nofile,
                        needed: fixed
                            .saturating_add(wished.saturating_mul(pipe_each))
                            .saturating_add(taken),
                    });
                }
                Ok(Budget {
                    max_connections: asked,
                    pipes_per_worker: wished.min((left - taken) / pipe_each),
                })
            }
        }
    }
}

/// Raises the soft limit on open files of this process to its hard limit, and
/// returns the soft limit that then holds, in descriptors (`u64::MAX` for none).
///
/// # Errors
///
/// What setrlimit(2) says; the limit is then as it was.
pub fn raise_nofile() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if raised != limit {
        setrlimit(Resource::Nofile, raised)?;
    }
    Ok(raised.current.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Demand = Demand {
        nofile: 1024,
        workers: 2,
        listeners_per_worker: 1,
        per_session: SESSION_DESCRIPTORS,
        pipes_per_worker: 16,
        max_connections: None,
        flag: "--max-connections",
    };

    fn taken(demand: &Demand, budget: &Budget) -> u64 {
        let workers = demand.workers.max(1);
        PROCESS_DESCRIPTORS
            + workers * (WORKER_DESCRIPTORS + demand.listeners_per_worker)
            + workers * budget.pipes_per_worker * PIPE_DESCRIPTORS
            + budget.max_connections * demand.per_session
    }

    /// Every demand that a machine may make, on a grid of limits and workers.
    fn demands() -> impl Iterator<Item = Demand> {
        let limits = (0..300).chain([1024, 4096, 65_536, 1_048_576, 1 << 30]);
        limits.flat_map(|nofile| {
            [1, 2, 3, 16, 256].into_iter().flat_map(move |workers| {
                [0, 1, 16, 1024].into_iter().flat_map(move |pipes| {
                    [SESSION_DESCRIPTORS, ORIGIN_SESSION_DESCRIPTORS].map(|per_session| Demand {
                        nofile,
                        workers,
                        listeners_per_worker: 2,
                        per_session,
                        pipes_per_worker: pipes,
                        max_connections: None,
                        flag: "--max-connections",
                    })
                })
            })
        })
    }

    /// HAProxy once had a default of no pipes at all, so that nothing was spliced.
    #[test]
    fn defaults_always_leave_room_for_a_connection_and_a_pipe() {
        let mut fitted = 0;
        for demand in demands() {
            match demand.budget() {
                Ok(budget) => {
                    fitted += 1;
                    assert!(budget.max_connections >= 1, "{demand:?}: {budget:?}");
                    assert!(budget.pipes_per_worker >= 1, "{demand:?}: {budget:?}");
                    assert!(budget.pipes_per_worker <= demand.pipes_per_worker.max(1));
                    assert!(taken(&demand, &budget) <= demand.nofile, "{demand:?}");
                    // And nothing lies idle that another connection could have had.
                    assert!(demand.nofile - taken(&demand, &budget) < demand.per_session);
                }
                Err(BudgetError::TooLow { needed, .. }) => {
                    let just_enough = Demand { nofile: needed, ..demand };
                    assert!(demand.nofile < needed);
                    assert!(just_enough.budget().is_ok(), "{demand:?}");
                    let short = Demand { nofile: needed - 1, ..demand };
                    assert!(short.budget().is_err(), "{demand:?}");
                }
                Err(other) => panic!("{demand:?}: {other}"),
            }
        }
        assert!(fitted > 100);
    }

    /// And once did not start when pipes were limited and connections were not.
    #[test]
    fn pipes_without_max_connections_start_and_the_other_way_round() {
        let budget = Demand { pipes_per_worker: 10_000, ..USUAL };
        let budget = budget.budget().expect("a budget");
        assert!(budget.pipes_per_worker < 10_000 && budget.max_connections > 300);
        let budget = Demand { pipes_per_worker: 0, max_connections: Some(400), ..USUAL };
        let budget = budget.budget().expect("a budget");
        assert_eq!((budget.max_connections, budget.pipes_per_worker), (400, 1));
    }

    #[test]
    fn what_is_asked_for_is_given_or_refused_with_the_limit_that_would_do() {
        for asked in [1, 100, 480, 490, 497, 498, 499, 1_000_000, u64::MAX] {
            let demand = Demand { max_connections: Some(asked), ..USUAL };
            match demand.budget() {
                Ok(budget) => {
                    assert_eq!(budget.max_connections, asked);
                    assert!(budget.pipes_per_worker >= 1);
                    assert!(taken(&demand, &budget) <= demand.nofile);
                }
                Err(error @ BudgetError::TooMany { needed, fits, .. }) => {
                    assert!(fits < asked);
                    assert!(error.to_string().contains(&needed.to_string()));
                    let at_most = Demand { max_connections: Some(fits), ..demand };
                    assert!(at_most.budget().is_ok());
                    if needed < u64::MAX {
                        let raised = Demand { nofile: needed, ..demand };
                        let budget = raised.budget().expect("fits now");
                        assert_eq!(budget.pipes_per_worker, 16, "and with every pipe");
                    }
                }
                Err(other) => panic!("{asked}: {other}"),
            }
        }
        let nothing = Demand { max_connections: Some(0), ..USUAL };
        assert_eq!(nothing.budget(), Err(BudgetError::None { flag: "--max-connections" }));
    }

    #[test]
    fn no_limit_at_all_is_no_overflow() {
        let demand =
            Demand { nofile: u64::MAX, workers: u64::MAX, pipes_per_worker: u64::MAX, ..USUAL };
        assert!(demand.budget().is_err());
        let demand = Demand { nofile: u64::MAX, ..USUAL };
        assert_eq!(demand.budget().expect("a budget").pipes_per_worker, 16);
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!(raise_nofile().expect("raised"), hard);
        let soft = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert_eq!(soft, hard);
    }
}
