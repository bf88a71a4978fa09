//! What is read: /proc, the limits of this process, and the trials of
//! [`super::probe`]. In a container any of it may be missing; then the reading
//! is why.

use std::str::FromStr;

use rustix::process::{Resource, getrlimit};
use rustix::system::uname;

use super::probe::{self, Pipes, Tried};

/// A value, or why there is none.
pub(super) type Reading<T> = Result<T, String>;

/// Everything that is judged.
#[derive(Debug, Clone)]
pub(super) struct Readings {
    pub release: String,
    pub splice_tcp: Tried,
    pub splice_unix: Tried,
    pub pipes: Reading<Pipes>,
    /// Exempt from the limits on pipe pages.
    pub privileged: Reading<bool>,
    /// In bytes.
    pub page_size: u64,
    /// In pages for each user; 0 is no limit.
    pub pipe_pages_soft: Reading<u64>,
    /// In pages for each user; 0 is no limit.
    pub pipe_pages_hard: Reading<u64>,
    /// In bytes.
    pub pipe_size_max: Reading<u64>,
    pub reuse_port: Tried,
    pub udp_segment: Tried,
    pub busy_poll: Tried,
    /// In microseconds.
    pub busy_read: Reading<u64>,
    /// `u64::MAX` is no limit.
    pub nofile_soft: u64,
    /// `u64::MAX` is no limit.
    pub nofile_hard: u64,
    pub nr_open: Reading<u64>,
    pub file_max: Reading<u64>,
    /// CPUs that this process may use: the workers that a relay starts.
    pub workers: u64,
    pub somaxconn: Reading<u64>,
    /// Least, default and most, in bytes.
    pub tcp_rmem: Reading<[u64; 3]>,
    /// Least, default and most, in bytes.
    pub tcp_wmem: Reading<[u64; 3]>,
    /// First and last.
    pub port_range: Reading<[u64; 2]>,
    pub tw_reuse: Reading<u64>,
}

/// Takes every reading; tries what can be tried.
pub(super) fn take() -> Readings {
    let nofile = getrlimit(Resource::Nofile);
    Readings {
        // By uname(2) and not /proc: so much depends on it.
        release: uname().release().to_string_lossy().into_owned(),
        splice_tcp: probe::splice_tcp(),
        splice_unix: probe::splice_unix(),
        pipes: probe::pipes(),
        privileged: privileged(),
        page_size: rustix::param::page_size() as u64,
        pipe_pages_soft: number("fs/pipe-user-pages-soft"),
        pipe_pages_hard: number("fs/pipe-user-pages-hard"),
        pipe_size_max: number("fs/pipe-max-size"),
        reuse_port: probe::reuse_port(),
        udp_segment: probe::udp_segment(),
        busy_poll: probe::busy_poll(),
        busy_read: number("net/core/busy_read"),
        nofile_soft: nofile.current.unwrap_or(u64::MAX),
        nofile_hard: nofile.maximum.unwrap_or(u64::MAX),
        nr_open: number("fs/nr_open"),
        file_max: number("fs/file-max"),
        workers: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
        somaxconn: number("net/core/somaxconn"),
        tcp_rmem: numbers("net/ipv4/tcp_rmem"),
        tcp_wmem: numbers("net/ipv4/tcp_wmem"),
        port_range: numbers("net/ipv4/ip_local_port_range"),
        tw_reuse: number("net/ipv4/tcp_tw_reuse"),
    }
}

fn file(path: &str) -> Reading<String> {
    std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

fn number(sysctl: &str) -> Reading<u64> {
    numbers::<1>(sysctl).map(|[number]| number)
}

fn numbers<const N: usize>(sysctl: &str) -> Reading<[u64; N]> {
    let text = file(&format!("/proc/sys/{sysctl}"))?;
    parse_numbers(&text).ok_or_else(|| format!("/proc/sys/{sysctl} says {:?}", text.trim()))
}

/// Exactly `N` numbers with white space between.
fn parse_numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let numbers: Option<Vec<u64>> =
        text.split_ascii_whitespace().map(|word| u64::from_str(word).ok()).collect();
    numbers?.try_into().ok()
}

/// Whether the limits on pipe pages spare this process: the kernel (fs/pipe.c)
/// asks for CAP_SYS_RESOURCE or CAP_SYS_ADMIN in the first user namespace.
fn privileged() -> Reading<bool> {
    let status = file("/proc/self/status")?;
    let map = file("/proc/self/uid_map")?;
    let capabilities =
        effective_capabilities(&status).ok_or("/proc/self/status has no CapEff that parses")?;
    Ok(spared(capabilities, &map))
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

fn spared(capabilities: u64, uid_map: &str) -> bool {
    /// From linux/capability.h.
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    // Only the first user namespace maps every user to itself.
    let first = parse_numbers(uid_map) == Some([0, 0, u64::from(u32::MAX)]);
    first && capabilities & (CAP_SYS_ADMIN | CAP_SYS_RESOURCE) != 0
}

/// Major and minor number of a kernel release such as `6.1.0-13-amd64`.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit());
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_every_form_parse_or_do_not() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert_eq!(version("4.19-rc1"), Some((4, 19)));
        assert_eq!(version("6.1+"), Some((6, 1)));
        for odd in ["", "6", "six.one", ".1", "-", "99999999999.1"] {
            assert_eq!(version(odd), None, "{odd}");
        }
    }

    #[test]
    fn numbers_are_as_many_as_they_should_be() {
        assert_eq!(parse_numbers("4096\t131072\t6\n"), Some([4096, 131_072, 6]));
        assert_eq!(parse_numbers("1\n"), Some([1]));
        assert_eq!(parse_numbers::<1>("1 2"), None);
        assert_eq!(parse_numbers::<2>("1"), None);
        assert_eq!(parse_numbers::<1>("-1"), None);
        assert_eq!(parse_numbers::<1>(""), None);
        assert_eq!(parse_numbers("18446744073709551615"), Some([u64::MAX]));
    }

    #[test]
    fn privilege_counts_only_in_the_first_user_namespace() {
        let status = "Name:\tx\nCapInh:\t0\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n";
        let all = effective_capabilities(status).expect("capabilities");
        let first = "         0          0 4294967295\n";
        assert!(spared(all, first));
        assert!(!spared(all, "         0       1000          1\n"));
        assert!(!spared(all, ""));
        assert!(!spared(0, first));
        assert!(spared(1 << 24, first));
        assert!(!spared(1 << 12, first), "CAP_NET_ADMIN does not help here");
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
        assert_eq!(effective_capabilities("CapEff:\tzz\n"), None);
    }

    #[test]
    fn what_is_missing_says_what_was_looked_for() {
        let why = number("no/such/entry").expect_err("missing");
        assert!(why.starts_with("/proc/sys/no/such/entry: "), "{why}");
    }
}
