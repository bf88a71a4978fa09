//! How each contestant is started: command line and package; [`config`] is what the peers that
//! have one are configured to do.

mod config;

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use super::Error;
use super::netns::{Lab, installed};
use super::workload::{Protocol, Workload};
use config::{connections_max, sessions_max};

/// One way from the client to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// The kernel forwards packets: no relay, the bound.
    Forward,
    /// A sosplice binary.
    Sosplice {
        /// As it is called in the report.
        name: &'static str,
        /// Which binary.
        binary: PathBuf,
        /// Further arguments.
        args: Vec<String>,
    },
    /// HAProxy, with splice or told not to.
    Haproxy {
        /// `option splice-auto`, or `nosplice`.
        splice: bool,
    },
    /// nginx, for streams and datagrams with its stream module.
    Nginx,
    /// socat, a process a connection or session.
    Socat,
    /// The simple UDP relay of [`super::plain`].
    Plain,
}

/// What a sosplice contestant is told to log (the others log nothing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Warnings: what is measured.
    Quiet,
    /// A JSON line a connection or session: what the engine report is read from.
    Connections,
}

/// What is measured of TCP when nobody says otherwise.
pub const TCP_PEERS: &str = "forward,haproxy-splice,haproxy-copy,nginx,socat";

/// What is measured of UDP when nobody says otherwise. HAProxy cannot relay it.
pub const UDP_PEERS: &str = "forward,plain,nginx,socat";

/// What is measured of HTTP when nobody says otherwise.
pub const HTTP_PEERS: &str = "forward,haproxy-splice,haproxy-copy,nginx";

/// Every name that `--peers` knows; `haproxy` is short for both of its kind.
fn known(protocol: Protocol) -> &'static [&'static str] {
    match protocol {
        Protocol::Tcp => &[
            "forward",
            "sosplice-copy",
            "sosplice-pipe",
            "sosplice-reno",
            "haproxy",
            "haproxy-splice",
            "haproxy-copy",
            "nginx",
            "socat",
            "none",
        ],
        Protocol::Udp => &["forward", "sosplice-copy", "plain", "nginx", "socat", "none"],
        Protocol::Http => &[
            "forward",
            "sosplice-copy",
            "sosplice-pipe",
            "sosplice-reno",
            "haproxy",
            "haproxy-splice",
            "haproxy-copy",
            "nginx",
            "none",
        ],
    }
}

impl Contestant {
    /// The contestants of one `--peers` list; `sosplice` is this binary with
    /// `relay_args`, always there and first, and `other` a second build.
    pub fn list(
        protocol: Protocol,
        peers: &[String],
        relay_args: &[String],
        other: Option<&Path>,
    ) -> Result<Vec<Contestant>, Error> {
        let own = own_binary();
        let sosplice = |name, binary: &Path, extra: &[&str]| Contestant::Sosplice {
            name,
            binary: binary.to_owned(),
            args: relay_args.iter().cloned().chain(extra.iter().map(|&s| s.to_owned())).collect(),
        };
        let mut list = vec![sosplice("sosplice", &own, &[])];
        if let Some(other) = other {
            list.push(sosplice("sosplice-other", other, &[]));
        }
        for peer in peers {
            if !known(protocol).contains(&peer.as_str()) {
                let known = known(protocol).join(", ");
                return Err(Error::Usage(format!("--peers: no '{peer}'; there are {known}")));
            }
            match peer.as_str() {
                "forward" => list.push(Contestant::Forward),
                "sosplice-copy" => {
                    list.push(sosplice("sosplice-copy", &own, &["--engine", "copy"]))
                }
                "sosplice-pipe" => {
                    list.push(sosplice("sosplice-pipe", &own, &["--engine", "pipe"]))
                }
                "sosplice-reno" => {
                    list.push(sosplice("sosplice-reno", &own, &["--congestion", "reno"]))
                }
                "haproxy" => {
                    list.extend([true, false].map(|splice| Contestant::Haproxy { splice }))
                }
                "haproxy-splice" => list.push(Contestant::Haproxy { splice: true }),
                "haproxy-copy" => list.push(Contestant::Haproxy { splice: false }),
                "nginx" => list.push(Contestant::Nginx),
                "socat" => list.push(Contestant::Socat),
                "plain" => list.push(Contestant::Plain),
                _ => {}
            }
        }
        let mut seen = Vec::new();
        list.retain(|contestant| {
            let new = !seen.contains(&contestant.name());
            seen.push(contestant.name());
            new
        });
        Ok(list)
    }

    /// Its name in the report.
    pub fn name(&self) -> &'static str {
        match self {
            Contestant::Forward => "forward",
            Contestant::Sosplice { name, .. } => name,
            Contestant::Haproxy { splice: true } => "haproxy-splice",
            Contestant::Haproxy { splice: false } => "haproxy-copy",
            Contestant::Nginx => "nginx",
            Contestant::Socat => "socat",
            Contestant::Plain => "plain",
        }
    }

    /// Whether it can run here.
    pub fn available(&self, protocol: Protocol) -> Result<(), Error> {
        let missing = |program, package| Err(Error::NotInstalled { program, package });
        match self {
            Contestant::Haproxy { .. } if !installed("haproxy") => missing("haproxy", "haproxy"),
            Contestant::Nginx if !installed("nginx") => {
                missing("nginx", "nginx libnginx-mod-stream")
            }
            Contestant::Nginx
                if protocol != Protocol::Http && !Path::new(config::NGINX_STREAM).exists() =>
            {
                missing("nginx's stream module", "libnginx-mod-stream")
            }
            Contestant::Socat if !installed("socat") => missing("socat", "socat"),
            Contestant::Sosplice { binary, .. } if !binary.exists() => {
                Err(Error::Usage(format!("--sosplice: no file {}", binary.display())))
            }
            _ => Ok(()),
        }
    }

    /// How many connections or sessions it is asked to hold at rest, with
    /// `descriptors` to a process: 10,000 and 50,000, or what fits (the ports of one
    /// address are an end to sessions too). socat forks for each, which beyond a
    /// few measures the machine's memory rather than socat.
    pub fn held(&self, workload: Workload, descriptors: u64) -> u64 {
        match (self, workload.protocol()) {
            (Contestant::Socat, _) => 300,
            (_, Protocol::Tcp | Protocol::Http) => connections_max(descriptors).min(10_000),
            (_, Protocol::Udp) => sessions_max(descriptors),
        }
    }

    /// The command line that relays `listen` to `target`, its configuration
    /// written beforehand; none for `forward`.
    pub fn command(
        &self,
        lab: &Lab,
        protocol: Protocol,
        listen: SocketAddrV4,
        target: SocketAddrV4,
        descriptors: u64,
        log: Log,
    ) -> Result<Option<Vec<String>>, Error> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let write = |text: String| {
            let path = lab.scratch().join(format!("{}.conf", self.name()));
            std::fs::write(&path, text)
                .map_err(Error::io(format!("write {}", path.display())))
                .map(|()| path.to_string_lossy().into_owned())
        };
        Ok(match self {
            Contestant::Forward => None,
            Contestant::Sosplice { binary, args, .. } => {
                let (listen, target) = (listen.to_string(), target.to_string());
                let binary = binary.to_string_lossy();
                let mut argv = words(&[&binary, "relay"]);
                match protocol {
                    Protocol::Tcp => {}
                    Protocol::Udp => argv.push("--udp".to_owned()),
                    Protocol::Http => argv.push("--http".to_owned()),
                }
                argv.extend([listen, target]);
                argv.extend(args.iter().cloned());
                argv.extend(words(match log {
                    Log::Quiet => &["--log-level", "warn"],
                    Log::Connections => &["--log-level", "info", "--json"],
                }));
                Some(argv)
            }
            Contestant::Haproxy { splice } => {
                let path = write(config::haproxy(protocol, *splice, descriptors, listen, target))?;
                Some(words(&["haproxy", "-f", &path]))
            }
            Contestant::Nginx => {
                let path =
                    write(config::nginx(lab.scratch(), protocol, descriptors, listen, target))?;
                let prefix = lab.scratch().to_string_lossy();
                Some(words(&["nginx", "-c", &path, "-p", &prefix, "-e", "stderr"]))
            }
            Contestant::Socat => {
                let (ip, port) = (listen.ip(), listen.port());
                let (from, to) = match protocol {
                    Protocol::Tcp | Protocol::Http => (
                        format!("TCP-LISTEN:{port},bind={ip},fork,reuseaddr,backlog=1024,nodelay"),
                        format!("TCP:{target},nodelay"),
                    ),
                    Protocol::Udp => (
                        format!("UDP4-LISTEN:{port},bind={ip},fork,reuseaddr"),
                        format!("UDP4:{target}"),
                    ),
                };
                Some(words(&["socat", "-b", "65536", &from, &to]))
            }
            Contestant::Plain => {
                let (listen, target) = (listen.to_string(), target.to_string());
                let own = own_binary();
                Some(words(&[&own.to_string_lossy(), "bench", "plain", &listen, &target]))
            }
        })
    }
}

/// This binary, for a child: not current_exe(), whose path may hold a newer
/// build by now.
pub fn own_binary() -> PathBuf {
    PathBuf::from(format!("/proc/{}/exe", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(protocol: Protocol, peers: &[&str]) -> Option<Vec<&'static str>> {
        let peers: Vec<String> = peers.iter().map(|&peer| peer.to_owned()).collect();
        let list = Contestant::list(protocol, &peers, &[], None).ok()?;
        Some(list.iter().map(Contestant::name).collect())
    }

    #[test]
    fn haproxy_is_both_and_nothing_comes_twice() {
        assert_eq!(
            names(Protocol::Tcp, &["haproxy", "haproxy-copy"]),
            Some(vec!["sosplice", "haproxy-splice", "haproxy-copy"])
        );
        assert_eq!(names(Protocol::Tcp, &["none"]), Some(vec!["sosplice"]));
        assert_eq!(names(Protocol::Tcp, &["apache"]), None);
    }

    #[test]
    fn a_name_that_is_known_is_a_contestant() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Http] {
            for name in known(protocol) {
                let found = names(protocol, &[name]).unwrap_or_default();
                assert!(found.len() > 1 || *name == "none", "{name}");
            }
        }
    }

    #[test]
    fn who_cannot_relay_datagrams_is_not_asked_to() {
        assert_eq!(names(Protocol::Udp, &["haproxy"]), None);
        assert_eq!(names(Protocol::Tcp, &["plain"]), None);
    }

    #[test]
    fn who_knows_nothing_of_requests_is_not_asked_to_relay_them() {
        assert_eq!(names(Protocol::Http, &["socat"]), None);
    }
}
