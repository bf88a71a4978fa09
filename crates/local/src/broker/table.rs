//! Who waits for whom: announced connections by name, and which of them are paired.
//!
//! Pure: no descriptor, no clock. Bounded: an announcement beyond the limits is refused, and
//! the others keep their places. Claims on one connection by different users stand side by
//! side, so that nobody takes another's place by claiming what is not his.

use super::claim::{Claim, Id, Key, Scope, User, same_user};
use crate::wire::Reason;
use std::collections::{BTreeMap, HashMap};

/// A pair's name, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairId(pub u64);

/// How many announcements may wait.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Of one member.
    pub of_member: usize,
    /// Of one user's members.
    pub of_user: usize,
    /// Of all.
    pub of_all: usize,
}

/// Whose socket it is that a claim names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This user's.
    User(u32),
    /// There is no such socket.
    Nobody,
    /// It cannot be told from here.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Waiting(Key),
    Paired(PairId),
}

/// What came of an announcement or a withdrawal.
#[derive(Debug, Default)]
pub struct Change {
    /// Pairs that have ended with it.
    pub ended: Vec<PairId>,
    /// Claims that wait no more, and stay on TCP.
    pub refused: Vec<(Claim, Reason)>,
    /// Claims that were withdrawn before their other end was announced.
    pub withdrawn: usize,
    /// The two ends of one connection, the one that was announced first in front. They are
    /// in the table no more.
    pub matched: Option<[Claim; 2]>,
}

/// The announced connections.
#[derive(Debug)]
pub struct Table {
    scope: Scope,
    room: Room,
    waiting: HashMap<Key, Vec<Claim>>,
    places: BTreeMap<(Id, u64), Place>,
    of_member: HashMap<Id, usize>,
    of_user: HashMap<User, usize>,
    count: usize,
}

impl Table {
    /// An empty one.
    pub fn new(scope: Scope, room: Room) -> Self {
        Self {
            scope,
            room,
            waiting: HashMap::new(),
            places: BTreeMap::new(),
            of_member: HashMap::new(),
            of_user: HashMap::new(),
            count: 0,
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.count
    }

    /// How many of a member's wait.
    pub fn waiting_of(&self, member: Id) -> usize {
        self.of_member.get(&member).copied().unwrap_or(0)
    }

    /// A new claim: it is matched, waits, or is refused. `owner` is asked only where the two
    /// ends belong to different users.
    pub fn announce(&mut self, claim: Claim, owner: impl FnMut(&Claim) -> Owner) -> Change {
        let mut change = self.withdraw(claim.member, claim.token);
        let key = claim.key(self.scope);
        for other in self.at(key, |other| other.user == claim.user) {
            self.take_away(key, &other);
            change.refused.push((other, Reason::Replaced));
        }
        match self.find(key.mirrored(), &claim, owner, &mut change) {
            Ok(Some(other)) => change.matched = Some([other, claim]),
            Ok(None) if self.is_full_for(&claim) => change.refused.push((claim, Reason::Limit)),
            Ok(None) => self.put(key, claim),
            Err(reason) => change.refused.push((claim, reason)),
        }
        change
    }

    /// Other members whose claims would be this one's other end.
    pub fn matching(&self, claim: &Claim) -> Vec<Id> {
        let ends = self.waiting.get(&claim.key(self.scope).mirrored());
        let members = ends.into_iter().flatten().map(|other| other.member);
        members.filter(|member| *member != claim.member).collect()
    }

    /// The member's token waits, or is paired.
    pub fn has(&self, member: Id, token: u64) -> bool {
        self.places.contains_key(&(member, token))
    }

    /// The token is nobody's any more.
    pub fn withdraw(&mut self, member: Id, token: u64) -> Change {
        let mut change = Change::default();
        match self.places.get(&(member, token)).copied() {
            Some(Place::Paired(pair)) => {
                self.places.remove(&(member, token));
                change.ended.push(pair);
            }
            Some(Place::Waiting(key)) => {
                let is_it = |other: &Claim| other.member == member && other.token == token;
                for claim in self.at(key, is_it) {
                    self.take_away(key, &claim);
                    change.withdrawn += 1;
                }
            }
            None => {}
        }
        change
    }

    /// The member is gone, and all of its tokens.
    pub fn hang_up(&mut self, member: Id) -> Change {
        let mut change = Change::default();
        let tokens = self.places.range((member, 0)..=(member, u64::MAX));
        for token in tokens.map(|((_, token), _)| *token).collect::<Vec<_>>() {
            let one = self.withdraw(member, token);
            change.ended.extend(one.ended);
            change.withdrawn += one.withdrawn;
        }
        change
    }

    /// The two of a match have become a pair.
    pub fn paired(&mut self, pair: PairId, ends: &[Claim; 2]) {
        for end in ends {
            self.places.insert((end.member, end.token), Place::Paired(pair));
        }
    }

    /// A pair has ended: its tokens are nobody's.
    pub fn unpaired(&mut self, pair: PairId, ends: &[Claim; 2]) {
        for end in ends {
            let at = (end.member, end.token);
            // The token may have a new connection by now.
            if matches!(self.places.get(&at), Some(Place::Paired(other)) if *other == pair) {
                self.places.remove(&at);
            }
        }
    }

    /// Refuses those who wait and for whom there is a reason to.
    pub fn sift(&mut self, mut reason: impl FnMut(&Claim) -> Option<Reason>) -> Change {
        let all: Vec<Claim> = self.waiting.values().flatten().copied().collect();
        let mut change = Change::default();
        for claim in all {
            if let Some(reason) = reason(&claim) {
                self.take_away(claim.key(self.scope), &claim);
                change.refused.push((claim, reason));
            }
        }
        change
    }

    /// The claim on the other end. One of the same user needs no proof. Otherwise each of
    /// the two must be the owner of the socket that it names; who is shown not to be is
    /// refused, and only he.
    fn find(
        &mut self,
        key: Key,
        claim: &Claim,
        mut owner: impl FnMut(&Claim) -> Owner,
        change: &mut Change,
    ) -> Result<Option<Claim>, Reason> {
        if let [other, ..] = self.at(key, |other| same_user(other.user, claim.user))[..] {
            self.take_away(key, &other);
            return Ok(Some(other));
        }
        let others = self.at(key, |_| true);
        if others.is_empty() {
            return Ok(None);
        }
        let own = prove(claim, &mut owner);
        if own == Proof::Refuted {
            return Err(Reason::DifferentUsers);
        }
        for other in others {
            let proof = if own == Proof::None { own } else { prove(&other, &mut owner) };
            self.take_away(key, &other);
            if proof == Proof::Given {
                return Ok(Some(other));
            }
            change.refused.push((other, Reason::DifferentUsers));
        }
        if own == Proof::Given { Ok(None) } else { Err(Reason::DifferentUsers) }
    }

    fn at(&self, key: Key, wanted: impl Fn(&Claim) -> bool) -> Vec<Claim> {
        let there = self.waiting.get(&key).map_or(&[][..], Vec::as_slice);
        there.iter().filter(|claim| wanted(claim)).copied().collect()
    }

    fn is_full_for(&self, claim: &Claim) -> bool {
        self.count >= self.room.of_all
            || self.waiting_of(claim.member) >= self.room.of_member
            || self.of_user.get(&claim.user).is_some_and(|count| *count >= self.room.of_user)
    }

    fn put(&mut self, key: Key, claim: Claim) {
        self.places.insert((claim.member, claim.token), Place::Waiting(key));
        self.waiting.entry(key).or_default().push(claim);
        *self.of_member.entry(claim.member).or_default() += 1;
        *self.of_user.entry(claim.user).or_default() += 1;
        self.count += 1;
    }

    fn take_away(&mut self, key: Key, claim: &Claim) {
        self.places.remove(&(claim.member, claim.token));
        if let Some(there) = self.waiting.get_mut(&key) {
            there.retain(|other| other != claim);
            if there.is_empty() {
                self.waiting.remove(&key);
            }
        }
        count_down(&mut self.of_member, claim.member);
        count_down(&mut self.of_user, claim.user);
        self.count -= 1;
    }
}

fn count_down<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, of: K) {
    if let Some(count) = counts.get_mut(&of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&of);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    Given,
    /// It is shown to be another's, or no socket.
    Refuted,
    /// Nothing is shown.
    None,
}

fn prove(claim: &Claim, owner: &mut impl FnMut(&Claim) -> Owner) -> Proof {
    match owner(claim) {
        Owner::User(user) if same_user(Some(user), claim.user) => Proof::Given,
        Owner::User(_) | Owner::Nobody => Proof::Refuted,
        Owner::Unknown => Proof::None,
    }
}

#[cfg(test)]
#[path = "table/tests.rs"]
mod tests;
