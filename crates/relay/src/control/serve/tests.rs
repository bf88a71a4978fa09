//! Clients that misbehave, over a pipe in memory and a clock that stands still unless nobody has
//! anything to do: times are seen by what happens, not measured.

use super::*;
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;

/// A client's end, and the server's task.
fn start(room: usize) -> (DuplexStream, JoinHandle<io::Result<()>>) {
    let (ours, theirs) = duplex(room);
    let task = tokio::spawn(serve_client(theirs, |request| async move {
        match request {
            Request::Kill { ids } => Reply::One(Answer::Killed { killed: ids, unknown: vec![] }),
            Request::Sessions => Reply::Sessions(Sessions::default()),
            other => Reply::One(Answer::Refused(format!("{other:?}"))),
        }
    }));
    (ours, task)
}

fn asked(request: Request) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Ask { version: VERSION, request }).expect("JSON");
    line.push(b'\n');
    line
}

/// Everything up to the end, by lines.
async fn rest(client: &mut DuplexStream) -> Vec<Told> {
    let mut text = String::new();
    client.read_to_string(&mut text).await.expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn refusal(told: &Told) -> &str {
    match &told.answer {
        Answer::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

/// Sends it all and closes that side: what comes back.
async fn said(bytes: &[u8]) -> Vec<Told> {
    let (mut client, task) = start(1 << 20);
    client.write_all(bytes).await.expect("room");
    client.shutdown().await.expect("open");
    let told = rest(&mut client).await;
    task.await.expect("no panic").expect("no error");
    told
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_in_their_order() {
    let both = [asked(Request::Kill { ids: vec![1] }), asked(Request::Sessions)].concat();
    let told = said(&both).await;
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].answer, Answer::Killed { killed: vec![1], unknown: vec![] });
    assert_eq!(told[1], Told::last(Answer::Sessions(vec![])), "no session is an answer too");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_refused_and_ends_the_connection() {
    for (bytes, why) in [
        (&b"hello\n"[..], "not a request"),
        (b"\n", "not a request"),
        (b"\xff\xfe\n", "not a request"),
        (b"{\"version\":1,\"request\":\"explode\"}\n", "unknown variant"),
        (b"{\"version\":1,\"request\":\"stats\",\"more\":1}\n", "unknown field"),
        (b"{\"version\":2,\"request\":\"explode\"}\n", "version 2 is not spoken here, but 1"),
        (b"{\"version\":1,\"request\":\"stats\"}", "ends with a line's end"),
    ] {
        let behind = [bytes, &asked(Request::Sessions)].concat();
        let bytes = if bytes.ends_with(b"\n") { &*behind } else { bytes };
        let told = said(bytes).await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(refusal(&told[0]).contains(why), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn deeply_nested_json_is_refused_without_a_deep_stack() {
    let mut bytes = vec![b'['; REQUEST_LEN_MAX - 1];
    bytes.push(b'\n');
    assert!(refusal(&said(&bytes).await[0]).contains("not a request"));
}

#[tokio::test(start_paused = true)]
async fn a_line_without_end_is_refused_when_it_is_too_long() {
    let (mut client, task) = start(4096);
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let endless = async {
        // Fails when the server has closed: it must, or this never ends.
        while writer.write_all(&[b'x'; 1000]).await.is_ok() {}
    };
    let mut text = String::new();
    let (_, read) = tokio::join!(endless, reader.read_to_string(&mut text));
    read.expect("text");
    assert!(text.contains("at most 65536 bytes"), "{text}");
    task.await.expect("no panic").expect("no error");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_left_and_who_says_half_is_told() {
    let (mut client, task) = start(4096);
    assert_eq!(rest(&mut client).await, []);
    task.await.expect("no panic").expect("no error");

    let (mut client, task) = start(4096);
    client.write_all(b"{\"version\"").await.expect("room");
    let told = rest(&mut client).await;
    assert!(refusal(&told[0]).contains("no whole request within 10s"), "{told:?}");
    task.await.expect("no panic").expect("no error");
}

/// The time is for the whole line: a byte now and then does not prolong it.
#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_is_no_request() {
    let (mut client, task) = start(4096);
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let drops = async {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let mut text = String::new();
    let (_, read) = tokio::join!(drops, reader.read_to_string(&mut text));
    read.expect("text");
    assert!(text.contains("no whole request"), "{text}");
    task.await.expect("no panic").expect("no error");
}

#[tokio::test(start_paused = true)]
async fn who_stops_reading_is_left() {
    let (mut client, task) = start(16);
    let mut request = asked(Request::Kill { ids: (0..1000).collect() });
    // It reads while it takes the request; then its answer has room for 16 bytes.
    client.write_all(&request).await.expect("taken");
    request.clear();
    let error = task.await.expect("no panic").expect_err("left");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(client);
}
