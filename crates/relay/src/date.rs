//! The Date of answers that are made here (RFC 9110 section 6.6.1): written once a second by each
//! thread, and copied from then on.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// As `Sun, 06 Nov 1994 08:49:37 GMT`.
const LEN: usize = 29;

/// The year 10000, which the format has no digits for.
const SECONDS_MAX: u64 = 253_402_300_800;

/// A second, as answers tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Date {
    second: u64,
    text: [u8; LEN],
}

impl Date {
    /// None where the clock is so wrong that nothing should be told of it.
    fn of(second: u64) -> Option<Self> {
        if second >= SECONDS_MAX {
            return None;
        }
        let mut text = [0; LEN];
        let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(second));
        write!(&mut text[..], "{date}").ok()?;
        Some(Self { second, text })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.iter().try_for_each(|byte| f.write_char(char::from(*byte)))
    }
}

/// The last date that was written.
#[derive(Debug, Default)]
struct Latest {
    date: Option<Date>,
    written: u64,
}

impl Latest {
    fn at(&mut self, now: SystemTime) -> Option<Date> {
        let second = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        if self.date.is_none_or(|date| date.second != second) {
            self.date = Date::of(second);
            self.written += 1;
        }
        self.date
    }
}

thread_local! {
    static LATEST: RefCell<Latest> = RefCell::default();
}

/// That of now; None where the clock knows none.
pub(crate) fn now() -> Option<Date> {
    LATEST.with_borrow_mut(|latest| latest.at(SystemTime::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(ms)
    }

    #[test]
    fn a_date_is_that_of_the_rfc() {
        let date = Date::of(784_111_777).expect("a date");
        assert_eq!(date.as_bytes(), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date.to_string(), "Sun, 06 Nov 1994 08:49:37 GMT");
        let last = Date::of(SECONDS_MAX - 1).expect("the last");
        assert_eq!(last.to_string(), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn a_clock_that_knows_no_date_has_none() {
        let mut latest = Latest::default();
        assert_eq!(latest.at(UNIX_EPOCH - Duration::from_secs(1)), None);
        assert_eq!(latest.at(after(SECONDS_MAX * 1000)), None);
    }

    #[test]
    fn it_is_written_once_a_second_also_when_the_clock_is_set_back() {
        let mut latest = Latest::default();
        for ms in [1000, 1001, 1999, 2000, 2999, 1500] {
            let date = latest.at(after(ms)).expect("a date");
            assert_eq!(date, Date::of(ms / 1000).expect("a date"), "{ms}");
        }
        assert_eq!(latest.written, 3);
    }
}
