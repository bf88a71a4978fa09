//! What `/bytes/N` is made of, and its checksum.
//!
//! The content is one static block of printable characters, repeated. The
//! checksum has to stand in the head, before the body: it is put together from
//! the block's own CRC-32 by the combine operation (crc of `a || b` from the
//! two sums and the length of `b`), in a number of steps that grows with the
//! logarithm of N, so that a terabyte costs microseconds and no byte is made
//! twice.

use std::io::IoSlice;
use std::sync::OnceLock;

use crc32fast::Hasher;

/// The most that `/bytes/N` gives, in bytes (1 TiB).
pub(super) const BYTES_MAX: u64 = 1 << 40;

/// Length of the repeated block, in bytes: the largest prime below 64 KiB.
///
/// Not 64 KiB itself: a relay works in powers of two, and one that swaps or
/// repeats such pieces would go unseen in content with a period that divides them.
pub(super) const BLOCK_LEN: usize = 65_521;

/// Slices in one vectored write: about 1 MiB a system call, and as much as one
/// connection may do before the others of its runtime have their turn.
const SLICES_MAX: usize = 16;

/// Printable, so that a user who looks at it sees lines and no broken terminal.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static BLOCK: [u8; BLOCK_LEN] = block();

const fn block() -> [u8; BLOCK_LEN] {
    let mut block = [b'\n'; BLOCK_LEN];
    let mut state: u32 = 0x5053_4F53;
    let mut at = 0;
    while at < BLOCK_LEN {
        // xorshift32: short, and good enough to make neighbours differ.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        if at % 64 != 63 {
            block[at] = ALPHABET[(state >> 26) as usize];
        }
        at += 1;
    }
    block
}

/// CRC-32 (that of zlib, gzip and IEEE 802.3) of the first `len` bytes.
pub(super) fn crc32(len: u64) -> u32 {
    let mut sum = Hasher::new();
    // Double the run of blocks, and take the runs that the binary form of the
    // count names: the order of equal blocks does not matter.
    let mut run = block_sum().clone();
    let mut blocks = len / BLOCK_LEN as u64;
    while blocks > 0 {
        if blocks & 1 == 1 {
            sum.combine(&run);
        }
        blocks >>= 1;
        if blocks > 0 {
            let half = run.clone();
            run.combine(&half);
        }
    }
    let mut tail = Hasher::new();
    tail.update(&BLOCK[..(len % BLOCK_LEN as u64) as usize]);
    sum.combine(&tail);
    sum.finalize()
}

fn block_sum() -> &'static Hasher {
    static SUM: OnceLock<Hasher> = OnceLock::new();
    SUM.get_or_init(|| {
        let mut sum = Hasher::new();
        sum.update(&BLOCK);
        sum
    })
}

/// Fills `slices` with what comes at `offset` of a content of `len` bytes, as
/// far as [`SLICES_MAX`] slices reach; nothing when `offset` is the end.
pub(super) fn slices(offset: u64, len: u64, slices: &mut Vec<IoSlice<'_>>) {
    let mut at = offset;
    while at < len && slices.len() < SLICES_MAX {
        let from = (at % BLOCK_LEN as u64) as usize;
        let run = (BLOCK_LEN - from).min(usize::try_from(len - at).unwrap_or(usize::MAX));
        slices.push(IoSlice::new(&BLOCK[from..from + run]));
        at += run as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(len: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while (out.len() as u64) < len {
            let mut parts = Vec::new();
            slices(out.len() as u64, len, &mut parts);
            assert!(parts.len() <= SLICES_MAX);
            for part in parts {
                out.extend_from_slice(&part);
            }
        }
        out
    }

    /// CRC-32 by its definition, a bit at a time, from no library.
    fn plain_crc32(bytes: &[u8]) -> u32 {
        let mut sum = !0u32;
        for byte in bytes {
            sum ^= u32::from(*byte);
            for _ in 0..8 {
                sum = (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg());
            }
        }
        !sum
    }

    #[test]
    fn checksum_by_combination_equals_the_plain_one() {
        assert_eq!(plain_crc32(b"123456789"), 0xCBF4_3926);
        for len in
            [0, 1, 2, 65_520, 65_521, 65_522, 65_535, 65_536, 65_537, 131_042, 196_563, 1_000_003]
        {
            let content = made(len);
            assert_eq!(content.len() as u64, len);
            assert_eq!(crc32(len), plain_crc32(&content), "{len} bytes");
        }
    }

    /// Long contents: one more byte than a known length, by the plain way.
    #[test]
    fn checksum_of_the_longest_content_follows_from_the_one_before() {
        for len in [BYTES_MAX, (1 << 32) + 7, 100_000_000] {
            let mut sum = Hasher::new_with_initial_len(crc32(len - 1), len - 1);
            let mut last = Vec::new();
            slices(len - 1, len, &mut last);
            assert_eq!(last.iter().map(|part| part.len()).sum::<usize>(), 1);
            sum.update(&last[0]);
            assert_eq!(crc32(len), sum.finalize(), "{len} bytes");
        }
    }

    #[test]
    fn a_swap_of_aligned_pieces_is_seen() {
        let content = made(1 << 20);
        for step in [1 << 12, 1 << 16, 1 << 17] {
            let mut swapped = content.clone();
            let (one, two) = swapped.split_at_mut(step);
            one.swap_with_slice(&mut two[..step]);
            assert_ne!(crc32(1 << 20), crc32fast::hash(&swapped));
        }
    }

    #[test]
    fn content_is_printable_lines() {
        let content = made(200);
        assert_eq!(content[63], b'\n');
        assert!(content.iter().all(|byte| byte.is_ascii_graphic() || *byte == b'\n'));
    }
}
