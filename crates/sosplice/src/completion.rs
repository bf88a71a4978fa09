//! The end of a splice, told to whoever asks: a blocked thread, a task, or a poll.

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
pub(crate) struct Completion<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
    /// Made when first asked for: most ends are awaited otherwise.
    event: OnceLock<OwnedFd>,
}

#[derive(Debug)]
struct State<T> {
    end: Option<T>,
    waker: Option<Waker>,
}

impl<T: Clone> Completion<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State { end: None, waker: None }),
            ended: Condvar::new(),
            event: OnceLock::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the end. Only the first counts.
    pub(crate) fn complete(&self, end: T) {
        let mut state = self.state();
        if state.end.is_some() {
            return;
        }
        state.end = Some(end);
        self.ended.notify_all();
        if let Some(event) = self.event.get() {
            raise(event);
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn get(&self) -> Option<T> {
        self.state().end.clone()
    }

    pub(crate) fn wait(&self) -> T {
        let mut state = self.state();
        loop {
            match &state.end {
                Some(end) => return end.clone(),
                None => state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.state();
        match &state.end {
            Some(end) => Poll::Ready(end.clone()),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// A descriptor that is readable from the end on.
    pub(crate) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        // Under the lock, so that the end is either seen here or raises the event.
        let state = self.state();
        let event = match self.event.get() {
            Some(event) => event,
            None => {
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                if state.end.is_some() {
                    raise(&event);
                }
                self.event.get_or_init(|| event)
            }
        };
        Ok(event.as_fd())
    }
}

fn raise(event: &OwnedFd) {
    // An eventfd refuses a write only when its count would overflow.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}
