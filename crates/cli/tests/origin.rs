//! The built-in origin behind the relay, as the README's command uses it.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use support::Relay;
use support::peers::connect;

struct Answer {
    status: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        &found.unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).1
    }
}

/// One request on a connection that stays open.
fn get(stream: &mut BufReader<TcpStream>, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: relay.test\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the connection ended in a head");
        if line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let status = head.remove(0);
    let headers = head
        .iter()
        .map(|line| line.split_once(": ").map(|(k, v)| (k.to_owned(), v.to_owned())).unwrap())
        .collect();
    let mut answer = Answer { status, headers, body: Vec::new() };
    let len: usize = answer.header("content-length").parse().unwrap();
    answer.body.resize(len, 0);
    stream.read_exact(&mut answer.body).unwrap();
    answer
}

#[test]
fn bytes_check_out_against_their_checksum() {
    for engine in ["auto", "pipe", "copy"] {
        let relay = Relay::start(&["127.0.0.1:0", "--engine", engine]);
        let mut stream = BufReader::new(connect(relay.addr()));
        for len in [0, 1, 65_521, 65_536, 5_000_003] {
            let answer = get(&mut stream, &format!("/bytes/{len}"));
            assert!(answer.status.contains("200"), "{}", answer.status);
            assert_eq!(answer.body.len(), len);
            let sum = format!("{:08x}", crc32fast::hash(&answer.body));
            assert_eq!(answer.header("sosplice-crc32"), sum, "{len} bytes by {engine}");
        }
    }
}

/// Bytes by copy and by pipe in the row of the page that begins so.
fn counts(page: &str, row: &str) -> (u64, u64) {
    let line = page.lines().map(str::trim).find(|line| line.starts_with(row));
    let line = line.unwrap_or_else(|| panic!("no {row:?} in\n{page}"));
    let mut numbers = line[row.len()..].split_whitespace();
    let mut next = || numbers.next().unwrap().replace(',', "").parse().unwrap();
    (next(), next())
}

#[test]
fn the_page_tells_what_carried_the_bytes() {
    const LEN: u64 = 64 << 20;
    let relay = Relay::start(&["127.0.0.1:0"]);
    let mut stream = BufReader::new(connect(relay.addr()));
    let page = String::from_utf8(get(&mut stream, "/").body).unwrap();
    let client = stream.get_ref().local_addr().unwrap().to_string();
    assert!(page.contains(&client), "{client} is not in\n{page}");
    assert_eq!(counts(&page, "origin to you").1, 0, "nothing was spliced yet\n{page}");

    get(&mut stream, &format!("/bytes/{LEN}"));
    let page = String::from_utf8(get(&mut stream, "/").body).unwrap();
    let (copied, spliced) = counts(&page, "origin to you");
    assert!(spliced >= LEN / 100 * 99, "{spliced} of {LEN} bytes were spliced\n{page}");
    assert!(copied + spliced >= LEN, "{page}");
    assert_eq!(counts(&page, "you to origin").1, 0, "{page}");

    // And the log agrees with the page.
    drop(stream);
    let closed = relay.next_closed();
    assert!(closed.down_pipe >= spliced && closed.down_copy >= copied);
    assert!(closed.down > copied + spliced, "the second page itself came after its counts");
}

/// Every worker has an origin of its own, and the page knows the connection on each.
#[test]
fn the_page_knows_the_connection_whatever_its_worker() {
    let relay = Relay::start(&["127.0.0.1:0", "--workers", "4"]);
    for _ in 0..32 {
        let mut stream = BufReader::new(connect(relay.addr()));
        let page = String::from_utf8(get(&mut stream, "/").body).unwrap();
        let client = stream.get_ref().local_addr().unwrap().to_string();
        assert!(page.contains(&client), "{page}");
    }
}

/// What it prints at the start is what works.
#[test]
fn the_line_to_try_names_the_port() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(support::BINARY)
        .args(["relay", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut text = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let curl = loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() == 0 {
            break None;
        }
        if line.trim_start().starts_with("curl ") {
            break Some(line);
        }
        text.push_str(&line);
    };
    let answer = curl.as_ref().map(|line| {
        let (_, rest) = line.split_once("http://").unwrap();
        let host = rest.split('/').next().unwrap();
        let mut stream = BufReader::new(connect(host.parse().unwrap()));
        get(&mut stream, "/bytes/10").body.len()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(answer, Some(10), "{curl:?} behind {text}");
}
