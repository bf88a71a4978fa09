//! Every mistake, and the line that it gets. The tables are text files beside this one: lines of
//! a configuration, then, behind `>`, what is said of them. `==` says what the lines stand in,
//! which is right without them.

use crate::problems;

const UPSTREAM: &str = "[[upstream]]\nname = \"u\"\nservers = \"10.0.0.5:80\"\n";

fn relay(protocol: &str, lines: &str) -> String {
    let listen = "listen = \"127.0.0.1:80\"\nupstream = \"u\"\n";
    format!("[[relay]]\nname = \"a\"\n{protocol}{listen}{lines}{UPSTREAM}")
}

/// The lines in what is otherwise right.
fn within(around: &str, lines: &str) -> String {
    let upstream = "[[upstream]]\nname = \"u\"\n";
    let server = "servers = \"10.0.0.5:80\"\n";
    match around {
        "alone" => lines.to_owned(),
        "before a relay" => format!("{lines}{}", relay("", "")),
        "in a tcp relay" => relay("", lines),
        "in a udp relay" => relay("protocol = \"udp\"\n", lines),
        "in an http relay" => relay("protocol = \"http\"\n", lines),
        "in a rule" => relay("protocol = \"http\"\n", &format!("[[relay.rule]]\n{lines}")),
        "in an upstream" => relay("", "").replace(UPSTREAM, &format!("{upstream}{lines}")),
        "in a check" => {
            let check = format!("{upstream}{server}[upstream.check]\n{lines}");
            relay("", "").replace(UPSTREAM, &check)
        }
        other => panic!("{other}?"),
    }
}

/// Each case of a table earns its lines, and no others.
#[track_caller]
fn refused(table: &str) {
    let mut around = "";
    let (mut lines, mut expected) = (String::new(), Vec::new());
    let mut cases = 0;
    for line in table.lines().chain([""]) {
        if let Some(name) = line.strip_prefix("== ") {
            around = name;
            if !matches!(name, "alone" | "in an upstream") {
                assert_eq!(problems(&within(name, "")), [""; 0], "{name}");
            }
        } else if let Some(problem) = line.strip_prefix("> ") {
            expected.push(problem);
        } else if !line.is_empty() || (!lines.is_empty() && expected.is_empty()) {
            lines.push_str(line);
            lines.push('\n');
        } else if !expected.is_empty() {
            let text = within(around, &lines);
            assert_eq!(problems(&text), expected, "of\n{text}");
            (lines, expected) = Default::default();
            cases += 1;
        }
        if line.starts_with("# ") {
            lines.clear();
        }
    }
    assert!(lines.is_empty() && cases > 50, "{cases} cases, and {lines:?} that says nothing");
}

#[test]
fn what_a_service_or_a_relay_cannot_be() {
    refused(include_str!("errors/relays.txt"));
}

#[test]
fn what_a_rule_cannot_ask_or_do() {
    refused(include_str!("errors/rules.txt"));
}

#[test]
fn what_an_upstream_or_a_check_cannot_be() {
    refused(include_str!("errors/upstreams.txt"));
}

#[test]
fn what_is_missing_at_the_end_is_missing_on_the_last_line_that_is_there() {
    for end in ["", "\n", "\r\n\r\n", "\n  \n\n"] {
        let text = format!("# é\n[log]\na = [{end}");
        assert_eq!(problems(&text), ["3:6: not TOML: unclosed array, expected `]`"], "{text:?}");
    }
}

#[test]
fn a_control_path_is_as_long_as_the_kernel_takes_it() {
    let control = |length: usize| format!("control = \"/{}\"\n", "x".repeat(length - 1));
    assert_eq!(problems(&within("before a relay", &control(107))), [""; 0]);
    let what = "1:11: control: 108 bytes long: the path of a unix socket has 107 at most";
    assert_eq!(problems(&within("before a relay", &control(108))), [what]);
}
