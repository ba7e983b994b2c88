//! PURE: this module counts deliveries, latencies, and all kinds of faults in the received streams.
//!
//! Each client thread has one [`Tally`], and each connection has a [`SequenceChecker`] with the
//! next expected number. Skipped numbers are either a gap that the server has reported, or a loss.
//! The channels receive consecutive publications in a cyclic order, so the numbers of one channel
//! have a constant distance: a [`Stride`].

use hdrhistogram::Histogram;

use crate::stream_parser::{ClientEvent, Stamp};

/// The longest latency that the histogram can record, in microseconds: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;
/// The maximum number of publications whose last delivery is recorded. Later publications are
/// recorded only in the histogram.
const LAST_MAX: usize = 1 << 18;

/// The publication numbers of one channel: `first`, and then every `step`-th number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stride {
    /// The first number of the channel. Publications are numbered from one.
    pub first: u64,
    /// The number of channels.
    pub step: u64,
}

impl Stride {
    /// Returns the publication numbers of the channel with the index `channel`. Channels are
    /// numbered from zero.
    #[must_use]
    pub fn new(channel: u64, channels: u64) -> Self {
        Self {
            first: channel + 1,
            step: channels.max(1),
        }
    }

    /// Returns how many publication numbers of the channel are at most this number.
    #[must_use]
    pub fn count_to(self, number: u64) -> u64 {
        match number.checked_sub(self.first) {
            Some(beyond) => beyond / self.step + 1,
            None => 0,
        }
    }

    /// Returns the channel's lowest number that is greater than this number.
    #[must_use]
    pub fn after(self, number: u64) -> u64 {
        self.first + self.count_to(number) * self.step
    }
}

/// How a connection behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The connection is closed one second after it has subscribed.
    Churning,
    /// The connection reads as fast as it can.
    Reader,
    /// The connection reads a few bytes at intervals.
    Slow,
    /// The connection does not read until the last publication is sent.
    Stalled,
}

impl Role {
    /// Whether gaps are expected, because the connection does not read as fast as it can.
    #[must_use]
    pub fn is_impaired(self) -> bool {
        matches!(self, Self::Slow | Self::Stalled)
    }
}

/// The first publication that a connection expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Any publication.
    Anywhere,
    /// The first publication of the channel, because the connection subscribes before anything is
    /// published.
    First,
    /// The publication right after the position at which the subscription starts. Use this variant
    /// only with [`IdRule::Numbers`], because the position must be a publication number.
    Position,
}

/// The rule that the ids of publications must satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdRule {
    /// Each id is the publication's number, because the server is new and has no other publisher.
    Numbers,
    /// Each id is greater than the previous one.
    Rising,
}

/// The expectations for the data that one connection receives.
#[derive(Clone, Copy, Debug)]
pub struct Expectation {
    /// The publication numbers of the connection's channel.
    pub stride: Stride,
    /// The behavior of the connection.
    pub role: Role,
    /// The first publication that the connection expects.
    pub start: Start,
    /// The rule that ids must satisfy.
    pub ids: IdRule,
    /// The time at which the data was read, in nanoseconds.
    pub now_ns: u64,
}

/// The counts of the server's faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The count of publication numbers that were neither received nor reported in a gap.
    pub lost: u64,
    /// The count of publication numbers that were received twice in a row.
    pub duplicates: u64,
    /// The count of publications that were received after a publication with a higher number.
    /// Publications that were received twice in a row are not included.
    pub reordered: u64,
    /// The count of ids that violate the [`IdRule`].
    pub wrong_ids: u64,
    /// The count of connections that the server ended or that failed.
    pub ended: u64,
    /// The count of connections that the server refused.
    pub refused: u64,
}

impl Faults {
    /// Whether there are no faults.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.wrong_ids += other.wrong_ids;
        self.ended += other.ended;
        self.refused += other.refused;
    }
}

/// The counts of gaps. Gaps are not faults, because the server has reported them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// The count of gaps on connections that read as fast as they can.
    pub readers: u64,
    /// The count of gaps on stalled and slow connections.
    pub impaired: u64,
    /// The number of publications in all gaps.
    pub skipped: u64,
    /// The count of stalled and slow connections that the server closed. Such a close is not a
    /// fault, because it tells the client that publications are missing.
    pub cut: u64,
}

impl Gaps {
    fn add(&mut self, other: &Self) {
        self.readers += other.readers;
        self.impaired += other.impaired;
        self.skipped += other.skipped;
        self.cut += other.cut;
    }
}

/// The counts of many connections.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The latencies in microseconds, from a publication's due time to the read that received the
    /// publication.
    latency_us: Option<Histogram<u64>>,
    /// The longest latency of each publication in microseconds. Publication numbers start at 1.
    /// Each value is stored plus 1, because 0 means that the publication was not received.
    last_us: Vec<u32>,
    /// The number of received publications, excluding those of stalled and slow connections.
    pub(super) delivered: u64,
    /// The number of responses to polls, including empty responses. Responses on stalled and slow
    /// connections are not included.
    pub(super) answers: u64,
    /// The number of compressed messages, excluding those of stalled and slow connections.
    pub(super) deflated: u64,
    /// The number of compressed messages that were inflated because the cache did not contain them.
    pub(super) inflated: u64,
    /// The number of received publications of other publishers.
    pub(super) foreign: u64,
    /// The number of churning connections that were subscribed and then closed.
    pub(super) churned: u64,
    pub(super) faults: Faults,
    pub(super) gaps: Gaps,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            latency_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).ok(),
            last_us: Vec::new(),
            delivered: 0,
            answers: 0,
            deflated: 0,
            inflated: 0,
            foreign: 0,
            churned: 0,
            faults: Faults::default(),
            gaps: Gaps::default(),
        }
    }
}

impl Tally {
    /// Adds the counts and latencies of another thread's tally.
    pub fn add(&mut self, other: &Self) {
        if let (Some(own), Some(others)) = (&mut self.latency_us, &other.latency_us) {
            // Adding fails only if the bounds differ, and all tallies have the same bounds.
            let added = own.add(others);
            debug_assert!(added.is_ok());
        }
        if self.last_us.len() < other.last_us.len() {
            self.last_us.resize(other.last_us.len(), 0);
        }
        for (own, others) in self.last_us.iter_mut().zip(&other.last_us) {
            *own = (*own).max(*others);
        }
        self.delivered += other.delivered;
        self.answers += other.answers;
        self.deflated += other.deflated;
        self.inflated += other.inflated;
        self.foreign += other.foreign;
        self.churned += other.churned;
        self.faults.add(&other.faults);
        self.gaps.add(&other.gaps);
    }

    /// Returns the latency in microseconds that this fraction of the deliveries did not exceed.
    #[must_use]
    pub fn latency_us(&self, quantile: f64) -> u64 {
        let histogram = self.latency_us.as_ref();
        histogram.map_or(0, |latency| latency.value_at_quantile(quantile))
    }

    /// Returns the number of received publications, excluding those of stalled and slow
    /// connections.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Returns the number of deliveries whose latency was recorded, because they had a stamp.
    #[must_use]
    pub fn timed(&self) -> u64 {
        self.latency_us.as_ref().map_or(0, Histogram::len)
    }

    /// Returns, for each received publication, the latency to its last subscriber. The latencies
    /// are in microseconds and in ascending order.
    #[must_use]
    pub fn last_us(&self) -> Vec<u32> {
        let latencies = self.last_us.iter().filter(|us| **us > 0);
        let mut last: Vec<u32> = latencies.map(|us| us - 1).collect();
        last.sort_unstable();
        last
    }

    fn note_latency(&mut self, number: u64, us: u64) {
        if let Some(histogram) = &mut self.latency_us {
            histogram.saturating_record(us.max(1));
        }
        let Ok(index) = usize::try_from(number.saturating_sub(1)) else {
            return;
        };
        if index >= LAST_MAX {
            return;
        }
        if index >= self.last_us.len() {
            self.last_us.resize(index + 1, 0);
        }
        if let Some(last) = self.last_us.get_mut(index) {
            *last = (*last).max(u32::try_from(us.saturating_add(1)).unwrap_or(u32::MAX));
        }
    }
}

/// Checks the numbers and ids that one connection receives.
#[derive(Debug, Default)]
pub struct SequenceChecker {
    /// The next expected number, or 0 if any number is accepted.
    next: u64,
    /// The highest sequence number of the received ids. After a response to a poll, it is the
    /// position from which the next poll continues.
    sequence: u64,
    has_gap: bool,
}

impl SequenceChecker {
    /// Returns the next expected number. All lower numbers were received, reported in a gap, or
    /// lost. Returns 0 if any number is accepted.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Checks and counts an event. Returns the number of publications that the event accounts for.
    pub fn note(
        &mut self,
        event: ClientEvent,
        expectation: &Expectation,
        tally: &mut Tally,
    ) -> u64 {
        match event {
            ClientEvent::Closed { .. }
            | ClientEvent::Ended
            | ClientEvent::NotDeflated
            | ClientEvent::Ping
            | ClientEvent::Refused { .. } => 0,
            ClientEvent::PollAnswered { position } => {
                if !expectation.role.is_impaired() {
                    tally.answers += 1;
                }
                // A position that is lower than the previous one is a fault, because the next poll
                // would receive publications again.
                let is_right = position.sequence >= self.sequence;
                tally.faults.wrong_ids += u64::from(!is_right);
                self.sequence = position.sequence;
                0
            }
            ClientEvent::Gap { until } => self.note_gap(until, expectation, tally),
            ClientEvent::Publication { stamp, sequence } => {
                if !expectation.role.is_impaired() {
                    tally.delivered += 1;
                }
                let is_rising = self.note_sequence(sequence);
                match stamp {
                    Some(stamp) => self.note_stamp(stamp, sequence, is_rising, expectation, tally),
                    None => {
                        tally.foreign += 1;
                        tally.faults.reordered += u64::from(!is_rising);
                        0
                    }
                }
            }
            ClientEvent::Subscribed { sequence } => {
                self.next = match (expectation.start, sequence) {
                    (Start::First, _) => expectation.stride.first,
                    (Start::Position, Some(sequence)) => expectation.stride.after(sequence),
                    (Start::Anywhere | Start::Position, _) => 0,
                };
                self.sequence = sequence.unwrap_or(0);
                0
            }
        }
    }

    /// Records the sequence number of an id. Returns whether it is higher than all previous ones,
    /// or true if there is no id.
    fn note_sequence(&mut self, sequence: Option<u64>) -> bool {
        let Some(sequence) = sequence else {
            return true;
        };
        let is_rising = sequence > self.sequence;
        self.sequence = self.sequence.max(sequence);
        is_rising
    }

    fn note_gap(
        &mut self,
        until: Option<u64>,
        expectation: &Expectation,
        tally: &mut Tally,
    ) -> u64 {
        if expectation.role.is_impaired() {
            tally.gaps.impaired += 1;
        } else {
            tally.gaps.readers += 1;
        }
        let (Some(until), IdRule::Numbers) = (until, expectation.ids) else {
            self.has_gap = true;
            return 0;
        };
        let after = expectation.stride.after(until);
        let skipped = after.saturating_sub(self.next) / expectation.stride.step;
        tally.gaps.skipped += skipped;
        self.next = self.next.max(after);
        skipped
    }

    fn note_stamp(
        &mut self,
        stamp: Stamp,
        sequence: Option<u64>,
        is_rising: bool,
        expectation: &Expectation,
        tally: &mut Tally,
    ) -> u64 {
        let Stamp { number, due_ns } = stamp;
        if !expectation.role.is_impaired() {
            tally.note_latency(number, expectation.now_ns.saturating_sub(due_ns) / 1000);
        }
        let faults = &mut tally.faults;
        let Stride { step, .. } = expectation.stride;
        let is_right = match expectation.ids {
            IdRule::Numbers => sequence.is_none_or(|sequence| sequence == number),
            IdRule::Rising => is_rising || number < self.next,
        };
        faults.wrong_ids += u64::from(!is_right);
        if self.next == 0 {
            self.next = number;
        }
        let Some(ahead) = number.checked_sub(self.next) else {
            if number.checked_add(step) == Some(self.next) {
                faults.duplicates += 1;
            } else {
                faults.reordered += 1;
            }
            return 0;
        };
        let missing = ahead / step;
        if self.has_gap {
            tally.gaps.skipped += missing;
        } else {
            faults.lost += missing;
        }
        self.has_gap = false;
        self.next = number.saturating_add(step);
        missing + 1
    }
}

#[cfg(test)]
mod tests;
