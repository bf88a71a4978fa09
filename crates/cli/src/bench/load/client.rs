//! The near end: request/response, new connections, idle connections.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use socket2::{Domain, Socket, Type};

use super::Tally;

/// Longest that any single answer may take: a relay that lost a byte shows as
/// an error, not as a benchmark that hangs.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Failed connections after which `conn` stops trying.
const ERRORS_MAX: u64 = 1000;

fn stalled() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no answer in 5 s")
}

fn connect(target: SocketAddrV4) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target.into(), ANSWER_MAX)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    Ok(stream)
}

/// Request and response on one connection, with blocking calls.
pub fn rr_one(target: SocketAddrV4, size: usize, time: Duration) -> io::Result<Tally> {
    let mut stream = connect(target)?;
    let mut message = vec![0; size];
    let mut tally = Tally::new();
    let start = Instant::now();
    let mut sent = start;
    while sent - start < time {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        let now = Instant::now();
        tally.add(now - sent);
        sent = now;
    }
    tally.seconds = (sent - start).as_secs_f64();
    Ok(tally)
}

struct Conn {
    stream: TcpStream,
    sent: Instant,
    to_send: usize,
    to_get: usize,
    /// Whether epoll is asked about writability.
    waiting: bool,
}

/// Request and response on many connections, one in flight on each, from one
/// epoll thread.
pub fn rr_many(
    target: SocketAddrV4,
    size: usize,
    connections: usize,
    time: Duration,
) -> io::Result<Tally> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut conns = Vec::with_capacity(connections);
    for at in 0..connections {
        let stream = connect(target)?;
        stream.set_nonblocking(true)?;
        epoll::add(&epoll, &stream, EventData::new_u64(at as u64), EventFlags::IN)?;
        let sent = Instant::now();
        conns.push(Conn { stream, sent, to_send: 0, to_get: 0, waiting: false });
    }
    let mut buffer = vec![0; size.max(64 << 10)];
    let mut events: Vec<Event> = Vec::with_capacity(connections);
    let mut tally = Tally::new();
    let start = Instant::now();
    for (at, conn) in conns.iter_mut().enumerate() {
        conn.begin(size);
        conn.send(&buffer)?;
        conn.ask(&epoll, at)?;
    }
    while start.elapsed() < time {
        wait(&epoll, &mut events)?;
        if events.is_empty() {
            return Err(stalled());
        }
        for event in &events {
            let at = event.data.u64() as usize;
            let conn = &mut conns[at];
            if conn.to_send == 0 && conn.receive(&mut buffer)? {
                tally.add(conn.sent.elapsed());
                conn.begin(size);
            }
            conn.send(&buffer)?;
            conn.ask(&epoll, at)?;
        }
    }
    tally.seconds = start.elapsed().as_secs_f64();
    Ok(tally)
}

impl Conn {
    fn begin(&mut self, size: usize) {
        self.sent = Instant::now();
        self.to_send = size;
        self.to_get = size;
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        while self.to_send > 0 {
            match self.stream.write(&message[..self.to_send]) {
                Ok(n) => self.to_send -= n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One read; true when the answer is complete.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.stream.read(&mut buffer[..self.to_get]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.to_get -= n;
                Ok(self.to_get == 0)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks epoll about writability exactly while something is unsent.
    fn ask(&mut self, epoll: &impl std::os::fd::AsFd, at: usize) -> io::Result<()> {
        if self.waiting != (self.to_send > 0) {
            self.waiting = !self.waiting;
            let mut flags = EventFlags::IN;
            flags.set(EventFlags::OUT, self.waiting);
            epoll::modify(epoll, &self.stream, EventData::new_u64(at as u64), flags)?;
        }
        Ok(())
    }
}

fn wait(epoll: &impl std::os::fd::AsFd, events: &mut Vec<Event>) -> io::Result<()> {
    let limit = Timespec { tv_sec: ANSWER_MAX.as_secs() as _, tv_nsec: 0 };
    events.clear();
    match epoll::wait(epoll, spare_capacity(events), Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// One short connection on its way.
struct Visit {
    stream: TcpStream,
    since: Instant,
    /// The request is out; until then the connect is.
    asked: bool,
    to_get: usize,
}

/// New connections: connect, one request, one response, close, `in_flight` at
/// a time from one epoll thread. Closed in good order by the client (FIN, not
/// reset), because that is what relays see; the ports this leaves in TIME_WAIT
/// come back after a second (tcp_tw_reuse in the namespaces).
pub fn conn(
    target: SocketAddrV4,
    size: usize,
    in_flight: usize,
    time: Duration,
) -> io::Result<Tally> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut visits: Vec<Visit> = Vec::with_capacity(in_flight);
    for at in 0..in_flight {
        visits.push(visit(&epoll, at, target, size)?);
    }
    let mut message = vec![0; size];
    let mut events: Vec<Event> = Vec::with_capacity(in_flight);
    let mut tally = Tally::new();
    let start = Instant::now();
    while start.elapsed() < time {
        wait(&epoll, &mut events)?;
        if events.is_empty() {
            return Err(stalled());
        }
        for event in &events {
            let at = event.data.u64() as usize;
            match step(&mut visits[at], &mut message) {
                Ok(false) => continue,
                Ok(true) => tally.add(visits[at].since.elapsed()),
                Err(error) => {
                    tally.errors += 1;
                    if tally.errors > ERRORS_MAX {
                        return Err(error);
                    }
                }
            }
            visits[at] = visit(&epoll, at, target, size)?;
        }
    }
    tally.seconds = start.elapsed().as_secs_f64();
    Ok(tally)
}

/// Starts one connection. Edge-triggered for both directions at once: one
/// epoll_ctl a connection, and closing is all it takes to leave.
fn visit(
    epoll: &impl std::os::fd::AsFd,
    at: usize,
    target: SocketAddrV4,
    size: usize,
) -> io::Result<Visit> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    match socket.connect(&target.into()) {
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        done => done?,
    }
    let stream = TcpStream::from(socket);
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
    epoll::add(epoll, &stream, EventData::new_u64(at as u64), flags)?;
    Ok(Visit { stream, since: Instant::now(), asked: false, to_get: size })
}

/// Moves one visit on; true when it is over.
fn step(visit: &mut Visit, message: &mut [u8]) -> io::Result<bool> {
    if !visit.asked {
        match visit.stream.write(message) {
            Ok(n) if n == message.len() => visit.asked = true,
            Ok(_) => return Err(io::Error::other("the first request was cut short")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Still connecting: Linux says so by ENOTCONN or EAGAIN.
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            Err(error) => return Err(error),
        }
        return Ok(false);
    }
    match visit.stream.read(message) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(n) => {
            visit.to_get = visit.to_get.saturating_sub(n);
            Ok(visit.to_get == 0)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens connections one after the other, passes one byte each way on each,
/// and gives them all to be held.
pub fn open_idle(target: SocketAddrV4, connections: usize) -> io::Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = connect(target)?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        held.push(stream);
    }
    Ok(held)
}
