//! The plan of HTTP: limits of a head, and the rules.

use super::UpstreamId;
use ipnet::IpNet;

/// What an HTTP relay does beside relaying.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpPlan {
    /// In order; the first that matches and decides wins. Edits of those that match and pass
    /// without deciding are made as well.
    pub rules: Vec<Rule>,
    /// Of a request's or an answer's head, in bytes.
    pub head_max: usize,
    /// Fields of a head; at most [`FIELDS_MAX`](crate::http::FIELDS_MAX).
    pub fields_max: usize,
    /// The client's address is added to X-Forwarded-For.
    pub forwarded_for: bool,
}

impl Default for HttpPlan {
    fn default() -> Self {
        Self { rules: Vec::new(), head_max: 16 * 1024, fields_max: 100, forwarded_for: true }
    }
}

impl HttpPlan {
    /// Whether no request is left to the relay's own upstream.
    #[must_use]
    pub fn decides_all(&self) -> bool {
        let passes = |rule: &Rule| rule.action == Some(Action::Pass);
        self.rules.last().is_some_and(Rule::decides_all) && !self.rules.iter().any(passes)
    }
}

/// What is done with the requests that it matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Unique in its relay, for its counter; `rule-N` if it was given no name, N from 1.
    pub name: String,
    /// All must hold; none of them: every request.
    pub conditions: Vec<Condition>,
    /// What becomes of the request; None leaves that to the rules behind it.
    pub action: Option<Action>,
    /// Made in the request's head, in order.
    pub request_edits: Vec<HeaderEdit>,
    /// Made in the answer's head, in order.
    pub response_edits: Vec<HeaderEdit>,
}

impl Rule {
    /// Whether it decides every request that comes to it.
    #[must_use]
    pub fn decides_all(&self) -> bool {
        self.action.is_some() && self.conditions.is_empty()
    }
}

/// One thing that is asked of a request, or that must not hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// What is asked.
    pub test: Match,
    /// It must not hold.
    pub is_negated: bool,
}

/// What a rule asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// The host is one of these; a leading `*.` stands for one or more labels. Lower case, no port.
    Host(Vec<String>),
    /// The path without the query: as sent, or as a server may read it (what need not be encoded
    /// is not, slashes in a row are one; segments without parameters, and without the white space and
    /// dots at their end).
    Path(PathMatch),
    /// The method is one of these (case matters, RFC 9110 section 9.1).
    Method(Vec<String>),
    /// A field of the head.
    Header(Field),
    /// A cookie.
    Cookie(Field),
    /// A parameter of the query; percent-encoded as it was sent.
    Query(Field),
    /// The client's address is in one of these networks.
    Client(Vec<IpNet>),
}

/// How a path is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The same.
    Exact(String),
    /// Begins so; `/api` matches `/api` and `/api/x` and not `/apix`, unless it ends in `/`.
    Prefix(String),
    /// `*` for any run without `/`, `**` for any run, `?` for one character that is no `/`. At most
    /// [`PATTERN_LEN_MAX`](crate::http::PATTERN_LEN_MAX) bytes.
    Glob(String),
}

/// A named value that must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Header names in lower case.
    pub name: String,
    /// Exactly so; None for any value.
    pub value: Option<String>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the relay's upstream.
    Pass,
    /// To another.
    Route(UpstreamId),
    /// Answered here.
    Block {
        /// 400 to 599.
        status: u16,
        /// Sent as text/plain.
        body: String,
    },
    /// Answered here with a place to go to instead.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// `{host}`, `{path}` and `{query}` (with its `?`, or nothing) stand for the request's.
        location: String,
    },
}

/// A change of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEdit {
    /// A field goes in.
    Put {
        /// In place of all of that name, or beside them.
        how: SetOrAdd,
        /// A token (RFC 9110 section 5.6.2).
        name: String,
        /// Without CR, LF and NUL. `{client}` stands for the client's address.
        value: String,
    },
    /// All fields of that name go.
    Remove {
        /// Lower case.
        name: String,
    },
}

/// Whether fields of the same name stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOrAdd {
    /// They go.
    Set,
    /// They stay.
    Add,
}
