//! The near end of request and response, and of sessions at rest.
//!
//! A datagram may be lost, so nobody waits for ever: after [`ANSWER_MAX`] the
//! question is counted as lost and the next one asked. The answer to each
//! question is known, so one that belongs to another client, or to an earlier
//! question, is found.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::super::Tally;
use super::datagram::Datagrams;

/// Size of question and answer.
const SIZE: usize = 64;

/// How long an answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// How often a session is tried to be opened.
const TRIES: u64 = 3;

/// Questions of one client are numbered from its own base.
const CLIENT_SHIFT: u32 = 40;

fn connect(target: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(target)?;
    Ok(socket)
}

/// What a datagram was to the client that received it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    /// To the question that was asked last.
    Current,
    /// To one before it.
    Late,
    /// To none of this client's.
    Corrupt,
}

/// One client.
struct Client {
    socket: UdpSocket,
    /// The question that was asked last, and when.
    number: u64,
    asked: Instant,
}

impl Client {
    fn new(target: SocketAddrV4, at: usize) -> io::Result<Client> {
        let number = (at as u64) << CLIENT_SHIFT;
        Ok(Client { socket: connect(target)?, number, asked: Instant::now() })
    }

    /// Asks the next question. One that the socket does not take is lost too: an
    /// ICMP answer fails the next call, and a relay that is gone shows as loss.
    fn ask(&mut self, datagrams: &mut Datagrams) {
        self.number += 1;
        self.asked = Instant::now();
        let _ = self.socket.send(datagrams.one(self.number));
    }

    /// One receive; would-block and time-out are errors.
    fn receive(&self, datagrams: &Datagrams) -> io::Result<Answer> {
        let mut datagram = [0; 2 * SIZE];
        let length = self.socket.recv(&mut datagram)?;
        Ok(judge(self.number, datagrams.check(&datagram[..length])))
    }
}

fn judge(asked: u64, answered: Option<u64>) -> Answer {
    match answered {
        Some(number) if number == asked => Answer::Current,
        Some(number) if number >> CLIENT_SHIFT == asked >> CLIENT_SHIFT && number < asked => {
            Answer::Late
        }
        _ => Answer::Corrupt,
    }
}

impl Tally {
    /// Counts an answer; true when the question is done with.
    fn answer(&mut self, answer: Answer, took: Duration) -> bool {
        match answer {
            Answer::Current => self.add(took),
            Answer::Late => self.late += 1,
            Answer::Corrupt => self.corrupt += 1,
        }
        answer == Answer::Current
    }
}

fn datagrams() -> io::Result<Datagrams> {
    Datagrams::new(SIZE).ok_or(ErrorKind::InvalidInput.into())
}

/// One client, with blocking calls: send, receive, nothing else.
pub fn ask_one(target: SocketAddrV4, time: Duration) -> io::Result<Tally> {
    let mut datagrams = datagrams()?;
    let mut client = Client::new(target, 0)?;
    client.socket.set_read_timeout(Some(ANSWER_MAX))?;
    let mut tally = Tally::new();
    let start = Instant::now();
    while start.elapsed() < time {
        client.ask(&mut datagrams);
        loop {
            match client.receive(&datagrams) {
                Ok(answer) => {
                    if tally.answer(answer, client.asked.elapsed()) {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    tally.errors += 1;
                    break;
                }
            }
        }
    }
    tally.seconds = start.elapsed().as_secs_f64();
    Ok(tally)
}

/// Many clients, each with a socket of its own and one question in flight, from
/// one epoll thread.
pub fn ask_many(target: SocketAddrV4, clients: usize, time: Duration) -> io::Result<Tally> {
    let mut datagrams = datagrams()?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut all = Vec::with_capacity(clients);
    for at in 0..clients {
        let client = Client::new(target, at)?;
        client.socket.set_nonblocking(true)?;
        epoll::add(&epoll, &client.socket, EventData::new_u64(at as u64), EventFlags::IN)?;
        all.push(client);
    }
    let mut events: Vec<Event> = Vec::with_capacity(clients);
    let mut tally = Tally::new();
    let start = Instant::now();
    let mut looked = start;
    all.iter_mut().for_each(|client| client.ask(&mut datagrams));
    while start.elapsed() < time {
        wait(&epoll, &mut events)?;
        for event in &events {
            let client = &mut all[event.data.u64() as usize];
            if let Ok(answer) = client.receive(&datagrams)
                && tally.answer(answer, client.asked.elapsed())
            {
                client.ask(&mut datagrams);
            }
        }
        if looked.elapsed() >= ANSWER_MAX {
            looked = Instant::now();
            for client in all.iter_mut().filter(|client| client.asked.elapsed() >= ANSWER_MAX) {
                tally.errors += 1;
                client.ask(&mut datagrams);
            }
        }
    }
    tally.seconds = start.elapsed().as_secs_f64();
    Ok(tally)
}

/// Waits a while for events; that there are none is no error, as all may be lost.
fn wait(epoll: &impl std::os::fd::AsFd, events: &mut Vec<Event>) -> io::Result<()> {
    let limit = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    events.clear();
    match epoll::wait(epoll, spare_capacity(events), Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens sessions one after the other, passes one datagram each way on each, and
/// gives their sockets to be held.
pub fn open_sessions(target: SocketAddrV4, count: usize) -> io::Result<Vec<UdpSocket>> {
    let mut datagrams = datagrams()?;
    let mut held = Vec::with_capacity(count);
    for at in 0..count {
        let mut client = Client::new(target, at)?;
        client.socket.set_read_timeout(Some(ANSWER_MAX))?;
        let answered = (0..TRIES).any(|_| {
            client.ask(&mut datagrams);
            matches!(client.receive(&datagrams), Ok(Answer::Current))
        });
        if !answered {
            let what = format!("session {at} of {count} was not answered in {TRIES} tries");
            return Err(io::Error::new(ErrorKind::TimedOut, what));
        }
        held.push(client.socket);
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_another_client_is_no_answer() {
        let asked = (7 << CLIENT_SHIFT) + 3;
        assert_eq!(judge(asked, Some(asked)), Answer::Current);
        assert_eq!(judge(asked, Some(asked - 1)), Answer::Late);
        assert_eq!(judge(asked, Some(asked + 1)), Answer::Corrupt, "never asked");
        assert_eq!(judge(asked, Some((6 << CLIENT_SHIFT) + 3)), Answer::Corrupt, "mixed up");
        assert_eq!(judge(asked, None), Answer::Corrupt);
    }
}
