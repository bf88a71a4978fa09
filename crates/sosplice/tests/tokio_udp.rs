//! Datagram splices inside tokio tasks, on every kind of registered socket.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::net::{Shutdown, shutdown};
use sosplice::tokio::{Both, Registered, Socket, splice, splice_both};
use sosplice::{Cause, End, EngineChoice, Limits, OnMax};
use std::future::{Future, poll_fn};
use std::net::UdpSocket;
use std::pin::Pin;
use std::task::Poll;
use support::udp::*;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const NONE: Limits = Limits { max: None, idle: None, engine: EngineChoice::Auto, piece: None };

fn registered(socket: &UdpSocket) -> Registered {
    Registered::new(socket.try_clone().unwrap().into()).unwrap()
}

fn tokios(socket: &UdpSocket) -> tokio::net::UdpSocket {
    let socket = socket.try_clone().unwrap();
    socket.set_nonblocking(true).unwrap();
    tokio::net::UdpSocket::from_std(socket).unwrap()
}

fn async_fd(socket: &UdpSocket) -> AsyncFd<UdpSocket> {
    let socket = socket.try_clone().unwrap();
    // SAFETY: a UdpSocket owns its descriptor and keeps it until it is dropped.
    unsafe { AsyncFd::register(socket).unwrap() }
}

/// Against a hang: no test waits so long for an end.
async fn watched<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(WATCHDOG, future).await.expect("watchdog: no end")
}

/// The next datagrams, for which the splice in this thread must get its turn.
async fn arrivals(on: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let on = on.try_clone().unwrap();
    watched(tokio::task::spawn_blocking(move || {
        // O_NONBLOCK belongs to the open file, which the runtime may share.
        on.set_nonblocking(false).unwrap();
        receive_count(&on, count)
    }))
    .await
    .unwrap()
}

fn is_refusal(cause: Cause) -> bool {
    cause.os_error().is_some_and(|error| error.raw() == libc::ECONNREFUSED)
}

/// Splices a mixed burst and, when all has arrived, shuts the source.
async fn carry<S: Socket, D: Socket>(it: &Chain, source: S, drain: D, limits: Limits) -> End {
    let sent = datagrams(&[0, 1, 512, 1472, 9000, 65_507, 512, 512, 511, 0]);
    send_all(&it.sender, &sent);
    let (end, ()) = tokio::join!(watched(splice(&source, &drain, limits)), async {
        assert!(arrivals(&it.receiver, sent.len()).await == sent);
        // Again, now that the source was found empty.
        send_all(&it.sender, &sent[..4]);
        assert!(arrivals(&it.receiver, 4).await == sent[..4]);
        shutdown(&it.source, Shutdown::Read).unwrap();
    });
    let end = end.unwrap();
    assert_eq!((end.cause, end.carried.datagrams), (Cause::Eof, 14));
    assert!(end.residue.is_empty());
    end
}

#[tokio::test]
async fn boundaries_are_kept_on_every_kind_of_socket_until_the_source_is_shut() {
    for (first, second) in [(V4, V4), (V4, V6), (V6, V4)] {
        let it = chain_over(first, second);
        carry(&it, tokios(&it.source), tokios(&it.drain), NONE).await;
        let it = chain_over(first, second);
        carry(&it, registered(&it.source), registered(&it.drain), NONE).await;
        let it = chain_over(first, second);
        carry(&it, async_fd(&it.source), async_fd(&it.drain), NONE).await;
        let it = chain_over(first, second);
        let copy = Limits { engine: EngineChoice::Copy, ..NONE };
        let end = carry(&it, tokios(&it.source), tokios(&it.drain), copy).await;
        assert_eq!(end.carried.engine(), "udp-plain");
    }
}

#[tokio::test]
async fn a_max_is_exact_and_leaves_the_rest_on_the_source() {
    let it = chain();
    let sent = datagrams(&[100; 10]);
    send_all(&it.sender, &sent);
    for (max, cause, took) in [(500, Cause::Max, 5), (150, Cause::MaxInside, 6)] {
        let limits = Limits { max: Some(max), ..NONE };
        let end = watched(splice(&tokios(&it.source), &tokios(&it.drain), limits)).await.unwrap();
        assert_eq!(end.cause, cause);
        assert!(waiting(&it.source) == sent[took..]);
        send_all(&it.sender, &sent[took..]);
    }
    assert!(waiting(&it.receiver) == sent[..6]);
}

/// The cause of a splice during which `act` happens.
async fn cause_after<S: Socket, D: Socket>(source: S, drain: D, act: impl Fn()) -> Cause {
    let (end, ()) = tokio::join!(watched(splice(&source, &drain, NONE)), async {
        // The splice has begun to wait.
        tokio::task::yield_now().await;
        act();
    });
    end.unwrap().cause
}

#[tokio::test]
async fn a_refusal_ends_a_splice_whose_source_is_silent() {
    let (_sender, source) = connected(V4);
    let drain = refused();
    let poke = || assert_eq!(drain.send(b"x").unwrap(), 1);
    for cause in [
        cause_after(tokios(&source), tokios(&drain), poke).await,
        cause_after(registered(&source), registered(&drain), poke).await,
        cause_after(async_fd(&source), async_fd(&drain), poke).await,
    ] {
        assert!(matches!(cause, Cause::DrainError(_)) && is_refusal(cause), "{cause}");
    }
}

#[tokio::test]
async fn a_failed_source_is_told_as_such() {
    let source = refused();
    let (drain, _receiver) = connected(V4);
    let poke = || assert_eq!(source.send(b"x").unwrap(), 1);
    for cause in [
        cause_after(tokios(&source), tokios(&drain), poke).await,
        cause_after(registered(&source), registered(&drain), poke).await,
        cause_after(async_fd(&source), async_fd(&drain), poke).await,
    ] {
        assert!(matches!(cause, Cause::SourceError(_)) && is_refusal(cause), "{cause}");
    }
}

#[tokio::test]
async fn an_error_that_the_program_has_met_does_not_hide_the_next() {
    let (_sender, source) = connected(V4);
    let drain = refused();
    let (from, to) = (tokios(&source), tokios(&drain));
    let mut running = Box::pin(splice(&from, &to, NONE));
    for _ in 0..3 {
        assert!(is_pending(running.as_mut()).await);
        drain.send(b"x").unwrap();
        // The runtime has told of the error, and the splice finds it gone.
        watched(to.ready(Interest::ERROR)).await.unwrap();
        assert!(drain.take_error().unwrap().is_some());
    }
    assert!(is_pending(running.as_mut()).await);
    drain.send(b"x").unwrap();
    assert!(is_refusal(watched(running).await.unwrap().cause));
}

/// Polls once.
async fn is_pending<F: Future>(mut future: Pin<&mut F>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

#[tokio::test]
async fn a_refusal_ends_both_directions_of_a_pair() {
    for through in [false, true] {
        let (client, a) = connected(V4);
        let b = refused();
        let (first, second) = (tokios(&a), registered(&b));
        let (ends, ()) = tokio::join!(watched(splice_both(&first, &second, NONE)), async {
            tokio::task::yield_now().await;
            if through {
                client.send(b"x").unwrap()
            } else {
                b.send(b"x").unwrap()
            };
        });
        let ends = ends.unwrap();
        assert!(matches!(ends.a_to_b.cause, Cause::DrainError(_)), "{ends:?}");
        assert!(matches!(ends.b_to_a.cause, Cause::SourceError(_)), "{ends:?}");
    }
}

#[tokio::test]
async fn a_pair_carries_both_ways_without_a_half_close() {
    let (client, a) = connected(V4);
    let (b, server) = connected(V6);
    let (first, second) = (tokios(&a), tokios(&b));
    let (ends, ()) = tokio::join!(watched(splice_both(&first, &second, NONE)), async {
        client.send(b"question").unwrap();
        assert_eq!(arrivals(&server, 1).await, [b"question"]);
        // This direction ends; the other goes on.
        shutdown(&a, Shutdown::Read).unwrap();
        server.send(b"answer").unwrap();
        assert_eq!(arrivals(&client, 1).await, [b"answer"]);
        shutdown(&b, Shutdown::Read).unwrap();
    });
    let ends = ends.unwrap();
    assert_eq!((ends.a_to_b.cause, ends.a_to_b.bytes), (Cause::Eof, 8));
    assert_eq!((ends.b_to_a.cause, ends.b_to_a.bytes), (Cause::Eof, 6));
    // Nothing was shut for writing.
    b.send(b"open").unwrap();
    assert_eq!(arrivals(&server, 1).await, [b"open"]);
}

#[tokio::test]
async fn joined_messages_that_still_wait_are_cut_into_the_residue() {
    let (client, a) = connected(V4);
    let (b, server) = connected(V4);
    let (first, second) = (registered(&a), tokios(&b));
    let both = Both::new(&first, &second, NONE, OnMax::EndDirection).unwrap();
    assert!(joins(&a) && joins(&b));
    // Not polled: what comes stays in the queue, joined.
    cut_into(&client, 1000);
    cut_into(&server, 100);
    client.send(&datagram(0, 4500)).unwrap();
    client.send(&datagram(1, 1000)).unwrap();
    server.send(&datagram(2, 250)).unwrap();
    let ends = both.into_ends();
    assert!(!joins(&a) && !joins(&b));
    assert_eq!(ends.a_to_b.cause, Cause::Unspliced);
    assert_eq!(ends.a_to_b.boundaries, [1000, 1000, 1000, 1000, 500, 1000]);
    assert!(ends.a_to_b.residue == [datagram(0, 4500), datagram(1, 1000)].concat());
    assert_eq!(ends.b_to_a.boundaries, [100, 100, 50]);
    // What comes now comes cut.
    client.send(&datagram(3, 2000)).unwrap();
    assert!(waiting(&a).iter().all(|datagram| datagram.len() == 1000));
}

#[tokio::test]
async fn a_dropped_future_leaves_no_joined_message() {
    let it = chain();
    let (source, drain) = (tokios(&it.source), tokios(&it.drain));
    cut_into(&it.sender, 1000);
    let mut running = Box::pin(splice(&source, &drain, NONE));
    assert!(is_pending(running.as_mut()).await);
    assert!(joins(&it.source));
    it.sender.send(&datagram(0, 3000)).unwrap();
    drop(running);
    assert!(!joins(&it.source));
    it.sender.send(&datagram(1, 3000)).unwrap();
    assert!(waiting(&it.source).iter().all(|datagram| datagram.len() == 1000));
}

#[tokio::test]
async fn what_cannot_be_spliced_is_refused_with_its_name() {
    let (udp, _peer) = connected(V4);
    let nowhere = bound(V4);
    let (unix, _far) = tokio::net::UnixStream::pair().unwrap();
    let refused = |error: std::io::Error| (error.kind(), error.to_string());
    let (kind, says) = refused(watched(splice(&tokios(&udp), &unix, NONE)).await.unwrap_err());
    assert_eq!(kind, std::io::ErrorKind::InvalidInput);
    assert!(says.contains("the source is a datagram socket"), "{says}");
    let (kind, says) =
        refused(watched(splice(&tokios(&udp), &tokios(&nowhere), NONE)).await.unwrap_err());
    assert_eq!(kind, std::io::ErrorKind::NotConnected);
    assert!(says.contains("drain"), "{says}");
    let pair = watched(splice_both(&tokios(&nowhere), &tokios(&udp), NONE)).await;
    assert!(refused(pair.unwrap_err()).1.contains("first socket"));
    assert!(!joins(&udp));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_swapped_on_several_threads() {
    let pairs: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let (client, a) = connected(V4);
                let (b, server) = connected(V4);
                let (a, b) = (tokios(&a), tokios(&b));
                let relay = tokio::spawn(async move {
                    let mut both = Both::new(&a, &b, NONE, OnMax::EndDirection).unwrap();
                    poll_fn(|cx| both.poll_done(cx)).await;
                });
                for round in 0..100 {
                    let sent = numbered(round * 20..(round + 1) * 20, 200);
                    send_all(&client, &sent);
                    assert!(arrivals(&server, 20).await == sent);
                    send_all(&server, &sent);
                    assert!(arrivals(&client, 20).await == sent);
                }
                relay.abort();
            })
        })
        .collect();
    for pair in pairs {
        pair.await.unwrap();
    }
}
