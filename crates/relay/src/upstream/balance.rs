//! How one server is chosen among those that are to be had.
//!
//! Pure: the candidates are given, and so is chance. Each policy looks at every candidate once and
//! allocates nothing; the number of servers is small, and what an index structure would save is
//! less than its upkeep while servers come, go and fill up.
//!
//! Why rendezvous hashing for [`Balance::Source`] and not a ring: each server has a score for each
//! client, the highest wins. When a server goes only its own clients have another highest, and
//! weights are exact, without virtual nodes to choose the number of. Nothing random is in it, so
//! every worker, and the next process, finds the same server.

use crate::plan::Balance;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// A server that a session could go to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// It may be chosen. The others are passed over for a moment, and lose no turn by it.
    pub(super) is_eligible: bool,
    /// Its place among the upstream's servers.
    pub(super) index: usize,
    /// 1 to 1000.
    pub(super) weight: u32,
    /// Running ones.
    pub(super) sessions: u64,
    /// The turn in which it was last chosen.
    pub(super) chosen: u64,
    /// See [`name_key`].
    pub(super) key: u64,
}

/// A policy, and what it remembers from choice to choice.
#[derive(Debug)]
pub(super) enum Chooser {
    /// The credit of each server. A lock, because a choice changes all of them; it is held for a
    /// few additions when a session begins.
    RoundRobin(Mutex<Vec<i64>>),
    LeastConnections,
    TwoChoices,
    Random,
    Source,
}

impl Chooser {
    pub(super) fn new(balance: Balance, servers: usize) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(Mutex::new(vec![0; servers])),
            Balance::LeastConnections => Self::LeastConnections,
            Balance::TwoChoices => Self::TwoChoices,
            Balance::Random => Self::Random,
            Balance::Source => Self::Source,
        }
    }

    /// The index of the one to take; None only where none is eligible. `below(n)` is a random
    /// number less than n.
    pub(super) fn choose(
        &self,
        candidates: impl Iterator<Item = Candidate>,
        client: IpAddr,
        below: impl FnMut(u64) -> u64,
    ) -> Option<usize> {
        let eligible = |candidate: &Candidate| candidate.is_eligible;
        match self {
            Self::RoundRobin(credit) => {
                let mut credit = credit.lock().unwrap_or_else(PoisonError::into_inner);
                round_robin(candidates, &mut credit)
            }
            Self::LeastConnections => least_connections(candidates.filter(eligible)),
            Self::TwoChoices => two_choices(candidates.filter(eligible), below),
            Self::Random => random(candidates.filter(eligible), below),
            Self::Source => source(candidates.filter(eligible), client),
        }
    }
}

/// Smooth weighted round-robin: each gets its weight as credit, the richest is chosen and pays for
/// all. So a heavy server's turns lie between those of the others, never in a row of their own.
fn round_robin(candidates: impl Iterator<Item = Candidate>, credit: &mut [i64]) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for candidate in candidates {
        let credit = credit.get_mut(candidate.index)?;
        *credit += i64::from(candidate.weight);
        total += i64::from(candidate.weight);
        if candidate.is_eligible && best.is_none_or(|(_, most)| *credit > most) {
            best = Some((candidate.index, *credit));
        }
    }
    let (index, _) = best?;
    credit[index] -= total;
    // While every server is eligible this changes nothing. One that is passed over gets its turn later,
    // but not all that it missed at once.
    credit.iter_mut().for_each(|credit| *credit = (*credit).clamp(-total, total));
    Some(index)
}

/// Whether `a` has fewer sessions for its weight than `b`.
fn is_less_loaded(a: &Candidate, b: &Candidate) -> bool {
    load(a, b).is_lt()
}

/// Sessions divided by weight, compared without the division.
fn load(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    let scaled =
        |of: &Candidate, other: &Candidate| u128::from(of.sessions) * u128::from(other.weight);
    scaled(a, b).cmp(&scaled(b, a))
}

fn least_connections(candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
    // Among equals the one whose last turn is longest ago: with a common counter instead, the
    // neighbour of a busy server would get that one's turns too.
    let least = candidates.min_by(|a, b| load(a, b).then(a.chosen.cmp(&b.chosen)))?;
    Some(least.index)
}

fn two_choices(
    candidates: impl Iterator<Item = Candidate>,
    mut below: impl FnMut(u64) -> u64,
) -> Option<usize> {
    // Two of unknown many, evenly, in one pass (reservoir sampling), and in either order.
    let mut two: [Option<Candidate>; 2] = [None, None];
    for (seen, candidate) in (1u64..).zip(candidates) {
        let place = below(seen) as usize;
        if seen == 2 && place == 0 {
            two.swap(0, 1);
            two[0] = Some(candidate);
        } else if seen <= 2 {
            two[seen as usize - 1] = Some(candidate);
        } else if place < 2 {
            two[place] = Some(candidate);
        }
    }
    let [first, second] = two;
    let first = first?;
    match second {
        Some(second) if is_less_loaded(&second, &first) => Some(second.index),
        _ => Some(first.index),
    }
}

fn random(
    candidates: impl Iterator<Item = Candidate>,
    mut below: impl FnMut(u64) -> u64,
) -> Option<usize> {
    let mut total = 0;
    let mut chosen = None;
    for candidate in candidates {
        total += u64::from(candidate.weight);
        // Each takes the place of those before it with its share of all so far.
        if below(total) < u64::from(candidate.weight) {
            chosen = Some(candidate.index);
        }
    }
    chosen
}

fn source(candidates: impl Iterator<Item = Candidate>, client: IpAddr) -> Option<usize> {
    let client = client_key(client);
    let score = |candidate: &Candidate| {
        // A number evenly between 0 and 1, neither included; the exponential of rate `weight`
        // that comes first wins, which is so with a chance of weight to all weights.
        let even = ((mix(client ^ candidate.key) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        even.ln() / f64::from(candidate.weight)
    };
    let mut best: Option<(usize, f64)> = None;
    for candidate in candidates {
        let score = score(&candidate);
        if best.is_none_or(|(_, highest)| score > highest) {
            best = Some((candidate.index, score));
        }
    }
    best.map(|(index, _)| index)
}

/// What stands for a server in the source hash. By its name, so that another address of the same
/// server, or another order in the file, moves nobody.
pub(super) fn name_key(name: &str) -> u64 {
    // FNV-1a; mixed, because short names leave its high bits alike.
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

fn client_key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(ip) => mix(u64::from(ip.to_bits())),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            mix(mix((bits >> 64) as u64) ^ bits as u64)
        }
    }
}

/// The finalizer of SplitMix64: each bit of the input changes each of the output with even chance.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
