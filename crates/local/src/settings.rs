//! What `sosplice run` tells the preload library, as the text of one environment variable.
//!
//! `dir=/run/sosplice/local;busy=50;ring=64;after=4;ports=6379,80;loopback=1`: names and
//! values, in any order, each at most once; only `dir` must be there. Both directions are here,
//! so that the one who writes and the one who reads cannot differ. A part that is unknown or
//! wrong is an error that names it: a filter that is silently ignored would pair what the user
//! wanted on TCP.

use crate::layout::{RING_BYTES_MAX, RING_BYTES_MIN};
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The environment variable.
pub const VARIABLE: &str = "SOSPLICE_LOCAL";

/// One ring, in bytes, unless told otherwise.
pub const RING_BYTES_DEFAULT: usize = 64 * 1024;

/// Socket calls on a connection before it is announced, unless told otherwise.
pub const AFTER_DEFAULT: u32 = 4;

/// The longest time that a wait may spin.
pub const BUSY_POLL_MAX: Duration = Duration::from_secs(1);

/// What the preload library does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The rendezvous directory, absolute.
    pub dir: PathBuf,
    /// How long a wait may spin before it sleeps, in whole microseconds; zero: not at all.
    pub busy_poll: Duration,
    /// Size of a ring: a power of two between the limits of the layout.
    pub ring_bytes: usize,
    /// Socket calls on a connection before it is announced.
    pub after: u32,
    /// Only connections with one of these ports at either end; empty: all.
    pub ports: Vec<u16>,
    /// Only connections between loopback addresses.
    pub loopback_only: bool,
}

/// What is wrong with the variable's text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// There is no `dir`.
    #[error("{VARIABLE}: no dir=DIRECTORY in it")]
    NoDirectory,
    /// A part with a name that this library does not know, or without one.
    #[error("{VARIABLE}: '{0}' is unknown (is the library as old as the command?)")]
    Unknown(String),
    /// A name that was there already.
    #[error("{VARIABLE}: {0} is there twice")]
    Twice(&'static str),
    /// A value that is none for this name.
    #[error("{VARIABLE}: {name}={value}: {expected} is expected")]
    Wrong {
        /// The part's name.
        name: &'static str,
        /// What was found.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

const NAMES: [&str; 6] = ["dir", "busy", "ring", "after", "ports", "loopback"];

impl Settings {
    /// The defaults with this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            busy_poll: Duration::ZERO,
            ring_bytes: RING_BYTES_DEFAULT,
            after: AFTER_DEFAULT,
            ports: Vec::new(),
            loopback_only: false,
        }
    }

    /// The variable's text.
    pub fn to_env(&self) -> OsString {
        let mut text = b"dir=".to_vec();
        escape(&self.dir, &mut text);
        let mut rest = format!(
            ";busy={};ring={};after={}",
            self.busy_poll.as_micros(),
            self.ring_bytes / 1024,
            self.after
        );
        for (count, port) in self.ports.iter().enumerate() {
            let before = if count == 0 { ";ports=" } else { "," };
            // Writing to a string does not fail.
            let _ = write!(rest, "{before}{port}");
        }
        if self.loopback_only {
            rest.push_str(";loopback=1");
        }
        text.extend(rest.into_bytes());
        OsString::from_vec(text)
    }

    /// Reads the variable's text.
    pub fn from_env(text: &[u8]) -> Result<Self, SettingsError> {
        let mut settings = Self::new("");
        let mut seen = [false; NAMES.len()];
        for part in text.split(|byte| *byte == b';').filter(|part| !part.is_empty()) {
            let unknown = || SettingsError::Unknown(String::from_utf8_lossy(part).into_owned());
            let equals = part.iter().position(|byte| *byte == b'=').ok_or_else(unknown)?;
            let (name, value) = (&part[..equals], &part[equals + 1..]);
            let place = NAMES.iter().position(|known| known.as_bytes() == name);
            let place = place.ok_or_else(unknown)?;
            if std::mem::replace(&mut seen[place], true) {
                return Err(SettingsError::Twice(NAMES[place]));
            }
            settings.set(NAMES[place], value).map_err(|expected| SettingsError::Wrong {
                name: NAMES[place],
                value: String::from_utf8_lossy(value).into_owned(),
                expected,
            })?;
        }
        if settings.dir.as_os_str().is_empty() {
            Err(SettingsError::NoDirectory)
        } else {
            Ok(settings)
        }
    }

    /// The error is what would be right.
    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), &'static str> {
        match name {
            "dir" => self.dir = unescape(value).ok_or("an absolute path")?,
            "busy" => self.busy_poll = busy_poll(value).ok_or("0 to 1000000 microseconds")?,
            "ring" => self.ring_bytes = ring(value).ok_or("a power of two of KiB, 4 to 65536")?,
            "after" => self.after = number(value).ok_or("a number")?,
            "ports" => self.ports = ports(value).ok_or("ports (1 to 65535) with commas")?,
            _ => self.loopback_only = flag(value).ok_or("0 or 1")?,
        }
        Ok(())
    }
}

/// Whether a ring may have this size.
pub fn ring_bytes_are_sound(bytes: u64) -> bool {
    bytes.is_power_of_two() && (RING_BYTES_MIN as u64..=RING_BYTES_MAX as u64).contains(&bytes)
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    // A sign is no digit, though the standard library reads one.
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

fn busy_poll(value: &[u8]) -> Option<Duration> {
    number(value).map(Duration::from_micros).filter(|time| *time <= BUSY_POLL_MAX)
}

fn ring(value: &[u8]) -> Option<usize> {
    let bytes = number::<u64>(value)?.checked_mul(1024)?;
    ring_bytes_are_sound(bytes).then_some(bytes as usize)
}

fn ports(value: &[u8]) -> Option<Vec<u16>> {
    value.split(|byte| *byte == b',').map(|port| number(port).filter(|port| *port != 0)).collect()
}

fn flag(value: &[u8]) -> Option<bool> {
    match value {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

/// A path may hold the separators.
fn escape(path: &Path, text: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' => text.extend(b"%25"),
            b';' => text.extend(b"%3b"),
            byte => text.push(*byte),
        }
    }
}

fn unescape(value: &[u8]) -> Option<PathBuf> {
    let mut path = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, behind @ ..] = rest {
        rest = behind;
        match (first, behind) {
            (b'%', [b'2', b'5', behind @ ..]) => {
                path.push(b'%');
                rest = behind;
            }
            (b'%', [b'3', b'b', behind @ ..]) => {
                path.push(b';');
                rest = behind;
            }
            (b'%' | 0, _) => return None,
            (byte, _) => path.push(*byte),
        }
    }
    let path = PathBuf::from(OsStr::from_bytes(&path));
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_of_the_manual_is_read() {
        let text = b"dir=/run/sosplice/local;busy=50;ring=64;after=4;ports=6379,80;loopback=1";
        let settings = Settings::from_env(text).unwrap();
        let expected = Settings {
            dir: "/run/sosplice/local".into(),
            busy_poll: Duration::from_micros(50),
            ring_bytes: 64 * 1024,
            after: 4,
            ports: vec![6379, 80],
            loopback_only: true,
        };
        assert_eq!(settings, expected);
        assert_eq!(settings.to_env().as_bytes(), text);
        assert_eq!(Settings::from_env(b"dir=/a").unwrap(), Settings::new("/a"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| Settings::from_env(text.as_bytes()).unwrap_err().to_string();
        assert!(error("busy=1").contains("no dir="));
        assert!(error("dir=/a;colour=red").contains("'colour=red' is unknown"));
        assert!(error("dir=/a;loopback").contains("'loopback' is unknown"));
        assert!(error("dir=/a;busy=1;busy=2").contains("busy is there twice"));
        for wrong in [
            "dir=a",
            "dir=/%3",
            "busy=-1",
            "busy=+1",
            "busy=1000001",
            "ring=3",
            "ring=2",
            "ring=131072",
            "ring=18014398509481985",
            "after=",
            "after=4294967296",
            "ports=",
            "ports=0",
            "ports=80,",
            "ports=65536",
            "loopback=yes",
        ] {
            let text =
                if wrong.starts_with("dir") { wrong.to_owned() } else { format!("dir=/a;{wrong}") };
            let said = error(&text);
            assert!(said.contains(wrong) && said.contains("expected"), "{wrong}: {said}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            dir in proptest::collection::vec(1_u8..=255, 0..40),
            busy in 0_u64..=1_000_000,
            ring in 12_u32..=26,
            after: u32,
            ports in proptest::collection::vec(1_u16.., 0..5),
            loopback_only: bool,
        ) {
            let mut absolute = b"/".to_vec();
            absolute.extend(dir);
            let settings = Settings {
                dir: PathBuf::from(OsStr::from_bytes(&absolute)),
                busy_poll: Duration::from_micros(busy),
                ring_bytes: 1 << ring,
                after,
                ports,
                loopback_only,
            };
            prop_assert_eq!(Settings::from_env(settings.to_env().as_bytes()), Ok(settings));
        }

        #[test]
        fn any_text_is_read_or_refused(text: Vec<u8>) {
            let _ = Settings::from_env(&text);
        }
    }
}
