//! The library's own heap, apart from libc's.
//!
//! The carrier is a bare copy of the program, made without libc's fork: that one makes children
//! which the program's own wait would find. In a bare copy libc's heap may be locked for ever by
//! a thread that was not copied. This one is locked by who copies ([`hold`]).

use crate::lock::{self, Guard};
use crate::sys::{self, enter};
use dlmalloc::Dlmalloc;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody sleeps.
const WANTED: u32 = 2;

struct Heap {
    word: AtomicU32,
    inner: UnsafeCell<Dlmalloc>,
}

// SAFETY: `inner` is used under the lock alone.
unsafe impl Sync for Heap {}

#[cfg_attr(not(test), global_allocator)]
static HEAP: Heap = Heap { word: AtomicU32::new(FREE), inner: UnsafeCell::new(Dlmalloc::new()) };

/// The process has one thread and no handlers: it is the carrier.
static ALONE: AtomicBool = AtomicBool::new(false);

/// Who has the process's lock has the heap's as well.
static HELD_BY_HOLDER: AtomicBool = AtomicBool::new(false);

/// There is one thread from now on, and no signal handler that allocates.
pub fn is_alone() {
    ALONE.store(true, Ordering::Relaxed);
}

/// From here to [`release`] nobody else is inside the heap, so that a copy of the memory has it
/// whole.
pub fn hold(_: &Guard) {
    HEAP.lock();
    HELD_BY_HOLDER.store(true, Ordering::Relaxed);
}

/// In the process that was copied, and in the copy.
pub fn release() {
    HELD_BY_HOLDER.store(false, Ordering::Relaxed);
    HEAP.unlock();
}

impl Heap {
    fn lock(&self) {
        if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.word.swap(WANTED, Ordering::Acquire) != FREE {
                sys::futex_wait(&self.word, WANTED, None);
            }
        }
    }

    fn unlock(&self) {
        if self.word.swap(FREE, Ordering::Release) == WANTED {
            sys::futex_wake(&self.word, 1);
        }
    }

    /// A signal handler that allocates would wait for its own thread, so none runs.
    fn with<T>(&self, work: impl FnOnce(&mut Dlmalloc) -> T) -> T {
        let is_holder = lock::is_mine();
        let is_alone =
            ALONE.load(Ordering::Relaxed) || (is_holder && HELD_BY_HOLDER.load(Ordering::Relaxed));
        let mask = (!is_alone && !is_holder).then(sys::block_signals);
        if !is_alone {
            self.lock();
        }
        // SAFETY: under the lock, or by the only thread.
        let done = work(unsafe { &mut *self.inner.get() });
        if !is_alone {
            self.unlock();
        }
        if let Some(mask) = mask {
            sys::restore_signals(mask);
        }
        done
    }
}

/// Pieces from here on are mappings of their own, so that what a growing table leaves behind
/// goes back to the kernel.
const LARGE_BYTES: usize = 64 * 1024;

fn is_large(layout: Layout) -> bool {
    // Mappings begin at a page.
    layout.size() >= LARGE_BYTES && layout.align() <= 4096
}

fn map(bytes: usize) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let at = unsafe { enter!(SYS_mmap, 0, bytes, protection, flags, -1isize, 0) };
    if at < 0 { std::ptr::null_mut() } else { at as *mut u8 }
}

// SAFETY: the calls are handed on to an allocator of the same contract, one at a time, or to
// the kernel.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map(layout.size());
        }
        // SAFETY: the caller's.
        self.with(|heap| unsafe { heap.malloc(layout.size(), layout.align()) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map(layout.size());
        }
        // SAFETY: the caller's.
        self.with(|heap| unsafe { heap.calloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if is_large(layout) {
            // SAFETY: mapped by `alloc` with this size.
            unsafe { enter!(SYS_munmap, at, layout.size()) };
            return;
        }
        // SAFETY: the caller's.
        self.with(|heap| unsafe { heap.free(at, layout.size(), layout.align()) });
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's: the new size does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the caller's; what moves between the kinds is copied, and fits.
        unsafe {
            match (is_large(layout), is_large(new)) {
                (false, false) => {
                    self.with(|heap| heap.realloc(at, layout.size(), layout.align(), size))
                }
                (true, true) => {
                    let flags = libc::MREMAP_MAYMOVE;
                    let moved = enter!(SYS_mremap, at, layout.size(), size, flags);
                    if moved < 0 { std::ptr::null_mut() } else { moved as *mut u8 }
                }
                _ => {
                    let moved = self.alloc(new);
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(at, layout.size().min(size));
                        self.dealloc(at, layout);
                    }
                    moved
                }
            }
        }
    }
}
