//! The mover against scripted sockets and a fake clock: every order of short reads,
//! short writes, would-block on either end, end of file, errors, limits.

use super::*;
use crate::store::BUFFER_BYTES;
use proptest::prelude::*;
use rustix::io::Errno;
use std::collections::VecDeque;

/// The byte at a position of the stream: any loss, doubling or swap shows.
fn byte(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn bytes(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(byte).collect()
}

/// What a call on the source meets.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// So many bytes are queued; `dry` when the driver knows that it was all.
    Queued {
        count: usize,
        dry: bool,
    },
    Empty,
    Eof,
    /// Bytes that splice(2) does not pass; recv gets one.
    Urgent,
    Fail(Errno),
}

/// What a call on the drain meets.
#[derive(Clone, Copy, Debug)]
enum Drain {
    Room(usize),
    Full,
    Refuse,
    Fail(Errno),
}

/// Sockets that follow a script, and answer Empty and Full behind its end.
#[derive(Default)]
struct Script {
    source: VecDeque<Source>,
    drain: VecDeque<Drain>,
    taken: u64,
    given: Vec<u8>,
    /// The last answers: what a wait must rest on.
    source_said_empty: bool,
    drain_said_full: bool,
    calls: usize,
    /// Every mark that was asked for, and whether the source knows one.
    marks: Vec<Option<u32>>,
    has_no_mark: bool,
    /// What the drain says that it takes, before each take; behind its end all.
    rooms: VecDeque<usize>,
}

impl Script {
    fn new(source: &[Source], drain: &[Drain]) -> Self {
        Self {
            source: source.iter().copied().collect(),
            drain: drain.iter().copied().collect(),
            ..Self::default()
        }
    }

    /// `write` puts bytes where the caller wants them and says how many went in.
    fn take(
        &mut self,
        room: usize,
        splice: bool,
        write: impl FnOnce(&[u8]) -> usize,
    ) -> io::Result<Take> {
        self.calls += 1;
        assert!(room > 0, "a read with no room looks like an end of file");
        self.source_said_empty = false;
        let (count, dry) = match self.source.pop_front() {
            None | Some(Source::Empty) => {
                self.source_said_empty = true;
                return Ok(Take::Empty);
            }
            Some(Source::Eof) => {
                self.source.push_front(Source::Eof);
                return Ok(Take::Eof);
            }
            Some(Source::Fail(errno)) => return Err(errno.into()),
            Some(Source::Urgent) if splice => {
                self.source.push_front(Source::Urgent);
                return Ok(Take::Stuck);
            }
            Some(Source::Urgent) => (1, false),
            Some(Source::Queued { count, dry }) => (count.max(1), dry),
        };
        let wrote = write(&bytes(self.taken..self.taken + count.min(room) as u64));
        self.taken += wrote as u64;
        // What did not fit is still queued.
        if wrote < count {
            self.source.push_front(Source::Queued { count: count - wrote, dry });
        }
        let dry = dry && wrote == count;
        self.source_said_empty = dry;
        Ok(Take::Bytes { count: wrote, dry })
    }

    fn put(
        &mut self,
        len: usize,
        splice: bool,
        read: impl FnOnce(&mut Vec<u8>, usize),
    ) -> io::Result<Put> {
        self.calls += 1;
        assert!(len > 0);
        self.drain_said_full = false;
        match self.drain.pop_front() {
            None | Some(Drain::Full) => {
                self.drain_said_full = true;
                Ok(Put::Full)
            }
            Some(Drain::Fail(errno)) => Err(errno.into()),
            Some(Drain::Refuse) if splice => Ok(Put::Refused),
            Some(Drain::Refuse) => self.put(len, splice, read),
            Some(Drain::Room(room)) => {
                let count = room.clamp(1, len);
                if room > count {
                    self.drain.push_front(Drain::Room(room - count));
                }
                read(&mut self.given, count);
                Ok(Put::Bytes(count))
            }
        }
    }
}

impl Ends for Script {
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Take> {
        self.take(buf.len(), false, |bytes| {
            buf[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        })
    }

    fn fill(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Take> {
        self.take(len, true, |bytes| pipe.write(bytes).expect("the lent pipe is empty"))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<Put> {
        self.put(bytes.len(), false, |given, count| given.extend_from_slice(&bytes[..count]))
    }

    fn drain(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Put> {
        self.put(len, true, |given, count| {
            let mut buf = vec![0; count];
            let mut read = 0;
            while read < count {
                read += pipe.read(&mut buf[read..]).expect("the pipe holds what the mover says");
            }
            given.extend_from_slice(&buf);
        })
    }

    fn low_water(&mut self, bytes: Option<u32>) -> io::Result<()> {
        if self.has_no_mark {
            return Err(Errno::OPNOTSUPP.into());
        }
        self.marks.push(bytes);
        Ok(())
    }

    fn room(&mut self) -> io::Result<usize> {
        Ok(self.rooms.pop_front().unwrap_or(usize::MAX))
    }
}

const ROOM: Drain = Drain::Room(usize::MAX);

fn queued(count: usize) -> Source {
    Source::Queued { count, dry: false }
}

fn step(mover: &mut Mover, script: &mut Script) -> Step {
    mover.step(script, &mut Store::new(64 * 1024, 4), Instant::now(), STEP_BUDGET_BYTES)
}

fn mover(limits: Limits) -> Mover {
    Mover::new(limits, true, Instant::now())
}

#[test]
fn eof_is_told_only_behind_the_last_byte() {
    // The end of file came with the data while the drain was full: a FIN forwarded now
    // would cut the stream.
    for engine in [EngineChoice::Copy, EngineChoice::Pipe] {
        let mut mover = mover(Limits { engine, ..Limits::default() });
        let mut script = Script::new(&[queued(100), Source::Eof], &[Drain::Room(30)]);
        assert_eq!(step(&mut mover, &mut script).then, Then::Wait(Need::Drain));
        assert_eq!(mover.held(), 70);
        script.drain.push_back(Drain::Room(69));
        assert_eq!(step(&mut mover, &mut script).then, Then::Wait(Need::Drain));
        script.drain.push_back(ROOM);
        assert_eq!(step(&mut mover, &mut script).then, Then::End(Cause::Eof));
        assert_eq!(script.given, bytes(0..100));
        assert!(mover.into_end().residue.is_empty());
    }
}

#[test]
fn max_leaves_the_rest_on_the_source() {
    for engine in [EngineChoice::Copy, EngineChoice::Pipe, EngineChoice::Auto] {
        for max in [0, 1, 4095, BUFFER_BYTES as u64, 150_000] {
            let mut mover = mover(Limits { max: Some(max), engine, ..Limits::default() });
            let mut script = Script::new(&[queued(200_000)], &[ROOM]);
            assert_eq!(step(&mut mover, &mut script).then, Then::End(Cause::Max));
            assert_eq!(script.taken, max);
            assert_eq!(script.given, bytes(0..max));
            assert_eq!(mover.into_end().bytes, max);
        }
    }
}

#[test]
fn max_is_told_only_when_the_drain_has_it_all() {
    let mut mover = mover(Limits { max: Some(10), ..Limits::default() });
    let mut script = Script::new(&[queued(20)], &[Drain::Room(9)]);
    assert_eq!(step(&mut mover, &mut script).then, Then::Wait(Need::Drain));
    script.drain.push_back(ROOM);
    assert_eq!(step(&mut mover, &mut script).then, Then::End(Cause::Max));
}

#[test]
fn bulk_goes_through_the_pipe_and_small_messages_come_back_to_copy() {
    let mut mover = mover(Limits::default());
    let mut script = Script::new(&[queued(BUFFER_BYTES), queued(60_000)], &[ROOM]);
    step(&mut mover, &mut script);
    assert_eq!(
        mover.carried(),
        Carried { copy: BUFFER_BYTES as u64, pipe: 60_000, ..Carried::default() }
    );
    // Ping-pong on the same connection: a few small moves, then copy for good.
    for _ in 0..20 {
        script.source.push_back(queued(64));
        step(&mut mover, &mut script);
    }
    assert_eq!(mover.carried().pipe, 60_000 + 4 * 64);
    assert_eq!(mover.carried().copy, BUFFER_BYTES as u64 + 16 * 64);
}

#[test]
fn ping_pong_never_leaves_copy_and_costs_two_calls_a_message() {
    let mut mover = mover(Limits::default());
    let mut script = Script::new(&[], &[ROOM]);
    for _ in 0..1000 {
        script.source.push_back(Source::Queued { count: 16 * 1024, dry: true });
        assert_eq!(step(&mut mover, &mut script).then, Then::Wait(Need::Source));
    }
    assert_eq!(mover.carried(), Carried { copy: 16 * 1024 * 1000, pipe: 0, ..Carried::default() });
    assert_eq!(script.calls, 2000);
}

#[test]
fn a_pipe_takes_no_more_than_a_piece_at_a_time() {
    for (piece, held) in [(Some(1000), 1000), (None, 5000)] {
        let engine = EngineChoice::Pipe;
        let mut mover = mover(Limits { engine, piece, ..Limits::default() });
        let mut script = Script::new(&[queued(5000), Source::Eof], &[Drain::Full]);
        assert_eq!(step(&mut mover, &mut script).then, Then::Wait(Need::Drain));
        assert_eq!(mover.held(), held);
        script.drain.push_back(ROOM);
        assert_eq!(step(&mut mover, &mut script).then, Then::End(Cause::Eof));
        assert_eq!(script.given, bytes(0..5000));
    }
}

#[test]
fn an_urgent_mark_is_stepped_over() {
    let mut mover = mover(Limits { engine: EngineChoice::Pipe, ..Limits::default() });
    let mut script =
        Script::new(&[queued(1000), Source::Urgent, queued(1000), Source::Eof], &[ROOM]);
    assert_eq!(step(&mut mover, &mut script).then, Then::End(Cause::Eof));
    assert_eq!(script.given, bytes(0..2001));
    assert_eq!(mover.carried(), Carried { copy: 1, pipe: 2000, ..Carried::default() });
}

#[test]
fn a_drain_that_refuses_splice_gets_its_bytes_by_send() {
    let mut mover = mover(Limits { engine: EngineChoice::Pipe, ..Limits::default() });
    let mut script =
        Script::new(&[queued(5000), queued(5000), Source::Eof], &[Drain::Refuse, ROOM]);
    assert_eq!(step(&mut mover, &mut script).then, Then::End(Cause::Eof));
    assert_eq!(script.given, bytes(0..10_000));
    assert_eq!(mover.carried().pipe, 0);
}

#[test]
fn a_budget_ends_the_step_and_not_the_splice() {
    let mut mover = mover(Limits::default());
    let mut script = Script::new(&[queued(10_000)], &[ROOM]);
    let mut store = Store::default();
    let step = mover.step(&mut script, &mut store, Instant::now(), 4000);
    assert_eq!(step, Step { moved: 4000, then: Then::Wait(Need::Turn) });
    let step = mover.step(&mut script, &mut store, Instant::now(), 4000);
    assert_eq!(step.moved, 4000);
}

#[test]
fn no_more_is_taken_than_the_drain_has_room_for() {
    let mut script = Script::new(&[queued(100)], &[ROOM, ROOM]);
    script.rooms = VecDeque::from([30, 0, 70]);
    let mut mover = mover(Limits::default());
    // Thirty go; then the drain is waited for, and the rest is still on the source.
    let first = step(&mut mover, &mut script);
    assert_eq!(first, Step { moved: 30, then: Then::Wait(Need::Drain) });
    assert_eq!((script.taken, mover.held()), (30, 0));
    assert_eq!(step(&mut mover, &mut script).moved, 70);
    assert_eq!(script.given, bytes(0..100));
}

#[test]
fn idle_counts_from_the_last_movement() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let idle = Some(Duration::from_millis(100));
    let mut mover = Mover::new(Limits { idle, ..Limits::default() }, true, start);
    let mut script = Script::new(&[queued(1)], &[ROOM]);
    let mut store = Store::default();
    assert_eq!(mover.deadline(), Some(at(100)));
    assert_eq!(mover.step(&mut script, &mut store, at(90), 1000).moved, 1);
    assert_eq!(mover.deadline(), Some(at(190)));
    assert_eq!(mover.step(&mut script, &mut store, at(189), 1000).then, Then::Wait(Need::Source));
    assert_eq!(mover.step(&mut script, &mut store, at(190), 1000).then, Then::End(Cause::Idle));
    assert_eq!(mover.deadline(), None);
}

#[test]
fn an_idle_limit_beyond_the_clock_never_fires() {
    let mut mover = mover(Limits { idle: Some(Duration::MAX), ..Limits::default() });
    assert_eq!(mover.deadline(), None);
    assert_eq!(step(&mut mover, &mut Script::default()).then, Then::Wait(Need::Source));
}

#[test]
fn unsplice_gives_what_it_holds_and_force_hands_it_over() {
    let held = || {
        let mut mover = mover(Limits::default());
        let mut script = Script::new(&[queued(100), queued(100)], &[Drain::Room(40)]);
        assert_eq!(step(&mut mover, &mut script).then, Then::Wait(Need::Drain));
        (mover, script)
    };
    let (mut mover, mut script) = held();
    mover.unsplice();
    assert_eq!(step(&mut mover, &mut script).then, Then::Wait(Need::Drain));
    script.drain.push_back(ROOM);
    assert_eq!(step(&mut mover, &mut script).then, Then::End(Cause::Unspliced));
    assert_eq!(script.given, bytes(0..100));

    let (mut mover, _) = held();
    mover.end_now(Cause::Unspliced);
    let end = mover.into_end();
    assert_eq!((end.bytes, end.residue), (40, bytes(40..100)));
}

#[test]
fn a_pipe_that_holds_bytes_is_never_lent_again() {
    let mut store = Store::new(64 * 1024, 4);
    let mut mover = mover(Limits { engine: EngineChoice::Pipe, ..Limits::default() });
    let mut script = Script::new(&[queued(100)], &[Drain::Room(40), Drain::Fail(Errno::CONNRESET)]);
    let step = mover.step(&mut script, &mut store, Instant::now(), 1000);
    assert_eq!(step.then, Then::End(Cause::DrainError(Errno::CONNRESET.into())));
    assert_eq!(mover.into_end().residue, bytes(40..100));
    assert_eq!(store.pipes_kept(), 0);
}

#[test]
fn an_idle_flow_holds_no_pipe() {
    let mut store = Store::new(64 * 1024, 4);
    let mut mover = mover(Limits { engine: EngineChoice::Pipe, ..Limits::default() });
    let mut script = Script::new(&[queued(100)], &[ROOM]);
    mover.step(&mut script, &mut store, Instant::now(), 1000);
    assert_eq!((mover.held(), store.pipes_kept()), (0, 1));
}

#[test]
fn a_closed_drain_is_told_from_a_failed_one() {
    let cause = |errno| {
        let mut script = Script::new(&[queued(1)], &[Drain::Fail(errno)]);
        step(&mut mover(Limits::default()), &mut script).then
    };
    assert_eq!(cause(Errno::PIPE), Then::End(Cause::DrainClosed));
    assert_eq!(cause(Errno::TIMEDOUT), Then::End(Cause::DrainError(Errno::TIMEDOUT.into())));
}

/// A flow in bulk, so that its source has a mark, and the time.
fn in_bulk(script: &mut Script, store: &mut Store) -> (Mover, Instant) {
    let start = Instant::now();
    let mut mover = Mover::new(Limits::default(), true, start);
    script.drain.push_back(ROOM);
    for _ in 0..10 {
        script.source.extend([queued(60_000), Source::Empty]);
        mover.step(script, store, start, STEP_BUDGET_BYTES);
        script.source.push_back(queued(BUFFER_BYTES));
    }
    assert_eq!(script.marks, [Some(LOW_WATER_BYTES)]);
    assert_eq!(mover.deadline(), Some(start + bulk::GUARD));
    (mover, start)
}

#[test]
fn a_pause_takes_the_mark_away_and_is_remembered() {
    let (mut script, mut store) = (Script::default(), Store::new(64 * 1024, 4));
    let (mut mover, start) = in_bulk(&mut script, &mut store);
    script.source.clear();
    // Looked at before the guard: nothing changes.
    mover.step(&mut script, &mut store, start + bulk::GUARD / 2, STEP_BUDGET_BYTES);
    assert_eq!(script.marks.len(), 1);
    let now = start + bulk::GUARD;
    mover.step(&mut script, &mut store, now, STEP_BUDGET_BYTES);
    assert_eq!(script.marks, [Some(LOW_WATER_BYTES), None]);
    assert_eq!(mover.deadline(), None);
    // The same streak is not believed a second time; four times as much is.
    let mut needed = 0;
    while script.marks.len() < 3 {
        script.source.extend([queued(60_000), Source::Empty]);
        needed += mover.step(&mut script, &mut store, now, STEP_BUDGET_BYTES).moved;
    }
    assert!(needed >= 4 * bulk::STREAK_BYTES_FIRST, "{needed}");
}

#[test]
fn a_full_drain_keeps_no_timer_busy() {
    // A deadline in the past, with nothing to be done about it, is a busy loop.
    let (mut script, mut store) = (Script::default(), Store::new(64 * 1024, 4));
    let (mut mover, start) = in_bulk(&mut script, &mut store);
    script.drain.clear();
    let step = mover.step(&mut script, &mut store, start, STEP_BUDGET_BYTES);
    assert_eq!(step.then, Then::Wait(Need::Drain));
    assert_eq!(mover.deadline(), None);
}

#[test]
fn an_answer_takes_the_mark_away_at_once() {
    // Request and response of a size that looks like bulk: without this each response's
    // tail would wait for the guard.
    let (mut script, mut store) = (Script::default(), Store::new(64 * 1024, 4));
    let (mut mover, start) = in_bulk(&mut script, &mut store);
    script.source.clear();
    mover.answered();
    assert!(mover.deadline().is_some_and(|deadline| deadline <= start), "it must be stepped now");
    mover.step(&mut script, &mut store, start, STEP_BUDGET_BYTES);
    assert_eq!(script.marks, [Some(LOW_WATER_BYTES), None]);
}

#[test]
fn answered_bursts_are_never_bulk() {
    let (mut script, mut store) = (Script::new(&[], &[ROOM]), Store::new(64 * 1024, 4));
    let mut mover = mover(Limits::default());
    for _ in 0..100 {
        script.source.extend([queued(200_000), Source::Empty]);
        mover.step(&mut script, &mut store, Instant::now(), STEP_BUDGET_BYTES);
        mover.answered();
    }
    assert!(script.marks.is_empty());
}

#[test]
fn the_end_of_the_allowance_has_no_mark() {
    let (mut script, mut store) = (Script::new(&[], &[ROOM]), Store::new(64 * 1024, 4));
    let mut mover = mover(Limits { max: Some(900_000), ..Limits::default() });
    for _ in 0..14 {
        script.source.extend([queued(BUFFER_BYTES), Source::Empty]);
        mover.step(&mut script, &mut store, Instant::now(), STEP_BUDGET_BYTES);
    }
    assert_eq!(mover.cause(), Some(Cause::Max));
    assert!(script.marks.is_empty());
}

#[test]
fn a_source_without_a_mark_is_asked_once() {
    let (mut script, mut store) = (Script::new(&[], &[ROOM]), Store::new(64 * 1024, 4));
    script.has_no_mark = true;
    let mut mover = mover(Limits::default());
    for _ in 0..50 {
        script.source.extend([queued(BUFFER_BYTES), Source::Empty]);
        mover.step(&mut script, &mut store, Instant::now(), STEP_BUDGET_BYTES);
        assert_eq!(mover.deadline(), None);
    }
}

fn source() -> impl Strategy<Value = Source> {
    let size = prop_oneof![1..200usize, Just(1448), 16_000..17_000usize, 60_000..140_000usize];
    prop_oneof![
        8 => (size, any::<bool>()).prop_map(|(count, dry)| Source::Queued { count, dry }),
        3 => Just(Source::Empty),
        1 => Just(Source::Urgent),
        1 => Just(Source::Eof),
        1 => Just(Source::Fail(Errno::CONNRESET)),
    ]
}

fn drain() -> impl Strategy<Value = Drain> {
    let size = prop_oneof![1..200usize, 1000..100_000usize, Just(usize::MAX / 2)];
    prop_oneof![
        8 => size.prop_map(Drain::Room),
        4 => Just(Drain::Full),
        1 => Just(Drain::Refuse),
        1 => Just(Drain::Fail(Errno::PIPE)),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let max = prop_oneof![Just(None), (0..300_000u64).prop_map(Some)];
    let idle = prop_oneof![Just(None), (1..20u64).prop_map(|ms| Some(Duration::from_millis(ms)))];
    let engine =
        prop_oneof![Just(EngineChoice::Auto), Just(EngineChoice::Pipe), Just(EngineChoice::Copy)];
    let piece = prop_oneof![Just(None), (1..200_000u32).prop_map(Some)];
    (max, idle, engine, piece).prop_map(|(max, idle, engine, piece)| Limits {
        max,
        idle,
        engine,
        piece,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever the sockets do, bytes leave in order, once, and all of them.
    #[test]
    fn nothing_is_lost_doubled_or_waited_for_in_vain(
        source in prop::collection::vec(source(), 0..30),
        drain in prop::collection::vec(drain(), 0..30),
        limits in limits(),
        budget in prop_oneof![1..5000usize, Just(STEP_BUDGET_BYTES)],
        pauses_ms in prop::collection::vec(0..30u64, 1..8),
    ) {
        let mut script = Script::new(&source, &drain);
        let mut store = Store::new(64 * 1024, 2);
        let mut now = Instant::now();
        let mut last_moved = now;
        let mut mover = Mover::new(limits, true, now);
        let mut ended = None;
        let mut checked = 0;
        for turn in 0..10_000 {
            let step = mover.step(&mut script, &mut store, now, budget);
            if step.moved > 0 {
                last_moved = now;
            }
            prop_assert!(step.moved <= budget.max(script.given.len()) as u64);
            prop_assert_eq!(&script.given[checked..], &bytes(checked as u64..script.given.len() as u64));
            checked = script.given.len();
            prop_assert_eq!(mover.carried().total(), script.given.len() as u64);
            prop_assert_eq!(script.taken, script.given.len() as u64 + mover.held() as u64);
            if let Some(max) = limits.max {
                prop_assert!(script.taken <= max);
            }
            match step.then {
                Then::End(cause) => {
                    ended = Some(cause);
                    break;
                }
                // A wait rests on an answer of the very socket that it is for.
                Then::Wait(Need::Source) => {
                    prop_assert!(script.source_said_empty);
                    prop_assert_eq!(mover.held(), 0);
                }
                Then::Wait(Need::Drain) => prop_assert!(script.drain_said_full && mover.held() > 0),
                Then::Wait(Need::Turn) => prop_assert!(step.moved > 0),
            }
            if script.source.is_empty() && script.drain.is_empty() && limits.idle.is_none() {
                break;
            }
            now += Duration::from_millis(pauses_ms[turn % pauses_ms.len()]);
        }
        if limits.engine == EngineChoice::Copy {
            prop_assert_eq!(mover.carried().pipe, 0);
        }
        if let Some(cause) = ended {
            prop_assert_eq!(mover.step(&mut script, &mut store, now, budget).then, Then::End(cause));
            let held = mover.held();
            match cause {
                Cause::Eof => prop_assert_eq!(held, 0),
                Cause::Max => prop_assert_eq!(Some(script.given.len() as u64), limits.max),
                Cause::SourceError(_) => prop_assert_eq!(held, 0),
                Cause::Idle => prop_assert!(limits.idle.is_some_and(|idle| now - last_moved >= idle)),
                Cause::DrainClosed => prop_assert!(held > 0),
                other => prop_assert!(false, "unexpected end: {}", other),
            }
            let end = mover.into_end();
            prop_assert_eq!(end.residue, bytes(script.given.len() as u64..script.taken));
        }
    }
}
