//! IP networks such as `10.0.0.0/8` (RFC 4632, 3.1; RFC 4291, 2.3).
//!
//! An address without a prefix length is a network of one address. IPv4-mapped IPv6 addresses count
//! as IPv4 addresses. Networks are configured in `proxy.trusted` and used by the worker.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network: all addresses with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    /// The first address of the network.
    base: IpAddr,
    /// The length of the common prefix, in bits.
    bits: u8,
}

/// The reason for which a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The text is neither an address nor an address with a prefix length.
    #[error("`{0}` is not an address or a network such as 10.0.0.0/8")]
    Malformed(String),
    /// The address has non-zero bits after the prefix.
    #[error("`{0}` has bits after its prefix length; the network is {1}")]
    HostBits(String, Network),
}

/// Whether at least one of the networks contains the address.
#[must_use]
pub fn contains(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

impl Network {
    /// Whether the network contains the address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.base.is_ipv4() && cut(address, self.bits) == self.base
    }
}

/// Returns the address with all bits after the first `bits` bits set to zero.
fn cut(address: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let malformed = || NetworkError::Malformed(String::from(text));
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_no_address| malformed())?;
        let whole = if written.is_ipv4() { 32 } else { 128 };
        let bits: u8 = match bits {
            None => whole,
            Some(bits) if !bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(malformed());
            }
            Some(bits) => bits.parse().map_err(|_no_number| malformed())?,
        };
        if bits > whole {
            return Err(malformed());
        }
        let base = written.to_canonical();
        // An IPv4-mapped IPv6 address has 96 bits before the IPv4 address.
        let bits = match base.is_ipv4() == written.is_ipv4() {
            true => bits,
            false => bits.checked_sub(96).ok_or_else(malformed)?,
        };
        let network = Self {
            base: cut(base, bits),
            bits,
        };
        if network.base != base {
            return Err(NetworkError::HostBits(String::from(text), network));
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.base.is_ipv4() { 32 } else { 128 };
        match self.bits == whole {
            true => write!(f, "{}", self.base),
            false => write!(f, "{}/{}", self.base, self.bits),
        }
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn has(network: &str, address: &str) -> bool {
        let network: Network = network.parse().unwrap();
        network.contains(address.parse().unwrap())
    }

    #[test]
    fn network_contains_its_addresses_and_no_others() {
        assert!(has("10.0.0.0/8", "10.255.0.1") && !has("10.0.0.0/8", "11.0.0.0"));
        assert!(has("192.0.2.7", "192.0.2.7") && !has("192.0.2.7", "192.0.2.6"));
        assert!(has("0.0.0.0/0", "255.1.2.3") && !has("0.0.0.0/0", "::1"));
        assert!(has("::/0", "2001:db8::1") && !has("::/0", "1.2.3.4"));
        assert!(has("2001:db8::/33", "2001:db8:7fff::1"));
        assert!(!has("2001:db8::/33", "2001:db8:8000::1"));
        assert!(has("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(has("::ffff:10.0.0.0/104", "10.1.2.3"));
    }

    #[test]
    fn text_that_is_not_a_network_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "a",
            "10.0.0",
            "10.0.0.0/-1",
            "::ffff:10.0.0.0/90",
            "1.2.3.4:5",
        ] {
            let error = text.parse::<Network>().unwrap_err();
            assert_eq!(error, NetworkError::Malformed(text.into()));
        }
        let error = "10.1.2.3/8".parse::<Network>().unwrap_err();
        assert!(error.to_string().ends_with("the network is 10.0.0.0/8"));
    }

    proptest! {
        #[test]
        fn printed_network_parses_to_itself(address: IpAddr, bits in 0u8..=128) {
            let address = address.to_canonical();
            let bits = bits.min(if address.is_ipv4() { 32 } else { 128 });
            let network = Network { base: cut(address, bits), bits };
            prop_assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
            prop_assert!(network.contains(address));
        }
    }
}
