//! The datagram mover over scripted sockets.

use super::*;
use crate::datagram::Message;
use proptest::prelude::*;
use std::collections::VecDeque;

/// A source with a queue, a drain with a list, and errors where the script has them.
#[derive(Default)]
struct Script {
    queue: VecDeque<Vec<Vec<u8>>>,
    /// How many messages to the kernel each call to send takes; no more: all.
    room: VecDeque<usize>,
    send_errors: VecDeque<Option<Errno>>,
    given: Vec<Vec<u8>>,
    over: bool,
    takes: usize,
    sends: usize,
}

impl Script {
    /// Datagrams that arrive one by one.
    fn with(datagrams: &[Vec<u8>]) -> Self {
        Self { queue: datagrams.iter().map(|d| vec![d.clone()]).collect(), ..Self::default() }
    }

    fn left(&self) -> Vec<Vec<u8>> {
        self.queue.iter().flatten().cloned().collect()
    }
}

impl Ends for Script {
    fn receive(&mut self, batch: &mut Batch, max: usize) -> io::Result<Received> {
        self.takes += 1;
        batch.clear();
        while batch.messages.len() < max {
            let Some(joined) = self.queue.pop_front() else { break };
            let at = Batch::slot(batch.messages.len());
            let segment = joined[0].len() as u32;
            let bytes: Vec<u8> = joined.concat();
            batch.buffer[at..at + bytes.len()].copy_from_slice(&bytes);
            batch.messages.push(Message { at: at as u32, len: bytes.len() as u32, segment });
        }
        Ok(Received { dry: batch.messages.len() < max, dropped: None })
    }

    fn next_len(&mut self) -> io::Result<Option<usize>> {
        Ok(self.queue.front().map(|joined| joined.iter().map(Vec::len).sum()))
    }

    fn send(&mut self, batch: &Batch, plan: &Plan) -> io::Result<usize> {
        self.sends += 1;
        if let Some(Some(errno)) = self.send_errors.pop_front() {
            return Err(errno.into());
        }
        let count = self.room.pop_front().unwrap_or(usize::MAX).min(plan.groups.len());
        let mut pieces = plan.pieces.iter();
        for group in &plan.groups[..count] {
            let mut bytes = Vec::new();
            for piece in pieces.by_ref().take(group.pieces as usize) {
                bytes.extend(&batch.buffer[piece.at as usize..(piece.at + piece.len) as usize]);
            }
            if bytes.is_empty() {
                self.given.push(Vec::new());
            }
            self.given.extend(bytes.chunks(group.segment.max(1) as usize).map(<[u8]>::to_vec));
        }
        Ok(count)
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

/// Datagrams of these lengths, each with bytes of its own.
fn datagrams(lengths: &[usize]) -> Vec<Vec<u8>> {
    let bytes = |(i, &len): (usize, &usize)| (0..len).map(|b| (b * 7 + i * 13) as u8).collect();
    lengths.iter().enumerate().map(bytes).collect()
}

fn step(mover: &mut Mover, script: &mut Script) -> Then {
    mover.step(script, &mut Store::default(), Instant::now(), 1 << 20).then
}

fn mover(limits: Limits) -> Mover {
    Mover::new(limits, 100_000, Instant::now())
}

fn max(bytes: u64) -> Limits {
    Limits { max: Some(bytes), ..Limits::default() }
}

#[test]
fn a_batch_is_two_calls() {
    let all = datagrams(&[100; 50]);
    let mut script = Script::with(&all);
    let mut mover = mover(Limits::default());
    assert_eq!(step(&mut mover, &mut script), Then::Wait(Need::Source));
    assert_eq!(script.given, all);
    assert_eq!((script.takes, script.sends), (1, 1));
    assert_eq!(mover.carried(), Carried { gso: 5000, datagrams: 50, ..Carried::default() });
}

#[test]
fn a_copy_is_a_call_each() {
    let all = datagrams(&[10, 0, 10]);
    let mut script = Script::with(&all);
    let mut mover = mover(Limits { engine: EngineChoice::Copy, ..Limits::default() });
    assert_eq!(step(&mut mover, &mut script), Then::Wait(Need::Source));
    assert_eq!((script.given, script.sends), (all, 3));
    assert_eq!(mover.carried(), Carried { plain: 20, datagrams: 3, ..Carried::default() });
}

#[test]
fn max_is_exact_and_the_rest_stays() {
    let all = datagrams(&[100, 100, 100, 7]);
    let mut script = Script::with(&all);
    let mut mover = mover(max(300));
    assert_eq!(step(&mut mover, &mut script), Then::End(Cause::Max));
    assert_eq!(script.given, all[..3]);
    assert_eq!(script.left(), all[3..]);
}

#[test]
fn a_datagram_across_the_max_stays_whole() {
    let all = datagrams(&[100, 0, 100, 7]);
    let mut script = Script::with(&all);
    let mut mover = mover(max(150));
    assert_eq!(step(&mut mover, &mut script), Then::End(Cause::MaxInside));
    assert_eq!(script.given, all[..2]);
    assert_eq!(script.left(), all[2..]);
    assert!(mover.into_end().residue.is_empty());
}

#[test]
fn a_datagram_beyond_the_send_buffer_stays_whole() {
    let all = datagrams(&[100, 30_000, 100]);
    let mut script = Script::with(&all);
    let mut mover = Mover::new(Limits::default(), 10_000, Instant::now());
    assert_eq!(step(&mut mover, &mut script), Then::End(Cause::MessageTooLong));
    assert_eq!(script.given, all[..1]);
    assert_eq!(script.left(), all[1..]);
}

#[test]
fn a_full_drain_keeps_the_order() {
    let all = datagrams(&[10, 20, 30, 30, 30, 40]);
    let mut script = Script::with(&all);
    script.room = [1, 0].into();
    let mut mover = mover(Limits::default());
    assert_eq!(step(&mut mover, &mut script), Then::Wait(Need::Drain));
    script.room = [0].into();
    assert_eq!(step(&mut mover, &mut script), Then::Wait(Need::Drain));
    assert_eq!(step(&mut mover, &mut script), Then::Wait(Need::Source));
    assert_eq!(script.given, all);
}

#[test]
fn a_failed_drain_leaves_the_rest_with_its_boundaries() {
    let all = datagrams(&[10, 20, 0, 20, 5]);
    let mut script = Script::with(&all);
    script.room = [1].into();
    script.send_errors = [None, Some(Errno::CONNREFUSED)].into();
    let mut mover = mover(Limits::default());
    let cause = Cause::DrainError(Errno::CONNREFUSED.into());
    assert_eq!(step(&mut mover, &mut script), Then::End(cause));
    assert_eq!(script.given, all[..1]);
    let end = mover.into_end();
    assert_eq!(end.boundaries, [20, 0, 20, 5]);
    assert_eq!(end.residue, all[1..].concat());
}

#[test]
fn refused_segments_go_one_by_one() {
    for errno in [Errno::IO, Errno::INVAL] {
        let all = datagrams(&[100; 5]);
        let mut script = Script::with(&all);
        script.send_errors = [Some(errno)].into();
        let mut mover = mover(Limits::default());
        assert_eq!(step(&mut mover, &mut script), Then::Wait(Need::Source));
        assert_eq!(script.given, all);
        assert_eq!(mover.carried().engine(), "udp-mmsg", "{errno}");
    }
}

#[test]
fn an_end_of_reading_is_told_behind_the_last_datagram() {
    let mut script = Script::with(&datagrams(&[1]));
    script.over = true;
    let mut mover = mover(Limits::default());
    assert_eq!(step(&mut mover, &mut script), Then::End(Cause::Eof));
    assert_eq!(script.given.len(), 1);
}

#[test]
fn an_empty_datagram_is_movement() {
    let begin = Instant::now();
    let limits = Limits { idle: Some(Duration::from_secs(1)), ..Limits::default() };
    let mut mover = Mover::new(limits, 100_000, begin);
    let mut script = Script::with(&datagrams(&[0]));
    let mut store = Store::default();
    let late = begin + Duration::from_secs(2);
    assert_eq!(mover.step(&mut script, &mut store, late, 1).then, Then::Wait(Need::Source));
    assert_eq!(mover.deadline(), Some(late + Duration::from_secs(1)));
    let later = late + Duration::from_secs(1);
    assert_eq!(mover.step(&mut script, &mut store, later, 1).then, Then::End(Cause::Idle));
}

proptest! {
    #[test]
    fn what_goes_out_is_what_came_in(
        lengths in proptest::collection::vec(prop_oneof![Just(0usize), Just(100), 1..3000usize], 1..200),
        joins in proptest::collection::vec(1..8usize, 200),
        room in proptest::collection::vec(0..20usize, 0..50),
        refusals in proptest::collection::vec(proptest::option::weighted(0.1, Just(Errno::INVAL)), 0..30),
        max in proptest::option::of(0..200_000u64),
    ) {
        let all = datagrams(&lengths);
        // What the kernel joins: equal ones, with one shorter behind them.
        let mut script = Script { room: room.into(), ..Script::default() };
        let mut joins = joins.into_iter();
        for datagram in &all {
            let joined = script.queue.back_mut().filter(|joined| {
                let (first, last) = (joined[0].len(), joined[joined.len() - 1].len());
                max.is_none() && first == last && first > 0 && (1..=first).contains(&datagram.len())
            });
            match joined {
                Some(joined) if joined.len() < joins.next().unwrap_or(1) => joined.push(datagram.clone()),
                _ => script.queue.push_back(vec![datagram.clone()]),
            }
        }
        script.send_errors = refusals.into();
        let mut mover = mover(Limits { max, ..Limits::default() });
        let mut last = Then::Wait(Need::Turn);
        for _ in 0..1000 {
            last = step(&mut mover, &mut script);
            if matches!(last, Then::End(_) | Then::Wait(Need::Source)) {
                break;
            }
        }
        let end = mover.into_end();
        // INVAL for a single datagram is no fault of the segments: it ends the splice.
        let mut together = script.given.clone();
        let mut residue = &end.residue[..];
        for len in &end.boundaries {
            together.push(residue[..*len].to_vec());
            residue = &residue[*len..];
        }
        prop_assert!(residue.is_empty());
        together.extend(script.left());
        prop_assert_eq!(&together, &all);
        prop_assert_eq!(end.carried.datagrams as usize, script.given.len());
        prop_assert_eq!(end.bytes as usize, script.given.iter().map(Vec::len).sum::<usize>());
        if let (Some(max), Then::End(Cause::Max)) = (max, last) {
            prop_assert_eq!(end.bytes, max);
        }
        prop_assert!(end.bytes <= max.unwrap_or(u64::MAX));
    }
}
