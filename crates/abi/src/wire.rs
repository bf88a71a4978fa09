//! What a process asks of the carrier, and the answer: five numbers each way, in one packet,
//! with descriptors or bytes beside them.
//!
//! The last number tells which question it is, and that the packet is one of ours: a careless
//! program may read from the connection or write to it under a number that it had closed. A
//! question without an answer is asked again under the same number, and done once.

use crate::domain::SlotId;
use std::time::Duration;

/// Largest piece of residue in one answer, in bytes.
pub const PIECE_BYTES: usize = 64 * 1024;

pub const MESSAGE_BYTES: usize = 40;

/// The high half of every packet's last number.
const OURS: u64 = 0x50F7_11CE << 32;

/// Tells a connection's questions apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn(pub u32);

impl Turn {
    fn word(self) -> u64 {
        OURS | u64::from(self.0)
    }

    fn of(word: u64) -> Option<Self> {
        (word >> 32 == OURS >> 32).then_some(Self(word as u32))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Comes with the eventfd on which ends are told.
    Hello,
    /// Comes with source and drain. A `max` of zero is none.
    Setup {
        max: u64,
        idle: Option<Duration>,
        own: Own,
    },
    Unsplice(SlotId),
    /// Bytes that the drain has accepted.
    Count(SlotId),
    /// This process has a descriptor of the socket.
    Hold(SlotId),
    /// It has none any more.
    Forget(SlotId),
    /// Bytes taken and not given: at most so many, left there with `peek`.
    Residue {
        slot: SlotId,
        len: u32,
        peek: bool,
    },
    /// The program has shut the socket down: `read` and `write` say which sides.
    Shutdown {
        slot: SlotId,
        read: bool,
        write: bool,
    },
    /// A child is about to be born that has what this process has. Comes with the child's
    /// connection and eventfd, or without, if there is no room for them.
    Fork,
    /// A descriptor of the socket goes to another process, which may not tell.
    Share(SlotId),
}

/// Which of a splice's sockets no process can have but this one, and those that its forks told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    pub source: bool,
    pub drain: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub errno: i32,
    pub setups: u32,
    pub source: u32,
    pub drain: u32,
    pub value: u64,
}

/// A question as the carrier hears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub request: Request,
    /// Who asks.
    pub pid: u32,
    pub turn: Turn,
}

const NO_IDLE: u64 = u64::MAX;

fn pack(words: [u64; 5]) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn unpack(bytes: &[u8; MESSAGE_BYTES]) -> [u64; 5] {
    let mut words = [0; 5];
    for (word, piece) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = piece.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    if cfg!(target_endian = "big") { words.map(u64::swap_bytes) } else { words }
}

impl Request {
    /// `pid` is who asks.
    pub fn encode(self, pid: u32, turn: Turn) -> [u8; MESSAGE_BYTES] {
        let mut words = match self {
            Self::Hello => [0, 0, 0, 0],
            Self::Setup { max, idle, own } => {
                // Half a million years is no limit either.
                let nanos =
                    idle.map_or(NO_IDLE, |idle| u64::try_from(idle.as_nanos()).unwrap_or(NO_IDLE));
                [1, max, nanos, u64::from(own.source) | u64::from(own.drain) << 1]
            }
            Self::Unsplice(slot) => [2, slot.0.into(), 0, 0],
            Self::Count(slot) => [3, slot.0.into(), 0, 0],
            Self::Hold(slot) => [4, slot.0.into(), 0, 0],
            Self::Forget(slot) => [5, slot.0.into(), 0, 0],
            Self::Residue { slot, len, peek } => [6, slot.0.into(), len.into(), peek.into()],
            Self::Shutdown { slot, read, write } => [7, slot.0.into(), read.into(), write.into()],
            Self::Fork => [8, 0, 0, 0],
            Self::Share(slot) => [9, slot.0.into(), 0, 0],
        };
        words[0] |= u64::from(pid) << 32;
        let [what, a, b, c] = words;
        pack([what, a, b, c, turn.word()])
    }

    /// None for what no version of this library says.
    pub fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Option<Question> {
        let [what, a, b, c, turn] = unpack(bytes);
        let turn = Turn::of(turn)?;
        let slot = SlotId(a as u32);
        let request = match what as u32 {
            0 => Self::Hello,
            1 => Self::Setup {
                max: a,
                idle: (b != NO_IDLE).then(|| Duration::from_nanos(b)),
                own: Own { source: c & 1 != 0, drain: c & 2 != 0 },
            },
            2 => Self::Unsplice(slot),
            3 => Self::Count(slot),
            4 => Self::Hold(slot),
            5 => Self::Forget(slot),
            6 => Self::Residue { slot, len: b as u32, peek: c != 0 },
            7 => Self::Shutdown { slot, read: b != 0, write: c != 0 },
            8 => Self::Fork,
            9 => Self::Share(slot),
            _ => return None,
        };
        Some(Question { request, pid: (what >> 32) as u32, turn })
    }
}

impl Reply {
    pub fn refused(errno: i32) -> Self {
        Self { errno, ..Self::default() }
    }

    pub fn encode(self, turn: Turn) -> [u8; MESSAGE_BYTES] {
        pack([
            u64::from(self.errno as u32) << 32 | u64::from(self.setups),
            u64::from(self.source) << 32 | u64::from(self.drain),
            self.value,
            0,
            turn.word(),
        ])
    }

    /// None for what no version of this library says.
    pub fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Option<(Self, Turn)> {
        let [a, b, value, _, turn] = unpack(bytes);
        let reply = Self {
            errno: (a >> 32) as i32,
            setups: a as u32,
            source: (b >> 32) as u32,
            drain: b as u32,
            value,
        };
        Some((reply, Turn::of(turn)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let slot = SlotId(7);
        let idle = Some(Duration::from_millis(5));
        for request in [
            Request::Hello,
            Request::Setup { max: u64::MAX >> 1, idle, own: Own { source: true, drain: false } },
            Request::Setup { max: 0, idle: None, own: Own { source: false, drain: true } },
            Request::Share(slot),
            Request::Unsplice(slot),
            Request::Count(slot),
            Request::Hold(slot),
            Request::Forget(slot),
            Request::Residue { slot, len: 12, peek: true },
            Request::Shutdown { slot, read: true, write: false },
            Request::Fork,
        ] {
            let question = Question { request, pid: 77, turn: Turn(u32::MAX) };
            assert_eq!(Request::decode(&request.encode(77, question.turn)), Some(question));
        }
        let reply = Reply { errno: 16, setups: 3, source: 4, drain: 5, value: 1 << 40 };
        assert_eq!(Reply::decode(&reply.encode(Turn(9))), Some((reply, Turn(9))));
        // What a careless program wrote is nobody's question.
        assert_eq!(Request::decode(&[0; MESSAGE_BYTES]), None);
        assert_eq!(Reply::decode(&[7; MESSAGE_BYTES]), None);
    }
}
