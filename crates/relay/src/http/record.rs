//! What is told of each request: one record, whatever became of it.

use super::refusal::Refusal;
use super::rules::Verdict;
use super::site::NoPlace;
use crate::plan::Rule;
use sosplice::Carried;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// One request, when it has ended: for the access log, the counters and the rules' counters.
#[derive(Debug)]
pub struct Record<'r> {
    /// Who asked.
    pub client: SocketAddr,
    /// The relay's name.
    pub relay: &'r str,
    /// A token; `-` where none was understood.
    pub method: &'r str,
    /// What was asked for, in printable ASCII, cut after a kilobyte; of a head that was not
    /// understood its beginning, escaped.
    pub target: &'r str,
    /// What was asked as Host; empty for nothing.
    pub host: &'r str,
    /// Of the answer that the client got the head of; None for none.
    pub status: Option<u16>,
    /// The server that was chosen last.
    pub server: Option<&'r str>,
    /// The connection to it had carried another request before.
    pub is_reused: bool,
    /// The rule that decided.
    pub rule: Option<&'r str>,
    /// The places of all rules that matched, in the plan of the request.
    pub matched: &'r [u16],
    /// The rules of that plan.
    pub rules: &'r [Rule],
    /// Body bytes to the server as they were sent, with the framing of chunks; of a connection
    /// that was upgraded, or CONNECT, all bytes that way.
    pub request: Carried,
    /// The same to the client; of an answer of the relay's own its body.
    pub response: Carried,
    /// From the first byte of the request's head.
    pub took: Duration,
    /// What went wrong, if anything did.
    pub fault: Option<&'r Fault>,
}

/// Why a request did not get a server's whole answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It was not taken.
    #[error("bad request: {}", .0.reason)]
    Request(Refusal),
    /// Its head did not come in time.
    #[error("the request's head did not come in time")]
    HeadTimeout,
    /// The client ended its side within a request.
    #[error("the client closed within its request")]
    ClientClosed,
    /// The client's connection failed.
    #[error("the client is gone: {0}")]
    ClientFailed(io::Error),
    /// The client sent nothing of a body for the idle time.
    #[error("the client stopped sending")]
    ClientSilent,
    /// The client took nothing of an answer for the idle time.
    #[error("the client stopped reading")]
    ClientStalled,
    /// No server was to be had.
    #[error("{0}")]
    NoPlace(NoPlace),
    /// No server took the connection; the error of the last one.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// The server closed without an answer.
    #[error("the server closed without an answer")]
    ServerClosed,
    /// The connection to the server failed before an answer.
    #[error("the server is gone: {0}")]
    ServerFailed(io::Error),
    /// The server sent nothing for the idle time, or took nothing.
    #[error("the server did not answer in time")]
    ServerSilent,
    /// What the server sent is no answer that could be passed on.
    #[error("bad answer: {}", .0.reason)]
    Response(Refusal),
    /// The server closed within an answer's body.
    #[error("the server closed within its answer")]
    Truncated,
    /// The connection to the server failed within an answer's body.
    #[error("the server is gone within its answer: {0}")]
    TruncatedBy(io::Error),
    /// The server sent nothing of a body for the idle time.
    #[error("the server stopped sending")]
    ServerStalled,
    /// The relay ended it.
    #[error("cut")]
    Cut,
}

impl Fault {
    /// The answer that the client is given, where none has begun. None where it is gone.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Request(refusal) => Some(refusal.status),
            Self::HeadTimeout | Self::ClientSilent => Some(408),
            Self::ClientClosed => Some(400),
            Self::ClientFailed(_) | Self::ClientStalled | Self::Cut => None,
            Self::NoPlace(_) => Some(503),
            Self::Connect(error) if error.kind() == io::ErrorKind::TimedOut => Some(504),
            Self::Connect(_) | Self::ServerClosed | Self::ServerFailed(_) => Some(502),
            Self::Response(_) | Self::Truncated | Self::TruncatedBy(_) => Some(502),
            Self::ServerSilent | Self::ServerStalled => Some(504),
        }
    }

    /// Nothing that comes behind the request could be understood.
    pub(super) const fn ends_the_connection(&self) -> bool {
        matches!(
            self,
            Self::Request(_) | Self::HeadTimeout | Self::ClientSilent | Self::ClientClosed
        )
    }

    /// The body of the answer. What is inside is not told to clients.
    pub(super) const fn text(&self) -> &'static str {
        match self {
            Self::Request(refusal) => refusal.reason,
            Self::HeadTimeout => "the request's head did not come in time",
            Self::ClientSilent => "the request's body did not come in time",
            Self::ClientClosed => "the request was not complete",
            Self::NoPlace(_) => "no server is free",
            Self::ServerSilent | Self::ServerStalled => "the server did not answer in time",
            _ => "the server gave no valid answer",
        }
    }

    /// The kind as one word, for logs and counters.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Request(_) => "bad-request",
            Self::HeadTimeout => "head-timeout",
            Self::ClientClosed | Self::ClientFailed(_) => "client-gone",
            Self::ClientSilent | Self::ClientStalled => "client-idle",
            Self::NoPlace(_) => "no-server",
            Self::Connect(_) => "connect",
            Self::ServerClosed | Self::ServerFailed(_) => "server-gone",
            Self::ServerSilent | Self::ServerStalled => "server-idle",
            Self::Response(_) => "bad-answer",
            Self::Truncated | Self::TruncatedBy(_) => "truncated",
            Self::Cut => "cut",
        }
    }
}

const TARGET_LEN_MAX: usize = 1024;
/// Of a head that was not understood.
const RAW_LEN_MAX: usize = 96;

/// What a record says of the request, kept until it has ended.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) host: String,
    pub(super) verdict: Verdict,
    /// Where a redirect goes.
    pub(super) location: String,
}

impl Notes {
    pub(super) fn clear(&mut self) {
        self.method.clear();
        self.target.clear();
        self.host.clear();
        self.location.clear();
        self.verdict.clear();
    }

    /// A request that was understood, which all are printable ASCII then.
    pub(super) fn request(&mut self, method: &str, target: &str, host: &str) {
        self.clear();
        self.method.push_str(method);
        self.target.push_str(target.get(..TARGET_LEN_MAX).unwrap_or(target));
        self.host.push_str(host);
    }

    /// The beginning of one that was not.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.clear();
        let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or(bytes);
        let line = line.get(..RAW_LEN_MAX).unwrap_or(line);
        // A String takes everything.
        let _ = write!(self.target, "{}", line.escape_ascii());
    }

    pub(super) fn rule<'r>(&self, rules: &'r [Rule]) -> Option<&'r str> {
        rules.get(usize::from(self.verdict.decided?)).map(|rule| rule.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_is_another_matter_than_one_that_refuses() {
        let connect = |kind: io::ErrorKind| Fault::Connect(kind.into()).status();
        assert_eq!(connect(io::ErrorKind::TimedOut), Some(504));
        assert_eq!(connect(io::ErrorKind::ConnectionRefused), Some(502));
        assert_eq!(Fault::ClientStalled.status(), None);
    }

    #[test]
    fn what_was_not_understood_is_noted_harmless_and_short() {
        let mut notes = Notes::default();
        notes.raw(b"G\x1b[2J\"\x80\r\nHost: a\r\n");
        assert_eq!(notes.target, "G\\x1b[2J\\\"\\x80");
        notes.raw(&[b'\0'; 5000]);
        assert_eq!(notes.target.len(), 4 * RAW_LEN_MAX);
        notes.request("GET", &"x".repeat(5000), "a");
        assert_eq!(notes.target.len(), TARGET_LEN_MAX);
    }
}
