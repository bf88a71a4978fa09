//! A target: where a server is, as it was given.

use crate::error::Error;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A target as given: a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(String);

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.parse::<SocketAddr>().is_ok_and(|addr| addr.port() > 0) {
            return Ok(Self(text.to_owned()));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("'{text}' has no port: write HOST:PORT"));
        };
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(format!("'{port}' is not a port (1 to 65535)"));
        }
        let named = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if host.is_empty() || !named {
            return Err(format!(
                "'{host}' is neither a name nor an address (IPv6 goes in brackets)"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self(addr.to_string())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Target {
    /// Whether it must be resolved: a name's addresses may change, an address is its own.
    #[must_use]
    pub fn is_name(&self) -> bool {
        self.0.parse::<SocketAddr>().is_err()
    }

    /// As given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its addresses, at least one, in the resolver's order. Blocks.
    pub(super) fn lookup(&self) -> io::Result<Vec<SocketAddr>> {
        let mut addrs: Vec<SocketAddr> = Vec::new();
        for addr in self.0.to_socket_addrs()? {
            // The hosts file may have one twice.
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        if addrs.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(addrs)
    }

    pub(super) fn unresolved(&self, source: io::Error) -> Error {
        Error::Resolve { target: self.0.clone(), source }
    }
}
