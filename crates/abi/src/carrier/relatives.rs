//! Who holds a socket without having told: a process that never used the option, or that
//! has become another program by exec.
//!
//! A relative may have thousands of descriptors, and each look at one is a system call. So a
//! search goes on in slices between the turns of the splices, serves all sockets that are in
//! question when it begins, and who closes waits for its end. Sockets whose splices are over
//! wait for the next tick: nothing ends with them.

use super::sockets::Socket;
use super::{Carrier, TICK};
use crate::domain::{self, SlotId};
use crate::registrations::socket_link;
use crate::wire::{Reply, Turn};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, RawDir};
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::time::Instant;

/// Room for the names of a slice: some forty descriptors, a fraction of a millisecond.
const SLICE_BYTES: usize = 1024;

/// Sockets that nobody known holds, and those who wait to hear of them.
#[derive(Default)]
pub struct Search {
    /// By inode.
    wanted: HashMap<u64, Wanted>,
    /// Members and their questions.
    asked_by: Vec<(usize, Turn)>,
    /// Processes that were looked at, or are being.
    seen: HashSet<u32>,
    place: Option<Place>,
}

struct Wanted {
    id: SlotId,
    /// Processes that are about to close theirs.
    but: Vec<u32>,
    is_found: bool,
}

/// Where the search is.
struct Place {
    pid: u32,
    dir: OwnedFd,
}

/// How a slice left the search.
enum Left {
    More,
    Nothing,
}

impl Search {
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    fn want(&mut self, id: SlotId, inode: u64, but: u32) {
        let new = Wanted { id, but: Vec::new(), is_found: false };
        self.wanted.entry(inode).or_insert(new).but.push(but);
    }

    /// Looks at a few descriptors of a process.
    fn slice(&mut self) -> Left {
        if self.wanted.values().all(|wanted| wanted.is_found) {
            return Left::Nothing;
        }
        if self.place.is_none() {
            // Also those that were born since it began.
            let Some(pid) = domain::relatives().find(|pid| !self.seen.contains(pid)) else {
                return Left::Nothing;
            };
            self.seen.insert(pid);
            self.place = open(pid);
            return Left::More;
        }
        if let Some(Place { pid, dir }) = &self.place
            && !look(*pid, dir, &mut self.wanted)
        {
            self.place = None;
        }
        Left::More
    }
}

fn open(pid: u32) -> Option<Place> {
    let path = CString::new(format!("/proc/{pid}/fd")).ok()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::openat(CWD, path, flags, Mode::empty()) else {
        // It is gone, and need not be asked again; or another user's: then it holds nothing
        // that we could know of.
        if !domain::is_alive(pid) {
            domain::part(pid);
        }
        return None;
    };
    Some(Place { pid, dir })
}

/// A slice of a process's descriptors. False behind the last.
fn look(pid: u32, dir: &OwnedFd, wanted: &mut HashMap<u64, Wanted>) -> bool {
    let mut buffer = [MaybeUninit::uninit(); SLICE_BYTES];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let mut link = [MaybeUninit::uninit(); 64];
        if let Ok((link, _)) = rustix::fs::readlinkat_raw(dir, entry.file_name(), &mut link)
            && let Some(inode) = socket_link(link)
            && let Some(wanted) = wanted.get_mut(&inode)
        {
            wanted.is_found |= !wanted.but.contains(&pid);
        }
        if entries.is_buffer_empty() {
            return true;
        }
    }
    false
}

impl Carrier {
    /// A member has no descriptor of these any more; `but` is its process if it is still
    /// there. What nobody else holds is given up. True if that is still to be found out.
    pub fn release(&mut self, member: usize, ids: &[SlotId], but: u32) -> bool {
        let mut is_open = false;
        let has_others = domain::relatives().any(|pid| pid != but);
        for &id in ids {
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            socket.holders.retain(|holder| usize::from(*holder) != member);
            if !socket.holders.is_empty() {
                continue;
            }
            if socket.is_own || !has_others {
                self.discard(id);
            } else if socket.is_idle() && !socket.is_held {
                socket.is_held = true;
                self.tick.get_or_insert_with(|| Instant::now() + TICK);
            } else {
                self.next_search.want(id, socket.inode, but);
                is_open = true;
            }
        }
        is_open
    }

    /// The answer to this question is the end of the search that has just been asked for.
    pub fn defer(&mut self, member: usize, turn: Turn) {
        self.next_search.asked_by.push((member, turn));
    }

    /// A member is gone, and waits for nothing.
    pub fn forget_questions(&mut self, member: usize) {
        for search in [&mut self.search, &mut self.next_search] {
            search.asked_by.retain(|(asker, _)| *asker != member);
        }
    }

    pub fn is_searching(&self) -> bool {
        !self.search.is_empty() || !self.next_search.is_empty()
    }

    /// A slice of the search, if there is one.
    pub fn search_on(&mut self) {
        if self.search.is_empty() {
            self.search = std::mem::take(&mut self.next_search);
        }
        if self.search.is_empty() || matches!(self.search.slice(), Left::More) {
            return;
        }
        let Search { wanted, asked_by, .. } = std::mem::take(&mut self.search);
        for (inode, Wanted { id, is_found, .. }) in wanted {
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            // Somebody may have told meanwhile, or the record be another's.
            if socket.inode != inode || !socket.holders.is_empty() {
                continue;
            }
            if is_found {
                socket.is_held = true;
                self.tick.get_or_insert_with(|| Instant::now() + TICK);
            } else {
                self.discard(id);
            }
        }
        for (member, turn) in asked_by {
            self.tell(member, turn, Reply::default(), Vec::new());
        }
    }

    /// The records of a carrier that has died, under their old numbers. Who holds the sockets
    /// will say so, or be looked for.
    pub fn take_over(&mut self, heritage: Vec<(SlotId, u64)>) {
        self.unused = domain::used();
        for (id, inode) in heritage {
            self.sockets.insert(id, Socket { is_held: true, ..Socket::new(inode) });
            self.tick.get_or_insert_with(|| Instant::now() + TICK);
        }
        let is_free = |id: &SlotId| self.sockets.get(id).is_none();
        self.free = (0..self.unused).map(SlotId).filter(is_free).collect();
    }

    /// Looks whether sockets that were held are so still.
    pub fn look_after_held(&mut self) {
        let held: Vec<SlotId> = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.is_held && socket.holders.is_empty())
            .map(|(id, _)| *id)
            .collect();
        self.tick = None;
        if !held.is_empty() {
            self.release(usize::MAX, &held, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_is_asked_once() {
        // The largest process id is below (proc(5), pid_max).
        let gone = 1 << 23;
        domain::enter_relative(gone);
        assert!(domain::relatives().any(|pid| pid == gone));
        let mut search = Search::default();
        search.want(SlotId(0), 1, 0);
        while matches!(search.slice(), Left::More) {}
        assert!(!domain::relatives().any(|pid| pid == gone));
    }

    #[test]
    fn every_slice_is_small_and_all_together_find_it() {
        let near: Vec<_> = (0..300).map(|_| std::net::UdpSocket::bind("127.0.0.1:0")).collect();
        let last = near.last().and_then(|socket| socket.as_ref().ok()).map(inode);
        let pid = std::process::id();
        for but in [0, pid] {
            let mut search = Search::default();
            search.want(SlotId(0), last.flatten().unwrap_or(0), but);
            search.place = open(pid);
            let mut slices = 0;
            while search.place.is_some() {
                search.slice();
                slices += 1;
                if search.wanted.values().all(|wanted| wanted.is_found) {
                    break;
                }
            }
            assert!(slices > 300 * 24 / SLICE_BYTES, "{slices}");
            assert_eq!(search.wanted.values().all(|wanted| wanted.is_found), but == 0);
        }
    }

    fn inode(socket: &std::net::UdpSocket) -> Option<u64> {
        crate::sys::socket_inode(std::os::fd::AsRawFd::as_raw_fd(socket))
    }
}
