//! Patterns of paths: `*` for any run without `/`, `**` for any run, `?` for one character that
//! is no `/`.
//!
//! The pattern is walked as a set of places that it can be at, so the time is bounded by the
//! product of the two lengths, whatever a client sends.

/// The longest pattern, in bytes. A longer one matches nothing: a configuration refuses it.
pub const PATTERN_LEN_MAX: usize = 511;

/// Whether all of `text` matches.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let pattern = pattern.as_bytes();
    if pattern.len() > PATTERN_LEN_MAX {
        return false;
    }
    let mut places = Places::default();
    places.enter(pattern, 0);
    for byte in text.bytes() {
        let mut next = Places::default();
        for at in places.iter(pattern.len()) {
            match pattern.get(at) {
                Some(b'*') if byte != b'/' || is_double(pattern, at) => next.enter(pattern, at),
                Some(b'?') if byte != b'/' => next.enter(pattern, at + 1),
                Some(literal) if *literal == byte && !b"*?".contains(literal) => {
                    next.enter(pattern, at + 1);
                }
                _ => {}
            }
        }
        places = next;
    }
    places.has(pattern.len())
}

fn is_double(pattern: &[u8], at: usize) -> bool {
    pattern.get(at + 1) == Some(&b'*')
}

/// Where a pattern can be at, its end included.
#[derive(Default)]
struct Places([u64; (PATTERN_LEN_MAX + 1) / 64]);

impl Places {
    /// Goes to `at`, and past stars there: they may stand for nothing.
    fn enter(&mut self, pattern: &[u8], mut at: usize) {
        loop {
            self.0[at / 64] |= 1 << (at % 64);
            match pattern.get(at) {
                Some(b'*') => at += if is_double(pattern, at) { 2 } else { 1 },
                _ => return,
            }
        }
    }

    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn iter(&self, last: usize) -> impl Iterator<Item = usize> {
        (0..=last).filter(|at| self.has(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_end_at_slashes_and_double_ones_do_not() {
        for (pattern, text, matched) in [
            ("", "", true),
            ("", "/", false),
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("*", "", true),
            ("*", "ab", true),
            ("*", "a/b", false),
            ("**", "a/b", true),
            ("/**", "/", true),
            ("/*.js", "/x.js", true),
            ("/*.js", "/x/y.js", false),
            ("/**.js", "/x/y.js", true),
            ("/**/y", "/x/z/y", true),
            ("/**/y", "/y", false),
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a//c", true),
            ("/a/*/c", "/a/b/b/c", false),
            ("/?", "/a", true),
            ("/?", "//", false),
            ("/?", "/", false),
            ("*a*b", "xaxb", true),
            ("*a*b", "xaxbx", false),
            ("**a*b", "x/a/ab", true),
            ("***", "a/b", true),
        ] {
            assert_eq!(matches(pattern, text), matched, "{pattern} {text}");
        }
        assert!(matches(&"a".repeat(PATTERN_LEN_MAX), &"a".repeat(PATTERN_LEN_MAX)));
        assert!(!matches(&"*".repeat(PATTERN_LEN_MAX + 1), "a"));
    }

    #[test]
    fn the_end_of_a_pattern_takes_no_more() {
        assert!(!matches("a*", "b") && matches("a*", "a") && !matches("a?", "a"));
        // Many stars cost places, not turns back.
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
        assert!(matches(&"*a".repeat(200), &"a".repeat(16_000)));
    }
}
