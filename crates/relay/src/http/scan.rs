//! Where a head ends, looked for while it comes.
//!
//! Each byte is looked at once, however small the pieces are that it comes in. What no head may
//! hold is refused as soon as it is seen, before anybody parses: a bare CR or LF, a folded line,
//! a control character. httparse would take some of these as line ends, and what two parsers
//! read differently is how requests are smuggled (RFC 9112 section 11.2).

use super::refusal::Refusal;

/// How far a head has been looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    at: usize,
    line: Line,
    /// A whole line was seen: too long is then the fields' fault.
    has_line: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    /// Nothing of it yet.
    #[default]
    Start,
    Inside,
    /// CR was its last byte, and it was empty or not.
    Cr {
        is_empty: bool,
    },
}

impl Scan {
    /// The length of the head at the start of `bytes`, which begin with what was looked at before;
    /// None while it is not complete.
    ///
    /// # Errors
    /// 400 for what no head may hold; 414 or 431 for one that is longer than `max` bytes.
    pub(super) fn end(&mut self, bytes: &[u8], max: usize) -> Result<Option<usize>, Refusal> {
        let reach = bytes.len().min(max);
        while self.at < reach {
            if self.line == Line::Inside {
                self.at += plain_len(&bytes[self.at..reach]);
                // How nearly every line ends.
                if let Some(b"\r\n") = bytes[..reach].get(self.at..self.at + 2) {
                    (self.has_line, self.line) = (true, Line::Start);
                    self.at += 2;
                }
                if self.at == reach {
                    break;
                }
            }
            let byte = bytes[self.at];
            self.line = match (self.line, byte) {
                (Line::Cr { is_empty: true }, b'\n') => {
                    // A head has a first line; whoever may send empty ones skips them before.
                    if !self.has_line {
                        return Err(Refusal::bad("an empty line in place of a message"));
                    }
                    return Ok(Some(self.at + 1));
                }
                (Line::Cr { .. }, b'\n') => {
                    self.has_line = true;
                    Line::Start
                }
                (Line::Cr { .. }, _) => return Err(Refusal::bad("a CR without a LF")),
                (_, b'\n') => return Err(Refusal::bad("a LF without a CR")),
                (line, b'\r') => Line::Cr { is_empty: line == Line::Start },
                (Line::Start, b' ' | b'\t') => {
                    return Err(Refusal::bad("a line that begins with white space"));
                }
                (_, b'\t') => Line::Inside,
                (_, 0..0x20 | 0x7f) => return Err(Refusal::bad("a control character")),
                _ => Line::Inside,
            };
            self.at += 1;
        }
        match bytes.len() >= max {
            true if self.has_line => Err(Refusal::new(431, "the head is too long")),
            true => Err(Refusal::new(414, "the request line is too long")),
            false => Ok(None),
        }
    }
}

/// How many bytes there are before the first control character, eight at a time: nearly all of a
/// head is passed over here.
fn plain_len(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest top bit that is left is that of the first byte below 0x20, or of the first
        // 0x7f; those above it may be wrong, for the subtraction borrows.
        let below = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7f);
        let found = (below | delete.wrapping_sub(ONES) & !delete) & TOPS;
        if found != 0 {
            return number * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let is_control = |byte: &u8| byte.is_ascii_control();
    let in_rest = rest.iter().position(is_control).unwrap_or(rest.len());
    bytes.len() - rest.len() + in_rest
}

/// How many bytes of `bytes` are empty lines, which a server passes over before a request
/// (RFC 9112 section 2.2).
pub(super) fn blank_lines(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some(after) = rest.strip_prefix(b"\r\n") {
        rest = after;
    }
    bytes.len() - rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8], max: usize) -> Result<Option<usize>, Refusal> {
        Scan::default().end(bytes, max)
    }

    #[test]
    fn the_first_empty_line_ends_a_head() {
        assert_eq!(whole(b"GET / HTTP/1.1\r\nA: b\r\n\r\nGET", 99), Ok(Some(24)));
        assert_eq!(whole(b"GET / HTTP/1.1\r\n\r\n\r\n", 99), Ok(Some(18)));
        assert_eq!(whole(b"GET / HTTP/1.1\r\nA: b\r\n\r", 99), Ok(None));
        assert_eq!(whole(b"", 99), Ok(None));
    }

    #[test]
    fn what_no_head_may_hold_is_refused_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\n"[..],
            b"GET / HTTP/1.1\r\nA: b\n",
            b"GET / HTTP/1.1\r\nA: b\rC",
            b"GET / HTTP/1.1\r\r",
            b"GET / HTTP/1.1\r\nA: b\r\n c",
            b"GET / HTTP/1.1\r\nA: b\r\n\tc",
            b" GET",
            b"\r\n",
            b"\x16\x03\x01",
            b"GET /\0",
            b"GET / HTTP/1.1\r\nA: \x7f",
            b"GET / HTTP/1.1\r\nA: \x0b",
        ] {
            assert_eq!(whole(bytes, 99).map_err(|r| r.status), Err(400), "{:?}", bytes);
        }
    }

    #[test]
    fn the_answer_is_the_same_however_the_bytes_come() {
        for bytes in [
            &b"GET /abcdefghi HTTP/1.1\r\nHost: a.example.org\r\nA: b\r\n\r\nbody"[..],
            b"GET / HTTP/1.1\r\nA: b\r\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: bcdefghijk\n\r\n",
            b"GET / HTTP/1.1\r\nA: bcdefghijk\0\r\n",
        ] {
            for first in 0..bytes.len() {
                let mut scan = Scan::default();
                let mut answers = (first..=bytes.len()).map(|len| scan.end(&bytes[..len], 99));
                let answer = answers.find(|answer| !matches!(answer, Ok(None)));
                let told = |answer: Result<_, Refusal>| answer.map_err(|refusal| refusal.status);
                assert_eq!(answer.map(told), Some(told(whole(bytes, 99))), "{first} {bytes:?}");
            }
        }
    }

    /// Wherever it stands among the eight that are looked at together, and whatever is beside it.
    #[test]
    fn no_control_character_is_passed_over() {
        for byte in 0..=u8::MAX {
            for beside in [0x20, b'a', 0x7e, 0x80, 0xff] {
                for at in 0..20 {
                    let mut bytes = [beside; 21];
                    bytes[at] = byte;
                    let len = if byte.is_ascii_control() { at } else { bytes.len() };
                    assert_eq!(plain_len(&bytes), len, "{byte:#x} at {at} in {beside:#x}");
                    // Behind another, which is the first.
                    bytes[0] = b'\r';
                    assert_eq!(plain_len(&bytes), 0);
                }
            }
        }
        assert_eq!(plain_len(b""), 0);
    }

    #[test]
    fn too_long_is_the_lines_fault_or_the_fields() {
        let line = [b'a'; 20];
        assert_eq!(whole(&line, 20).map_err(|r| r.status), Err(414));
        assert_eq!(whole(&line[..19], 20), Ok(None));
        assert_eq!(whole(b"GET / HTTP/1.1\r\nA: b", 20).map_err(|r| r.status), Err(431));
        assert_eq!(whole(b"GET / HTTP/1.1\r\n\r\n", 18), Ok(Some(18)), "just as long as it may");
        assert_eq!(whole(b"GET / HTTP/1.1\r\n\r\n", 17).map_err(|r| r.status), Err(431));
    }

    #[test]
    fn blank_lines_are_whole_ones() {
        assert_eq!(blank_lines(b"\r\n\r\nGET"), 4);
        assert_eq!(blank_lines(b"\r\nG\r\n"), 2);
        assert_eq!(blank_lines(b"\r"), 0);
        assert_eq!(blank_lines(b"\n"), 0);
    }
}
