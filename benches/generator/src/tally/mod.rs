//! PURE: what was received: latencies, and every way in which a stream can be wrong.
//!
//! Each generator thread has one [`Tally`], and each connection an [`Ear`] that knows which number
//! comes next. A jump is a gap that the server told of or it is a loss; there is nothing between.
//! Publications are dealt over channels in turn, so the numbers of one channel are a [`Lane`].

use hdrhistogram::Histogram;

use crate::stream_parser::{Heard, Stamp};

/// The longest latency that is told apart, in microseconds: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Publications whose last delivery is known; later ones count in the histogram only.
const LAST_MAX: usize = 1 << 18;

/// The numbers that one channel gets: every `step`-th from `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The first of them, from one.
    pub first: u64,
    /// How many channels there are.
    pub step: u64,
}

impl Lane {
    /// The lane of a channel, counted from zero.
    #[must_use]
    pub fn new(channel: u64, channels: u64) -> Self {
        Self {
            first: channel + 1,
            step: channels.max(1),
        }
    }

    /// How many of its numbers there are up to this one.
    #[must_use]
    pub fn count_to(self, number: u64) -> u64 {
        match number.checked_sub(self.first) {
            Some(beyond) => beyond / self.step + 1,
            None => 0,
        }
    }

    /// Its first number above this one.
    #[must_use]
    pub fn after(self, number: u64) -> u64 {
        self.first + self.count_to(number) * self.step
    }
}

/// How a connection behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connects and disconnects while others stay.
    Passing,
    /// Reads as fast as it can.
    Reader,
    /// Reads a little at intervals.
    Slow,
    /// Does not read until it is told to.
    Stalled,
}

impl Role {
    /// Whether it may be told of gaps without that saying anything.
    #[must_use]
    pub fn is_impaired(self) -> bool {
        matches!(self, Self::Slow | Self::Stalled)
    }
}

/// Which number a connection has first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Whichever it hears first.
    Anywhere,
    /// The first of its lane: it is subscribed before anything is published.
    First,
    /// The next one behind the position it was told, as ids and numbers are the same.
    Position,
}

/// What ids have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// The publication's number: the server is new, and nobody else publishes.
    Numbers,
    /// Above the one before.
    Rising,
}

/// What is known of a connection by its thread.
#[derive(Clone, Copy, Debug)]
pub struct Hearing {
    /// The numbers it gets.
    pub lane: Lane,
    /// How it behaves.
    pub role: Role,
    /// Where it starts.
    pub start: Start,
    /// What ids have to be.
    pub ids: Ids,
    /// The time.
    pub now_ns: u64,
}

/// Counts of what must not happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Numbers that were never received and no gap told of.
    pub lost: u64,
    /// Numbers received twice.
    pub duplicates: u64,
    /// Numbers received after a later one.
    pub reordered: u64,
    /// Ids that were not what they have to be.
    pub wrong_ids: u64,
    /// Connections that ended without our doing.
    pub ended: u64,
    /// Connections that were not let in.
    pub refused: u64,
}

impl Faults {
    /// Whether there is none.
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

/// Gaps, which are no faults since the server told of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Gaps told to connections that read as fast as they can.
    pub readers: u64,
    /// Gaps told to stalled and slow connections.
    pub impaired: u64,
    /// Publications in all of them.
    pub skipped: u64,
    /// Stalled and slow connections that the server has ended, which tells them too.
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

/// Sums of many connections.
#[derive(Clone, Debug)]
pub struct Tally {
    /// From the time a publication was due to the read that brought it; none without bounds.
    latency_us: Option<Histogram<u64>>,
    /// For each number from one, the longest latency plus one; 0 where nobody has it.
    last_us: Vec<u32>,
    /// Publications received by whoever is no stalled or slow connection.
    pub(super) delivered: u64,
    /// Answers to polls of whoever is no stalled or slow connection, those without news too.
    pub(super) answers: u64,
    /// Compressed messages of whoever is no stalled or slow connection.
    pub(super) deflated: u64,
    /// Messages that had to be inflated to know what all compressed ones say.
    pub(super) inflated: u64,
    /// Publications received that were not ours.
    pub(super) foreign: u64,
    /// Connections that came and went.
    pub(super) passed: u64,
    /// What went wrong.
    pub(super) faults: Faults,
    /// What was told as missing.
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
            passed: 0,
            faults: Faults::default(),
            gaps: Gaps::default(),
        }
    }
}

impl Tally {
    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        if let (Some(own), Some(others)) = (&mut self.latency_us, &other.latency_us) {
            // All tallies have the same bounds, and then adding does not fail.
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
        self.passed += other.passed;
        self.faults.add(&other.faults);
        self.gaps.add(&other.gaps);
    }

    /// The latency, in microseconds, that this part of the deliveries did not exceed.
    #[must_use]
    pub fn latency_us(&self, quantile: f64) -> u64 {
        let histogram = self.latency_us.as_ref();
        histogram.map_or(0, |latency| latency.value_at_quantile(quantile))
    }

    /// Publications received by whoever is no stalled or slow connection.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Deliveries whose latency is known.
    #[must_use]
    pub fn timed(&self) -> u64 {
        self.latency_us.as_ref().map_or(0, Histogram::len)
    }

    /// For each publication the time to its last subscriber, in microseconds, in rising order.
    #[must_use]
    pub fn last_us(&self) -> Vec<u32> {
        let heard = self.last_us.iter().filter(|us| **us > 0);
        let mut last: Vec<u32> = heard.map(|us| us - 1).collect();
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

/// Which number a connection waits for.
#[derive(Debug, Default)]
pub struct Ear {
    /// 0 while any will do.
    next: u64,
    /// The sequence number of the newest id; for a poll, where the next one goes on from.
    sequence: u64,
    has_gap: bool,
}

impl Ear {
    /// The number after the last one that was received or told as missing; 0 before that is known.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes note of what was heard. Returns how many more publications are accounted for.
    pub fn note(&mut self, heard: Heard, hearing: &Hearing, tally: &mut Tally) -> u64 {
        match heard {
            Heard::Closed { .. }
            | Heard::End
            | Heard::NotDeflated
            | Heard::Ping
            | Heard::Refused { .. } => 0,
            Heard::Answered { position } => {
                if !hearing.role.is_impaired() {
                    tally.answers += 1;
                }
                // One that goes back would bring publications again.
                let is_right = position.sequence >= self.sequence;
                tally.faults.wrong_ids += u64::from(!is_right);
                self.sequence = position.sequence;
                0
            }
            Heard::Gap { until } => self.note_gap(until, hearing, tally),
            Heard::Publication { stamp, sequence } => {
                if !hearing.role.is_impaired() {
                    tally.delivered += 1;
                }
                let is_rising = self.note_sequence(sequence);
                match stamp {
                    Some(stamp) => self.note_stamp(stamp, sequence, is_rising, hearing, tally),
                    None => {
                        tally.foreign += 1;
                        tally.faults.reordered += u64::from(!is_rising);
                        0
                    }
                }
            }
            Heard::Ready { sequence } => {
                self.next = match (hearing.start, sequence) {
                    (Start::First, _) => hearing.lane.first,
                    (Start::Position, Some(sequence)) => hearing.lane.after(sequence),
                    (Start::Anywhere | Start::Position, _) => 0,
                };
                self.sequence = sequence.unwrap_or(0);
                0
            }
        }
    }

    /// Whether the id is above all before it, or there is none.
    fn note_sequence(&mut self, sequence: Option<u64>) -> bool {
        let Some(sequence) = sequence else {
            return true;
        };
        let is_rising = sequence > self.sequence;
        self.sequence = self.sequence.max(sequence);
        is_rising
    }

    fn note_gap(&mut self, until: Option<u64>, hearing: &Hearing, tally: &mut Tally) -> u64 {
        if hearing.role.is_impaired() {
            tally.gaps.impaired += 1;
        } else {
            tally.gaps.readers += 1;
        }
        let (Some(until), Ids::Numbers) = (until, hearing.ids) else {
            self.has_gap = true;
            return 0;
        };
        let after = hearing.lane.after(until);
        let skipped = after.saturating_sub(self.next) / hearing.lane.step;
        tally.gaps.skipped += skipped;
        self.next = self.next.max(after);
        skipped
    }

    fn note_stamp(
        &mut self,
        stamp: Stamp,
        sequence: Option<u64>,
        is_rising: bool,
        hearing: &Hearing,
        tally: &mut Tally,
    ) -> u64 {
        let Stamp { number, due_ns } = stamp;
        if !hearing.role.is_impaired() {
            tally.note_latency(number, hearing.now_ns.saturating_sub(due_ns) / 1000);
        }
        let faults = &mut tally.faults;
        let Lane { step, .. } = hearing.lane;
        let is_right = match hearing.ids {
            Ids::Numbers => sequence.is_none_or(|sequence| sequence == number),
            Ids::Rising => is_rising || number < self.next,
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
