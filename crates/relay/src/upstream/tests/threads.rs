//! The queue across threads: nobody is forgotten, nobody is served beyond a limit.

use super::*;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;

/// For a wake-up that never comes; nothing here lasts long.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Runs `work` on `count` threads with a runtime each, and waits for all.
fn on_threads<F>(count: u64, work: impl Fn(u64) -> F + Clone + Send + 'static)
where
    F: Future<Output = ()>,
{
    let (done, all_done) = mpsc::channel();
    for number in 0..count {
        let (work, done) = (work.clone(), done.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(work(number));
            done.send(()).unwrap();
        });
    }
    drop(done);
    for _ in 0..count {
        all_done.recv_timeout(WATCHDOG).expect("a session waits for ever, or has failed");
    }
}

#[test]
fn no_wake_up_is_lost_and_no_limit_passed() {
    const SESSIONS: u64 = 2000;
    let upstream = upstream(UpstreamPlan {
        queue_timeout: WATCHDOG * 10,
        balance: Balance::LeastConnections,
        ..plan(&[limited("a", 1), limited("b", 2)])
    });
    let running: Arc<[AtomicU64; 2]> = Arc::default();
    let asked = Arc::clone(&upstream);
    on_threads(8, move |_| {
        let (upstream, running) = (Arc::clone(&asked), Arc::clone(&running));
        async move {
            for session in 0..SESSIONS {
                let place = upstream.place(CLIENT, &mut Tried::default()).await.unwrap();
                let index = usize::from(place.server().name() == "b");
                let now = running[index].fetch_add(1, Ordering::SeqCst) + 1;
                assert!(now <= place.server().plan().max_connections.unwrap());
                if session % 3 == 0 {
                    tokio::task::yield_now().await;
                }
                running[index].fetch_sub(1, Ordering::SeqCst);
                drop(place);
            }
        }
    });
    assert_eq!(upstream.queued(), 0);
    let totals = upstream.servers().iter().map(|server| server.total()).sum::<u64>();
    assert_eq!(totals, 8 * SESSIONS);
    assert!(upstream.servers().iter().all(|server| server.sessions() == 0));
}

#[test]
fn waiters_that_go_away_take_no_place_with_them() {
    let upstream =
        upstream(UpstreamPlan { queue_timeout: WATCHDOG * 10, ..plan(&[limited("a", 1)]) });
    let asked = Arc::clone(&upstream);
    on_threads(6, move |number| {
        let upstream = Arc::clone(&asked);
        async move {
            for round in 0..1000 {
                let mut tried = Tried::default();
                let asking = upstream.place(CLIENT, &mut tried);
                if (number + round) % 2 == 0 {
                    asking.await.unwrap();
                    continue;
                }
                // Gone after at most a few polls, at whatever point the others are.
                tokio::select! {
                    biased;
                    place = asking => drop(place.unwrap()),
                    () = tokio::task::yield_now() => {}
                }
            }
        }
    });
    assert_eq!((upstream.queued(), upstream.servers()[0].sessions()), (0, 0));
}

#[test]
fn servers_that_flap_lose_nobody() {
    let upstream = upstream(UpstreamPlan {
        queue_timeout: WATCHDOG * 10,
        ..plan(&[limited("a", 1), limited("b", 1)])
    });
    let asked = Arc::clone(&upstream);
    on_threads(5, move |number| {
        let upstream = Arc::clone(&asked);
        async move {
            let b = &upstream.servers()[1];
            for round in 0..1000 {
                match (number, round % 2 == 0) {
                    (0, is_up) => set_up(b, is_up),
                    (1, true) => b.set_admin(Admin::Enabled),
                    (1, false) => b.set_admin(Admin::Draining),
                    _ => drop(upstream.place(CLIENT, &mut Tried::default()).await.unwrap()),
                }
            }
        }
    });
    assert_eq!(upstream.queued(), 0);
    assert!(upstream.servers().iter().all(|server| server.sessions() == 0));
}
