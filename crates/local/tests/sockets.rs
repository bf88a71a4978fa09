//! Two threads over a real connection: what the kernel does to doorbells, FIN and full buffers.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sosplice_local::end::{End, Found, Own};
use sosplice_local::layout::Header;
use sosplice_local::lock::Threads;
use sosplice_local::ring::Ring;
use sosplice_local::stream::{self, ReadHow, Tcp, WriteHow};
use std::io::{IoSlice, IoSliceMut};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

const RING_BYTES: usize = 4096;

/// The memory of a pair, in the heap.
struct Memory {
    header: Header,
    rings: [NonNull<u8>; 2],
}

// SAFETY: the rings are only used through `Ring`, which expects others to write there.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new() -> Self {
        let rings = [0, 1].map(|_| NonNull::from(Box::leak(Box::new([0u8; RING_BYTES]))).cast());
        Self { header: Header::new(RING_BYTES as u64), rings }
    }

    fn end<'a>(&'a self, role: usize, own: &'a Own) -> End<'a, Ring> {
        // SAFETY: so many bytes were allocated, and are freed with the process.
        let ring = |which: usize| unsafe { Ring::new(self.rings[which], RING_BYTES) };
        End { own, header: &self.header, role, incoming: ring(1 - role), outgoing: ring(role) }
    }
}

struct Socket<'a> {
    stream: &'a TcpStream,
    /// Of the program's sends.
    flags: i32,
    begun: Instant,
}

fn result(count: isize) -> Result<usize, Errno> {
    usize::try_from(count).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).expect("an error of the system's")
    })
}

impl Socket<'_> {
    fn receive(&self, to: *mut u8, len: usize, flags: i32) -> Result<usize, Errno> {
        // SAFETY: so many bytes are there; none are with MSG_TRUNC, which writes none (tcp(7)).
        result(unsafe { libc::recv(self.stream.as_raw_fd(), to.cast(), len, flags) })
    }

    fn look(&self, flags: i32) -> Result<usize, Errno> {
        let mut byte = 0;
        self.receive(&raw mut byte, 1, flags | libc::MSG_PEEK)
    }

    fn wait_for(&self, events: PollFlags) {
        let _ = poll(&mut [PollFd::new(self.stream, events)], None);
    }
}

impl Tcp for Socket<'_> {
    fn recv(&self, to: &mut [IoSliceMut<'_>], peek: bool) -> Result<usize, Errno> {
        let mut bytes = vec![0; to.iter().map(|buffer| buffer.len()).sum()];
        let flags = libc::MSG_DONTWAIT | if peek { libc::MSG_PEEK } else { 0 };
        let count = self.receive(bytes.as_mut_ptr(), bytes.len(), flags)?;
        let mut from = &bytes[..count];
        for buffer in to {
            let (piece, rest) = from.split_at(buffer.len().min(from.len()));
            buffer[..piece.len()].copy_from_slice(piece);
            from = rest;
        }
        Ok(count)
    }

    fn discard(&self, count: usize) -> Result<usize, Errno> {
        self.receive(std::ptr::null_mut(), count, libc::MSG_DONTWAIT | libc::MSG_TRUNC)
    }

    fn probe(&self) -> Result<usize, Errno> {
        self.look(libc::MSG_DONTWAIT)
    }

    fn sleep(&self) -> Result<usize, Errno> {
        self.look(0)
    }

    fn is_over(&self) -> bool {
        let mut state = [PollFd::new(self.stream, PollFlags::RDHUP)];
        let _ = poll(&mut state, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }));
        !state[0].revents().is_empty()
    }

    fn ring(&self) -> Result<(), Errno> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: one byte is read.
        result(unsafe { libc::send(self.stream.as_raw_fd(), b"!".as_ptr().cast(), 1, flags) })
            .map(drop)
    }

    fn send(&self, from: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let bytes = from.iter().flat_map(|buffer| buffer.iter().copied()).collect::<Vec<_>>();
        let flags = self.flags | libc::MSG_NOSIGNAL;
        // SAFETY: the bytes are only read.
        result(unsafe {
            libc::send(self.stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags)
        })
    }

    fn send_now(&self, from: &[u8]) -> Result<usize, Errno> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the bytes are only read.
        result(unsafe {
            libc::send(self.stream.as_raw_fd(), from.as_ptr().cast(), from.len(), flags)
        })
    }

    fn now_ns(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }
}

/// This process's threads.
struct Here;

impl Threads for Here {
    fn own(&self) -> u32 {
        // SAFETY: no arguments, cannot fail.
        unsafe { libc::gettid() as u32 }
    }

    fn yield_now(&self) {
        std::thread::yield_now();
    }

    fn lives(&self, _: u32) -> bool {
        true
    }
}

/// An end as a program has it.
struct Program<'a> {
    end: End<'a, Ring>,
    socket: Socket<'a>,
    how: How,
}

#[derive(Debug, Clone, Copy)]
struct How {
    is_blocking: bool,
    spin_ns: u64,
}

impl<'a> Program<'a> {
    fn on(end: End<'a, Ring>, stream: &'a TcpStream) -> Self {
        end.attach();
        let socket = Socket { stream, flags: 0, begun: Instant::now() };
        Self { end, socket, how: How { is_blocking: false, spin_ns: 0 } }
    }

    fn read(&self, to: &mut [u8]) -> usize {
        let now = !self.how.is_blocking;
        let how = ReadHow { now, spin_ns: self.how.spin_ns, low_water: 1, ..ReadHow::default() };
        loop {
            match stream::recv(&self.end, &self.socket, &Here, &mut [IoSliceMut::new(to)], how) {
                Ok(count) => return count,
                Err(Errno::AGAIN) => self.poll(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Until there is something to read.
    fn poll(&self) {
        loop {
            let _asleep = self.end.asleep();
            if stream::prepare(&self.end, &self.socket, &Here, 1) != Ok(false) {
                return;
            }
            self.socket.wait_for(PollFlags::IN);
            if stream::settle(&self.end, &self.socket, &Here, 1) != Ok(false) {
                return;
            }
        }
    }

    fn write(&self, mut from: &[u8]) {
        let how = WriteHow { spin_ns: self.how.spin_ns, waits: self.how.is_blocking };
        while !from.is_empty() {
            match stream::send(&self.end, &self.socket, &Here, &[IoSlice::new(from)], how) {
                Ok(count) => from = &from[count..],
                Err(Errno::AGAIN) => self.socket.wait_for(PollFlags::OUT),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn finish(&self) {
        stream::pin(&self.end, &self.socket, &Here).expect("a connection");
        self.socket.stream.shutdown(Shutdown::Write).expect("a connection");
    }
}

/// Who sleeps for ever ends the test all the same.
fn watch() -> Sender<()> {
    let (alive, watched) = channel();
    std::thread::spawn(move || {
        if watched.recv_timeout(Duration::from_secs(120)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("an end sleeps over what is there");
            std::process::abort();
        }
    });
    alive
}

/// Runs a program at each end.
fn run(how: How, programs: [fn(&Program<'_>); 2]) -> Arc<Memory> {
    let _alive = watch();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("a port")).expect("a connection");
    let (server, _) = listener.accept().expect("a connection");
    let memory = Arc::new(Memory::new());
    std::thread::scope(|scope| {
        for (role, (stream, program)) in [client, server].into_iter().zip(programs).enumerate() {
            let memory = &memory;
            scope.spawn(move || {
                stream.set_nodelay(true).expect("a socket");
                stream.set_nonblocking(!how.is_blocking).expect("a socket");
                let own = Own::default();
                let end = memory.end(role, &own);
                let socket = Socket { stream: &stream, flags: 0, begun: Instant::now() };
                end.attach();
                program(&Program { end, socket, how });
            });
        }
    });
    memory
}

fn byte(position: usize) -> u8 {
    (position.wrapping_mul(0x9e37_79b9) >> 16) as u8
}

/// Sizes that lie around the ring's.
fn sizes() -> impl Iterator<Item = usize> {
    let mut seed = 7u64;
    std::iter::repeat_with(move || {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let size = [1, 30, 1000, 4096, 5000, 20_000][(seed >> 40) as usize % 6];
        (seed >> 50) as usize % size + 1
    })
}

const STREAM_BYTES: usize = 3_000_000;

fn write_stream(program: &Program<'_>) {
    let mut sizes = sizes();
    let mut done = 0;
    while done < STREAM_BYTES {
        let len = sizes.next().expect("no end").min(STREAM_BYTES - done);
        program.write(&(done..done + len).map(byte).collect::<Vec<_>>());
        done += len;
    }
    program.finish();
}

fn read_stream(program: &Program<'_>) {
    let mut sizes = sizes().skip(3);
    let mut done = 0;
    loop {
        let mut bytes = vec![0; sizes.next().expect("no end")];
        let count = program.read(&mut bytes);
        if count == 0 {
            break;
        }
        let differs = (0..count).find(|at| bytes[*at] != byte(done + at));
        assert_eq!(differs.map(|at| done + at), None, "a byte is another");
        done += count;
    }
    assert_eq!(done, STREAM_BYTES);
}

const TURNS: usize = 3000;

fn ask(program: &Program<'_>) {
    for (turn, len) in sizes().take(TURNS).enumerate() {
        let question = (turn..turn + len).map(byte).collect::<Vec<_>>();
        program.write(&question);
        let mut answer = vec![0; len];
        let mut done = 0;
        while done < len {
            let count = program.read(&mut answer[done..]);
            assert!(count > 0, "the end in turn {turn}");
            done += count;
        }
        assert!(answer == question, "turn {turn}");
    }
    program.finish();
    assert_eq!(program.read(&mut [0]), 0);
}

fn echo(program: &Program<'_>) {
    let mut bytes = vec![0; 6000];
    loop {
        let count = program.read(&mut bytes);
        if count == 0 {
            break;
        }
        program.write(&bytes[..count]);
    }
    program.finish();
}

/// In each way: how many of the first end's messages went through the ring.
fn every_way(programs: [fn(&Program<'_>); 2]) -> Vec<u64> {
    let mut messages = Vec::new();
    for is_blocking in [true, false] {
        for spin_ns in [0, 20_000] {
            let memory = run(How { is_blocking, spin_ns }, programs);
            let count = &memory.header.lanes[0].written.messages;
            messages.push(count.load(std::sync::atomic::Ordering::Relaxed));
        }
    }
    messages
}

/// How much of it goes through the ring is for the scheduler to say.
#[test]
fn a_stream_arrives_whole() {
    every_way([write_stream, read_stream]);
}

#[test]
fn each_question_gets_its_answer() {
    let messages = every_way([ask, echo]);
    assert!(messages.iter().all(|messages| *messages > 100), "{messages:?} went through the ring");
}

const NOW: ReadHow =
    ReadHow { peek: false, all: false, now: true, spin_ns: 0, low_water: 1, may_park: false };

/// Both directions are in the ring, and the second end was rung for a byte; it has the byte, if it `took` it, and not the
/// doorbell. It writes what `write` says, and dies. What the first end reads then.
fn a_death_over_a_doorbell(took: bool, write: &[u8]) -> (usize, Vec<u8>, Result<usize, Errno>) {
    let _alive = watch();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let first = TcpStream::connect(listener.local_addr().expect("a port")).expect("a connection");
    let (second, _) = listener.accept().expect("a connection");
    let memory = Memory::new();
    let owns = [Own::default(), Own::default()];
    let one = Program::on(memory.end(0, &owns[0]), &first);
    let other = Program::on(memory.end(1, &owns[1]), &second);
    let mut bytes = vec![0; 1 << 20];
    let read = |program: &Program<'_>, bytes: &mut [u8]| {
        let to = &mut [IoSliceMut::new(bytes)];
        stream::recv(&program.end, &program.socket, &Here, to, NOW)
    };
    let send = |program: &Program<'_>, bytes: &[u8]| {
        let from = &[IoSlice::new(bytes)];
        stream::send(&program.end, &program.socket, &Here, from, WriteHow::default())
    };
    for (stream, program) in [(&first, &one), (&second, &other)] {
        stream.set_nonblocking(true).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        assert_eq!(read(program, &mut bytes), Err(Errno::AGAIN));
    }
    assert_eq!(stream::prepare(&other.end, &other.socket, &Here, 1), Ok(false));
    assert_eq!(send(&one, b"!"), Ok(1));
    other.socket.wait_for(PollFlags::IN);
    if took {
        let mut reading = other.end.reading(&Here).expect("a lock");
        assert_eq!(reading.look(), Ok(Found::Ring(1)));
        reading.took(1);
    }
    let written = send(&other, write).expect("room");
    drop(second);
    let mut all = Vec::new();
    loop {
        match read(&one, &mut bytes) {
            Ok(count @ 1..) => all.extend(&bytes[..count]),
            Err(Errno::AGAIN) => one.socket.wait_for(PollFlags::IN),
            end => return (written, all, end),
        }
    }
}

#[test]
fn a_doorbell_for_nothing_does_not_turn_the_end_into_a_reset() {
    let (_, all, end) = a_death_over_a_doorbell(true, b"last words");
    assert_eq!((&*all, end), (&b"last words"[..], Ok(0)));
}

#[test]
fn an_unread_byte_does() {
    let (_, all, end) = a_death_over_a_doorbell(false, b"last words");
    assert_eq!((&*all, end), (&b"last words"[..], Err(Errno::CONNRESET)));
}

/// The kernel drops what a socket has not sent yet when it resets.
#[test]
fn a_doorbell_for_nothing_does_not_cost_what_was_sent_over_tcp() {
    let bytes = (0..16 << 20).map(byte).collect::<Vec<_>>();
    let (written, all, end) = a_death_over_a_doorbell(true, &bytes);
    assert!(written > 100_000, "{written}");
    assert!(all == bytes[..written], "{} of {written} bytes, {end:?}", all.len());
    assert_eq!(end, Ok(0));
}
