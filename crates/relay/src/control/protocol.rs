//! What is asked on the control socket, and what is answered.
//!
//! A line is `{"version":1,"request":...}` or `{"version":1,"more":false,"answer":...}`. A
//! request has one answer, in one line or, where `more` says so, in several that belong
//! together. A service refuses a version that it does not speak, and says which one it does.

use super::snapshot::{SessionSnapshot, Stats};
use crate::upstream::ServerSnapshot;
use serde::{Deserialize, Serialize};

/// Of this protocol.
pub const VERSION: u32 = 1;

/// The longest line that is taken as a request, in bytes.
pub const REQUEST_LEN_MAX: usize = 64 * 1024;

/// A line of a client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked.
    pub request: Request,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The running sessions.
    Sessions,
    /// Ends sessions; both peers of each see a reset. Those of datagrams see nothing: the client's
    /// next datagram begins another session.
    Kill {
        /// Their numbers.
        ids: Vec<u64>,
    },
    /// The servers of all upstreams.
    Upstreams,
    /// Sets what the administrator says about servers. It holds until it is set again; a restart
    /// forgets it, a reload does not.
    Server {
        /// An upstream's name.
        upstream: String,
        /// One of its servers; None for all.
        server: Option<String>,
        /// What they are to be.
        set: Setting,
    },
    /// Counts of the whole and of each relay.
    Stats,
    /// Reads the configuration again.
    Reload,
}

/// What can be said about a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setting {
    /// It may have sessions.
    Enable,
    /// No new ones.
    Disable,
    /// No new ones, and the service tells when the last has ended.
    Drain,
}

/// A line of the service's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// [`VERSION`].
    pub version: u32,
    /// Another line belongs to this answer.
    pub more: bool,
    /// The answer, or a part of it.
    pub answer: Answer,
}

impl Told {
    /// The last line of an answer.
    #[must_use]
    pub const fn last(answer: Answer) -> Self {
        Self { version: VERSION, more: false, answer }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Running sessions.
    Sessions(Vec<SessionSnapshot>),
    /// To a kill.
    Killed {
        /// Those that were there.
        killed: Vec<u64>,
        /// Those that were not.
        unknown: Vec<u64>,
    },
    /// Servers: all, or those that have been set.
    Servers(Vec<ServerSnapshot>),
    /// Counts.
    Stats(Box<Stats>),
    /// What the reload has done.
    Reloaded(String),
    /// Nothing was done, and why.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs rely on them.
    #[test]
    fn lines_are_as_they_always_were() {
        for (request, line) in [
            (Request::Sessions, r#"{"version":1,"request":"sessions"}"#),
            (
                Request::Kill { ids: vec![7, 9] },
                r#"{"version":1,"request":{"kill":{"ids":[7,9]}}}"#,
            ),
            (
                Request::Server { upstream: "web".into(), server: None, set: Setting::Drain },
                r#"{"version":1,"request":{"server":{"upstream":"web","server":null,"set":"drain"}}}"#,
            ),
        ] {
            let ask = Ask { version: VERSION, request };
            assert_eq!(serde_json::to_string(&ask).expect("JSON"), line);
            assert_eq!(serde_json::from_str::<Ask>(line).expect("a request"), ask);
        }
        let told = Told::last(Answer::Refused("no".into()));
        let line = r#"{"version":1,"more":false,"answer":{"refused":"no"}}"#;
        assert_eq!(serde_json::to_string(&told).expect("JSON"), line);
    }
}
