//! The programs that a pair's ends are tried with.

use super::actor::{Actor, Pause, below, chance, pause, until};
use super::world::{Thread, World, byte};
use crate::layout::UNCOUNTED;
use crate::ring::Store as _;
use crate::stream::{self, ReadHow, Tcp, WriteHow};
use rustix::io::Errno;
use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::rc::Rc;
use std::sync::atomic::Ordering;

fn size() -> usize {
    let magnitude = [1, 8, 64, 300][below(4) as usize];
    below(magnitude) as usize + 1
}

fn spin_ns() -> u64 {
    [0, 0, 300][below(3) as usize]
}

/// Lets others run so many times.
fn dawdle(turns: u64) {
    (0..turns).for_each(|_| pause(Pause::Anywhere));
}

/// Waits until everything has been read, if the reader does not itself wait for more: a reader that
/// has not been woken is then found.
fn rest(world: &Rc<World>, end: usize) {
    let world = world.clone();
    until(move || {
        let reader = &world.log[1 - end];
        let is_over = world.wire.is_reset(end) || world.is_dead[1 - end].get();
        reader.is_greedy.get() || is_over || reader.read.get() >= world.log[end].written.get()
    });
}

/// Writes, and finishes.
pub fn writer(world: &Rc<World>, end: usize) -> Actor {
    let is_blocking = chance(2);
    let total = below([1, 40, 400, 2000][below(4) as usize]);
    let world = world.clone();
    Actor::new(format!("writer {end} (blocking: {is_blocking})"), end, move || {
        let here = world.end(end);
        let socket = world.socket(end, is_blocking);
        let log = &world.log[end];
        // Or the other was killed with what it was to give back.
        let is_over = || world.wire.is_reset(end) || world.is_dead[1 - end].get();
        while log.written.get() < total {
            let position = log.written.get();
            let len = (size() as u64).min(total - position);
            let bytes = (0..len).map(|at| byte(end, position + at)).collect::<Vec<_>>();
            let (first, second) = bytes.split_at(below(len + 1) as usize);
            let from = [IoSlice::new(first), IoSlice::new(second)];
            let spin_ns = if is_blocking { spin_ns() } else { 0 };
            let how = WriteHow { spin_ns, waits: is_blocking };
            match stream::send(&here, &socket, &Thread, &from, how) {
                Ok(count) => {
                    assert!(count as u64 <= len && (count > 0 || len == 0), "{count} of {len}");
                    log.written.set(position + count as u64);
                }
                Err(Errno::AGAIN) if !is_blocking => {
                    let wire = world.wire.clone();
                    until(move || wire.is_writable(end));
                }
                Err(_) => {
                    assert!(is_over(), "a failed send\n{}", world.state());
                    break;
                }
            }
            match below(8) {
                0 => dawdle(below(20)),
                1 | 2 => rest(&world, end),
                _ => {}
            }
        }
        rest(&world, end);
        // As shutdown(2).
        if let Err(error) = stream::pin(&here, &socket, &Thread) {
            assert!(is_over(), "{error}\n{}", world.state());
        }
        log.ended.set(Some(log.written.get()));
        world.wire.finish(end);
    })
}

/// What a read was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Bytes(usize),
    Nothing,
    Over,
}

/// Reads once.
fn read(world: &World, end: usize, len: usize, how: ReadHow) -> Read {
    let here = world.end(end);
    let socket = world.socket(end, !how.now);
    let mut bytes = vec![251; len];
    let (first, second) = bytes.split_at_mut(below(len as u64 + 1) as usize);
    let mut to = [IoSliceMut::new(first), IoSliceMut::new(second)];
    match stream::recv(&here, &socket, &Thread, &mut to, how) {
        Ok(0) => {
            world.has_seen_end(end);
            Read::Over
        }
        Ok(count) => {
            world.has_read(end, &bytes[..count], how.peek);
            Read::Bytes(count)
        }
        Err(Errno::AGAIN) if how.now => Read::Nothing,
        Err(_) => {
            world.has_seen_error(end);
            Read::Over
        }
    }
}

/// One of the kinds of readers.
pub fn reader(world: &Rc<World>, end: usize) -> Actor {
    match below(3) {
        0 => blocking(world, end, true),
        1 => level(world, end),
        _ => edge(world, end),
    }
}

/// Sleeps in its reads.
fn blocking(world: &Rc<World>, end: usize, is_alone: bool) -> Actor {
    let world = world.clone();
    let (peeks, all, parks) = (is_alone && chance(4), chance(4), chance(2));
    let low_water = if is_alone && chance(4) { size() } else { 1 };
    if all || low_water > 1 {
        world.log[end].is_greedy.set(true);
    }
    let name =
        format!("blocking reader {end} (peeks: {peeks}, all: {all}, parks: {parks}, {low_water})");
    Actor::new(name, end, move || {
        loop {
            let how = ReadHow {
                peek: peeks && chance(3),
                all: all && chance(2),
                now: false,
                spin_ns: spin_ns(),
                low_water,
                may_park: parks,
            };
            // More than a socket holds is never there to be peeked.
            let len = if how.peek { below(4) as usize + 1 } else { size() };
            if read(&world, end, len, how) == Read::Over {
                break;
            }
        }
    })
}

const NOW: ReadHow =
    ReadHow { peek: false, all: false, now: true, spin_ns: 0, low_water: 1, may_park: false };

/// Sleeps in a level-triggered poll, and reads a little.
fn level(world: &Rc<World>, end: usize) -> Actor {
    let world = world.clone();
    let len = size();
    Actor::new(format!("level-triggered reader {end} ({len})"), end, move || {
        loop {
            poll(&world, end, 1);
            let how = ReadHow { peek: chance(5), ..NOW };
            match read(&world, end, len, how) {
                Read::Over => break,
                Read::Bytes(_) => {}
                Read::Nothing => panic!("readable, and nothing to read\n{}", world.state()),
            }
        }
    })
}

/// As poll(2).
fn poll(world: &World, end: usize, low_water: usize) {
    let (here, socket) = (world.end(end), world.socket(end, false));
    loop {
        let _asleep = here.asleep();
        if stream::prepare(&here, &socket, &Thread, low_water).unwrap_or(true) {
            return;
        }
        let wire = world.wire.clone();
        until(move || wire.is_readable(end));
        if stream::settle(&here, &socket, &Thread, low_water).unwrap_or(true) {
            return;
        }
    }
}

/// Sleeps in an edge-triggered poll, and reads until nothing is there or a read is short.
fn edge(world: &Rc<World>, end: usize) -> Actor {
    let world = world.clone();
    let len = size();
    let trusts_short = chance(2);
    let name = format!("edge-triggered reader {end} ({len}, short: {trusts_short})");
    Actor::new(name, end, move || {
        let (here, socket) = (world.end(end), world.socket(end, false));
        let mut edges = 0;
        loop {
            // A poll: what the kernel has told once it does not tell again.
            loop {
                let _asleep = here.asleep();
                if stream::prepare(&here, &socket, &Thread, 1).unwrap_or(true) {
                    break;
                }
                let wire = world.wire.clone();
                until(move || wire.edges(end) > edges);
                edges = world.wire.edges(end);
                if stream::settle(&here, &socket, &Thread, 1).unwrap_or(true) {
                    break;
                }
            }
            loop {
                match read(&world, end, len, NOW) {
                    Read::Over => return,
                    Read::Nothing => break,
                    // An end that has come meanwhile would be told by EPOLLRDHUP.
                    Read::Bytes(count)
                        if count < len && trusts_short && !world.wire.has_ended(end) =>
                    {
                        break;
                    }
                    Read::Bytes(_) => {}
                }
            }
        }
    })
}

/// Threads that read the same socket, each in its way.
pub fn threads(world: &Rc<World>, end: usize) -> Vec<Actor> {
    world.log[end].is_shared.set(true);
    let mut actors = Vec::new();
    for _ in 0..below(3) + 1 {
        match below(4) {
            0 => actors.push(blocking(world, end, false)),
            1 => actors.push(polling(world, end)),
            2 => actors.push(prober(world, end)),
            _ => actors.extend(pool(world, end)),
        }
    }
    // Somebody must read to the end.
    actors.push(blocking(world, end, false));
    actors
}

/// As [`level`], and others may be quicker.
fn polling(world: &Rc<World>, end: usize) -> Actor {
    let world = world.clone();
    let (len, low_water) = (size(), if chance(2) { 1 } else { size() });
    Actor::new(format!("polling thread {end} ({len}, {low_water})"), end, move || {
        loop {
            poll(&world, end, low_water);
            if read(&world, end, len, NOW) == Read::Over {
                break;
            }
        }
    })
}

/// Reads now and then without waiting.
fn prober(world: &Rc<World>, end: usize) -> Actor {
    let world = world.clone();
    Actor::new(format!("prober {end}"), end, move || {
        for _ in 0..below(40) {
            let len = if chance(2) { 1 } else { size() };
            if read(&world, end, len, NOW) == Read::Over {
                break;
            }
            dawdle(below(10));
        }
    })
}

/// A thread that sleeps in an edge-triggered poll while another reads.
fn pool(world: &Rc<World>, end: usize) -> [Actor; 2] {
    #[derive(Clone, Copy, PartialEq)]
    enum Worker {
        Idle,
        Reads,
        Gone,
    }
    let state = Rc::new(Cell::new(Worker::Idle));
    let (theirs, worker) = (world.clone(), state.clone());
    let poller = Actor::new(format!("poller {end}"), end, move || {
        let world = theirs;
        let (here, socket) = (world.end(end), world.socket(end, false));
        let head = || world.header.lanes[1 - end].written.head.load(Ordering::Relaxed);
        let mut told = None;
        let mut edges = 0;
        while state.get() != Worker::Gone {
            let asleep = here.asleep();
            let is_there = stream::prepare(&here, &socket, &Thread, 1).unwrap_or(true);
            let now = head();
            // What has been told is not told again, unless more has come.
            if !(is_there && told != Some(now)) {
                let (wire, state) = (world.wire.clone(), state.clone());
                until(move || wire.edges(end) > edges || state.get() == Worker::Gone);
                edges = world.wire.edges(end);
                drop(asleep);
                if !stream::settle(&here, &socket, &Thread, 1).unwrap_or(true) {
                    continue;
                }
            }
            told = Some(now);
            if state.get() != Worker::Gone {
                state.set(Worker::Reads);
            }
        }
    });
    let world = world.clone();
    let len = size();
    let reader = Actor::new(format!("worker {end} ({len})"), end, move || {
        loop {
            let waits = worker.clone();
            until(move || waits.get() != Worker::Idle);
            // Whoever tells it something while it reads makes it read once more.
            worker.set(Worker::Idle);
            loop {
                match read(&world, end, len, NOW) {
                    Read::Over => {
                        worker.set(Worker::Gone);
                        return;
                    }
                    Read::Nothing => break,
                    Read::Bytes(count) if count < len && !world.wire.has_ended(end) => break,
                    Read::Bytes(_) => {}
                }
            }
        }
    });
    [poller, reader]
}

const PATIENCE_NS: u64 = 5_000_000_000;

/// Reads for a while, then leaves the ring, and reads from the socket alone.
pub fn leaver(world: &Rc<World>, end: usize) -> Actor {
    let world = world.clone();
    Actor::new(format!("leaver {end}"), end, move || {
        for _ in 0..below(20) {
            if read(&world, end, size(), ReadHow { now: chance(2), ..NOW }) == Read::Over {
                return;
            }
        }
        if !leave(&world, end) {
            world.log[end].saw_error.set(true);
            return;
        }
        let socket = world.socket(end, true);
        loop {
            let mut bytes = vec![251; size()];
            match socket.recv(&mut [IoSliceMut::new(&mut bytes)], false) {
                Ok(0) => break,
                Ok(count) => world.has_read(end, &bytes[..count], false),
                Err(Errno::AGAIN) => {
                    let wire = world.wire.clone();
                    until(move || wire.is_readable(end));
                }
                Err(_) => return world.has_seen_error(end),
            }
        }
        world.has_seen_end(end);
    })
}

/// Brings the socket back to TCP at some time, while others use it.
pub fn passer(world: &Rc<World>, end: usize) -> Actor {
    let world = world.clone();
    Actor::new(format!("passer {end}"), end, move || {
        dawdle(below([10, 100, 1000][below(3) as usize]));
        leave(&world, end);
    })
}

/// Everything comes over TCP from now on; false where the connection has to be reset.
fn leave(world: &World, end: usize) -> bool {
    let (here, socket) = (world.end(end), world.socket(end, true));
    let left = stream::leave(&here, &socket, &Thread, PATIENCE_NS);
    if left.is_err() {
        // What the peer cannot send again, for it has ended or left; what the socket's buffers do not hold; and what
        // goes back by a few bytes at a time takes too long.
        let stopped = world.header.lanes[1 - end].written.stopped.load(Ordering::Relaxed);
        let has_gone = world.wire.has_ended(end) || world.is_dead[1 - end].get();
        let cannot = has_gone || stopped == UNCOUNTED;
        let is_tiny = here.incoming.size() < 64;
        let is_excused = cannot || is_tiny || world.wire.room < 5000;
        assert!(is_excused, "{left:?}\n{}", world.state());
        world.wire.reset(0);
        world.wire.reset(1);
    }
    // Nobody reads from the ring any more.
    world.has_left[end].set(true);
    left.is_ok()
}

/// Does what a peer that leaves asks for.
pub fn obliger(world: &Rc<World>, end: usize) -> Actor {
    let world = world.clone();
    Actor::new(format!("obliger {end}"), end, move || {
        let (here, socket) = (world.end(end), world.socket(end, false));
        loop {
            let theirs = world.clone();
            let is_over = move || {
                let peer = &theirs.log[1 - end];
                peer.saw_end.get() || peer.saw_error.get() || theirs.is_dead[1 - end].get()
            };
            let (theirs, over) = (world.clone(), is_over.clone());
            until(move || theirs.end(end).is_asked_to_leave() || over());
            if is_over() {
                break;
            }
            let _ = stream::oblige(&here, &socket, &Thread);
            pause(Pause::Anywhere);
        }
    })
}

/// Resets the connection at some time.
pub fn resetter(world: &Rc<World>) -> Actor {
    let world = world.clone();
    Actor::new("resetter", 2, move || {
        dawdle(below([10, 100, 1000][below(3) as usize]));
        world.wire.reset(0);
        world.wire.reset(1);
    })
}
