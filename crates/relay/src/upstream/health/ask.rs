//! What is asked on a connection, and whether the answer will do.
//!
//! At most 16 KiB of an answer are read, whatever the server sends; time is the caller's to bound.

use crate::plan::CheckKind;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// So much of an answer is looked at.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
const FIELDS_MAX: usize = 128;

/// Why a check has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("no answer within the timeout")]
    Timeout,
    #[error("read: {0}")]
    Read(io::Error),
    #[error("closed after {0} bytes without what was expected")]
    Closed(usize),
    #[error("{ANSWER_BYTES_MAX} bytes without what was expected")]
    TooLong,
    #[error("not HTTP: {0}")]
    NotHttp(httparse::Error),
    #[error("status {0}")]
    Status(u16),
    /// Nothing of the server's.
    #[error("not made: {0}")]
    Ours(io::Error),
}

/// Asks what `kind` asks; `host` is the Host field where the check names none.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    kind: &CheckKind,
    host: &str,
) -> Result<(), Failure> {
    match kind {
        CheckKind::Tcp => Ok(()),
        CheckKind::SendExpect { send, expect } => {
            let has_it = |answer: &[u8]| {
                Ok(answer.windows(expect.len()).any(|piece| piece == expect).then_some(()))
            };
            exchange(stream, send, has_it).await
        }
        CheckKind::Http { method, path, host: named, statuses } => {
            let host = named.as_deref().unwrap_or(host);
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sosplice\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            );
            match exchange(stream, request.as_bytes(), final_status).await? {
                status if statuses.has(status) => Ok(()),
                status => Err(Failure::Status(status)),
            }
        }
    }
}

/// Sends, and reads until `judge` has seen enough of the answer.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin, T>(
    stream: &mut S,
    send: &[u8],
    judge: impl Fn(&[u8]) -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    // A server that answers before it has read everything may close: what it said counts, and
    // if that was nothing the read says so.
    let _ = stream.write_all(send).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    while answer.len() < ANSWER_BYTES_MAX {
        let room = (ANSWER_BYTES_MAX - answer.len()) as u64;
        let read = (&mut *stream).take(room).read_buf(&mut answer).await;
        if read.map_err(Failure::Read)? == 0 {
            return Err(Failure::Closed(answer.len()));
        }
        if let Some(verdict) = judge(&answer)? {
            return Ok(verdict);
        }
    }
    Err(Failure::TooLong)
}

/// The status of the first whole head that is not an interim one. Its body is ignored.
fn final_status(mut answer: &[u8]) -> Result<Option<u16>, Failure> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        match head.parse(answer).map_err(Failure::NotHttp)? {
            httparse::Status::Partial => return Ok(None),
            httparse::Status::Complete(length) => match head.code {
                // 101 is final: nothing that is HTTP comes behind it.
                Some(100 | 102..=199) => answer = &answer[length..],
                status => return Ok(status),
            },
        }
    }
}
