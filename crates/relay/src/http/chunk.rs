//! Chunked bodies (RFC 9112 section 7.1), as a state machine over what has come so far.
//!
//! It changes no byte and keeps none: of what is in a buffer it says what may be passed on, and
//! of the chunk that the buffer ends in how much is still to come from the socket, which can
//! then be spliced without being looked at. Every line is taken in one spelling only, and
//! everything in it is bounded; a line that is not is refused at its first wrong byte, so that
//! whoever passes on what was taken has passed on nothing that ends a message elsewhere.

use super::framing::folded;
use super::refusal::Refusal;

/// Digits of a chunk's size, leading zeros included.
const DIGITS_MAX: u8 = 16;
/// Bytes of the extensions of one chunk.
const EXTENSIONS_LEN_MAX: u16 = 1024;
/// Bytes of all trailers.
const TRAILERS_LEN_MAX: u16 = 8 * 1024;

/// One chunked body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    state: State,
    /// Of the lines behind the last chunk.
    trailers_len: u16,
}

/// What the bytes at the front are; the driver that unpacks leaves the framing out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Framing(usize),
    Data(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Size {
        size: u64,
        digits: u8,
    },
    Extensions {
        size: u64,
        len: u16,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a line behind the last chunk.
    Trailer,
    TrailerName(Name),
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

impl Default for State {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

impl Chunks {
    /// What the front of `bytes` is; None when there is nothing, or the body is over.
    ///
    /// # Errors
    /// 400 for anything that is not as it must be. The body is then of no use.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<Option<Piece>, Refusal> {
        if let State::Data { left } = self.state {
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            self.spliced(len as u64);
            return Ok((len > 0).then_some(Piece::Data(len)));
        }
        let mut len = 0;
        while len < bytes.len() && !matches!(self.state, State::Data { .. } | State::Done) {
            self.step(bytes[len])?;
            len += 1;
        }
        Ok((len > 0).then_some(Piece::Framing(len)))
    }

    /// How much of the front of `bytes` is this body's; it may be passed on as it is.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut len = 0;
        while let Some(Piece::Framing(piece) | Piece::Data(piece)) = self.next(&bytes[len..])? {
            len += piece;
        }
        Ok(len)
    }

    /// Data of the chunk that what was passed ends in; it may come from the socket unseen, if
    /// [`spliced`](Self::spliced) is told.
    pub(super) fn left(&self) -> u64 {
        if let State::Data { left } = self.state { left } else { 0 }
    }

    /// So many of the bytes [`left`](Self::left) went by.
    pub(super) fn spliced(&mut self, len: u64) {
        if let State::Data { left } = &mut self.state {
            debug_assert!(len <= *left);
            *left = left.saturating_sub(len);
            if *left == 0 {
                self.state = State::DataCr;
            }
        }
    }

    /// The last trailer has been passed.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// One byte that is not data.
    fn step(&mut self, byte: u8) -> Result<(), Refusal> {
        let next = match (&mut self.state, byte) {
            (State::Size { size, digits }, byte) => size_line(*size, *digits, byte)?,
            (State::Extensions { size, .. }, b'\r') => State::SizeLf { size: *size },
            (State::Extensions { len, .. }, _) if *len >= EXTENSIONS_LEN_MAX => {
                return Err(Refusal::bad("the extensions of a chunk are too long"));
            }
            (State::Extensions { size, len }, b'\t' | b' '..=b'~') => {
                State::Extensions { size: *size, len: *len + 1 }
            }
            (State::Extensions { .. }, _) => {
                return Err(Refusal::bad("a chunk's extension has a character it may not"));
            }
            (State::SizeLf { size: 0 }, b'\n') => State::Trailer,
            (State::SizeLf { size }, b'\n') => State::Data { left: *size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::default(),
            (State::DataCr | State::DataLf, _) => {
                return Err(Refusal::bad("a chunk is longer than its size"));
            }
            (State::Trailer, b'\r') => State::LastLf,
            (State::LastLf, b'\n') => State::Done,
            (_, _) => return self.trailer(byte),
        };
        self.state = next;
        Ok(())
    }

    fn trailer(&mut self, byte: u8) -> Result<(), Refusal> {
        self.trailers_len += 1;
        if self.trailers_len > TRAILERS_LEN_MAX {
            return Err(Refusal::new(431, "the trailers are too long"));
        }
        let next = match (&mut self.state, byte) {
            (State::Trailer, byte) if is_token(byte) => State::TrailerName(Name::new(byte)),
            (State::TrailerName(name), b':') if name.is_forbidden() => {
                return Err(Refusal::bad("a field that is not allowed as a trailer"));
            }
            (State::TrailerName(_), b':') => State::TrailerValue,
            (State::TrailerName(name), byte) if is_token(byte) => {
                name.push(byte);
                return Ok(());
            }
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => return Ok(()),
            (State::TrailerLf, b'\n') => State::Trailer,
            _ => return Err(Refusal::bad("a trailer has a character it may not")),
        };
        self.state = next;
        Ok(())
    }
}

/// One byte of the size, or the first behind it. No white space in either place: some servers
/// end the number there, others do not.
fn size_line(size: u64, digits: u8, byte: u8) -> Result<State, Refusal> {
    match (byte, (byte as char).to_digit(16)) {
        (_, Some(digit)) if digits < DIGITS_MAX => {
            let size = size << 4 | u64::from(digit);
            // What does not fit a signed number wraps around in some servers.
            if i64::try_from(size).is_err() {
                return Err(Refusal::bad("the size of a chunk is too large"));
            }
            Ok(State::Size { size, digits: digits + 1 })
        }
        (_, Some(_)) => Err(Refusal::bad("the size of a chunk has too many digits")),
        (b'\r', None) if digits > 0 => Ok(State::SizeLf { size }),
        (b';', None) if digits > 0 => Ok(State::Extensions { size, len: 0 }),
        _ => Err(Refusal::bad("the size of a chunk is not a number")),
    }
}

/// A character of a token (RFC 9110 section 5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// The name of a trailer, as far as it could be one that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    letters: [u8; NAME_LEN_MAX],
    len: usize,
}

const NAME_LEN_MAX: usize = 20;

impl Name {
    fn new(first: u8) -> Self {
        let mut name = Self { letters: [0; NAME_LEN_MAX], len: 0 };
        name.push(first);
        name
    }

    fn push(&mut self, letter: u8) {
        if let Some(place) = self.letters.get_mut(self.len) {
            *place = folded(letter);
        }
        self.len += 1;
    }

    /// A field that frames, routes, authorizes or describes its message has come too late to
    /// do so, and whoever merges trailers into the head would believe it (RFC 9110 section 6.5.1),
    /// in any spelling that it has for the name.
    fn is_forbidden(&self) -> bool {
        self.letters.get(..self.len).is_some_and(|name| FORBIDDEN.contains(&name))
    }
}

const FORBIDDEN: [&[u8]; 25] = [
    b"authorization",
    b"cache-control",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"keep-alive",
    b"location",
    b"max-forwards",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"range",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"www-authenticate",
    b"x-forwarded-for",
];

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes of the body, and its data.
    fn decoded(bytes: &[u8]) -> Result<(usize, Vec<u8>, bool), Refusal> {
        let (mut chunks, mut at, mut data) = (Chunks::default(), 0, Vec::new());
        while let Some(piece) = chunks.next(&bytes[at..])? {
            at += match piece {
                Piece::Framing(len) => len,
                Piece::Data(len) => {
                    data.extend_from_slice(&bytes[at..at + len]);
                    len
                }
            };
        }
        Ok((at, data, chunks.is_done()))
    }

    /// Bodies with something behind them or not, their length, and their data.
    pub(in crate::http) const WHOLE: &[(&[u8], usize, &[u8])] = &[
        (b"0\r\n\r\n", 5, b""),
        (b"5\r\nhello\r\n0\r\n\r\nGET /", 15, b"hello"),
        (b"1;a=b;c=\"d\"\r\nx\r\n000\r\nA: b\r\nC:\r\n\r\n", 33, b"x"),
        (
            b"A\r\n0123456789\r\nA\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
            35,
            b"0123456789\r\n\r\n\r\n\r\n\r\n",
        ),
    ];

    #[test]
    fn data_without_its_framing_and_nothing_behind_it() {
        for &(bytes, len, data) in WHOLE {
            assert_eq!(decoded(bytes), Ok((len, data.to_vec(), true)), "{}", bytes.escape_ascii());
        }
    }

    /// What is no body, by its beginning.
    pub(in crate::http) const REFUSED: &[&str] = &[
        "\r\n",
        ";\r\n",
        "0x5\r\n",
        "+5\r\n",
        "-5\r\n",
        "5_0\r\n",
        " 5\r\n",
        "5 \r\n",
        "5 ;a\r\n",
        "5\t\r\n",
        "5\n",
        "5\r5",
        "5,5\r\n",
        "5.0\r\n",
        "g\r\n",
        "\u{0}5\r\n",
        "5\u{0}\r\n",
        "5h\r\n",
        "8000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "1;a\nx",
        "1;a\rx",
        "1;\u{0}",
        "1;\u{7f}",
        "1;\u{e4}",
        "1\r\nxx\r\n",
        "1\r\nx\n",
        "1\r\nx\r\r",
        "1\r\n\r\nx",
        "1\r\nx0\r\n\r\n",
        "0\r\n\n",
        "0\r\nA\r\n",
        "0\r\n: b\r\n",
        "0\r\nA : b",
        "0\r\n A: b",
        "0\r\nA: b\n",
        "0\r\nA: b\r\n c",
        "0\r\nA: \u{0}",
        "0\r\nA: b\rc",
        "0\r\n\r\r",
        "0\r\nContent-Length: 5\r\n",
        "0\r\ntransfer-encoding:chunked",
        "0\r\nHOST:a",
        "0\r\nProxy-Authorization: x",
        "0\r\nContent_Length: 5\r\n",
        "0\r\nx_Forwarded-For: 1",
        "0\r\nTRANSFER_ENCODING: chunked",
    ];

    #[test]
    fn every_other_spelling_is_refused() {
        let too_many = format!("{}\r\n", "0".repeat(17));
        let extension = format!("1;{}", "e".repeat(1025));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(1400));
        let long = [&*too_many, &*extension, &*trailers];
        for bytes in REFUSED.iter().copied().chain(long) {
            assert!(decoded(bytes.as_bytes()).is_err(), "{}", bytes.escape_debug());
        }
    }

    #[test]
    fn what_is_left_of_a_chunk_may_go_by_unseen() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.pass(b"10000\r\nabc"), Ok(10));
        assert_eq!(chunks.left(), 0x10000 - 3);
        chunks.spliced(0x10000 - 3);
        assert_eq!(chunks.left(), 0);
        assert!(chunks.clone().pass(b"x").is_err(), "the CRLF of the chunk comes next");
        assert_eq!(chunks.pass(b"\r\n0\r\n\r\nnext"), Ok(7));
        assert!(chunks.is_done());
        assert_eq!(chunks.pass(b"next"), Ok(0));
    }

    #[test]
    fn harmless_trailers_pass_also_long_names() {
        let bytes =
            b"0\r\nProxy-Authorization-Of-Mine: x\r\nHostess: y\r\nX_Sum: 1\r\nHost_: z\r\n\r\n";
        assert_eq!(decoded(bytes), Ok((bytes.len(), Vec::new(), true)));
    }

    /// Bytes that look like chunks more often than chance would have it.
    fn plausible() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            (1usize..40).prop_map(|n| format!("{n:x}\r\n{}\r\n", "d".repeat(n)).into_bytes()),
            Just(b"0\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"3;x=y\r\n\r\n0\r\n".to_vec()),
            Just(b"Name: value\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn pieces_are_read_as_the_whole_is(bytes in plausible(), cuts in proptest::collection::vec(1usize..9, 1..64)) {
            let mut whole = Chunks::default();
            let at_once = whole.pass(&bytes);
            let (mut chunks, mut at, mut result) = (Chunks::default(), 0, Ok(0));
            for cut in cuts.iter().cycle() {
                let end = (at + cut).min(bytes.len());
                match chunks.pass(&bytes[at..end]) {
                    Ok(len) => at += len,
                    Err(refusal) => { result = Err(refusal); break; }
                }
                result = Ok(at);
                if at < end || end == bytes.len() { break; }
            }
            prop_assert_eq!(&result, &at_once);
            if result.is_ok() { prop_assert_eq!(chunks, whole); }
        }
    }
}
