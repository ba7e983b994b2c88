//! Statistics of a chunk, which determine when the chunk can be removed.
//!
//! This module sums up the records of a chunk. It also tests whether the log or the idempotency
//! keys could still need a record of the chunk. In case of doubt the chunk is kept. The module
//! performs no I/O.

use super::record::{PayloadRef, Record};
use crate::config::LogBounds;
use crate::config::limits::{DEDUPE_KEYS_MAX, DEDUPE_WINDOW_MS};
use crate::frame::Publication;

/// Sums over the records of a chunk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChunkStats {
    pub(super) records: u64,
    /// The memory that the log would account for these records, in bytes. This is a lower bound.
    pub(super) held_bytes: u64,
    /// The number of records with an idempotency key of a feeder.
    pub(super) dedupes: u64,
    /// The number of records with an idempotency key of a client.
    pub(super) client_dedupes: u64,
    /// The time at which the newest record was published.
    pub(super) newest_us: u64,
}

impl ChunkStats {
    pub(super) fn add(&mut self, record: &Record<'_>) {
        self.records += 1;
        self.held_bytes += held_bytes(record);
        let has_key = u64::from(record.dedupe.is_some());
        match record.is_from_client {
            true => self.client_dedupes += has_key,
            false => self.dedupes += has_key,
        }
        self.newest_us = self.newest_us.max(record.published_us);
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            held_bytes: self.held_bytes + other.held_bytes,
            dedupes: self.dedupes + other.dedupes,
            client_dedupes: self.client_dedupes + other.client_dedupes,
            newest_us: self.newest_us.max(other.newest_us),
        }
    }

    /// Subtracts the statistics of a part.
    pub(super) fn minus(self, other: Self) -> Self {
        debug_assert!(self.records >= other.records, "{other:?} of {self:?}");
        debug_assert!(self.held_bytes >= other.held_bytes, "{other:?} of {self:?}");
        debug_assert!(self.dedupes >= other.dedupes, "{other:?} of {self:?}");
        debug_assert!(
            self.client_dedupes >= other.client_dedupes,
            "{other:?} of {self:?}"
        );
        Self {
            records: self.records.saturating_sub(other.records),
            held_bytes: self.held_bytes.saturating_sub(other.held_bytes),
            dedupes: self.dedupes.saturating_sub(other.dedupes),
            client_dedupes: self.client_dedupes.saturating_sub(other.client_dedupes),
            newest_us: self.newest_us,
        }
    }
}

/// Returns a lower bound of the number of bytes that the log counts for a publication. The bytes of
/// the publication's entry and frames are not included.
fn held_bytes(record: &Record<'_>) -> u64 {
    let label = |text: Option<&str>| text.map_or(0, str::len);
    let payload = match record.payload {
        PayloadRef::Bytes(bytes) => bytes.len(),
        PayloadRef::Json(text) | PayloadRef::Text(text) => text.len(),
    };
    let labels = label(record.event) + label(record.key);
    (size_of::<Publication>() + record.channel.len() + labels + payload) as u64
}

/// Whether a chunk can be removed, because neither the log nor the idempotency keys can still need
/// one of its records. `later` has the statistics of all records after the chunk.
pub(super) fn is_unneeded(
    stats: ChunkStats,
    later: ChunkStats,
    bounds: LogBounds,
    now_us: u64,
) -> bool {
    let age_us = now_us.saturating_sub(stats.newest_us);
    let is_out_of_log = age_us > bounds.age_ms.saturating_mul(1000)
        || later.records >= bounds.entries
        || later.held_bytes > bounds.bytes;
    // The keys of feeders and of clients are in separate tables, each with this bound.
    let is_out_of = |keys: u64, later: u64| keys == 0 || later >= DEDUPE_KEYS_MAX as u64;
    let is_out_of_dedupe = age_us > DEDUPE_WINDOW_MS * 1000
        || is_out_of(stats.dedupes, later.dedupes)
            && is_out_of(stats.client_dedupes, later.client_dedupes);
    is_out_of_log && is_out_of_dedupe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Share;

    const BOUNDS: LogBounds = LogBounds {
        bytes: 1_000_000,
        entries: 10,
        age_ms: 1_000,
        pinned_bytes: 0,
        client_share: Share::HALF,
    };

    fn stats(records: u64, dedupe: Option<&str>) -> ChunkStats {
        let mut stats = ChunkStats::default();
        for _ in 0..records {
            stats.add(&Record {
                published_us: 0,
                ttl_us: None,
                channel: "a",
                event: None,
                key: None,
                dedupe,
                is_from_client: false,
                traceparent: None,
                payload: PayloadRef::Text("x"),
            });
        }
        stats
    }

    #[test]
    fn chunk_is_kept_while_the_log_may_hold_a_part_of_it() {
        let one = stats(5, None);
        assert!(!is_unneeded(one, stats(9, None), BOUNDS, 1_000_000));
        assert!(is_unneeded(one, stats(10, None), BOUNDS, 0));
        assert!(is_unneeded(one, stats(0, None), BOUNDS, 1_000_001));
        let mut large = stats(1, None);
        large.held_bytes = BOUNDS.bytes + 1;
        assert!(is_unneeded(one, large, BOUNDS, 0));
    }

    #[test]
    fn chunk_with_keys_is_kept_for_their_window() {
        let one = stats(5, Some("k"));
        let window_us = DEDUPE_WINDOW_MS * 1000;
        assert!(!is_unneeded(one, stats(10, None), BOUNDS, window_us));
        assert!(is_unneeded(one, stats(10, None), BOUNDS, window_us + 1));
        let many = ChunkStats {
            dedupes: DEDUPE_KEYS_MAX as u64,
            ..stats(10, None)
        };
        assert!(is_unneeded(one, many, BOUNDS, 0));
    }

    #[test]
    fn keys_of_clients_do_not_displace_keys_of_feeders() {
        let feeders = stats(5, Some("k"));
        let clients = ChunkStats {
            dedupes: 0,
            client_dedupes: 5,
            ..feeders
        };
        let later = |dedupes, client_dedupes| ChunkStats {
            dedupes,
            client_dedupes,
            ..stats(10, None)
        };
        let most = DEDUPE_KEYS_MAX as u64;
        assert!(!is_unneeded(feeders, later(0, most), BOUNDS, 0));
        assert!(!is_unneeded(clients, later(most, 0), BOUNDS, 0));
        assert!(is_unneeded(clients, later(0, most), BOUNDS, 0));
        let both = feeders.plus(clients);
        assert!(!is_unneeded(both, later(most, 0), BOUNDS, 0));
        assert!(is_unneeded(both, later(most, most), BOUNDS, 0));
    }
}
