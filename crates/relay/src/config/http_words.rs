//! The spellings of HTTP that a rule or a check uses: hosts, paths, tokens, field values,
//! locations. What is let through here can be written into a head as it is.

use super::problem::quoted;

/// Fields that say how a message is framed, or that belong to one connection: the relay's own
/// business, and changing them would let one side read another message than the other.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Methods that everybody has; in lower case they are a slip.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// What may be replaced in a location.
const PLACEHOLDERS: [&str; 3] = ["{host}", "{path}", "{query}"];

fn is_token(text: &str) -> bool {
    // RFC 9110 section 5.6.2.
    let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// What a field's value may not contain (RFC 9110 section 5.5).
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A host as a rule has it: in lower case, without a port.
pub(super) fn host(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_prefix("*.").unwrap_or(&lower);
    let is_literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = is_literal {
        let is_address = address.parse::<std::net::Ipv6Addr>().is_ok() && name == lower;
        return if is_address { Ok(lower) } else { Err("not an IPv6 address".into()) };
    }
    if text == "*" {
        return Err("\"*\" is every host: leave host out for that".into());
    }
    if name.contains(':') && !name.contains('/') {
        return Err("a host is compared without its port: leave that out".into());
    }
    if name.contains('*') {
        return Err("a \"*\" stands at the beginning, for whole labels: \"*.example.com\"".into());
    }
    let is_named = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_named) {
        return Err(format!("{} is no host (as example.com or *.example.com)", quoted(text)));
    }
    Ok(lower)
}

/// A path as it is sent, to be compared as a whole.
pub(super) fn path(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    path_prefix(text)
}

/// The beginning of a path.
pub(super) fn path_prefix(text: &str) -> Result<String, String> {
    if text.contains('*') {
        return Err("a \"*\" here is no wildcard: write path-glob for one".into());
    }
    if text.contains('?') {
        return Err("a path ends before the \"?\": write query for what is behind".into());
    }
    path_glob(text)
}

/// A path with wildcards.
pub(super) fn path_glob(text: &str) -> Result<String, String> {
    let text = printable(text, "a path")?;
    if !text.starts_with(['/', '*']) {
        return Err("a path begins with \"/\"".into());
    }
    if text.contains('#') {
        return Err("no request has a \"#\" in its path: clients keep that".into());
    }
    Ok(text)
}

/// What a request asks for, query and all.
pub(super) fn request_target(text: &str) -> Result<String, String> {
    let text = printable(text, "a path")?;
    if !text.starts_with('/') || text.contains('#') {
        return Err("a path to ask for begins with \"/\" and has no \"#\"".into());
    }
    Ok(text)
}

/// What a Host field may say.
pub(super) fn host_field(text: &str) -> Result<String, String> {
    let text = printable(text, "a host")?;
    if text.is_empty() || text.contains(['/', '@', '?', '#']) {
        return Err("not a Host (as example.com or example.com:8080)".into());
    }
    Ok(text)
}

fn printable(text: &str, what: &str) -> Result<String, String> {
    if is_visible(text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{what} as it is sent has neither blanks nor letters beyond ASCII: write %20, %C3%A9"
    ))
}

/// A method.
pub(super) fn method(text: &str) -> Result<String, String> {
    if METHODS.contains(&text) {
        return Ok(text.to_owned());
    }
    let upper = text.to_ascii_uppercase();
    if METHODS.contains(&upper.as_str()) {
        return Err(format!("the case of a method matters: write \"{upper}\""));
    }
    token(text, "a method (as GET)")
}

fn token(text: &str, what: &str) -> Result<String, String> {
    if is_token(text) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not {what}", quoted(text)))
}

/// The name of a field that is looked for, in lower case.
pub(super) fn field_name(text: &str) -> Result<String, String> {
    token(text, "the name of a header field (as X-Request-Id)")
        .map(|name| name.to_ascii_lowercase())
}

/// The name of a cookie.
pub(super) fn cookie_name(text: &str) -> Result<String, String> {
    token(text, "the name of a cookie")
}

/// A cookie's value (RFC 6265 section 4.1.1).
pub(super) fn cookie_value(text: &str) -> Result<String, String> {
    if is_visible(text) && !text.contains([';', ',', '\\']) {
        return Ok(text.to_owned());
    }
    Err("a cookie's value has no blanks, and none of ; , \\".into())
}

/// The name of a parameter.
pub(super) fn query_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('=') {
        return Err("not the name of a parameter".into());
    }
    query_value(text)
}

/// A parameter's value.
pub(super) fn query_value(text: &str) -> Result<String, String> {
    if is_visible(text) && !text.contains(['&', '#']) {
        return Ok(text.to_owned());
    }
    Err("a query as it is sent has no blanks, no \"&\" within a value: write %20, %26".into())
}

/// A field's value.
pub(super) fn field_value(text: &str) -> Result<String, String> {
    if text.bytes().any(is_control) {
        return Err("a header's value has no line breaks and no other control characters".into());
    }
    if text.trim_matches([' ', '\t']) != text {
        return Err("a header's value neither begins nor ends with blanks".into());
    }
    Ok(text.to_owned())
}

/// The name of a field that a rule puts in or takes out.
pub(super) fn edit_name(text: &str) -> Result<String, String> {
    let name = token(text, "the name of a header field (as X-Request-Id)")?;
    if FRAMING.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!(
            "{name} is the relay's own: it says where a message ends, or what a connection does"
        ));
    }
    Ok(name)
}

/// Where a redirect leads.
pub(super) fn location(text: &str) -> Result<String, String> {
    if text.is_empty() || !is_visible(text) {
        return Err("a location is not empty and has no blanks: write %20".into());
    }
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let tail = &rest[at..];
        let Some(known) = PLACEHOLDERS.iter().find(|known| tail.starts_with(**known)) else {
            return Err(format!("a location has {} and no other braces", PLACEHOLDERS.join(", ")));
        };
        rest = &tail[known.len()..];
    }
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match (host, text.strip_prefix('/')) {
        (Some(host), _) if leads_nowhere(host) => {
            Err("no host behind the \"//\": write it, or {host}".into())
        }
        (None, Some(path)) if begins_host(path) => {
            Err("\"//\" would begin a host, of the client's choice with {path}: write https:// and the host".into())
        }
        (None, None) => Err("a location begins with https://, http:// or \"/\"".into()),
        _ => Ok(text.to_owned()),
    }
}

/// Whether what comes behind the first slash may begin with another. The query may be nothing.
fn begins_host(text: &str) -> bool {
    let rest = text.trim_start_matches("{query}");
    !rest.is_empty() && leads_nowhere(rest)
}

/// Whether a path or nothing comes where a host should.
fn leads_nowhere(text: &str) -> bool {
    text.is_empty() || ["/", "\\", "{path}", "{query}"].iter().any(|wrong| text.starts_with(wrong))
}
