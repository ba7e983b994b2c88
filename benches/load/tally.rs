//! What was received: latencies, and every way in which a stream can be wrong.
//!
//! Each generator thread has one tally behind a lock that only it takes until the run is read out,
//! and each connection an [`Ear`] that knows which number comes next. A jump is a gap that the
//! server told of or it is a loss; there is nothing between.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::stream::Heard;

/// The longest latency that is told apart, in microseconds: a minute and a half.
const LATENCY_US_MAX: u64 = 90_000_000;

/// Sums of many connections.
#[derive(Debug)]
pub(crate) struct Tally {
    /// From the time a publication was due to be published to the read that brought it.
    pub(crate) latency_us: Histogram<u64>,
    /// For each publication, the longest latency among these connections.
    pub(crate) last_us: BTreeMap<u64, u64>,
    /// Publications received.
    pub(crate) delivered: u64,
    /// What went wrong.
    pub(crate) faults: Faults,
}

/// Counts of what must not happen, and of gaps, which only stalled connections may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Numbers that were never received and no gap told of.
    pub(crate) lost: u64,
    /// Numbers received twice.
    pub(crate) duplicates: u64,
    /// Numbers received after a later one.
    pub(crate) reordered: u64,
    /// Ids that were not that of their number.
    pub(crate) wrong_ids: u64,
    /// Connections that ended.
    pub(crate) ended: u64,
    /// Gaps that were told.
    pub(crate) gaps: u64,
    /// Numbers that were skipped and told of.
    pub(crate) skipped: u64,
}

impl Faults {
    /// Whether nothing was lost, doubled, reordered or cut off.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.duplicates + self.reordered + self.wrong_ids + self.ended == 0
    }

    /// Adds another count.
    pub(crate) fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.wrong_ids += other.wrong_ids;
        self.ended += other.ended;
        self.gaps += other.gaps;
        self.skipped += other.skipped;
    }
}

impl Default for Tally {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        Self {
            latency_us: latency_us.expect("the bounds are constants"),
            last_us: BTreeMap::new(),
            delivered: 0,
            faults: Faults::default(),
        }
    }
}

impl Tally {
    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.latency_us
            .add(&other.latency_us)
            .expect("all tallies have the same bounds");
        for (number, us) in &other.last_us {
            let last = self.last_us.entry(*number).or_default();
            *last = (*last).max(*us);
        }
        self.delivered += other.delivered;
        self.faults.add(&other.faults);
    }

    fn note_latency(&mut self, number: u64, us: u64) {
        self.latency_us.saturating_record(us.max(1));
        let last = self.last_us.entry(number).or_default();
        *last = (*last).max(us);
    }
}

/// Which number a connection waits for.
#[derive(Debug)]
pub(crate) struct Ear {
    next: u64,
    has_gap: bool,
    /// Whether its latencies count. Those of a connection that does not read say nothing.
    is_timed: bool,
}

impl Ear {
    /// A connection that was subscribed before the first publication.
    pub(crate) fn new(is_timed: bool) -> Self {
        Self {
            next: 1,
            has_gap: false,
            is_timed,
        }
    }

    /// The number after the last one that was received.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes note of what was heard at this time.
    pub(crate) fn note(&mut self, heard: Heard, now_ns: u64, tally: &mut Tally) {
        match heard {
            Heard::End => tally.faults.ended += 1,
            Heard::Gap => {
                tally.faults.gaps += 1;
                self.has_gap = true;
            }
            Heard::Ping | Heard::Ready => {}
            Heard::Publication {
                number,
                stamp_ns,
                sequence,
            } => {
                tally.delivered += 1;
                tally.faults.wrong_ids += u64::from(sequence.is_some_and(|id| id != number));
                self.note_number(number, &mut tally.faults);
                if self.is_timed {
                    tally.note_latency(number, now_ns.saturating_sub(stamp_ns) / 1000);
                }
            }
        }
    }

    fn note_number(&mut self, number: u64, faults: &mut Faults) {
        if number + 1 == self.next {
            faults.duplicates += 1;
            return;
        }
        if number < self.next {
            faults.reordered += 1;
            return;
        }
        let missing = number - self.next;
        if missing > 0 && self.has_gap {
            faults.skipped += missing;
        } else {
            faults.lost += missing;
        }
        self.has_gap = false;
        self.next = number + 1;
    }
}
