//! Who is served: at most so many, and whoever comes is. Too many of them, and the one goes that has
//! waited longest for its own request, slow or idle; where all are being answered, the one whose answer
//! takes longest.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// What a connection is at; those that are first here go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// No request is complete, or all were answered.
    Waiting,
    Answering,
}

/// When a connection has come to its phase, among all.
type Turn = (Phase, u64);

#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Dropped, the word tells its connection to go.
    words: BTreeMap<Turn, oneshot::Sender<Infallible>>,
    turns: u64,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    turn: Turn,
}

/// Done when the connection has lost its place.
pub(super) type Lost = oneshot::Receiver<Infallible>;

impl Places {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more, which waits for its request.
    pub(super) fn enter(self: &Arc<Self>) -> (Place, Lost) {
        let (word, lost) = oneshot::channel();
        let mut taken = self.taken();
        while taken.words.len() >= self.max {
            if taken.words.pop_first().is_none() {
                break;
            }
        }
        let turn = taken.insert(Phase::Waiting, word);
        drop(taken);
        (Place { places: Arc::clone(self), turn }, lost)
    }
}

impl Taken {
    fn insert(&mut self, phase: Phase, word: oneshot::Sender<Infallible>) -> Turn {
        self.turns += 1;
        let turn = (phase, self.turns);
        self.words.insert(turn, word);
        turn
    }
}

impl Place {
    pub(super) fn turn_to(&mut self, phase: Phase) {
        let mut taken = self.places.taken();
        // Without one it is about to go.
        if let Some(word) = taken.words.remove(&self.turn) {
            self.turn = taken.insert(phase, word);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().words.remove(&self.turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::error::TryRecvError;

    fn has_lost(lost: &mut Lost) -> bool {
        matches!(lost.try_recv(), Err(TryRecvError::Closed))
    }

    #[test]
    fn the_one_goes_that_has_waited_longest_and_those_being_answered_last() {
        let places = Places::new(3);
        let mut all: Vec<_> = (0..3).map(|_| places.enter()).collect();
        all[0].0.turn_to(Phase::Answering);
        all[1].0.turn_to(Phase::Answering);
        all[1].0.turn_to(Phase::Waiting);
        // By their turns: 2 waits, 1 waits, 0 is being answered.
        for gone in [[false, false, true], [false, true, true]] {
            all.push(places.enter());
            all.last_mut().expect("the last").0.turn_to(Phase::Answering);
            let lost: Vec<_> = all[..3].iter_mut().map(|(_, lost)| has_lost(lost)).collect();
            assert_eq!(lost, gone);
        }
        all.push(places.enter());
        let lost: Vec<_> = all.iter_mut().map(|(_, lost)| has_lost(lost)).collect();
        assert_eq!(lost, [true, true, true, false, false, false], "the longest of the answers");
    }

    #[test]
    fn who_leaves_makes_room_and_who_was_sent_away_does_not_come_back() {
        let places = Places::new(2);
        let (mut first, mut first_lost) = places.enter();
        let (second, _) = places.enter();
        drop(second);
        let (_third, mut third_lost) = places.enter();
        assert!(!has_lost(&mut first_lost) && !has_lost(&mut third_lost));
        let (_fourth, _) = places.enter();
        assert!(has_lost(&mut first_lost));
        first.turn_to(Phase::Answering);
        assert_eq!(places.taken().words.len(), 2);
        drop(first);
        assert_eq!(places.taken().words.len(), 2);
        assert!(!has_lost(&mut third_lost));
    }
}
