//! A process's part in the rendezvous: it announces connections, and gets offers of memory.
//!
//! After [`Member::join`] nothing here waits: what cannot be said at once is not said, and
//! the connection stays on TCP. Whether there is news is one load of a word that the broker
//! counts up *behind* each packet that it sends; so a count that was seen has its packet there.
//!
//! Nothing here calls a function of libc that the preload library takes the place of, and no
//! descriptor is closed through libc.

use crate::descriptor::Descriptor;
use crate::layout::{Header, MAGIC, pair_bytes};
use crate::packet;
use crate::settings::ring_bytes_are_sound;
use crate::wire::{Announcement, REPLY_BYTES, Reason, Reply, Request};
use rustix::fd::{AsFd, BorrowedFd, RawFd};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{RecvFlags, SendFlags};
use std::ffi::c_void;
use std::mem::offset_of;
use std::net::SocketAddr;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long each step of joining (connect, answer) may take.
pub const JOIN_WITHIN: Duration = Duration::from_millis(200);

/// Signals that joining lives through.
const INTERRUPTIONS_MAX: usize = 8;

/// Bytes of the memory that holds the mail word.
pub const MAIL_BYTES: usize = 4096;

/// The process's connection to the broker.
#[derive(Debug)]
pub struct Member {
    connection: AtomicI32,
    /// Counted up by the broker; mapped for reading.
    mail: NonNull<AtomicU32>,
    /// The word's value when the connection was last found empty.
    seen: AtomicU32,
}

// SAFETY: the mapping lives as long as the value and is only read, atomically.
unsafe impl Send for Member {}
// SAFETY: as above; the connection's calls are each one packet.
unsafe impl Sync for Member {}

/// What the broker had to say about a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Mail {
    /// Its other end was found.
    Offer {
        /// The announcement's.
        token: u64,
        /// Which end this is: 0 writes the first lane, 1 the second.
        role: usize,
        /// Size of each ring.
        ring_bytes: usize,
        /// The pair's memory, for [`map`]; the receiver's to close.
        memory: RawFd,
    },
    /// It stays on TCP.
    Refused {
        /// The announcement's.
        token: u64,
        /// Why.
        reason: Reason,
    },
}

impl Member {
    /// Connects to the directory's broker. The one call that waits, twice [`JOIN_WITHIN`] at
    /// the longest. ENOENT or ECONNREFUSED: there is none; EPROTO: it speaks another version.
    pub fn join(dir: &Path) -> Result<Self, Errno> {
        let connection = packet::connect(dir, JOIN_WITHIN)?;
        packet::send(connection.as_fd(), &Request::Hello.encode(), None, SendFlags::empty())?;
        let mut bytes = [0; REPLY_BYTES];
        // Each try waits anew, so a program with a fast timer must not try for ever.
        let mut received = Err(Errno::INTR);
        for _ in 0..INTERRUPTIONS_MAX {
            received = packet::receive(connection.as_fd(), &mut bytes, RecvFlags::empty());
            if !matches!(received, Err(Errno::INTR)) {
                break;
            }
        }
        let (len, memory) = received?;
        let memory = match Reply::decode(&bytes[..len]) {
            Some(Reply::Welcome) => memory.ok_or(Errno::PROTO)?,
            _ => return Err(Errno::PROTO),
        };
        let mail = map_mail(&memory)?;
        let connection = AtomicI32::new(connection.into_raw());
        Ok(Self { connection, mail, seen: AtomicU32::new(0) })
    }

    /// Asks for the other end of a connection. `ring_bytes` is a power of two between the
    /// limits of the layout. A token that is in use is taken from its earlier connection.
    pub fn announce(
        &self,
        token: u64,
        local: SocketAddr,
        peer: SocketAddr,
        netns: u64,
        ring_bytes: u64,
    ) -> Result<(), Errno> {
        self.say(&Request::Announce(Announcement { token, local, peer, netns, ring_bytes }))
    }

    /// The connection has ended, or will not pair. What cannot be said now is told by the end
    /// of this process.
    pub fn withdraw(&self, token: u64) {
        let _ = self.say(&Request::Withdraw { token });
    }

    /// Whether [`Member::next`] may have something.
    pub fn has_mail(&self) -> bool {
        self.word() != self.seen.load(Ordering::Relaxed)
    }

    /// The next piece of mail; none when there is no more, or the broker is gone.
    pub fn next(&self) -> Option<Mail> {
        loop {
            // Before the look: what is counted after it is found by the next.
            let word = self.word();
            let mut bytes = [0; REPLY_BYTES];
            match packet::receive(self.connection(), &mut bytes, RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                Err(_) | Ok((0, _)) => {
                    self.seen.store(word, Ordering::Relaxed);
                    return None;
                }
                Ok((len, memory)) => {
                    if let Some(mail) = self.understand(&bytes[..len], memory) {
                        return Some(mail);
                    }
                }
            }
        }
    }

    /// The descriptors that this holds.
    pub fn raw_fds(&self) -> [RawFd; 1] {
        [self.connection.load(Ordering::Relaxed)]
    }

    /// Gives the connection another number: `to` gets the present one, and gives back the
    /// one under which the same socket is open from now on. The present one is then the
    /// caller's.
    pub fn renumber(&self, to: impl FnOnce(RawFd) -> RawFd) {
        let moved = to(self.connection.load(Ordering::Relaxed));
        self.connection.store(moved, Ordering::Relaxed);
    }

    /// In a forked child: lets go of the parent's membership, which goes on.
    pub fn abandon(self) {
        // The parent's descriptor keeps the connection; the broker hears nothing.
        drop(self);
    }

    fn say(&self, request: &Request) -> Result<(), Errno> {
        packet::send(self.connection(), &request.encode(), None, SendFlags::DONTWAIT)
    }

    /// None for what does not concern a connection.
    fn understand(&self, bytes: &[u8], memory: Option<Descriptor>) -> Option<Mail> {
        match (Reply::decode(bytes)?, memory) {
            (Reply::Offer { token, role, ring_bytes }, Some(memory)) => Some(Mail::Offer {
                token,
                role: role as usize,
                ring_bytes: usize::try_from(ring_bytes).ok()?,
                memory: memory.into_raw(),
            }),
            // This process had no descriptor left for it.
            (Reply::Offer { token, .. }, None) => {
                self.withdraw(token);
                Some(Mail::Refused { token, reason: Reason::NoMemory })
            }
            (Reply::Refused { token, reason }, _) => Some(Mail::Refused { token, reason }),
            (Reply::Welcome, _) => None,
        }
    }

    fn word(&self) -> u32 {
        // SAFETY: mapped, aligned, and sealed against shrinking.
        unsafe { self.mail.as_ref() }.load(Ordering::Acquire)
    }

    fn connection(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as this lives; a program that closes what is not its own gets EBADF.
        unsafe { BorrowedFd::borrow_raw(self.connection.load(Ordering::Relaxed)) }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // SAFETY: mapped by this value, and nobody has a reference any more.
        let _ = unsafe { rustix::mm::munmap(self.mail.as_ptr().cast(), MAIL_BYTES) };
        // SAFETY: this value's to close.
        unsafe { rustix::io::close(*self.connection.get_mut()) };
    }
}

/// Whoever has the memory could cut it, and the next load would be a bus error.
fn is_sealed(memory: &Descriptor, bytes: usize) -> Result<(), Errno> {
    let needed = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW;
    if !rustix::fs::fcntl_get_seals(memory)?.contains(needed) {
        return Err(Errno::PERM);
    }
    let size = rustix::fs::fstat(memory)?.st_size;
    if u64::try_from(size) == Ok(bytes as u64) { Ok(()) } else { Err(Errno::INVAL) }
}

fn map_mail(memory: &Descriptor) -> Result<NonNull<AtomicU32>, Errno> {
    is_sealed(memory, MAIL_BYTES)?;
    map_shared(memory, MAIL_BYTES, ProtFlags::READ).map(NonNull::cast)
}

/// Maps the memory of an offer, and closes its descriptor in any case. The mapping is
/// [`pair_bytes`] long, shared and writable, and is the caller's to unmap.
///
/// EPERM: it could be cut while it is in use; EINVAL: its size or its first words are not
/// those of a pair with such rings.
pub fn map(memory: RawFd, ring_bytes: usize) -> Result<NonNull<u8>, Errno> {
    // SAFETY: the offer's descriptor is the caller's, who gives it away.
    let memory = unsafe { Descriptor::from_raw(memory) };
    if !ring_bytes_are_sound(ring_bytes as u64) {
        return Err(Errno::INVAL);
    }
    let bytes = pair_bytes(ring_bytes);
    is_sealed(&memory, bytes)?;
    let mapped = map_shared(&memory, bytes, ProtFlags::READ | ProtFlags::WRITE)?;
    let word = |at: usize| {
        // SAFETY: inside the mapping, and aligned as in the header.
        unsafe { mapped.add(at).cast::<AtomicU64>().as_ref() }.load(Ordering::Acquire)
    };
    let first = (word(offset_of!(Header, magic)), word(offset_of!(Header, ring_bytes)));
    if first == (MAGIC, ring_bytes as u64) {
        return Ok(mapped);
    }
    // SAFETY: mapped above, and nobody else has it.
    let _ = unsafe { rustix::mm::munmap(mapped.as_ptr().cast(), bytes) };
    Err(Errno::INVAL)
}

fn map_shared(
    memory: &Descriptor,
    bytes: usize,
    protection: ProtFlags,
) -> Result<NonNull<u8>, Errno> {
    let anywhere = std::ptr::null_mut::<c_void>();
    // SAFETY: a new mapping at a place that the kernel chooses.
    let at = unsafe { rustix::mm::mmap(anywhere, bytes, protection, MapFlags::SHARED, memory, 0)? };
    NonNull::new(at.cast()).ok_or(Errno::NOMEM)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::layout::RING_BYTES_MIN;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};

    const ALL: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW);

    /// Memory of a pair but for what the case changes.
    fn memory(bytes: u64, words: [u64; 2], seals: SealFlags) -> RawFd {
        let memory =
            memfd_create("member-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&memory, bytes).unwrap();
        let words: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        rustix::io::pwrite(&memory, &words, 0).unwrap();
        fcntl_add_seals(&memory, seals).unwrap();
        Descriptor::from(memory).into_raw()
    }

    fn is_open(fd: RawFd) -> bool {
        std::fs::read_link(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|to| to.to_string_lossy().contains("memfd:member-test"))
    }

    /// One test: the numbers of closed descriptors must not be another's.
    #[test]
    fn memory_is_mapped_only_if_it_can_neither_be_cut_nor_be_anything_else() {
        let ring = RING_BYTES_MIN;
        let (bytes, words) = (pair_bytes(ring) as u64, [MAGIC, ring as u64]);
        let good = memory(bytes, words, ALL);
        let mapped = map(good, ring).unwrap();
        assert!(!is_open(good));
        // SAFETY: just mapped; the last byte of it.
        unsafe { mapped.add(bytes as usize - 1).write(7) };
        // SAFETY: as above.
        unsafe { rustix::mm::munmap(mapped.as_ptr().cast(), bytes as usize) }.unwrap();

        let refused = |memory, ring| {
            let errno = map(memory, ring).unwrap_err();
            assert!(!is_open(memory));
            errno
        };
        for seals in [SealFlags::SEAL, SealFlags::SHRINK, SealFlags::GROW] {
            assert_eq!(refused(memory(bytes, words, ALL & !seals), ring), Errno::PERM);
        }
        assert_eq!(refused(memory(bytes - 1, words, ALL), ring), Errno::INVAL);
        assert_eq!(refused(memory(bytes + 1, words, ALL), ring), Errno::INVAL);
        assert_eq!(refused(memory(bytes, [MAGIC + 1, ring as u64], ALL), ring), Errno::INVAL);
        assert_eq!(refused(memory(bytes, [MAGIC, 2 * ring as u64], ALL), ring), Errno::INVAL);
        assert_eq!(refused(memory(bytes, words, ALL), 0), Errno::INVAL);
        assert_eq!(refused(memory(bytes, words, ALL), usize::MAX / 2 + 1), Errno::INVAL);
        let file = std::fs::File::open("/dev/zero").unwrap();
        let file = Descriptor::from(rustix::fd::OwnedFd::from(file)).into_raw();
        assert!(map(file, ring).is_err());
    }
}
