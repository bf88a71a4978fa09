//! Every key of the format, by section. What is not here is refused; what is here occurs in the
//! reference (`docs/configuration.md`) and in an example, which tests see to.

/// The keys of a section.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// As it stands in a file; empty for what stands before the first section.
    pub header: &'static str,
    /// What may be in it, sections included.
    pub names: &'static [&'static str],
}

/// All sections, in the order of the reference.
pub const SECTIONS: [Keys; 13] =
    [FILE, LOG, ADMIN, RELAY, LISTENER, TIMEOUT, HTTP, RULE, NOT, FIELD, UPSTREAM, SERVER, CHECK];

pub(super) const FILE: Keys = Keys {
    header: "",
    names: &[
        "workers",
        "busy-poll-us",
        "drain-timeout",
        "max-connections",
        "control",
        "log",
        "admin",
        "relay",
        "upstream",
    ],
};

pub(super) const LOG: Keys = Keys { header: "[log]", names: &["level", "format", "access"] };

pub(super) const ADMIN: Keys = Keys { header: "[admin]", names: &["listen"] };

pub(super) const RELAY: Keys = Keys {
    header: "[[relay]]",
    names: &[
        "name",
        "protocol",
        "listen",
        "upstream",
        "max-connections",
        "max-connections-per-client",
        "max-sessions",
        "max-bytes",
        "send-proxy",
        "engine",
        "congestion",
        "listener",
        "timeout",
        "http",
        "rule",
    ],
};

pub(super) const LISTENER: Keys =
    Keys { header: "[[relay.listener]]", names: &["address", "accept-proxy-from"] };

pub(super) const TIMEOUT: Keys = Keys {
    header: "[relay.timeout]",
    names: &["connect", "idle", "half-closed", "head", "keep-alive"],
};

pub(super) const HTTP: Keys =
    Keys { header: "[relay.http]", names: &["head-max", "fields-max", "forwarded-for"] };

pub(super) const RULE: Keys = Keys {
    header: "[[relay.rule]]",
    names: &[
        "name",
        "host",
        "path",
        "path-prefix",
        "path-glob",
        "method",
        "header",
        "cookie",
        "query",
        "client",
        "not",
        "action",
        "status",
        "body",
        "location",
        "upstream",
        "set-header",
        "add-header",
        "remove-header",
        "response-set-header",
        "response-add-header",
        "response-remove-header",
    ],
};

pub(super) const NOT: Keys = Keys {
    header: "[relay.rule.not]",
    names: &[
        "host",
        "path",
        "path-prefix",
        "path-glob",
        "method",
        "header",
        "cookie",
        "query",
        "client",
    ],
};

/// Of `header`, `cookie` and `query`.
pub(super) const FIELD: Keys =
    Keys { header: "{ name = ..., value = ... }", names: &["name", "value"] };

pub(super) const UPSTREAM: Keys = Keys {
    header: "[[upstream]]",
    names: &[
        "name",
        "balance",
        "servers",
        "resolve-interval",
        "queue-max",
        "queue-timeout",
        "idle-connections",
        "server",
        "check",
    ],
};

pub(super) const SERVER: Keys = Keys {
    header: "[[upstream.server]]",
    names: &["address", "name", "weight", "backup", "max-connections"],
};

pub(super) const CHECK: Keys = Keys {
    header: "[upstream.check]",
    names: &[
        "kind",
        "send",
        "send-hex",
        "expect",
        "expect-hex",
        "method",
        "path",
        "host",
        "status",
        "interval",
        "jitter",
        "timeout",
        "rise",
        "fall",
    ],
};

/// The sections that have a key, for whoever has put it into another.
pub(super) fn sections_of(name: &str) -> Option<String> {
    // Whatever `not` has, a rule has as well, and a field's `name` is nobody's slip.
    let has = |keys: &&Keys| {
        keys.header.starts_with('[') && keys.header != NOT.header && keys.names.contains(&name)
    };
    let headers: Vec<_> = SECTIONS.iter().filter(has).map(|keys| keys.header).collect();
    (!headers.is_empty()).then(|| headers.join(" or "))
}
