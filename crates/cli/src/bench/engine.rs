//! Which engine carried the bytes, from the relay's own connection lines.
//!
//! "Zero-copy that is silently off" is the commonest fault in this field, so
//! each load is run once more with the connection log on, and the split is
//! printed below its table. The run is separate because a log costs.

use serde_json::{Map, Value};
use sosplice_relay::counted;

/// Bytes by engine, both directions and all connections or sessions together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engines {
    /// Engine and bytes, in the order that the relay's protocol names them.
    bytes: Vec<(&'static str, u64)>,
    /// Datagrams that the relay could not pass on and says so.
    dropped: u64,
}

impl Engines {
    /// Reads the JSON lines of a log; none if no line tells engines. The
    /// fields may stand in the line itself or under `fields`, as tracing
    /// writes them.
    pub fn read(log: &str, names: &[&'static str]) -> Option<Engines> {
        let mut found: Option<Engines> = None;
        for line in log.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let number =
                |key: &str| line.get(key).or_else(|| line.get("fields")?.get(key))?.as_u64();
            let both = |name: &&'static str| {
                let up = number(&format!("up_{name}"));
                let down = number(&format!("down_{name}"));
                let told = up.is_some() || down.is_some();
                told.then(|| (*name, up.unwrap_or(0) + down.unwrap_or(0)))
            };
            let told: Vec<_> = names.iter().filter_map(both).collect();
            if told.is_empty() {
                continue;
            }
            let engines = found.get_or_insert_with(|| Engines {
                bytes: names.iter().map(|&name| (name, 0)).collect(),
                dropped: 0,
            });
            for (name, more) in told {
                for (_, bytes) in engines.bytes.iter_mut().filter(|(known, _)| *known == name) {
                    *bytes += more;
                }
            }
            engines.dropped += number("dropped").unwrap_or(0);
        }
        found
    }

    /// The share of the bytes that this engine carried; none if there were none.
    pub fn share(&self, engine: &str) -> Option<f64> {
        let all: u64 = self.bytes.iter().map(|(_, bytes)| bytes).sum();
        let (_, bytes) = self.bytes.iter().find(|(name, _)| *name == engine)?;
        (all > 0).then(|| *bytes as f64 / all as f64)
    }

    /// For programs: `pipe_bytes` and so on.
    pub fn json(&self) -> Value {
        let bytes = self.bytes.iter();
        let mut all: Map<String, Value> =
            bytes.map(|(name, bytes)| (format!("{name}_bytes"), (*bytes).into())).collect();
        all.insert("dropped".to_owned(), self.dropped.into());
        Value::Object(all)
    }
}

/// The line below a table.
pub fn line(engines: Option<&Engines>) -> String {
    let not_reported = || "engine: not reported".to_owned();
    let Some(engines) = engines else {
        return not_reported();
    };
    let all: u64 = engines.bytes.iter().map(|(_, bytes)| bytes).sum();
    if all == 0 {
        return not_reported();
    }
    let share =
        |(name, bytes): &(&str, u64)| format!("{name} {:.1} %", *bytes as f64 / all as f64 * 100.0);
    let shares: Vec<String> = engines.bytes.iter().map(share).collect();
    let dropped = match engines.dropped {
        0 => String::new(),
        dropped => {
            format!("; {} dropped by the relay itself", counted(dropped, "datagram"))
        }
    };
    format!("engine: {}{dropped}", shares.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_add_up_nested_or_not() {
        let log = "starting\n\
            {\"level\":\"INFO\",\"fields\":{\"up_copy\":2,\"up_pipe\":990,\"down_copy\":8,\"down_pipe\":0}}\n\
            {\"message\":\"no engines here\"}\n\
            {\"up_pipe\":1000}\n";
        let engines = Engines::read(log, &["pipe", "copy"]);
        assert_eq!(line(engines.as_ref()), "engine: pipe 99.5 %, copy 0.5 %");
        assert_eq!(engines.as_ref().and_then(|engines| engines.share("pipe")), Some(0.995));
        let json = engines.map(|engines| engines.json());
        assert_eq!(json.map(|json| json["pipe_bytes"].clone()), Some(1990.into()));
        let none = Engines::read("{\"message\":\"x\"}", &["pipe", "copy"]);
        assert_eq!(line(none.as_ref()), "engine: not reported");
        let nothing = Engines::read("{\"up_pipe\":0}", &["pipe", "copy"]);
        assert_eq!(nothing.and_then(|engines| engines.share("pipe")), None);
    }

    #[test]
    fn what_the_relay_dropped_is_told() {
        let log = "{\"up_gso\":75,\"up_mmsg\":25,\"dropped\":2}\n{\"down_gso\":0,\"dropped\":1}";
        let engines = Engines::read(log, &["gso", "mmsg", "plain"]);
        let expected = "engine: gso 75.0 %, mmsg 25.0 %, plain 0.0 %; \
            3 datagrams dropped by the relay itself";
        assert_eq!(line(engines.as_ref()), expected);
    }
}
