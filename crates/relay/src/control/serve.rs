//! The clients of the control socket: lines in, lines out, each in bounds.

use super::answer;
use super::protocol::{Answer, Ask, REQUEST_LEN_MAX, Request, Told, VERSION};
use super::sessions::Sessions;
use crate::service::State;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Clients at a time.
const CLIENTS_MAX: usize = 16;

/// For a whole request, from the accept or from the last answer on.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// For a client to take a whole answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Sessions a line: what is held of an answer for a client that reads slowly is a line.
const SESSIONS_A_LINE: usize = 256;

/// How long to leave a listener alone that has no descriptor to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a request comes to.
#[derive(Debug)]
pub(super) enum Reply {
    One(Answer),
    /// As lines, each made when it is sent.
    Sessions(Sessions),
}

/// Serves all clients of `listener`, for ever.
pub(super) async fn serve(listener: UnixListener, state: Arc<State>) -> Infallible {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut failing = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the control socket cannot accept, trying again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            turn_away(stream);
            continue;
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let _place = place;
            let answers = |request| {
                let state = Arc::clone(&state);
                async move { answer::answer(&state, request).await }
            };
            if let Err(error) = serve_client(stream, answers).await {
                tracing::debug!(%error, "control client failed");
            }
        });
    }
}

/// One too many. Its socket is new and takes a line at once, or it is not told.
fn turn_away(stream: UnixStream) {
    let why = format!("{CLIENTS_MAX} clients are being served already: try again in a moment");
    if let (Ok(mut stream), Ok(line)) = (stream.into_std(), line(&Told::last(Answer::Refused(why))))
    {
        let _ = stream.write(&line);
    }
}

/// A client's requests, one after the other, until it closes or asks what cannot be understood.
async fn serve_client<S, F>(stream: S, answers: impl Fn(Request) -> F) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite,
    F: Future<Output = Reply>,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let (mut reader, mut line) = (BufReader::with_capacity(4096, reader), Vec::new());
    loop {
        let reading = timeout(REQUEST_TIME, read_line(&mut reader, &mut line));
        let request = match reading.await {
            Ok(Err(error)) => return Err(error),
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(_)) => request(&line),
            // It owes nothing.
            Err(_) if line.is_empty() => return Ok(()),
            Err(_) => Err(format!("no whole request within {REQUEST_TIME:?}")),
        };
        let (reply, last) = match request {
            Ok(request) => (answers(request).await, false),
            Err(why) => (Reply::One(Answer::Refused(why)), true),
        };
        timeout(ANSWER_TIME, send(&mut writer, reply)).await??;
        if last {
            return writer.shutdown().await;
        }
    }
}

/// A line with its end, or as much of one as is taken, or what comes before the end of the
/// stream.
async fn read_line<R: AsyncBufRead + Unpin>(
    reader: &mut R,
    line: &mut Vec<u8>,
) -> io::Result<usize> {
    line.clear();
    reader.take(REQUEST_LEN_MAX as u64 + 1).read_until(b'\n', line).await
}

pub(super) fn request(line: &[u8]) -> Result<Request, String> {
    let Some(text) = line.strip_suffix(b"\n") else {
        return Err(if line.len() > REQUEST_LEN_MAX {
            format!("a request has at most {REQUEST_LEN_MAX} bytes")
        } else {
            "a request ends with a line's end".to_owned()
        });
    };
    // The version first: a request of another one need not be understood.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let wrong = |error: serde_json::Error| format!("not a request: {error}");
    let Versioned { version } = serde_json::from_slice(text).map_err(wrong)?;
    if version != VERSION {
        return Err(format!("version {version} is not spoken here, but {VERSION}"));
    }
    serde_json::from_slice::<Ask>(text).map(|ask| ask.request).map_err(wrong)
}

fn line(told: &Told) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    Ok(line)
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, reply: Reply) -> io::Result<()> {
    let sessions = match reply {
        Reply::One(answer) => return writer.write_all(&line(&Told::last(answer))?).await,
        Reply::Sessions(sessions) => sessions,
    };
    let mut lines = sessions.parts(SESSIONS_A_LINE).peekable();
    loop {
        let part = lines.next().unwrap_or_default();
        let answer = Answer::Sessions(sessions.look(part).await);
        let more = lines.peek().is_some();
        writer.write_all(&line(&Told { version: VERSION, more, answer })?).await?;
        if !more {
            return Ok(());
        }
        // Others have their turn.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
