//! The sockets of a domain by the numbers of their records, and who holds each.
//!
//! An idle splice is worth what is kept of its two sockets, so nothing here doubles: records
//! are numbered from zero without gaps and used again, so a page of them is found by
//! arithmetic, and one page more is all that growth costs.

use super::sockets::Socket;
use crate::domain::SlotId;
use std::ops::Deref;

const PAGE: usize = 32;

type Page = Box<[Option<(SlotId, Socket)>; PAGE]>;

/// Pages are never given back: the next sockets get the same numbers.
#[derive(Default)]
pub struct Sockets {
    pages: Vec<Page>,
    len: usize,
}

impl Sockets {
    fn place(&self, id: SlotId) -> Option<&(SlotId, Socket)> {
        self.pages.get(id.0 as usize / PAGE)?[id.0 as usize % PAGE].as_ref()
    }

    pub fn get(&self, id: &SlotId) -> Option<&Socket> {
        self.place(*id).map(|(_, socket)| socket)
    }

    pub fn get_mut(&mut self, id: &SlotId) -> Option<&mut Socket> {
        let page = self.pages.get_mut(id.0 as usize / PAGE)?;
        page[id.0 as usize % PAGE].as_mut().map(|(_, socket)| socket)
    }

    pub fn insert(&mut self, id: SlotId, socket: Socket) {
        let place = id.0 as usize;
        while self.pages.len() <= place / PAGE {
            self.pages.push(Box::new([const { None }; PAGE]));
        }
        let before = self.pages[place / PAGE][place % PAGE].replace((id, socket));
        self.len += usize::from(before.is_none());
    }

    pub fn remove(&mut self, id: &SlotId) -> Option<Socket> {
        let page = self.pages.get_mut(id.0 as usize / PAGE)?;
        let (_, socket) = page[id.0 as usize % PAGE].take()?;
        self.len -= 1;
        Some(socket)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn iter(&self) -> impl Iterator<Item = (&SlotId, &Socket)> {
        self.pages.iter().flat_map(|page| page.iter().flatten()).map(|(id, socket)| (id, socket))
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Socket> {
        let places = self.pages.iter_mut().flat_map(|page| page.iter_mut().flatten());
        places.map(|(_, socket)| socket)
    }
}

/// The members that have a descriptor of a socket: nearly always one, which takes no memory
/// of its own.
#[derive(Debug, PartialEq, Eq)]
pub enum Holders {
    One(u16),
    Others(Box<[u16]>),
}

impl Default for Holders {
    fn default() -> Self {
        Self::Others(Box::default())
    }
}

impl Holders {
    pub fn push(&mut self, member: u16) {
        *self = match &**self {
            [] => Self::One(member),
            some => Self::Others(some.iter().copied().chain([member]).collect()),
        };
    }

    pub fn retain(&mut self, stays: impl Fn(&u16) -> bool) {
        if self.iter().all(&stays) {
            return;
        }
        *self = Self::Others(self.iter().copied().filter(stays).collect());
    }
}

impl Deref for Holders {
    type Target = [u16];

    fn deref(&self) -> &[u16] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Others(others) => others,
        }
    }
}

impl<'h> IntoIterator for &'h Holders {
    type Item = &'h u16;
    type IntoIter = std::slice::Iter<'h, u16>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_until_it_is_removed() {
        let mut sockets = Sockets::default();
        let ids: Vec<SlotId> = (0..100).rev().map(SlotId).collect();
        for id in &ids {
            sockets.insert(*id, Socket::new(u64::from(id.0)));
        }
        for (gone, id) in ids.iter().enumerate() {
            assert_eq!(sockets.len(), 100 - gone);
            assert_eq!(sockets.iter().count(), 100 - gone);
            assert_eq!(sockets.get(id).map(|socket| socket.inode), Some(u64::from(id.0)));
            assert!(sockets.remove(id).is_some() && sockets.remove(id).is_none());
            assert!(sockets.get(id).is_none());
        }
        assert!(sockets.get(&SlotId(1000)).is_none());
    }

    #[test]
    fn holders_come_and_go() {
        let mut holders = Holders::default();
        assert!(holders.is_empty());
        for member in [3, 5, 7] {
            holders.push(member);
            assert!(holders.contains(&member));
        }
        assert_eq!(*holders, [3, 5, 7]);
        for member in [5, 3, 7] {
            holders.retain(|holder| *holder != member);
            assert!(!holders.contains(&member));
        }
        assert!(holders.is_empty());
        holders.push(9);
        holders.retain(|_| false);
        assert!(holders.is_empty());
    }
}
