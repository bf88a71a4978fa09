//! Sessions by client: found by address, kept in the order of their last use.
//!
//! Pure: it knows neither sockets nor time. Slots are reused; the order is a list through
//! the slots, so a touch is a few stores and nothing is ever searched.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// Whose session: the client, and which of our addresses it speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    ip: [u8; 16],
    to: [u8; 16],
    scope: u32,
    port: u16,
}

impl Key {
    pub(super) fn new(from: SocketAddr, to: Option<IpAddr>) -> Self {
        let bytes = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let scope = match from {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(from) => from.scope_id(),
        };
        Self { ip: bytes(from.ip()), to: to.map_or([0; 16], bytes), scope, port: from.port() }
    }
}

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot<S> {
    key: Key,
    session: S,
    /// Used after this one.
    newer: u32,
    /// Used before this one.
    older: u32,
}

/// The sessions of one worker.
#[derive(Debug)]
pub(super) struct Table<S> {
    slots: Vec<Option<Slot<S>>>,
    free: Vec<u32>,
    by_key: HashMap<Key, u32>,
    newest: u32,
    oldest: u32,
}

impl<S> Table<S> {
    pub(super) fn new() -> Self {
        let by_key = HashMap::new();
        Self { slots: Vec::new(), free: Vec::new(), by_key, newest: NONE, oldest: NONE }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut S> {
        self.slots.get_mut(slot as usize)?.as_mut().map(|slot| &mut slot.session)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&S> {
        self.slots.get(slot as usize)?.as_ref().map(|slot| &slot.session)
    }

    /// Each with its slot, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &S)> {
        let all = (0u32..).zip(&self.slots);
        all.filter_map(|(at, slot)| Some((at, &slot.as_ref()?.session)))
    }

    /// The slot that the next session will have.
    pub(super) fn next_slot(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.slots.len() as u32)
    }

    /// Adds a session as the newest, in [`next_slot`](Self::next_slot). The key is new.
    pub(super) fn insert(&mut self, key: Key, session: S) -> u32 {
        let at = self.next_slot();
        if self.free.pop().is_none() {
            self.slots.push(None);
        }
        self.slots[at as usize] = Some(Slot { key, session, newer: NONE, older: NONE });
        self.by_key.insert(key, at);
        self.link(at);
        at
    }

    /// Makes it the newest.
    pub(super) fn touch(&mut self, slot: u32) {
        if self.newest != slot {
            self.unlink(slot);
            self.link(slot);
        }
    }

    /// The least recently used.
    pub(super) fn oldest(&self) -> Option<(u32, &S)> {
        let slot = self.slots.get(self.oldest as usize)?.as_ref()?;
        Some((self.oldest, &slot.session))
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<S> {
        self.slots.get(slot as usize)?.as_ref()?;
        self.unlink(slot);
        let gone = self.slots[slot as usize].take()?;
        self.by_key.remove(&gone.key);
        self.free.push(slot);
        Some(gone.session)
    }

    fn at(&mut self, slot: u32) -> Option<&mut Slot<S>> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    fn link(&mut self, slot: u32) {
        let older = self.newest;
        if let Some(this) = self.at(slot) {
            (this.older, this.newer) = (older, NONE);
        }
        match self.at(older) {
            Some(older) => older.newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let Some(this) = self.at(slot) else { return };
        let (older, newer) = (this.older, this.newer);
        match self.at(older) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.at(newer) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> Key {
        Key::new(SocketAddr::from(([127, 0, 0, 1], port)), None)
    }

    #[test]
    fn the_oldest_is_the_least_recently_used() {
        let mut table = Table::new();
        let slots: Vec<u32> = (0..4).map(|port| table.insert(key(port), port)).collect();
        table.touch(slots[0]);
        table.touch(slots[2]);
        table.touch(slots[2]);
        let mut order = Vec::new();
        while let Some((slot, _)) = table.oldest() {
            order.extend(table.remove(slot));
        }
        assert_eq!(order, [1, 3, 0, 2]);
        assert_eq!((table.len(), table.remove(0)), (0, None));
    }

    #[test]
    fn a_slot_is_used_again_and_its_old_key_forgotten() {
        let mut table = Table::new();
        let first = table.insert(key(1), 1);
        table.insert(key(2), 2);
        assert_eq!(table.remove(first), Some(1));
        assert_eq!(table.find(&key(1)), None);
        assert_eq!(table.next_slot(), first);
        assert_eq!(table.insert(key(3), 3), first);
        assert_eq!(table.find(&key(3)), Some(first));
        assert_eq!(table.oldest().map(|(_, port)| *port), Some(2));
    }

    #[test]
    fn a_client_that_speaks_to_two_of_our_addresses_has_two_sessions() {
        let from = SocketAddr::from(([10, 0, 0, 1], 53));
        let to = |last| Some(IpAddr::from([10, 0, 0, last]));
        assert_ne!(Key::new(from, to(2)), Key::new(from, to(3)));
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:53".parse().unwrap_or(from);
        assert_eq!(Key::new(from, to(2)), Key::new(mapped, to(2)));
    }
}
