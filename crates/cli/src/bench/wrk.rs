//! The load of `bench http`: wrk, and what it counted.
//!
//! A script of ours tells it what to ask, and prints its counts as one JSON line when it is
//! done: its own report is for people. A request that failed, was answered with an error, or
//! got less than the whole body makes the run void: a relay that cuts corners would look fast.

use std::net::SocketAddrV4;
use std::path::Path;

use serde_json::Value;

use super::Error;
use super::netns::installed;
use super::origin;
use super::workload::{Metric, Sample, Verb};

/// What wrk calls when all of its threads have ended.
const DONE: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('{"requests":%d,"bytes":%d,"seconds":%.6f,"p50_us":%.1f,"p99_us":%.1f,"errors":%d}\n',
    summary.requests, summary.bytes, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// Whether it can be started here.
pub fn available() -> Result<(), Error> {
    if installed("wrk") {
        return Ok(());
    }
    Err(Error::NotInstalled { program: "wrk", package: "wrk" })
}

/// The command line that asks `target`, its script written beforehand.
pub fn command(
    scratch: &Path,
    verb: Verb,
    size: usize,
    connections: usize,
    target: SocketAddrV4,
    seconds: f64,
) -> Result<Vec<String>, Error> {
    let path = scratch.join("wrk.lua");
    std::fs::write(&path, script(verb, size))
        .map_err(Error::io(format!("write {}", path.display())))?;
    let file = match verb {
        Verb::Get => origin::path(size),
        Verb::Put => format!("/put{}", origin::path(size)),
    };
    let (connections, time) = (connections.to_string(), format!("{}s", seconds.ceil().max(1.0)));
    let (script, url) = (path.to_string_lossy(), format!("http://{target}{file}"));
    let argv = ["wrk", "-t", "2", "-c", &connections, "-d", &time, "-s", &script, &url];
    Ok(argv.map(str::to_owned).to_vec())
}

fn script(verb: Verb, size: usize) -> String {
    match verb {
        Verb::Get => DONE.to_owned(),
        Verb::Put => {
            format!("wrk.method = \"PUT\"\nwrk.body = string.rep(\"x\", {size})\n{DONE}")
        }
    }
}

/// Rate, latency and work (GB of bodies, or thousands of requests) from what the script printed.
pub fn read(said: &str, verb: Verb, size: usize, is_bulk: bool) -> Result<(Sample, f64), Error> {
    let fault = |said: String| Error::Program { program: "wrk".to_owned(), said };
    let line = said.lines().find(|line| line.starts_with('{')).unwrap_or_default();
    let report: Value = serde_json::from_str(line).map_err(|_| {
        fault(format!("unreadable report: {}", said.lines().next().unwrap_or("empty")))
    })?;
    let number =
        |key: &str| report[key].as_f64().ok_or_else(|| fault(format!("unreadable report: {line}")));
    let (requests, seconds, errors) = (number("requests")?, number("seconds")?, number("errors")?);
    if requests < 1.0 || seconds <= 0.0 {
        return Err(fault("no request was answered".to_owned()));
    }
    if errors > 0.0 {
        return Err(fault(format!("{errors} of {requests} requests failed")));
    }
    let bodies = requests * size as f64;
    if verb == Verb::Get && number("bytes")? < bodies {
        return Err(fault(format!(
            "{requests} answers of {size} bytes had {} in all",
            number("bytes")?
        )));
    }
    let sample = Sample::from([
        (Metric::Rate, requests / seconds),
        (Metric::Bandwidth, bodies / 1e6 / seconds),
        (Metric::P50, number("p50_us")?),
        (Metric::P99, number("p99_us")?),
    ]);
    Ok((sample, if is_bulk { bodies / 1e9 } else { requests / 1e3 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 4s test @ http://10.77.1.1:2000/1024\n  64 connections\n\
        {\"requests\":4000,\"bytes\":5000000,\"seconds\":2.0,\"p50_us\":500.0,\"p99_us\":900.0,\"errors\":0}\n";

    #[test]
    fn the_line_of_the_script_is_found_and_read() {
        let (sample, work) = read(SAID, Verb::Get, 1024, false).unwrap_or_default();
        let read_off = [Metric::Rate, Metric::Bandwidth, Metric::P50, Metric::P99];
        let read_off = read_off.map(|metric| sample.get(&metric).copied());
        assert_eq!(read_off, [Some(2000.0), Some(2.048), Some(500.0), Some(900.0)]);
        assert_eq!(work, 4.0);
        let (_, gigabytes) = read(SAID, Verb::Put, 1 << 20, true).unwrap_or_default();
        assert!((gigabytes - 4.194_304).abs() < 1e-9);
    }

    #[test]
    fn a_run_with_a_failure_or_a_short_body_is_void() {
        for bad in [
            SAID.replace("\"errors\":0", "\"errors\":1"),
            SAID.replace("\"bytes\":5000000", "\"bytes\":4000000"),
            SAID.replace("\"requests\":4000", "\"requests\":0"),
            "unable to connect to 10.77.1.1:2000 Connection refused\n".to_owned(),
            String::new(),
        ] {
            assert!(read(&bad, Verb::Get, 1024, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn uploads_have_a_body_and_fetches_none() {
        assert!(script(Verb::Put, 77).contains("string.rep(\"x\", 77)"));
        assert!(!script(Verb::Get, 77).contains("wrk.body"));
    }
}
