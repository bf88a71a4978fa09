//! The targets on their seeds and on changes of these, and the seeds on what is written here.

use super::*;
use crate::broker::Ask;
use crate::broker::policy::Policy;
use crate::wire::{Announcement, CONTROL, Reason};

#[path = "../../../../fuzz/replay.rs"]
mod replay;

use replay::{replay, seeds_are};

fn packets() -> Vec<Vec<u8>> {
    let (local, peer) = ([127, 0, 0, 1], [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let (local, peer) = ((local, 6379).into(), (peer, 4711).into());
    let announcement = Announcement { token: 1, local, peer, netns: 2, ring_bytes: 1 << 16 };
    let asked = [
        Request::Hello,
        Request::Expect,
        Request::Announce(announcement),
        Request::Withdraw { token: 1 },
    ];
    let asked = asked.map(|request| request.encode().to_vec());
    let told = [
        Reply::Welcome,
        Reply::Offer { token: 1, role: 1, ring_bytes: 1 << 16 },
        Reply::Refused { token: 1, reason: Reason::NoMemory },
    ];
    let told = told.map(|reply| reply.encode().to_vec());
    let policy = Policy { cgroups: vec!["/a".to_owned()], ports: vec![80], ..Policy::default() };
    let operator = [Ask::Enable(policy), Ask::Disable, Ask::Status].map(|question| {
        let text = serde_json::to_vec(&question).expect("JSON");
        [&CONTROL.to_le_bytes()[..], &text].concat()
    });
    asked.into_iter().chain(told).chain(operator).collect()
}

fn variables() -> Vec<Vec<u8>> {
    let all = b"dir=/run/sosplice/local;busy=50;ring=64;after=4;ports=6379,80;loopback=1";
    vec![all.to_vec(), b"dir=/a%3bb%25".to_vec()]
}

#[test]
fn seeds_are_what_is_written_here() {
    seeds_are("ring_packet", &packets());
    seeds_are("ring_settings", &variables());
}

#[test]
fn packets_near_the_seeds() {
    replay("ring_packet", ring_packet);
}

#[test]
fn variables_near_the_seeds() {
    replay("ring_settings", ring_settings);
}
