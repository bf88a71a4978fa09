//! The target of a request: its four forms (RFC 9112 section 3.2), and paths that cannot get
//! past a rule.

use super::refusal::Refusal;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'b> {
    /// As it is forwarded: origin form, `*`, or with CONNECT the authority.
    pub(super) forwarded: &'b str,
    /// Without the query. Empty with CONNECT.
    pub(super) path: &'b str,
    /// Behind the `?`.
    pub(super) query: Option<&'b str>,
    /// Named by the target itself: it counts, whatever Host says.
    pub(super) authority: Option<&'b str>,
}

/// Reads a target by its form, which the method decides.
///
/// # Errors
/// 400 for what is none of the forms, or has characters that no target has.
pub(super) fn parse<'b>(method: &str, target: &'b str) -> Result<Target<'b>, Refusal> {
    // `#` begins what a client keeps for itself. Browsers send `{`, `|`, `^` and the like in
    // queries, so these are let through there and elsewhere.
    if target.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
        return Err(Refusal::bad("the target has a character that is not allowed there"));
    }
    if method == "CONNECT" {
        let has_port = target.rsplit_once(':').is_some_and(|(_, port)| is_port(port));
        if !has_port || !is_authority(target) {
            return Err(Refusal::bad("the target of CONNECT is not HOST:PORT"));
        }
        return Ok(Target { forwarded: target, path: "", query: None, authority: Some(target) });
    }
    if target.starts_with('/') {
        return origin(target, None);
    }
    if target == "*" && method == "OPTIONS" {
        return Ok(Target { forwarded: "*", path: "*", query: None, authority: None });
    }
    let rest = match target.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http://") => rest,
        _ => return Err(Refusal::bad("the target is neither a path nor an http URI")),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is_authority(authority) {
        return Err(Refusal::bad("the target's authority is not a host"));
    }
    match path {
        "" if method == "OPTIONS" => {
            Ok(Target { forwarded: "*", path: "*", query: None, authority: Some(authority) })
        }
        "" => origin("/", Some(authority)),
        // The path would have to be put in front of the query, for hardly anybody.
        _ if path.starts_with('?') => Err(Refusal::bad("the target has a query and no path")),
        _ => origin(path, Some(authority)),
    }
}

fn origin<'b>(target: &'b str, authority: Option<&'b str>) -> Result<Target<'b>, Refusal> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if has_dot_segment(path) {
        return Err(Refusal::bad("the path has a segment . or .."));
    }
    if has_encoded(path, b'\0') {
        return Err(Refusal::bad("the path has an encoded NUL"));
    }
    Ok(Target { forwarded: target, path, query, authority })
}

/// Whether a Host or an authority is a name or an address, with or without a port: no user,
/// nothing that another parser could take for a delimiter, and nothing percent-encoded. A name may be
/// (RFC 3986 section 3.2.2), but no name of the DNS needs it, and a server that decodes it would be asked
/// for another host than the rules were.
pub(super) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an address in brackets are its own.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match inside {
        Some(address) => address.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)),
        None => host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&b)),
    };
    is_host
        && !host.trim_end_matches('.').is_empty()
        && text.len() <= 260
        && port.is_none_or(|p| p.is_empty() || is_port(p))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// A Host or an authority without its port, and without the dot of the root, however often.
pub(super) fn host_name(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    host.trim_end_matches('.')
}

/// Whether a server could read a segment `.` or `..` in it: plain or encoded, between slashes
/// of either direction, plain or encoded, before a parameter (`..;`), or beside white space that
/// it drops (`..%20`).
fn has_dot_segment(path: &str) -> bool {
    // Bytes of the segment so far, as long as all were dots; None for another segment.
    let mut dots = None;
    let mut rest = path.as_bytes();
    loop {
        let (byte, len) = first(rest);
        match byte {
            None | Some(b'/' | b'\\' | b';') => {
                if dots.is_some_and(|dots| dots == 1 || dots == 2) {
                    return true;
                }
                dots = (byte != Some(b';')).then_some(0);
            }
            Some(b'.') => dots = dots.map(|dots: usize| dots + 1),
            Some(_) if is_blank(rest) => {}
            Some(_) => dots = None,
        }
        if byte.is_none() {
            return false;
        }
        rest = &rest[len..];
    }
}

/// Whether a slash of either direction is there in a spelling that a server may take for `/`:
/// then where a path begins is the server's opinion.
pub(super) fn has_hidden_slash(path: &str) -> bool {
    path.contains('\\') || has_encoded(path, b'/') || has_encoded(path, b'\\')
}

fn has_encoded(path: &str, byte: u8) -> bool {
    path.as_bytes().windows(3).any(|three| three[0] == b'%' && first(three) == (Some(byte), 3))
}

/// The first byte, decoded, and the bytes that it takes.
fn first(bytes: &[u8]) -> (Option<u8>, usize) {
    if let [b'%', high, low, ..] = bytes
        && let (Some(high), Some(low)) = (hex(*high), hex(*low))
    {
        return (Some(high << 4 | low), 3);
    }
    (bytes.first().copied(), 1)
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Writes the path as a server may read it into `plain`, if that differs from how it was sent:
/// what need not be encoded is not (RFC 3986 section 6.2.2.2), and slashes in a row are one.
/// True if it differs.
pub(super) fn plain(path: &str, plain: &mut String) -> bool {
    plain.clear();
    if !path.contains('%') && !path.contains("//") {
        return false;
    }
    let mut rest = path.as_bytes();
    while let (Some(byte), len) = first(rest) {
        let is_unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        match byte {
            b'/' if len == 1 && plain.ends_with('/') => {}
            _ if len == 1 || is_unreserved => plain.push(byte as char),
            // The path is ASCII, so any place is a boundary.
            _ => rest[..len].iter().for_each(|byte| plain.push(*byte as char)),
        }
        rest = &rest[len..];
    }
    plain != path
}

/// Writes the path into `bare` as servers read it that take away the parameters of a segment
/// (`/a;x=1/b` is `/a/b`), or the white space and dots at its end (`/a%20/b.` is `/a/b`), before
/// they look for what is asked. True if that differs from `path`, of which
/// [`plain`] has been made if it had to be.
pub(super) fn bare(path: &str, bare: &mut String) -> bool {
    bare.clear();
    if path.split('/').all(|segment| name(segment).len() == segment.len()) {
        return false;
    }
    for segment in path.split('/').skip(1) {
        // What is left of `/;/` is two slashes, which are one.
        if !bare.ends_with('/') {
            bare.push('/');
        }
        bare.push_str(name(segment));
    }
    true
}

/// A segment without its parameters, and without what is dropped at its end: by Windows, which keeps
/// no dots and spaces at the end of a file's name, and by whoever trims what it has decoded.
fn name(segment: &str) -> &str {
    let mut name = segment.split(';').next().unwrap_or(segment);
    loop {
        let shorter = name.trim_end_matches('.');
        let shorter = match shorter.len().checked_sub(3).and_then(|at| shorter.split_at_checked(at))
        {
            Some((before, last)) if is_blank(last.as_bytes()) => before,
            _ => shorter,
        };
        if shorter.len() == name.len() {
            return name;
        }
        name = shorter;
    }
}

/// Whether it begins with a space or a control character, encoded.
fn is_blank(bytes: &[u8]) -> bool {
    matches!(first(bytes), (Some(..=b' ' | 0x7f), 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(method: &str, target: &str) -> (String, String, Option<String>) {
        let target = parse(method, target).unwrap_or_else(|r| panic!("{target}: {r:?}"));
        (target.forwarded.into(), target.path.into(), target.authority.map(Into::into))
    }

    #[test]
    fn the_four_forms() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(ok("GET", "/a?b"), ("/a?b".into(), "/a".into(), None));
        assert_eq!(ok("OPTIONS", "*"), ("*".into(), "*".into(), None));
        assert_eq!(ok("CONNECT", "a:1"), ("a:1".into(), String::new(), some("a:1")));
        assert_eq!(ok("CONNECT", "[::1]:1"), ("[::1]:1".into(), String::new(), some("[::1]:1")));
        assert_eq!(ok("GET", "HTTP://a:1/b?c"), ("/b?c".into(), "/b".into(), some("a:1")));
        assert_eq!(ok("GET", "http://a"), ("/".into(), "/".into(), some("a")));
        assert_eq!(ok("OPTIONS", "http://a"), ("*".into(), "*".into(), some("a")));
    }

    #[test]
    fn what_is_none_of_the_forms_is_refused() {
        for (method, target) in [
            ("GET", "*"),
            ("GET", "a"),
            ("GET", "a:1"),
            ("GET", "ftp://a/"),
            ("GET", "https://a/"),
            ("GET", "http:///a"),
            ("GET", "http://u@a/"),
            ("GET", "http://a?b"),
            ("GET", "http://a:99999/"),
            ("GET", "/a#b"),
            ("GET", "/\u{e4}"),
            ("CONNECT", "/"),
            ("CONNECT", "a"),
            ("CONNECT", "a:"),
            ("CONNECT", "u@a:1"),
            ("CONNECT", "http://a:1/"),
        ] {
            assert_eq!(parse(method, target).map_err(|r| r.status), Err(400), "{method} {target}");
        }
    }

    #[test]
    fn no_spelling_of_a_dot_segment_passes() {
        for path in [
            "/..",
            "/.",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e%2e/b",
            "/.%2E/b",
            "/%2e/b",
            "/a/..;x/b",
            "/a/..\\b",
            "/a\\..\\b",
            "/a%2f..%2fb",
            "/a%5C../b",
            "/..%2fb",
            "//../b",
            "/..;/",
            "/a/..%20/b",
            "/.%09",
            "/a/.%20./b",
        ] {
            assert!(parse("GET", path).is_err(), "{path}");
        }
        for path in [
            "/", "/...", "/a..b", "/a.", "/.a", "/..a", "/a/b..", "/a?/../b", "/%2", "/;a", "/%20",
            "/.a%20",
        ] {
            assert!(parse("GET", path).is_ok(), "{path}");
        }
        assert!(parse("GET", "/a%00").is_err() && parse("GET", "/a%0").is_ok());
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for host in ["a", "a.b:80", "[::1]", "[::1]:80", "127.0.0.1", "a_b", "a.", "xn--a:"] {
            assert!(is_authority(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "a b",
            "a/b",
            "a@b",
            "a,b",
            "[::1",
            "[::1]x",
            "a:b",
            "a:70000",
            "[g]",
            "a:1:2",
            "a?b",
            "\"a\"",
            "ex%2eample",
            "a%41",
            "%61",
            ".",
            "..:80",
        ] {
            assert!(!is_authority(host), "{host}");
        }
        assert_eq!(host_name("a.b.:80"), "a.b");
        assert_eq!(host_name("[::1]"), "[::1]");
        assert_eq!(host_name("[::1]:80"), "[::1]");
    }

    #[test]
    fn parameters_and_what_is_cut_off_are_no_part_of_a_segment() {
        let mut text = String::new();
        for path in ["/a/b", "/", "/.a/b.c", "/a%20b/%20c", "/a%2", "/%41", "/20", "*", ""] {
            assert!(!bare(path, &mut text), "{path}");
        }
        for (path, wanted) in [
            ("/a;x=1", "/a"),
            ("/a;x;y/b;", "/a/b"),
            ("/;/a", "/a"),
            ("/;x/;y/a/", "/a/"),
            ("/;", "/"),
            ("/a%20", "/a"),
            ("/a.", "/a"),
            ("/a%0a.%09..%7f/b", "/a/b"),
            ("/a.;x/%20/b%20;%20", "/a/b"),
        ] {
            assert!(bare(path, &mut text), "{path}");
            assert_eq!(text, wanted, "{path}");
        }
    }

    #[test]
    fn the_plain_path_is_what_a_server_may_read() {
        let mut text = String::new();
        assert!(!plain("/a/b", &mut text));
        assert!(plain("/%61dm%69n//x%20%2F%zz%", &mut text));
        assert_eq!(text, "/admin/x%20%2F%zz%");
        assert!(
            has_hidden_slash("/a%2Fb") && has_hidden_slash("/a%5cb") && has_hidden_slash("/a\\b")
        );
        assert!(!has_hidden_slash("/a/%2b"));
    }
}
