//! What must hold for any bytes at all that are to be HTTP: nothing panics, pieces are read as the
//! whole is, and a head that is forwarded means to the next reader what it meant here.

mod second;

use super::buffers::Input;
use super::chunk::{Chunks, Piece};
use super::framing::Body;
use super::head::FIELDS_MAX;
use super::order::{Onward, Order, Reply, ReplyKind, Task, Terms, begun};
use super::record::Notes;
use super::refusal::Refusal;
use super::scan::Scan;
use super::site::Peer;
use crate::plan::{HttpPlan, Protocol};
use second::Second;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

const HEAD_MAX: usize = 4096;

/// Rules that edit and block, so that heads are judged and rewritten with and without some.
const RULES: &str = r#"
[[relay]]
name = "r"
protocol = "http"
listen = "127.0.0.1:1"
upstream = "u"
[[relay.rule]]
set-header = { X-User = "{client}" }
remove-header = "X-Debug"
response-set-header = { Via = "s" }
response-remove-header = "Server"
[[relay.rule]]
path-prefix = "/admin"
action = "block"
[[upstream]]
name = "u"
servers = "127.0.0.1:2"
"#;

/// Reads `bytes` as a request: its head ends in one place however it comes; the head that is
/// forwarded is taken again and means the same, also to readers that are less strict; no more of
/// what comes behind it than the framing says is its body; and no spelling of a path gets past a
/// rule.
///
/// # Panics
/// When something does not hold that must.
pub fn request(bytes: &[u8]) {
    let Some(len) = head_len(bytes) else { return };
    for plans in plans() {
        forwarded_request(bytes, len, plans);
    }
}

/// Reads `bytes` as an answer, to each kind of request: as [`request`].
///
/// # Panics
/// When something does not hold that must.
pub fn response(bytes: &[u8]) {
    let Some(len) = head_len(bytes) else { return };
    for plans in plans() {
        for asked in ASKED {
            let mut notes = Notes::default();
            let order = Order::read(asked, &plans.here, peer(), &mut Vec::new(), &mut notes);
            forwarded_answer(bytes, len, plans, &order.expect("a request"), &notes);
        }
    }
}

/// A request of each kind that answers depend on.
const ASKED: [&[u8]; 4] = [
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
];

/// A plan, and that of a reader behind it: what is forwarded may have a few fields more than one
/// that comes.
struct Plans {
    here: HttpPlan,
    next: HttpPlan,
}

/// Without rules and with some.
fn plans() -> &'static [Plans; 2] {
    static PLANS: LazyLock<[Plans; 2]> = LazyLock::new(|| {
        let plan = crate::config::parse(RULES).expect("a configuration");
        let relay = plan.relays.first().expect("a relay");
        let Protocol::Http(http) = &relay.protocol else { unreachable!("it says http") };
        [HttpPlan::default(), http.clone()]
            .map(|here| Plans { next: HttpPlan { fields_max: FIELDS_MAX, ..here.clone() }, here })
    });
    &PLANS
}

fn peer() -> Peer {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    Peer { client: local, local }
}

/// The length of the head that `bytes` begin with, if it is whole and may be one: the same
/// however it comes and whatever comes behind it.
fn head_len(bytes: &[u8]) -> Option<usize> {
    let end = Scan::default().end(bytes, HEAD_MAX);
    let mut scan = Scan::default();
    let mut steps = (0..=bytes.len()).map(|reach| scan.end(&bytes[..reach], HEAD_MAX));
    let in_steps = steps.find(|found| !matches!(found, Ok(None))).unwrap_or(Ok(None));
    assert_eq!(in_steps, end, "the end of a head depends on how it comes");
    let len = end.ok()??;
    assert_eq!(Scan::default().end(&bytes[..len], HEAD_MAX), Ok(Some(len)));
    Some(len)
}

fn forwarded_request(bytes: &[u8], len: usize, Plans { here: http, next }: &Plans) {
    let (mut out, mut notes) = (Vec::new(), Notes::default());
    let Ok(order) = Order::read(&bytes[..len], http, peer(), &mut out, &mut notes) else { return };
    if !matches!(order.task, Task::Forward(_)) {
        return;
    }
    let second = Second::of(&out);
    assert_eq!(second.request_body(), order.body, "{}", out.escape_ascii());
    assert_eq!(second.fields_called("host").len(), 1, "{}", out.escape_ascii());
    if !http.rules.is_empty() {
        assert!(!second.reaches("admin"), "past the rule: {}", out.escape_ascii());
        let users = second.fields_called("x-user");
        assert_eq!(users, [&b"127.0.0.1"[..]], "{}", out.escape_ascii());
    }
    body(order.body, &bytes[len..]);

    let (mut again, mut notes_again) = (Vec::new(), Notes::default());
    let forwarded = Order::read(&out, next, peer(), &mut again, &mut notes_again);
    let forwarded = forwarded.expect("what is forwarded is taken");
    assert_eq!((forwarded.body, &notes_again.method), (order.body, &notes.method));
    assert_eq!(notes_again.target, notes.target);
    assert_eq!(forwarded.upgrades, order.upgrades);
    assert_eq!(notes_again.verdict.matched, notes.verdict.matched);
}

fn forwarded_answer(bytes: &[u8], len: usize, plans: &Plans, order: &Order, notes: &Notes) {
    let mut out = Vec::new();
    let terms = Terms { order, http: &plans.here, peer: peer(), keeps: true };
    let Ok((reply, keeps)) = Reply::read(&bytes[..len], terms, &mut out, notes) else { return };
    let second = Second::of(&out);
    if let ReplyKind::Final { body, unpacks } = reply.kind {
        // The chunks of one that is unpacked stay here.
        let sent = if unpacks { Body::UntilClose } else { body };
        let read = second.response_body(reply.status, order.is_head);
        assert_eq!(read, sent, "{}", out.escape_ascii());
        assert!(!keeps || sent != Body::UntilClose, "what ends by close cannot be followed");
        self::body(body, &bytes[len..]);
    }

    let mut again = Vec::new();
    let terms = Terms { http: &plans.next, ..terms };
    let forwarded = Reply::read(&out, terms, &mut again, notes);
    let (forwarded, _) = forwarded.expect("what is forwarded is taken");
    assert_eq!(forwarded.status, reply.status);
    if !matches!(reply.kind, ReplyKind::Final { unpacks: true, .. }) {
        assert_eq!(forwarded.kind, reply.kind);
    }
}

/// What is taken of `bytes` as a message's body is all of it and no more.
fn body(body: Body, bytes: &[u8]) {
    let mut input = Input::default();
    let room = input.room(bytes.len());
    let bytes = &bytes[..room.len()];
    room.copy_from_slice(bytes);
    input.added(bytes.len());
    let Ok((here, onward)) = begun(body, &input) else { return };
    let here_len = here as u64;
    assert!(here <= bytes.len());
    match (body, onward) {
        (Body::None, Onward::Nothing) => assert_eq!(here, 0),
        (Body::Length(len), Onward::Nothing) => assert_eq!(here_len, len),
        (Body::Length(len), Onward::Length(left)) => {
            assert_eq!((here_len.checked_add(left), here), (Some(len), bytes.len()));
        }
        (Body::Chunked, Onward::Nothing) => {
            let (end, _) = second::unchunked(&bytes[..here]).expect("a whole body");
            assert_eq!(end, here);
        }
        (Body::Chunked, Onward::Chunks(chunks)) => {
            assert_eq!((chunks.is_done(), here), (false, bytes.len()));
        }
        (Body::UntilClose, Onward::UntilClose) => assert_eq!(here, bytes.len()),
        (body, onward) => panic!("{onward:?} of {body:?}"),
    }
}

/// Reads `bytes`, of which the first says how they are cut, as a chunked body: what is passed and
/// unpacked does not depend on the cuts nor on what went by unseen, and is what a second reader
/// finds.
///
/// # Panics
/// When something does not hold that must.
pub fn chunks(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let at_once = unpacked(bytes, bytes.len().max(1), false);
    for (step, unseen) in [(1, false), (usize::from(*cut % 16) + 1, false), (7, true)] {
        assert_eq!(unpacked(bytes, step, unseen), at_once, "a body depends on how it comes");
    }
    match (at_once, second::unchunked(bytes)) {
        (Ok((len, data, true)), second) => assert_eq!(second, Some((len, data))),
        (Ok((len, _, false)), second) => assert_eq!((len, second), (bytes.len(), None)),
        // It is stricter than the second reader.
        (Err(_), _) => {}
    }
}

/// How much of `bytes` a body is, its data, and whether it is whole; `step` bytes at a time, the
/// data of a chunk, where that is `unseen`, only counted behind the piece that it begins in.
fn unpacked(bytes: &[u8], step: usize, unseen: bool) -> Result<(usize, Vec<u8>, bool), Refusal> {
    let (mut chunks, mut at, mut data) = (Chunks::default(), 0, Vec::new());
    while at < bytes.len() && !chunks.is_done() {
        let end = (at + step).min(bytes.len());
        while let Some(piece) = chunks.next(&bytes[at..end])? {
            let (Piece::Framing(len) | Piece::Data(len)) = piece;
            assert!(len > 0 && at + len <= end, "more than was there");
            if matches!(piece, Piece::Data(_)) {
                data.extend_from_slice(&bytes[at..at + len]);
            }
            at += len;
        }
        if unseen {
            let left = usize::try_from(chunks.left()).unwrap_or(usize::MAX);
            let len = left.min(bytes.len() - at);
            data.extend_from_slice(&bytes[at..at + len]);
            chunks.spliced(len as u64);
            at += len;
        } else {
            assert!(at == end || chunks.is_done(), "bytes were left over");
        }
    }
    Ok((at, data, chunks.is_done()))
}

/// The seeds of the targets, from the tables of the tests beside the parsers.
#[cfg(test)]
pub(crate) mod seeds {
    use crate::http::chunk::tests::{REFUSED, WHOLE};
    use crate::http::head::tests::{ANSWERS, FIRST_LINES, GET, MEANINGS, SMUGGLING};

    /// What a server may read as `/admin`.
    const HIDDEN: [&str; 4] = ["/%61dmin", "//admin", "/;/admin", "/admin;a=b/c"];

    pub(crate) fn requests() -> Vec<Vec<u8>> {
        let meant = MEANINGS.iter().map(|(text, _)| (*text).to_owned());
        let smuggled = SMUGGLING.iter().map(|(fields, _)| format!("{GET}{fields}\r\n"));
        let past_the_rule = HIDDEN.iter().map(|path| format!("GET {path} HTTP/1.1"));
        let lines = FIRST_LINES.iter().map(|(line, _)| (*line).to_owned()).chain(past_the_rule);
        let lines = lines.map(|line| format!("{line}\r\nHost: a\r\n\r\n"));
        meant.chain(smuggled).chain(lines).map(String::into_bytes).collect()
    }

    pub(crate) fn responses() -> Vec<Vec<u8>> {
        ANSWERS.iter().map(|(text, _)| text.as_bytes().to_vec()).collect()
    }

    /// Cut into threes.
    pub(crate) fn chunks() -> Vec<Vec<u8>> {
        let whole = WHOLE.iter().map(|(bytes, ..)| *bytes);
        let refused = REFUSED.iter().map(|text| text.as_bytes());
        whole.chain(refused).map(|bytes| [&[2], bytes].concat()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            Just("Host: a\r\n".to_owned()),
            Just("Content-Length: 5\r\n".to_owned()),
            Just("Transfer-Encoding: chunked\r\n".to_owned()),
            Just("Connection: upgrade, x-a\r\nUpgrade: x\r\n".to_owned()),
            Just("Expect: 100-continue\r\n".to_owned()),
            Just("X-Forwarded-For: 1\r\n".to_owned()),
            "Max-Forwards: [0-2]\r\n",
            "(Connection|X-A|Host|TE|Content-Length|Upgrade): [ -~]{0,12}\r\n",
            "[ -~]{0,20}\r\n",
        ];
        let first = prop_oneof![
            "(GET|HEAD|POST|CONNECT|OPTIONS) (/|\\*|a:1|http://b:1|/a\\?b|//c%2e) HTTP/1.[01]\r\n",
            "HTTP/1.[01] (200|101|204|304|100|500) ?[a-z]{0,4}\r\n",
            "[ -~]{0,30}\r\n",
        ];
        (first, proptest::collection::vec(line, 0..7))
            .prop_map(|(first, lines)| format!("{first}{}\r\n", lines.concat()).into_bytes())
    }

    proptest! {
        #[test]
        fn whatever_looks_like_a_head(bytes in lines()) {
            request(&bytes);
            response(&bytes);
        }

        #[test]
        fn whatever_comes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            request(&bytes);
            response(&bytes);
            chunks(&bytes);
        }

        #[test]
        fn whatever_looks_like_chunks(text in "([0-9a-f]{1,2}(;[a-z=]{0,3})?\r\n[ -~]{0,12}(\r\n)?){0,4}0\r\n(A: b\r\n){0,2}(\r\n)?", cut: u8) {
            chunks(&[&[cut], text.as_bytes()].concat());
        }
    }
}
