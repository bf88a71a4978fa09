//! Which body a message has (RFC 9112 section 6.3), and no message with two answers to that.

use super::refusal::Refusal;
use httparse::Header;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing.
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// Chunks, and trailers.
    Chunked,
    /// Everything until the connection ends; answers only.
    UntilClose,
}

impl Body {
    fn of_length(len: u64) -> Self {
        if len == 0 { Self::None } else { Self::Length(len) }
    }
}

/// The fields of a head that frame its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) content_length: Option<u64>,
    pub(super) is_chunked: bool,
    has_coding: bool,
}

impl Framing {
    /// Takes one field into account.
    ///
    /// # Errors
    /// A second length, also an equal one, one that is no number, or a transfer coding
    /// other than chunked, once.
    pub(super) fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let len = decimal(value).ok_or(Refusal::bad("Content-Length is not a number"))?;
        match self.content_length.replace(len) {
            // Equal ones might be merged (RFC 9110 section 8.6), but nobody honest sends them.
            Some(_) => Err(Refusal::bad("more than one Content-Length")),
            None => Ok(()),
        }
    }

    /// As [`content_length`](Self::content_length), for Transfer-Encoding.
    pub(super) fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.has_coding, true) {
            return Err(Refusal::bad("more than one Transfer-Encoding"));
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            self.is_chunked = true;
            return Ok(());
        }
        // A list that has chunked in any place is a trick or a mistake; what has not is a
        // coding that is not known here (RFC 9112 section 6.1).
        let lower = value.to_ascii_lowercase();
        match lower.windows(7).any(|word| word == b"chunked") {
            true => Err(Refusal::bad("a Transfer-Encoding that is not just chunked")),
            false => Err(Refusal::new(501, "a transfer coding that is not known")),
        }
    }

    /// The two must not come together, and HTTP/1.0 has no chunks: its peers would look for
    /// the next message somewhere else.
    pub(super) fn check(&self, is_http10: bool) -> Result<(), Refusal> {
        if self.has_coding && self.content_length.is_some() {
            return Err(Refusal::bad("both Transfer-Encoding and Content-Length"));
        }
        if self.has_coding && is_http10 {
            return Err(Refusal::bad("Transfer-Encoding in HTTP/1.0"));
        }
        Ok(())
    }

    /// Of a request.
    pub(super) fn of_request(&self) -> Body {
        match self.is_chunked {
            true => Body::Chunked,
            false => Body::of_length(self.content_length.unwrap_or(0)),
        }
    }

    /// Of an answer with `status` to a request that was a HEAD or not. What follows a 101, or a
    /// 2xx to CONNECT, is no body and not told here.
    pub(super) fn of_response(&self, status: u16, is_head: bool) -> Body {
        if is_head || is_bodyless(status) {
            return Body::None;
        }
        match (self.is_chunked, self.content_length) {
            (true, _) => Body::Chunked,
            (false, Some(len)) => Body::of_length(len),
            (false, None) => Body::UntilClose,
        }
    }
}

/// An answer with this status never has a body.
pub(super) const fn is_bodyless(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

/// Digits only, and as many as fit: `parse` of the standard library would take a sign too.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// The items of a comma-separated list in all fields of that name, empty ones left out.
pub(super) fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// A letter of a field's name as servers compare it: what goes by CGI's rules (RFC 3875 section
/// 4.1.18), as WSGI and PHP do, has one variable for `X-A`, `x-a` and `X_A`.
pub(super) const fn folded(letter: u8) -> u8 {
    if letter == b'_' { b'-' } else { letter.to_ascii_lowercase() }
}

/// The fields called `name`.
pub(super) fn called<'h, 'b: 'h>(
    fields: &'h [Header<'b>],
    name: &str,
) -> impl Iterator<Item = &'b [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_that_fit() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"007"), Some(7));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for text in ["", "+1", "-1", "1 ", "0x1", "1,1", "1_0", "18446744073709551616", "\u{b2}"] {
            assert_eq!(decimal(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn an_answers_body_by_status_method_and_fields() {
        let length = Framing { content_length: Some(5), ..Framing::default() };
        let chunked = Framing { is_chunked: true, has_coding: true, ..Framing::default() };
        let neither = Framing::default();
        for (framing, status, is_head, body) in [
            (length, 200, false, Body::Length(5)),
            (length, 200, true, Body::None),
            (length, 204, false, Body::None),
            (length, 304, false, Body::None),
            (length, 103, false, Body::None),
            (chunked, 200, false, Body::Chunked),
            (chunked, 304, false, Body::None),
            (chunked, 200, true, Body::None),
            (neither, 200, false, Body::UntilClose),
            (neither, 200, true, Body::None),
            (neither, 500, false, Body::UntilClose),
            (Framing { content_length: Some(0), ..neither }, 200, false, Body::None),
        ] {
            assert_eq!(framing.of_response(status, is_head), body, "{status} {is_head}");
        }
    }
}
