//! Which engine carried the bytes, from the relay's own connection lines.
//!
//! "Zero-copy that is silently off" is the commonest fault in this field, so
//! each load is run once more with the connection log on, and the split is
//! printed below its table. The run is separate because a log costs.

use serde_json::Value;

/// Bytes by engine, both directions and all connections together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Engines {
    /// Carried by splice(2).
    pub pipe: u64,
    /// Carried through a buffer.
    pub copy: u64,
}

impl Engines {
    /// Reads the JSON lines of a log; none if no line tells engines. The
    /// fields may stand in the line itself or under `fields`, as tracing
    /// writes them.
    pub fn read(log: &str) -> Option<Engines> {
        let mut found = None;
        for line in log.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let number =
                |key: &str| line.get(key).or_else(|| line.get("fields")?.get(key))?.as_u64();
            let sum = |engine: &str| {
                let up = number(&format!("up_{engine}"));
                let down = number(&format!("down_{engine}"));
                (up.is_some() || down.is_some()).then(|| up.unwrap_or(0) + down.unwrap_or(0))
            };
            let (pipe, copy) = (sum("pipe"), sum("copy"));
            if pipe.is_some() || copy.is_some() {
                let engines: &mut Engines = found.get_or_insert_default();
                engines.pipe += pipe.unwrap_or(0);
                engines.copy += copy.unwrap_or(0);
            }
        }
        found
    }

    /// The share of the pipe, if anything was carried.
    pub fn pipe_share(self) -> Option<f64> {
        let all = self.pipe + self.copy;
        (all > 0).then(|| self.pipe as f64 / all as f64)
    }
}

/// The line below a table.
pub fn line(engines: Option<Engines>) -> String {
    match engines.and_then(Engines::pipe_share) {
        Some(share) => {
            format!("engine: pipe {:.1} %, copy {:.1} %", share * 100.0, (1.0 - share) * 100.0)
        }
        None => "engine: not reported".to_owned(),
    }
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
        let engines = Engines::read(log);
        assert_eq!(engines, Some(Engines { pipe: 1990, copy: 10 }));
        assert_eq!(line(engines), "engine: pipe 99.5 %, copy 0.5 %");
        assert_eq!(line(Engines::read("{\"message\":\"x\"}")), "engine: not reported");
    }
}
