//! The tokio driver on real sockets.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use sosplice::tokio::{Registered, copy_bidirectional, splice, splice_both};
use sosplice::{Cause, EngineChoice, Limits, Splicer};
use std::os::fd::OwnedFd;
use std::time::Duration;
use support::{pattern, tcp_pair};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

fn registered(socket: TcpStream) -> Registered {
    Registered::new(OwnedFd::from(socket.into_std().unwrap())).unwrap()
}

/// Both copies are given the same work; the library's must answer as tokio's does.
#[tokio::test]
async fn copy_bidirectional_answers_as_tokios_own() {
    for ours in [true, false] {
        for (up, down) in [(0, 0), (1, 0), (0, 65_537), (3_000_000, 2_000_000)] {
            let (mut client, mut a) = pair().await;
            let (mut b, mut server) = pair().await;
            let relay = tokio::spawn(async move {
                if ours {
                    copy_bidirectional(&mut a, &mut b).await
                } else {
                    tokio::io::copy_bidirectional(&mut a, &mut b).await
                }
            });
            let work = |len, socket: &mut TcpStream| {
                let bytes = pattern(len);
                let (mut read, mut write) = halves(socket);
                async move {
                    let sent = async {
                        write.write_all(&bytes).await.unwrap();
                        write.shutdown().await.unwrap();
                    };
                    let mut got = Vec::new();
                    let (_, read) = tokio::join!(sent, read.read_to_end(&mut got));
                    read.unwrap();
                    got
                }
            };
            let client_work = tokio::spawn(work(up, &mut client));
            let got_by_server = work(down, &mut server).await;
            let got_by_client = client_work.await.unwrap();
            assert!(got_by_server == pattern(up) && got_by_client == pattern(down));
            assert_eq!(relay.await.unwrap().unwrap(), (up as u64, down as u64));
        }
    }
}

/// Owned halves of a socket, by way of a duplicate.
fn halves(socket: &mut TcpStream) -> (TcpStream, TcpStream) {
    use std::os::fd::AsFd;
    let duplicate = |socket: &TcpStream| {
        let fd = socket.as_fd().try_clone_to_owned().unwrap();
        TcpStream::from_std(fd.into()).unwrap()
    };
    (duplicate(socket), duplicate(socket))
}

#[tokio::test]
async fn bulk_goes_through_the_pipe_on_every_kind_of_socket() {
    let bytes = pattern(32 << 20);
    // A TcpStream, a registered descriptor, an AsyncFd.
    for kind in 0..3 {
        let (mut client, a) = pair().await;
        let (b, mut server) = pair().await;
        let sent = bytes.clone();
        let sender = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
        });
        let relay = tokio::spawn(async move {
            let limits = Limits::default();
            match kind {
                0 => splice(&a, &b, limits).await.unwrap(),
                1 => splice(&registered(a), &registered(b), limits).await.unwrap(),
                _ => {
                    // SAFETY: a Socket owns its descriptor and keeps it until it is dropped.
                    let register = |socket: TcpStream| unsafe {
                        AsyncFd::register(socket2::Socket::from(socket.into_std().unwrap()))
                            .unwrap()
                    };
                    let (a, b) = (register(a), register(b));
                    splice(&a, &b, limits).await.unwrap()
                }
            }
        });
        let mut got = vec![0; bytes.len()];
        server.read_exact(&mut got).await.unwrap();
        assert!(got == bytes);
        sender.await.unwrap();
        let end = relay.await.unwrap();
        assert_eq!((end.cause, end.bytes), (Cause::Eof, bytes.len() as u64));
        assert!(end.carried.pipe * 100 >= end.bytes * 99, "kind {kind}: {:?}", end.carried);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pairs_on_many_threads() {
    let pairs: Vec<_> = (0..64)
        .map(|number: usize| {
            tokio::spawn(async move {
                let (mut client, a) = pair().await;
                let (b, server) = pair().await;
                let relay =
                    tokio::spawn(
                        async move { splice_both(&a, &b, Limits::default()).await.unwrap() },
                    );
                let echo = tokio::spawn(async move {
                    let (mut read, mut write) = server.into_split();
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                });
                let bytes = pattern(1000 * number * number);
                let (mut read, mut write) = client.split();
                let mut got = Vec::new();
                let (sent, read) = tokio::join!(
                    async {
                        write.write_all(&bytes).await?;
                        write.shutdown().await
                    },
                    read.read_to_end(&mut got)
                );
                sent.unwrap();
                read.unwrap();
                assert!(got == bytes);
                echo.await.unwrap();
                assert_eq!(relay.await.unwrap().cause(), Cause::Eof);
            })
        })
        .collect();
    for pair in pairs {
        pair.await.unwrap();
    }
}

#[tokio::test]
async fn a_dialogue_after_bulk_is_copied_again() {
    let (mut client, a) = pair().await;
    let (b, mut server) = pair().await;
    let relay = tokio::spawn(async move { splice_both(&a, &b, Limits::default()).await.unwrap() });
    let bytes = pattern(16 << 20);
    let mut got = vec![0; bytes.len()];
    let (sent, read) = tokio::join!(client.write_all(&bytes), server.read_exact(&mut got));
    sent.unwrap();
    read.unwrap();
    assert!(got == bytes);
    let mut byte = [0];
    for round in 0..1000u32 {
        client.write_all(&[round as u8]).await.unwrap();
        server.read_exact(&mut byte).await.unwrap();
        server.write_all(&byte).await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, [round as u8]);
    }
    drop((client, server));
    let ends = relay.await.unwrap();
    assert_eq!(ends.b_to_a.carried.pipe, 0);
    // A few of the thousand went through the pipe before the flow came back to copy.
    assert!(ends.a_to_b.carried.copy >= 990, "{:?}", ends.a_to_b.carried);
}

#[tokio::test]
async fn unix_sockets_and_mixed_pairs() {
    let (mut client, a) = UnixStream::pair().unwrap();
    let (b, mut server) = pair().await;
    let relay = tokio::spawn(async move { splice_both(&a, &b, Limits::default()).await.unwrap() });
    let bytes = pattern(4 << 20);
    let mut got = vec![0; bytes.len()];
    let (sent, read) = tokio::join!(client.write_all(&bytes), server.read_exact(&mut got));
    sent.unwrap();
    read.unwrap();
    assert!(got == bytes);
    drop((client, server));
    assert!(relay.await.unwrap().a_to_b.carried.pipe > 0);
}

#[tokio::test]
async fn an_urgent_mark_hangs_no_flow() {
    for register in [true, false] {
        for engine in [EngineChoice::Auto, EngineChoice::Pipe] {
            let limits = Limits { engine, ..Limits::default() };
            let (mut client, a) = pair().await;
            let (b, mut server) = pair().await;
            let relay = tokio::spawn(async move {
                if register {
                    splice(&registered(a), &registered(b), limits).await.unwrap()
                } else {
                    splice(&a, &b, limits).await.unwrap()
                }
            });
            for _ in 0..50 {
                client.write_all(b"before").await.unwrap();
                socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
                client.write_all(b"behind").await.unwrap();
                let mut got = [0; 12];
                server.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, b"beforebehind");
            }
            drop(client);
            assert_eq!(relay.await.unwrap().cause, Cause::Eof);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn idle_follows_the_runtimes_clock() {
    let (_client, a) = pair().await;
    let (b, _server) = pair().await;
    let hour = Limits { idle: Some(Duration::from_secs(3600)), ..Limits::default() };
    let began = tokio::time::Instant::now();
    let ends = splice_both(&a, &b, hour).await.unwrap();
    assert_eq!((ends.a_to_b.cause, ends.b_to_a.cause), (Cause::Idle, Cause::Idle));
    assert!(began.elapsed() >= Duration::from_secs(3600));
    assert_eq!(splice(&a, &b, hour).await.unwrap().cause, Cause::Idle);
}

#[tokio::test]
async fn a_reset_is_an_error_as_in_tokios_own() {
    let (client, mut a) = pair().await;
    let (mut b, _server) = pair().await;
    support::reset(client.into_std().unwrap());
    let error = copy_bidirectional(&mut a, &mut b).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_datagram_and_a_stream_socket_are_refused() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (a, _b) = pair().await;
    let udp = Registered::new(socket.into()).unwrap();
    let error = splice(&udp, &a, Limits::default()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("datagram"), "{error}");
}

#[tokio::test]
async fn a_handle_of_the_threads_is_a_future() {
    let (peer, source) = tcp_pair();
    let (drain, _far) = tcp_pair();
    let splicer = Splicer::with_workers(1).unwrap();
    let splice = splicer.splice(&source, &drain, Limits::default()).unwrap();
    drop(peer);
    assert_eq!(splice.await.cause, Cause::Eof);
}
