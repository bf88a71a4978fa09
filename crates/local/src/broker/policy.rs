//! Which connections may pair: what the operator says, live.

use super::claim::Claim;
use crate::wire::Reason;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Where the control groups' file system usually is; a path in it may be given whole.
const MOUNTED: &str = "/sys/fs/cgroup";

/// What must hold for a connection to pair. Empty lists: everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Whether anything pairs at all.
    pub enabled: bool,
    /// Both processes are in one of these control groups, or below.
    pub cgroups: Vec<String>,
    /// One of the two ports is one of these.
    pub ports: Vec<u16>,
    /// Both addresses are loopback addresses.
    pub loopback_only: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { enabled: true, cgroups: Vec::new(), ports: Vec::new(), loopback_only: false }
    }
}

impl Policy {
    /// Why the claim of a process may not pair, if so. `cgroups` is the text of its
    /// /proc/PID/cgroup, asked for only if it matters.
    pub fn objects(
        &self,
        claim: &Claim,
        cgroups: impl FnOnce() -> Option<String>,
    ) -> Option<Reason> {
        let [local, peer] = [claim.local, claim.peer];
        let listed = |address: SocketAddr| self.ports.contains(&address.port());
        if !self.enabled {
            Some(Reason::Disabled)
        } else if !self.ports.is_empty() && !listed(local) && !listed(peer) {
            Some(Reason::Port)
        } else if self.loopback_only && !(local.ip().is_loopback() && peer.ip().is_loopback()) {
            Some(Reason::NotLoopback)
        } else if !self.cgroups.is_empty() && !self.has_cgroup(cgroups().as_deref()) {
            Some(Reason::Cgroup)
        } else {
            None
        }
    }

    /// Nobody knows the groups of a process that is gone or out of sight: it is in none.
    fn has_cgroup(&self, text: Option<&str>) -> bool {
        // "0::/path", or "4:memory:/path" in the older hierarchies.
        let paths = text.unwrap_or("").lines().filter_map(|line| line.splitn(3, ':').nth(2));
        paths.into_iter().any(|path| self.cgroups.iter().any(|group| is_in(path, group)))
    }
}

fn is_in(path: &str, group: &str) -> bool {
    let group = group.strip_prefix(MOUNTED).unwrap_or(group);
    let (path, group) = (path.trim_matches('/'), group.trim_matches('/'));
    let below = path.strip_prefix(group);
    below.is_some_and(|below| group.is_empty() || below.is_empty() || below.starts_with('/'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::broker::claim::Id;

    fn claim(local: &str, peer: &str) -> Claim {
        Claim {
            member: Id(1),
            token: 1,
            user: Some(0),
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            netns: 1,
            ring_bytes: 4096,
        }
    }

    #[test]
    fn each_rule_objects_by_its_own_name() {
        let here = claim("127.0.0.1:6379", "127.0.0.1:40000");
        let there = claim("[::1]:40000", "10.0.0.1:6379");
        let none = || None;
        let all = Policy::default();
        assert_eq!(all.objects(&here, none), None);
        let off = Policy { enabled: false, ..all.clone() };
        assert_eq!(off.objects(&here, none), Some(Reason::Disabled));
        let ports = Policy { ports: vec![80, 6379], ..all.clone() };
        assert_eq!((ports.objects(&here, none), ports.objects(&there, none)), (None, None));
        let other = Policy { ports: vec![80], ..all.clone() };
        assert_eq!(other.objects(&here, none), Some(Reason::Port));
        let loopback = Policy { loopback_only: true, ..all };
        assert_eq!(loopback.objects(&here, none), None);
        assert_eq!(loopback.objects(&there, none), Some(Reason::NotLoopback));
    }

    #[test]
    fn a_group_holds_what_is_below_it_and_no_longer_name() {
        let here = claim("127.0.0.1:1", "127.0.0.1:2");
        let objects = |group: &str, text: Option<&str>| {
            let policy = Policy { cgroups: vec!["/no".into(), group.into()], ..Policy::default() };
            policy.objects(&here, || text.map(str::to_owned))
        };
        let text = Some("4:memory:/old/way\n0::/web/redis:1\n");
        for group in ["/web", "/web/", "web/redis:1", "/sys/fs/cgroup/web", "/old", "/"] {
            assert_eq!(objects(group, text), None, "{group}");
        }
        for group in ["/we", "/web/redis", "/redis:1", "/web/redis:1/below"] {
            assert_eq!(objects(group, text), Some(Reason::Cgroup), "{group}");
        }
        assert_eq!(objects("/", None), Some(Reason::Cgroup));
    }
}
