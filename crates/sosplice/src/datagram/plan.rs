//! How received messages go out again: which datagrams one system call carries, and which
//! of them as one message that the kernel cuts (UDP_SEGMENT).
//!
//! Pure: positions and lengths in, groups out. What always holds: the groups, cut at their
//! segment sizes and put one behind the other, are the datagrams that came, in their order,
//! each with its length (`tests` checks it for random input).

use super::Destination;
use super::batch::{Batch, Message};
use crate::end::Carried;
use crate::sys::send_groups;
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::io;

/// Datagrams in one message to the kernel: UDP_MAX_SEGMENTS of the oldest kernels
/// (include/linux/udp.h).
pub const SEGMENTS_MAX: usize = 64;

/// Bytes in one message to the kernel: the largest IPv4 packet without its headers.
pub const GROUP_BYTES_MAX: usize = 65_507;

/// What the drain can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ability {
    /// Segments up to so many bytes may be sent as one message; 0 for no UDP_SEGMENT.
    pub segment_max: u32,
    /// Several messages may go in one call (sendmmsg).
    pub many: bool,
}

impl Ability {
    /// Whatever the kernel has; what it refuses is found out by trying.
    pub const ALL: Self = Self { segment_max: u32::MAX, many: true };
    /// One call a datagram.
    pub const PLAIN: Self = Self { segment_max: 0, many: false };

    /// Takes back what the drain has just refused for the first group of `plan`; false
    /// where the error has nothing to do with it, and nothing would become of another try.
    pub fn lower(&mut self, error: &io::Error, plan: &Plan) -> bool {
        let Some(first) = plan.groups.first().filter(|group| group.datagrams > 1) else {
            return false;
        };
        match Errno::from_io_error(error) {
            // A segment with its headers must fit one packet of the path.
            Some(Errno::INVAL | Errno::MSGSIZE) => self.segment_max = first.segment - 1,
            // No checksum offload on the way, or a tunnel that cannot cut.
            Some(Errno::IO | Errno::OPNOTSUPP | Errno::NOPROTOOPT) => self.segment_max = 0,
            _ => return false,
        }
        true
    }
}

/// A contiguous part of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub(crate) at: u32,
    pub(crate) len: u32,
}

/// One message to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its pieces: so many, in order.
    pub(crate) pieces: u32,
    /// Bytes of all.
    pub(crate) bytes: u32,
    /// Where the kernel cuts it; `bytes` for a single datagram.
    pub(crate) segment: u32,
    pub(crate) datagrams: u32,
}

/// How far a batch has been sent: whole messages, and bytes of the next (always a
/// multiple of its segment).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub(crate) message: usize,
    pub(crate) offset: u32,
}

impl Position {
    /// Messages that are out as a whole.
    #[must_use]
    pub const fn whole(self) -> usize {
        self.message
    }

    /// The same place when those are gone from the front.
    #[must_use]
    pub const fn without_whole(self) -> Self {
        Self { message: 0, offset: self.offset }
    }
}

/// Groups that one call carries. Kept and filled again, so that planning allocates nothing.
#[derive(Debug, Default)]
pub struct Plan {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) groups: Vec<Group>,
    /// Where the batch stands when the first `n + 1` groups are out.
    pub(crate) behind: Vec<Position>,
}

/// Messages to the kernel in one call.
const GROUPS_MAX: usize = super::batch::MESSAGES_MAX;

impl Plan {
    /// Plans the next call for what lies behind `from` in `messages`.
    pub fn fill(&mut self, messages: &[Message], from: Position, ability: Ability) {
        self.pieces.clear();
        self.groups.clear();
        self.behind.clear();
        let groups_max = if ability.many { GROUPS_MAX } else { 1 };
        let mut at = from;
        let mut open: Option<Open> = None;
        while let Some(message) = messages.get(at.message) {
            let piece = open.as_mut().and_then(|open| open.room_for(*message, at.offset, ability));
            let piece = match piece {
                Some(piece) => piece,
                None => {
                    if let Some(open) = open.take() {
                        self.close(open, at);
                        if self.groups.len() == groups_max {
                            return;
                        }
                    }
                    let (begun, piece) = Open::begin(*message, at.offset, ability);
                    open = Some(begun);
                    piece
                }
            };
            self.pieces.push(piece);
            let done = piece.at + piece.len == message.at + message.len;
            at = if done {
                Position { message: at.message + 1, offset: 0 }
            } else {
                Position { message: at.message, offset: at.offset + piece.len }
            };
        }
        if let Some(open) = open {
            self.close(open, at);
        }
    }

    /// Nothing is left to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Sends the planned groups of `batch`, for which the plan was made; `to` is for a
    /// socket that is not connected. Returns how many groups the kernel took: at least one,
    /// or none because the drain is full.
    ///
    /// # Errors
    /// That of the first group, which was not sent: EMSGSIZE for a datagram that does not
    /// fit the address family or the send buffer; EINVAL or EIO where the path refuses the
    /// segment size; the socket's pending error, which is gone then.
    pub fn send<Fd: AsFd>(
        &self,
        fd: Fd,
        batch: &Batch,
        to: Option<&Destination>,
    ) -> io::Result<usize> {
        Ok(send_groups(fd, &batch.buffer, &self.pieces, &self.groups, to)?)
    }

    /// Datagrams of the first group: what is lost when it is left out.
    #[must_use]
    pub fn first_datagrams(&self) -> u64 {
        self.groups.first().map_or(0, |group| group.datagrams.into())
    }

    /// Where the batch stands when the first `count` groups are out.
    #[must_use]
    pub fn behind(&self, count: usize) -> Position {
        count.checked_sub(1).and_then(|last| self.behind.get(last)).copied().unwrap_or_default()
    }

    /// What the first `count` groups carry, when one call has taken them.
    #[must_use]
    pub fn carried(&self, count: usize) -> Carried {
        let mut carried = Carried::default();
        for group in &self.groups[..count.min(self.groups.len())] {
            let bytes = u64::from(group.bytes);
            carried.datagrams += u64::from(group.datagrams);
            if group.datagrams > 1 {
                carried.gso += bytes;
            } else if self.groups.len() > 1 {
                carried.mmsg += bytes;
            } else {
                carried.plain += bytes;
            }
        }
        carried
    }

    fn close(&mut self, open: Open, at: Position) {
        self.groups.push(open.group);
        self.behind.push(at);
    }
}

/// A group that may still grow.
struct Open {
    group: Group,
    /// No datagram behind a shorter one.
    closed: bool,
}

impl Open {
    fn begin(message: Message, offset: u32, ability: Ability) -> (Self, Piece) {
        let left = message.len - offset;
        let segment = message.segment.min(left);
        let mut open = Self {
            group: Group { pieces: 0, bytes: 0, segment, datagrams: 0 },
            // An empty datagram cannot be a segment.
            closed: segment == 0 || segment > ability.segment_max,
        };
        let datagrams = if open.closed { 1 } else { open.fitting(left) };
        let piece = open.add(message, offset, datagrams);
        (open, piece)
    }

    /// The part of the message that can join, if any can.
    fn room_for(&mut self, message: Message, offset: u32, ability: Ability) -> Option<Piece> {
        let left = message.len - offset;
        let segment = message.segment.min(left);
        if self.closed || segment == 0 || segment > self.group.segment || ability.segment_max == 0 {
            return None;
        }
        // A shorter datagram can only be the last.
        if segment < self.group.segment {
            let alone = left <= segment;
            let fits = self.group.datagrams < SEGMENTS_MAX as u32
                && self.group.bytes + left <= GROUP_BYTES_MAX as u32;
            return (alone && fits).then(|| self.add(message, offset, 1));
        }
        match self.fitting(left) {
            0 => None,
            datagrams => Some(self.add(message, offset, datagrams)),
        }
    }

    /// How many more datagrams of `left` bytes, cut at the group's segment, have room.
    fn fitting(&self, left: u32) -> u32 {
        let segment = self.group.segment;
        let all = left.div_ceil(segment);
        let by_count = SEGMENTS_MAX as u32 - self.group.datagrams;
        let room = (GROUP_BYTES_MAX as u32).saturating_sub(self.group.bytes);
        let by_bytes = if left <= room { all } else { room / segment };
        // The first always goes: the kernel is to say that it is too long.
        let least = u32::from(self.group.datagrams == 0);
        all.min(by_count).min(by_bytes).max(least)
    }

    fn add(&mut self, message: Message, offset: u32, datagrams: u32) -> Piece {
        let left = message.len - offset;
        let segment = message.segment.min(left);
        let len = (datagrams * segment).min(left);
        self.group.pieces += 1;
        self.group.bytes += len;
        self.group.datagrams += datagrams;
        // The last one was shorter than the others.
        if len < datagrams * self.group.segment {
            self.closed = true;
        }
        Piece { at: message.at + offset, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lengths that the messages stand for.
    fn datagrams(messages: &[Message]) -> Vec<(u32, u32)> {
        let mut all = Vec::new();
        for message in messages {
            let mut at = 0;
            loop {
                let len = message.segment.min(message.len - at);
                all.push((message.at + at, len));
                at += len;
                if at >= message.len {
                    break;
                }
            }
        }
        all
    }

    /// What the kernel sends for the first `count` groups: place and length of each.
    fn sent(plan: &Plan, count: usize) -> Vec<(u32, u32)> {
        let mut pieces = plan.pieces.iter();
        let mut all = Vec::new();
        for group in &plan.groups[..count] {
            let mut bytes = Vec::new();
            for piece in pieces.by_ref().take(group.pieces as usize) {
                bytes.extend(piece.at..piece.at + piece.len);
            }
            assert_eq!(bytes.len(), group.bytes as usize);
            let before = all.len();
            if bytes.is_empty() {
                all.push((u32::MAX, 0));
            }
            for cut in bytes.chunks(group.segment.max(1) as usize) {
                assert!(
                    cut.windows(2).all(|pair| pair[0] + 1 == pair[1]),
                    "one datagram, one place"
                );
                all.push((cut[0], cut.len() as u32));
            }
            assert_eq!(all.len() - before, group.datagrams as usize);
        }
        all
    }

    fn lengths(all: &[(u32, u32)]) -> Vec<(u32, u32)> {
        // An empty datagram has no place.
        all.iter().map(|&(at, len)| if len == 0 { (u32::MAX, 0) } else { (at, len) }).collect()
    }

    fn message() -> impl Strategy<Value = (u32, u32)> {
        let few = prop_oneof![Just(0), Just(1), Just(64), Just(512), Just(1400), 0..65_536_u32];
        let single = few.clone().prop_map(|len| (len, len));
        let joined =
            (prop_oneof![Just(64), Just(512), Just(1400), 1..2000_u32], 2..65_u32, any::<u32>())
                .prop_map(|(segment, count, tail)| {
                    let len = segment * (count - 1) + 1 + tail % segment;
                    if len > 65_535 { (segment, segment) } else { (len, segment) }
                });
        prop_oneof![3 => single, 2 => joined]
    }

    proptest! {
        #[test]
        fn what_goes_out_is_what_came_in(
            shapes in proptest::collection::vec(message(), 1..64),
            segment_max in prop_oneof![Just(0_u32), Just(1472), Just(65_507), 1..3000_u32],
            many: bool,
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let mut at = 0;
            let messages: Vec<_> = shapes.iter().map(|&(len, segment)| {
                at += 70_000;
                Message { at, len, segment }
            }).collect();
            let ability = Ability { segment_max, many };
            let (mut plan, mut position, mut all) = (Plan::default(), Position::default(), Vec::new());
            let mut calls = cuts.iter();
            loop {
                plan.fill(&messages, position, ability);
                if plan.groups.is_empty() {
                    break;
                }
                prop_assert!(many || plan.groups.len() == 1);
                for group in &plan.groups {
                    prop_assert!(group.datagrams as usize <= SEGMENTS_MAX);
                    prop_assert!(group.datagrams == 1 || group.bytes as usize <= GROUP_BYTES_MAX);
                    prop_assert!(group.datagrams == 1 || group.segment <= segment_max);
                }
                // The kernel takes some of them, at least one.
                let took = calls.next().map_or(plan.groups.len(), |cut| 1 + cut.index(plan.groups.len()));
                all.extend(sent(&plan, took));
                position = plan.behind[took - 1];
            }
            prop_assert_eq!(lengths(&all), lengths(&datagrams(&messages)));
            prop_assert_eq!(position, Position { message: messages.len(), offset: 0 });
        }
    }

    fn plan(shapes: &[(u32, u32)], ability: Ability) -> Vec<u32> {
        let messages: Vec<_> =
            shapes.iter().map(|&(len, segment)| Message { at: 0, len, segment }).collect();
        let mut plan = Plan::default();
        plan.fill(&messages, Position::default(), ability);
        plan.groups.iter().map(|group| group.datagrams).collect()
    }

    const ALL: Ability = Ability { segment_max: 65_507, many: true };

    #[test]
    fn equal_ones_go_together_with_one_shorter_behind_them() {
        assert_eq!(plan(&[(64, 64), (64, 64), (63, 63), (64, 64)], ALL), [3, 1]);
        assert_eq!(plan(&[(64, 64), (65, 65), (65, 65)], ALL), [1, 2]);
        assert_eq!(plan(&[(64, 64), (0, 0), (64, 64)], ALL), [1, 1, 1]);
    }

    #[test]
    fn what_came_joined_stays_joined() {
        assert_eq!(plan(&[(1400 * 45, 1400)], ALL), [45]);
        // 46 fit the bytes, and a second message fills the group up.
        assert_eq!(plan(&[(1400 * 45, 1400), (1400 * 45, 1400)], ALL), [46, 44]);
        assert_eq!(plan(&[(100 * 64, 100), (100, 100)], ALL), [64, 1]);
    }

    #[test]
    fn without_segments_each_is_a_message() {
        assert_eq!(plan(&[(300, 100), (64, 64)], Ability { segment_max: 0, many: true }), [1; 4]);
        assert_eq!(plan(&[(300, 100), (64, 64)], Ability { segment_max: 0, many: false }), [1]);
        assert_eq!(plan(&[(200, 100), (64, 64)], Ability { segment_max: 99, many: true }), [1; 3]);
    }
}
