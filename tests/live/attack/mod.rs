//! Attacks on the real binary, and what they may cost.
//!
//! An [`attacked::AttackedServer`] has [`bystanders`], well-behaved clients that must miss nothing.
//! It measures what the attack costs and checks afterwards that nothing of it is left. [`flood`]
//! has the attackers that send all the time. The attacks of clients are in [`on_clients`], those on
//! the feed in [`on_feed`], those on TLS listeners in [`on_tls`].

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

/// The number of attackers, multiplied by `FANFARE_ATTACK_SCALE`.
pub(crate) fn scaled(count: usize) -> usize {
    count * scale()
}

/// One by default, so that all attacks together take half a minute.
pub(crate) fn scale() -> usize {
    std::env::var("FANFARE_ATTACK_SCALE").map_or(1, |text| text.parse().unwrap())
}

/// The most memory of a conn that has sent little: its slot, and boxes for a partial message.
pub(crate) const SMALL_CONN_BYTES: u64 = 2 * KIB;
