//! What is found out by doing it, on loopback and on a small scale. No trial
//! waits longer than [`PATIENCE`], and none leaves anything behind.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};
use socket2::{Domain, MsgHdr, SockRef, Socket, Type};

/// How long a trial waits for bytes that it sent to itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// Payload of a trial, in bytes: below every default buffer, so that the one
/// thread that does both ends can write it all before it reads.
const PAYLOAD_LEN: usize = 8 * 1024;

/// Pipes that are open at once in the trial of the pipe budget.
pub(super) const PIPES_TRIED: usize = 8;

/// Size that each of them asks for, in bytes.
pub(super) const PIPE_SIZE_ASKED: u64 = 1 << 20;

/// From linux/socket.h and linux/udp.h.
const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;

/// How a trial went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tried {
    /// It works.
    Works,
    /// The kernel refuses it, with what it says.
    Refused(String),
    /// There was nothing to try it on, and why.
    Untried(String),
}

/// Two connected ends; why not, where there are none.
fn tcp_pair() -> Result<(TcpStream, TcpStream), Tried> {
    let pair = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let near = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
        let (far, _) = listener.accept()?;
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        io::Result::Ok((near, far))
    };
    pair().map_err(|error| Tried::Untried(format!("no TCP on loopback: {error}")))
}

fn unix_pair() -> Result<(UnixStream, UnixStream), Tried> {
    let pair = || {
        let (near, far) = UnixStream::pair()?;
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        io::Result::Ok((near, far))
    };
    pair().map_err(|error| Tried::Untried(format!("no unix sockets: {error}")))
}

/// splice(2) from a TCP socket through a pipe to another one.
pub(super) fn splice_tcp() -> Tried {
    match (tcp_pair(), tcp_pair()) {
        (Ok((client, source)), Ok((drain, server))) => spliced(client, &source, &drain, server),
        (Err(why), _) | (_, Err(why)) => why,
    }
}

/// The same between unix stream sockets.
pub(super) fn splice_unix() -> Tried {
    match (unix_pair(), unix_pair()) {
        (Ok((client, source)), Ok((drain, server))) => spliced(client, &source, &drain, server),
        (Err(why), _) | (_, Err(why)) => why,
    }
}

fn spliced(
    mut client: impl Write,
    source: &impl AsFd,
    drain: &impl AsFd,
    mut server: impl Read,
) -> Tried {
    let sent: Vec<u8> = (0..PAYLOAD_LEN).map(|at| (at / 7) as u8).collect();
    let (pipe_out, pipe_in) = match pipe_with(PipeFlags::CLOEXEC) {
        Ok(pipe) => pipe,
        Err(error) => return Tried::Untried(format!("no pipe: {error}")),
    };
    let mut run = || {
        client.write_all(&sent)?;
        let mut moved = 0;
        while moved < PAYLOAD_LEN {
            let flags = SpliceFlags::MOVE;
            let taken = splice(source, None, &pipe_in, None, PAYLOAD_LEN - moved, flags)?;
            let mut held = taken;
            while held > 0 {
                match splice(&pipe_out, None, drain, None, held, flags)? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    given => held -= given,
                }
            }
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            moved += taken;
        }
        let mut received = vec![0; PAYLOAD_LEN];
        server.read_exact(&mut received)?;
        io::Result::Ok(received)
    };
    match run() {
        Ok(received) if received == sent => Tried::Works,
        Ok(_) => Tried::Refused("other bytes came out than went in".to_owned()),
        Err(error) => Tried::Refused(error.to_string()),
    }
}

/// What pipes the kernel really gives now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pipes {
    /// Size of a new pipe, in bytes; the smallest of those tried.
    pub unasked: u64,
    /// Size after asking for [`PIPE_SIZE_ASKED`], in bytes; the smallest of those tried.
    pub given: u64,
    /// What the kernel said to the first that it refused.
    pub refused: Option<String>,
}

/// Holds [`PIPES_TRIED`] pipes at once and asks for [`PIPE_SIZE_ASKED`] each.
pub(super) fn pipes() -> Result<Pipes, String> {
    let mut pipes = Pipes { unasked: u64::MAX, given: u64::MAX, refused: None };
    let mut held = Vec::new();
    for _ in 0..PIPES_TRIED {
        let pipe = pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("no pipe: {error}"))?;
        let size = || fcntl_getpipe_size(&pipe.0).map_err(|error| format!("its size: {error}"));
        pipes.unasked = pipes.unasked.min(size()? as u64);
        if let Err(error) = fcntl_setpipe_size(&pipe.0, PIPE_SIZE_ASKED as usize) {
            pipes.refused.get_or_insert(error.to_string());
        }
        pipes.given = pipes.given.min(size()? as u64);
        held.push(pipe);
    }
    Ok(pipes)
}

/// Two listeners on one port.
pub(super) fn reuse_port() -> Tried {
    let listen = |port: u16| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        socket.listen(1)?;
        io::Result::Ok(socket)
    };
    let first = match listen(0) {
        Ok(first) => first,
        Err(error) => return Tried::Untried(format!("no listener on loopback: {error}")),
    };
    let port = first.local_addr().ok().and_then(|address| address.as_socket());
    match port.map(|address| listen(address.port())) {
        Some(Ok(_second)) => Tried::Works,
        Some(Err(error)) => Tried::Refused(error.to_string()),
        None => Tried::Untried("the listener has no address".to_owned()),
    }
}

/// One send that the kernel cuts into three datagrams (UDP_SEGMENT).
pub(super) fn udp_segment() -> Tried {
    const SEGMENT_LEN: u16 = 100;
    let pair = || {
        let to = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let from = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        from.connect(to.local_addr()?)?;
        to.set_read_timeout(Some(PATIENCE))?;
        io::Result::Ok((from, to))
    };
    let (from, to) = match pair() {
        Ok(pair) => pair,
        Err(error) => return Tried::Untried(format!("no UDP on loopback: {error}")),
    };
    let payload = [7; 3 * SEGMENT_LEN as usize];
    let control = control_message(SOL_UDP, UDP_SEGMENT, &SEGMENT_LEN.to_ne_bytes());
    let slices = [IoSlice::new(&payload)];
    let message = MsgHdr::new().with_buffers(&slices).with_control(&control);
    if let Err(error) = SockRef::from(&from).sendmsg(&message, 0) {
        return Tried::Refused(error.to_string());
    }
    let mut buffer = [0; 4 * SEGMENT_LEN as usize];
    for _ in 0..3 {
        match to.recv(&mut buffer) {
            Ok(len) if len == usize::from(SEGMENT_LEN) => {}
            // A kernel that does not know the message sends one datagram.
            Ok(len) => return Tried::Refused(format!("a datagram of {len} bytes came out")),
            Err(error) => return Tried::Refused(error.to_string()),
        }
    }
    Tried::Works
}

/// A `struct cmsghdr` with its data and padding, as cmsg(3) lays it out.
fn control_message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    const WORD: usize = size_of::<usize>();
    let header = WORD + 2 * size_of::<i32>();
    let mut bytes = Vec::with_capacity(header + WORD);
    bytes.extend_from_slice(&(header + data.len()).to_ne_bytes());
    bytes.extend_from_slice(&level.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(WORD), 0);
    bytes
}

/// SO_BUSY_POLL raised on a socket of ours.
pub(super) fn busy_poll() -> Tried {
    match Socket::new(Domain::IPV4, Type::STREAM, None) {
        Ok(socket) => match socket.set_busy_poll(50) {
            Ok(()) => Tried::Works,
            Err(error) => Tried::Refused(error.to_string()),
        },
        Err(error) => Tried::Untried(format!("no socket: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splice_works_where_the_tests_run() {
        assert_eq!(splice_tcp(), Tried::Works);
        assert_eq!(splice_unix(), Tried::Works);
    }

    #[test]
    fn a_splice_that_cannot_be_is_refused_and_not_a_panic() {
        // A socket that was never connected cannot be a source.
        let (client, _source) = tcp_pair().expect("loopback");
        let (drain, server) = tcp_pair().expect("loopback");
        let lonely = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let tried = spliced(client, &lonely, &drain, server);
        assert!(matches!(tried, Tried::Refused(_)), "{tried:?}");
    }

    #[test]
    fn other_trials_end_with_an_answer() {
        assert_eq!(reuse_port(), Tried::Works);
        assert_eq!(udp_segment(), Tried::Works);
        let _either = busy_poll();
        let pipes = pipes().expect("pipes");
        assert!(pipes.given >= 4096 && pipes.given < u64::MAX);
    }

    #[test]
    fn the_control_message_is_laid_out_as_the_kernel_wants_it() {
        let message = control_message(SOL_UDP, UDP_SEGMENT, &[1, 2]);
        let word = size_of::<usize>();
        assert_eq!(message.len(), word + 8 + word);
        assert_eq!(message[..word], (word + 8 + 2).to_ne_bytes());
    }
}
