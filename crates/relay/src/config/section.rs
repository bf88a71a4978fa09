//! Reading a section: its keys, each by the function that knows its spelling, and a problem with
//! its place for whatever is wrong.
//!
//! This is a walk over the parsed tables and not serde's derive: that one ends at the first key
//! that is wrong, and does not know which relay it is in.

use super::keys::{self, Keys};
use super::problem::{Place, Problems, instead, quoted};
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const EMPTY: &str = "an empty list: leave the key out, or put something in";

/// A value, and where it is.
pub(super) type Value<'a> = &'a Spanned<DeValue<'a>>;

/// A table of the file.
#[derive(Clone)]
pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    place: Place,
    problems: &'a Problems,
}

/// What one key says, and where.
#[derive(Clone, Debug)]
pub(super) struct Said<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<'a> Section<'a> {
    /// The file as a whole.
    pub(super) fn file(table: &'a DeTable<'a>, problems: &'a Problems) -> Self {
        let section = Self { table, place: Place { at: 0, key: String::new() }, problems };
        section.refuse_unknown(&keys::FILE);
        section
    }

    fn new(table: &'a DeTable<'a>, place: Place, problems: &'a Problems, keys: &Keys) -> Self {
        let section = Self { table, place, problems };
        section.refuse_unknown(keys);
        section
    }

    fn refuse_unknown(&self, keys: &Keys) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if keys.names.contains(&name) || self.problems.is_full() {
                continue;
            }
            let what = match keys::sections_of(name) {
                Some(others) => format!("no such key here; it belongs to {others}"),
                None => format!("no such key; {}", instead(name, keys.names.iter().copied())),
            };
            let place = Place { at: key.span().start, key: self.path(&short(name)) };
            self.problems.add(place, what);
        }
    }

    fn path(&self, key: &str) -> String {
        if self.place.key.is_empty() {
            key.to_owned()
        } else {
            format!("{} . {key}", self.place.key)
        }
    }

    /// Where the section begins.
    pub(super) fn place(&self) -> Place {
        self.place.clone()
    }

    /// Where a key's value is, or the section if it is not there.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let at = self.get(key).map_or(self.place.at, |value| value.span().start);
        Place { at, key: self.path(key) }
    }

    fn get(&self, key: &str) -> Option<Value<'a>> {
        self.table.get(key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Says what is wrong with a key.
    pub(super) fn wrong(&self, key: &str, what: impl AsRef<str>) {
        self.problems.add(self.place_of(key), what);
    }

    pub(super) fn problems(&self) -> &'a Problems {
        self.problems
    }

    /// What a key says. None where it is not there, and where it is wrong, which is then said.
    pub(super) fn read<T>(
        &self,
        key: &str,
        spelling: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        match spelling(self.get(key)?.get_ref()) {
            Ok(value) => Some(value),
            Err(what) => {
                self.wrong(key, what);
                None
            }
        }
    }

    /// The same for a key that has to be there.
    pub(super) fn need<T>(
        &self,
        key: &str,
        missing: &str,
        spelling: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.wrong(key, format!("missing: {missing}"));
        }
        self.read(key, spelling)
    }

    /// What a key says where one value may stand for a list of one. None where it is not there.
    pub(super) fn list<T>(
        &self,
        key: &str,
        spelling: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<Vec<Said<T>>> {
        let value = self.get(key)?;
        let values = match value.get_ref() {
            DeValue::Array(values) => values.iter().collect(),
            _ => vec![value],
        };
        if values.is_empty() {
            self.wrong(key, EMPTY);
        }
        let place = |at| Place { at, key: self.path(key) };
        let read = |value: Value<'a>| match spelling(value.get_ref()) {
            Ok(said) => Some(Said { value: said, place: place(value.span().start) }),
            Err(what) => {
                self.problems.add(place(value.span().start), what);
                None
            }
        };
        Some(values.into_iter().filter_map(read).collect())
    }

    /// The table of a key.
    pub(super) fn section(&self, key: &str, keys: &Keys) -> Option<Self> {
        let value = self.get(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(key, format!("{}, where a table is wanted", kind(value.get_ref())));
            return None;
        };
        let place = Place { at: value.span().start, key: self.path(key) };
        Some(Self::new(table, place, self.problems, keys))
    }

    /// The tables of a key: one, or a list of them. Each is called by the name that it says, or
    /// else by its number.
    pub(super) fn sections(&self, key: &str, keys: &Keys) -> Vec<Self> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let single = value.get_ref().is_table();
        let values = match value.get_ref() {
            DeValue::Array(values) => values.iter().collect(),
            _ => vec![value],
        };
        if values.is_empty() {
            self.wrong(key, EMPTY);
        }
        let mut sections = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let at = value.span().start;
            let Some(table) = value.get_ref().as_table() else {
                let place = Place { at, key: self.path(key) };
                let kind = kind(value.get_ref());
                self.problems.add(place, format!("{kind}, where {} is wanted", keys.header));
                continue;
            };
            let name = table.get("name").and_then(|name| name.get_ref().as_str());
            let called = match name {
                Some(name) => format!("{key} {}", quoted(name)),
                None if single => key.to_owned(),
                None => format!("{key} {}", index + 1),
            };
            let place = Place { at, key: self.path(&called) };
            sections.push(Self::new(table, place, self.problems, keys));
        }
        sections
    }

    /// The names and values of a table that may have any, in the order of the file. A list stands
    /// for as many values of one name.
    pub(super) fn pairs(&self, key: &str) -> Vec<(Said<String>, Said<String>)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            let kind = kind(value.get_ref());
            self.wrong(
                key,
                format!("{kind}, where a table is wanted, as {{ x-name = \"value\" }}"),
            );
            return Vec::new();
        };
        let place = Place { at: value.span().start, key: self.path(key) };
        let inner = Self { table, place, problems: self.problems };
        let mut names: Vec<_> = table.keys().collect();
        names.sort_by_key(|name| name.span().start);
        let mut pairs = Vec::new();
        for name in names {
            let place =
                Place { at: name.span().start, key: inner.path(&short(name.get_ref().as_ref())) };
            let said = Said { value: name.get_ref().to_string(), place: place.clone() };
            for mut value in inner.list(name.get_ref(), text).unwrap_or_default() {
                value.place.key.clone_from(&place.key);
                pairs.push((said.clone(), value));
            }
        }
        pairs
    }
}

/// A key of the user's in a path.
fn short(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if name.len() <= 60 && !name.is_empty() && name.bytes().all(is_bare) {
        name.to_owned()
    } else {
        quoted(name)
    }
}

/// What a value is, in a user's words.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Any string.
pub(super) fn text(value: &DeValue<'_>) -> Result<String, String> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| format!("{}, where a string is wanted", kind(value)))
}

/// `true` or `false`.
pub(super) fn yes_or_no(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| match value {
        DeValue::String(_) => "a string, where true or false is wanted, without quotes".to_owned(),
        other => format!("{}, where true or false is wanted", kind(other)),
    })
}

/// A whole number in a range.
pub(super) fn number(
    range: RangeInclusive<u64>,
) -> impl Fn(&DeValue<'_>) -> Result<u64, String> + Copy {
    let (first, last) = (*range.start(), *range.end());
    move |value| {
        let wanted = match last {
            u64::MAX => format!("a whole number of {first} or more"),
            _ => format!("a whole number from {first} to {last}"),
        };
        let DeValue::Integer(integer) = value else {
            return Err(format!("{}, where {wanted} is wanted", kind(value)));
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number {
            Some(number) if (first..=last).contains(&number) => Ok(number),
            _ => Err(format!("{} is not {wanted}", short_number(integer.as_str()))),
        }
    }
}

fn short_number(digits: &str) -> &str {
    digits.get(..30).unwrap_or(digits)
}

/// A string that a function takes apart.
pub(super) fn spelled<T>(
    wanted: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| match value {
        DeValue::String(text) => parse(text),
        other => Err(format!("{}, where {wanted} is wanted", kind(other))),
    }
}

/// One of a table of words.
pub(super) fn word<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let all = || words.iter().map(|(word, _)| *word);
        let DeValue::String(text) = value else {
            let all: Vec<_> = all().collect();
            return Err(format!("{}, where one of {} is wanted", kind(value), all.join(", ")));
        };
        let found = words.iter().find(|(word, _)| *word == text.as_ref());
        found.map(|(_, value)| *value).ok_or_else(|| {
            format!("{} is none of the words for this; {}", quoted(text), instead(text, all()))
        })
    }
}
