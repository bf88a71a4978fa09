//! What a member and the broker say to each other: fixed records, little-endian, one a packet.
//!
//! Decoding is strict: what is not exactly a record that this version writes is none. So
//! nothing that comes from outside is read in two ways, and a record has one form. Whoever
//! speaks another version is no member, and its connections stay on TCP.
//!
//! Operators' requests (enable, disable, status) come on the same socket as text behind
//! [`CONTROL`]; the broker alone reads them (`broker/control.rs`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Both sides must be of the same.
pub const VERSION: u32 = 1;

/// The socket's name in the rendezvous directory.
pub const SOCKET: &str = "broker.sock";

/// Bytes of each request.
pub const REQUEST_BYTES: usize = 80;
/// Bytes of each reply.
pub const REPLY_BYTES: usize = 24;

/// First word of an operator's request.
pub const CONTROL: u32 = u32::from_le_bytes(*b"ctl1");

/// A connection that its owner would have paired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The member's name for it; it comes back in the offer.
    pub token: u64,
    /// What getsockname says.
    pub local: SocketAddr,
    /// What getpeername says.
    pub peer: SocketAddr,
    /// Inode of the network namespace in which the addresses are meant.
    pub netns: u64,
    /// The ring's size that the member would have.
    pub ring_bytes: u64,
}

/// What a member says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// I am a member. Answered with [`Reply::Welcome`] and the memory of the mail word.
    Hello,
    /// My process will be, or will have, a member: be there as long as it lives. Answered
    /// with [`Reply::Welcome`].
    Expect,
    /// Find this connection's other end. Answered when it is found, or refused.
    Announce(Announcement),
    /// The connection of this token has ended, or will not pair. Not answered.
    Withdraw {
        /// The announcement's.
        token: u64,
    },
}

/// What the broker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a hello.
    Welcome,
    /// The other end was found; the pair's memory comes with it.
    Offer {
        /// The announcement's.
        token: u64,
        /// 0 for the end that writes the first lane, 1 for the other.
        role: u32,
        /// Size of each ring.
        ring_bytes: u64,
    },
    /// The connection stays on TCP.
    Refused {
        /// The announcement's.
        token: u64,
        /// Why.
        reason: Reason,
    },
}

/// Why a connection stays on TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Pairing is switched off.
    Disabled,
    /// The process is in none of the policy's cgroups.
    Cgroup,
    /// Neither port is one of the policy's.
    Port,
    /// The policy wants loopback addresses only.
    NotLoopback,
    /// The ends belong to different users, and whose sockets they are cannot be shown.
    DifferentUsers,
    /// Nobody has announced the other end.
    NotAnnounced,
    /// An end could not attach to the memory.
    RefusedByEnd,
    /// Too many pairs, announcements or bytes of memory.
    Limit,
    /// The socket is connected to itself.
    Itself,
    /// The addresses are none of a connection.
    Unusable,
    /// The same connection was announced again.
    Replaced,
    /// An end leaves its offers unread.
    MailUnread,
    /// The kernel gave no memory, or no descriptor for it.
    NoMemory,
}

impl Reason {
    /// All of them, in the order of their numbers (1, 2, ...).
    pub const ALL: [Self; 13] = [
        Self::Disabled,
        Self::Cgroup,
        Self::Port,
        Self::NotLoopback,
        Self::DifferentUsers,
        Self::NotAnnounced,
        Self::RefusedByEnd,
        Self::Limit,
        Self::Itself,
        Self::Unusable,
        Self::Replaced,
        Self::MailUnread,
        Self::NoMemory,
    ];

    /// As `status` shows it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Cgroup => "cgroup",
            Self::Port => "port",
            Self::NotLoopback => "not loopback",
            Self::DifferentUsers => "different users",
            Self::NotAnnounced => "peer has not announced",
            Self::RefusedByEnd => "refused by an end",
            Self::Limit => "limit",
            Self::Itself => "connected to itself",
            Self::Unusable => "unusable address",
            Self::Replaced => "announced again",
            Self::MailUnread => "an end leaves its mail unread",
            Self::NoMemory => "no memory",
        }
    }

    fn number(self) -> u32 {
        Self::ALL.iter().zip(1..).find(|(reason, _)| **reason == self).map_or(0, |(_, at)| at)
    }

    fn of_number(number: u32) -> Option<Self> {
        Self::ALL.get((number as usize).checked_sub(1)?).copied()
    }
}

const HELLO: u32 = 1;
const EXPECT: u32 = 2;
const ANNOUNCE: u32 = 3;
const WITHDRAW: u32 = 4;

const WELCOME: u32 = 1;
const OFFER: u32 = 2;
const REFUSED: u32 = 3;

impl Request {
    /// The record.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut record = Record([0; REQUEST_BYTES]);
        match self {
            Self::Hello => record.put32(0, HELLO).put32(4, VERSION),
            Self::Expect => record.put32(0, EXPECT).put32(4, VERSION),
            Self::Announce(announcement) => record
                .put32(0, ANNOUNCE)
                .put64(8, announcement.token)
                .put64(16, announcement.netns)
                .put64(24, announcement.ring_bytes)
                .put_address(32, announcement.local)
                .put_address(56, announcement.peer),
            Self::Withdraw { token } => record.put32(0, WITHDRAW).put64(8, *token),
        };
        record.0
    }

    /// None for what this version does not write.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let record = Record::<REQUEST_BYTES>(bytes.try_into().ok()?);
        let request = match record.get32(0) {
            HELLO => Self::Hello,
            EXPECT => Self::Expect,
            ANNOUNCE => Self::Announce(Announcement {
                token: record.get64(8),
                netns: record.get64(16),
                ring_bytes: record.get64(24),
                local: record.get_address(32)?,
                peer: record.get_address(56)?,
            }),
            WITHDRAW => Self::Withdraw { token: record.get64(8) },
            _ => return None,
        };
        // The version, and that nothing else is in it.
        (request.encode() == record.0).then_some(request)
    }
}

impl Reply {
    /// The record.
    pub fn encode(&self) -> [u8; REPLY_BYTES] {
        let mut record = Record([0; REPLY_BYTES]);
        match self {
            Self::Welcome => record.put32(0, WELCOME).put32(4, VERSION),
            Self::Offer { token, role, ring_bytes } => {
                record.put32(0, OFFER).put32(4, *role).put64(8, *token).put64(16, *ring_bytes)
            }
            Self::Refused { token, reason } => {
                record.put32(0, REFUSED).put32(4, reason.number()).put64(8, *token)
            }
        };
        record.0
    }

    /// None for what this version does not write.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let record = Record::<REPLY_BYTES>(bytes.try_into().ok()?);
        let (token, word) = (record.get64(8), record.get32(4));
        let reply = match record.get32(0) {
            WELCOME => Self::Welcome,
            OFFER if word < 2 => Self::Offer { token, role: word, ring_bytes: record.get64(16) },
            REFUSED => Self::Refused { token, reason: Reason::of_number(word)? },
            _ => return None,
        };
        (reply.encode() == record.0).then_some(reply)
    }
}

/// Bytes with numbers at fixed places.
struct Record<const N: usize>([u8; N]);

impl<const N: usize> Record<N> {
    fn put<const M: usize>(&mut self, at: usize, bytes: [u8; M]) -> &mut Self {
        self.0[at..at + M].copy_from_slice(&bytes);
        self
    }

    fn get<const M: usize>(&self, at: usize) -> [u8; M] {
        std::array::from_fn(|index| self.0[at + index])
    }

    fn put32(&mut self, at: usize, number: u32) -> &mut Self {
        self.put(at, number.to_le_bytes())
    }

    fn get32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    fn put64(&mut self, at: usize, number: u64) -> &mut Self {
        self.put(at, number.to_le_bytes())
    }

    fn get64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.get(at))
    }

    /// Family (4 or 6), port, scope, and 16 bytes of address. The flow label is not the
    /// connection's name and is left out.
    fn put_address(&mut self, at: usize, address: SocketAddr) -> &mut Self {
        let (family, scope) = match address {
            SocketAddr::V4(_) => (4_u16, 0),
            SocketAddr::V6(address) => (6, address.scope_id()),
        };
        self.put(at, family.to_le_bytes())
            .put(at + 2, address.port().to_le_bytes())
            .put32(at + 4, scope);
        match address.ip() {
            IpAddr::V4(ip) => self.put(at + 8, ip.octets()),
            IpAddr::V6(ip) => self.put(at + 8, ip.octets()),
        }
    }

    fn get_address(&self, at: usize) -> Option<SocketAddr> {
        let port = u16::from_le_bytes(self.get(at + 2));
        match u16::from_le_bytes(self.get(at)) {
            4 => Some((Ipv4Addr::from(self.get::<4>(at + 8)), port).into()),
            6 => {
                let ip = Ipv6Addr::from(self.get::<16>(at + 8));
                Some(SocketAddrV6::new(ip, port, 0, self.get32(at + 4)).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses() -> impl Strategy<Value = SocketAddr> {
        let scoped = (any::<[u8; 16]>(), any::<u16>(), any::<u32>())
            .prop_map(|(ip, port, scope)| SocketAddrV6::new(ip.into(), port, 0, scope).into());
        prop_oneof![(any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from), scoped]
    }

    fn requests() -> impl Strategy<Value = Request> {
        let announce = (any::<[u64; 3]>(), addresses(), addresses()).prop_map(
            |([token, netns, ring_bytes], local, peer)| {
                Request::Announce(Announcement { token, local, peer, netns, ring_bytes })
            },
        );
        let withdraw = any::<u64>().prop_map(|token| Request::Withdraw { token });
        prop_oneof![Just(Request::Hello), Just(Request::Expect), announce, withdraw]
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let offer = (any::<u64>(), 0_u32..2, any::<u64>())
            .prop_map(|(token, role, ring_bytes)| Reply::Offer { token, role, ring_bytes });
        let refused = (any::<u64>(), proptest::sample::select(Reason::ALL.to_vec()))
            .prop_map(|(token, reason)| Reply::Refused { token, reason });
        prop_oneof![Just(Reply::Welcome), offer, refused]
    }

    /// Mostly a record with a few bytes changed: random bytes seldom get past the first word.
    fn damaged<const N: usize>(
        whole: impl Strategy<Value = [u8; N]>,
    ) -> impl Strategy<Value = Vec<u8>> {
        let damage = proptest::collection::vec((0..N, any::<u8>()), 0..4);
        (whole, damage, 0..=N).prop_map(|(mut bytes, damage, end)| {
            for (at, byte) in &damage {
                bytes[*at] = *byte;
            }
            let len = if damage.len() == 3 { end } else { N };
            bytes[..len].to_vec()
        })
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard(request in requests(), reply in replies()) {
            prop_assert_eq!(Request::decode(&request.encode()), Some(request));
            prop_assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }

        #[test]
        fn bytes_are_one_record_or_none(
            asked in damaged(requests().prop_map(|request| request.encode())),
            said in damaged(replies().prop_map(|reply| reply.encode())),
            any: Vec<u8>,
        ) {
            for bytes in [&asked, &said, &any] {
                crate::examine::ring_packet(bytes);
            }
        }
    }

    #[test]
    fn every_reason_has_a_number_and_a_text_of_its_own() {
        let texts: std::collections::BTreeSet<_> = Reason::ALL.map(Reason::text).into();
        assert_eq!(texts.len(), Reason::ALL.len());
        for (reason, number) in Reason::ALL.into_iter().zip(1..) {
            assert_eq!((reason.number(), Reason::of_number(number)), (number, Some(reason)));
        }
        assert_eq!(Reason::of_number(0), None);
    }
}
