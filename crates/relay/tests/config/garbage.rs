//! Texts for the reader's fuzz target that look like a configuration more often than chance would
//! have it: whatever the text, it comes to an end.

use crate::examine::text as reads;
use crate::examples::examples;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sosplice_relay::config::keys::SECTIONS;
use sosplice_relay::config::parse;
use std::sync::LazyLock;

static EXAMPLES: LazyLock<Vec<String>> =
    LazyLock::new(|| examples().into_iter().map(|(_, text)| text).collect());

/// A change of a text.
#[derive(Clone, Debug)]
enum Change {
    DeleteLine(Index),
    DoubleLine(Index),
    SwapLines(Index, Index),
    DeleteChar(Index),
    InsertChar(Index, char),
    SwapWords(Index, Index),
    PutWord(Index, String),
}

fn change() -> impl Strategy<Value = Change> {
    let words: Vec<String> = SECTIONS
        .iter()
        .flat_map(|section| section.names.iter().chain([&section.header]))
        .map(|word| (*word).to_owned())
        .chain(
            "0 -1 1 99999999999999999999 \"\" \"0s\" \"none\" \"*\" [] {} true nan 1e9 0x7f \
             \"\\u0000\" \"\\r\\n\" 1979-05-27 [[]] [{}] '''"
                .split(' ')
                .map(str::to_owned),
        )
        .collect();
    let at = any::<Index>;
    let chars =
        prop_oneof![any::<char>(), select("[]{}=\"'.,#\n\\ 0a-".chars().collect::<Vec<_>>())];
    prop_oneof![
        at().prop_map(Change::DeleteLine),
        at().prop_map(Change::DoubleLine),
        (at(), at()).prop_map(|(a, b)| Change::SwapLines(a, b)),
        at().prop_map(Change::DeleteChar),
        (at(), chars).prop_map(|(at, char)| Change::InsertChar(at, char)),
        (at(), at()).prop_map(|(a, b)| Change::SwapWords(a, b)),
        (at(), select(words)).prop_map(|(at, word)| Change::PutWord(at, word)),
    ]
}

impl Change {
    fn make(self, text: &str) -> String {
        let mut lines: Vec<&str> = text.lines().collect();
        let mut chars: Vec<char> = text.chars().collect();
        let mut words: Vec<&str> = text.split(' ').collect();
        if lines.is_empty() || chars.is_empty() {
            return text.to_owned();
        }
        let line = |at: Index| at.index(text.lines().count());
        let word = |at: Index| at.index(text.split(' ').count());
        match self {
            Self::DeleteLine(at) => drop(lines.remove(line(at))),
            Self::DoubleLine(at) => lines.insert(line(at), lines[line(at)]),
            Self::SwapLines(a, b) => lines.swap(line(a), line(b)),
            Self::DeleteChar(at) => {
                chars.remove(at.index(chars.len()));
                return chars.into_iter().collect();
            }
            Self::InsertChar(at, char) => {
                chars.insert(at.index(chars.len() + 1), char);
                return chars.into_iter().collect();
            }
            Self::SwapWords(a, b) => {
                words.swap(word(a), word(b));
                return words.join(" ");
            }
            Self::PutWord(at, ref put) => {
                words[word(at)] = put;
                return words.join(" ");
            }
        }
        lines.join("\n")
    }
}

/// Text that has the look of a configuration.
fn alike() -> impl Strategy<Value = String> {
    let tokens: Vec<String> = SECTIONS
        .iter()
        .flat_map(|section| section.names.iter().chain([&section.header]))
        .map(|word| (*word).to_owned())
        .chain(
            "= \n \n \n . [ ] { } , \" ' # 1 0 \"x\" true \"5s\" \":80\" [[ ]]"
                .split(' ')
                .map(str::to_owned),
        )
        .collect();
    vec(select(tokens), 0..60).prop_map(|tokens| tokens.join(" "))
}

/// More by PROPTEST_CASES, for whoever has the time.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn any_text_is_read_to_its_end(text in any::<String>()) {
        reads(&text);
    }

    #[test]
    fn text_that_looks_like_a_configuration_is_read_to_its_end(text in alike()) {
        reads(&text);
    }

    #[test]
    fn an_example_with_anything_changed_is_read_to_its_end(
        which in any::<Index>(),
        changes in vec(change(), 1..6),
    ) {
        let mut text = which.get(&EXAMPLES).clone();
        for change in changes {
            text = change.make(&text);
        }
        reads(&text);
    }
}

#[test]
fn depth_and_length_end_in_an_error_and_not_in_a_fault() {
    for text in [
        format!("{}=1", "a.".repeat(500_000) + "a"),
        format!("a={}", "[".repeat(1_000_000)),
        format!("a={}", "{a=".repeat(300_000)),
        "[".repeat(1_000_000),
        "a=1\n".repeat(200_000),
        "\"".repeat(1_000_000),
        "[[relay]]\n".repeat(50_000),
        format!("relay = [{}]", "1,".repeat(200_000)),
        format!("[[relay]]\nname = \"{}\"", "x".repeat(1_000_000)),
        format!("[[relay]]\nname = \"a\"\nupstream=\"u\"\nlisten = [{}]", "\":80\",".repeat(50_000)),
        format!("[[upstream]]\nname=\"u\"\nservers = [{}]", "\"a:1\",".repeat(100_000)),
        "[[relay]]\nname = \"a\"\nprotocol=\"http\"\n".to_owned() + &"[[relay.rule]]\naction=\"pass\"\n".repeat(50_000),
        (0..20_000).map(|n| format!("[[upstream]]\nname = \"up-{n}\"\nservers = \"a:1\"\n[[relay]]\nupstream = \"ip-{n}\"\n")).collect(),
    ] {
        assert!(parse(&text).is_err());
        let shown: String = text.chars().take(60).collect();
        for problem in parse(&text).unwrap_err() {
            assert!(problem.to_string().len() < 2000, "{shown}: a message as long as the file");
        }
    }
}
