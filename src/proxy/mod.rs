//! Who stands behind a proxy: what proxies say of their clients, and which of them are believed.
//!
//! PURE: texts, bytes and addresses. [`header`] reads what TCP proxies send ahead of
//! everything (PROXY protocol), [`forwarded`] what HTTP proxies add to a request, [`network`] says
//! whose word counts. [`Source`] is what limits per source count by. Who asks is the conn's machine
//! and `http`; who counts is the worker.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod forwarded;
pub mod header;
pub mod network;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use header::{HeaderError, HeaderRead};
pub use network::{Network, NetworkError, contains};

/// Where a conn comes from, as it is counted: an address of IPv4, or the network of 64 bits that
/// one subscriber of IPv6 commonly has for himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// An address of IPv4.
    V4([u8; 4]),
    /// The first half of an address of IPv6.
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

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(octets) => write!(f, "{}", Ipv4Addr::from(*octets)),
            Self::V6(octets) => {
                let first = u128::from(u64::from_be_bytes(*octets)) << 64;
                write!(f, "{}/64", Ipv6Addr::from(first))
            }
        }
    }
}

/// Why somebody does not come in beside the others from the same source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// It has as many conns as it may have.
    #[error("too many connections from one address")]
    Conns,
    /// So many have come lately.
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
    fn source_is_an_address_or_the_network_of_a_subscriber() {
        assert_eq!(source("192.0.2.1"), "192.0.2.1");
        assert_eq!(source("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(source("::1"), "::/64");
    }
}
