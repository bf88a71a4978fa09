//! What must hold for any bytes that are to begin with a PROXY header: it ends in one place, however
//! it comes, which is known with its last byte and not before; and who it tells of is told again
//! by the header that is written.

use super::{Addresses, HEADER_MAX, header as written, one_family, parse};
use crate::plan::ProxyVersion;
use std::net::IpAddr;

/// Reads `bytes` as a client's first ones.
///
/// # Panics
/// When something does not hold that must.
pub fn header(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(HEADER_MAX)];
    let mut steps = (0..=bytes.len()).map(|reach| (reach, parse(&bytes[..reach])));
    let Some((reach, found)) = steps.find(|(_, found)| !matches!(found, Ok(None))) else {
        return;
    };
    let Ok(Some((told, len))) = found else {
        assert!(parse(bytes).is_err(), "refused or not by how it comes");
        return;
    };
    assert_eq!(len, reach, "more was waited for than the header");
    let at_once = parse(bytes).ok().flatten();
    assert_eq!(at_once, Some((told, len)), "a header depends on what is behind it");
    if let Some(line) = bytes[..len].strip_prefix(b"PROXY") {
        text(line, told);
    }
    if let Some(Addresses { client, local }) = told {
        let (client, local) = one_family(client, local);
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let again = written(version, client, local);
            let told = Some(Addresses { client, local });
            assert_eq!(parse(&again).ok().flatten(), Some((told, again.len())));
        }
    }
}

/// A line of version 1, behind its first word, as the specification spells it.
fn text(line: &[u8], told: Option<Addresses>) {
    let shown = line.escape_ascii();
    assert!(line.len() + 5 <= 107, "longer than a line may be: {shown}");
    let text = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix("\r\n"));
    let text = text.unwrap_or_else(|| panic!("no text: {shown}"));
    assert!(!text.contains(char::is_control), "{shown}");
    let words: Vec<_> = text.split(' ').collect();
    match (&words[..], told) {
        (["", "UNKNOWN", ..], None) => {}
        (["", family, source, destination, from, to], Some(told)) => {
            assert_eq!(*family, if told.client.is_ipv4() { "TCP4" } else { "TCP6" });
            for (ip, port, told) in [(source, from, told.client), (destination, to, told.local)] {
                assert_eq!(ip.parse::<IpAddr>().ok(), Some(told.ip()), "{shown}");
                assert_eq!(*port, told.port().to_string(), "{shown}");
            }
        }
        _ => panic!("{told:?} from {shown}"),
    }
}
