//! The other side of the control socket: what a command asks, and waits for.

use super::protocol::{Answer, Ask, Request, Told, VERSION};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of one line of an answer.
const LINE_LEN_MAX: u64 = 64 << 20;

/// For each piece of an answer. A reload is waited for as long as it takes.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error(
        "nobody listens at {path}: is the service running, and does its configuration say `control = \"{path}\"`?"
    )]
    NotThere {
        /// Of the socket.
        path: PathBuf,
    },
    /// It belongs to another user.
    #[error("{path} may not be opened by this user: only who runs the service, and root, may")]
    NotAllowed {
        /// Of the socket.
        path: PathBuf,
    },
    /// The connection failed.
    #[error("{path}: {source}")]
    Failed {
        /// Of the socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What came is no answer.
    #[error("what listens at {path} does not speak this protocol: {what}")]
    Foreign {
        /// Of the socket.
        path: PathBuf,
        /// What is wrong with what it said.
        what: String,
    },
    /// The service has not done it.
    #[error("{0}")]
    Refused(String),
}

/// A connection to a service.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not.
    pub fn connect(path: &Path) -> Result<Self, AskError> {
        let path = path.to_owned();
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Self { path, stream: BufReader::new(stream) }),
            Err(source) => Err(match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    AskError::NotThere { path }
                }
                io::ErrorKind::PermissionDenied => AskError::NotAllowed { path },
                _ => AskError::Failed { path, source },
            }),
        }
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// As [`AskError`] says; a refusal is an error as well.
    pub fn ask(&mut self, request: Request) -> Result<Answer, AskError> {
        let limit = (request != Request::Reload).then_some(ANSWER_TIME);
        let stream = self.stream.get_ref();
        stream
            .set_read_timeout(limit)
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIME)))
            .map_err(|error| self.failed(error))?;
        let mut line = serde_json::to_vec(&Ask { version: VERSION, request })
            .map_err(|error| self.failed(error.into()))?;
        line.push(b'\n');
        // Who is turned away is told so, and need not have been heard.
        let sent = (&*self.stream.get_mut()).write_all(&line);
        let mut whole = match (self.line(), sent) {
            (Err(_), Err(error)) => return Err(self.failed(error)),
            (line, _) => line?,
        };
        while whole.more {
            let part = self.line()?;
            whole.more = part.more;
            match (&mut whole.answer, part.answer) {
                (Answer::Sessions(all), Answer::Sessions(more)) => all.extend(more),
                _ => return Err(self.foreign("parts of different answers".to_owned())),
            }
        }
        match whole.answer {
            Answer::Refused(why) => Err(AskError::Refused(why)),
            answer => Ok(answer),
        }
    }

    fn line(&mut self) -> Result<Told, AskError> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(LINE_LEN_MAX).read_until(b'\n', &mut line);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                self.failed(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
            }
            _ => self.failed(error),
        })?;
        if line.is_empty() {
            return Err(self.failed(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the service closed without an answer",
            )));
        }
        let told: Told =
            serde_json::from_slice(&line).map_err(|error| self.foreign(error.to_string()))?;
        if told.version != VERSION {
            let what = format!("it says version {}, and this command {VERSION}", told.version);
            return Err(self.foreign(what));
        }
        Ok(told)
    }

    /// The answer was to another question.
    #[must_use]
    pub fn foreign(&self, what: String) -> AskError {
        AskError::Foreign { path: self.path.clone(), what }
    }

    fn failed(&self, source: io::Error) -> AskError {
        AskError::Failed { path: self.path.clone(), source }
    }
}
