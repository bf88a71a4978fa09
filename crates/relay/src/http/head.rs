//! Heads of requests and answers: parsed in place by httparse, and checked until they mean one
//! thing only (RFC 9110, RFC 9112).
//!
//! A head is complete before it is parsed ([`Scan`](super::scan::Scan) has found its end), so
//! it is parsed once. What is returned borrows from the buffer. The fields are all there, those
//! that concern the connection or the framing also as what they mean.
//!
//! It does not know what becomes of the message: [`rewrite`](super::rewrite) does.

use super::framing::{Framing, called, decimal, items};
use super::refusal::Refusal;
use super::target::{self, Target};
use httparse::{Header, ParserConfig, Status};
use std::mem::MaybeUninit;

/// The most fields that a plan may allow in one head.
pub const FIELDS_MAX: usize = 256;

/// Room for the fields of one head.
pub(super) type Slots<'b> = [MaybeUninit<Header<'b>>; FIELDS_MAX];

pub(super) const fn slots<'b>() -> Slots<'b> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// The version that a message says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http10,
    Http11,
}

/// A request that was understood.
#[derive(Debug)]
pub(super) struct Request<'h, 'b> {
    pub(super) method: &'b str,
    pub(super) target: Target<'b>,
    pub(super) version: Version,
    /// The authority that is asked; None only in HTTP/1.0.
    pub(super) host: Option<&'b str>,
    pub(super) framing: Framing,
    pub(super) link: Link,
    /// It waits for a 100 before it sends its body.
    pub(super) expects_continue: bool,
    /// How many may forward it, of TRACE and OPTIONS.
    pub(super) max_forwards: Option<u64>,
    pub(super) fields: &'h [Header<'b>],
}

/// An answer that was understood.
#[derive(Debug)]
pub(super) struct Response<'h, 'b> {
    pub(super) status: u16,
    pub(super) reason: &'b str,
    pub(super) framing: Framing,
    pub(super) link: Link,
    pub(super) fields: &'h [Header<'b>],
}

/// What a head says about its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// It may carry another message, by the version and by Connection.
    pub(super) persists: bool,
    /// Connection names `upgrade`, and there is an Upgrade to name.
    pub(super) upgrades: bool,
    /// Connection names further fields, which are then hop-by-hop too.
    pub(super) names_fields: bool,
}

/// Reads the head of a request: all of `bytes`, which have at most `fields_max` fields.
///
/// # Errors
/// The status that it is answered with.
pub(super) fn request<'h, 'b>(
    bytes: &'b [u8],
    slots: &'h mut Slots<'b>,
    fields_max: usize,
) -> Result<Request<'h, 'b>, Refusal> {
    let mut head = httparse::Request::new(&mut []);
    let slots = &mut slots[..fields_max.min(FIELDS_MAX)];
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut head, bytes, slots);
    match parsed {
        Ok(Status::Complete(len)) if len == bytes.len() => {}
        Ok(_) => return Err(Refusal::bad("not an HTTP request")),
        Err(error) => return Err(malformed_request(bytes, error)),
    }
    let version = version(head.version);
    let method = head.method.unwrap_or("");
    if method.is_empty() || method.len() > METHOD_LEN_MAX {
        return Err(Refusal::new(501, "no method is that long"));
    }
    let fields: &[Header<'_>] = head.headers;
    let target = target::parse(method, head.path.unwrap_or(""))?;
    let framing = framing(fields, version)?;
    if method == "CONNECT" && framing != Framing::default() {
        return Err(Refusal::bad("CONNECT with a body"));
    }
    let host = host(fields, version)?;
    let expects_continue = expectation(fields)? && version == Version::Http11;
    Ok(Request {
        method,
        host: target.authority.or(host),
        target,
        version,
        framing,
        link: link(fields, version)?,
        expects_continue,
        max_forwards: max_forwards(method, fields)?,
        fields,
    })
}

/// Reads the head of an answer: all of `bytes`.
///
/// # Errors
/// The status is of no meaning: nothing of such an answer is passed on.
pub(super) fn response<'h, 'b>(
    bytes: &'b [u8],
    slots: &'h mut Slots<'b>,
    fields_max: usize,
) -> Result<Response<'h, 'b>, Refusal> {
    let mut head = httparse::Response::new(&mut []);
    let slots = &mut slots[..fields_max.min(FIELDS_MAX)];
    let parsed =
        ParserConfig::default().parse_response_with_uninit_headers(&mut head, bytes, slots);
    match parsed {
        Ok(Status::Complete(len)) if len == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::bad("the answer has too many fields"));
        }
        _ => return Err(Refusal::bad("the answer is not HTTP/1.1")),
    }
    let version = version(head.version);
    let status = head.code.unwrap_or(0);
    if !(100..=599).contains(&status) {
        return Err(Refusal::bad("the answer has no status that there is"));
    }
    let fields: &[Header<'_>] = head.headers;
    Ok(Response {
        status,
        reason: head.reason.unwrap_or(""),
        framing: framing(fields, version)?,
        link: link(fields, version)?,
        fields,
    })
}

/// The longest registered one has 17 characters.
const METHOD_LEN_MAX: usize = 32;

fn version(minor: Option<u8>) -> Version {
    if minor == Some(1) { Version::Http11 } else { Version::Http10 }
}

fn framing(fields: &[Header<'_>], version: Version) -> Result<Framing, Refusal> {
    let mut framing = Framing::default();
    for field in fields {
        let value = field.value.trim_ascii();
        if field.name.eq_ignore_ascii_case("content-length") {
            framing.content_length(value)?;
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            framing.transfer_encoding(value)?;
        }
    }
    framing.check(version == Version::Http10)?;
    Ok(framing)
}

/// Bytes of Connection: all of it is searched for each field of a head.
const CONNECTION_LEN_MAX: usize = 1024;

fn link(fields: &[Header<'_>], version: Version) -> Result<Link, Refusal> {
    if called(fields, "connection").map(<[u8]>::len).sum::<usize>() > CONNECTION_LEN_MAX {
        return Err(Refusal::bad("Connection names too many fields"));
    }
    let (mut close, mut keep_alive, mut upgrade, mut names_fields) = (false, false, false, false);
    for item in called(fields, "connection").flat_map(items) {
        if item.eq_ignore_ascii_case(b"close") {
            close = true;
        } else if item.eq_ignore_ascii_case(b"keep-alive") {
            keep_alive = true;
        } else if item.eq_ignore_ascii_case(b"upgrade") {
            upgrade = true;
        } else {
            names_fields = true;
        }
    }
    Ok(Link {
        persists: !close && (version == Version::Http11 || keep_alive),
        // HTTP/1.0 has none (RFC 9110 section 7.8).
        upgrades: upgrade
            && version == Version::Http11
            && called(fields, "upgrade").next().is_some(),
        names_fields,
    })
}

/// Exactly one Host in HTTP/1.1, at most one in HTTP/1.0 (RFC 9112 section 3.2).
fn host<'b>(fields: &[Header<'b>], version: Version) -> Result<Option<&'b str>, Refusal> {
    let mut hosts = called(fields, "host");
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Refusal::bad("more than one Host")),
        (None, None) if version == Version::Http10 => return Ok(None),
        (None, None) => return Err(Refusal::bad("a request needs one Host")),
        (Some(host), None) => host,
    };
    let host = std::str::from_utf8(host).ok().filter(|host| target::is_authority(host));
    host.map(Some).ok_or(Refusal::bad("Host is not a name or an address"))
}

/// Whether the client waits for a 100; there is no other expectation (RFC 9110 section 10.1.1).
fn expectation(fields: &[Header<'_>]) -> Result<bool, Refusal> {
    let mut expects = false;
    for item in called(fields, "expect").flat_map(items) {
        if !item.eq_ignore_ascii_case(b"100-continue") {
            return Err(Refusal::new(417, "an expectation that is not known"));
        }
        expects = true;
    }
    Ok(expects)
}

/// To other methods it means nothing (RFC 9110 section 7.6.2).
fn max_forwards(method: &str, fields: &[Header<'_>]) -> Result<Option<u64>, Refusal> {
    if !matches!(method, "TRACE" | "OPTIONS") {
        return Ok(None);
    }
    let mut all = called(fields, "max-forwards");
    let Some(value) = all.next() else { return Ok(None) };
    match (decimal(value), all.next()) {
        (Some(number), None) => Ok(Some(number)),
        _ => Err(Refusal::bad("Max-Forwards is not one number")),
    }
}

fn malformed_request(bytes: &[u8], error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::new(431, "the head has too many fields"),
        // Another protocol altogether fails at its version too: only what says that it is
        // HTTP of another version is told so.
        httparse::Error::Version if names_http(bytes) => {
            Refusal::new(505, "HTTP/1.1 and HTTP/1.0 are spoken here")
        }
        httparse::Error::HeaderName => Refusal::bad("a field's name has a character it may not"),
        httparse::Error::HeaderValue => Refusal::bad("a field's value has a character it may not"),
        _ => Refusal::bad("not an HTTP request"),
    }
}

fn names_http(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or(bytes);
    let last = line.rsplit(|byte| *byte == b' ').next().unwrap_or(line);
    last.strip_prefix(b"HTTP/").is_some_and(|rest| {
        rest.first().is_some_and(u8::is_ascii_digit) && !matches!(rest, b"1.1" | b"1.0")
    })
}

#[cfg(test)]
pub(super) mod tests;
