//! What an end knows by itself: words that relatives share and the peer cannot reach.

use crate::lock::Lock;
use crate::patience::Patience;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// State of an end's reading side. All zero is the beginning. Guarded by its lock.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct OwnReading {
    pub(super) lock: Lock,
    /// The grant has been given, and not been taken back.
    pub(super) granted: AtomicU32,
    /// The route's count of changes when it was given.
    pub(super) granted_at: AtomicU64,
    pub(super) tail: AtomicU64,
    pub(super) bells: AtomicU64,
    /// A wish for a doorbell is out, or was taken by the writer unnoticed.
    pub(super) has_wished: AtomicU32,
    /// Wishes that are known to have been taken: for each a doorbell comes.
    pub(super) rung_for: AtomicU64,
    /// Bytes of data taken from TCP since the connection was made.
    pub tcp_data: AtomicU64,
    /// An error that was met while the ring still held bytes; zero for none.
    pub error: AtomicU32,
    /// Whether its waits spin.
    pub patience: Patience,
    /// Whether its waits begin at the word in the pair's memory.
    pub parking: Patience,
    /// Who may be asleep in the kernel for this end: see [`Asleep`].
    pub(super) sleepers: AtomicU32,
    /// As [`OwnWriting::in_doubt`].
    pub(super) in_doubt: AtomicU32,
    /// As [`OwnWriting::base`], of what was taken.
    pub(super) base: AtomicU64,
    /// Everything comes over TCP, or will.
    pub(super) has_left: AtomicU32,
    /// The thread that has unread bytes in its own memory, to give them back; zero for none.
    pub(super) drainer: AtomicU32,
}

/// State of an end's writing side. All zero is the beginning. Guarded by its lock.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct OwnWriting {
    pub(super) lock: Lock,
    /// Sends over TCP that are in the kernel.
    pub(super) in_kernel: AtomicU32,
    /// Not zero while what is known of the other end is not what it is: in the middle of a
    /// change that takes two steps: which. Who finds it so has the lock of one who was killed there
    /// (`mending.rs`).
    pub(super) in_doubt: AtomicU32,
    /// Bytes that the kernel counts as sent beside the data and the doorbells that are counted here.
    pub(super) base: AtomicU64,
    /// As [`Written::route`].
    pub(super) route: AtomicU64,
    pub(super) head: AtomicU64,
    /// The reader's tail as last seen.
    pub(super) tail: AtomicU64,
    pub(super) bells: AtomicU64,
    /// Up to where the ring's bytes, or those that were given back, have been sent again, while the reader leaves.
    pub(super) recalled: AtomicU64,
    pub(super) is_recalling: AtomicU32,
    /// Doorbells in a row that nobody has answered by reading.
    pub(super) unanswered: AtomicU32,
    /// [`OwnWriting::tcp_data`] when the reader was last known to have taken as many.
    pub(super) settled: AtomicU64,
    /// Bytes of data sent over TCP since the connection was made.
    pub tcp_data: AtomicU64,
}

/// An end's own state, out of its peer's reach, shared with forked relatives.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Own {
    /// What concerns the incoming direction.
    pub reading: OwnReading,
    /// What concerns the outgoing direction.
    pub writing: OwnWriting,
}

impl Own {
    /// The beginning again, for another connection.
    pub fn reset(&self) {
        let OwnReading {
            lock,
            granted,
            granted_at,
            tail,
            bells,
            has_wished,
            rung_for,
            tcp_data,
            error,
            patience,
            parking,
            sleepers,
            in_doubt,
            base,
            has_left,
            drainer,
        } = &self.reading;
        lock.reset();
        patience.reset();
        parking.reset();
        for word in [granted, has_wished, error, sleepers, in_doubt, has_left, drainer] {
            word.store(0, Ordering::Relaxed);
        }
        for word in [granted_at, tail, bells, rung_for, tcp_data, base] {
            word.store(0, Ordering::Relaxed);
        }
        let OwnWriting {
            lock,
            in_kernel,
            in_doubt,
            base,
            route,
            head,
            tail,
            bells,
            recalled,
            is_recalling,
            unanswered,
            settled,
            tcp_data,
        } = &self.writing;
        lock.reset();
        in_kernel.store(0, Ordering::Relaxed);
        in_doubt.store(0, Ordering::Relaxed);
        is_recalling.store(0, Ordering::Relaxed);
        unanswered.store(0, Ordering::Relaxed);
        for word in [route, head, tail, bells, recalled, settled, tcp_data, base] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl OwnWriting {
    /// A send over TCP begins.
    pub fn enter_kernel(&self) {
        self.in_kernel.fetch_add(1, Ordering::SeqCst);
    }

    /// A send over TCP has ended.
    pub fn leave_kernel(&self, sent: usize) {
        self.tcp_data.fetch_add(sent as u64, Ordering::Relaxed);
        self.in_kernel.fetch_sub(1, Ordering::SeqCst);
    }

    /// Sends over TCP that are in the kernel.
    pub fn in_kernel(&self) -> u32 {
        self.in_kernel.load(Ordering::SeqCst)
    }
}
