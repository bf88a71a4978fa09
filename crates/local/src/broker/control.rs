//! What operators ask of a broker: text in JSON behind a word, on the socket of the members.
//! The answer is text too, in a memory of its own, for a status has no largest size.

use super::policy::Policy;
use super::status::Status;
use crate::descriptor::Descriptor;
use crate::packet;
use crate::wire::{CONTROL, REPLY_BYTES, Reply, Request};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

/// Largest packet that a broker takes.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// A broker answers between two turns of its loop.
const PATIENCE: Duration = Duration::from_secs(5);

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// This policy holds from now on.
    Enable(Policy),
    /// No new pairs; those that run go on.
    Disable,
    /// What there is.
    Status,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// As asked.
    Done,
    /// What there is.
    Status(Box<Status>),
    /// Not for this user; with the broker's.
    NotYours {
        /// Whose broker it is.
        uid: u32,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens there.
    #[error("no broker is running (`sosplice run` and `sosplice local enable` start one)")]
    NoBroker,
    /// The socket is there, and not for this user.
    #[error("the broker's socket is not for this user")]
    Forbidden,
    /// The broker belongs to somebody else.
    #[error("the broker is the user's with the number {uid}: only that user and root may ask it")]
    NotYours {
        /// Whose broker it is.
        uid: u32,
    },
    /// It has ended, or does not answer.
    #[error("the broker does not answer: {0}")]
    Silent(Errno),
    /// It is ending, or does not understand the question.
    #[error("the broker hung up: it is ending, or speaks another version")]
    HungUp,
    /// It says what this version does not understand.
    #[error(
        "the broker speaks another version: end its programs, or use the command that started it"
    )]
    Foreign,
    /// The request is too long.
    #[error("the request is longer than {PACKET_BYTES_MAX} bytes")]
    TooLong,
}

/// Asks the directory's broker.
pub fn ask(dir: &Path, question: &Ask) -> Result<Answer, ControlError> {
    let mut bytes = CONTROL.to_le_bytes().to_vec();
    serde_json::to_writer(&mut bytes, question).map_err(|_| ControlError::Foreign)?;
    if bytes.len() > PACKET_BYTES_MAX {
        return Err(ControlError::TooLong);
    }
    let (len, memory) = exchange(dir, &bytes, &mut [])?;
    let memory =
        memory.ok_or(if len == 0 { ControlError::HungUp } else { ControlError::Foreign })?;
    let mut text = String::new();
    let mut file = File::from(memory);
    file.rewind()
        .and_then(|()| file.read_to_string(&mut text))
        .map_err(|_| ControlError::Foreign)?;
    match serde_json::from_str(&text).map_err(|_| ControlError::Foreign)? {
        Answer::NotYours { uid } => Err(ControlError::NotYours { uid }),
        answer => Ok(answer),
    }
}

/// Tells the directory's broker to stay as long as this process lives, which will become a
/// program with members.
pub fn expect(dir: &Path) -> Result<(), ControlError> {
    let mut bytes = [0; REPLY_BYTES];
    let (len, _) = exchange(dir, &Request::Expect.encode(), &mut bytes)?;
    match Reply::decode(&bytes[..len]) {
        Some(Reply::Welcome) => Ok(()),
        _ if len == 0 => Err(ControlError::HungUp),
        _ => Err(ControlError::Foreign),
    }
}

fn exchange(
    dir: &Path,
    question: &[u8],
    answer: &mut [u8],
) -> Result<(usize, Option<OwnedFd>), ControlError> {
    let connection = packet::connect(dir, PATIENCE).map_err(|errno| match errno {
        Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR => ControlError::NoBroker,
        Errno::ACCESS | Errno::PERM => ControlError::Forbidden,
        errno => ControlError::Silent(errno),
    })?;
    let connection = connection.into_owned();
    packet::send(connection.as_fd(), question, None, SendFlags::empty())
        .map_err(ControlError::Silent)?;
    let mut one = [0];
    let answer = if answer.is_empty() { &mut one[..] } else { answer };
    let receive = || packet::receive(connection.as_fd(), answer, RecvFlags::empty());
    let (len, memory) = rustix::io::retry_on_intr(receive).map_err(ControlError::Silent)?;
    Ok((len, memory.map(Descriptor::into_owned)))
}

/// The question in a packet, without the word in front.
pub fn question(text: &[u8]) -> Option<Ask> {
    serde_json::from_slice(text).ok()
}

/// The answer's memory.
pub fn memory(answer: &Answer) -> Option<OwnedFd> {
    let text = serde_json::to_vec(answer).ok()?;
    let mut file = File::from(memfd_create("sosplice-answer", MemfdFlags::CLOEXEC).ok()?);
    file.write_all(&text).ok()?;
    Some(file.into())
}
