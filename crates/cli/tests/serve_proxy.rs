//! The PROXY protocol both ways: with HAProxy in front and behind, and with clients that send
//! something else.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use support::pattern::{Ending, Pattern};
use support::peers::{accept, addr, connect, finish, listener};
use support::serve::{
    Dir, Named, Program, Serve, connect_from, echo, free_address, hello, upstream,
};
use support::skip;

/// A relay that believes some networks.
fn believing(networks: &str, more: &str, servers: &[SocketAddr]) -> String {
    format!(
        "[[relay]]\nname = \"front\"\nupstream = \"servers\"\n{more}\n\
         listener = [{{ address = \"127.0.0.1:0\", accept-proxy-from = [{networks}] }}]\n{}",
        upstream("servers", servers, "")
    )
}

/// Loopback, all of it.
const ALL: &str = "\"127.0.0.0/8\"";

/// HAProxy with one section that listens on `at`.
fn haproxy(dir: &Dir, at: SocketAddr, bind: &str, rest: &str) -> Option<Program> {
    let text = format!(
        "global\n  maxconn 100\ndefaults\n  timeout connect 9s\n  timeout client 30s\n  timeout server 30s\n\
         listen one\n  bind {at} {bind}\n{rest}\n"
    );
    let file = dir.write(&format!("haproxy-{}.cfg", at.port()), &text);
    Program::start(Command::new("haproxy").arg("-db").arg("-f").arg(file), at)
}

/// A server that answers with the addresses that a PROXY header has told it of.
const TELLS: &str = "  mode http\n  http-request return status 200 content-type text/plain \
                     lf-string \"%[src]:%[src_port] %[dst]:%[dst_port]\"";

/// What such a server answers.
fn told(client: &TcpStream) -> String {
    let mut client = client;
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

#[test]
fn haproxy_behind_sees_the_clients_own_address() {
    let (dir, at) = (Dir::new(), free_address());
    let Some(_haproxy) = haproxy(&dir, at, "accept-proxy", TELLS) else {
        return skip("no haproxy");
    };
    for version in ["v1", "v2"] {
        let serve = Serve::start(
            &(support::serve::tcp("front", "servers", &format!("send-proxy = \"{version}\""))
                + &upstream("servers", &[at], "")),
        );
        let client = connect_from("127.0.0.77".parse().unwrap(), serve.at("front"));
        let expected = format!("{} {}", client.local_addr().unwrap(), serve.at("front"));
        assert_eq!(told(&client), expected, "{version}");
    }
}

#[test]
fn haproxy_in_front_tells_who_the_client_is() {
    let (dir, behind) = (Dir::new(), free_address());
    let Some(_behind) = haproxy(&dir, behind, "accept-proxy", TELLS) else {
        return skip("no haproxy");
    };
    for send in ["send-proxy", "send-proxy-v2"] {
        // The header is passed on, so that who is told is told by both.
        let serve = Serve::start(&believing(ALL, "send-proxy = \"v2\"", &[behind]));
        let at = free_address();
        let server = format!("  mode tcp\n  server relay {} {send}", serve.at("front"));
        let _front = haproxy(&dir, at, "", &server).unwrap();
        let client = connect_from("127.0.0.78".parse().unwrap(), at);
        let name = client.local_addr().unwrap();
        assert_eq!(told(&client), format!("{name} {at}"), "{send}");
        finish(&client);
        let line = loop {
            // The look whether it listens was a connection as well.
            let line = serve.next("connection closed");
            if line["client"] == name.to_string() {
                break line;
            }
        };
        assert_eq!(line["upstream"], behind.to_string());
    }
}

/// A client that begins with a header of version 1 for this address.
fn header(client: &str) -> String {
    format!("PROXY TCP4 {client} 198.51.100.1 4711 80\r\n")
}

fn expect_reset(client: &TcpStream) {
    let ending = Pattern::new(1).expect_to_end(client);
    assert_eq!(ending, Ending::Failed(ErrorKind::ConnectionReset));
}

#[test]
fn only_listed_networks_are_believed() {
    let upstream = listener();
    let serve = Serve::start(&believing("\"127.0.0.2\", \"10.0.0.0/8\"", "", &[addr(&upstream)]));
    // For others what looks like one is data.
    let mut client = connect(serve.at("front"));
    client.write_all(header("192.0.2.1").as_bytes()).unwrap();
    finish(&client);
    let mut seen = String::new();
    let mut server = accept(&upstream);
    server.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, header("192.0.2.1"));
    drop(server);
    assert_eq!(serve.next_closed().client, client.local_addr().unwrap().to_string());
    // And who is listed must send one.
    let listed: IpAddr = "127.0.0.2".parse().unwrap();
    let mut client = connect_from(listed, serve.at("front"));
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    expect_reset(&client);
    let line = serve.next("connection refused");
    assert_eq!(line["client"], client.local_addr().unwrap().to_string());
    assert!(line["cause"].as_str().unwrap().starts_with("proxy-header:"), "{line}");
    let mut client = connect_from(listed, serve.at("front"));
    client.write_all((header("192.0.2.1") + "data").as_bytes()).unwrap();
    finish(&client);
    let mut server = accept(&upstream);
    let mut seen = String::new();
    server.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "data");
    drop(server);
    assert_eq!(serve.next_closed().client, "192.0.2.1:4711");
}

/// A header of version 2 with a TLV in it.
fn header_v2(client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend(17u16.to_be_bytes());
    header.extend(client);
    header.extend([198, 51, 100, 1]);
    header.extend(4711u16.to_be_bytes());
    header.extend(80u16.to_be_bytes());
    // NOOP, two bytes.
    header.extend([4, 0, 2, 9, 9]);
    header
}

#[test]
fn a_header_in_single_bytes_is_taken_to_the_byte() {
    let upstream = listener();
    let serve = Serve::start(&believing(ALL, "", &[addr(&upstream)]));
    for header in [header("192.0.2.1").into_bytes(), header_v2([192, 0, 2, 1])] {
        let mut client = connect(serve.at("front"));
        for byte in header {
            client.write_all(&[byte]).unwrap();
        }
        Pattern::new(3).write(&client, 300_000).unwrap();
        finish(&client);
        let server = accept(&upstream);
        Pattern::new(3).expect_whole(&server, 300_000);
        drop(server);
        let closed = serve.next_closed();
        assert_eq!((closed.client.as_str(), closed.up), ("192.0.2.1:4711", 300_000));
    }
}

#[test]
fn bytes_directly_behind_the_header_arrive() {
    let upstream = listener();
    let serve = Serve::start(&believing(ALL, "", &[addr(&upstream)]));
    for header in [header("192.0.2.1").into_bytes(), header_v2([192, 0, 2, 1])] {
        for len in [0, 1, 100, 5_000, 70_000] {
            let mut client = connect(serve.at("front"));
            let mut whole = header.clone();
            whole.extend((0..len).map(|n: u32| (n % 251) as u8));
            client.write_all(&whole).unwrap();
            finish(&client);
            let mut seen = Vec::new();
            let mut server = accept(&upstream);
            server.read_to_end(&mut seen).unwrap();
            assert_eq!(seen, whole[header.len()..]);
        }
    }
}

/// Each is one line and a reset, and the sessions beside it do not notice.
#[test]
fn garbage_and_half_headers_are_reset_in_time() {
    const HEAD: &str = "timeout.head = \"200ms\"";
    let a = Named::start('a');
    let mut serve = Serve::start(&believing(ALL, HEAD, &[a.addr]));
    let mut held = connect(serve.at("front"));
    held.write_all(header("192.0.2.9").as_bytes()).unwrap();
    assert_eq!(hello(&held), 'a');
    let v2 = header_v2([192, 0, 2, 1]);
    let long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 5000]].concat();
    let (no_newline, random) = (vec![b'P'; 300], vec![0xA5; 100_000]);
    let cases: [(&str, &[u8]); 9] = [
        ("a request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("half a line", b"PROXY TCP4 192.0.2.1 198."),
        ("nothing", b""),
        ("half of version 2", &v2[..20]),
        ("its signature", &v2[..12]),
        ("no end of line", &no_newline),
        ("longer than any", &long),
        ("bytes", &random),
        ("a wrong port", b"PROXY TCP4 192.0.2.1 198.51.100.1 70000 1\r\n"),
    ];
    for (what, sent) in cases {
        let mut client = connect(serve.at("front"));
        // The reset may come first.
        let _ = client.write_all(sent);
        expect_failed(&client);
        let line = serve.next("connection refused");
        assert!(line["cause"].as_str().unwrap().starts_with("proxy-header:"), "{what}: {line}");
        assert_eq!(line["client"], client.local_addr().unwrap().to_string(), "{what}");
        assert_eq!(serve.lines("connection refused"), 0, "{what}: one line");
        echo(&held, b"still here").unwrap();
    }
    // One that comes byte by byte without end has no more time than another.
    let client = connect(serve.at("front"));
    let mut sent = 0;
    while { &client }.write_all(&header("192.0.2.1").as_bytes()[sent % 20..=sent % 20]).is_ok() {
        sent += 1;
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(sent < 1_000, "never reset");
    }
    serve.next("connection refused");
    assert_eq!(a.served(), 1, "no server heard of any of them");
    echo(&held, b"still here").unwrap();
    serve.assert_running();
}

/// A socket tells of its reset once, and a write may have been the first to ask.
fn expect_failed(client: &TcpStream) {
    let mut client = client;
    let read = client.read(&mut [0]);
    assert!(matches!(&read, Ok(0)) || read.is_err(), "{read:?}");
    if let Err(error) = read {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

/// Not before the time, where nothing is wrong yet.
#[test]
fn a_slow_header_has_the_time_that_it_may_take() {
    let a = Named::start('a');
    let serve = Serve::start(&believing(ALL, "timeout.head = \"1h\"", &[a.addr]));
    let mut client = connect(serve.at("front"));
    let header = header("192.0.2.1");
    client.write_all(&header.as_bytes()[..10]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    client.write_all(&header.as_bytes()[10..]).unwrap();
    assert_eq!(hello(&client), 'a');
}

/// A header can be forged by whoever is believed: the limit on a client's connections goes by it.
#[test]
fn the_limit_of_a_client_goes_by_who_it_says_it_is() {
    let a = Named::start('a');
    let more = "max-connections-per-client = 1";
    let serve = Serve::start(&believing(ALL, more, &[a.addr]));
    let come = |client: &str| {
        let mut stream = connect(serve.at("front"));
        stream.write_all(header(client).as_bytes()).unwrap();
        stream
    };
    let first = come("192.0.2.1");
    assert_eq!(hello(&first), 'a');
    expect_reset(&come("192.0.2.1"));
    let line = serve.next("connection refused");
    assert_eq!(
        (&line["cause"], &line["client"]),
        (&"too-many-of-client".into(), &"192.0.2.1:4711".into())
    );
    assert_eq!(hello(&come("192.0.2.2")), 'a');
}
