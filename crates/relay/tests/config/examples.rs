//! The examples and the reference, against the format.

use sosplice_relay::config::keys::SECTIONS;
use sosplice_relay::config::{load, parse, print};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Name and text of each, in the order of their names.
pub fn examples() -> Vec<(PathBuf, String)> {
    let folder = root().join("examples/config");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect();
    files.sort();
    assert!(files.len() > 10, "the examples are there");
    files
}

#[test]
fn every_example_is_loaded() {
    for (path, _) in examples() {
        if let Err(error) = load(&path) {
            panic!("{error}");
        }
    }
}

#[test]
fn what_is_printed_of_an_example_means_the_same() {
    for (path, text) in examples() {
        let plan = parse(&text).unwrap();
        let printed = print(&plan);
        match parse(&printed) {
            Ok(again) => assert_eq!(plan, again, "{}:\n{printed}", path.display()),
            Err(problems) => panic!("{}: {problems:?}\n{printed}", path.display()),
        }
        assert_eq!(printed, print(&parse(&printed).unwrap()), "{}", path.display());
    }
}

#[test]
fn every_example_says_what_it_is_for() {
    for (path, text) in examples() {
        assert!(text.starts_with("# "), "{}: begins with a comment", path.display());
        assert!(!text.contains('\t') && !text.contains(" \n"), "{}: blanks", path.display());
        let long = text.lines().find(|line| line.len() > 120);
        assert_eq!(long, None, "{}", path.display());
    }
}

/// The path of each key of a text, as `relay.rule.not.host`.
fn keys_of(table: &toml::de::DeTable<'_>, path: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{path}{}", key.get_ref());
        let value = value.get_ref();
        let tables: Vec<_> = match value.as_array() {
            Some(values) => values.iter().filter_map(|value| value.get_ref().as_table()).collect(),
            None => value.as_table().into_iter().collect(),
        };
        for table in tables {
            keys_of(table, &format!("{path}."), keys);
        }
        keys.insert(path);
    }
}

#[test]
fn every_key_is_in_an_example() {
    let mut used = BTreeSet::new();
    for (_, text) in examples() {
        let table = toml::de::DeTable::parse(&text).unwrap();
        keys_of(table.get_ref(), "", &mut used);
    }
    let mut missing = Vec::new();
    for section in SECTIONS {
        for name in section.names {
            let header = section.header.trim_matches(['[', ']']);
            let is_there = match header.starts_with('{') {
                // The same in `header`, `cookie` and `query`.
                true => ["header", "cookie", "query"]
                    .iter()
                    .any(|field| used.contains(&format!("relay.rule.{field}.{name}"))),
                // Whatever can be negated is shown; not each thing negated.
                false if header == "relay.rule.not" => {
                    used.contains(&format!("relay.rule.{name}"))
                        && used.iter().any(|key| key.starts_with("relay.rule.not."))
                }
                false if header.is_empty() => used.contains(*name),
                false => used.contains(&format!("{header}.{name}")),
            };
            if !is_there {
                missing.push(format!("{header} {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "in no example: {missing:?}");
}

/// The rows of the reference, by the header of their section.
fn reference() -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            let header = title.split('`').nth(1).unwrap_or("").to_owned();
            sections.push((header, Vec::new()));
        }
        if let Some(row) = line.strip_prefix("| `") {
            let cell = row.split(" |").next().unwrap_or("");
            let keys = cell.split('`').step_by(2).filter(|key| !key.trim().is_empty());
            let keys = keys.map(str::to_owned);
            if let Some((_, rows)) = sections.last_mut() {
                rows.extend(keys);
            }
        }
    }
    sections
}

#[test]
fn every_key_is_in_the_reference_and_no_other() {
    let reference = reference();
    for section in SECTIONS {
        let mut known: Vec<_> = section.names.iter().map(|name| (*name).to_owned()).collect();
        let rows = reference.iter().filter(|(header, _)| header == section.header);
        let mut told: Vec<_> = rows.flat_map(|(_, keys)| keys.clone()).collect();
        // One sentence says that `not` has what a rule has.
        if section.header == "[relay.rule.not]" {
            continue;
        }
        known.sort();
        told.sort();
        assert_eq!(known, told, "section {:?} of docs/configuration.md", section.header);
    }
}
