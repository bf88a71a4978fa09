//! What a datagram says, so that the far end can tell whether it is the one that
//! was sent, whole, and in its turn.
//!
//! A number, a check of the number, and a body that depends on the number and on
//! the size: a datagram that was cut, joined with its neighbour, or put together
//! from two is found. Both ends prepare the bodies beforehand, so that sending
//! costs sixteen bytes written and checking one comparison.

/// The number and its check.
const HEADER: usize = 16;

/// Datagrams that UDP_SEGMENT takes at once: what the oldest kernels that have it
/// allow (UDP_MAX_SEGMENTS).
const SEGMENTS_MAX: usize = 64;

/// Payload of the largest UDP datagram over IPv4, which a burst may not exceed.
const PAYLOAD_MAX: usize = 65_507;

/// The datagrams of one size.
pub struct Datagrams {
    size: usize,
    /// Prepared datagrams in a row: number `n` is made in slot `n % slots`, and
    /// has the body of that slot.
    row: Vec<u8>,
}

impl Datagrams {
    /// Prepares datagrams of `size` bytes; none if that is too small or too large.
    pub fn new(size: usize) -> Option<Datagrams> {
        if !(HEADER..=PAYLOAD_MAX).contains(&size) {
            return None;
        }
        let slots = (PAYLOAD_MAX / size).min(SEGMENTS_MAX);
        let row = (0..slots * size).map(|at| (mix(at as u64) >> 32) as u8).collect();
        Some(Datagrams { size, row })
    }

    /// How many there can be in one burst.
    pub fn slots(&self) -> usize {
        self.row.len() / self.size
    }

    /// Datagram `number`.
    pub fn one(&mut self, number: u64) -> &[u8] {
        let start = self.slot(number) * self.size;
        let datagram = &mut self.row[start..start + self.size];
        datagram[..HEADER].copy_from_slice(&header(number));
        datagram
    }

    /// Datagrams `first..first + slots`, one behind the other; `first` is a
    /// multiple of the slots.
    pub fn burst(&mut self, first: u64) -> &[u8] {
        debug_assert_eq!(self.slot(first), 0);
        for (datagram, number) in self.row.chunks_exact_mut(self.size).zip(first..) {
            datagram[..HEADER].copy_from_slice(&header(number));
        }
        &self.row
    }

    /// The number of a datagram, if it is as it was sent.
    pub fn check(&self, datagram: &[u8]) -> Option<u64> {
        if datagram.len() != self.size {
            return None;
        }
        let (head, body) = datagram.split_at(HEADER);
        let number = u64::from_le_bytes(head[..8].try_into().ok()?);
        let start = self.slot(number) * self.size;
        let expected = &self.row[start + HEADER..start + self.size];
        (*head == header(number) && body == expected).then_some(number)
    }

    fn slot(&self, number: u64) -> usize {
        (number % self.slots() as u64) as usize
    }
}

fn header(number: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&number.to_le_bytes());
    header[8..].copy_from_slice(&mix(number).to_le_bytes());
    header
}

/// Scatters a number (Fibonacci hashing): neighbours come out unlike.
fn mix(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagrams(size: usize) -> Datagrams {
        Datagrams::new(size).expect("a size that fits")
    }

    #[test]
    fn what_was_sent_is_known_again_alone_or_in_a_burst() {
        for size in [16, 64, 512, 1400, PAYLOAD_MAX] {
            let (mut sender, receiver) = (datagrams(size), datagrams(size));
            assert_eq!(receiver.check(sender.one(u64::MAX)), Some(u64::MAX));
            let first = 7 * sender.slots() as u64;
            let burst = sender.burst(first);
            assert!(burst.len() <= PAYLOAD_MAX);
            let numbers: Vec<_> = burst.chunks(size).map(|one| receiver.check(one)).collect();
            let expected: Vec<_> = (first..).map(Some).take(numbers.len()).collect();
            assert_eq!(numbers, expected);
        }
        assert_eq!(datagrams(1400).slots(), 46);
        assert!(Datagrams::new(15).is_none() && Datagrams::new(65_508).is_none());
    }

    #[test]
    fn any_byte_that_differs_is_found() {
        let mut sender = datagrams(64);
        let receiver = datagrams(64);
        let good = sender.one(5).to_vec();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(receiver.check(&bad), None, "byte {at}");
        }
    }

    #[test]
    fn boundaries_that_moved_are_found() {
        let mut sender = datagrams(64);
        let receiver = datagrams(64);
        let two = sender.burst(0)[..128].to_vec();
        assert_eq!(receiver.check(&two), None, "joined");
        assert_eq!(receiver.check(&two[..63]), None, "cut");
        assert_eq!(receiver.check(&two[16..80]), None, "shifted");
        let mixed = [&two[..16], &two[80..128]].concat();
        assert_eq!(receiver.check(&mixed), None, "the head of one and the body of another");
    }
}
