//! What the load generators said, as numbers: a sample, and how much work was
//! done, which is what processor time is divided by.
//!
//! A report that does not look right is an error, never a zero: a table must
//! not show a relay slow because its load generator failed.

use serde_json::Value;

use super::Error;
use super::workload::{Metric, Sample};

fn unreadable(program: &str, said: &str) -> Error {
    Error::Program {
        program: program.to_owned(),
        said: format!("unreadable report: {}", said.lines().next().unwrap_or("empty")),
    }
}

/// One of our own reports.
struct Report<'said> {
    values: Value,
    said: &'said str,
}

impl Report<'_> {
    fn new(said: &str) -> Result<Report<'_>, Error> {
        let values = serde_json::from_str(said).map_err(|_| unreadable("load", said))?;
        Ok(Report { values, said })
    }

    fn number(&self, key: &str) -> Result<f64, Error> {
        self.values[key].as_f64().ok_or_else(|| unreadable("load", self.said))
    }
}

/// Rate and work (GB) as received by the server, from `iperf3 -J`.
pub fn iperf(said: &str) -> Result<(Sample, f64), Error> {
    let report: Value = serde_json::from_str(said).map_err(|_| unreadable("iperf3", said))?;
    if let Some(error) = report["error"].as_str() {
        return Err(Error::Program { program: "iperf3".to_owned(), said: error.to_owned() });
    }
    let received = &report["end"]["sum_received"];
    match (received["bytes"].as_f64(), received["bits_per_second"].as_f64()) {
        (Some(bytes), Some(rate)) if bytes > 0.0 => {
            Ok((Sample::from([(Metric::Rate, rate / 1e9)]), bytes / 1e9))
        }
        _ => Err(unreadable("iperf3", "no bytes received")),
    }
}

/// Rate and work (thousands of transactions), from our own TCP client. A
/// connection that fails is a fault of the run, a few apart.
pub fn tally(said: &str) -> Result<(Sample, f64), Error> {
    let report = Report::new(said)?;
    let (count, errors) = (report.number("count")?, report.number("errors")?);
    if errors > count / 100.0 {
        let said = format!("{errors} of {} connections failed", count + errors);
        return Err(Error::Program { program: "load".to_owned(), said });
    }
    transactions(&report)
}

/// The same from our own UDP client. A datagram that is lost is no fault of the
/// run: it is shown.
pub fn answers(said: &str) -> Result<(Sample, f64), Error> {
    let report = Report::new(said)?;
    let (mut sample, work) = transactions(&report)?;
    let (count, lost) = (report.number("count")?, report.number("errors")?);
    sample.insert(Metric::Loss, lost / (count + lost) * 100.0);
    sample.insert(Metric::Corrupt, report.number("corrupt")?);
    sample.insert(Metric::Late, report.number("late")?);
    Ok((sample, work))
}

fn transactions(report: &Report<'_>) -> Result<(Sample, f64), Error> {
    let (count, seconds) = (report.number("count")?, report.number("seconds")?);
    if count < 1.0 || seconds <= 0.0 {
        return Err(unreadable("load", "no transaction done"));
    }
    let sample = Sample::from([
        (Metric::Rate, count / seconds),
        (Metric::P50, report.number("p50_us")?),
        (Metric::P99, report.number("p99_us")?),
    ]);
    Ok((sample, count / 1e3))
}

/// Rate, loss, faults and work (thousands of delivered datagrams), from our own
/// sender and our own sink.
pub fn flood(sent: &str, caught: &str) -> Result<(Sample, f64), Error> {
    let (sent, caught) = (Report::new(sent)?, Report::new(caught)?);
    let (count, seconds) = (caught.number("count")?, caught.number("seconds")?);
    let sent = sent.number("sent")?;
    if count < 1.0 || seconds <= 0.0 {
        let said = format!("of {sent} datagrams none was delivered as it was sent");
        return Err(Error::Program { program: "load".to_owned(), said });
    }
    let sample = Sample::from([
        (Metric::Rate, count / seconds),
        // What came twice is not counted as lost less than nothing.
        (Metric::Loss, ((sent - count) / sent * 100.0).max(0.0)),
        (Metric::Corrupt, caught.number("corrupt")?),
        (Metric::Late, caught.number("late")?),
    ]);
    Ok((sample, count / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iperf_is_read_at_the_receiver() {
        let said = r#"{"end":{"sum_sent":{"bytes":9e9},"sum_received":{"bytes":5e9,"bits_per_second":1e10}}}"#;
        let (sample, gigabytes) = iperf(said).unwrap_or_default();
        assert_eq!((sample.get(&Metric::Rate), gigabytes), (Some(&10.0), 5.0));
        assert!(iperf(r#"{"error":"refused"}"#).is_err());
        assert!(iperf("iperf3: error").is_err());
    }

    #[test]
    fn a_load_with_many_failures_is_no_result() {
        let good = r#"{"count":2000,"errors":1,"seconds":2,"p50_us":5,"p99_us":9}"#;
        let (sample, thousands) = tally(good).unwrap_or_default();
        assert_eq!((sample.get(&Metric::Rate), thousands), (Some(&1000.0), 2.0));
        assert!(tally(&good.replace("\"errors\":1", "\"errors\":100")).is_err());
        assert!(tally("").is_err());
    }

    #[test]
    fn a_lost_answer_is_shown_and_does_not_end_the_run() {
        let said =
            r#"{"count":75,"errors":25,"seconds":1,"p50_us":5,"p99_us":9,"corrupt":3,"late":2}"#;
        let (sample, _) = answers(said).unwrap_or_default();
        let read = [Metric::Loss, Metric::Corrupt, Metric::Late].map(|m| sample.get(&m).copied());
        assert_eq!(read, [Some(25.0), Some(3.0), Some(2.0)]);
        assert!(tally(said).is_err());
    }

    #[test]
    fn a_flood_is_counted_where_it_arrives() {
        let sent = r#"{"sent":4000,"seconds":1.0}"#;
        let caught = r#"{"count":3000,"corrupt":1,"late":2,"seconds":2.0}"#;
        let (sample, thousands) = flood(sent, caught).unwrap_or_default();
        let read = [Metric::Rate, Metric::Loss, Metric::Corrupt, Metric::Late];
        let read = read.map(|metric| sample.get(&metric).copied());
        assert_eq!(read, [Some(1500.0), Some(25.0), Some(1.0), Some(2.0)]);
        assert_eq!(thousands, 3.0);
        assert!(flood(sent, &caught.replace("3000", "0")).is_err());
        assert!(flood(sent, "").is_err());
    }
}
