//! The administrator's word.

use super::*;

#[test]
fn a_drained_server_is_told_once_when_its_last_session_has_ended() {
    let log = Log::new();
    let upstream = upstream(plan(&["a", "b"].map(server)));
    let a = &upstream.servers()[0];
    let places = [now(&upstream), now(&upstream), now(&upstream)];
    a.set_admin(Admin::Draining);
    assert_eq!(log.take(), ["INFO server set upstream=\"web\" server=\"a\" admin=Draining"]);
    let [first, other, second] = places;
    drop(first);
    drop(other);
    assert_eq!((log.take().len(), a.admin()), (0, Admin::Draining));
    drop(second);
    assert_eq!(log.take(), ["INFO server drained upstream=\"web\" server=\"a\""]);
    assert_eq!(a.admin(), Admin::Drained);
    assert_eq!(name(&now(&upstream)), Ok("b"));
    a.set_admin(Admin::Enabled);
    drop([now(&upstream), now(&upstream)]);
    assert_eq!(a.total(), 3);
    assert_eq!(log.take(), ["INFO server set upstream=\"web\" server=\"a\" admin=Enabled"]);
}

#[test]
fn a_server_without_sessions_is_drained_at_once() {
    let log = Log::new();
    let upstream = upstream(plan(&[server("a")]));
    let a = &upstream.servers()[0];
    a.set_admin(Admin::Draining);
    assert_eq!(log.take().len(), 2);
    assert_eq!(a.admin(), Admin::Drained);
}

#[test]
fn a_disabled_server_keeps_its_sessions_and_is_not_told_drained() {
    let log = Log::new();
    let upstream = upstream(plan(&[server("a")]));
    let a = &upstream.servers()[0];
    let place = now(&upstream);
    a.set_admin(Admin::Disabled);
    assert_eq!(a.sessions(), 1);
    drop(place);
    assert_eq!((log.take().len(), a.admin()), (1, Admin::Disabled));
}

/// Chosen before a drain, counted after it. The place is put aside and not dropped at once: the queue
/// may be locked.
#[test]
fn a_session_that_is_just_coming_to_a_drained_server_goes_elsewhere() {
    let upstream = upstream(plan(&[server("a")]));
    let a = &upstream.servers()[0];
    a.set_admin(Admin::Draining);
    let mut spare = Spare::new();
    assert!(a.count_in(1, &mut spare).is_none());
    assert_eq!((spare.len(), a.sessions()), (1, 1));
    drop(spare);
    assert_eq!((a.sessions(), a.total(), a.admin()), (0, 0, Admin::Drained));
}
