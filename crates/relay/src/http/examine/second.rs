//! A second reader of what is forwarded, written without a look at the first: it splits lines,
//! takes what it finds, and wants only that no careless reading of a head differs from another.

use crate::http::framing::{Body, is_bodyless};

/// A head as its lines.
#[derive(Debug)]
pub(super) struct Second<'b> {
    first: Vec<&'b [u8]>,
    fields: Vec<(String, &'b [u8])>,
}

impl<'b> Second<'b> {
    /// One head, and nothing behind it.
    pub(super) fn of(head: &'b [u8]) -> Self {
        let shown = head.escape_ascii();
        let text = head.strip_suffix(b"\r\n\r\n").unwrap_or_else(|| panic!("no end: {shown}"));
        let is_line_end = |at: usize| text[at] == b'\r' && text.get(at + 1) == Some(&b'\n');
        let mut lines = Vec::new();
        // Whoever ends lines at LF alone, or at CR alone, finds the same ones.
        for line in text.split(|byte| *byte == b'\n') {
            lines.push(line.strip_suffix(b"\r").unwrap_or(line));
        }
        let ends = (0..text.len()).filter(|at| is_line_end(*at)).count();
        let odd = text.iter().filter(|byte| **byte == b'\r' || **byte == b'\n').count();
        assert_eq!((ends + 1, odd), (lines.len(), 2 * ends), "{shown}");
        let mut lines = lines.into_iter();
        let first = lines.next().unwrap_or_default();
        assert!(!first.is_empty(), "{shown}");
        let field = |line: &'b [u8]| {
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, value) = line.split_at(colon.unwrap_or_else(|| panic!("no colon: {shown}")));
            let is_plain = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
            assert!(is_plain, "a name with spaces: {shown}");
            let is_text = value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
            assert!(is_text, "a control character: {shown}");
            (String::from_utf8_lossy(name).to_ascii_lowercase(), value[1..].trim_ascii())
        };
        let fields = lines.map(field).collect();
        Self { first: first.split(|byte| *byte == b' ').collect(), fields }
    }

    /// The values of all fields of a name, also where it is written with `_` for `-`, as programs
    /// behind CGI read it.
    pub(super) fn fields_called(&self, name: &str) -> Vec<&'b [u8]> {
        let is_it = |field: &&(String, &'b [u8])| field.0.replace('_', "-") == name;
        self.fields.iter().filter(is_it).map(|(_, value)| *value).collect()
    }

    pub(super) fn request_body(&self) -> Body {
        assert_eq!(self.first.len(), 3, "a method, a target and a version: {self:?}");
        assert_eq!(self.first[2], b"HTTP/1.1");
        match self.framing() {
            Body::UntilClose => Body::None,
            body => body,
        }
    }

    pub(super) fn response_body(&self, status: u16, is_head: bool) -> Body {
        assert!(self.first.len() >= 3, "a version, a status and a space behind it: {self:?}");
        assert_eq!(self.first[0], b"HTTP/1.1");
        assert_eq!(self.first[1], status.to_string().as_bytes());
        let framing = self.framing();
        if is_head || is_bodyless(status) { Body::None } else { framing }
    }

    /// The body that the fields announce; without any of them there is no end to it.
    fn framing(&self) -> Body {
        let all = |name: &str| -> Vec<&[u8]> {
            let is_it = |field: &&(String, &'b [u8])| field.0 == name;
            self.fields.iter().filter(is_it).map(|(_, value)| *value).collect()
        };
        let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
        assert!(lengths.len() + codings.len() <= 1, "the framing is said once: {self:?}");
        if let Some(coding) = codings.first() {
            assert_eq!(*coding, b"chunked");
            return Body::Chunked;
        }
        let Some(len) = lengths.first() else { return Body::UntilClose };
        assert!(len.iter().all(u8::is_ascii_digit), "{self:?}");
        match std::str::from_utf8(len).ok().and_then(|len| len.parse().ok()) {
            Some(0) => Body::None,
            Some(len) => Body::Length(len),
            None => panic!("a length that is no number: {self:?}"),
        }
    }

    /// Whether a server that decodes, drops parameters and empty segments, and goes up at `..`,
    /// would look for the target below `/NAME`.
    pub(super) fn reaches(&self, name: &str) -> bool {
        let target = self.first[1];
        let path = target.split(|byte| *byte == b'?').next().unwrap_or(target);
        let mut way: Vec<Vec<u8>> = Vec::new();
        for segment in path.split(|byte| *byte == b'/' || *byte == b'\\') {
            let bare = segment.split(|byte| *byte == b';').next().unwrap_or(segment);
            match &decoded(bare)[..] {
                b"" | b"." => {}
                b".." => drop(way.pop()),
                other => way.push(other.to_vec()),
            }
        }
        path.starts_with(b"/") && way.first().is_some_and(|first| first == name.as_bytes())
    }
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let digits = text.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        // A sign would be taken for a digit.
        let digits = digits.filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if text[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

/// The length of the chunked body that `bytes` begin with, and its data; None where it is not
/// whole, or none.
pub(super) fn unchunked(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (mut rest, mut data) = (bytes, Vec::new());
    loop {
        let line = line(&mut rest)?;
        let digits = line.split(|byte| *byte == b';').next().unwrap_or(line);
        let digits = std::str::from_utf8(digits).ok()?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            break;
        }
        data.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    while !line(&mut rest)?.is_empty() {}
    Some((bytes.len() - rest.len(), data))
}

/// Takes a line, without its end.
fn line<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    let line = &rest[..end];
    *rest = &rest[end + 2..];
    Some(line)
}
