//! Actors: coroutines that may be interrupted at any access to shared memory and at any call
//! of the kernel's, and killed there.

use super::random::Random;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::{Cell, RefCell};

type Condition = Box<dyn Fn() -> bool>;

/// Why an actor lets others run.
pub enum Pause {
    /// It may go on at any time.
    Anywhere,
    /// It may go on when this is so.
    Until(Condition),
}

type Suspender = Yielder<(), Pause>;

thread_local! {
    static CURRENT: Cell<*const Suspender> = const { Cell::new(std::ptr::null()) };
    static ID: Cell<u32> = const { Cell::new(0) };
    static NEXT_ID: Cell<u32> = const { Cell::new(1) };
    static DEAD: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static DICE: RefCell<Random> = const { RefCell::new(Random(0)) };
    /// One in so many steps lets others run.
    static ONE_IN: Cell<u64> = const { Cell::new(1) };
    static CLOCK: Cell<u64> = const { Cell::new(0) };
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// Steps after which a run is said to have no end.
const STEPS_MAX: u64 = 3_000_000;
/// So many steps before that, where it is, when only one seed is run.
const TRACED: u64 = 1000;

/// Begins a run.
pub fn begin(seed: u64) {
    DEAD.take();
    DICE.set(Random(seed ^ 0x5eed));
    let one_in = [1, 3, 10, 40, 300][below(5) as usize];
    ONE_IN.set(one_in);
    LEFT.set(STEPS_MAX);
}

/// So many nanoseconds go by: the time.
pub fn pass(ns: u64) -> u64 {
    CLOCK.set(CLOCK.get() + ns);
    CLOCK.get()
}

/// Whether an actor was not killed.
pub fn lives(id: u32) -> bool {
    DEAD.with_borrow(|dead| !dead.contains(&id))
}

/// Whether some actor was killed.
pub fn has_killed() -> bool {
    DEAD.with_borrow(|dead| !dead.is_empty())
}

/// The actor that runs, as a thread's id.
pub fn id() -> u32 {
    ID.get()
}

pub fn below(bound: u64) -> u64 {
    DICE.with_borrow_mut(|dice| dice.below(bound))
}

pub fn chance(one_in: u64) -> bool {
    below(one_in) == 0
}

/// A point at which others may run.
pub fn step() {
    if CURRENT.get().is_null() || std::thread::panicking() {
        return;
    }
    let left = LEFT.get();
    if left == TRACED && std::env::var_os("SOSPLICE_SEED").is_some() {
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
    }
    LEFT.set(left.checked_sub(1).expect("a run without an end"));
    if chance(ONE_IN.get()) {
        pause(Pause::Anywhere);
    }
}

/// Sleeps until it is so; others run at least once.
pub fn until(condition: impl Fn() -> bool + 'static) {
    pause(Pause::Until(Box::new(condition)));
}

/// Others run.
pub fn pause(pause: Pause) {
    let current = CURRENT.get();
    if current.is_null() {
        return;
    }
    // SAFETY: the yielder lives as long as the coroutine's function, which is what runs here.
    unsafe { (*current).suspend(pause) };
    CURRENT.set(current);
}

pub struct Actor {
    pub name: String,
    /// The process that it belongs to.
    pub end: usize,
    pub id: u32,
    /// It is killed, alone of its process's relatives, at this turn.
    pub fate: Option<u64>,
    coroutine: Coroutine<(), Pause, ()>,
    waits: Option<Condition>,
}

impl Actor {
    pub fn new(name: impl Into<String>, end: usize, act: impl FnOnce() + 'static) -> Self {
        let stack = DefaultStack::new(256 << 10).expect("memory for a stack");
        let coroutine = Coroutine::with_stack(stack, move |yielder: &Suspender, ()| {
            CURRENT.set(yielder);
            act();
        });
        NEXT_ID.set(NEXT_ID.get() + 1);
        Self { name: name.into(), end, id: NEXT_ID.get(), fate: None, coroutine, waits: None }
    }

    pub fn can_run(&self) -> bool {
        self.waits.as_ref().is_none_or(|condition| condition())
    }

    /// Whether it dies now.
    pub fn is_due(&mut self) -> bool {
        self.fate = match self.fate {
            Some(0) => return true,
            Some(turns) => Some(turns - 1),
            None => None,
        };
        false
    }

    /// Runs it for a while. False when it has ended.
    pub fn run(&mut self) -> bool {
        self.waits = None;
        ID.set(self.id);
        let result = self.coroutine.resume(());
        CURRENT.set(std::ptr::null());
        match result {
            CoroutineResult::Yield(Pause::Anywhere) => true,
            CoroutineResult::Yield(Pause::Until(condition)) => {
                self.waits = Some(condition);
                true
            }
            CoroutineResult::Return(()) => false,
        }
    }

    /// It stops where it is: nothing is unlocked, nothing is given back.
    pub fn kill(mut self) {
        DEAD.with_borrow_mut(|dead| dead.push(self.id));
        // SAFETY: nothing on its stack is referred to by others: they share only what the
        // world owns, and each has a count of its own.
        unsafe { self.coroutine.force_reset() };
    }
}
