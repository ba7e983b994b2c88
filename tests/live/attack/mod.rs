//! What an attack on the real binary is measured by.
//!
//! A [`attacked::Siege`] is a server with somebody [`bystanders`] who behaves well and must miss nothing.
//! It weighs what the attack costs, and sees afterwards that nothing of it is left. [`flood`] has
//! the attackers that send all the time. The attacks themselves are in [`on_clients`], those on the
//! feed in [`on_feed`], those on TLS listeners in [`on_tls`].

pub(crate) mod attacked;
pub(crate) mod bystanders;
pub(crate) mod flood;
mod on_clients;
mod on_feed;
pub(crate) mod on_tls;

use std::time::Duration;

/// A millisecond.
pub(crate) const MS: Duration = Duration::from_millis(1);
/// Bytes in a kibibyte.
pub(crate) const KIB: u64 = 1024;
/// Bytes in a mebibyte.
pub(crate) const MIB: u64 = 1024 * KIB;

/// How many attackers there are: so many times as many as `FANFARE_ATTACK_SCALE` says.
pub(crate) fn scaled(count: usize) -> usize {
    count * scale()
}

/// One by default, so that everything together takes half a minute.
pub(crate) fn scale() -> usize {
    std::env::var("FANFARE_ATTACK_SCALE").map_or(1, |text| text.parse().unwrap())
}

/// What a conn that has said little may take: its slot, and boxes for half of something.
pub(crate) const SMALL_CONN_BYTES: u64 = 2 * KIB;
