//! The words that stand for a choice, once for reading and for printing.

use crate::plan::{Balance, LogFormat, LogLevel, ProxyVersion};
use sosplice::EngineChoice;

/// What a relay speaks, before what belongs to it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Tcp,
    Udp,
    Http,
}

/// What a rule does, before what belongs to it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Pass,
    Block,
    Redirect,
    Route,
}

/// What a check asks, before what belongs to it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Tcp,
    SendExpect,
    Http,
}

pub(super) const PROTOCOLS: [(&str, Spoken); 3] =
    [("tcp", Spoken::Tcp), ("udp", Spoken::Udp), ("http", Spoken::Http)];

pub(super) const ACTIONS: [(&str, Act); 4] = [
    ("pass", Act::Pass),
    ("block", Act::Block),
    ("redirect", Act::Redirect),
    ("route", Act::Route),
];

pub(super) const CHECKS: [(&str, Asked); 3] =
    [("tcp", Asked::Tcp), ("send-expect", Asked::SendExpect), ("http", Asked::Http)];

pub(super) const BALANCES: [(&str, Balance); 5] = [
    ("round-robin", Balance::RoundRobin),
    ("least-connections", Balance::LeastConnections),
    ("two-choices", Balance::TwoChoices),
    ("random", Balance::Random),
    ("source", Balance::Source),
];

pub(super) const ENGINES: [(&str, EngineChoice); 3] =
    [("auto", EngineChoice::Auto), ("pipe", EngineChoice::Pipe), ("copy", EngineChoice::Copy)];

pub(super) const PROXY_VERSIONS: [(&str, ProxyVersion); 2] =
    [("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)];

pub(super) const LOG_LEVELS: [(&str, LogLevel); 4] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
];

pub(super) const LOG_FORMATS: [(&str, LogFormat); 2] =
    [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// The word for a value. Every value of these types has one.
pub(super) fn word_for<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word)
}
