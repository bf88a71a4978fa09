//! How each contestant is started: command line, configuration, package.
//!
//! Peers run as their documentation says for a plain TCP proxy: as many
//! workers as the machine has processors (two here), no logs, timeouts out of
//! the way, all else at the default. A peer slowed by its configuration would
//! make a good-looking table and a false one.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use super::Error;
use super::netns::{Lab, installed};

/// Where Debian's libnginx-mod-stream puts its module.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

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
    /// nginx with its stream module.
    Nginx,
    /// socat, a process a connection.
    Socat,
}

/// What a sosplice contestant is told to log (the others log nothing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Warnings: what is measured.
    Quiet,
    /// A JSON line a connection: what the engine report is read from.
    Connections,
}

/// Every name that `--peers` knows; `haproxy` is short for both of its kind.
pub const PEERS: [&str; 10] = [
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
];

/// What is measured when nobody says otherwise.
pub const DEFAULT_PEERS: &str = "forward,haproxy-splice,haproxy-copy,nginx,socat";

impl Contestant {
    /// The contestants of one `--peers` list; `sosplice` is this binary with
    /// `relay_args`, always there and first, and `other` a second build.
    pub fn list(
        peers: &[String],
        relay_args: &[String],
        other: Option<&Path>,
    ) -> Result<Vec<Contestant>, Error> {
        // Not current_exe(): that path may hold a newer build by now.
        let own = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
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
                "none" => {}
                unknown => {
                    let known = PEERS.join(", ");
                    return Err(Error::Usage(format!(
                        "--peers: no '{unknown}'; there are {known}"
                    )));
                }
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
        }
    }

    /// Whether it can run here.
    pub fn available(&self) -> Result<(), Error> {
        let missing = |program, package| Err(Error::NotInstalled { program, package });
        match self {
            Contestant::Haproxy { .. } if !installed("haproxy") => missing("haproxy", "haproxy"),
            Contestant::Nginx if !installed("nginx") => {
                missing("nginx", "nginx libnginx-mod-stream")
            }
            Contestant::Nginx if !Path::new(NGINX_STREAM).exists() => {
                missing("nginx's stream module", "libnginx-mod-stream")
            }
            Contestant::Socat if !installed("socat") => missing("socat", "socat"),
            Contestant::Sosplice { binary, .. } if !binary.exists() => {
                Err(Error::Usage(format!("--sosplice: no file {}", binary.display())))
            }
            _ => Ok(()),
        }
    }

    /// How many idle connections it is asked to hold, with `descriptors` to a
    /// process: 10,000, or what fits. socat forks for each, which beyond a few
    /// measures the machine's memory rather than socat.
    pub fn idle_connections(&self, descriptors: u64) -> u64 {
        match self {
            Contestant::Socat => 300,
            _ => connections_max(descriptors).min(10_000),
        }
    }

    /// The command line that relays `listen` to `target`, its configuration
    /// written beforehand; none for `forward`.
    pub fn command(
        &self,
        lab: &Lab,
        listen: SocketAddrV4,
        target: SocketAddrV4,
        descriptors: u64,
        log: Log,
    ) -> Result<Option<Vec<String>>, Error> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let config = |text: String| {
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
                let mut argv = words(&[&binary, "relay", &listen, &target]);
                argv.extend(args.iter().cloned());
                argv.extend(words(match log {
                    Log::Quiet => &["--log-level", "warn"],
                    Log::Connections => &["--log-level", "info", "--json"],
                }));
                Some(argv)
            }
            Contestant::Haproxy { splice } => {
                let path = config(haproxy_config(*splice, descriptors, listen, target))?;
                Some(words(&["haproxy", "-f", &path]))
            }
            Contestant::Nginx => {
                let path = config(nginx_config(lab.scratch(), listen, target))?;
                let prefix = lab.scratch().to_string_lossy();
                Some(words(&["nginx", "-c", &path, "-p", &prefix, "-e", "stderr"]))
            }
            Contestant::Socat => {
                let (ip, port) = (listen.ip(), listen.port());
                let from =
                    format!("TCP-LISTEN:{port},bind={ip},fork,reuseaddr,backlog=1024,nodelay");
                Some(words(&["socat", "-b", "65536", &from, &format!("TCP:{target},nodelay")]))
            }
        })
    }
}

/// Connections that a relay can hold with so many descriptors, two for each,
/// with room for its own, its pipes and its listeners.
fn connections_max(descriptors: u64) -> u64 {
    descriptors.saturating_sub(1000) / 2
}

/// HAProxy refuses to start if `2 * (maxconn + maxpipes)` and a few do not fit
/// the descriptor limit, so both are made to.
fn haproxy_config(
    splice: bool,
    descriptors: u64,
    listen: SocketAddrV4,
    target: SocketAddrV4,
) -> String {
    let maxconn = connections_max(descriptors).min(30_000) + 50;
    let (global, option) = if splice {
        ("maxpipes 256", "option splice-request\n option splice-response")
    } else {
        ("nosplice", "")
    };
    format!(
        "global\n nbthread 2\n tune.bufsize 65536\n maxconn {maxconn}\n {global}\n\
         defaults\n mode tcp\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n {option}\n\
         listen bench\n bind {listen}\n server s {target}\n"
    )
}

fn nginx_config(scratch: &Path, listen: SocketAddrV4, target: SocketAddrV4) -> String {
    let scratch = scratch.display();
    format!(
        "load_module {NGINX_STREAM};\ndaemon off;\nworker_processes 2;\n\
         error_log stderr crit;\npid {scratch}/nginx.pid;\n\
         events {{ worker_connections 32768; }}\n\
         stream {{ server {{ listen {listen}; proxy_pass {target}; proxy_timeout 1h; proxy_buffer_size 64k; }} }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(peers: &[&str]) -> Vec<&'static str> {
        let peers: Vec<String> = peers.iter().map(|&peer| peer.to_owned()).collect();
        let list = Contestant::list(&peers, &[], None).unwrap_or_default();
        list.iter().map(Contestant::name).collect()
    }

    #[test]
    fn haproxy_is_both_and_nothing_comes_twice() {
        assert_eq!(
            names(&["haproxy", "haproxy-copy"]),
            ["sosplice", "haproxy-splice", "haproxy-copy"]
        );
        assert_eq!(names(&["none"]), ["sosplice"]);
        assert!(Contestant::list(&["apache".to_owned()], &[], None).is_err());
    }
}
