//! Who is chosen, and who is passed over.

use super::*;

#[test]
fn servers_that_are_down_disabled_or_draining_are_passed_over() {
    let upstream = upstream(plan(&["a", "b", "c", "d"].map(server)));
    let [a, b, c, d] = &upstream.servers() else { panic!("not four") };
    set_up(a, false);
    b.set_admin(Admin::Disabled);
    c.set_admin(Admin::Draining);
    for _ in 0..10 {
        assert_eq!(name(&now(&upstream)), Ok("d"));
    }
    set_up(d, false);
    assert_eq!(name(&now(&upstream)), Err(NoPlace::Down));
    set_up(a, true);
    assert_eq!(name(&now(&upstream)), Ok("a"));
    set_up(a, false);
    b.set_admin(Admin::Enabled);
    assert_eq!(name(&now(&upstream)), Ok("b"));
}

#[test]
fn without_a_check_no_server_is_down() {
    let upstream = upstream(UpstreamPlan { check: None, ..plan(&[server("a")]) });
    set_up(&upstream.servers()[0], false);
    assert_eq!(name(&now(&upstream)), Ok("a"));
}

#[test]
fn backups_serve_only_when_no_other_server_is_to_be_had() {
    let upstream = upstream(plan(&[backup("x"), server("a"), backup("y"), server("b")]));
    let names = |count| -> Vec<_> {
        (0..count).map(|_| now(&upstream).unwrap().server().name().to_owned()).collect()
    };
    assert_eq!(names(4), ["a", "b", "a", "b"]);
    set_up(&upstream.servers()[1], false);
    assert_eq!(names(2), ["b", "b"]);
    upstream.servers()[3].set_admin(Admin::Disabled);
    let mut both = names(4);
    both.sort();
    assert_eq!(both, ["x", "x", "y", "y"]);
    upstream.servers()[3].set_admin(Admin::Enabled);
    assert_eq!(names(2), ["b", "b"]);
}

#[test]
fn a_session_comes_to_a_backup_when_it_has_tried_the_others() {
    let upstream = upstream(plan(&[backup("x"), server("a")]));
    let mut tried = Tried::default();
    assert_eq!(upstream.pick(CLIENT, &mut tried).unwrap().server().name(), "a");
    assert_eq!(upstream.pick(CLIENT, &mut tried).unwrap().server().name(), "x");
    assert!(upstream.pick(CLIENT, &mut tried).is_none());
}

#[tokio::test]
async fn each_server_is_tried_once_however_many_there_are() {
    let names: Vec<_> = (0..200).map(|number| format!("server-{number}")).collect();
    let plans: Vec<_> = names.iter().map(|name| server(name)).collect();
    for balance in
        [Balance::RoundRobin, Balance::LeastConnections, Balance::Source, Balance::Random]
    {
        let upstream = upstream(UpstreamPlan { balance, ..plan(&plans) });
        let mut tried = Tried::default();
        let mut seen = Vec::new();
        while let Ok(place) = upstream.place(CLIENT, &mut tried).await {
            seen.push(place.server().name().to_owned());
        }
        assert_eq!(upstream.place(CLIENT, &mut tried).await.unwrap_err(), NoPlace::Exhausted);
        seen.sort();
        let mut all = names.clone();
        all.sort();
        assert_eq!(seen, all);
    }
}

#[test]
fn the_first_64_servers_are_remembered_without_allocation() {
    let mut tried = Tried::default();
    (0..64).for_each(|number| tried.insert(number));
    assert!((0..64).all(|number| tried.has(number)) && !tried.has(64));
    assert_eq!(tried.others_capacity(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_avoided_for_a_second_if_there_is_another() {
    let upstream = upstream(UpstreamPlan { check: None, ..plan(&["a", "b"].map(server)) });
    let [a, b] = &upstream.servers() else { panic!("not two") };
    a.connect_failed();
    for _ in 0..5 {
        assert_eq!(name(&now(&upstream)), Ok("b"));
    }
    b.connect_failed();
    let names = [now(&upstream), now(&upstream)].map(|place| name(&place).unwrap().to_owned());
    assert!(names.contains(&"a".to_owned()), "none answers, so all have their turns: {names:?}");
    b.connected();
    assert_eq!(name(&now(&upstream)), Ok("b"));
    assert_eq!(name(&now(&upstream)), Ok("b"));
    tokio::time::advance(Duration::from_millis(1001)).await;
    let names = [now(&upstream), now(&upstream)].map(|place| name(&place).unwrap().to_owned());
    assert!(names.contains(&"a".to_owned()), "{names:?}");
    assert_eq!(a.failures(), 1);
}

#[test]
fn a_server_that_does_not_answer_comes_before_a_backup() {
    let upstream = upstream(plan(&[server("a"), backup("x")]));
    upstream.servers()[0].connect_failed();
    assert_eq!(name(&now(&upstream)), Ok("a"));
}

#[test]
fn sessions_are_counted_while_they_last() {
    let upstream = upstream(plan(&[server("a")]));
    let server = &upstream.servers()[0];
    let places = [now(&upstream), now(&upstream)];
    assert_eq!((server.sessions(), server.total()), (2, 2));
    drop(places);
    assert_eq!((server.sessions(), server.total()), (0, 2));
    server.carried(10, 20);
    server.carried(1, 2);
    assert_eq!(server.bytes(), (11, 22));
}

#[test]
fn the_snapshot_says_all_that_is_asked_and_is_read_as_it_is_written() {
    let upstreams = upstreams(plan(&[limited("a", 7), backup("x")]), None);
    let upstream = upstreams.get(UpstreamId(0));
    let _place = now(upstream);
    upstream.servers()[0].carried(10, 20);
    upstream.servers()[1].set_admin(Admin::Disabled);
    set_up(&upstream.servers()[1], false);
    let snapshot = upstreams.snapshot();
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Vec<ServerSnapshot>>(&text).unwrap(), snapshot);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (a, x) = (&json[0], &json[1]);
    for (field, value) in [("upstream", "web"), ("server", "a"), ("target", "a:80")] {
        assert_eq!(a[field], value);
    }
    assert_eq!((&a["state"], &a["admin"]), (&"up".into(), &"enabled".into()));
    assert_eq!(
        (&a["sessions"], &a["total"], &a["max_connections"]),
        (&1.into(), &1.into(), &7.into())
    );
    assert_eq!((&a["bytes_up"], &a["bytes_down"]), (&10.into(), &20.into()));
    assert_eq!(a["addresses"][0], "127.0.0.1:80");
    assert!(a["last_check"].is_null());
    assert_eq!(
        (&x["state"], &x["admin"], &x["backup"]),
        (&"down".into(), &"disabled".into(), &true.into())
    );
    assert_eq!(x["last_check"]["failure"], "no answer within the timeout");
}
