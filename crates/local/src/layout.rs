//! The memory that both ends of a pair map: one page of words, then a ring for each direction.
//!
//! Either end may write anything here at any time: it may be another program, or a broken
//! one. So nobody keeps state of its own in it, and what is read from it is checked before it
//! is used as an offset or a length (`ring.rs`). The worst that a bad peer can do is to
//! garble its own connection.
//!
//! Words that different ends write are on different cache lines, and the ones that a busy
//! writer looks at each time are apart from those that a busy reader stores each time.

use crate::sync::{AtomicU32, AtomicU64};

/// The words come first, the rings behind this many bytes.
pub const HEADER_BYTES: usize = 4096;

/// Limits of one ring's size, in bytes; a power of two between them.
pub const RING_BYTES_MIN: usize = 4096;
/// See [`RING_BYTES_MIN`].
pub const RING_BYTES_MAX: usize = 64 << 20;

/// First word of a header: the layout's name and version.
pub const MAGIC: u64 = u64::from_le_bytes(*b"sosring3");

/// [`Bell::bell_at`]: do not ring.
pub const NEVER: u64 = 0;
/// [`Bell::grant`]: the writer has taken the grant and gone to the ring.
pub const FLIPPED: u64 = u64::MAX;

/// Bytes go over TCP.
pub const ROUTE_TCP: u64 = 0;
/// Bytes go through the ring; what is on TCP are doorbells.
pub const ROUTE_RING: u64 = 1;
/// Bytes go over TCP for good.
pub const ROUTE_PINNED: u64 = 2;

/// [`Bell::leaves`]: the bytes of the ring are the last that were written, or there are none.
pub const STAYS: u32 = 0;
/// [`Bell::leaves`]: the reader takes nothing more from the ring; the writer is to send again over TCP what is
/// there, and go on there.
pub const ASKED: u32 = 1;
/// [`Bell::leaves`]: behind the bytes of the ring come others on TCP, so they cannot be sent again alone.
pub const BEYOND: u32 = 2;
/// [`Bell::leaves`]: the reader takes everything from both and gives it back, for the writer to send again.
pub const BACK: u32 = 3;

/// [`Written::stopped`]: the writer cannot say how much it has sent over TCP.
pub const UNCOUNTED: u64 = u64::MAX;

/// What the writer of a direction says.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Written {
    /// Bytes that were put into the ring, since the beginning.
    pub head: AtomicU64,
    /// Where bytes go: [`ROUTE_TCP`], [`ROUTE_RING`] or [`ROUTE_PINNED`] in the two lowest
    /// bits, the number of changes above.
    pub route: AtomicU64,
    /// Doorbells that were sent, or are about to be: counted first, then sent.
    pub bells: AtomicU64,
    /// [`Written::bells`] when the route last left the ring: so many of the bytes on TCP are no data.
    pub bells_before_tcp: AtomicU64,
    /// One more than the bytes of data that it has sent over TCP, when it has stopped for a reader that gives back:
    /// or [`UNCOUNTED`].
    pub stopped: AtomicU64,
    /// Bytes that it has taken back.
    pub retaken: AtomicU64,
    /// Calls that put something into the ring.
    pub messages: AtomicU64,
    /// Times that the ring was full and the stream went on over TCP.
    pub overflows: AtomicU64,
    /// Bytes that went over TCP since the pair was made.
    pub tcp_bytes: AtomicU64,
    /// Writer's waits for room that spun.
    pub spins: AtomicU64,
}

/// How far the reader of a direction is.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Taken {
    /// Bytes that were taken from the ring, since the beginning.
    pub tail: AtomicU64,
    /// Doorbells that were taken from TCP.
    pub bells: AtomicU64,
    /// Reader's waits that spun.
    pub spins: AtomicU64,
}

/// What the reader of a direction asks for. It changes seldom while both ends are busy.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Bell {
    /// Send a doorbell when [`Written::head`] reaches this; [`NEVER`] while the reader looks by itself.
    pub bell_at: AtomicU64,
    /// One more than the bytes of data that the reader has taken from TCP: the writer may go to
    /// the ring if it has sent as many. Zero: it may not. [`FLIPPED`]: it has.
    pub grant: AtomicU64,
    /// Not zero when the reader looks at the ring.
    pub attached: AtomicU32,
    /// One while a reader sleeps at this very word (a futex), or is about to: whoever has something for it puts zero
    /// there, and wakes it.
    pub parked: AtomicU32,
    /// Bytes that were given back, by way of the ring's memory.
    pub returned: AtomicU64,
    /// One more than the bytes that will have been given back; zero while that is not known.
    pub returning: AtomicU64,
    /// [`STAYS`], [`ASKED`], [`BEYOND`] or [`BACK`]: who was first, the reader that wants everything over TCP or the
    /// writer that goes on over TCP behind what the ring holds.
    pub leaves: AtomicU32,
    /// Not zero when the writer has sent again over TCP what the ring held.
    pub left: AtomicU32,
}

/// One direction.
#[derive(Debug)]
#[repr(C)]
pub struct Lane {
    /// The writer's line.
    pub written: Written,
    /// The reader's line.
    pub taken: Taken,
    /// The reader's other line.
    pub bell: Bell,
}

/// The first page; all zeroes but the first two words is a fresh pair. `lanes[0]` is the direction from the first end to the second.
#[derive(Debug)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// Size of one ring.
    pub ring_bytes: AtomicU64,
    /// Not zero when an end could not attach: both stay on TCP.
    pub refused: AtomicU32,
    /// Not zero when that end has closed its socket.
    pub closed: [AtomicU32; 2],
    /// The directions.
    pub lanes: [Lane; 2],
}

const _: () = assert!(size_of::<Header>() <= HEADER_BYTES);

/// Bytes of memory for a pair with rings of this size.
pub const fn pair_bytes(ring_bytes: usize) -> usize {
    HEADER_BYTES + 2 * ring_bytes
}

impl Lane {
    /// A direction whose bytes go over TCP.
    pub fn new() -> Self {
        Self {
            written: Written {
                head: AtomicU64::new(0),
                route: AtomicU64::new(ROUTE_TCP),
                bells: AtomicU64::new(0),
                bells_before_tcp: AtomicU64::new(0),
                stopped: AtomicU64::new(0),
                retaken: AtomicU64::new(0),
                messages: AtomicU64::new(0),
                overflows: AtomicU64::new(0),
                tcp_bytes: AtomicU64::new(0),
                spins: AtomicU64::new(0),
            },
            taken: Taken {
                tail: AtomicU64::new(0),
                bells: AtomicU64::new(0),
                spins: AtomicU64::new(0),
            },
            bell: Bell {
                bell_at: AtomicU64::new(NEVER),
                grant: AtomicU64::new(0),
                returned: AtomicU64::new(0),
                returning: AtomicU64::new(0),
                attached: AtomicU32::new(0),
                parked: AtomicU32::new(0),
                leaves: AtomicU32::new(0),
                left: AtomicU32::new(0),
            },
        }
    }
}

impl Header {
    /// A fresh pair with rings of this size.
    pub fn new(ring_bytes: u64) -> Self {
        Self {
            magic: AtomicU64::new(MAGIC),
            ring_bytes: AtomicU64::new(ring_bytes),
            refused: AtomicU32::new(0),
            closed: [AtomicU32::new(0), AtomicU32::new(0)],
            lanes: [Lane::new(), Lane::new()],
        }
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self::new()
    }
}
