//! Bytes in several pieces: vectors and messages.

use crate::calls::*;
use crate::cases;
use crate::end::End;
use libc::{MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL, c_int, iovec, ssize_t};
use std::mem::zeroed;
use std::ptr::null_mut;

cases! {
    EVERY vectors;
    EVERY messages_of_several_pieces;
    EVERY a_message_has_no_address_and_no_ancillary_data;
    EVERY a_message_that_is_peeked_or_waited_for;
    EVERY addresses_of_a_connected_stream;
    EVERY several_messages_a_call;
    EVERY vectors_with_an_offset;
}

fn pieces(parts: &mut [&mut [u8]]) -> Vec<iovec> {
    let piece =
        |part: &mut &mut [u8]| iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() };
    parts.iter_mut().map(piece).collect()
}

/// Three buffers of these sizes are filled by `call`.
fn scatter(
    sizes: [usize; 3],
    call: impl FnOnce(&mut [iovec]) -> ssize_t,
) -> (Result<usize>, String) {
    let [mut a, mut b, mut c] = sizes.map(|size| vec![b'.'; size]);
    let mut parts = pieces(&mut [&mut a, &mut b, &mut c]);
    let count = check(call(&mut parts));
    (count, [a, b, c].map(|part| digest(&part)).join(", "))
}

fn gather(parts: [&str; 3], call: impl FnOnce(&mut [iovec]) -> ssize_t) -> Result<usize> {
    let [mut a, mut b, mut c] = parts.map(|part| part.as_bytes().to_vec());
    check(call(&mut pieces(&mut [&mut a, &mut b, &mut c])))
}

pub fn message(parts: &mut [iovec]) -> libc::msghdr {
    // SAFETY: zeroes are a valid message without anything.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    message
}

fn vectors(end: &mut End) {
    let fd = end.fd;
    if end.near() {
        for parts in [["one ", "", "two "], ["", "three", ""], ["", "", ""]] {
            // SAFETY: the pieces live through the call.
            let sent = gather(parts, |parts| unsafe { libc::writev(fd, parts.as_ptr(), 3) });
            end.saw("sent", sent);
        }
        let (mut one, mut other) = (pattern(100_000), pattern(50_001));
        let parts = pieces(&mut [&mut one, &mut other]);
        // SAFETY: as above.
        let sent = check(unsafe { libc::writev(fd, parts.as_ptr(), 2) });
        end.saw("much", sent);
        end.meet();
    } else {
        await_queued_at_least(fd, 13);
        for sizes in [[2, 0, 3], [4, 1, 3]] {
            // SAFETY: as above.
            let got = scatter(sizes, |parts| unsafe { libc::readv(fd, parts.as_ptr(), 3) });
            end.saw("got", got);
        }
        let rest = read_digest(fd, 150_001);
        end.saw("rest", rest);
        end.meet();
    }
}

fn await_queued_at_least(fd: c_int, count: usize) {
    eventually("bytes queued", || queued(fd) >= count);
}

fn messages_of_several_pieces(end: &mut End) {
    let fd = end.fd;
    if end.near() {
        for parts in [["one ", "", "two "], ["and ", "three ", "more"]] {
            // SAFETY: the pieces live through the call.
            let sent = gather(parts, |parts| unsafe { libc::sendmsg(fd, &message(parts), 0) });
            end.saw("sent", sent);
        }
        end.meet();
    } else {
        end.meet();
        await_queued(fd, 22);
        for sizes in [[2, 0, 3], [100, 5, 5]] {
            // SAFETY: as above.
            let got = scatter(sizes, |parts| unsafe { libc::recvmsg(fd, &mut message(parts), 0) });
            end.saw("got", got);
        }
    }
}

fn a_message_has_no_address_and_no_ancillary_data(end: &mut End) {
    let fd = end.fd;
    if end.near() {
        send_all(fd, b"0123456789");
        end.meet();
    } else {
        end.meet();
        await_queued(fd, 10);
        let mut control = [0u8; 64];
        let mut name = [7u8; 32];
        let mut facts = (0, 0, 0);
        let got = scatter([1, 2, 3], |parts| {
            let mut message = message(parts);
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = 64 as _;
            message.msg_name = name.as_mut_ptr().cast();
            message.msg_namelen = 32;
            message.msg_flags = -1;
            // SAFETY: everything that the message names lives through the call.
            let count = unsafe { libc::recvmsg(fd, &raw mut message, 0) };
            facts = (message.msg_flags, message.msg_controllen, message.msg_namelen);
            count
        });
        end.saw("got", got);
        end.saw("flags, control, name", facts);
        end.saw("the name is untouched", name == [7; 32]);
    }
}

fn a_message_that_is_peeked_or_waited_for(end: &mut End) {
    let fd = end.fd;
    if end.near() {
        send_all(fd, b"01234");
        end.meet();
        pause_ms(20);
        send_all(fd, b"56789");
    } else {
        end.meet();
        await_queued(fd, 5);
        for flags in [MSG_PEEK, MSG_PEEK | MSG_DONTWAIT, MSG_WAITALL, MSG_DONTWAIT] {
            // SAFETY: the pieces live through the call.
            let got = scatter([1, 4, 5], |parts| unsafe {
                libc::recvmsg(fd, &mut message(parts), flags)
            });
            end.saw("got", got);
        }
    }
}

fn addresses_of_a_connected_stream(end: &mut End) {
    // SAFETY: zeroes are a valid address.
    let mut address: libc::sockaddr_in = unsafe { zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = 9u16.to_be();
    let mut len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    let at = (&raw mut address).cast::<libc::sockaddr>();
    if end.near() {
        // SAFETY: bytes and address live through the call.
        let sent = check(unsafe { libc::sendto(end.fd, b"hello".as_ptr().cast(), 5, 0, at, len) });
        end.saw("sent", sent);
        end.meet();
    } else {
        end.meet();
        await_queued(end.fd, 5);
        let mut bytes = [0u8; 10];
        // SAFETY: as above.
        let got = check(unsafe {
            libc::recvfrom(end.fd, bytes.as_mut_ptr().cast(), 10, 0, at, &raw mut len)
        });
        end.saw("got", (got, bytes.escape_ascii().to_string(), len));
        end.saw("the address is untouched", address.sin_port == 9u16.to_be());
    }
}

fn several_messages_a_call(end: &mut End) {
    let mut texts = [*b"first-", *b"second", *b"third-"];
    // SAFETY: zeroes are valid messages.
    let mut messages: [libc::mmsghdr; 3] = unsafe { zeroed() };
    let mut parts: Vec<iovec> = texts
        .iter_mut()
        .map(|text| iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 6 })
        .collect();
    for (message, part) in messages.iter_mut().zip(&mut parts) {
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
    }
    let at = messages.as_mut_ptr();
    if end.near() {
        // SAFETY: messages, pieces and texts live through the call.
        let sent = unsafe { libc::sendmmsg(end.fd, at, 3, 0) };
        end.saw("sent", (sent, messages.map(|message| message.msg_len)));
        send_all(end.fd, b"abcd");
        end.meet();
    } else {
        end.meet();
        await_queued(end.fd, 22);
        for text in &mut texts {
            text.fill(b'.');
        }
        // SAFETY: as above.
        let got = unsafe { libc::recvmmsg(end.fd, at, 3, 0, null_mut()) };
        let texts = texts.map(|text| text.escape_ascii().to_string());
        end.saw("got", (got, messages.map(|message| message.msg_len), texts));
        // Fewer than three are there; it does not wait for the others.
        let flags = libc::MSG_WAITFORONE;
        // SAFETY: as above.
        let got = unsafe { libc::recvmmsg(end.fd, at, 3, flags, null_mut()) };
        end.saw("got", (got, messages[0].msg_len));
    }
}

fn vectors_with_an_offset(end: &mut End) {
    let fd = end.fd;
    if end.near() {
        // SAFETY: the pieces live through the calls.
        let sent = gather(["a", "bc", "def"], |parts| unsafe {
            libc::pwritev2(fd, parts.as_ptr(), 3, -1, 0)
        });
        end.saw("pwritev2", sent);
        // SAFETY: as above.
        let sent =
            gather(["a", "bc", "def"], |parts| unsafe { libc::pwritev(fd, parts.as_ptr(), 3, 0) });
        end.saw("pwritev", sent);
        // SAFETY: the bytes live through the call.
        let sent = check(unsafe { libc::pwrite(fd, b"x".as_ptr().cast(), 1, 0) });
        end.saw("pwrite", sent);
        end.meet();
    } else {
        end.meet();
        await_queued(fd, 6);
        // SAFETY: as above.
        let got =
            scatter([1, 1, 9], |parts| unsafe { libc::preadv2(fd, parts.as_ptr(), 3, -1, 0) });
        end.saw("preadv2", got);
        // SAFETY: as above.
        let got = scatter([1, 1, 9], |parts| unsafe { libc::preadv(fd, parts.as_ptr(), 3, 0) });
        end.saw("preadv", got);
    }
}
