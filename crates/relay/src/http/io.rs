//! One read or one write of a socket, waited for.

use super::buffers::Input;
use rustix::io::retry_on_intr;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use sosplice::sys::{self, Kind, Take};
use sosplice::tokio::{Registered, Socket};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::task::coop::unconstrained;

/// Reads what has come; None when nothing has, 0 at the end of the stream.
///
/// A read that does not fill `room` has emptied the socket, and is remembered as such, where
/// that can be believed: the next wait costs no call.
pub(super) fn try_recv(socket: &Registered, room: &mut [u8]) -> io::Result<Option<usize>> {
    let believed = socket.short_read_is_dry();
    let mut taken = None;
    let result = socket.try_io(Interest::READABLE, || {
        match sys::recv(socket, Kind::Tcp, room)? {
            Take::Eof => taken = Some(0),
            Take::Bytes { count, .. } => {
                taken = Some(count);
                if count < room.len() && believed {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
            }
            Take::Empty | Take::Stuck => return Err(io::ErrorKind::WouldBlock.into()),
        }
        Ok(())
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(taken),
    }
}

/// Reads at most `most` bytes into the input, which grows for them if it must; 0 at the end of
/// the stream. A buffer is asked for only when there is something to read.
pub(super) fn poll_recv(
    socket: &Registered,
    input: &mut Input,
    most: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        // First, also because it makes a task yield that always finds something.
        ready!(socket.poll_read_ready(cx))?;
        if let Some(len) = try_recv(socket, input.more_room(most))? {
            input.added(len);
            return Poll::Ready(Ok(len));
        }
    }
}

pub(super) async fn recv(socket: &Registered, input: &mut Input, most: usize) -> io::Result<usize> {
    poll_fn(|cx| poll_recv(socket, input, most, cx)).await
}

pub(super) async fn readable(socket: &Registered) -> io::Result<()> {
    poll_fn(|cx| socket.poll_read_ready(cx)).await
}

/// Writes two pieces as one, in one call where the socket has room. `sent` counts what went out,
/// also when it fails or is given up.
pub(super) async fn send(
    socket: &Registered,
    head: &[u8],
    body: &[u8],
    sent: &mut usize,
) -> io::Result<()> {
    *sent = 0;
    poll_fn(|cx| {
        loop {
            let first = head.get(*sent..).unwrap_or_default();
            let second = body.get(sent.saturating_sub(head.len())..).unwrap_or_default();
            if first.is_empty() && second.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match socket.try_io(Interest::WRITABLE, || write(socket, first, second)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => *sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    })
    .await
}

fn write(socket: &Registered, first: &[u8], second: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = match (first, second) {
        (one, []) | ([], one) => retry_on_intr(|| rustix::net::send(socket, one, flags)),
        _ => {
            let both = [IoSlice::new(first), IoSlice::new(second)];
            retry_on_intr(|| {
                rustix::net::sendmsg(socket, &both, &mut SendAncillaryBuffer::default(), flags)
            })
        }
    };
    Ok(sent?)
}

/// The time was up.
#[derive(Debug)]
pub(super) struct Elapsed;

/// Awaits, at most for `limit`, which counts from the first time on that there is something to wait for: what is
/// done at once asks no clock and sets no timer.
pub(super) async fn within<T>(
    limit: Option<Duration>,
    wait: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let (mut wait, mut sleep) = (pin!(wait), pin!(None));
    poll_fn(|cx| {
        if let Poll::Ready(done) = wait.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        let Some(limit) = limit else { return Poll::Pending };
        if sleep.is_none() {
            // Also when the wait has used up what a task may do at a time: else one that always has something
            // to do would have no end.
            sleep.set(Some(unconstrained(tokio::time::sleep(limit))));
        }
        let sleep = sleep.as_mut().as_pin_mut();
        sleep.map_or(Poll::Pending, |sleep| sleep.poll(cx).map(|()| Err(Elapsed)))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    /// Outside of a runtime a timer cannot even be made.
    #[test]
    fn what_is_done_at_once_sets_no_timer() {
        let done = pin!(within(Some(Duration::ZERO), ready(7)));
        let polled = done.poll(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(7))));
    }

    #[tokio::test]
    async fn a_wait_ends_with_its_limit() {
        assert!(within(Some(Duration::from_millis(1)), pending::<()>()).await.is_err());
    }

    /// One that always has something to do uses up what a task may do at a time, which stops timers too.
    #[tokio::test]
    async fn a_busy_wait_ends_with_its_limit() {
        let watchdog = std::time::Instant::now() + Duration::from_secs(20);
        let busy = async {
            while std::time::Instant::now() < watchdog {
                tokio::task::consume_budget().await;
            }
        };
        assert!(within(Some(Duration::from_millis(1)), busy).await.is_err());
    }
}
