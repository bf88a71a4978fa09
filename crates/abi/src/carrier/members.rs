//! The processes that talk to the carrier, and what they ask.

use super::Carrier;
use super::sockets::Setup;
use crate::domain::{DOMAIN, SlotId};
use crate::wire::{MESSAGE_BYTES, PIECE_BYTES, Question, Reply, Request, Turn};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags,
};
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

/// A process, as long as its connection stands.
pub struct Member {
    pub connection: OwnedFd,
    /// Where it wants to be told of ends.
    pub ends: Option<OwnedFd>,
    /// What it was told last: it asks again when the answer did not come.
    last: Option<Answer>,
    /// A question whose answer takes its time.
    open: Option<Turn>,
}

/// The answer to one question.
struct Answer {
    turn: Turn,
    reply: Reply,
    /// Residue.
    bytes: Vec<u8>,
}

impl Member {
    pub fn new(connection: OwnedFd) -> Self {
        Self { connection, ends: None, last: None, open: None }
    }

    /// Gives the last answer.
    fn tell(&self) {
        let Some(Answer { turn, reply, bytes }) = &self.last else { return };
        let reply = reply.encode(*turn);
        let pieces = [IoSlice::new(&reply), IoSlice::new(bytes)];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let mut none = SendAncillaryBuffer::default();
        // One that does not listen is gone, and is seen to be.
        let _ = rustix::net::sendmsg(&self.connection, &pieces, &mut none, flags);
    }
}

type Heard = ([u8; MESSAGE_BYTES], Vec<OwnedFd>);

fn receive(connection: &OwnedFd) -> Result<Option<Heard>, Errno> {
    let mut message = [0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut pieces = [IoSliceMut::new(&mut message)];
    let got = match rustix::net::recvmsg(connection, &mut pieces, &mut control, flags) {
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        got => got?,
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    match got.bytes {
        0 => Err(Errno::PIPE),
        MESSAGE_BYTES => Ok(Some((message, fds))),
        // Not by us.
        _ => Ok(None),
    }
}

impl Carrier {
    /// A member has said something, or is gone.
    pub fn hear(&mut self, place: usize) {
        let Some(Some(member)) = self.members.get(place) else { return };
        match receive(&member.connection) {
            Ok(None) => {}
            Ok(Some((message, fds))) => {
                // What is not ours has no answer either: nobody waits for one.
                let Some(Question { request, pid, turn }) = Request::decode(&message) else {
                    return;
                };
                if member.last.as_ref().is_some_and(|last| last.turn == turn) {
                    member.tell();
                    return;
                }
                if member.open == Some(turn) {
                    return;
                }
                match self.answer(place, request, pid, fds) {
                    Some((reply, bytes)) => self.tell(place, turn, reply, bytes),
                    None => {
                        self.defer(place, turn);
                        if let Some(Some(member)) = self.members.get_mut(place) {
                            member.open = Some(turn);
                        }
                    }
                }
            }
            Err(_) => self.part_with(place),
        }
    }

    /// Answers a member's question.
    pub fn tell(&mut self, place: usize, turn: Turn, reply: Reply, bytes: Vec<u8>) {
        if let Some(Some(member)) = self.members.get_mut(place) {
            member.open = None;
            member.last = Some(Answer { turn, reply, bytes });
            member.tell();
        }
    }

    /// The process is gone, or another program.
    fn part_with(&mut self, place: usize) {
        self.members[place] = None;
        self.forget_questions(place);
        self.own_no_longer(place);
        let member = place as u16;
        let ids: Vec<SlotId> = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.holders.contains(&member))
            .map(|(id, _)| *id)
            .collect();
        self.release(place, &ids, 0);
        // Whoever went may have been the one that held these.
        if self.tick.is_some() {
            self.look_after_held();
        }
    }

    /// None where the answer takes its time.
    fn answer(
        &mut self,
        place: usize,
        request: Request,
        pid: u32,
        fds: Vec<OwnedFd>,
    ) -> Option<(Reply, Vec<u8>)> {
        let mut bytes = Vec::new();
        let mut fds = fds.into_iter();
        let done = match request {
            Request::Hello => {
                if let Some(Some(member)) = self.members.get_mut(place) {
                    member.ends = fds.next();
                }
                Ok(Reply::default())
            }
            Request::Setup { max, idle, own } => match (fds.next(), fds.next()) {
                (Some(source), Some(drain)) => {
                    let setup = Setup { source, drain, max, idle, own };
                    self.set_up(place, setup).map(|(source, drain)| Reply {
                        source: source.0,
                        drain: drain.0,
                        setups: DOMAIN.setups.load(Ordering::Relaxed),
                        ..Reply::default()
                    })
                }
                _ => Err(libc::EBADF),
            },
            Request::Unsplice(id) => self.take_back(id).map(|()| Reply::default()),
            Request::Count(id) => Ok(Reply { value: self.count(id), ..Reply::default() }),
            Request::Hold(id) => {
                self.hold(place, id);
                Ok(Reply::default())
            }
            Request::Forget(id) => {
                if self.release(place, &[id], pid) {
                    return None;
                }
                Ok(Reply::default())
            }
            Request::Residue { slot, len, peek } => {
                bytes = self.residue(slot, len as usize, peek);
                Ok(Reply::default())
            }
            Request::Shutdown { slot, read, write } => {
                self.shut_down(slot, read, write);
                Ok(Reply::default())
            }
            Request::Fork => {
                match (fds.next(), fds.next()) {
                    (Some(connection), ends) => self.bear(place, connection, ends),
                    // It will not be heard of.
                    _ => self.own_no_longer(place),
                }
                Ok(Reply::default())
            }
            Request::Share(id) => {
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.is_own = false;
                }
                Ok(Reply::default())
            }
        };
        Some((done.unwrap_or_else(Reply::refused), bytes))
    }

    /// Somebody who does not tell may have what this member has.
    fn own_no_longer(&mut self, place: usize) {
        for socket in self.sockets.values_mut() {
            socket.is_own &= !socket.holders.contains(&(place as u16));
        }
    }

    /// A child has what its parent has.
    fn bear(&mut self, parent: usize, connection: OwnedFd, ends: Option<OwnedFd>) {
        let child = self.welcome(connection);
        let Some(Some(member)) = self.members.get_mut(child) else {
            self.own_no_longer(parent);
            return;
        };
        member.ends = ends;
        for socket in self.sockets.values_mut() {
            if socket.holders.contains(&(parent as u16)) {
                socket.holders.push(child as u16);
            }
        }
    }

    fn residue(&mut self, id: SlotId, len: usize, peek: bool) -> Vec<u8> {
        let Some(socket) = self.sockets.get_mut(&id) else { return Vec::new() };
        let len = len.min(PIECE_BYTES).min(socket.residue.len());
        let bytes = socket.residue[..len].to_vec();
        if !peek {
            socket.residue = socket.residue[len..].into();
            id.slot().residue.store(socket.residue.len() as u32, Ordering::Release);
        }
        bytes
    }

    /// Wakes the processes that hold a socket whose splice has ended.
    pub fn tell_end(&self, id: SlotId) {
        let Some(socket) = self.sockets.get(&id) else { return };
        for holder in &socket.holders {
            if let Some(Some(Member { ends: Some(ends), .. })) =
                self.members.get(usize::from(*holder))
            {
                // An eventfd that is full has told already.
                let _ = rustix::io::write(ends, &1u64.to_ne_bytes());
            }
        }
    }
}
