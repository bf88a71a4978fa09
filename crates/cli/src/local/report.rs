//! A broker's status for people.

use crate::table::table;
use bytesize::ByteSize;
use sosplice_local::broker::policy::Policy;
use sosplice_local::broker::status::{EndStatus, PairStatus, Route, Status};
use sosplice_relay::counted;
use std::fmt::Write;

/// The whole text: lines about the broker, the pairs, and what stayed on TCP.
pub fn text(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = head(status, &mut text);
    if !status.pairs.is_empty() {
        text.push('\n');
        table(&pairs(status), &mut text);
    }
    if !status.on_tcp.is_empty() {
        text.push_str("\nstayed on TCP (ends of connections)\n");
        let mut reasons: Vec<_> = status.on_tcp.iter().collect();
        reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), *reason));
        for (reason, count) in reasons {
            let _ = writeln!(text, "{count:>8}  {reason}");
        }
    }
    if !status.members.is_empty() {
        text.push('\n');
        table(&members(status), &mut text);
    }
    text
}

fn head(status: &Status, text: &mut String) -> std::fmt::Result {
    let reach = if status.one_network { "one network" } else { "each network namespace by itself" };
    writeln!(text, "broker   pid {}, {}, {reach}", status.pid, status.rendezvous.display())?;
    let set = if status.policy_was_set { "" } else { " (default)" };
    writeln!(text, "policy   {}{set}", policy(&status.policy))?;
    let memory = ByteSize(status.memory_bytes);
    writeln!(text, "pairs    {} running, with {memory} of memory at most", status.pairs.len())?;
    let ended = &status.ended;
    writeln!(
        text,
        "ended    {}: {} in {}, {} over TCP; {}, {}, {}",
        counted(ended.pairs, "pair"),
        ByteSize(ended.bytes),
        counted(ended.messages, "message"),
        ByteSize(ended.tcp_bytes),
        counted(ended.doorbells, "doorbell"),
        counted(ended.overflows, "overflow"),
        counted(ended.spins, "spin"),
    )
}

fn policy(policy: &Policy) -> String {
    if !policy.enabled {
        return "disabled: no new pairs".to_owned();
    }
    let mut said = vec!["enabled".to_owned()];
    if !policy.cgroups.is_empty() {
        said.push(format!("cgroups {}", policy.cgroups.join(", ")));
    }
    if !policy.ports.is_empty() {
        let ports: Vec<String> = policy.ports.iter().map(u16::to_string).collect();
        said.push(format!("ports {}", ports.join(", ")));
    }
    if policy.loopback_only {
        said.push("loopback only".to_owned());
    }
    said.join("; ")
}

/// A line for each direction: the sender is on the left.
fn pairs(status: &Status) -> Vec<Vec<String>> {
    let columns = [
        "FROM",
        "TO",
        "NOW BY",
        "BYTES",
        "MESSAGES",
        "DOORBELLS",
        "OVERFLOWS",
        "SPINS",
        "OVER TCP",
    ];
    let mut rows = vec![columns.map(str::to_owned).to_vec()];
    for pair in &status.pairs {
        rows.extend([direction(pair, 0), direction(pair, 1)]);
    }
    rows
}

fn direction(pair: &PairStatus, from: usize) -> Vec<String> {
    let traffic = &pair.directions[from];
    let route = match traffic.route {
        Route::Tcp => "TCP",
        Route::Ring => "ring",
        Route::Pinned => "TCP, for good",
    };
    vec![
        end(&pair.ends[from]),
        end(&pair.ends[1 - from]),
        route.to_owned(),
        ByteSize(traffic.bytes).to_string(),
        traffic.messages.to_string(),
        traffic.doorbells.to_string(),
        traffic.overflows.to_string(),
        traffic.spins.to_string(),
        ByteSize(traffic.tcp_bytes).to_string(),
    ]
}

fn end(end: &EndStatus) -> String {
    format!("{}[{}] {}", end.command, end.pid, end.address)
}

fn members(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![["MEMBER", "UID", "PAIRED", "WAITING"].map(str::to_owned).to_vec()];
    rows.extend(status.members.iter().map(|member| {
        vec![
            format!("{}[{}]", member.command, member.pid),
            member.uid.map_or_else(|| "?".to_owned(), |uid| uid.to_string()),
            member.pairs.to_string(),
            member.waiting.to_string(),
        ]
    }));
    rows
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use sosplice_local::broker::status::{Ended, MemberStatus, Traffic};

    fn one_pair() -> Status {
        let end = |address: &str, pid, command: &str| EndStatus {
            address: address.parse().unwrap(),
            pid,
            command: command.to_owned(),
            uid: Some(0),
        };
        let there = Traffic {
            route: Route::Ring,
            bytes: 3 << 20,
            messages: 1000,
            doorbells: 7,
            spins: 5,
            overflows: 2,
            tcp_bytes: 41,
        };
        Status {
            rendezvous: "/run/sosplice/local".into(),
            pid: 5,
            one_network: false,
            policy: Policy { ports: vec![80, 6379], loopback_only: true, ..Policy::default() },
            policy_was_set: true,
            pairs: vec![PairStatus {
                ends: [
                    end("127.0.0.1:6379", 10, "redis-server"),
                    end("127.0.0.1:40000", 11, "cli"),
                ],
                ring_bytes: 65536,
                memory_bytes: 135_168,
                directions: [there, Traffic::default()],
            }],
            ended: Ended::default(),
            on_tcp: [("cgroup".to_owned(), 2), ("port".to_owned(), 30)].into(),
            members: vec![MemberStatus {
                pid: 10,
                command: "redis-server".to_owned(),
                uid: None,
                pairs: 1,
                waiting: 4,
            }],
            memory_bytes: 135_168,
        }
    }

    #[test]
    fn the_report_is_what_people_read() {
        let expected = "\
broker   pid 5, /run/sosplice/local, each network namespace by itself
policy   enabled; ports 80, 6379; loopback only
pairs    1 running, with 132.0 KiB of memory at most
ended    0 pairs: 0 B in 0 messages, 0 B over TCP; 0 doorbells, 0 overflows, 0 spins

FROM                             TO                               NOW BY  BYTES    MESSAGES  DOORBELLS  OVERFLOWS  SPINS  OVER TCP
redis-server[10] 127.0.0.1:6379  cli[11] 127.0.0.1:40000          ring    3.0 MiB  1000      7          2          5      41 B
cli[11] 127.0.0.1:40000          redis-server[10] 127.0.0.1:6379  TCP     0 B      0         0          0          0      0 B

stayed on TCP (ends of connections)
      30  port
       2  cgroup

MEMBER            UID  PAIRED  WAITING
redis-server[10]  ?    1       4
";
        assert_eq!(text(&one_pair()), expected);
    }

    #[test]
    fn a_broker_with_nothing_to_show_says_so_in_four_lines() {
        let mut status = one_pair();
        status.pairs.clear();
        status.on_tcp.clear();
        status.members.clear();
        status.policy.enabled = false;
        let text = text(&status);
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains("disabled"), "{text}");
    }
}
