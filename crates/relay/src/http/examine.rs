//! What must hold for any bytes at all, for property tests and fuzz targets (`--cfg fuzzing`):
//! nothing panics, pieces are read as the whole is, and a head that is forwarded means to the
//! next reader what it meant here.

use super::chunk::Chunks;
use super::head;
use super::order::{Order, Reply, ReplyKind, Task, Terms};
use super::record::Notes;
use super::refusal::Refusal;
use super::scan::Scan;
use super::site::Peer;
use crate::plan::HttpPlan;
use std::net::{Ipv4Addr, SocketAddr};

const HEAD_MAX: usize = 4096;

/// Reads `bytes` as a request's head and as an answer's.
///
/// # Panics
/// When something does not hold that must.
pub fn heads(bytes: &[u8]) {
    let end = Scan::default().end(bytes, HEAD_MAX);
    let mut scan = Scan::default();
    let steps = (0..=bytes.len()).map(|reach| scan.end(&bytes[..reach], HEAD_MAX));
    let in_steps = steps.into_iter().find(|found| !matches!(found, Ok(None))).unwrap_or(Ok(None));
    assert_eq!(in_steps, end, "the end of a head depends on how it comes");
    let Ok(Some(len)) = end else { return };
    let http = HttpPlan::default();
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let peer = Peer { client: local, local };
    let order = request(&bytes[..len], &http, peer);
    if let Some(order) = &order {
        answer(&bytes[..len], &http, peer, order);
    }
    let mut notes = Notes::default();
    let asked = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    if let Ok(order) = Order::read(asked, &http, peer, &mut Vec::new(), &mut notes) {
        answer(&bytes[..len], &http, peer, &order);
    }
}

fn request(bytes: &[u8], http: &HttpPlan, peer: Peer) -> Option<Order> {
    let (mut out, mut notes) = (Vec::new(), Notes::default());
    let order = Order::read(bytes, http, peer, &mut out, &mut notes).ok()?;
    if !matches!(order.task, Task::Forward(_)) {
        return Some(order);
    }
    whole(&out);
    let (mut again, mut notes_again) = (Vec::new(), Notes::default());
    let forwarded = Order::read(&out, http, peer, &mut again, &mut notes_again);
    let forwarded = forwarded.expect("what is forwarded is taken");
    assert_eq!((forwarded.body, &notes_again.method), (order.body, &notes.method));
    assert_eq!(notes_again.target, notes.target);
    assert_eq!(forwarded.upgrades, order.upgrades);
    Some(order)
}

fn answer(bytes: &[u8], http: &HttpPlan, peer: Peer, order: &Order) {
    let (mut out, notes) = (Vec::new(), Notes::default());
    let terms = Terms { order, http, peer, keeps: true };
    let Ok((reply, _)) = Reply::read(bytes, terms, &mut out, &notes) else { return };
    whole(&out);
    let mut again = Vec::new();
    let forwarded = Reply::read(&out, terms, &mut again, &notes);
    let (forwarded, _) = forwarded.expect("what is forwarded is taken");
    assert_eq!(forwarded.status, reply.status);
    if !matches!(reply.kind, ReplyKind::Final { unpacks: true, .. }) {
        assert_eq!(forwarded.kind, reply.kind);
    }
}

/// One head, and nothing behind it.
fn whole(head: &[u8]) {
    let end = Scan::default().end(head, usize::MAX);
    assert_eq!(end, Ok(Some(head.len())), "{}", head.escape_ascii());
    let mut slots = head::slots();
    let is_one = head::request(head, &mut slots, head::FIELDS_MAX).is_ok();
    let mut slots = head::slots();
    assert!(is_one || head::response(head, &mut slots, head::FIELDS_MAX).is_ok());
}

/// Reads `bytes` as a chunked body.
///
/// # Panics
/// When something does not hold that must.
pub fn chunks(bytes: &[u8]) {
    let mut at_once = Chunks::default();
    let whole = at_once.pass(bytes);
    let mut stepped = Chunks::default();
    let mut len = 0;
    let in_steps = bytes.iter().try_for_each(|byte| {
        len += stepped.pass(&[*byte])?;
        Ok::<(), Refusal>(())
    });
    assert_eq!(in_steps.map(|()| len), whole, "a body depends on how it comes");
    if let Ok(len) = whole {
        assert_eq!(stepped, at_once);
        assert!(at_once.is_done() || len == bytes.len(), "bytes were left over");
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
            heads(&bytes);
        }

        #[test]
        fn whatever_comes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            heads(&bytes);
            chunks(&bytes);
        }

        #[test]
        fn whatever_looks_like_chunks(text in "([0-9a-f]{1,2}(;[a-z=]{0,3})?\r\n[ -~]{0,12}(\r\n)?){0,4}0\r\n(A: b\r\n){0,2}(\r\n)?") {
            chunks(text.as_bytes());
        }
    }
}
