//! The heads that are sent: what came, without what was meant for this connection only, with
//! the edits of the rules and with this relay's own words about the connection.
//!
//! Hop-by-hop fields go, also those that Connection names; but not fields that a message cannot
//! do without, which a client could otherwise have taken from the server. The framing is written
//! anew from what was understood, so that it is said once and in one spelling. No Via: servers
//! that see one switch features off (compression, caching) that clients of a relay
//! expect; a rule can set it.

use super::digits;
use super::framing::{Framing, called, folded, items};
use super::head::{Link, Request, Response, Version};
use super::refusal::{Refusal, phrase};
use super::target;
use crate::date;
use crate::plan::{HeaderEdit, Rule, SetOrAdd};
use httparse::Header;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// What the heads of one exchange are made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings {
    pub(super) client: IpAddr,
    /// Where the client connected to: the host of a request that names none.
    pub(super) local: SocketAddr,
    pub(super) forwarded_for: bool,
}

/// Writes the head that the server gets.
pub(super) fn request<'r>(
    out: &mut Vec<u8>,
    request: &Request<'_, '_>,
    around: Surroundings,
    rules: impl Iterator<Item = &'r Rule> + Clone,
) {
    out.clear();
    put(out, &[request.method.as_bytes(), b" ", request.target.forwarded.as_bytes()]);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let edits = Edits { all: rules.flat_map(|rule| &rule.request_edits), client: around.client };
    if !edits.replaces("host") {
        match request.host {
            Some(host) => put(out, &[b"Host: ", host.as_bytes(), b"\r\n"]),
            // HTTP/1.0 (RFC 9110 section 7.1 on the authority of such a request).
            None => text(out, format_args!("Host: {}\r\n", around.local)),
        }
    }
    let upgrades = passes_upgrade(request);
    for field in request.fields {
        let kind = Kind::of(field.name);
        let stays = match kind {
            Kind::Host | Kind::Length | Kind::Hop => false,
            Kind::Upgrade => upgrades,
            Kind::ForwardedFor => !around.forwarded_for,
            Kind::MaxForwards => request.max_forwards.is_none(),
            Kind::Plain => !is_named(request.link, request.fields, field.name),
        };
        // A wait for 100 is the client's of HTTP/1.1 only.
        let stays = stays && (request.expects_continue || !is(field.name, "expect"));
        if stays && !edits.replaces(field.name) {
            put_field(out, field.name, field.value);
        }
    }
    if let Some(most) = request.max_forwards.filter(|_| !edits.replaces("max-forwards")) {
        text(out, format_args!("Max-Forwards: {}\r\n", most.saturating_sub(1)));
    }
    edits.write(out);
    if around.forwarded_for {
        forwarded_for(out, request.fields, &edits);
    }
    framing(out, request.framing);
    if upgrades {
        out.extend_from_slice(b"Connection: upgrade\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether the request's Upgrade goes to the server. Not to HTTP/2: its requests would pass
/// by the rules.
pub(super) fn passes_upgrade(request: &Request<'_, '_>) -> bool {
    request.link.upgrades
        && !called(request.fields, "upgrade").flat_map(items).any(|protocol| {
            let starts = |with: &[u8]| {
                protocol.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
            };
            starts(b"h2") || starts(b"HTTP")
        })
}

/// What the client is told about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// What its version takes for granted.
    Silent,
    KeepAlive,
    Close,
    Upgrade,
}

impl Persistence {
    pub(super) fn new(keeps: bool, client: Version) -> Self {
        match (keeps, client) {
            (true, Version::Http11) => Self::Silent,
            (true, Version::Http10) => Self::KeepAlive,
            (false, _) => Self::Close,
        }
    }

    const fn field(self) -> &'static [u8] {
        match self {
            Self::Silent => b"",
            Self::KeepAlive => b"Connection: keep-alive\r\n",
            Self::Close => b"Connection: close\r\n",
            Self::Upgrade => b"Connection: upgrade\r\n",
        }
    }
}

/// Writes the head that the client gets; `is_framed` says that its body goes as it comes, in
/// chunks or with a length.
pub(super) fn response<'r>(
    out: &mut Vec<u8>,
    response: &Response<'_, '_>,
    persistence: Persistence,
    is_framed: bool,
    client: IpAddr,
    rules: impl Iterator<Item = &'r Rule> + Clone,
) {
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 ");
    digits::status(out, response.status);
    put(out, &[b" ", response.reason.as_bytes(), b"\r\n"]);
    let edits = Edits { all: rules.flat_map(|rule| &rule.response_edits), client };
    for field in response.fields {
        let stays = match Kind::of(field.name) {
            Kind::Length | Kind::Hop => false,
            Kind::Upgrade => persistence == Persistence::Upgrade || response.status == 426,
            Kind::Host | Kind::ForwardedFor | Kind::MaxForwards => true,
            Kind::Plain => !is_named(response.link, response.fields, field.name),
        };
        if stays && !edits.replaces(field.name) {
            put_field(out, field.name, field.value);
        }
    }
    edits.write(out);
    match response.status {
        // They have none (RFC 9110 section 8.6, RFC 9112 section 6.1).
        100..=199 | 204 => {}
        _ if !is_framed => {}
        _ => framing(out, response.framing),
    }
    out.extend_from_slice(persistence.field());
    out.extend_from_slice(b"\r\n");
}

/// An answer of the relay's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own<'a> {
    pub(super) status: u16,
    pub(super) location: Option<&'a str>,
    /// In parts.
    pub(super) body: &'a [&'a str],
    /// Only the head goes: it was asked by HEAD.
    pub(super) is_head: bool,
}

/// Writes an answer of the relay's own, head and body. `rules` are those that made it, if they did.
pub(super) fn answer<'r>(
    out: &mut Vec<u8>,
    own: Own<'_>,
    persistence: Persistence,
    client: IpAddr,
    rules: impl Iterator<Item = &'r Rule> + Clone,
) {
    let Own { status, location, body, is_head } = own;
    out.clear();
    text(out, format_args!("HTTP/1.1 {status} {}\r\n", phrase(status)));
    let edits = Edits { all: rules.flat_map(|rule| &rule.response_edits), client };
    if let Some(date) = date::now().filter(|_| !edits.replaces("date")) {
        put(out, &[b"Date: ", date.as_bytes(), b"\r\n"]);
    }
    if let Some(location) = location.filter(|_| !edits.replaces("location")) {
        put(out, &[b"Location: ", location.as_bytes(), b"\r\n"]);
    }
    let body_len: usize = body.iter().map(|part| part.len()).sum();
    if body_len > 0 && !edits.replaces("content-type") {
        out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
    }
    edits.write(out);
    text(out, format_args!("Content-Length: {body_len}\r\n"));
    out.extend_from_slice(persistence.field());
    out.extend_from_slice(b"\r\n");
    if !is_head {
        body.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    }
}

/// The place of a redirect, with what stands for parts of the request filled in.
///
/// # Errors
/// 400 where the host is asked for and the request, of HTTP/1.0, names none: an empty one would make a
/// host of what follows it, and the listener's address is the client's business only if it knows it.
pub(super) fn location(
    out: &mut String,
    template: &str,
    request: &Request<'_, '_>,
) -> Result<(), Refusal> {
    out.clear();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (name, value) = if rest.starts_with("{host}") {
            let host = request.host.ok_or(Refusal::bad("the request names no host"))?;
            ("{host}", target::host_name(host))
        } else if rest.starts_with("{path}") {
            // A path that begins with two slashes would be another host.
            let path = request.target.path;
            let bare = path.trim_start_matches('/');
            (
                "{path}",
                if out.is_empty() {
                    &path[(path.len() - bare.len()).saturating_sub(1)..]
                } else {
                    path
                },
            )
        } else if rest.starts_with("{query}") {
            // From the `?` on.
            let query = request.target.query.map_or(0, |query| query.len() + 1);
            ("{query}", &request.target.forwarded[request.target.forwarded.len() - query..])
        } else {
            ("{", "{")
        };
        out.push_str(value);
        rest = &rest[name.len()..];
    }
    out.push_str(rest);
    Ok(())
}

/// What a field of a head is to whoever forwards it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Host,
    /// Content-Length.
    Length,
    Upgrade,
    ForwardedFor,
    MaxForwards,
    /// For this connection only.
    Hop,
}

impl Kind {
    fn of(name: &str) -> Self {
        // By the length first: most fields are none of these.
        match name.len() {
            2 if is(name, "te") => Self::Hop,
            4 if is(name, "host") => Self::Host,
            7 if is(name, "upgrade") => Self::Upgrade,
            10 if is(name, "connection") || is_read_as(name, "keep-alive") => Self::Hop,
            12 if is_read_as(name, "max-forwards") => Self::MaxForwards,
            14 if is_read_as(name, "content-length") => Self::Length,
            15 if is_read_as(name, "x-forwarded-for") => Self::ForwardedFor,
            16 if is_read_as(name, "proxy-connection") => Self::Hop,
            17 if is_read_as(name, "transfer-encoding") => Self::Hop,
            _ => Self::Plain,
        }
    }
}

fn is(name: &str, known: &str) -> bool {
    name.eq_ignore_ascii_case(known)
}

/// Whether a server may take the one name for the other.
fn is_read_as(name: &str, known: &str) -> bool {
    name.len() == known.len() && name.bytes().map(folded).eq(known.bytes().map(folded))
}

/// Whether Connection names the field, and may.
fn is_named(link: Link, fields: &[Header<'_>], name: &str) -> bool {
    link.names_fields
        && !ESSENTIAL.iter().any(|essential| is(name, essential))
        && called(fields, "connection")
            .flat_map(items)
            .any(|item| item.eq_ignore_ascii_case(name.as_bytes()))
}

/// What Connection must not take from a message (RFC 9110 section 7.6.1: nothing that is
/// meant for all recipients).
const ESSENTIAL: [&str; 9] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-type",
    "cookie",
    "expect",
    "range",
    "set-cookie",
    "forwarded",
];

/// The edits of all rules that matched, in order.
#[derive(Clone)]
struct Edits<I> {
    all: I,
    client: IpAddr,
}

impl<'r, I: Iterator<Item = &'r HeaderEdit> + Clone> Edits<I> {
    /// No field called so stays as it came.
    fn replaces(&self, name: &str) -> bool {
        self.all.clone().any(|edit| takes_away(edit, name))
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut rest = self.all.clone();
        while let Some(edit) = rest.next() {
            let HeaderEdit::Put { name, value, .. } = edit else { continue };
            // A later one may take it away again; and none frames a message.
            let is_framing = matches!(Kind::of(name), Kind::Length | Kind::Hop | Kind::Upgrade);
            if is_framing || rest.clone().any(|later| takes_away(later, name)) {
                continue;
            }
            put(out, &[name.as_bytes(), b": "]);
            self.put_value(out, value);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn put_value(&self, out: &mut Vec<u8>, value: &str) {
        let mut rest = value;
        while let Some((before, after)) = rest.split_once("{client}") {
            out.extend_from_slice(before.as_bytes());
            text(out, format_args!("{}", self.client));
            rest = after;
        }
        out.extend_from_slice(rest.as_bytes());
    }
}

fn takes_away(edit: &HeaderEdit, called: &str) -> bool {
    match edit {
        HeaderEdit::Put { how: SetOrAdd::Set, name, .. } | HeaderEdit::Remove { name } => {
            is_read_as(name, called)
        }
        HeaderEdit::Put { how: SetOrAdd::Add, .. } => false,
    }
}

/// One field, also where several came: many servers look at one.
fn forwarded_for<'r, I>(out: &mut Vec<u8>, fields: &[Header<'_>], edits: &Edits<I>)
where
    I: Iterator<Item = &'r HeaderEdit> + Clone,
{
    // A rule that writes the field knows what should be in it.
    let is_written = |edit: &HeaderEdit| matches!(edit, HeaderEdit::Put { name, .. } if is(name, "x-forwarded-for"));
    if edits.all.clone().any(is_written) {
        return;
    }
    out.extend_from_slice(b"X-Forwarded-For: ");
    if !edits.replaces("x-forwarded-for") {
        for value in called(fields, "x-forwarded-for").filter(|value| !value.is_empty()) {
            put(out, &[value, b", "]);
        }
    }
    digits::address(out, edits.client);
    out.extend_from_slice(b"\r\n");
}

fn framing(out: &mut Vec<u8>, framing: Framing) {
    match (framing.is_chunked, framing.content_length) {
        (true, _) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        (false, Some(len)) => {
            out.extend_from_slice(b"Content-Length: ");
            digits::number(out, len);
            out.extend_from_slice(b"\r\n");
        }
        (false, None) => {}
    }
}

fn put_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    put(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn text(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A Vec takes everything.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests;
