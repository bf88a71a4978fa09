//! A seeded simulator of a pair: both ends' programs as actors that may be interrupted at any
//! access to the shared words and at any call of the kernel's, over a TCP of its own.
//!
//! What it checks: the bytes that come out are the bytes that went in, in order; no
//! doorbell is read as data and no data taken for a doorbell; the end comes behind the last byte;
//! and when nothing moves any more, everybody has finished: nobody sleeps over something that is
//! there. A process may be killed at any step, and then its peer sees whole bytes in order and the end.
//!
//! `SOSPLICE_SEEDS=N` runs as many seeds of each kind, `SOSPLICE_SEED=N` only that one. Accesses are sequentially consistent
//! here: orders that only weak memory has are `tests/loom.rs`'s.

mod actor;
pub mod atomic;
mod programs;
mod random;
mod relatives;
mod tcp;
mod world;

use crate::stream::{self, ReadHow, WriteHow};
use actor::{Actor, begin, below, chance};
use rustix::io::Errno;
use std::io::{IoSlice, IoSliceMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use world::{Thread, World};

/// Runs a scenario with many seeds.
fn run(seeds: u64, scenario: impl Fn() -> (std::rc::Rc<World>, Vec<Actor>)) {
    let number = |name| std::env::var(name).ok().and_then(|seeds| seeds.parse::<u64>().ok());
    let seeds = match number("SOSPLICE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SOSPLICE_SEEDS").unwrap_or(seeds),
    };
    let mut totals = [0; 4];
    for seed in seeds {
        begin(seed);
        let (world, actors) = scenario();
        let names = actors.iter().map(|actor| actor.name.clone()).collect::<Vec<_>>();
        let result = catch_unwind(AssertUnwindSafe(|| {
            play(&world, actors);
            let counts = world.audit();
            totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }));
        if let Err(panic) = result {
            eprintln!("{names:?}\n{}SOSPLICE_SEED={seed}", world.state());
            std::panic::resume_unwind(panic);
        }
    }
    let [messages, overflows, bells, tcp] = totals;
    eprintln!(
        "{messages} messages, {overflows} overflows, {bells} doorbells, {tcp} bytes over TCP"
    );
}

/// Until nothing moves.
fn play(world: &World, mut actors: Vec<Actor>) {
    loop {
        world.note_reset();
        let moving = [0, 1].map(|from| world.wire.is_moving(from));
        if moving.iter().any(|moving| *moving) && chance(4) {
            let from = below(2) as usize;
            world.wire.deliver(if moving[from] { from } else { 1 - from });
            continue;
        }
        let able = (0..actors.len()).filter(|at| actors[*at].can_run()).collect::<Vec<_>>();
        if able.is_empty() {
            match moving.iter().position(|moving| *moving) {
                Some(from) => world.wire.deliver(from),
                None => break,
            }
            continue;
        }
        let at = able[below(able.len() as u64) as usize];
        if world.dooms(actors[at].end) {
            let end = actors[at].end;
            let (dead, rest) = actors.into_iter().partition(|actor| actor.end == end);
            actors = rest;
            <Vec<Actor>>::into_iter(dead).for_each(Actor::kill);
            world.die(end);
            continue;
        }
        if actors[at].is_due() {
            actors.swap_remove(at).kill();
            continue;
        }
        if !actors[at].run() {
            drop(actors.swap_remove(at));
        }
    }
    let asleep = actors.iter().map(|actor| actor.name.clone()).collect::<Vec<_>>();
    let state = world.state();
    actors.into_iter().for_each(Actor::kill);
    assert!(asleep.is_empty(), "asleep for ever: {asleep:?}\n{state}");
}

/// Both directions, every kind of reader and writer.
#[test]
fn two_programs_see_a_stream() {
    run(1000, || {
        let world = World::new();
        let mut actors = Vec::new();
        for end in 0..2 {
            actors.push(programs::reader(&world, end));
            actors.push(programs::writer(&world, end));
        }
        (world, actors)
    });
}

/// Threads of one program read the same socket.
#[test]
fn no_thread_sleeps_over_what_another_was_rung_for() {
    run(700, || {
        let world = World::new();
        let mut actors = vec![programs::reader(&world, 0)];
        actors.extend(programs::threads(&world, 1));
        actors.extend((0..2).map(|end| programs::writer(&world, end)));
        (world, actors)
    });
}

/// One of the processes is killed.
#[test]
fn a_killed_peer_leaves_whole_bytes_and_the_end() {
    run(1000, || {
        let world = World::new();
        world.doom();
        let mut actors = Vec::new();
        for end in 0..2 {
            actors.push(programs::reader(&world, end));
            actors.push(programs::writer(&world, end));
        }
        (world, actors)
    });
}

/// The connection is reset by something else.
#[test]
fn a_reset_comes_behind_the_bytes_of_the_ring() {
    run(700, || {
        let world = World::new();
        let mut actors = vec![programs::resetter(&world)];
        for end in 0..2 {
            actors.push(programs::reader(&world, end));
            actors.push(programs::writer(&world, end));
        }
        (world, actors)
    });
}

/// Mostly with room for all that is sent again.
fn roomy() -> std::rc::Rc<World> {
    if chance(4) { World::new() } else { World::with_room(5000) }
}

/// A reader goes where no ring is.
#[test]
fn a_reader_that_leaves_gets_every_byte_over_tcp() {
    run(700, || {
        let world = roomy();
        let mut actors = vec![programs::reader(&world, 0), programs::leaver(&world, 1)];
        actors.extend((0..2).map(|end| programs::writer(&world, end)));
        actors.push(programs::obliger(&world, 0));
        (world, actors)
    });
}

/// It does so while the other leaves too.
#[test]
fn both_ends_leave_at_once() {
    run(400, || {
        let world = roomy();
        let mut actors = Vec::new();
        for end in 0..2 {
            actors.push(programs::leaver(&world, end));
            actors.push(programs::writer(&world, end));
            actors.push(programs::obliger(&world, end));
        }
        (world, actors)
    });
}

/// One of the processes is killed while one leaves.
#[test]
fn a_kill_while_an_end_leaves_loses_nothing_unnoticed() {
    run(700, || {
        let world = roomy();
        world.doom();
        let mut actors = vec![programs::reader(&world, 0), programs::leaver(&world, 1)];
        actors.extend((0..2).map(|end| programs::writer(&world, end)));
        actors.push(programs::obliger(&world, 0));
        (world, actors)
    });
}

/// Other threads read while one brings the socket back to TCP.
#[test]
fn threads_that_read_meanwhile_get_each_byte_once() {
    run(300, || {
        let world = roomy();
        let mut actors = vec![programs::reader(&world, 0)];
        actors.extend(programs::threads(&world, 1));
        actors.push(programs::passer(&world, 1));
        actors.extend((0..2).map(|end| programs::writer(&world, end)));
        actors.push(programs::obliger(&world, 0));
        (world, actors)
    });
}

/// One of two relatives that share a socket is killed, and the other goes on.
#[test]
fn a_killed_relative_leaves_whole_messages() {
    run(1500, || {
        let world = World::with_room(5000);
        let mut actors = vec![relatives::reader(&world, 1)];
        actors.extend(relatives::writers(&world, 0));
        (world, actors)
    });
}

/// One of two relatives that share a socket is killed while it waits, and the other reads on.
#[test]
fn a_killed_watcher_takes_nothing_with_it() {
    run(1500, || {
        let world = World::with_room(5000);
        let mut actors = vec![relatives::watcher(&world, 1), programs::writer(&world, 0)];
        actors.extend([programs::reader(&world, 1), programs::writer(&world, 1)]);
        actors.push(programs::reader(&world, 0));
        (world, actors)
    });
}

/// The stream goes back to the ring when the reader has caught up.
#[test]
fn the_ring_is_used_again_behind_an_overflow() {
    begin(1);
    let world = World::with_room(5000);
    let (writer, reader) = (world.end(0), world.end(1));
    let (to, from) = (world.socket(0, false), world.socket(1, false));
    let how = ReadHow { now: true, low_water: 1, ..ReadHow::default() };
    for round in 1..5 {
        // Behind a read that finds nothing: into the ring, and over.
        let mut bytes = [0; 2000];
        let read = stream::recv(&reader, &from, &Thread, &mut [IoSliceMut::new(&mut bytes)], how);
        assert_eq!(read, Err(Errno::AGAIN));
        for len in [3, 1000, 3] {
            let sent = stream::send(&writer, &to, &Thread, &[IoSlice::new(&bytes[..len])], HOW);
            assert_eq!(sent, Ok(len));
        }
        while world.wire.is_moving(0) {
            world.wire.deliver(0);
        }
        let read = stream::recv(&reader, &from, &Thread, &mut [IoSliceMut::new(&mut bytes)], how);
        assert_eq!(read, Ok(1006));
        let overflows = world.header.lanes[0].written.overflows.load(Ordering::Relaxed);
        assert_eq!(overflows, round, "{}", world.state());
    }
}

const HOW: WriteHow = WriteHow { spin_ns: 0, waits: false };
