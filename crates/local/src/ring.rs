//! The bytes of one direction: where they lie in the memory that both ends map.
//!
//! Positions count bytes since the beginning and never wrap; a ring's size is a power of two,
//! and the place of a byte is its position's low part.

use std::ptr::NonNull;

/// Where bytes are put and taken.
pub trait Store {
    /// Its size in bytes, a power of two.
    fn size(&self) -> usize;
    /// Puts `bytes` at `position`. At most [`Store::size`] bytes.
    fn put(&self, position: u64, bytes: &[u8]);
    /// Fills `bytes` from `position`. At most [`Store::size`] bytes.
    fn take(&self, position: u64, bytes: &mut [u8]);
}

/// A ring in mapped memory.
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    base: NonNull<u8>,
    size: usize,
}

impl Ring {
    /// # Safety
    /// `size` bytes are mapped at `base`, readable and writable, as long as this is used;
    /// `size` is a power of two.
    pub unsafe fn new(base: NonNull<u8>, size: usize) -> Self {
        debug_assert!(size.is_power_of_two());
        Self { base, size }
    }

    /// The two pieces that `len` bytes from `position` on are in: offset and length of the
    /// first; the second begins at zero.
    fn pieces(&self, position: u64, len: usize) -> (usize, usize) {
        assert!(len <= self.size, "more than the ring holds");
        let at = position as usize & (self.size - 1);
        (at, len.min(self.size - at))
    }

    /// The mapped piece at `position`, at most `len` bytes and not over the ring's edge.
    pub fn piece(&self, position: u64, len: usize) -> (*mut u8, usize) {
        let (at, first) = self.pieces(position, len.min(self.size));
        // SAFETY: `at` is below the size.
        (unsafe { self.base.as_ptr().add(at) }, first)
    }
}

impl Store for Ring {
    fn size(&self) -> usize {
        self.size
    }

    #[inline]
    fn put(&self, position: u64, bytes: &[u8]) {
        let (at, first) = self.pieces(position, bytes.len());
        // SAFETY: both pieces are inside the mapping. The peer may write there at the same
        // time; bytes have no invalid values, and what comes out is then its own garbage.
        unsafe {
            let from = bytes.as_ptr();
            from.copy_to_nonoverlapping(self.base.as_ptr().add(at), first);
            from.add(first).copy_to_nonoverlapping(self.base.as_ptr(), bytes.len() - first);
        }
    }

    #[inline]
    fn take(&self, position: u64, bytes: &mut [u8]) {
        let (at, first) = self.pieces(position, bytes.len());
        // SAFETY: as for `put`.
        unsafe {
            let to = bytes.as_mut_ptr();
            to.copy_from_nonoverlapping(self.base.as_ptr().add(at), first);
            to.add(first).copy_from_nonoverlapping(self.base.as_ptr(), bytes.len() - first);
        }
    }
}
