//! Attacks on the real binary, and limits on their cost.
//!
//! An [`attacked::AttackedServer`] has [`bystanders`]: well-behaved clients that must receive every
//! publication. It measures the cost of an attack, and afterwards checks that the server has freed
//! everything. The attackers of [`flood`] send continuously. The attacks by clients are in
//! [`on_clients`], attacks on the feed in [`on_feed`], and attacks on TLS listeners in [`on_tls`].

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

/// Returns the number of attackers, multiplied by `FANFARE_ATTACK_SCALE`.
pub(crate) fn scaled(count: usize) -> usize {
    count * scale()
}

/// Returns `FANFARE_ATTACK_SCALE`, which is 1 by default. With 1, all attacks together take half a
/// minute.
pub(crate) fn scale() -> usize {
    std::env::var("FANFARE_ATTACK_SCALE").map_or(1, |text| text.parse().unwrap())
}

/// The maximum memory for the slot and the buffers of a conn that has sent only a part of a
/// message.
pub(crate) const SMALL_CONN_BYTES: u64 = 2 * KIB;
