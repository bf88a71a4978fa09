//! What must hold for any line of the control socket: what is read, written and read again is the
//! same, in one line, and whatever is refused is told in one line.

use super::protocol::{Answer, Ask, Told, VERSION};
use super::serve::request;
use serde::Serialize;

/// Reads `bytes` as a request's line, and as an answer's.
///
/// # Panics
/// When something does not hold that must.
pub fn line(bytes: &[u8]) {
    match request(bytes) {
        Ok(asked) => {
            let again = request(&written(&Ask { version: VERSION, request: asked.clone() }));
            assert_eq!(again, Ok(asked));
        }
        Err(why) => {
            let told = Told::last(Answer::Refused(why));
            let again = serde_json::from_slice(&written(&told));
            assert_eq!(again.ok(), Some(told));
        }
    }
    if let Ok(told) = serde_json::from_slice::<Told>(bytes) {
        let again = serde_json::from_slice(&written(&told));
        assert_eq!(again.ok(), Some(told));
    }
}

/// As a line.
fn written(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("JSON");
    assert!(!line.contains(&b'\n'), "a line in two");
    line.push(b'\n');
    line
}

/// A request and an answer of each kind.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    use super::protocol::{Request, Setting};
    let set = |set| Request::Server { upstream: "web".to_owned(), server: None, set };
    let (upstream, server) = ("web".to_owned(), Some("a:1".to_owned()));
    let asked = [
        Request::Sessions,
        Request::Kill { ids: vec![7, u64::MAX] },
        Request::Upstreams,
        Request::Server { upstream, server, set: Setting::Drain },
        set(Setting::Disable),
        set(Setting::Enable),
        Request::Stats,
        Request::Reload,
    ];
    let asked = asked.map(|request| written(&Ask { version: VERSION, request }));
    let told = [
        Answer::Sessions(Vec::new()),
        Answer::Killed { killed: vec![1], unknown: vec![2] },
        Answer::Servers(Vec::new()),
        Answer::Refused("a \"word\"\n".to_owned()),
    ];
    let told = told.map(|answer| written(&Told::last(answer)));
    asked.into_iter().chain(told).collect()
}
