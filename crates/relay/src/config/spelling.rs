//! How values are written, in a file and on the command line: addresses, sizes, times, networks
//! and the words of HTTP. Each function takes a text and says what is wrong with it.

use crate::plan::Statuses;
use crate::upstream::Target;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// No time is longer: it would overflow a clock, and nobody waits for its end.
pub const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Of a unix socket's path; the kernel's sun_path less its NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// An address to listen on. `:PORT` is every address, of both families where there are two.
///
/// # Errors
/// What is wrong with it.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':')
        && !port.contains(':')
    {
        let port = port.parse().map_err(|_| format!("'{port}' is not a port (0 to 65535)"))?;
        let any: IpAddr = if UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        return Ok(SocketAddr::new(any, port));
    }
    text.parse().map_err(|_| "not ADDRESS:PORT (as 127.0.0.1:8080, [::1]:8080 or :8080)".to_owned())
}

/// A number of bytes, zero included.
///
/// # Errors
/// What is wrong with it.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "not a number of bytes (as 1000, 10MB, 1GiB)".to_owned();
    match text.parse::<bytesize::ByteSize>().map_err(|_| wrong())?.as_u64() {
        // What is larger than the type comes out as its end.
        u64::MAX if text != u64::MAX.to_string() => Err(wrong()),
        bytes => Ok(bytes),
    }
}

/// A time, zero included.
///
/// # Errors
/// What is wrong with it.
pub fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time <= TIME_MAX => Ok(time),
        Ok(_) => Err("too long a time: 365d at most".to_owned()),
        Err(_) => Err("not a time (as 500ms, 90s, 5m)".to_owned()),
    }
}

/// As [`time`] reads it.
pub(super) fn time_text(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// A server, by name or address, and a port.
pub(super) fn target(text: &str) -> Result<Target, String> {
    text.parse()
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let network: IpNet =
        text.parse().map_err(|_| "not a network (as 10.0.0.0/8, fd00::/8 or 192.0.2.7)")?;
    let whole = network.trunc();
    if whole == network {
        Ok(network)
    } else {
        Err(format!("has bits behind its prefix: the network is {whole}"))
    }
}

/// A name for logs, metrics and `sosplice ctl`.
pub(super) fn name(text: &str) -> Result<String, String> {
    named(text, b"-_.", "letters, digits, '-', '_' and '.'")
}

/// The same for a server, which may be called by its address.
pub(super) fn server_name(text: &str) -> Result<String, String> {
    named(text, b"-_.:[]%", "letters, digits, '-', '_', '.', ':', '[' and ']'")
}

fn named(text: &str, others: &[u8], allowed: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    if text.is_empty() || text.len() > 300 || !text.bytes().all(is_allowed) {
        return Err(format!("no name: 1 to 300 of {allowed}"));
    }
    Ok(text.to_owned())
}

/// A unix socket's path.
pub(super) fn socket_path(text: &str) -> Result<std::path::PathBuf, String> {
    if !text.starts_with('/') {
        return Err("not an absolute path: it would depend on where the service is started".into());
    }
    if text.contains('\0') || text.ends_with('/') {
        return Err("not the path of a socket".into());
    }
    if text.len() > SOCKET_PATH_MAX {
        return Err(format!(
            "{} bytes long: the path of a unix socket has {SOCKET_PATH_MAX} at most",
            text.len()
        ));
    }
    Ok(text.into())
}

/// The kernel's name for a congestion control. Whether it has it is found out at the start.
pub(super) fn congestion(text: &str) -> Result<String, String> {
    // TCP_CA_NAME_MAX is 16 with the NUL.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if text.is_empty() || text.len() > 15 || !text.bytes().all(is_name) {
        return Err("not the name of a congestion control (as cubic, reno or bbr)".into());
    }
    Ok(text.to_owned())
}

/// A status, `2xx`, or `200-399`.
pub(super) fn statuses(text: &str) -> Result<(u16, u16), String> {
    let wrong = || "no status: write 200, \"2xx\" or \"200-399\" (100 to 599)".to_owned();
    let status = |text: &str| match text.parse::<u16>() {
        Ok(status @ 100..=599) if text.len() == 3 => Ok(status),
        _ => Err(wrong()),
    };
    if let Some(class) = text.strip_suffix("xx") {
        let first = status(&format!("{class}00"))?;
        return Ok((first, first + 99));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (status(first)?, status(last)?) {
        (first, last) if first > last => Err(format!("runs backwards: write \"{last}-{first}\"")),
        range => Ok(range),
    }
}

/// The same list as the file would have it.
pub(super) fn statuses_text(statuses: &Statuses) -> Vec<String> {
    let text = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    statuses.0.iter().map(text).collect()
}

/// Bytes as pairs of hexadecimal digits; blanks may stand between them.
pub(super) fn hex(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || "not pairs of hexadecimal digits (as \"16 03 01\")".to_owned();
    let digits: Vec<u32> = text
        .chars()
        .filter(|char| !char.is_ascii_whitespace())
        .map(|char| char.to_digit(16).ok_or_else(wrong))
        .collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(2) {
        return Err(wrong());
    }
    Ok(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

/// As [`hex`] reads it.
pub(super) fn hex_text(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(" ")
}
