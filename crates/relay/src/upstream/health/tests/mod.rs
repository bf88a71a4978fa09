//! Checks: what counts, when, and how it is asked.

#![allow(clippy::unwrap_used)]

mod answers;
mod servers;

use super::super::tests::{Log, plan, resolver, server, strict, upstreams};
use super::*;
use crate::plan::{UpstreamId, UpstreamPlan};
use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

/// A prober that gives out `results` (true for passed), and then ours.
#[derive(Clone, Default)]
struct Script {
    results: Arc<Mutex<VecDeque<bool>>>,
    /// When each check was made, and of which server.
    made: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Script {
    fn new(results: &[bool]) -> Self {
        let results = results.iter().copied().collect();
        Self { results: Arc::new(Mutex::new(results)), ..Self::default() }
    }

    fn prober(&self) -> Prober {
        let script = self.clone();
        Arc::new(move |server, _| {
            script.made.lock().unwrap().push((Instant::now(), server.name().to_owned()));
            let result = match script.results.lock().unwrap().pop_front() {
                Some(true) => Ok(()),
                Some(false) => Err(Failure::Timeout),
                None => Err(Failure::Ours(std::io::Error::other("the script is over"))),
            };
            Box::pin(async { result })
        })
    }

    fn made(&self) -> Vec<(Instant, String)> {
        self.made.lock().unwrap().clone()
    }
}

/// Seconds of the stopped clock.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn so_many_checks_in_a_row_decide_and_each_change_is_one_line() {
    let log = Log::new();
    let check = Check { rise: 2, fall: 3, ..strict() };
    let upstreams = upstreams(UpstreamPlan { check: Some(check), ..plan(&[server("a")]) }, None);
    let a = &upstreams.get(UpstreamId(0)).servers()[0];
    let results = [
        // Two in a row, and one for it between: not three.
        false, false, true, false, false, false, // down
        true, false, true, true, // up
        false, false, true, // flapping
    ];
    let script = Script::new(&results);
    let _watch = watch_by(&upstreams, &script.prober(), &resolver());
    let mut states = Vec::new();
    pass(5).await;
    for _ in &results {
        states.push(a.is_up());
        pass(10).await;
    }
    let up = [true; 5].into_iter().chain([false; 4]).chain([true; 4]);
    assert_eq!(states, up.collect::<Vec<_>>());
    assert_eq!(
        log.take(),
        [
            "WARN server down upstream=\"web\" server=\"a\" checks=3 why=no answer within the timeout",
            "INFO server up upstream=\"web\" server=\"a\" checks=2",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_checks_are_made_at_once_and_spread() {
    let upstreams = upstreams(plan(&["a", "b", "c", "d"].map(server)), None);
    let script = Script::new(&[true; 100]);
    let began = Instant::now();
    let _watch = watch_by(&upstreams, &script.prober(), &resolver());
    pass(1).await;
    let made: Vec<_> =
        script.made().into_iter().map(|(when, name)| ((when - began).as_millis(), name)).collect();
    let expected = [(0, "a"), (250, "b"), (500, "c"), (750, "d")];
    // The clock of a runtime has a grain of a millisecond.
    assert_eq!(made.len(), 4);
    for ((ms, name), (expected_ms, expected)) in made.iter().zip(expected) {
        assert_eq!(name, expected);
        assert!((expected_ms..expected_ms + 3).contains(ms), "{name} at {ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn intervals_vary_by_the_jitter_and_no_more() {
    let check = Check { jitter: Duration::from_secs(2), ..strict() };
    let upstreams = upstreams(UpstreamPlan { check: Some(check), ..plan(&[server("a")]) }, None);
    let script = Script::new(&[true; 1000]);
    let _watch = watch_by(&upstreams, &script.prober(), &resolver());
    pass(1000).await;
    let made = script.made();
    let gaps: Vec<_> = made.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_millis()).collect();
    assert!(gaps.iter().all(|gap| (10_000..12_010).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().max().unwrap() - gaps.iter().min().unwrap() > 500, "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_watch_ends_the_checks() {
    let upstreams = upstreams(plan(&[server("a")]), None);
    let script = Script::new(&[true; 100]);
    let watch = watch_by(&upstreams, &script.prober(), &resolver());
    pass(25).await;
    drop(watch);
    assert_eq!(script.made().len(), 3);
    pass(100).await;
    assert_eq!(script.made().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_fails_here_takes_no_server_down() {
    let log = Log::new();
    let upstreams = upstreams(plan(&[server("a")]), None);
    let _watch = watch_by(&upstreams, &Script::new(&[]).prober(), &resolver());
    pass(100).await;
    assert!(upstreams.get(UpstreamId(0)).servers()[0].is_up());
    assert_eq!(log.take().len(), 0);
    let snapshot = upstreams.snapshot();
    let last = snapshot[0].last_check.as_ref().unwrap();
    assert_eq!(last.failure.as_deref(), Some("not made: the script is over"));
}

#[tokio::test(start_paused = true)]
async fn a_reload_goes_on_where_the_checks_were() {
    let check = Check { fall: 2, ..strict() };
    let plan = || UpstreamPlan { check: Some(check.clone()), ..plan(&[server("a")]) };
    let before = upstreams(plan(), None);
    let script = Script::new(&[false]);
    let watch = watch_by(&before, &script.prober(), &resolver());
    pass(1).await;
    drop(watch);
    let after = upstreams(plan(), Some(&before));
    after.take_over(&before);
    let _watch = watch_by(&after, &Script::new(&[false]).prober(), &resolver());
    pass(1).await;
    assert!(!after.get(UpstreamId(0)).servers()[0].is_up());
}

#[tokio::test(start_paused = true)]
async fn who_is_no_longer_checked_is_up_also_when_it_is_checked_again() {
    let checked = upstreams(plan(&[server("a")]), None);
    let watch = watch_by(&checked, &Script::new(&[false]).prober(), &resolver());
    pass(1).await;
    drop(watch);
    let unchecked = upstreams(UpstreamPlan { check: None, ..plan(&[server("a")]) }, Some(&checked));
    unchecked.take_over(&checked);
    let made = AtomicUsize::new(0);
    let prober: Prober = Arc::new(move |_, _| {
        panic!("checked all the same, {} times", made.fetch_add(1, Ordering::Relaxed))
    });
    let watch = watch_by(&unchecked, &prober, &resolver());
    pass(100).await;
    assert!(unchecked.get(UpstreamId(0)).servers()[0].is_up());
    drop(watch);
    let again = upstreams(plan(&[server("a")]), Some(&unchecked));
    again.take_over(&unchecked);
    assert!(again.get(UpstreamId(0)).servers()[0].is_up());
}

#[tokio::test(start_paused = true)]
async fn sessions_that_wait_hear_of_a_server_that_comes_up() {
    let check = Check { fall: 1, ..strict() };
    let only = crate::plan::ServerPlan { max_connections: Some(1), ..server("a") };
    let plan = UpstreamPlan { check: Some(check), ..plan(&[only, server("b")]) };
    let upstreams = upstreams(plan, None);
    let upstream = upstreams.get(UpstreamId(0));
    upstream.servers()[1].state().health.note(&Err(Failure::Timeout), &strict());
    let client = std::net::IpAddr::from([127, 0, 0, 1]);
    let first = upstream.place(client, &mut super::super::Tried::default()).await.unwrap();
    assert_eq!(first.server().name(), "a");
    let _watch = watch_by(&upstreams, &Script::new(&[true, true]).prober(), &resolver());
    let second = upstream.place(client, &mut super::super::Tried::default()).await.unwrap();
    assert_eq!(second.server().name(), "b");
}
