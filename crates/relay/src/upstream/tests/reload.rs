//! What goes on through a reload, and what does not.

use super::*;

fn get(upstreams: &Upstreams) -> &Arc<Upstream> {
    upstreams.get(UpstreamId(0))
}

#[test]
fn a_server_that_is_kept_keeps_its_sessions_health_and_admin_state() {
    let before = upstreams(plan(&[server("a"), server("b"), server("c")]), None);
    let place = now(get(&before));
    set_up(&get(&before).servers()[1], false);
    get(&before).servers()[2].set_admin(Admin::Disabled);
    get(&before).servers()[0].connect_failed();

    // In another order, with another weight.
    let b = ServerPlan { weight: 9, ..server("b") };
    let after = upstreams(plan(&[server("c"), b, server("a")]), Some(&before));
    after.take_over(&before);
    let [c, b, a] = &get(&after).servers() else { panic!("not three") };
    assert_eq!((a.sessions(), a.total(), a.failures()), (1, 1, 1));
    assert!(a.is_up() && !b.is_up() && c.is_up());
    assert_eq!((c.admin(), b.plan().weight), (Admin::Disabled, 9));
    assert_eq!(a.id(), get(&before).servers()[0].id());
    assert_eq!(name(&now(get(&after))), Ok("a"));
    drop(place);
    assert_eq!(a.sessions(), 0);
}

#[test]
fn a_server_that_is_removed_lives_on_for_its_sessions_only() {
    let before = upstreams(plan(&[server("a")]), None);
    let old = Arc::clone(get(&before));
    let place = now(&old).unwrap();
    let after = upstreams(plan(&[server("b")]), Some(&before));
    after.take_over(&before);
    drop(before);
    assert_eq!((place.server().name(), place.server().sessions()), ("a", 1));
    let gone = Arc::downgrade(place.server());
    // Who still has the old upstream comes to the new servers.
    assert_eq!(name(&now(&old)), Ok("b"));
    drop(old);
    assert!(gone.upgrade().is_some());
    drop(place);
    assert!(gone.upgrade().is_none());
}

#[test]
fn nothing_changes_before_the_new_upstreams_take_over() {
    let before = upstreams(plan(&[server("a")]), None);
    let after = upstreams(plan(&[server("b")]), Some(&before));
    assert_eq!(name(&now(get(&before))), Ok("a"));
    drop(after);
    assert_eq!(name(&now(get(&before))), Ok("a"));
    let third = upstreams(plan(&[server("c")]), Some(&before));
    third.take_over(&before);
    assert_eq!(name(&now(get(&before))), Ok("c"));
}

#[test]
fn the_same_name_at_another_target_is_another_server() {
    let before = upstreams(plan(&[server("a")]), None);
    set_up(&get(&before).servers()[0], false);
    let moved = ServerPlan { target: "elsewhere:80".parse().unwrap(), ..server("a") };
    let after = upstreams(plan(&[moved]), Some(&before));
    assert!(get(&after).servers()[0].is_up());
    assert_ne!(get(&after).servers()[0].id(), get(&before).servers()[0].id());
}

#[test]
fn a_renamed_server_keeps_its_state_and_takes_none_of_another() {
    let at =
        |name: &str, target: &str| ServerPlan { target: target.parse().unwrap(), ..server(name) };
    let before = upstreams(plan(&[at("a", "one:80"), at("b", "one:80")]), None);
    let [a, b] = [0, 1].map(|index| get(&before).servers()[index].id());
    let after =
        upstreams(plan(&[at("c", "one:80"), at("b", "one:80"), at("d", "one:80")]), Some(&before));
    let ids: Vec<_> = get(&after).servers().iter().map(|server| server.id()).collect();
    assert_eq!(ids[..2], [a, b]);
    assert!(ids[2] != a && ids[2] != b);
}

#[test]
fn an_upstream_of_another_name_is_another() {
    let before = upstreams(plan(&[server("a")]), None);
    let after =
        upstreams(UpstreamPlan { name: "api".into(), ..plan(&[server("a")]) }, Some(&before));
    after.take_over(&before);
    assert_ne!(get(&after).servers()[0].id(), get(&before).servers()[0].id());
    // Who has the removed one is served as before.
    assert_eq!(name(&now(get(&before))), Ok("a"));
}

#[test]
fn what_a_session_has_tried_holds_across_a_reload() {
    let before = upstreams(plan(&[server("a"), server("b")]), None);
    let mut tried = Tried::default();
    let place = get(&before).pick(CLIENT, &mut tried).unwrap();
    assert_eq!(place.server().name(), "a");
    let after = upstreams(plan(&[server("c"), server("b"), server("a")]), Some(&before));
    after.take_over(&before);
    let mut names = Vec::new();
    while let Some(place) = get(&before).pick(CLIENT, &mut tried) {
        names.push(place.server().name().to_owned());
    }
    names.sort();
    assert_eq!(names, ["b", "c"]);
}

#[test]
fn many_reloads_keep_nothing_alive() {
    let mut current = upstreams(plan(&[server("a")]), None);
    let first = Arc::clone(get(&current));
    let mut old = Vec::new();
    for _ in 0..10 {
        let next = upstreams(plan(&[server("a")]), Some(&current));
        next.take_over(&current);
        old.push(Arc::downgrade(get(&next)));
        current = next;
    }
    let alive = old.iter().filter(|upstream| upstream.strong_count() > 0).count();
    assert_eq!(alive, 1, "beside the one in force");
    assert_eq!(name(&now(&first)), Ok("a"));
}

#[test]
fn a_new_name_that_does_not_resolve_is_an_error_and_a_known_one_keeps_its_addresses() {
    let log = Log::new();
    let before = upstreams(plan(&[server("a")]), None);
    let failing: Resolver = Arc::new(|_| Err(std::io::Error::other("no such name")));
    let kept = Upstreams::with_resolver(&[Arc::new(plan(&[server("a")]))], Some(&before), &failing);
    assert_eq!(get(&kept.unwrap()).servers()[0].addrs().len(), 1);
    assert_eq!(log.take().len(), 1);
    let new = [Arc::new(plan(&[server("a"), server("b")]))];
    let error = Upstreams::with_resolver(&new, Some(&before), &failing).unwrap_err();
    assert_eq!(error.to_string(), "cannot resolve target b:80: no such name");
}
