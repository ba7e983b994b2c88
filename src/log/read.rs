//! The queries of readers.
//!
//! Each query locks one shard, to look up a channel or to copy references. A query ignores entries
//! after the reader's horizon, which is the last number that the reader may see.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entries::Entries;
use super::epoch::ALL;
use super::shard::{Channel, key};
use super::{Amount, ChannelKey, Entry, Horizon, Log, RuleIndex, WorkerInterest};
use crate::config::Overflow;
use crate::frame::Publication;
use crate::id::{ChannelName, Sequence};

/// The state of a channel, as a reader sees it. Publications after the reader's horizon (the last
/// number that the reader may see) are ignored.
#[derive(Clone, Copy, Debug)]
pub struct ChannelState {
    /// The channel's key.
    pub key: ChannelKey,
    /// The channel's rule.
    pub rule: RuleIndex,
    /// The policy for conns that are further behind than their quota allows.
    pub overflow: Overflow,
    /// The number of the newest publication that the reader sees in the channel. If that
    /// publication has left the log and its number is unknown, a larger number is stored here.
    pub last: Sequence,
    /// The number of the channel's newest publication that has left the log, but at most the last
    /// number that the reader may see.
    pub evicted: Sequence,
    /// The number and size of the channel's publications up to `last`, since the channel was
    /// created.
    pub total: Amount,
    /// The lowest number after the reader's horizon at which the channel may have a publication,
    /// even one that has left the log. When the horizon reaches this number, the reader must query
    /// the state again. `None` if there is no such number.
    pub next: Option<Sequence>,
}

impl Channel {
    /// Returns the state for a reader that sees entries up to `horizon`. Entries after `end` belong
    /// to another epoch than the reader's.
    fn channel_state(&self, key: ChannelKey, horizon: Sequence, end: Sequence) -> ChannelState {
        let (last, total) = match self.entries().get(self.index_after(horizon)) {
            // `later` is the first entry that the reader does not see yet.
            Some(later) => (later.previous, later.before),
            None => (self.last(), self.total()),
        };
        ChannelState {
            key,
            rule: self.rule,
            overflow: self.overflow,
            last: last.min(horizon),
            evicted: self.evicted.min(horizon),
            total,
            next: self.next_above(horizon).filter(|next| *next <= end),
        }
    }

    /// Returns the lowest number above `number` at which the channel may have a publication. The
    /// publication may have left the log.
    fn next_above(&self, number: Sequence) -> Option<Sequence> {
        if self.evicted > number {
            // Publications of this channel after `number` have left the log. The lowest of their
            // numbers is unknown, so the lowest possible number is returned.
            return Some(number.next());
        }
        let next = match self.entries().get(self.index_after(number)) {
            // The number of the publication before `later` is above `number`, too, but that
            // publication has left the log.
            Some(later) if later.previous > number => later.previous,
            Some(later) => later.sequence(),
            None => self.last(),
        };
        (next > number).then_some(next)
    }
}

impl Log {
    /// Returns the slot of a channel in a worker's table of channels. Returns `None` if the worker
    /// has no subscribers of the channel.
    #[must_use]
    pub fn place_in(&self, worker: u16, name: &ChannelName) -> Option<u32> {
        let hash = self.hash(name);
        let (_, shard) = self.shards.read_by_hash(hash);
        let shard = shard?;
        let channel = shard.get(shard.find(hash, name)?)?;
        channel.interest.place_in(worker)
    }

    /// Returns the slot of a channel in a worker's table of channels, and the state of the channel
    /// up to `horizon`. Returns `None` if the worker has no subscribers of the channel.
    #[must_use]
    pub fn state_in(
        &self,
        worker: u16,
        name: &ChannelName,
        horizon: Horizon,
    ) -> Option<(u32, ChannelState)> {
        let hash = self.hash(name);
        let (number, shard) = self.shards.read_by_hash(hash);
        let shard = shard?;
        let place = shard.find(hash, name)?;
        let channel = shard.get(place)?;
        let known = channel.interest.place_in(worker)?;
        let (horizon, end) = horizon.within(&shard);
        let channel_state = channel.channel_state(key(number, place), horizon, end);
        Some((known, channel_state))
    }

    /// Registers a worker when a channel gets its first subscriber on this worker. Creates the
    /// channel if it does not exist. From now on, the writer sends new entries of the channel to
    /// the worker. Entries after `horizon` that are already in the log are not sent. The newest of
    /// them are added to `late`, in total at most `late_max`. Returns the channel's state up to
    /// `horizon`, and the number of the channel's newest publication, which may be after `horizon`.
    /// Returns `None` if the limit `limits.channels` is reached and the channel has no subscribers
    /// on any worker.
    pub fn register_interest(
        &self,
        name: &ChannelName,
        interest: WorkerInterest,
        horizon: Horizon,
        late_max: Amount,
        late: &mut Vec<Entry>,
    ) -> Option<(ChannelState, Sequence)> {
        let hash = self.hash(name);
        let (number, shard) = self.shards.write_by_hash(hash);
        let mut shard = shard?;
        let (horizon, end) = horizon.within(&shard);
        let place = shard.find_or_add(self, hash, name)?;
        let channel = shard.get_mut(place)?;
        if channel.interest.is_none() && !self.subscribed.try_add() {
            shard.drop_if_abandoned(self, place);
            return None;
        }
        channel.interest.add(interest);
        let total = channel.total();
        let behind = channel.entries().iter_from(channel.index_after(horizon));
        let behind = behind.take_while(|entry| entry.sequence() <= end);
        let behind = behind.filter(|entry| !total.minus(entry.before).exceeds(late_max));
        late.extend(behind.cloned().map(|entry| Entry {
            // The entry that supersedes this one may belong to another epoch than the reader's,
            // unless the shard is in the reader's epoch.
            is_superseded: entry.is_superseded && end == ALL,
            ..entry
        }));
        let channel_state = channel.channel_state(key(number, place), horizon, end);
        Some((channel_state, channel.last().min(end)))
    }

    /// Removes a worker from a channel's list of workers, because the worker no longer has
    /// subscribers of this channel. Removes the channel if it has neither entries nor subscribers.
    pub fn leave(&self, key: ChannelKey, worker: u16) {
        let Some(mut shard) = self.shards.write(key) else {
            return;
        };
        if let Some(channel) = shard.get_mut(key.place()) {
            channel.interest.remove(worker);
            if channel.interest.is_none() {
                self.subscribed.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
        shard.drop_if_abandoned(self, key.place());
    }

    /// Returns the number directly before the channel's oldest entry in the log. Returns the number
    /// of `horizon` if the channel has no entry up to `horizon`.
    #[must_use]
    pub fn begin(&self, key: ChannelKey, horizon: Horizon) -> Option<Sequence> {
        let (shard, horizon, _) = self.read_within(key, horizon)?;
        let first = shard.get(key.place())?.entries().front();
        let begin = first.map_or(horizon, |first| first.sequence().before());
        Some(begin.min(horizon))
    }

    /// Returns the state of a channel. Entries after `horizon` are ignored.
    #[must_use]
    pub fn channel_state(&self, key: ChannelKey, horizon: Horizon) -> Option<ChannelState> {
        let (shard, horizon, end) = self.read_within(key, horizon)?;
        let channel = shard.get(key.place())?;
        Some(channel.channel_state(key, horizon, end))
    }

    /// Appends at most `max` entries of a channel to `entries`: the first entries after `position`,
    /// up to `horizon`. Publications may be missing before the first of these entries, but not
    /// between them. Returns the number of the newest publication that may be missing before the
    /// first entry. If `position` is below the returned number, publications may be missing.
    pub fn fetch<T: From<Entry>>(
        &self,
        key: ChannelKey,
        position: Sequence,
        horizon: Horizon,
        max: usize,
        entries: &mut Vec<T>,
    ) -> Sequence {
        let Some((shard, horizon, _)) = self.read_within(key, horizon) else {
            return Sequence::ZERO;
        };
        let Some(channel) = shard.get(key.place()) else {
            return Sequence::ZERO;
        };
        let first = channel.index_after(position);
        let before = channel.entries().get(first).map(|entry| entry.previous);
        let missing = channel.evicted.max(before.unwrap_or_default());
        let mut last = missing.max(position);
        let known = channel.entries().iter_from(first).take_while(|entry| {
            let is_next = entry.previous <= last;
            last = entry.sequence();
            is_next && last <= horizon
        });
        entries.extend(known.take(max).cloned().map(T::from));
        missing.min(horizon)
    }

    /// Returns the number up to which publications of a channel may be missing directly after
    /// `position`. They have left the log, or they were lost before a restart (`lost_until` is the
    /// last number that may be lost). Also returns whether some of them may be lost. Returns `None`
    /// if none are missing.
    #[must_use]
    pub fn missing_after(
        &self,
        key: ChannelKey,
        position: Sequence,
        horizon: Horizon,
        lost_until: Sequence,
    ) -> Option<(Sequence, bool)> {
        let (shard, horizon, _) = self.read_within(key, horizon)?;
        let channel = shard.get(key.place())?;
        let evicted = channel.evicted.min(horizon).max(position);
        let next = channel.entries().get(channel.index_after(evicted));
        // If no entry follows, the channel's newest publications may be lost.
        let before_next = next.map_or(lost_until, |next| next.previous).min(horizon);
        let until = evicted.max(before_next);
        let is_lost = before_next > evicted || (position < lost_until && lost_until <= until);
        (position < until).then_some((until, is_lost))
    }

    /// Finds a channel's first entry after `position`, up to `horizon`. Returns the entry's number,
    /// and the number and size of the channel's publications before the entry.
    #[must_use]
    pub fn next_after(
        &self,
        key: ChannelKey,
        position: Sequence,
        horizon: Horizon,
    ) -> Option<(Sequence, Amount)> {
        let (shard, horizon, _) = self.read_within(key, horizon)?;
        let channel = shard.get(key.place())?;
        let next = channel.entries().get(channel.index_after(position))?;
        (next.sequence() <= horizon).then(|| (next.sequence(), next.before))
    }

    /// Finds the newest `count` entries of a channel up to `horizon`, or all of them if there are
    /// fewer. Returns the number directly before the oldest of these entries. Returns `None` if the
    /// channel has no entries up to `horizon`.
    ///
    /// The returned position is as late as possible, because a client on several channels has one
    /// position for all of them. With an earlier position, entries of the other channels might be
    /// missing from the log.
    #[must_use]
    pub fn position_before_newest(
        &self,
        key: ChannelKey,
        count: u32,
        horizon: Horizon,
    ) -> Option<Sequence> {
        let (shard, horizon, _) = self.read_within(key, horizon)?;
        let channel = shard.get(key.place())?;
        let end = channel.index_after(horizon);
        let oldest = end.saturating_sub(count as usize);
        // The entry at index `end` is after `horizon`, so it is not visible to the reader yet.
        let oldest = channel.entries().get(oldest).filter(|_| oldest < end)?;
        Some(oldest.sequence().before())
    }

    /// Returns the number of a channel's publications after `after`, up to `last`. Returns `None`
    /// if some of them have left the log, or if the shard and the reader are in different epochs.
    #[must_use]
    pub fn count_between(&self, key: ChannelKey, after: Sequence, last: Horizon) -> Option<u64> {
        let (shard, last, end) = self.read_within(key, last)?;
        let channel = shard.get(key.place()).filter(|_| end == ALL)?;
        // The log has all publications between any two entries of a channel, so the indices can be
        // subtracted.
        let count = channel
            .index_after(last)
            .saturating_sub(channel.index_after(after));
        (channel.evicted <= after).then_some(count as u64)
    }

    /// Finds the consecutive superseded entries that begin directly after `position`. Entries after
    /// `horizon` are ignored. Returns the sequence number of the last of these entries, and their
    /// count.
    #[must_use]
    pub fn superseded_run(
        &self,
        key: ChannelKey,
        position: Sequence,
        horizon: Horizon,
    ) -> Option<(Sequence, u64)> {
        let (shard, horizon, end) = self.read_within(key, horizon)?;
        // The shard may be in another epoch than the reader. Then the entry that supersedes another
        // one may not belong to the reader's epoch, so no entry is returned as superseded.
        let channel = shard.get(key.place()).filter(|_| end == ALL)?;
        channel.history()?.superseded_run(position, horizon)
    }

    /// Returns the number and size of the entries after `position`, up to `horizon`, that no later
    /// entry supersedes.
    #[must_use]
    pub fn newest_after(&self, key: ChannelKey, position: Sequence, horizon: Horizon) -> Amount {
        let Some((shard, horizon, _)) = self.read_within(key, horizon) else {
            return Amount::default();
        };
        let channel = shard.get(key.place());
        let history = channel.and_then(|channel| channel.history());
        history.map_or_else(Amount::default, |history| {
            history.newest_after(position, horizon)
        })
    }

    /// Returns the rule and the policy of a channel. The caller has subscribers of the channel.
    #[must_use]
    pub fn rule_of(&self, key: ChannelKey) -> Option<(RuleIndex, Overflow)> {
        let shard = self.shards.read(key)?;
        let channel = shard.get(key.place())?;
        Some((channel.rule, channel.overflow))
    }

    /// Returns an entry's publication.
    pub(super) fn publication(
        &self,
        key: ChannelKey,
        sequence: Sequence,
    ) -> Option<Arc<Publication>> {
        let shard = self.shards.read(key)?;
        let entry = shard.get(key.place())?.get(sequence)?;
        Some(Arc::clone(&entry.publication))
    }

    /// Returns the entry with this number, whatever its channel. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn find(&self, sequence: Sequence) -> Option<Entry> {
        let mut shards = self.shards.each();
        shards.find_map(|(_, shard)| shard.channels().find_map(|c| c.get(sequence)).cloned())
    }

    /// Returns all publications in no particular order. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn publications(&self) -> Vec<Arc<Publication>> {
        let mut all = Vec::new();
        for (_, shard) in self.shards.each() {
            let entries = shard
                .channels()
                .flat_map(|channel| channel.entries().iter());
            all.extend(entries.map(|entry| Arc::clone(&entry.publication)));
        }
        all
    }

    /// Returns the number of a channel's entries that are not superseded, and how many of those
    /// have a key. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn listed(&self, name: &ChannelName) -> (usize, usize) {
        let hash = self.hash(name);
        let (_, shard) = self.shards.read_by_hash(hash);
        let newest = shard.as_ref().and_then(|shard| {
            let channel = shard.get(shard.find(hash, name)?)?;
            channel
                .history()?
                .newest
                .as_ref()
                .map(|newest| newest.counts())
        });
        newest.unwrap_or_default()
    }

    /// Returns the number of a channel's oldest entry. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn oldest_of(&self, name: &ChannelName) -> Option<Sequence> {
        self.end_of(name, |entries| entries.front())
    }

    /// Returns the number of a channel's newest entry. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn newest_of(&self, name: &ChannelName) -> Option<Sequence> {
        self.end_of(name, |entries| entries.back())
    }

    fn end_of(
        &self,
        name: &ChannelName,
        end: impl FnOnce(&Entries) -> Option<&Entry>,
    ) -> Option<Sequence> {
        let hash = self.hash(name);
        let (_, shard) = self.shards.read_by_hash(hash);
        let shard = shard?;
        let channel = shard.get(shard.find(hash, name)?)?;
        end(channel.entries()).map(Entry::sequence)
    }

    /// Panics if the log is inconsistent. For tests.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        let (mut channels, mut entries, mut encoded, mut subscribed) = (0, 0, 0, 0);
        let lost_until = self.state().lost_until();
        for (_, shard) in self.shards.each() {
            for channel in shard.channels() {
                assert!(!channel.is_abandoned(), "{:?} is kept", channel.name);
                assert_eq!(
                    shard
                        .find(self.hash(&channel.name), &channel.name)
                        .map(|_| ()),
                    Some(())
                );
                channel.check_entries(lost_until);
                channels += 1;
                entries += channel.entries().len() as u64;
                subscribed += u64::from(!channel.interest.is_none());
                let entries = channel.entries().iter();
                let frames = entries.filter_map(|entry| entry.publication.made_frames());
                encoded += frames.map(|frames| frames.bytes_held()).sum::<u64>();
            }
        }
        assert_eq!(channels, self.channel_count(), "channels");
        assert_eq!(entries, self.len(), "entries");
        assert_eq!(subscribed, self.subscribed(), "channels with subscribers");
        assert_eq!(encoded, self.ledger.logged(), "bytes of encodings");
    }
}

impl Channel {
    fn check_entries(&self, lost_until: Sequence) {
        let mut previous = self.evicted;
        let mut before = None;
        for entry in self.entries().iter() {
            assert!(entry.sequence() > previous, "numbers of {:?}", self.name);
            assert!(before.is_none_or(|before| before == entry.before));
            let has_hole = entry.previous > previous.max(lost_until);
            assert!(!has_hole, "a hole in {:?}", self.name);
            (previous, before) = (entry.sequence(), Some(entry.total()));
        }
        if !self.entries().is_empty() {
            assert_eq!((previous, before), (self.last(), Some(self.total())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::frame::{Payload, Publication};
    use crate::id::{Cursor, Epoch};
    use crate::log::Writer;
    use crate::time::Now;

    fn horizon(writer: &Writer, number: u64) -> Horizon {
        writer.log().state().horizon(Sequence(number))
    }

    #[test]
    fn newest_are_counted_up_to_the_horizon_and_among_what_is_left() {
        let name = ChannelName::new("c").unwrap();
        let mut config = Config::default();
        config.log.entries = 4;
        let mut writer = Writer::new(&config, Sequence::ZERO);
        let (interest, mut late) = (
            WorkerInterest {
                worker: 0,
                place: 0,
            },
            Vec::new(),
        );
        let none = Amount::default();
        let entered =
            writer
                .log()
                .register_interest(&name, interest, horizon(&writer, 0), none, &mut late);
        let key = entered.unwrap().0.key;
        for number in 3..=8 {
            let (epoch, sequence) = (Epoch::new(7), Sequence(number));
            let (id, ledger) = (Cursor { epoch, sequence }, writer.log().ledger());
            let payload = Payload::Text("x".into());
            let one = Publication::new(id, name.clone(), payload, Now(0), ledger);
            writer.announce(sequence);
            let _removed = writer.publish(Arc::new(one), |_, _, _| {});
            writer.note_posted();
            writer.evict(Now(0), 9);
        }
        // The channel has the entries 5 to 8.
        let before = |count, number| {
            let found = writer
                .log()
                .position_before_newest(key, count, horizon(&writer, number));
            found.map(|Sequence(position)| position)
        };
        for (count, horizon, expected) in [
            (1, 9, Some(7)),
            (2, 8, Some(6)),
            (2, 7, Some(5)),
            (1, 5, Some(4)),
            (9, 6, Some(4)),
            (u32::MAX, 8, Some(4)),
            (1, 4, None),
            (u32::MAX, 0, None),
        ] {
            assert_eq!(before(count, horizon), expected, "{count} up to {horizon}");
        }
    }
}
