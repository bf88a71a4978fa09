//! Configuration files: TOML text that becomes a [`Plan`], or a list of what is wrong with it.
//!
//! Nothing is half right: an unknown key, a value out of bounds, a name that nothing has, are all
//! refused, all at once, each with its line and with what would be right. What a plan needs beyond
//! its text (names that resolve, addresses that can be had, a congestion control that the kernel
//! has) is found out when it is started; no file is judged by the machine it is read on, except
//! for `:PORT`, which is both families where there are two.
//!
//! The text is parsed by the `toml` crate; `section` walks the tables, with a module for each
//! part of the format. [`print()`] goes the other way.

#[cfg(any(test, fuzzing))]
pub(crate) mod examine;
mod http_words;
pub mod keys;
mod print;
mod problem;
mod relay;
mod rule;
mod section;
pub mod spelling;
mod upstream;
mod whole;
mod words;

pub use print::print;
pub use problem::{Error, Problem};

use crate::plan::{LogPlan, Plan};
use problem::{Place, Problems};
use section::{Section, kind, number, spelled, word, yes_or_no};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// Of a file, in bytes. Thirty thousand relays fit.
const FILE_MAX: u64 = 4 << 20;

/// Reads a file.
///
/// # Errors
/// Whatever is wrong with it, with the file's name in each line.
pub fn load(path: &Path) -> Result<Plan, Error> {
    let file = || path.to_owned();
    let failed = |source| Error::Read { file: file(), source };
    let mut bytes = Vec::new();
    let opened = File::open(path).map_err(failed)?;
    opened.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Error::TooLarge { file: file(), max: FILE_MAX });
    }
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let (line, column) = problem::end_of(&String::from_utf8_lossy(valid));
            return Err(Error::NotUtf8 { file: file(), line, column });
        }
    };
    parse(text).map_err(|problems| Error::Wrong { file: file(), problems })
}

/// Reads a text.
///
/// # Errors
/// At least one problem, in the order of the text.
pub fn parse(text: &str) -> Result<Plan, Vec<Problem>> {
    let problems = Problems::default();
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            let place = Place { at, key: String::new() };
            problems.add(place, format!("not TOML: {}", error.message()));
            return Err(problems.located(text));
        }
    };
    let plan = read(&Section::file(table.get_ref(), &problems));
    if problems.is_empty() { Ok(plan) } else { Err(problems.located(text)) }
}

fn read(file: &Section<'_>) -> Plan {
    let upstreams = upstream::Upstreams::read(file);
    let relays = relay::read_all(file, &upstreams);
    if !file.has("relay") {
        file.wrong("relay", "missing: there is nothing to do without a [[relay]]");
    }
    let admin = file.section("admin", &keys::ADMIN);
    let admin = admin.and_then(|admin| {
        let address = spelled("ADDRESS:PORT", spelling::listen);
        let missing = "where to tell metrics, as \"127.0.0.1:9100\"";
        let address = admin.need("listen", missing, address)?;
        Some((address, admin.place_of("listen")))
    });
    whole::check(&relays, &upstreams, admin.as_ref(), file.problems());
    Plan {
        workers: file.read("workers", number(1..=1024)).map_or_else(cores, |n| n as usize),
        busy_poll: file
            .read("busy-poll-us", number(0..=u32::MAX.into()))
            .map_or(Duration::ZERO, Duration::from_micros),
        drain_timeout: file.read("drain-timeout", time).unwrap_or(Plan::DRAIN_TIMEOUT),
        max_connections: file.read("max-connections", number(1..=u64::MAX)),
        admin: admin.map(|(address, _)| address),
        control: file.read("control", spelled("a path", spelling::socket_path)),
        log: read_log(file),
        relays: relays.into_iter().map(|read| Arc::new(read.plan)).collect(),
        upstreams: upstreams.plans.into_iter().map(Arc::new).collect(),
    }
}

fn read_log(file: &Section<'_>) -> LogPlan {
    let default = LogPlan::default();
    let Some(log) = file.section("log", &keys::LOG) else { return default };
    LogPlan {
        level: log.read("level", word(&words::LOG_LEVELS)).unwrap_or(default.level),
        format: log.read("format", word(&words::LOG_FORMATS)).unwrap_or(default.format),
        access: log.read("access", yes_or_no).unwrap_or(default.access),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A time, zero included.
fn time(value: &DeValue<'_>) -> Result<Duration, String> {
    match value {
        DeValue::Integer(number) => {
            let number = problem::quoted(&format!("{number}s"));
            Err(format!("a number without a unit: write {number}, or another unit"))
        }
        other => spelled("a time, as \"5s\",", spelling::time)(other),
    }
}

/// A limit on time, which zero would not be.
fn limit(value: &DeValue<'_>) -> Result<Duration, String> {
    match time(value)? {
        Duration::ZERO => Err("zero, which leaves no time at all".into()),
        time => Ok(time),
    }
}

/// The same where there may be none.
fn limit_or_none(value: &DeValue<'_>) -> Result<Option<Duration>, String> {
    match value {
        DeValue::String(text) if text == "none" => Ok(None),
        DeValue::String(_) | DeValue::Integer(_) => match limit(value) {
            Ok(time) => Ok(Some(time)),
            Err(what) => Err(format!("{what}; \"none\" is for no limit")),
        },
        other => Err(format!("{}, where a time is wanted, as \"5s\", or \"none\"", kind(other))),
    }
}
