//! Who holds a socket without having told: a process that never used the option, or that
//! has become another program by exec.

use super::sockets::Socket;
use super::{Carrier, TICK};
use crate::domain::{self, SlotId};
use crate::registrations::socket_link;
use rustix::fs::{CWD, Mode, OFlags, RawDir};
use std::collections::HashSet;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::time::Instant;

/// The sockets that the relatives have open, but for one of them.
fn open_sockets(but: u32) -> HashSet<u64> {
    let mut inodes = HashSet::new();
    for pid in domain::relatives().filter(|pid| *pid != but) {
        collect(pid, &mut inodes);
    }
    inodes
}

fn collect(pid: u32, inodes: &mut HashSet<u64>) {
    let Ok(path) = CString::new(format!("/proc/{pid}/fd")) else { return };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::openat(CWD, path, flags, Mode::empty()) else {
        // It is gone, and need not be asked again; or another user's: then it holds nothing
        // that we could know of.
        if !domain::is_alive(pid) {
            domain::part(pid);
        }
        return;
    };
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&dir, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let mut link = [MaybeUninit::uninit(); 64];
        if let Ok((link, _)) = rustix::fs::readlinkat_raw(&dir, entry.file_name(), &mut link) {
            inodes.extend(socket_link(link));
        }
    }
}

impl Carrier {
    /// A member has no descriptor of these any more; `but` is its process if it is still
    /// there. What nobody else holds is given up.
    pub fn release(&mut self, member: usize, ids: &[SlotId], but: u32) {
        let mut open = None;
        for &id in ids {
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            socket.holders.retain(|holder| usize::from(*holder) != member);
            if !socket.holders.is_empty() {
                continue;
            }
            // Nobody known: one look at the processes serves all.
            let open = open.get_or_insert_with(|| open_sockets(but));
            if open.contains(&socket.inode) {
                socket.is_held = true;
                self.tick.get_or_insert_with(|| Instant::now() + TICK);
            } else {
                self.discard(id);
            }
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
        let is_free = |id: &SlotId| !self.sockets.contains_key(id);
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
        open_sockets(0);
        assert!(!domain::relatives().any(|pid| pid == gone));
    }
}
