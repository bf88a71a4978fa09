//! Brokers come and go, and so do members.

use crate::place::{Place, RING, WATCHDOG, at, offer, settle, wait_until};
use rustix::io::Errno;
use sosplice_local::broker::{
    Ask, Broker, ControlError, Error, Options, Scope, ask, expect, policy::Policy,
};
use sosplice_local::member::Member;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const A: &str = "127.0.0.1:80";
const B: &str = "127.0.0.1:4000";

fn short() -> Options {
    Options { linger: Duration::from_millis(1), ..Options::new(Scope::Namespace) }
}

#[test]
fn a_hang_up_withdraws_everything() {
    let place = Place::new();
    let (server, client) = (place.join(), place.join());
    server.announce(1, at(A), at(B), 7, RING).unwrap();
    client.announce(1, at(B), at(A), 7, RING).unwrap();
    let _ends = (offer(&server), offer(&client));
    server.announce(2, at(A), at("127.0.0.1:4001"), 7, RING).unwrap();
    settle(&server);
    drop(server);
    wait_until("the hang-up is heard", || place.status().members.len() == 1);
    let status = place.status();
    assert_eq!((status.pairs.len(), status.ended.pairs), (0, 1));
    assert_eq!(status.on_tcp["peer has not announced"], 1);
    client.announce(3, at("127.0.0.1:4001"), at(A), 7, RING).unwrap();
    settle(&client);
    assert_eq!(place.status().pairs.len(), 0);
}

#[test]
fn a_directory_has_one_broker_and_a_stale_socket_is_replaced() {
    let mut place = Place::with(short());
    let member = place.join();
    let second = Broker::bind(&place.dir, short());
    assert!(matches!(second, Err(Error::Taken(_))), "{second:?}");
    settle(&member);
    drop(member);
    place.wait_for_end();
    assert!(!place.dir.join("broker.sock").exists());
    // As a killed broker leaves it.
    let socket = std::os::unix::net::UnixListener::bind(place.dir.join("broker.sock")).unwrap();
    drop(socket);
    let mut again = Place::again(place.dir.clone(), short());
    settle(&again.join());
    again.wait_for_end();
}

/// Longer than a broker that is not needed stays in these tests. Nothing is waited for here:
/// the while is what is observed.
const A_WHILE: Duration = Duration::from_millis(100);

#[test]
fn a_broker_stays_as_long_as_it_is_needed_and_no_longer() {
    // For a member.
    let mut place = Place::with(short());
    let member = place.join();
    place.release();
    std::thread::sleep(A_WHILE);
    settle(&member);
    drop(member);
    place.wait_for_end();
    // For nobody.
    Place::with(short()).wait_for_end();
    // For a policy that somebody has set, be it that nothing may pair.
    for said in [Ask::Enable(Policy::default()), Ask::Disable] {
        let mut place = Place::with(short());
        place.tell(&said);
        place.release();
        std::thread::sleep(A_WHILE);
        assert!(place.status().policy_was_set);
    }
}

#[test]
fn a_program_that_has_no_member_yet_keeps_the_broker() {
    // `expect` is said by this process, which lives on.
    let mut place = Place::with(short());
    expect(&place.dir).unwrap();
    expect(&place.dir).unwrap();
    place.release();
    std::thread::sleep(A_WHILE);
    settle(&place.join());
}

#[test]
fn the_end_of_an_expected_program_ends_the_wait() {
    if std::env::var_os("RENDEZVOUS_EXPECT").is_some() {
        let dir = std::env::var_os("RENDEZVOUS_EXPECT").unwrap();
        return expect(Path::new(&dir)).unwrap();
    }
    let mut place = Place::with(short());
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lifetime::the_end_of_an_expected_program_ends_the_wait"])
        .env("RENDEZVOUS_EXPECT", &place.dir)
        .stdout(Stdio::null())
        .status();
    assert!(child.unwrap().success());
    place.wait_for_end();
}

#[test]
fn without_a_broker_everybody_is_told_so() {
    let dir = std::env::temp_dir().join(format!("sosplice-none-{}", std::process::id()));
    assert_eq!(Member::join(&dir).unwrap_err(), Errno::NOENT);
    assert!(matches!(ask(&dir, &Ask::Status), Err(ControlError::NoBroker)));
    std::fs::create_dir(&dir).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.join("broker.sock")).unwrap());
    // A stream socket's leftover is not even of the right kind.
    assert!(Member::join(&dir).is_err());
    assert!(ask(&dir, &Ask::Status).is_err());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_broker_that_is_gone_is_an_error_and_no_wait() {
    let mut place = Place::with(short());
    let limits = sosplice_local::broker::Limits { connections: 4, ..short().limits };
    let full = Place::with(Options { limits, ..Options::new(Scope::Namespace) });
    let member = full.join();
    // Hung up on: one too many.
    assert!(Member::join(&full.dir).is_err());
    settle(&member);
    place.wait_for_end();
    assert_eq!(Member::join(&place.dir).unwrap_err(), Errno::NOENT);
}

#[test]
fn a_broker_that_never_answers_is_given_up() {
    let dir = std::env::temp_dir().join(format!("sosplice-mute-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    // It listens and never runs.
    let mute = Broker::bind(&dir, short()).unwrap();
    let (done, joined) = std::sync::mpsc::channel();
    std::thread::spawn({
        let dir = dir.clone();
        move || done.send(Member::join(&dir).unwrap_err())
    });
    assert_eq!(joined.recv_timeout(WATCHDOG).unwrap(), Errno::AGAIN);
    drop(mute);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_members_descriptor_can_have_another_number() {
    let place = Place::new();
    let member = place.join();
    let [before] = member.raw_fds();
    member.renumber(|fd| {
        // SAFETY: open in this process, and only borrowed for the call.
        let old = unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) };
        let moved = rustix::io::fcntl_dupfd_cloexec(old, 500).unwrap();
        // SAFETY: the old number is the caller's from here on.
        unsafe { rustix::io::close(fd) };
        rustix::fd::IntoRawFd::into_raw_fd(moved)
    });
    let [after] = member.raw_fds();
    assert!(after >= 500 && after != before);
    settle(&member);
}
