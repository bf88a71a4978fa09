//! Limits, and the queue before them. Futures are polled by hand, so that who waits and who has a
//! place is known after each step.

use super::*;
use std::pin::Pin;

/// A session that has asked for a place.
type Asking = Pin<Box<dyn Future<Output = Result<Place, NoPlace>>>>;

fn ask_having_tried(upstream: &Arc<Upstream>, mut tried: Tried) -> Asking {
    let upstream = Arc::clone(upstream);
    let mut asking: Asking = Box::pin(async move { upstream.place(CLIENT, &mut tried).await });
    // It is in the queue from its first poll on.
    match polled(&mut asking) {
        Poll::Ready(result) => Box::pin(std::future::ready(result)),
        Poll::Pending => asking,
    }
}

fn ask(upstream: &Arc<Upstream>) -> Asking {
    ask_having_tried(upstream, Tried::default())
}

#[track_caller]
fn has(asking: &mut Asking, server: &str) -> Place {
    match polled(asking) {
        Poll::Ready(result) => {
            assert_eq!(name(&result), Ok(server));
            result.unwrap()
        }
        Poll::Pending => panic!("it waits"),
    }
}

#[track_caller]
fn fails(asking: &mut Asking, with: NoPlace) {
    match polled(asking) {
        Poll::Ready(result) => assert_eq!(name(&result), Err(with)),
        Poll::Pending => panic!("it waits"),
    }
}

#[track_caller]
fn waits(asking: &mut Asking) {
    assert!(polled(asking).is_pending());
}

/// As far as a server's plan goes, what a session that has tried it has tried.
fn tried(servers: &[&Arc<Server>]) -> Tried {
    let mut tried = Tried::default();
    servers.iter().for_each(|server| tried.insert(server.number()));
    tried
}

#[tokio::test(start_paused = true)]
async fn a_full_server_is_passed_over() {
    let upstream = upstream(plan(&[limited("a", 1), limited("b", 2)]));
    let mut places: Vec<_> = (0..3).map(|_| now(&upstream).unwrap()).collect();
    assert_eq!(upstream.servers()[0].sessions(), 1);
    assert_eq!(upstream.servers()[1].sessions(), 2);
    waits(&mut ask(&upstream));
    places.retain(|place| place.server().name() != "a");
    assert_eq!(name(&now(&upstream)), Ok("a"));
}

#[tokio::test(start_paused = true)]
async fn first_come_first_served() {
    let upstream = upstream(plan(&[limited("a", 1)]));
    let first = now(&upstream).unwrap();
    let mut waiting: Vec<_> = (0..5).map(|_| ask(&upstream)).collect();
    assert_eq!(upstream.queued(), 5);
    let mut place = first;
    for left in (0..5).rev() {
        drop(place);
        // Who comes now is behind them, although a place was free for a moment.
        waits(&mut ask(&upstream));
        place = has(&mut waiting.remove(0), "a");
        assert_eq!(upstream.queued(), left);
        waiting.iter_mut().for_each(waits);
        assert_eq!(upstream.servers()[0].sessions(), 1);
    }
    drop(place);
    assert_eq!(upstream.servers()[0].sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_than_may() {
    let upstream = upstream(UpstreamPlan { queue_max: 2, ..plan(&[limited("a", 1)]) });
    let place = now(&upstream).unwrap();
    let mut waiting = [ask(&upstream), ask(&upstream)];
    fails(&mut ask(&upstream), NoPlace::QueueFull);
    drop(place);
    let place = has(&mut waiting[0], "a");
    let mut third = ask(&upstream);
    waits(&mut third);
    fails(&mut ask(&upstream), NoPlace::QueueFull);
    drop(place);
    drop(has(&mut waiting[1], "a"));
    has(&mut third, "a");
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_nobody_waits() {
    let upstream = upstream(UpstreamPlan { queue_max: 0, ..plan(&[limited("a", 1)]) });
    let _place = now(&upstream).unwrap();
    fails(&mut ask(&upstream), NoPlace::QueueFull);
    assert_eq!(upstream.queued(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_long_enough_is_told_so_and_gone() {
    let queue_timeout = Duration::from_secs(3);
    let upstream = upstream(UpstreamPlan { queue_timeout, ..plan(&[limited("a", 1)]) });
    let place = now(&upstream).unwrap();
    let mut early = ask(&upstream);
    tokio::time::advance(Duration::from_secs(2)).await;
    let mut late = ask(&upstream);
    waits(&mut early);
    tokio::time::advance(Duration::from_millis(1001)).await;
    fails(&mut early, NoPlace::QueueTimeout);
    drop(early);
    assert_eq!(upstream.queued(), 1);
    drop(place);
    has(&mut late, "a");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_goes_away_leaves_the_queue() {
    let upstream = upstream(plan(&[limited("a", 1)]));
    let place = now(&upstream).unwrap();
    let [first, mut second] = [ask(&upstream), ask(&upstream)];
    drop(first);
    assert_eq!(upstream.queued(), 1);
    drop(place);
    has(&mut second, "a");
}

#[tokio::test(start_paused = true)]
async fn a_place_that_comes_too_late_is_the_next_ones() {
    let upstream = upstream(plan(&[limited("a", 1)]));
    let place = now(&upstream).unwrap();
    let [first, mut second] = [ask(&upstream), ask(&upstream)];
    drop(place);
    // The first has been told, and has not looked yet.
    assert_eq!(upstream.queued(), 1);
    drop(first);
    drop(has(&mut second, "a"));
    assert_eq!(upstream.servers()[0].sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_server_is_waited_for_and_no_backup_taken() {
    let upstream = upstream(plan(&[limited("a", 1), backup("x")]));
    let place = now(&upstream).unwrap();
    let mut asking = ask(&upstream);
    waits(&mut asking);
    drop(place);
    has(&mut asking, "a");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_another_server_holds_nobody_back() {
    let upstream = upstream(plan(&[limited("a", 1), limited("b", 1)]));
    let [a, b] = &upstream.servers() else { panic!("not two") };
    let [first, second] = [now(&upstream).unwrap(), now(&upstream).unwrap()];
    let mut for_b = ask_having_tried(&upstream, tried(&[a]));
    let mut for_any = ask(&upstream);
    let mut for_a = ask_having_tried(&upstream, tried(&[b]));
    drop(first);
    let place = has(&mut for_any, "a");
    waits(&mut for_b);
    waits(&mut for_a);
    drop(place);
    let place = has(&mut for_a, "a");
    drop(place);
    assert_eq!(name(&now(&upstream)), Ok("a"), "a newcomer is not behind who cannot use it");
    drop(second);
    has(&mut for_b, "b");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_up_takes_those_who_wait() {
    let upstream = upstream(plan(&[limited("a", 1), limited("b", 2)]));
    let b = &upstream.servers()[1];
    set_up(b, false);
    let _place = now(&upstream).unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| ask(&upstream)).collect();
    waiting.iter_mut().for_each(waits);
    set_up(b, true);
    let _places = [has(&mut waiting[0], "b"), has(&mut waiting[1], "b")];
    waits(&mut waiting[2]);
    assert_eq!(upstream.queued(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_enabled_takes_those_who_wait() {
    let upstream = upstream(plan(&[limited("a", 1), server("b")]));
    upstream.servers()[1].set_admin(Admin::Disabled);
    let _place = now(&upstream).unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| ask(&upstream)).collect();
    waiting.iter_mut().for_each(waits);
    upstream.servers()[1].set_admin(Admin::Enabled);
    for asking in &mut waiting {
        has(asking, "b");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_servers_that_go_down_is_told() {
    let upstream = upstream(plan(&[limited("a", 1), limited("b", 1)]));
    let [a, b] = &upstream.servers() else { panic!("not two") };
    let _places = [now(&upstream), now(&upstream)];
    let mut for_any = ask(&upstream);
    let mut for_b = ask_having_tried(&upstream, tried(&[a]));
    set_up(b, false);
    fails(&mut for_b, NoPlace::Exhausted);
    waits(&mut for_any);
    a.set_admin(Admin::Draining);
    fails(&mut for_any, NoPlace::Down);
    assert_eq!(upstream.queued(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_comes_to_a_backup_when_the_others_go_down() {
    let upstream = upstream(plan(&[limited("a", 1), backup("x")]));
    let _place = now(&upstream).unwrap();
    let mut asking = ask(&upstream);
    waits(&mut asking);
    set_up(&upstream.servers()[0], false);
    has(&mut asking, "x");
}

#[tokio::test(start_paused = true)]
async fn a_raised_limit_takes_those_who_wait_and_a_lowered_one_holds_them() {
    let before = upstreams(plan(&[limited("a", 2)]), None);
    let old = Arc::clone(before.get(UpstreamId(0)));
    let places = [now(&old).unwrap(), now(&old).unwrap()];
    let mut waiting: Vec<_> = (0..4).map(|_| ask(&old)).collect();

    let raised = upstreams(plan(&[limited("a", 4)]), Some(&before));
    waiting.iter_mut().for_each(waits);
    raised.take_over(&before);
    let more = [has(&mut waiting[0], "a"), has(&mut waiting[1], "a")];
    waits(&mut waiting[2]);

    let lowered = upstreams(plan(&[limited("a", 1)]), Some(&raised));
    lowered.take_over(&raised);
    drop(more);
    let [first, second] = places;
    drop(first);
    waits(&mut waiting[2]);
    // Who asks the old upstream is held to the new limit, and stands in the same queue.
    let mut behind = ask(&old);
    drop(second);
    let place = has(&mut waiting[2], "a");
    waits(&mut waiting[3]);
    drop(place);
    let place = has(&mut waiting[3], "a");
    waits(&mut behind);
    drop(place);
    has(&mut behind, "a");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_wait_gets_nothing_from_full_servers() {
    let upstream = upstream(plan(&[limited("a", 1)]));
    let place = upstream.pick(CLIENT, &mut Tried::default()).unwrap();
    assert!(upstream.pick(CLIENT, &mut Tried::default()).is_none());
    drop(place);
    assert!(upstream.pick(CLIENT, &mut Tried::default()).is_some());
}

/// Two sessions have both seen the last place.
#[test]
fn a_limit_holds_for_those_who_come_at_once() {
    let upstream = upstream(plan(&[limited("a", 1)]));
    let a = &upstream.servers()[0];
    let mut spare = Spare::new();
    let first = a.count_in(1, &mut spare);
    assert!(first.is_some());
    assert!(a.count_in(2, &mut spare).is_none());
    assert_eq!((spare.len(), a.sessions()), (0, 1));
}
