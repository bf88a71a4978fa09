//! An announced connection as the broker knows it: who claims it, and the name under which
//! its other end is looked for.

use crate::wire::{Announcement, Reason};
use std::net::{IpAddr, SocketAddr};

/// One connection to the broker, of the members' among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64);

/// A user's number; none for one whom the broker's user namespace has no number for: two of
/// them look the same and may be different people.
pub type User = Option<u32>;

/// Whether the two are certainly one.
pub fn same_user(one: User, other: User) -> bool {
    one.is_some() && one == other
}

/// How far an address is a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In one network namespace: the same numbers mean something else in the next.
    Namespace,
    /// Everywhere among those who can reach the directory, but for addresses that no packet
    /// leaves its namespace with: loopback and link-local ones.
    Network,
}

/// An announced connection and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The member that announced it.
    pub member: Id,
    /// The member's name for it.
    pub token: u64,
    /// Whom the kernel says the member belongs to.
    pub user: User,
    /// The near end, with v4-mapped addresses as v4.
    pub local: SocketAddr,
    /// The far end, likewise.
    pub peer: SocketAddr,
    /// The namespace that the member says it is in.
    pub netns: u64,
    /// The ring's size that it would have; a sound one.
    pub ring_bytes: usize,
}

impl Claim {
    /// The reason is the claim's own fault.
    pub fn new(member: Id, user: User, said: &Announcement) -> Result<Self, Reason> {
        let (local, peer) = (plain(said.local), plain(said.peer));
        let usable = |address: SocketAddr| address.port() != 0 && !address.ip().is_unspecified();
        if !usable(local) || !usable(peer) {
            return Err(Reason::Unusable);
        }
        if local == peer {
            return Err(Reason::Itself);
        }
        let Announcement { token, netns, .. } = *said;
        Ok(Self { member, token, user, local, peer, netns, ring_bytes: said.ring_bytes as usize })
    }

    /// Its name.
    pub fn key(&self, scope: Scope) -> Key {
        let shared = scope == Scope::Network && leaves(self.local.ip()) && leaves(self.peer.ip());
        Key { netns: (!shared).then_some(self.netns), local: self.local, peer: self.peer }
    }
}

/// The name of one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    netns: Option<u64>,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Key {
    /// The other end's.
    pub fn mirrored(self) -> Self {
        Self { local: self.peer, peer: self.local, ..self }
    }
}

/// Without what differs between the two ends' views of one address.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether an address means the same in the next namespace.
fn leaves(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !link_local && !address.is_loopback()
}
