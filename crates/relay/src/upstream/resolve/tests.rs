//! Names resolved again, by a resolver that says what the test wants.

#![allow(clippy::unwrap_used)]

use super::super::tests::{CLIENT, Log, plan, server};
use super::super::{Tried, Upstreams};
use super::*;
use crate::plan::{ServerPlan, UpstreamId, UpstreamPlan};
use std::sync::{Mutex, mpsc};
use std::thread::ThreadId;

/// For what never comes.
const WATCHDOG: Duration = Duration::from_secs(30);

/// Asks the test for each answer. The stopped clock goes on only while no look-up runs: otherwise it
/// would race against the look-up's thread.
struct Desk {
    asked: mpsc::Receiver<(String, ThreadId)>,
    answers: mpsc::Sender<Answer>,
    /// Each look-up holds it too, while it runs.
    resolver: Resolver,
}

impl Desk {
    fn new() -> Self {
        let (ask, asked) = mpsc::channel();
        let (answers, answered) = mpsc::channel();
        let ends = Mutex::new((ask, answered));
        let resolver: Resolver = Arc::new(move |target| {
            let (ask, answered) = &*ends.lock().unwrap();
            // The test may be over.
            let _ = ask.send((target.to_string(), std::thread::current().id()));
            answered.recv().unwrap_or_else(|_| Err(io::Error::other("the test is over")))
        });
        Self { asked, answers, resolver }
    }

    /// With one name watched.
    fn is_running(&self) -> bool {
        Arc::strong_count(&self.resolver) > 2
    }

    /// Waits for the next question.
    async fn question(&self) {
        let began = std::time::Instant::now();
        while !self.is_running() {
            assert!(began.elapsed() < WATCHDOG, "nobody asks");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (target, thread) = self.asked.recv_timeout(WATCHDOG).expect("a question");
        assert_eq!(target, "a:80");
        assert_ne!(thread, std::thread::current().id(), "the runtime would be blocked");
    }

    /// Answers the question, and lets the watch take it in.
    async fn answer(&self, answer: Answer) {
        self.answers.send(answer).unwrap();
        let began = std::time::Instant::now();
        while self.is_running() {
            assert!(began.elapsed() < WATCHDOG, "the look-up goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    async fn next(&self, answer: Answer) {
        self.question().await;
        self.answer(answer).await;
    }
}

fn addr(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 80))
}

fn begin(servers: &[ServerPlan]) -> Upstreams {
    let resolve_interval = Some(Duration::from_secs(10));
    let plan = UpstreamPlan { resolve_interval, ..plan(servers) };
    let first: Resolver = Arc::new(|_| Ok(vec![addr(1)]));
    Upstreams::with_resolver(&[Arc::new(plan)], None, &first).unwrap()
}

fn watch_names(upstreams: &Upstreams, resolver: &Resolver) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    watch(upstreams.get(UpstreamId(0)), resolver, &mut tasks);
    tasks
}

#[tokio::test(start_paused = true)]
async fn new_addresses_are_for_new_sessions() {
    let log = Log::new();
    let upstreams = begin(&[server("a")]);
    let upstream = upstreams.get(UpstreamId(0));
    let place = upstream.pick(CLIENT, &mut Tried::default()).unwrap();
    let before = place.server().addrs();
    let desk = Desk::new();
    let _tasks = watch_names(&upstreams, &desk.resolver);
    desk.next(Ok(vec![addr(2), addr(3)])).await;
    assert_eq!(
        log.take(),
        [
            "INFO addresses changed upstream=\"web\" server=\"a\" target=a:80 addrs=[192.0.2.2:80, 192.0.2.3:80]"
        ]
    );
    assert_eq!(*before, [addr(1)]);
    assert_eq!(*upstream.servers()[0].addrs(), [addr(2), addr(3)]);
    assert_eq!(upstream.servers()[0].sessions(), 1);
    // The same in another order is no change.
    desk.next(Ok(vec![addr(3), addr(2)])).await;
    assert_eq!(log.take().len(), 0);
    assert_eq!(*upstream.servers()[0].addrs(), [addr(2), addr(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_addresses_and_is_told_once() {
    let log = Log::new();
    let upstreams = begin(&[server("a")]);
    let server = &upstreams.get(UpstreamId(0)).servers()[0];
    let desk = Desk::new();
    let _tasks = watch_names(&upstreams, &desk.resolver);
    for _ in 0..3 {
        desk.next(Err(io::Error::other("no such name"))).await;
    }
    assert_eq!(
        log.take(),
        [
            "WARN name not resolved: the addresses stay as they were upstream=\"web\" server=\"a\" target=a:80 error=no such name"
        ]
    );
    assert_eq!(*server.addrs(), [addr(1)]);
    desk.next(Ok(vec![addr(1)])).await;
    assert_eq!(log.take(), ["INFO name resolved again upstream=\"web\" server=\"a\" target=a:80"]);
    // No addresses are no change, and a failure is told once more.
    desk.next(Ok(Vec::new())).await;
    assert_eq!((log.take().len(), &*server.addrs()), (0, &[addr(1)][..]));
    desk.next(Err(io::Error::other("gone again"))).await;
    assert!(log.take()[0].contains("gone again"));
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_hangs_gets_no_second_thread_and_its_answer_counts() {
    let log = Log::new();
    let upstreams = begin(&[server("a")]);
    let server = &upstreams.get(UpstreamId(0)).servers()[0];
    let desk = Desk::new();
    let _tasks = watch_names(&upstreams, &desk.resolver);
    desk.question().await;
    tokio::time::sleep(WAIT_MAX * 10).await;
    let lines = log.take();
    assert!(lines.len() == 1 && lines[0].contains("timed out"), "{lines:?}");
    assert_eq!(Arc::strong_count(&desk.resolver), 3, "one look-up");
    desk.answer(Ok(vec![addr(9)])).await;
    // It is taken in at once, or by the next round.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let lines = log.take();
    assert!(lines[0].contains("name resolved again"), "{lines:?}");
    assert_eq!(*server.addrs(), [addr(9)]);
    desk.question().await;
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_panics_is_a_failure() {
    let log = Log::new();
    let upstreams = begin(&[server("a")]);
    let resolver: Resolver = Arc::new(|_| panic!("this panic is meant: the test goes on"));
    let _tasks = watch_names(&upstreams, &resolver);
    // The look-up's thread ends in its own time, and then the watch hears of it.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let began = std::time::Instant::now();
    let mut lines = log.take();
    while lines.is_empty() {
        assert!(began.elapsed() < WATCHDOG, "nothing is logged");
        std::thread::sleep(Duration::from_millis(1));
        tokio::task::yield_now().await;
        lines = log.take();
    }
    assert!(lines[0].contains("the look-up has failed"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn addresses_are_not_looked_up_again() {
    let literal = ServerPlan { target: addr(1).into(), ..server("literal") };
    let resolver = Desk::new().resolver;
    let upstreams = begin(std::slice::from_ref(&literal));
    assert!(watch_names(&upstreams, &resolver).is_empty());
    let upstreams = begin(&[literal, server("a")]);
    assert_eq!(watch_names(&upstreams, &resolver).len(), 1);
}

#[test]
fn without_an_interval_nothing_is_looked_up_again() {
    let first: Resolver = Arc::new(|_| Ok(vec![addr(1)]));
    let plan = [Arc::new(plan(&[server("a")]))];
    let upstreams = Upstreams::with_resolver(&plan, None, &first).unwrap();
    assert!(watch_names(&upstreams, &first).is_empty());
}

#[test]
fn the_system_knows_localhost_and_no_address_twice() {
    let mut addrs = system()(&"localhost:80".parse().unwrap()).unwrap();
    assert!(addrs.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 80));
    let count = addrs.len();
    addrs.sort();
    addrs.dedup();
    assert_eq!(addrs.len(), count);
}
