//! Reloads that are asked for on the socket, beside those by SIGHUP.

use super::service::{Service, ctl, relay_to};
use crate::support::peers::{join_known, listener};
use crate::support::wait_until;
use rustix::process::Signal;

const MORE: &str = "[[relay]]\nname = \"more\"\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n";

#[test]
fn a_reload_is_answered_with_what_was_done_or_why_not() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let whole = relay_to(&[&upstream]);
    service.dir.configure(&format!("{whole}{MORE}"));
    let told = service.done(&["reload"]);
    assert_eq!(told, "reloaded: 2 relays, 1 upstream, 1 new listener, 0 gone\n");
    assert_eq!(service.json(&["stats"])["relays"][1]["relay"], "more");

    service.dir.configure("[[relay]]\nname = \"db\"\nlissten = 1\n");
    let told = service.refused(&["reload"]);
    assert!(told.contains("lissten"), "{told}");
    service.relay.next("not reloaded: what runs goes on as it is");
    join_known(&service.relay, &upstream);

    service.dir.configure(&whole);
    service.relay.signal(Signal::HUP);
    wait_until("the signal has done it", || service.json(&["stats"])["reloads"] == 2);
    let stats = service.json(&["stats"]);
    assert_eq!(
        (&stats["reloads_refused"], stats["relays"].as_array().unwrap().len()),
        (&1.into(), 1)
    );
}

/// What the administrator and the counts say is not forgotten.
#[test]
fn a_reload_keeps_counts_and_the_administrators_word() {
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    join_known(&service.relay, &upstream);
    service.relay.next_closed();
    service.done(&["disable", "u"]);
    service.done(&["reload"]);
    assert_eq!(service.json(&["upstreams"])[0]["admin"], "disabled");
    assert_eq!(service.json(&["stats"])["relays"][0]["accepted"], 1);
}

/// A pipe in the file's place: the reload reads until the test has written all of it.
struct SlowFile(std::path::PathBuf);

impl SlowFile {
    fn in_place_of_the_file(service: &Service) -> Self {
        let file = service.dir.file();
        std::fs::remove_file(&file).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        Self(file)
    }

    /// Done once the reload has opened it.
    fn open(&self) -> std::fs::File {
        std::fs::File::options().write(true).open(&self.0).unwrap()
    }
}

#[test]
fn others_are_served_while_a_reload_takes_its_time() {
    use std::io::Write;
    let upstream = listener();
    let service = Service::to(&[&upstream]);
    let text = std::fs::read_to_string(service.dir.file()).unwrap();
    let slow = SlowFile::in_place_of_the_file(&service);
    std::thread::scope(|scope| {
        let socket = service.dir.socket();
        let reload = scope.spawn(move || ctl(&socket, &["reload"]));
        let mut writer = slow.open();
        assert_eq!(service.json(&["stats"])["reloads"], 0);
        assert_eq!(service.json(&["upstreams"])[0]["admin"], "enabled");
        service.done(&["disable", "u"]);
        service.done(&["enable", "u"]);
        join_known(&service.relay, &upstream);
        writer.write_all(text.as_bytes()).unwrap();
        drop(writer);
        assert!(reload.join().unwrap().stdout.starts_with(b"reloaded: "));
    });
    assert_eq!(service.json(&["stats"])["reloads"], 1);
}

#[test]
fn the_end_does_not_wait_for_a_reload() {
    let upstream = listener();
    let mut service = Service::to(&[&upstream]);
    let slow = SlowFile::in_place_of_the_file(&service);
    service.relay.signal(Signal::HUP);
    let _writer = slow.open();
    service.relay.stop();
}
