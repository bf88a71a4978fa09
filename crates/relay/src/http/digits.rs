//! Numbers and addresses as text: those that are in every head, without the machinery of std's formatting, which
//! cost more than parsing the head.

use std::io::Write;
use std::net::IpAddr;

/// In decimal.
pub(super) fn number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = digit(rest);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A status, in its three digits.
pub(super) fn status(out: &mut Vec<u8>, status: u16) {
    let status = u64::from(status);
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status)]);
}

/// As `Display` writes it.
pub(super) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(four) => {
            for (place, octet) in four.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                number(out, octet.into());
            }
        }
        // Rarer, and with rules of its own. A Vec takes everything.
        IpAddr::V6(six) => drop(write!(out, "{six}")),
    }
}

/// The last one.
fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn numbers_are_as_std_writes_them() {
        let powers = (0..20).map(|power| 10_u64.pow(power));
        let all = powers.flat_map(|power| [power - 1, power, power + 1]).chain([u64::MAX]);
        for value in all {
            assert_eq!(written(|out| number(out, value)), value.to_string());
        }
    }

    #[test]
    fn a_status_has_three_digits() {
        for value in [0, 7, 42, 100, 200, 304, 599, 999] {
            assert_eq!(written(|out| status(out, value)), format!("{value:03}"));
        }
    }

    #[test]
    fn addresses_are_as_std_writes_them() {
        for value in ["0.0.0.0", "10.0.200.7", "255.255.255.255", "::", "::1", "fe80::1:0:0:2"] {
            let value: IpAddr = value.parse().expect("address");
            assert_eq!(written(|out| address(out, value)), value.to_string());
        }
    }
}
