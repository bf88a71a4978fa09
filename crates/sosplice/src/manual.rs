//! The defaults with their reasons, and what is guaranteed.
//!
//! # Guarantees
//!
//! * **Order and completeness.** Every byte that a splice takes from its source goes to
//!   its drain, once, in order; what it could not give is in [`End::residue`]. What it
//!   did not take is still readable on the source. Of datagrams the boundaries are kept, in
//!   the residue too ([`End::boundaries`]); see below.
//! * **Limits.** `max` is exact to the byte. `idle` is re-armed by movement; it is looked
//!   at by the clock, not by a call for each read, and is as exact as the driver's timer
//!   (about a millisecond). On a pair one idle limit serves both directions.
//! * **Counts.** [`Splice::transferred`] is never behind what the far receiver has seen.
//! * **End of file.** A one-way splice does not shut down its drain, as the socket option
//!   does not (sosplice(9)). A pair of streams carries the half-close of each side to the
//!   other, the FIN behind the last byte.
//! * **Resets.** A source that fails ends the opposite direction of a pair as well: nobody
//!   is left to read what that brings. A drain that fails does not: its peer may have
//!   answered before it went, and the answer is still delivered.
//! * **Signals.** No SIGPIPE reaches the program from the worker threads or from
//!   [`splice_both`]. The tokio driver runs on the caller's threads: Rust programs ignore
//!   SIGPIPE unless they were told otherwise.
//! * **Flags and options.** O_NONBLOCK and SO_RCVLOWAT (streams) and UDP_GRO (datagrams)
//!   are set while a splice needs them and are as before at its end. The caller should not use the sockets for reading
//!   (source) meanwhile, or take what he reads as taken from the stream.
//!
//! # Engines
//!
//! | Engine | Calls | For |
//! | --- | --- | --- |
//! | copy | recv, send, through a buffer of [`BUFFER_BYTES`] | small messages; anything that can be read and written |
//! | pipe | splice(2) into a pipe and out of it | bulk between TCP or unix stream sockets |
//!
//! A flow starts with copy. A read that fills the buffer is the sign of bulk, and the next
//! bytes go through a pipe; four moves in a row below 16 KiB bring the flow back. Neither
//! looks at the flow's total: a connection may change between dialogue and bulk as often
//! as it likes. splice(2) of small messages costs more than copying them (64-byte
//! request/response through a relay: 10.1k a second by copy, 9.1k by pipe), bulk costs
//! less than half.
//!
//! A pipe asks for [`PIPE_BYTES`] and takes what it gets, but for one that is smaller than
//! the kernel's usual 64 KiB, which is what a user has left whose share
//! (fs.pipe-user-pages-soft) is used up: such a flow is copied. Pipes and buffers are held
//! only while bytes are in them, so an idle splice holds none. At most [`PIPES_MAX`]
//! exist for each worker.
//!
//! [`Carried`] says which engine carried how many bytes, always.
//!
//! # Bulk
//!
//! When 4 MiB have come one way, back to back and unanswered, SO_RCVLOWAT is set to
//! [`LOW_WATER_BYTES`] on the source, so that the kernel collects more before it wakes the
//! worker. At the first pause of 3 ms, or when anything comes the other way, the mark goes
//! away; the kernel then reports what was below it. Bytes can so wait 3 ms, once: each
//! time it happens the flow must show four times as much before it is believed again.
//!
//! # Urgent data
//!
//! The urgent byte of TCP (MSG_OOB) is not forwarded unless SO_OOBINLINE is set on the
//! source, and then as an ordinary byte. It never stops a flow: splice(2) does not pass the
//! mark where the byte stood, recv steps over it.
//!
//! # Datagrams
//!
//! Two UDP sockets, IPv4 or IPv6 or one of each, are spliced datagram by datagram, empty
//! ones too. The drain must be connected; the source may take from anyone. Addresses and
//! control data are not passed on. A stream and a datagram socket are refused
//! ([`Error::Mixed`]), and so are datagram sockets other than UDP.
//!
//! | Engine ([`Carried`]) | Calls | For |
//! | --- | --- | --- |
//! | udp-gso | recvmmsg; sendmmsg of runs that the kernel cuts (UDP_SEGMENT) | datagrams of one size |
//! | udp-mmsg | recvmmsg, sendmmsg | several of different sizes |
//! | udp-plain | a send each | one at a time; [`EngineChoice::Copy`] |
//!
//! [`EngineChoice::Pipe`] means no other than `Auto`: splice(2) does not know boundaries.
//!
//! * **Limits.** `max` counts bytes and never cuts a datagram: one that would go beyond it
//!   stays on the source, with [`Cause::MaxInside`]. So does one that is larger than the
//!   drain's send buffer, as the program set it (half of what getsockopt says):
//!   [`Cause::MessageTooLong`].
//! * **UDP_GRO** is on at the source while a splice reads, so that the kernel joins what
//!   comes in runs; but with a `max`, with [`EngineChoice::Copy`], or with a send buffer below
//!   64 KiB it is left alone, because there each datagram is looked at. At the end
//!   it is switched off, and **what still waited on the source is in the residue, whatever
//!   the cause**: a joined run that stayed would be read as one datagram. A future that is
//!   dropped loses them. A program that had UDP_GRO on keeps it, and its joined messages
//!   count as one for `max`.
//! * **Ends.** [`Cause::Eof`] is a source that was shut down for reading, behind what had
//!   come. A refusal (ICMP, ECONNREFUSED) ends a splice, also while the source is silent, and
//!   both directions of a pair: whether send or recv is told of it is chance. There is no
//!   FIN: a pair ends by a limit, an error, or when it is unspliced.
//! * **Room.** A full drain stops the splice from reading; what then comes waits in the
//!   source's buffer, and the kernel drops what does not fit, as ever with UDP.
//!
//! # How to
//!
//! Relay two blocking sockets and know what happened:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (client, upstream) = std::os::unix::net::UnixStream::pair()?;
//! use sosplice::{Limits, splice_both};
//! let ends = splice_both(&client, &upstream, Limits::default())?;
//! println!("{} bytes up by {}, {}", ends.a_to_b.bytes, ends.a_to_b.carried.engine(), ends.a_to_b.cause);
//! # Ok(()) }
//! ```
//!
//! Forward a body of known length, and read what comes behind it:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (client, upstream) = std::os::unix::net::UnixStream::pair()?;
//! use sosplice::{Cause, Limits, Splicer};
//! let splicer = Splicer::new()?;
//! let body = Limits { max: Some(1 << 20), ..Limits::default() };
//! let end = splicer.splice(&client, &upstream, body)?.wait();
//! assert_eq!(end.cause, Cause::Max); // the next request is still in `client`
//! # Ok(()) }
//! ```
//!
//! [`End::residue`]: crate::End::residue
//! [`End::boundaries`]: crate::End::boundaries
//! [`Error::Mixed`]: crate::Error::Mixed
//! [`EngineChoice::Copy`]: crate::EngineChoice::Copy
//! [`EngineChoice::Pipe`]: crate::EngineChoice::Pipe
//! [`Cause::MaxInside`]: crate::Cause::MaxInside
//! [`Cause::MessageTooLong`]: crate::Cause::MessageTooLong
//! [`Cause::Eof`]: crate::Cause::Eof
//! [`Splice::transferred`]: crate::Splice::transferred
//! [`splice_both`]: crate::splice_both
//! [`BUFFER_BYTES`]: crate::store::BUFFER_BYTES
//! [`PIPE_BYTES`]: crate::store::PIPE_BYTES
//! [`PIPES_MAX`]: crate::store::PIPES_MAX
//! [`Carried`]: crate::Carried
//! [`LOW_WATER_BYTES`]: crate::mover::LOW_WATER_BYTES
