//! The writer: adds entries to the log and removes them.
//!
//! If a channel exceeds its own bounds, its oldest entries are removed. If all channels together
//! exceed their bounds, the oldest entries of the log are removed. `clocks` finds the entries that
//! become too old, and `change` carries out a change of the rules. Eviction never waits for a
//! reader, because a worker keeps references to the entries that it is about to write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::change::OngoingChange;
use super::clocks::{ClockNumber, Clocks};
use super::entries::Entries;
use super::epoch::EpochState;
use super::order::{Order, Ordered};
use super::shard::{CHANNEL_BYTES, Channel, assert_unlocked, key};
use super::{Amount, ChannelKey, Class, Entry, Log, Rules, WorkerInterest};
use crate::certain;
use crate::config::limits::TRIMS_PER_PUBLICATION_MAX;
use crate::config::{Config, LogBounds};
use crate::frame::Publication;
use crate::id::Sequence;
use crate::time::{Deadline, Now};

/// Adds entries to the log and removes them.
#[derive(Debug)]
pub struct Writer {
    pub(super) log: Arc<Log>,
    /// The state of the newest epoch.
    pub(super) state: Arc<EpochState>,
    /// The number of the newest entry.
    pub(super) head: Sequence,
    /// The entries of channels in which only feeders publish.
    feeders: Part,
    /// The entries of channels in which clients may broadcast.
    clients: Part,
    pub(super) clocks: Clocks,
    /// The bounds for all channels together.
    pub(super) bounds: LogBounds,
    /// The change of rules that is being carried out.
    pub(super) change: Option<OngoingChange>,
    /// The channels that may exceed their bounds.
    pub(super) over: VecDeque<ChannelKey>,
    /// Whether the last eviction removed its maximum number of entries, so that more entries may
    /// have to be removed.
    is_cut_short: bool,
    /// The entry number at which [`Self::drop_encodings`] continues its search for encoded frames.
    swept_until: Sequence,
    /// Entries removed while a shard was locked. They are dropped after the shard is unlocked.
    pub(super) removed: Vec<Entry>,
}

/// The entries of all channels of one [`Class`].
#[derive(Debug, Default)]
pub(super) struct Part {
    order: Order,
    /// The memory of publications, of the channels' lists of entries, and of the lists for
    /// conflation, in bytes.
    pub(super) bytes: u64,
    /// The number of channels that have entries.
    pub(super) kept: u64,
}

impl Part {
    /// Returns the memory in bytes, without the encoded frames of publications.
    fn bytes(&self) -> u64 {
        self.bytes + self.order.bytes() + self.kept * CHANNEL_BYTES
    }
}

impl Writer {
    /// Creates a writer with an empty log, whose entries will have numbers above `head`.
    #[must_use]
    pub fn new(config: &Config, head: Sequence) -> Self {
        let (rules, namespaces) = Rules::new(config, head);
        let ages = namespaces.ages(config.log.age());
        let log = Arc::new(Log::new(config, rules, &namespaces, head));
        Self {
            clocks: Clocks::new(&ages),
            bounds: config.log,
            change: None,
            state: log.state(),
            log,
            head,
            feeders: Part::default(),
            clients: Part::default(),
            over: VecDeque::new(),
            is_cut_short: false,
            swept_until: Sequence::ZERO,
            removed: Vec::new(),
        }
    }

    /// Returns the log, for readers.
    #[must_use]
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Returns the number of the newest entry.
    #[must_use]
    pub fn head(&self) -> Sequence {
        self.head
    }

    /// Announces that entries with numbers up to `last` are about to be added. Called before each
    /// batch.
    pub fn announce(&mut self, last: Sequence) {
        self.state.announce(last);
    }

    /// Records that all added entries have been posted to the workers that need them.
    pub fn note_posted(&mut self) {
        self.state.note_posted(self.head);
        self.publish_figures();
    }

    /// Records that the numbers from the head to `until` may have been assigned before a restart,
    /// and that their publications are lost. The publications in the log stay. Later entries will
    /// have numbers above `until`.
    pub fn note_lost(&mut self, until: Sequence) {
        self.state.note_lost(until);
        self.skip_to(until);
    }

    /// Continues after the number `last`, if the last entry of the log has a lower number. Must be
    /// called before the log has readers.
    pub fn skip_to(&mut self, last: Sequence) {
        if last > self.head {
            self.announce(last);
            self.head = last;
            self.note_posted();
        }
    }

    /// Adds a publication, whose number must be above all others. Removes at most
    /// [`TRIMS_PER_PUBLICATION_MAX`] entries that exceed the channel's bounds; [`Self::trim`]
    /// removes the remaining ones. Calls `send` with a copy of the entry for each worker that has
    /// subscribers of the channel. Returns the number of removed entries.
    pub fn publish(
        &mut self,
        publication: Arc<Publication>,
        send: impl FnMut(WorkerInterest, ChannelKey, Entry),
    ) -> u32 {
        assert_unlocked();
        let sequence = publication.id.sequence;
        if sequence <= self.head {
            debug_assert!(false, "{sequence:?} is not above {:?}", self.head);
            return 0;
        }
        debug_assert!(
            sequence <= self.state.sequenced(),
            "{sequence:?} was not announced"
        );
        self.head = sequence;
        let published = publication.published;
        let log = Arc::clone(&self.log);
        let hash = log.hash(&publication.channel);
        let (number, shard) = log.shards.write_by_hash(hash);
        let Some(mut shard) = shard else { return 0 };
        let place = shard.find_or_add(&log, hash, &publication.channel);
        let Some(place) = place else { return 0 };
        let key = key(number, place);
        let (Some(values), Some(channel)) = (shard.values_of(place), shard.get_mut(place)) else {
            return 0;
        };
        let (bound, class) = (values.bound, channel.class);
        log.rules.count_published(channel.rule);
        let this = Amount::of(&publication);
        let mut removed = 0;
        // Old entries are removed before the new entry is added, so that a channel that keeps one
        // entry needs memory for only one.
        while removed < TRIMS_PER_PUBLICATION_MAX && channel.is_over(bound, this) {
            self.remove_first(channel);
            removed += 1;
        }
        let is_over = channel.is_over(bound, this);
        if is_over && !std::mem::replace(&mut channel.is_over_queued, true) {
            self.over.push_back(key);
        }
        self.append(channel, publication, key, send);
        drop(shard);
        let clock = self.clock_for(values.age);
        let ordered = Ordered::new(sequence, published, key, clock);
        self.part(class).order.push(ordered);
        self.drop_removed();
        removed
    }

    fn append(
        &mut self,
        channel: &mut Channel,
        publication: Arc<Publication>,
        key: ChannelKey,
        mut send: impl FnMut(WorkerInterest, ChannelKey, Entry),
    ) {
        let sequence = publication.id.sequence;
        let class = channel.class;
        let part = self.part(class);
        part.bytes += publication.bytes_held();
        part.kept += u64::from(channel.entries().is_empty());
        let entry = Entry {
            publication,
            before: channel.total(),
            // After a loss, the channel may have had publications up to the end of the loss.
            previous: channel.last().max(self.state.lost_until()),
            is_superseded: false,
            class,
        };
        for interest in channel.interest.all() {
            send(*interest, key, entry.clone());
        }
        let before = channel.bytes_held();
        let conflates = channel.conflates();
        let history = channel.begin_history();
        (history.last, history.total) = (sequence, entry.total());
        history.entries.push_back(entry);
        if conflates {
            history.note_newest(&self.log.hasher);
        }
        let part = self.part(class);
        part.bytes = part.bytes + channel.bytes_held() - before;
    }

    /// Removes at most `max` entries that are too old or exceed the bounds for all channels.
    /// Returns the number of removed entries.
    pub fn evict(&mut self, now: Now, max: u32) -> u32 {
        let mut count = 0;
        self.drop_encodings(max);
        // Entries that exceed the bounds of their own channel are removed before entries that are
        // within these bounds.
        while count < max && self.is_full() && self.trim(1) > 0 {
            count += 1;
        }
        while count < max
            && let Some(oldest) = self.next_to_go(now)
        {
            self.remove_oldest_of(oldest.channel);
            count += 1;
        }
        for clock in self.clocks.numbers() {
            while let Some((due, channel)) = self.next_expiry(clock)
                && now.has_reached(due)
                && count < max
            {
                self.remove_oldest_of(channel);
                count += 1;
            }
        }
        self.is_cut_short = count >= max;
        if count > 0 {
            self.publish_figures();
        }
        count
    }

    /// Drops the oldest encoded frames until the remaining frames are within their part of the
    /// limit `log.bytes`. Visits at most `max` entries. A dropped frame is encoded again when a
    /// subscriber that is behind needs it.
    fn drop_encodings(&mut self, max: u32) {
        if !self.log.has_too_many_encodings() {
            return;
        }
        // If subscribers are far behind, old entries are encoded again and again. So only half of
        // the `max` visits begin at the oldest encoded entry. The other half begins where the
        // previous call stopped.
        let noted = self.log.ledger.take_oldest_encoded();
        let after_noted = self.drop_encodings_from(noted, max / 2);
        let from = self.swept_until.max(after_noted);
        self.swept_until = self.drop_encodings_from(from, max - max / 2);
        if self.swept_until > self.head {
            self.swept_until = Sequence::ZERO;
        }
        // Entries from the number `after_noted` on may still have encoded frames. So the next call
        // must begin at this number or a lower one.
        self.log.ledger.note_encoded(after_noted);
    }

    /// Visits at most `max` entries, in order from the number `first`, and drops their encoded
    /// frames. Stops when encoded frames no longer use too much memory. Returns the number of the
    /// entry to visit next.
    fn drop_encodings_from(&self, first: Sequence, max: u32) -> Sequence {
        let (mut next, mut left) = (first, max);
        while left > 0 && self.log.has_too_many_encodings() {
            let Some(entry) = self.oldest_from(next) else {
                return self.head.next();
            };
            left -= 1;
            next = entry.sequence.next();
            let publication = self.log.publication(entry.channel, entry.sequence);
            if let Some(publication) = certain::some(publication, "an ordered entry is in the log")
            {
                publication.drop_frames();
            }
        }
        next
    }

    /// Removes at most `max` entries that exceed their channel's own bounds and that
    /// [`Self::publish`] did not remove. Returns the number of removed entries.
    pub fn trim(&mut self, max: u32) -> u32 {
        let log = Arc::clone(&self.log);
        let mut count = 0;
        while count < max
            && let Some(key) = self.over.front().copied()
        {
            let mut shard = log.shards.write(key);
            // A channel whose entries were removed for another reason may be gone.
            let found = shard.as_mut().and_then(|shard| {
                let rule = shard.get_mut_if_used(key.place())?.rule;
                let bound = shard.namespaces.values(rule)?.bound;
                Some((bound, shard.get_mut_if_used(key.place())?))
            });
            if let Some((bound, channel)) = found {
                if channel.is_over(bound, Amount::default()) {
                    self.remove_first(channel);
                    count += 1;
                } else {
                    channel.is_over_queued = false;
                    self.over.pop_front();
                }
            } else {
                self.over.pop_front();
            }
            drop(shard);
            self.drop_removed();
        }
        if count > 0 {
            self.publish_figures();
        }
        count
    }

    /// Returns the time at which the next entry must be removed.
    #[must_use]
    pub fn next_eviction(&self) -> Option<Deadline> {
        if !self.over.is_empty()
            || self.is_cut_short
            || self.change.is_some()
            || self.log.has_too_many_encodings()
        {
            return Some(Deadline(0));
        }
        let oldest = self.oldest().map(|oldest| match self.is_full() {
            true => Deadline(0),
            false => self.too_old(&oldest),
        });
        self.clocks.due().chain(oldest).min()
    }

    /// Frees unused memory.
    pub fn shrink_to_fit(&mut self) {
        self.feeders.order.shrink_to_fit();
        self.clients.order.shrink_to_fit();
        self.over.shrink_to_fit();
        self.removed.shrink_to_fit();
    }

    /// Returns the bytes of memory that count towards the log's bound.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes_without_encodings() + self.log.ledger.logged()
    }

    fn bytes_without_encodings(&self) -> u64 {
        self.feeders.bytes() + self.clients.bytes()
    }

    /// Updates the numbers in [`Log`] that readers and metrics use.
    pub(super) fn publish_figures(&self) {
        let figures = &self.log.figures;
        let bytes = self.bytes_without_encodings();
        figures.bytes.store(bytes, Ordering::Relaxed);
        figures.entries.store(self.len(), Ordering::Relaxed);
        let oldest = self.oldest();
        let oldest = oldest.map_or(Sequence::ZERO, |oldest| oldest.sequence);
        figures.oldest.store(oldest.0, Ordering::Relaxed);
    }

    pub(super) fn part(&mut self, class: Class) -> &mut Part {
        match class {
            Class::Feeders => &mut self.feeders,
            Class::Clients => &mut self.clients,
        }
    }

    fn len(&self) -> u64 {
        self.feeders.order.len() + self.clients.order.len()
    }

    /// Returns the oldest entry of all channels.
    fn oldest(&self) -> Option<Ordered> {
        let parts = [&self.feeders, &self.clients].into_iter();
        let oldest = parts.filter_map(|part| part.order.oldest());
        oldest.min_by_key(|entry| entry.sequence)
    }

    /// Returns the oldest entry from this number on.
    pub(super) fn oldest_from(&self, sequence: Sequence) -> Option<Ordered> {
        let parts = [&self.feeders, &self.clients].into_iter();
        let oldest = parts.filter_map(|part| part.order.oldest_from(sequence));
        oldest.min_by_key(|entry| entry.sequence)
    }

    /// Returns the next entry to evict: an entry that is too old or exceeds the bounds for all
    /// channels.
    fn next_to_go(&self, now: Now) -> Option<Ordered> {
        let bounds = &self.bounds;
        let share = bounds.client_share;
        let has_too_much = self.clients.bytes() > share.of(bounds.bytes)
            || self.clients.order.len() > share.of(bounds.entries);
        if has_too_much {
            return self.clients.order.oldest();
        }
        let oldest = self.oldest()?;
        let has_to_go = self.is_full() || now.has_reached(self.too_old(&oldest));
        has_to_go.then_some(oldest)
    }

    fn is_full(&self) -> bool {
        self.bytes() > self.bounds.bytes || self.len() > self.bounds.entries
    }

    fn too_old(&self, entry: &Ordered) -> Deadline {
        entry.published.after(self.bounds.age())
    }

    /// Removes a channel's oldest entry. The caller holds the lock of the channel's shard.
    fn remove_first(&mut self, channel: &mut Channel) {
        let before = channel.bytes_held();
        let history = channel.history_mut();
        let removed = history.and_then(|history| history.remove_first(&self.log.hasher));
        let Some(entry) = removed else {
            debug_assert!(false, "{:?} has no entry", channel.name);
            return;
        };
        channel.evicted = entry.sequence();
        let part = self.part(channel.class);
        part.bytes = part.bytes + channel.bytes_held() - before;
        part.kept -= u64::from(channel.entries().is_empty());
        self.part(entry.class).bytes -= entry.publication.bytes_held();
        self.removed.push(entry);
    }

    /// Locks a channel's shard and removes the channel's oldest entry.
    fn remove_oldest_of(&mut self, key: ChannelKey) {
        let log = Arc::clone(&self.log);
        let mut shard = log.shards.write(key);
        if let Some(shard) = shard.as_deref_mut()
            && let Some(channel) = shard.get_mut(key.place())
        {
            self.remove_first(channel);
            if channel.entries().is_empty() {
                self.part(channel.class).bytes -= channel.bytes_held();
                let history = channel.history_mut();
                if let Some(history) = certain::some(history, "the channel had entries") {
                    history.entries = Entries::NONE;
                }
            }
            shard.drop_if_abandoned(&log, key.place());
        }
        drop(shard);
        self.drop_removed();
    }

    /// Changes the clock of an entry.
    pub(super) fn set_clock(&mut self, sequence: Sequence, clock: ClockNumber) {
        let mut parts = [&mut self.feeders, &mut self.clients].into_iter();
        let is_set = parts.any(|part| part.order.set_clock(sequence, clock));
        debug_assert!(is_set, "{sequence:?} is not in order");
    }

    /// Takes the entries of `removed` out of the list of all entries, and drops them. The caller
    /// must not hold the lock of a shard.
    pub(super) fn drop_removed(&mut self) {
        assert_unlocked();
        let mut removed = std::mem::take(&mut self.removed);
        for entry in removed.drain(..) {
            let was_listed = self.part(entry.class).order.remove(entry.sequence());
            debug_assert!(was_listed, "{:?} is not in order", entry.sequence());
            entry.publication.leave_log();
        }
        self.removed = removed;
    }

    /// Adjusts the stored numbers and the lists of entries after an epoch change has removed all
    /// entries after `kept`. The numbers of the removed entries may be assigned again.
    pub(super) fn rewind(&mut self, kept: Sequence) {
        let begin = self.head.next();
        self.feeders.order.drop_dead_at_end();
        self.clients.order.drop_dead_at_end();
        self.clocks.rewind(kept, begin);
        if self.swept_until > kept {
            self.swept_until = Sequence::ZERO;
        }
    }

    /// Panics if the parts of the log are inconsistent. For tests.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        self.publish_figures();
        self.log.check_invariants();
        assert!(self.removed.is_empty());
        for (class, part) in [
            (Class::Feeders, &self.feeders),
            (Class::Clients, &self.clients),
        ] {
            let (mut kept, mut bytes) = (0, 0);
            for (_, shard) in self.log.shards.each() {
                for channel in shard.channels() {
                    let entries = channel.entries().iter();
                    let entries = entries.filter(|entry| entry.class == class);
                    bytes += entries
                        .map(|entry| entry.publication.bytes_held())
                        .sum::<u64>();
                    if channel.class == class {
                        kept += u64::from(!channel.entries().is_empty());
                        bytes += channel.bytes_held();
                    }
                }
            }
            assert_eq!((part.kept, part.bytes), (kept, bytes), "{class:?}");
        }
    }
}
