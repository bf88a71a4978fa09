//! The socket's file: whose it is, and what is said where there is none.

use super::service::{Dir, Service, ctl, relay_to};
use crate::support::peers::{join_known, listener};
use crate::support::{BINARY, Relay};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

fn serve(dir: &Dir) -> Output {
    Command::new(BINARY).arg("serve").arg("-c").arg(dir.file()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn it_is_the_owners_alone_and_goes_with_the_service() {
    let upstream = listener();
    let mut service = Service::to(&[&upstream]);
    let socket = service.dir.socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o600);
    service.relay.stop();
    assert!(!socket.exists());
}

#[test]
fn a_second_service_is_refused_and_the_first_goes_on() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let second = serve(&service.dir);
    assert_eq!(second.status.code(), Some(1));
    let told = text(&second.stderr);
    assert!(told.contains("belongs to a process that runs"), "{told}");
    service.done(&["stats"]);
}

#[test]
fn that_of_a_killed_service_is_replaced() {
    let upstream = listener();
    let mut service = Service::to(&[&upstream]);
    service.relay.signal(Signal::KILL);
    service.relay.wait();
    assert!(service.dir.socket().exists(), "nobody was left to remove it");
    service.relay = Relay::serve(&service.dir.file());
    service.done(&["stats"]);
}

#[test]
fn another_file_is_no_place_for_it() {
    let upstream = listener();
    let dir = Dir::new();
    dir.configure(&relay_to(&[&upstream]));
    std::fs::write(dir.socket(), "precious").unwrap();
    let refused = serve(&dir);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("is no socket"), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read(dir.socket()).unwrap(), b"precious");
}

/// While sessions are waited for, they can be seen and ended.
#[test]
fn a_service_that_stops_is_still_steered() {
    let upstream = listener();
    let mut service = Service::to(&[&upstream]);
    let held = join_known(&service.relay, &upstream);
    service.relay.signal(Signal::TERM);
    service.relay.next("stopping: accepting no more, waiting for running sessions");
    assert_eq!(service.json(&["stats"])["stage"], "draining");
    let told = service.refused(&["reload"]);
    assert!(told.contains("the service is stopping"), "{told}");
    let listed = service.json(&["sessions"]);
    service.done(&["kill", &listed[0]["id"].to_string()]);
    assert_eq!(service.relay.wait().code(), Some(0));
    drop(held);
}

#[test]
fn who_asks_nobody_is_told_what_to_do() {
    let dir = Dir::new();
    let nobody = ctl(&dir.socket(), &["stats"]);
    assert_eq!(nobody.status.code(), Some(1));
    let told = text(&nobody.stderr);
    assert!(told.contains("is the service running") && told.contains("control = "), "{told}");

    std::fs::write(
        dir.file(),
        "[[relay]]\nname = \"a\"\nlisten = \":0\"\nupstream = \"built-in\"\n",
    )
    .unwrap();
    let output =
        Command::new(BINARY).args(["ctl", "stats", "-c"]).arg(dir.file()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("has no `control`"), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains('\u{1b}'));

    for args in [&["kill"][..], &["kill", "x"], &["explode"], &["enable"], &[]] {
        assert_eq!(ctl(&dir.socket(), args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn the_configuration_file_says_where_the_service_is() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let mut command = Command::new(BINARY);
    command.arg("ctl").arg("-c").arg(service.dir.file()).args(["--json", "stats"]);
    let output = command.output().unwrap();
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(stats["pid"], service.relay.pid());
}
