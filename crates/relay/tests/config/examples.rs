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

/// The rows of the reference: the header of their section, the key, and the default.
fn reference() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut header = String::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            header = title.split('`').nth(1).unwrap_or("").to_owned();
        }
        if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let key = cells[0].trim_end_matches('`').to_owned();
            rows.push((header.clone(), key, cells[2].to_owned()));
        }
    }
    rows
}

#[test]
fn every_key_is_in_the_reference_and_no_other() {
    let reference = reference();
    for section in SECTIONS {
        // A sentence says that it has what a rule has.
        if section.header == "[relay.rule.not]" {
            continue;
        }
        let rows = reference.iter().filter(|(header, ..)| header == section.header);
        let told: Vec<_> = rows.map(|(_, key, _)| key.as_str()).collect();
        assert_eq!(told, section.names, "section {:?} of docs/configuration.md", section.header);
    }
}

/// Whoever writes out what the reference calls the default changes nothing.
#[test]
fn the_defaults_of_the_reference_are_those_of_the_reader() {
    let service = |said: &dyn Fn(&str) -> String| {
        let (file, log, relay) = (said(""), said("[log]"), said("[[relay]]"));
        let (timeout, http) = (said("[relay.timeout]"), said("[relay.http]"));
        let (upstream, server) = (said("[[upstream]]"), said("[[upstream.server]]"));
        let check = said("[upstream.check]");
        format!(
            "{file}\n[log]\n{log}\n[[relay]]\nname = \"a\"\nprotocol = \"http\"\n\
             listen = \"127.0.0.1:80\"\nupstream = \"u\"\n{relay}\n[relay.timeout]\n{timeout}\n\
             [relay.http]\n{http}\n[[upstream]]\nname = \"u\"\n{upstream}\n[[upstream.server]]\n\
             address = \"10.0.0.5:80\"\n{server}\n[upstream.check]\nkind = \"http\"\n{check}\n"
        )
    };
    let reference = reference();
    let mut written = 0;
    let mut lines = std::collections::HashMap::<&str, String>::new();
    for (header, key, default) in &reference {
        let quoted = default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        let literal = quoted.or_else(|| default.parse::<u64>().ok().map(|_| default.as_str()));
        let of_another_kind = ["protocol", "kind"].contains(&key.as_str());
        let Some(literal) = literal.filter(|_| !of_another_kind && header != "[[relay.rule]]")
        else {
            continue;
        };
        *lines.entry(header).or_default() += &format!("{key} = {literal}\n");
        written += 1;
    }
    assert!(written > 20, "{written} defaults found");
    let plain = parse(&service(&|_| String::new())).unwrap();
    let text = service(&|header| lines.get(header).cloned().unwrap_or_default());
    assert_eq!(parse(&text).as_ref(), Ok(&plain), "of\n{text}");
}
