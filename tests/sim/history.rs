//! History: the earlier publications at the start of a subscription, which the server marks as
//! initial.
//!
//! The worker processed the client's request at an unknown time: after the client sent it, and
//! before the client read the answer. For both ends of this period, the worker's head is recorded:
//! the newest publication that it had processed. A publication may be in the history if either head
//! allows it. It must be in the history only if both heads require it.

use fanfare::config::Overflow;

use crate::model::{Facts, ReportedGap, Requested};

/// The history of one subscription.
#[derive(Debug)]
pub(crate) struct History {
    /// The worker that serves the subscription.
    worker: usize,
    channel: usize,
    /// The maximum number of publications in the history.
    count: usize,
    /// The newest publication that the worker had processed when the client sent its request.
    /// `read_at` is the newest one that it had processed when the client read the confirmation.
    requested_at: u64,
    read_at: u64,
    /// Whether the client has received neither a publication nor a gap.
    has_not_begun: bool,
    /// Whether the client has received a publication that is not marked as initial.
    is_over: bool,
}

impl History {
    /// Returns the expected history of a subscription, or `None` if no history was requested.
    pub(crate) fn new(
        worker: usize,
        requested: Requested,
        requested_at: u64,
        channel: usize,
        facts: &Facts,
    ) -> Option<Self> {
        let count = match requested {
            Requested::First => usize::MAX,
            Requested::Last(count) => count as usize,
            Requested::After(_) | Requested::OtherEpoch | Requested::Invalid | Requested::Now => {
                return None;
            }
        };
        Some(Self {
            worker,
            channel,
            count,
            requested_at,
            read_at: facts.logs[worker].head,
            has_not_begun: true,
            is_over: false,
        })
    }

    /// Whether the client has received neither a publication nor a gap.
    pub(crate) fn has_not_begun(&self) -> bool {
        self.has_not_begun
    }

    /// Returns a serial. Publications up to this serial need not be delivered. Either they are not
    /// among the newest ones that the client requested, or they left the log before the first
    /// delivery.
    pub(crate) fn not_owed_until(&self, facts: &Facts) -> u64 {
        // The epoch has changed after the request. This may have discarded the first publications
        // of the history.
        if facts.epochs.has_one_after(self.requested_at) {
            return self.read_at;
        }
        if !self.has_not_begun {
            return 0;
        }
        let kept = facts.between(self.channel, 0, self.read_at);
        let too_old = kept.iter().rev().nth(self.count).copied();
        let evicted = facts.logs[self.worker].evicted[self.channel].min(self.read_at);
        evicted.max(too_old.unwrap_or_default())
    }

    /// Checks that a subscription that begins at `position` skips no publication of the requested
    /// history.
    pub(crate) fn check_start(&self, position: u64, facts: &Facts) {
        let before = facts.between(self.channel, 0, position).last().copied();
        let not_owed_until = self.not_owed_until(facts);
        assert!(
            before.unwrap_or_default() <= not_owed_until,
            "{self:?} begins after {before:?} but the log has what follows {not_owed_until}"
        );
    }

    /// Checks a delivered publication and whether it is marked as initial. `mark` is `None` if this
    /// kind of frame has no such mark.
    pub(crate) fn deliver(&mut self, sequence: u64, mark: Option<bool>, facts: &Facts) {
        let newer = facts
            .between(self.channel, sequence, self.requested_at)
            .len();
        assert!(
            sequence > self.requested_at || newer < self.count,
            "{sequence} is older than the requested count: {self:?}"
        );
        self.has_not_begun = false;
        let Some(mark) = mark else {
            return;
        };
        assert!(
            mark || sequence > self.requested_at,
            "{sequence} was in the log and is not marked: {self:?}"
        );
        assert!(
            !mark || (sequence <= self.read_at && !self.is_over),
            "{sequence} was not in the log and is marked: {self:?}"
        );
        self.is_over |= !mark;
    }

    /// Checks a gap. Publications that left the log before the first delivery are not a loss, so a
    /// gap over them must not have the cause `expired`. Channels that keep only the newest
    /// publication of each key are exempt: one gap may contain replaced publications and a later
    /// loss.
    pub(crate) fn note_gap(&mut self, gap: &ReportedGap, facts: &Facts) {
        let newest = facts.between(self.channel, 0, self.requested_at).last();
        let conflates = facts.rules[self.channel].has_had(Overflow::Conflate);
        let is_of_history = newest.is_some_and(|newest| gap.until < *newest);
        assert!(
            !self.has_not_begun || conflates || gap.cause != "expired" || !is_of_history,
            "{gap:?} before its history: {self:?}"
        );
        self.has_not_begun = false;
    }
}
