//! One connection: requests in, answers out, in order.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::date;

use super::head::{self, HEAD_LEN_MAX, Refusal, Request};
use super::places::{Phase, Place};
use super::{Pages, Patience, Shown};

/// Bytes read at a time; a head of a usual client fits at once.
const READ_LEN: usize = 4 * 1024;

/// The most that is read and thrown away after a last answer, in bytes.
const LINGER_LEN_MAX: usize = 256 * 1024;

/// How long a last answer waits for the client to close.
const LINGER: Duration = Duration::from_secs(2);

/// Serves `stream` until either side ends it.
///
/// # Errors
///
/// What the socket said, or `TimedOut` when the client took nothing for too long.
pub(super) async fn serve<P: Pages>(
    stream: TcpStream,
    peer: SocketAddr,
    pages: &P,
    patience: Patience,
    place: &mut Place,
) -> io::Result<()> {
    // Head and body leave in one write: there is nothing for Nagle to gather.
    stream.set_nodelay(true)?;
    let mut connection = Connection { stream, input: Vec::new(), patience };
    loop {
        let answer = match connection.request::<P>().await? {
            Some(Ok(request)) => Answer::to(&request, |page| pages.show(page, &request, peer)),
            Some(Err(refusal)) => Answer::refusal(&refusal, true, Client::default()),
            None => return Ok(()),
        };
        place.turn_to(Phase::Answering);
        let sending = connection.send::<P>(&answer);
        match patience.answer {
            Some(limit) => in_time(timeout(limit, sending)).await?,
            None => sending.await?,
        }
        place.turn_to(Phase::Waiting);
        if answer.close {
            return connection.linger().await;
        }
    }
}

/// What goes back: a head and a body made here, then `content` bytes of the pages' content.
struct Answer {
    bytes: Vec<u8>,
    content: u64,
    close: bool,
}

impl Answer {
    /// To `request`, which was understood.
    fn to<T>(request: &Request<T>, show: impl FnOnce(&T) -> Shown) -> Self {
        let close = !request.keep_alive;
        match &request.target {
            Ok(page) => Answer::made(&show(page), close, request.into()),
            Err(refusal) => Answer::refusal(refusal, close || refusal.close, request.into()),
        }
    }

    fn refusal(refusal: &Refusal, close: bool, client: Client) -> Self {
        // RFC 9110 section 15.5.6: a 405 names what is allowed.
        let fields = match refusal.status.starts_with("405") {
            true => "Allow: GET, HEAD\r\nContent-Type: text/plain; charset=utf-8\r\n",
            false => "Content-Type: text/plain; charset=utf-8\r\n",
        };
        let body = format!("{}\n", refusal.reason);
        let shown = Shown { status: refusal.status, fields: fields.to_owned(), body, content: 0 };
        Answer::made(&shown, close, client)
    }

    fn made(shown: &Shown, close: bool, client: Client) -> Self {
        let Shown { status, fields, body, content } = shown;
        let date = date::now().map_or_else(String::new, |date| format!("Date: {date}\r\n"));
        let head = format!(
            "HTTP/1.1 {status}\r\n{date}{fields}{}Content-Length: {}\r\n\r\n",
            persistence(close, client.http10),
            body.len() as u64 + content,
        );
        let (body, content) = if client.head_only { ("", 0) } else { (&**body, *content) };
        Answer { bytes: [head.as_bytes(), body.as_bytes()].concat(), content, close }
    }
}

/// What of a request the form of its answer depends on.
#[derive(Default)]
struct Client {
    http10: bool,
    head_only: bool,
}

impl<T> From<&Request<T>> for Client {
    fn from(request: &Request<T>) -> Self {
        Client { http10: request.http10, head_only: request.head_only }
    }
}

/// The header field that says what becomes of the connection, where it is not
/// what the version of the client takes for granted.
fn persistence(close: bool, http10: bool) -> &'static str {
    match (close, http10) {
        (true, _) => "Connection: close\r\n",
        (false, true) => "Connection: keep-alive\r\n",
        (false, false) => "",
    }
}

struct Connection {
    stream: TcpStream,
    /// Read and not yet used: part of a head, or requests that were sent ahead.
    input: Vec<u8>,
    patience: Patience,
}

impl Connection {
    /// The next request, its body read and thrown away: `None` when the client
    /// is gone, or has sent nothing for the time that a head may take.
    async fn request<P: Pages>(&mut self) -> io::Result<Option<Result<Request<P::Page>, Refusal>>> {
        let until = Instant::now() + self.patience.head;
        let mut news = 0;
        loop {
            // An empty line before a request is allowed (RFC 9112 section 2.2).
            let blank = self.input.iter().take_while(|byte| b"\r\n".contains(byte));
            let blank = blank.count();
            self.input.drain(..blank);
            // A head that comes byte by byte is parsed again a line, not a byte;
            // the first bytes at once, since another protocol may send no line ever.
            let fresh = &self.input[news.min(self.input.len())..];
            if !fresh.is_empty()
                && (news == 0 || fresh.contains(&b'\n') || self.input.len() >= HEAD_LEN_MAX)
            {
                match head::parse(&self.input, P::find) {
                    Ok(Some(request)) => {
                        self.input.drain(..request.head_len);
                        return self.discard(request, until).await;
                    }
                    Ok(None) => {}
                    Err(refusal) => return Ok(Some(Err(refusal))),
                }
            }
            news = self.input.len();
            match self.read_more(until).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() != io::ErrorKind::TimedOut => return Err(error),
                // Idle between requests: it owes nothing, so it is closed without a word.
                Err(_) if self.input.is_empty() => return Ok(None),
                Err(_) => return Ok(Some(Err(Refusal::too_slow()))),
            }
        }
    }

    /// Throws the body away, so that the next head is found behind it.
    async fn discard<T>(
        &mut self,
        request: Request<T>,
        until: Instant,
    ) -> io::Result<Option<Result<Request<T>, Refusal>>> {
        let mut left = usize::try_from(request.body_len).unwrap_or(usize::MAX);
        loop {
            let run = left.min(self.input.len());
            self.input.drain(..run);
            left -= run;
            if left == 0 {
                return Ok(Some(Ok(request)));
            }
            match self.read_more(until).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Ok(Some(Err(Refusal::too_slow())));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends to the input what the socket has; 0 is the end of the stream.
    async fn read_more(&mut self, until: Instant) -> io::Result<usize> {
        if self.input.is_empty() {
            // An idle connection holds no buffer.
            self.input = Vec::new();
        }
        loop {
            in_time(timeout_at(until, self.stream.readable())).await?;
            self.input.reserve(READ_LEN);
            match self.stream.try_read_buf(&mut self.input) {
                Err(error) if again(&error) => {}
                done => return done,
            }
        }
    }

    async fn send<P: Pages>(&mut self, answer: &Answer) -> io::Result<()> {
        let (own, mut sent) = (answer.bytes.len() as u64, 0);
        let whole = own + answer.content;
        let mut slices: Vec<IoSlice<'_>> = Vec::new();
        while sent < whole {
            slices.clear();
            if sent < own {
                slices.push(IoSlice::new(&answer.bytes[sent as usize..]));
            }
            P::content(sent.saturating_sub(own), answer.content, &mut slices);
            match self.stream.try_write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(run) => {
                    sent += run as u64;
                    if sent < whole {
                        // A client that drains as fast as we write would never
                        // let another connection of this runtime have its turn.
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) if again(&error) => {
                    in_time(timeout(self.patience.stall, self.stream.writable())).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection behind a last answer.
    ///
    /// Closing with unread bytes makes the kernel send a reset, which may
    /// overtake the answer: so the rest is read and thrown away, for a while.
    async fn linger(&mut self) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).shutdown(Shutdown::Write)?;
        let until = Instant::now() + LINGER;
        let mut read = 0;
        while read < LINGER_LEN_MAX {
            self.input.clear();
            match self.read_more(until).await? {
                0 => break,
                run => read += run,
            }
        }
        Ok(())
    }
}

fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A time that ran out, as an error of the socket.
async fn in_time<T>(
    wait: impl Future<Output = Result<io::Result<T>, tokio::time::error::Elapsed>>,
) -> io::Result<T> {
    wait.await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}
