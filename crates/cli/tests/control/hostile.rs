//! Control clients that misbehave: nobody else notices. What each of them gets is shown beside
//! the server (`relay/src/control/serve/tests.rs`).

use super::service::Service;
use crate::support::WATCHDOG;
use crate::support::peers::{join_known, listener};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

fn connect(service: &Service) -> UnixStream {
    let stream = UnixStream::connect(service.dir.socket()).unwrap();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    stream
}

#[test]
fn garbage_is_refused_in_a_line_and_closed() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\n", b"{}\n", b"[[[[[[\n"] {
        let mut stream = connect(&service);
        stream.write_all(garbage).unwrap();
        let mut told = String::new();
        // What it had not read when it closed makes a reset behind the answer.
        match stream.read_to_string(&mut told) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert!(told.is_empty() || told.contains("refused"), "{told}");
        service.done(&["stats"]);
    }
    join_known(&service.relay, &upstream);
}

#[test]
fn one_client_too_many_is_told_so_and_there_is_room_when_one_has_left() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let mut held: Vec<_> = (0..16).map(|_| connect(&service)).collect();
    for stream in &mut held {
        // Answered: so it is one of those who are served.
        stream.write_all(b"{\"version\":1,\"request\":\"upstreams\"}\n").unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
    }
    let told = service.refused(&["stats"]);
    assert!(told.contains("16 clients are being served already"), "{told}");
    join_known(&service.relay, &upstream);
    drop(held.pop());
    crate::support::wait_until("there is room", || service.ctl(&["stats"]).status.success());
}

#[test]
fn who_asks_and_does_not_read_stops_nobody() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let mut stream = connect(&service);
    stream.set_nonblocking(true).unwrap();
    // Until the answers fill their way, and then the requests theirs.
    let request = b"{\"version\":1,\"request\":\"stats\"}\n";
    let asked = (0..1_000_000).map(|_| stream.write(request)).find(|wrote| wrote.is_err());
    assert_eq!(asked.unwrap().unwrap_err().kind(), ErrorKind::WouldBlock);
    service.done(&["stats"]);
    join_known(&service.relay, &upstream);
}

/// It asks for a change and is gone before the answer: the change is made once, or not at all.
#[test]
fn who_leaves_before_the_answer_harms_nobody() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    for _ in 0..50 {
        let mut stream = connect(&service);
        stream.write_all(b"{\"version\":1,\"request\":\"reload\"}\n").unwrap();
    }
    crate::support::wait_until("it answers", || service.ctl(&["stats"]).status.success());
    join_known(&service.relay, &upstream);
}
