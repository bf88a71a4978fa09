//! The PROXY protocol, both ways: who the client is, told in front of a connection's bytes.
//!
//! A header that is taken is taken to the byte: what lies behind it stays in the kernel, for the
//! session to splice. Nobody is asked for one but the clients of listed networks, and those must
//! send one. TLVs are passed over. Rule: the PROXY protocol specification, versions 1 and 2
//! (haproxy.org, proxy-protocol.txt); the bytes are the `proxy-header` crate's concern, but for
//! spellings that it takes and the specification does not have.

#[cfg(any(test, fuzzing))]
pub(crate) mod examine;

use crate::plan::ProxyVersion;
use proxy_header::{Error as Malformed, ParseConfig, ProxiedAddress, ProxyHeader};
use rustix::fd::AsFd;
use rustix::net::{RecvFlags, SendFlags};
use sosplice::tokio::{Registered, Socket};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::io::Interest;

/// A header that is longer is refused: one with addresses and every TLV in use is far shorter.
const HEADER_MAX: usize = 4096;

/// Why a client's header was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("what it sent is no PROXY header")]
    Malformed,
    #[error("its PROXY header is longer than {HEADER_MAX} bytes")]
    TooLong,
    #[error("it ended inside its PROXY header")]
    Ended,
    #[error("{0}")]
    Socket(#[from] io::Error),
}

/// Who a client says it is, and what it was connected to; None for the balancer itself (LOCAL,
/// UNKNOWN), whose own addresses hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Takes the header that `client` begins with. The caller bounds the time.
///
/// # Errors
/// [`Refused`]; the connection is then of no use.
pub(crate) async fn accept(client: &Registered) -> Result<Option<Addresses>, Refused> {
    let mut header = Vec::with_capacity(256);
    loop {
        let known = header.len();
        peek(client, &mut header).await?;
        let end = match parse(&header)? {
            Some((_, end)) => end,
            None => header.len(),
        };
        // All of it is the header's, so it may be taken: what was looked at is not looked at
        // again, and an end of file shows.
        take(client, end - known)?;
        if let Some((addresses, _)) = parse(&header)? {
            return Ok(addresses);
        }
    }
}

/// The addresses, and the length of the header; None while it is incomplete.
fn parse(header: &[u8]) -> Result<Option<(Option<Addresses>, usize)>, Refused> {
    match ProxyHeader::parse(header, ParseConfig { include_tlvs: false, ..Default::default() }) {
        Ok((_, len)) if !header.get(..len).is_some_and(is_spelled_well) => Err(Refused::Malformed),
        Ok((parsed, len)) => {
            let told = parsed.proxied_address();
            let told = told.map(|told| Addresses { client: told.source, local: told.destination });
            Ok(Some((told, len)))
        }
        Err(Malformed::BufferTooShort) if header.len() >= HEADER_MAX => Err(Refused::TooLong),
        Err(Malformed::BufferTooShort) => Ok(None),
        Err(_) => Err(Refused::Malformed),
    }
}

/// The longest line of version 1.
const LINE_MAX: usize = 107;

/// Whether a whole header is as the specification spells it. Of version 1 the crate takes more: any
/// byte behind `PROXY`, lines of any length if they come at once, signs and leading zeros.
fn is_spelled_well(header: &[u8]) -> bool {
    let Some(line) = header.strip_prefix(b"PROXY") else { return true };
    let Some(text) = line.strip_suffix(b"\r\n") else { return false };
    let mut words = text.split(|byte| *byte == b' ');
    header.len() <= LINE_MAX
        && text.iter().all(|byte| (b' '..=b'~').contains(byte))
        && words.next() == Some(b"")
        && match words.next() {
            // Whatever else is in such a line is passed over.
            Some(b"UNKNOWN") => true,
            Some(b"TCP4" | b"TCP6") => words.skip(2).all(is_port),
            _ => false,
        }
}

fn is_port(word: &[u8]) -> bool {
    word == b"0" || word.iter().all(u8::is_ascii_digit) && !word.starts_with(b"0")
}

/// Appends what has arrived, and leaves it where it is.
async fn peek(client: &Registered, header: &mut Vec<u8>) -> Result<(), Refused> {
    let known = header.len();
    let mut room = [0; HEADER_MAX];
    let room = &mut room[..HEADER_MAX - known];
    loop {
        client.readable().await?;
        let peeked = client.try_io(Interest::READABLE, || {
            Ok(rustix::net::recv(client, &mut *room, RecvFlags::PEEK)?.0)
        });
        match peeked {
            Ok(0) => return Err(Refused::Ended),
            Ok(count) => {
                header.extend_from_slice(&room[..count]);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes bytes that have been seen.
fn take(client: &Registered, mut count: usize) -> Result<(), Refused> {
    let mut seen = [0; HEADER_MAX];
    while count > 0 {
        match rustix::net::recv(client.as_fd(), &mut seen[..count], RecvFlags::empty()) {
            Ok((0, _)) => return Err(Refused::Ended),
            Ok((taken, _)) => count -= taken,
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    Ok(())
}

/// The header that tells of a client.
pub(crate) fn header(version: ProxyVersion, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (client, local) = one_family(client, local);
    let header = ProxyHeader::with_address(ProxiedAddress::stream(client, local));
    let mut bytes = Vec::with_capacity(128);
    let encoded = match version {
        ProxyVersion::V1 => header.encode_v1(&mut bytes),
        ProxyVersion::V2 => header.encode_v2(&mut bytes),
    };
    // Both addresses are of one family, and there are no TLVs.
    debug_assert!(encoded.is_ok());
    bytes
}

/// Sends it on a connection that has carried nothing yet, so that it always fits.
///
/// # Errors
/// What send(2) says.
pub(crate) fn send<Fd: AsFd>(upstream: Fd, header: &[u8]) -> io::Result<()> {
    let sent = rustix::net::send(upstream, header, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    if sent == header.len() {
        Ok(())
    } else {
        Err(io::Error::other("its PROXY header did not fit into an empty socket"))
    }
}

/// Both as IPv4, or both as IPv6.
fn one_family(client: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (client, local) = (canonical(client), canonical(local));
    if client.is_ipv4() == local.is_ipv4() {
        return (client, local);
    }
    (mapped(client), mapped(local))
}

/// IPv4 where it is that.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn mapped(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), addr.port())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// Sends `pieces`, one after the other has been seen, then its end; and gives what was
    /// taken and what was left.
    fn accepted(pieces: &[&[u8]]) -> (Result<Option<Addresses>, Refused>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut client = TcpStream::connect(listener.local_addr().expect("addr")).expect("connect");
        let (relay, _) = listener.accept().expect("accept");
        let mut rest = relay.try_clone().expect("clone");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let taken = runtime.expect("runtime").block_on(async {
            let relay = Registered::new(relay.into()).expect("registered");
            let sending = async {
                for piece in pieces {
                    client.write_all(piece).expect("write");
                    tokio::task::yield_now().await;
                }
                client.shutdown(std::net::Shutdown::Write).expect("shutdown");
            };
            let (taken, ()) = tokio::join!(accept(&relay), sending);
            taken
        });
        rest.set_nonblocking(false).expect("blocking");
        let mut left = Vec::new();
        rest.read_to_end(&mut left).expect("read");
        (taken, left)
    }

    #[test]
    fn the_header_is_taken_to_the_byte_and_what_follows_is_left() {
        let (client, local) = (addr("192.0.2.7:4711"), addr("198.51.100.1:80"));
        let (client6, local6) = (addr("[2001:db8::7]:4711"), addr("[2001:db8::1]:80"));
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for (client, local) in [(client, local), (client6, local6)] {
                let told = Some(Addresses { client, local });
                let header = header(version, client, local);
                let whole = [&header[..], b"data"].concat();
                let (taken, left) = accepted(&[&whole]);
                assert_eq!(taken.expect("taken"), told);
                assert_eq!(left, b"data");
                let bytes: Vec<&[u8]> = whole.chunks(1).collect();
                let (taken, left) = accepted(&bytes);
                assert_eq!(taken.expect("taken"), told, "byte by byte");
                assert_eq!(left, b"data");
            }
        }
        let (taken, left) = accepted(&[b"PROXY UNKNOWN\r\nmore"]);
        assert_eq!((taken.expect("taken"), &left[..]), (None, &b"more"[..]));
        let (taken, left) = accepted(&[b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00more"]);
        assert_eq!((taken.expect("taken"), &left[..]), (None, &b"more"[..]));
    }

    /// What a client may begin with in place of a header, and how that is refused.
    const REFUSED: &[(&[u8], &str)] = &[
        (b"GET / HTTP/1.1\r\n\r\n", "Malformed"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 70000 1\r\n", "Malformed"),
        (b"PROXY TCP4 1.2.3 1.2.3.4 7 1\r\n   ", "Malformed"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 7 1\rx", "Malformed"),
        (b"PROXYxTCP4 1.2.3.4 1.2.3.4 7 1\r\n", "Malformed"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 +7 1\r\n", "Malformed"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 7 01\r\n", "Malformed"),
        (b"PROXY UNKNOWN a\nb\r\n", "Malformed"),
        (b"PROXY UNKNOWNS\r\n", "Malformed"),
        (b"PROXY TCP4 1.2.3.4", "Ended"),
        (b"", "Ended"),
    ];

    /// For the fuzz target.
    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let mut seeds: Vec<_> = REFUSED.iter().map(|(bytes, _)| bytes.to_vec()).collect();
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            seeds.push(header(version, addr("192.0.2.7:4711"), addr("198.51.100.1:80")));
            seeds.push(header(version, addr("[2001:db8::7]:4711"), addr("[2001:db8::1]:80")));
        }
        seeds.push(b"PROXY UNKNOWN\r\nmore".to_vec());
        seeds.push(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00more".to_vec());
        seeds
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long_v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 5000]].concat();
        for &(bytes, expected) in REFUSED.iter().chain([&(&long_v2[..], "TooLong")]) {
            let (taken, _) = accepted(&[bytes]);
            let why = taken.expect_err("refused");
            assert_eq!(format!("{why:?}"), expected, "{}", bytes.escape_ascii());
        }
        for begin in [&b"PROXY TCP4 "[..], b"PROXY UNKNOWN "] {
            let long = [begin, &[b'1'; 100], b"\r\n"].concat();
            let (taken, _) = accepted(&[&long]);
            assert!(taken.is_err(), "longer than a line may be");
            let pieces: Vec<_> = long.chunks(1).collect();
            assert!(accepted(&pieces).0.is_err(), "and byte by byte");
        }
    }

    #[test]
    fn families_are_not_mixed() {
        let (v4, v6) = (addr("192.0.2.7:4711"), addr("[2001:db8::1]:80"));
        let header = header(ProxyVersion::V1, v4, v6);
        assert_eq!(header, b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 4711 80\r\n");
        let mapped = addr("[::ffff:192.0.2.7]:4711");
        let header = super::header(ProxyVersion::V1, mapped, addr("127.0.0.1:80"));
        assert_eq!(header, b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n");
    }

    proptest! {
        #[test]
        fn whatever_begins_like_a_header(bytes in proptest::collection::vec(any::<u8>(), 0..200), v2 in any::<bool>()) {
            let mut header = if v2 { b"\r\n\r\n\0\r\nQUIT\n".to_vec() } else { b"PROXY ".to_vec() };
            header.extend(bytes);
            examine::header(&header);
        }
    }
}
