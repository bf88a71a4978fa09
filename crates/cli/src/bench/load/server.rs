//! The far end: answers every `size` bytes with `size` bytes, until killed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use socket2::{Domain, Socket, Type};

/// Marks the listener among the epoll events.
const LISTENER: u64 = u64::MAX;

fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// One blocking thread a connection: no system call but read and write.
pub fn serve_threads(address: SocketAddrV4, size: usize) -> io::Result<()> {
    let listener = listen(address)?;
    loop {
        let (mut stream, _) = listener.accept()?;
        std::thread::spawn(move || -> io::Result<()> {
            stream.set_nodelay(true)?;
            let mut message = vec![0; size];
            loop {
                stream.read_exact(&mut message)?;
                stream.write_all(&message)?;
            }
        });
    }
}

struct Conn {
    stream: TcpStream,
    /// Bytes of an unfinished request.
    got: usize,
    /// Bytes of answers that the socket has not taken yet.
    owed: usize,
    /// Whether epoll is asked about writability.
    waiting: bool,
}

/// One epoll thread for all connections.
pub fn serve(address: SocketAddrV4, size: usize) -> io::Result<()> {
    let listener = listen(address)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut conns: Vec<Option<Conn>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut events: Vec<Event> = Vec::with_capacity(256);
    let mut buffer = vec![0; size.max(64 << 10)];
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            done => done?,
        };
        for event in &events {
            let at = event.data.u64();
            if at == LISTENER {
                accept_all(&listener, &epoll, &mut conns, &mut free)?;
                continue;
            }
            let at = at as usize;
            let Some(conn) = conns.get_mut(at).and_then(Option::as_mut) else {
                continue;
            };
            if turn(conn, size, &mut buffer).is_err() {
                conns[at] = None;
                free.push(at);
                continue;
            }
            if conn.waiting != (conn.owed > 0) {
                conn.waiting = !conn.waiting;
                let mut flags = EventFlags::IN;
                flags.set(EventFlags::OUT, conn.waiting);
                epoll::modify(&epoll, &conn.stream, EventData::new_u64(at as u64), flags)?;
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    epoll: &impl std::os::fd::AsFd,
    conns: &mut Vec<Option<Conn>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // The client gave up between its connect and our accept.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let at = free.pop().unwrap_or_else(|| {
            conns.push(None);
            conns.len() - 1
        });
        epoll::add(epoll, &stream, EventData::new_u64(at as u64), EventFlags::IN)?;
        conns[at] = Some(Conn { stream, got: 0, owed: 0, waiting: false });
    }
}

/// One event's worth of work: at most one read, and the answer to it. An error
/// means the connection is over (end of file included).
fn turn(conn: &mut Conn, size: usize, buffer: &mut [u8]) -> io::Result<()> {
    match conn.stream.read(buffer) {
        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
        Ok(n) => {
            conn.got += n;
            conn.owed += conn.got / size * size;
            conn.got %= size;
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    while conn.owed > 0 {
        match conn.stream.write(&buffer[..conn.owed.min(buffer.len())]) {
            Ok(n) => conn.owed -= n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
