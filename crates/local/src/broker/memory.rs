//! The memory that the broker makes: a pair's, and a member's mail word.
//!
//! All of it is sealed before anybody else has it, so that nobody can cut it and have the
//! broker, or the other end, die of a bus error.

use crate::layout::{HEADER_BYTES, Header, MAGIC, pair_bytes};
use crate::member::MAIL_BYTES;
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

const PAGE: usize = 4096;
const _: () = assert!(HEADER_BYTES == PAGE && MAIL_BYTES == PAGE);

/// The first page of a shared memory, mapped: a `T` that others may write at any time.
#[derive(Debug)]
pub struct Page<T> {
    at: NonNull<T>,
    kind: PhantomData<T>,
}

// SAFETY: no thread's own; what others can write anyway may be written from any thread.
unsafe impl<T: Send + Sync> Send for Page<T> {}

impl<T> Deref for Page<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: mapped as long as this lives, aligned to a page, of atomics alone (see the
        // two makers), and sealed against shrinking.
        unsafe { self.at.as_ref() }
    }
}

impl<T> Drop for Page<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and the borrows of it have ended.
        let _ = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), PAGE) };
    }
}

/// `T` is atomics alone, and all zeroes are one.
fn map<T>(memory: &OwnedFd) -> Result<Page<T>, Errno> {
    const { assert!(size_of::<T>() <= PAGE && align_of::<T>() <= PAGE) };
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at a place that the kernel chooses.
    let at = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), PAGE, protection, MapFlags::SHARED, memory, 0)?
    };
    let at = NonNull::new(at.cast()).ok_or(Errno::NOMEM)?;
    Ok(Page { at, kind: PhantomData })
}

fn make(name: &str, bytes: usize) -> Result<OwnedFd, Errno> {
    let memory = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memory, bytes as u64)?;
    Ok(memory)
}

/// A fresh pair's memory: the descriptor for its ends, and the words for `status`.
pub fn pair(ring_bytes: usize) -> Result<(Page<Header>, OwnedFd), Errno> {
    let memory = make("sosplice-pair", pair_bytes(ring_bytes))?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let header = map::<Header>(&memory)?;
    header.ring_bytes.store(ring_bytes as u64, Ordering::Relaxed);
    header.magic.store(MAGIC, Ordering::Release);
    Ok((header, memory))
}

/// How a member learns that there is mail for it.
#[derive(Debug)]
pub struct MailWord(Page<AtomicU32>);

impl MailWord {
    /// With the descriptor for the member, who can only read it.
    pub fn make() -> Result<(Self, OwnedFd), Errno> {
        let memory = make("sosplice-mail", MAIL_BYTES)?;
        let word = map(&memory)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE;
        fcntl_add_seals(&memory, seals | SealFlags::SEAL)?;
        Ok((Self(word), memory))
    }

    /// Behind each packet that was sent.
    pub fn count_up(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}
