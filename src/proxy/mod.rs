//! Reads the client addresses that proxies report.
//!
//! PURE: this module uses only texts, bytes and addresses. [`header`] reads the header of the PROXY
//! protocol, which TCP proxies send before any other byte. [`forwarded`] reads the fields that HTTP
//! proxies add to a request. [`network`] determines whether a proxy is trusted. A [`Source`]
//! identifies the clients that share one limit on connections. The callers are `http` and the state
//! machine of a conn. The worker counts the conns of each source.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod forwarded;
pub mod header;
pub mod network;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use header::{HeaderError, HeaderRead};
pub use network::{Network, NetworkError, contains};

/// The source of a connection. Some limits apply to each source separately. A source is an IPv4
/// address, or the IPv6 /64 that a network provider usually assigns to one customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// A complete IPv4 address.
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address.
    V6([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl Source {
    /// Returns the first address of the source.
    #[must_use]
    pub fn first_address(self) -> IpAddr {
        match self {
            Self::V4(octets) => Ipv4Addr::from(octets).into(),
            Self::V6(octets) => {
                let first = u128::from(u64::from_be_bytes(octets)) << 64;
                Ipv6Addr::from(first).into()
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(_) => self.first_address().fmt(f),
            Self::V6(_) => write!(f, "{}/64", self.first_address()),
        }
    }
}

/// The limit because of which a connection is refused. Each limit applies to each [`Source`]
/// separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// The maximum number of open connections of one source, `limits.conns_per_source`.
    #[error("too many connections from one address")]
    Conns,
    /// The maximum rate of new connections of one source, `limits.connects_per_second_per_source`.
    #[error("too many new connections from one address")]
    Connects,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> String {
        Source::from(text.parse::<IpAddr>().unwrap()).to_string()
    }

    #[test]
    fn source_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(source("192.0.2.1"), "192.0.2.1");
        assert_eq!(source("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(source("::1"), "::/64");
    }
}
