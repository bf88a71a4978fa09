//! The value of the option: the three forms of OpenBSD, the one of FreeBSD.
//!
//! On LP64 `struct splice` is the same there and here: the drain at 0, four bytes of
//! padding, the maximum at 8, and a timeval at 16; 32 bytes in all.

use crate::personality::Personality;
use std::ffi::c_int;
use std::time::Duration;

/// SO_SPLICE, the number of both systems; unused on Linux.
pub const SO_SPLICE: c_int = 0x1023;

pub const RECORD_BYTES: usize = 32;
const INT_BYTES: usize = 4;

/// What is asked of the option, not yet checked against the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// A negative descriptor takes the splice back.
    pub drain: c_int,
    /// Zero is no limit.
    pub max: i64,
    pub idle_s: i64,
    pub idle_us: i64,
}

/// An empty wish: take the splice back.
pub const UNSPLICE: Wish = Wish { drain: -1, max: 0, idle_s: 0, idle_us: 0 };

/// How many bytes of the value are read: None for a value that is absent; EINVAL for a
/// length that is no form of the option.
pub fn form(personality: Personality, absent: bool, len: usize) -> Result<Option<usize>, c_int> {
    match personality {
        Personality::OpenBsd if absent || len == 0 => Ok(None),
        Personality::OpenBsd if len < INT_BYTES => Err(libc::EINVAL),
        Personality::OpenBsd if len < RECORD_BYTES => Ok(Some(INT_BYTES)),
        Personality::FreeBsd if len < RECORD_BYTES => Err(libc::EINVAL),
        Personality::FreeBsd if absent => Err(libc::EFAULT),
        _ => Ok(Some(RECORD_BYTES)),
    }
}

/// Reads the int form or the record.
pub fn parse(bytes: &[u8]) -> Wish {
    let int =
        |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    let long =
        |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(i64::from_ne_bytes);
    Wish {
        drain: int(0).unwrap_or(-1),
        max: long(8).unwrap_or(0),
        idle_s: long(16).unwrap_or(0),
        idle_us: long(24).unwrap_or(0),
    }
}

impl Wish {
    pub fn is_unsplice(&self) -> bool {
        self.drain < 0
    }

    /// A negative time, or a fraction that is none.
    pub fn idle_is_valid(&self) -> bool {
        self.idle_s >= 0 && (0..1_000_000).contains(&self.idle_us)
    }

    /// The idle limit; FreeBSD takes the absolute value of what is negative.
    pub fn idle(&self) -> Option<Duration> {
        let seconds = Duration::from_secs(self.idle_s.unsigned_abs());
        let idle = seconds.saturating_add(Duration::from_micros(self.idle_us.unsigned_abs()));
        (idle > Duration::ZERO).then_some(idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(drain: i32, max: i64, s: i64, us: i64) -> Vec<u8> {
        let mut bytes = Vec::from(drain.to_ne_bytes());
        bytes.extend([0; 4]);
        for value in [max, s, us] {
            bytes.extend(value.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn openbsd_takes_no_value_an_int_or_the_record() {
        let form = |absent, len| form(Personality::OpenBsd, absent, len);
        assert_eq!(form(true, 0), Ok(None));
        assert_eq!(form(true, 32), Ok(None));
        assert_eq!(form(false, 0), Ok(None));
        assert_eq!(form(false, 3), Err(libc::EINVAL));
        assert_eq!(form(false, 4), Ok(Some(4)));
        assert_eq!(form(false, 31), Ok(Some(4)));
        assert_eq!(form(false, 32), Ok(Some(32)));
        assert_eq!(form(false, 4096), Ok(Some(32)));
    }

    #[test]
    fn freebsd_takes_only_the_record() {
        let form = |absent, len| form(Personality::FreeBsd, absent, len);
        for len in [0, 3, 4, 31] {
            assert_eq!(form(false, len), Err(libc::EINVAL), "{len}");
        }
        assert_eq!(form(true, 0), Err(libc::EINVAL));
        assert_eq!(form(true, 32), Err(libc::EFAULT));
        assert_eq!(form(false, 33), Ok(Some(32)));
    }

    #[test]
    fn a_record_is_read_field_by_field() {
        let wish = parse(&record(5, 1 << 40, 3, 250_000));
        assert_eq!(wish, Wish { drain: 5, max: 1 << 40, idle_s: 3, idle_us: 250_000 });
        assert_eq!(wish.idle(), Some(Duration::from_millis(3250)));
        assert_eq!(parse(&7i32.to_ne_bytes()), Wish { drain: 7, ..UNSPLICE });
    }

    #[test]
    fn a_huge_idle_time_is_legal_and_a_negative_one_is_not() {
        assert!(parse(&record(1, 0, 1 << 62, 0)).idle_is_valid());
        assert!(parse(&record(1, 0, 1 << 62, 999_999)).idle().is_some());
        assert!(!parse(&record(1, 0, -1, 0)).idle_is_valid());
        assert!(!parse(&record(1, 0, 0, -1)).idle_is_valid());
        assert!(!parse(&record(1, 0, 0, 1_000_000)).idle_is_valid());
        assert_eq!(parse(&record(1, 0, 0, 0)).idle(), None);
    }
}
