//! What is wrong with a file, and where.
//!
//! Problems are gathered, not returned one by one, so that a user mends a file in one go. They
//! come out in the order of the file. How many are kept is bounded, so that a large file of
//! garbage costs no more than a small one.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Kept of one file; further ones are not even counted.
const KEPT_MAX: usize = 1000;

/// Told of one file.
const TOLD_MAX: usize = 50;

/// Quoted of a value, in characters.
const QUOTED_MAX: usize = 60;

/// Of a message, in characters.
const MESSAGE_MAX: usize = 600;

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such file, or it is not for this user, or it is a directory.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// As given.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nobody writes so much by hand, and what is made by a program should not be either.
    #[error("{}: larger than {} MiB, which no configuration is", file.display(), max >> 20)]
    TooLarge {
        /// As given.
        file: PathBuf,
        /// What may be, in bytes.
        max: u64,
    },
    /// TOML is UTF-8.
    #[error("{}:{line}:{column}: not UTF-8: TOML is", file.display())]
    NotUtf8 {
        /// As given.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// What it says cannot be.
    #[error("{}", Lines { file, problems })]
    Wrong {
        /// As given.
        file: PathBuf,
        /// At least one, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key, behind the sections that it is in: `relay "web" . rule 2 . status`. Empty where
    /// the text is no TOML.
    pub key: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, key, what } = self;
        write!(f, "{line}:{column}: ")?;
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        f.write_str(what)
    }
}

/// A line for each problem, without an end of line behind the last.
struct Lines<'e> {
    file: &'e PathBuf,
    problems: &'e [Problem],
}

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for (number, problem) in self.problems.iter().take(TOLD_MAX).enumerate() {
            let end = if number == 0 { "" } else { "\n" };
            write!(f, "{end}{file}:{problem}")?;
        }
        match self.problems.len().saturating_sub(TOLD_MAX) {
            0 => Ok(()),
            more => write!(f, "\n{file}: and {more} more, or further ones behind these"),
        }
    }
}

/// A place in a file, and what is there.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// In bytes from the file's beginning.
    pub(super) at: usize,
    /// As [`Problem::key`].
    pub(super) key: String,
}

/// The problems of a file, as they are found.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: RefCell<Vec<(Place, String)>>,
}

impl Problems {
    pub(super) fn add(&self, place: Place, what: impl AsRef<str>) {
        let mut found = self.found.borrow_mut();
        if found.len() < KEPT_MAX {
            found.push((place, on_a_line(what.as_ref())));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// Whether further ones are dropped; what costs time can be left out then.
    pub(super) fn is_full(&self) -> bool {
        self.found.borrow().len() >= KEPT_MAX
    }

    /// In the order of `text`, in which they were found.
    pub(super) fn located(self, text: &str) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(place, _)| place.at);
        let mut cursor = Cursor::new(text);
        let locate = |(place, what): (Place, String)| {
            let (line, column) = cursor.advance(place.at);
            Problem { line, column, key: place.key, what }
        };
        found.into_iter().map(locate).collect()
    }
}

/// Counts lines, once for all problems.
struct Cursor<'t> {
    text: &'t [u8],
    at: usize,
    line: usize,
    line_at: usize,
}

impl<'t> Cursor<'t> {
    fn new(text: &'t str) -> Self {
        // What is missing at the end is missing on the last line that is there.
        Self { text: text.trim_end().as_bytes(), at: 0, line: 1, line_at: 0 }
    }

    /// Line and column of a place that is not before the last one.
    fn advance(&mut self, to: usize) -> (usize, usize) {
        let to = to.min(self.text.len());
        while self.at < to {
            if self.text[self.at] == b'\n' {
                self.line += 1;
                self.line_at = self.at + 1;
            }
            self.at += 1;
        }
        let before = self.text.get(self.line_at..self.at).unwrap_or_default();
        // Bytes that begin a character.
        let column = 1 + before.iter().filter(|byte| (**byte as i8) >= -0x40).count();
        (self.line, column)
    }
}

/// Line and column behind a text, from 1.
pub(super) fn end_of(text: &str) -> (usize, usize) {
    Cursor { text: text.as_bytes(), at: 0, line: 1, line_at: 0 }.advance(text.len())
}

/// A message may have words of the file's in it: whatever they are, it is a line.
fn on_a_line(what: &str) -> String {
    let mut line = String::new();
    for char in what.chars().take(MESSAGE_MAX) {
        if char.is_control() {
            line.extend(char.escape_debug());
        } else {
            line.push(char);
        }
    }
    if what.chars().nth(MESSAGE_MAX).is_some() {
        line.push_str("...");
    }
    line
}

/// A user's word in a message: on one line, and not at length.
pub(super) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_MAX).is_some() {
        short.push_str("...");
    }
    format!("\"{short}\"")
}

/// The one of `words` that was most likely meant.
fn nearest<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    // What is long is no slip of the pen, and comparing it costs its length.
    if word.is_empty() || word.len() > QUOTED_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let far = (word.chars().count() / 3).max(1);
    let distance = |candidate: &str| strsim::osa_distance(&word, &candidate.to_ascii_lowercase());
    words
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// What there is instead: the nearest, or all of them where they are few.
pub(super) fn instead<'w>(word: &str, words: impl Iterator<Item = &'w str> + Clone) -> String {
    match nearest(word, words.clone().take(KEPT_MAX)) {
        Some(near) => format!("did you mean {near}?"),
        None => {
            let mut few: Vec<&str> = words.clone().take(40).collect();
            if words.clone().nth(few.len()).is_some() {
                few.push("...");
            }
            format!("there are {}", few.join(", "))
        }
    }
}
