//! The head of a request: what is accepted, and the answer to what is not.
//!
//! Strict on purpose: the origin stands behind a relay, and what two HTTP
//! parsers read differently is how requests are smuggled (RFC 9112 section
//! 11.2). So there is one length at most, no transfer coding, one Host, and no
//! answer without a close after anything doubtful.

/// The longest head taken, in bytes, request line and header fields together.
pub(super) const HEAD_LEN_MAX: usize = 16 * 1024;

/// The most header fields in one head.
const FIELDS_MAX: usize = 64;

/// The longest request body that is read and thrown away, in bytes.
pub(super) const BODY_LEN_MAX: u64 = 64 * 1024;

/// The longest Host taken: a DNS name has at most 253 characters, then a port.
const HOST_LEN_MAX: usize = 260;

/// An answer other than 200, with the sentence that tells the client why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: &'static str,
    pub reason: String,
    /// Whether the request was understood well enough for another to follow.
    pub close: bool,
}

impl Refusal {
    fn close(status: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Refusal { status, reason, close: true }
    }

    /// The request was understood, and another may follow.
    pub(crate) fn keep(status: &'static str, reason: impl Into<String>) -> Self {
        Refusal { close: false, ..Refusal::close(status, reason) }
    }

    /// The head did not come in time.
    pub(super) fn too_slow() -> Self {
        Refusal::close("408 Request Timeout", "the request head did not come in time")
    }
}

/// A request that was understood, framing included.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<T> {
    /// What to answer: a target, or a refusal after which the connection may live.
    pub target: Result<T, Refusal>,
    /// HEAD: everything but the body.
    pub head_only: bool,
    /// The client speaks HTTP/1.0, which has to be told that it may keep the connection.
    pub http10: bool,
    /// The connection may serve another request.
    pub keep_alive: bool,
    /// The client listed text/html among what it accepts.
    pub html: bool,
    /// Where the client thinks we are, checked to hold no character of any markup.
    pub host: Option<String>,
    /// Bytes of the head in the buffer.
    pub head_len: usize,
    /// Bytes of body that follow; at most [`BODY_LEN_MAX`].
    pub body_len: u64,
}

/// Reads the head at the start of `bytes`: `None` while it is not complete. `find` says what there
/// is at a path.
///
/// # Errors
///
/// The answer that the connection ends with.
pub(super) fn parse<T>(
    bytes: &[u8],
    find: impl FnOnce(&str) -> Result<T, Refusal>,
) -> Result<Option<Request<T>>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let head_len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len <= HEAD_LEN_MAX => len,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_LEN_MAX => return Ok(None),
        Ok(_) => {
            let reason = format!("the request head is longer than {HEAD_LEN_MAX} bytes");
            return Err(Refusal::close("431 Request Header Fields Too Large", reason));
        }
        Err(error) => return Err(malformed(bytes, error)),
    };
    let http10 = head.version == Some(0);
    let known = Fields::read(head.headers)?;
    let (method, uri) = (head.method.unwrap_or(""), head.path.unwrap_or(""));

    if known.transfer_encoding {
        let reason = "a request body with a transfer coding is not taken here";
        return Err(Refusal::close("501 Not Implemented", reason));
    }
    if known.expect {
        let reason = "no expectation can be met here";
        return Err(Refusal::close("417 Expectation Failed", reason));
    }
    let body_len = known.content_length.unwrap_or(0);
    if body_len > BODY_LEN_MAX {
        let reason = format!("a request body may have at most {BODY_LEN_MAX} bytes here");
        return Err(Refusal::close("413 Content Too Large", reason));
    }
    if known.host.is_none() && !http10 {
        return Err(bad("a request needs one Host"));
    }
    // An absolute form names the host itself, and that one counts (RFC 9112 section 3.2.2).
    let (path, host) = match uri.strip_prefix("http://") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (path, Some(host(authority.as_bytes())?))
        }
        None => (uri, known.host),
    };
    Ok(Some(Request {
        target: match method {
            // A path may carry a query, which changes nothing.
            "GET" | "HEAD" => find(path.split('?').next().unwrap_or(path)),
            _ => {
                Err(Refusal::keep("405 Method Not Allowed", "only GET and HEAD are answered here"))
            }
        },
        head_only: method == "HEAD",
        http10,
        keep_alive: !known.close && (!http10 || known.keep_alive),
        html: known.html,
        host,
        head_len,
        body_len,
    }))
}

fn bad(reason: impl Into<String>) -> Refusal {
    Refusal::close("400 Bad Request", reason)
}

fn malformed(bytes: &[u8], error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::close(
            "431 Request Header Fields Too Large",
            format!("more than {FIELDS_MAX} header fields"),
        ),
        // Another protocol altogether fails at its version too: only what says
        // that it is HTTP of another version is told so.
        httparse::Error::Version if names_http(bytes) => Refusal::close(
            "505 HTTP Version Not Supported",
            "HTTP/1.1 and HTTP/1.0 are spoken here",
        ),
        _ => bad(format!("not an HTTP request: {error}")),
    }
}

fn names_http(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(bytes);
    let last = line.rsplit(|byte| *byte == b' ').next().unwrap_or(line);
    last.strip_prefix(b"HTTP/").is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
}

/// Digits only: `parse` of the standard library would take a sign as well.
/// A number too large for 64 bits is the largest of them, which every limit refuses.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0u64, |number, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    }))
}

fn host(value: &[u8]) -> Result<String, Refusal> {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:[]%".contains(byte);
    if value.is_empty() || value.len() > HOST_LEN_MAX || !value.iter().all(allowed) {
        return Err(bad("the Host is not a name or an address with a port"));
    }
    Ok(String::from_utf8_lossy(value).into_owned())
}

/// The header fields that matter here.
#[derive(Default)]
struct Fields {
    host: Option<String>,
    content_length: Option<u64>,
    transfer_encoding: bool,
    expect: bool,
    close: bool,
    keep_alive: bool,
    html: bool,
}

impl Fields {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Self, Refusal> {
        let mut known = Fields::default();
        for field in headers {
            let (name, value) = (field.name, field.value.trim_ascii());
            if name.eq_ignore_ascii_case("host") {
                if known.host.replace(host(value)?).is_some() {
                    return Err(bad("more than one Host"));
                }
            } else if name.eq_ignore_ascii_case("content-length") {
                let len = decimal(value).ok_or_else(|| bad("Content-Length is not a number"))?;
                if known.content_length.replace(len).is_some() {
                    return Err(bad("more than one Content-Length"));
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                known.transfer_encoding = true;
            } else if name.eq_ignore_ascii_case("expect") {
                known.expect = true;
            } else if name.eq_ignore_ascii_case("connection") {
                known.close |= lists(value, b"close");
                known.keep_alive |= lists(value, b"keep-alive");
            } else if name.eq_ignore_ascii_case("accept") {
                known.html |= lists(value, b"text/html");
            }
        }
        if known.transfer_encoding && known.content_length.is_some() {
            return Err(bad("both Transfer-Encoding and Content-Length"));
        }
        Ok(known)
    }
}

/// Whether the comma-separated list holds `token`, its parameters aside.
fn lists(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|item| {
        let name = item.split(|byte| *byte == b';').next().unwrap_or(item);
        name.trim_ascii().eq_ignore_ascii_case(token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &str) -> Result<String, Refusal> {
        Ok(path.to_owned())
    }

    fn parsed(text: &str) -> Request<String> {
        parse(text.as_bytes(), find).expect("accepted").expect("a whole head")
    }

    fn refused(text: &str) -> Refusal {
        match parse(text.as_bytes(), find) {
            Ok(Some(request)) => request.target.expect_err(text),
            Ok(None) => panic!("not whole: {text:?}"),
            Err(refusal) => refusal,
        }
    }

    #[test]
    fn a_plain_request() {
        let request = parsed("GET / HTTP/1.1\r\nHost: a:80\r\n\r\nGET");
        assert_eq!(request.target.as_deref(), Ok("/"));
        assert_eq!(request.host.as_deref(), Some("a:80"));
        assert!(request.keep_alive && !request.html && !request.http10 && !request.head_only);
        assert_eq!((request.head_len, request.body_len), (30, 0));
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHo", find), Ok(None));
    }

    #[test]
    fn the_path_is_without_query_and_authority() {
        let target = |path: &str| parsed(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).target;
        assert_eq!(target("/bytes/7?x").as_deref(), Ok("/bytes/7"));
        assert_eq!(target("http://other:1/bytes/7").as_deref(), Ok("/bytes/7"), "absolute form");
        assert_eq!(target("http://other").as_deref(), Ok(""));
        assert_eq!(target("*").as_deref(), Ok("*"));
    }

    #[test]
    fn persistence_follows_version_and_connection() {
        let keeps = |rest: &str| parsed(&format!("GET / {rest}\r\n\r\n")).keep_alive;
        assert!(keeps("HTTP/1.1\r\nHost: a"));
        assert!(!keeps("HTTP/1.1\r\nHost: a\r\nConnection: x, Close"));
        assert!(!keeps("HTTP/1.0"));
        assert!(keeps("HTTP/1.0\r\nConnection: Keep-Alive"));
    }

    #[test]
    fn html_only_for_who_lists_it() {
        let html = |accept: &str| {
            parsed(&format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n")).html
        };
        assert!(!html("*/*"));
        assert!(!html("text/htmlx"));
        assert!(html("text/html,application/xml;q=0.9"));
        assert!(html("image/png, TEXT/HTML;q=0.8"));
    }

    #[test]
    fn what_is_doubtful_is_refused_and_closed() {
        let close = "HTTP/1.1\r\nHost: a\r\n";
        for (text, status) in [
            ("\u{16}\u{3}\u{1} hello\n".into(), "400"),
            ("GET / JUNK\r\n\r\n".into(), "400"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), "505"),
            ("GET / HTTP/1.1\r\n\r\n".into(), "400"),
            ("GET / HTTP/1.1\r\nHost: <b>\r\n\r\n".into(), "400"),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), "400"),
            (format!("GET / {close}Host: a\r\n\r\n"), "400"),
            (format!("GET http://a\"b/ {close}\r\n"), "400"),
            (format!("GET / {close}Content-Length: 1,1\r\n\r\n"), "400"),
            (format!("GET / {close}Content-Length: +1\r\n\r\n"), "400"),
            (format!("GET / {close}Content-Length: 1\r\nContent-Length: 1\r\n\r\n"), "400"),
            (
                format!("GET / {close}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
                "400",
            ),
            (format!("GET / {close}Transfer-Encoding: chunked\r\n\r\n"), "501"),
            (format!("GET / {close}Content-Length: 65537\r\n\r\n"), "413"),
            (format!("PUT / {close}Expect: 100-continue\r\n\r\n"), "417"),
            (format!("GET / {close}{}\r\n", "a: b\r\n".repeat(FIELDS_MAX)), "431"),
            (format!("GET / {close}X: {}", "y".repeat(HEAD_LEN_MAX)), "431"),
        ] {
            let refusal = refused(&text);
            assert!(refusal.status.starts_with(status), "{text:?}: {refusal:?}");
            assert!(refusal.close, "{text:?}");
        }
        let method = refused(&format!("POST / {close}Content-Length: 65536\r\n\r\n"));
        assert!(method.status.starts_with("405") && !method.close);
    }
}
