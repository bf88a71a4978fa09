//! Forked relatives that write to the same socket, and one of them is killed.
//!
//! They write messages of a few bytes: who (2 is the survivor after the other's death), how long, which,
//! and bytes that follow from these.
//! A message is one send and goes one way, so it comes out whole.

use super::actor::{Actor, Pause, below, chance, lives, pause, until};
use super::world::{Thread, World};
use crate::stream::{self, ReadHow, WriteHow};
use rustix::io::Errno;
use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::rc::Rc;

fn message(who: u8, number: u8) -> Vec<u8> {
    let len = number % 3;
    let mut message = vec![who, len, number];
    message.extend((0..len).map(|at| number ^ at ^ (who << 4)));
    message
}

/// Two, of which one is killed at some time. The other sends the FIN.
pub fn writers(world: &Rc<World>, end: usize) -> [Actor; 2] {
    let is_done = Rc::new(Cell::new(false));
    let done = is_done.clone();
    let mut doomed = writer(world, end, || 0, move || done.set(true));
    doomed.fate = Some(below([10, 100, 1000][below(3) as usize]));
    let (id, wire, ending) = (doomed.id, world.wire.clone(), world.clone());
    let survivor = writer(
        world,
        end,
        move || if lives(id) { 1 } else { 2 },
        move || {
            until(move || is_done.get() || !lives(id));
            wire.finish(end);
            // As close(2).
            ending.end(end).close();
            stream::unpark_all(&ending.end(end), &ending.socket(end, false));
        },
    );
    [doomed, survivor]
}

fn writer(
    world: &Rc<World>,
    end: usize,
    who: impl Fn() -> u8 + 'static,
    finish: impl FnOnce() + 'static,
) -> Actor {
    let world = world.clone();
    let count = below(60) as u8;
    Actor::new(format!("relative {} of {end}", who()), end, move || {
        let here = world.end(end);
        let socket = world.socket(end, false);
        for number in 0..count {
            let bytes = message(who(), number);
            let sent =
                stream::send(&here, &socket, &Thread, &[IoSlice::new(&bytes)], WriteHow::default());
            match sent {
                Ok(sent) if sent == bytes.len() => {}
                _ => panic!("{sent:?} of {}\n{}", bytes.len(), world.state()),
            }
            let log = &world.log[end];
            log.written.set(log.written.get() + bytes.len() as u64);
            if chance(3) {
                let world = world.clone();
                until(move || {
                    let is_read = world.log[1 - end].read.get() >= world.log[end].written.get();
                    is_read || world.wire.is_reset(1 - end)
                });
            }
        }
        finish();
    })
}

/// Waits for bytes and looks at them, and takes none; it is killed at some time.
pub fn watcher(world: &Rc<World>, end: usize) -> Actor {
    let world = world.clone();
    let turns = below(300);
    let mut watcher = Actor::new(format!("watcher {end}"), end, move || {
        let (here, socket) = (world.end(end), world.socket(end, false));
        for _ in 0..turns {
            let asleep = here.asleep();
            let is_there = stream::prepare(&here, &socket, &Thread, 1);
            pause(Pause::Anywhere);
            let is_there = is_there
                .and_then(|is_there| Ok(is_there || stream::settle(&here, &socket, &Thread, 1)?));
            drop(asleep);
            let how = ReadHow { peek: true, now: true, low_water: 1, ..ReadHow::default() };
            let mut bytes = [0; 3];
            let to = &mut [IoSliceMut::new(&mut bytes)];
            let seen = stream::recv(&here, &socket, &Thread, to, how);
            for error in [is_there.err(), seen.err()].into_iter().flatten() {
                let is_told = error == Errno::AGAIN || world.wire.is_reset(end);
                assert!(is_told, "{error}\n{}", world.state());
            }
        }
    });
    watcher.fate = Some(below([3, 10, 30, 100][below(4) as usize]));
    watcher
}

/// Reads the messages, and looks at each.
pub fn reader(world: &Rc<World>, end: usize) -> Actor {
    let world = world.clone();
    Actor::new(format!("reader {end} of messages"), end, move || {
        let (here, socket) = (world.end(end), world.socket(end, true));
        let mut bytes = Vec::new();
        let mut next = [0, 0];
        let mut is_late = false;
        loop {
            let mut buffer = vec![251; below(12) as usize + 1];
            let to = &mut [IoSliceMut::new(&mut buffer)];
            let how = ReadHow { low_water: 1, may_park: chance(2), ..ReadHow::default() };
            match stream::recv(&here, &socket, &Thread, to, how) {
                Ok(0) => break,
                Ok(count) => bytes.extend(&buffer[..count]),
                Err(_) => {
                    assert!(world.wire.is_reset(end), "an error\n{}", world.state());
                    break;
                }
            }
            let log = &world.log[end];
            while bytes.len() >= 2 && bytes.len() >= 3 + usize::from(bytes[1]) {
                let rest = bytes.split_off(3 + usize::from(bytes[1]));
                let who = bytes[0];
                is_late |= who == 2;
                assert!(!(is_late && who == 0), "bytes of the dead behind those of the living");
                assert_eq!(bytes, message(who, bytes[2]), "a message\n{}", world.state());
                let next = &mut next[usize::from(who != 0)];
                assert_eq!(bytes[2], *next, "a message is missing\n{}", world.state());
                *next += 1;
                log.read.set(log.read.get() + bytes.len() as u64);
                bytes = rest;
            }
        }
        assert!(bytes.is_empty() || world.wire.is_reset(end), "half a message {bytes:?}");
        world.log[end].saw_end.set(true);
        world.log[1 - end].saw_end.set(true);
    })
}
