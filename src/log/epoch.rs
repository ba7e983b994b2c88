//! The change to another epoch while the server runs, and the state that belongs to one epoch.
//!
//! If a storage engine orders the publications, its stream may be created again or be restored to
//! an older state. Either event begins a new epoch. Up to and including the number `valid_until`,
//! both epochs have the same publications. Later publications of the old epoch are *void*: they are
//! removed, and their numbers may be assigned again.
//!
//! The writer's progress belongs to the epoch ([`EpochState`]). A reader keeps the state of its own
//! epoch, so numbers of two epochs are never compared. An epoch change has three steps:
//!
//! 1. The writer publishes the new state and its generation, which readers compare with their own.
//! 2. The writer removes void entries from one shard after another, under the shard's lock, and
//!    sets the shard's generation.
//! 3. Each reader switches to the new epoch between two of its operations ([`crate::hub::epoch`]).
//!
//! During the change, a reader may query a shard of another generation. If the reader has switched
//! and the shard still has void entries, the reader sees only the publications that both epochs
//! share. If the shard has switched but the reader has not, the reader finds nothing, because the
//! shard may have entries of the new epoch. The reader does not infer a gap or a loss from an empty
//! answer. The reader queries the shard again after it has switched.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::entries::Entries;
use super::shard::{Channel, Guard, History, Shard};
use super::sync::{AtomicU64, RwLock, RwLockReadGuard};
use super::{ChannelKey, Entry, Log, Writer};
use crate::certain;
use crate::config::limits::PREVIOUS_EPOCHS_MAX;
use crate::id::{Cursor, Epoch, Sequence};

/// A change to a new epoch.
#[derive(Clone, Copy, Debug)]
pub struct EpochChange {
    /// The old epoch.
    pub from: Epoch,
    /// The new epoch.
    pub to: Epoch,
    /// The number directly before the first number of the new epoch. At least `valid_until`.
    pub head: Sequence,
    /// The number up to which both epochs have the same publications. `None` if the epochs share no
    /// publications. Every position of the old epoch is then invalid, even a position before its
    /// first publication.
    pub valid_until: Option<Sequence>,
}

/// An epoch that ended before the server started. Each epoch of a journal shares its publications
/// up to `until` with all later epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastEpoch {
    /// The epoch.
    pub epoch: Epoch,
    /// The last number that is valid in the later epochs, too.
    pub until: Sequence,
}

/// An epoch, and the writer's progress in that epoch. The state does not change after the epoch's
/// end.
#[derive(Debug)]
#[repr(align(128))]
pub struct EpochState {
    /// The newest number that a reader may find. The number is stored before the first entry of a
    /// batch is added.
    sequenced: AtomicU64,
    /// The number up to which all publications have been posted to the workers. The number is
    /// stored after the last message of a batch has been posted.
    posted: AtomicU64,
    /// Numbers up to this number may have been assigned before a restart, and their publications
    /// are lost. Zero if no publications are lost.
    lost_until: AtomicU64,
    /// The number of earlier epochs.
    generation: u64,
    /// The epoch. `None` for the first epoch, because the log is created without its value.
    epoch: Option<Epoch>,
    /// The number directly before the first number that is assigned in this epoch.
    begin: Sequence,
    /// The number up to which this epoch and the previous epoch have the same publications. Zero if
    /// they share no publications.
    kept: Sequence,
    /// The earlier epochs, oldest first. Entries that stay in the log keep their ids, so the log
    /// may contain ids of several epochs.
    previous: Vec<Previous>,
}

/// An epoch that has ended.
#[derive(Clone, Copy, Debug)]
struct Previous {
    epoch: Epoch,
    /// The newest number that was assigned in this epoch.
    sequenced: Sequence,
    /// The number up to which this earlier epoch and the epoch of the [`EpochState`] have the same
    /// publications. `None` if they have no publications in common.
    valid_until: Option<Sequence>,
}

impl EpochState {
    fn first(head: Sequence) -> Self {
        Self {
            sequenced: AtomicU64::new(head.0),
            posted: AtomicU64::new(head.0),
            lost_until: AtomicU64::new(0),
            generation: 0,
            epoch: None,
            begin: head,
            kept: Sequence::ZERO,
            previous: Vec::new(),
        }
    }

    /// Returns the state of the same epoch with these earlier epochs.
    fn with_past(&self, past: &[PastEpoch]) -> Self {
        let previous = past.iter().map(|one| Previous {
            epoch: one.epoch,
            // The journal does not know how many later numbers the earlier epoch had. A client may
            // still have such an id, so all numbers count as assigned.
            sequenced: ALL,
            valid_until: Some(one.until),
        });
        Self {
            sequenced: AtomicU64::new(self.sequenced().0),
            posted: AtomicU64::new(self.posted().0),
            lost_until: AtomicU64::new(self.lost_until().0),
            previous: previous.collect(),
            ..Self::first(self.begin)
        }
    }

    fn after(before: &Self, change: &EpochChange) -> Self {
        let kept = change.valid_until.unwrap_or_default();
        let lost = before.lost_until().min(kept);
        let shorter = before.previous.iter().map(|previous| {
            let both = previous.valid_until.zip(change.valid_until);
            Previous {
                valid_until: both.map(|(a, b)| a.min(b)),
                ..*previous
            }
        });
        let last = std::iter::once(Previous {
            epoch: change.from,
            sequenced: before.sequenced(),
            valid_until: change.valid_until,
        });
        let mut previous: Vec<_> = shorter.chain(last).collect();
        previous.drain(..previous.len().saturating_sub(PREVIOUS_EPOCHS_MAX));
        Self {
            lost_until: AtomicU64::new(lost.0),
            generation: before.generation + 1,
            epoch: Some(change.to),
            kept,
            previous,
            ..Self::first(change.head)
        }
    }

    /// Returns the newest number that any client can have seen. No larger number has been sent.
    #[must_use]
    pub fn sequenced(&self) -> Sequence {
        Sequence(self.sequenced.load(Ordering::Acquire))
    }

    /// Returns the number up to which all publications have been posted to the inboxes of the
    /// workers that need them. If a worker loads this number and then finds its inbox empty, the
    /// worker has read all messages up to this number.
    #[must_use]
    pub fn posted(&self) -> Sequence {
        Sequence(self.posted.load(Ordering::Acquire))
    }

    /// Returns the number up to which publications may have been lost because of a restart.
    #[must_use]
    pub fn lost_until(&self) -> Sequence {
        Sequence(self.lost_until.load(Ordering::Acquire))
    }

    pub(super) fn announce(&self, last: Sequence) {
        debug_assert!(last.0 >= self.sequenced.load(Ordering::Relaxed));
        // The number is stored with release order before the first entry of the batch is added. So
        // no reader finds an entry whose number is above the stored number.
        self.sequenced.store(last.0, Ordering::Release);
    }

    pub(super) fn note_posted(&self, head: Sequence) {
        self.posted.store(head.0, Ordering::Release);
    }

    pub(super) fn note_lost(&self, until: Sequence) {
        self.lost_until.store(until.0, Ordering::Release);
    }

    /// Returns the epoch, or `None` for the log's first epoch.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Returns the number directly before the first number that was assigned in this epoch. All
    /// entries up to the returned number have already been added to the log.
    #[must_use]
    pub fn begin(&self) -> Sequence {
        self.begin
    }

    fn previous(&self, epoch: Epoch) -> Option<&Previous> {
        self.previous.iter().find(|known| known.epoch == epoch)
    }

    /// Whether an epoch is one of the earlier epochs that this state remembers.
    #[must_use]
    pub fn remembers(&self, epoch: Epoch) -> bool {
        self.previous(epoch).is_some()
    }

    /// Whether this id was assigned in one of the earlier epochs that this state remembers.
    #[must_use]
    pub fn has_given_out(&self, id: Cursor) -> bool {
        let previous = self.previous(id.epoch);
        previous.is_some_and(|previous| id.sequence <= previous.sequenced)
    }

    /// Returns the number up to which an earlier epoch and this state's epoch have the same
    /// publications. Returns `None` if they have no publications in common, or if the earlier epoch
    /// is unknown.
    #[must_use]
    pub fn valid_until(&self, epoch: Epoch) -> Option<Sequence> {
        self.previous(epoch)?.valid_until
    }

    /// Whether `number` is the last number that an earlier epoch shares with this epoch.
    #[must_use]
    pub fn is_end_of_valid(&self, number: Sequence) -> bool {
        let mut ends = self.previous.iter().map(|previous| previous.valid_until);
        ends.any(|end| end == Some(number))
    }

    /// Whether a position of an earlier epoch is valid in this epoch.
    #[must_use]
    pub fn has_valid(&self, position: Cursor) -> bool {
        let valid = self.valid_until(position.epoch);
        valid.is_some_and(|valid| position.sequence <= valid)
    }

    /// Returns the horizon of a reader in this epoch. The reader sees the entries up to `number`.
    #[must_use]
    pub fn horizon(&self, number: Sequence) -> Horizon {
        Horizon {
            generation: self.generation,
            kept: self.kept,
            number,
        }
    }
}

/// Larger than all assigned numbers.
pub(super) const ALL: Sequence = Sequence(u64::MAX);

/// The last number that a reader may see, and the reader's epoch.
#[derive(Clone, Copy, Debug)]
pub struct Horizon {
    generation: u64,
    kept: Sequence,
    number: Sequence,
}

impl Horizon {
    /// Returns the two limits of a query in `shard`. The reader may see the shard's entries up to
    /// the first limit. The shard's entries up to the second limit belong to the reader's epoch.
    /// The second limit is [`ALL`] if the shard is in the reader's epoch.
    pub(super) fn within(self, shard: &Shard) -> (Sequence, Sequence) {
        let end = match self.generation.cmp(&shard.generation) {
            std::cmp::Ordering::Equal => ALL,
            // The shard is still in an earlier epoch. Its entries above `kept` do not belong to the
            // reader's epoch.
            std::cmp::Ordering::Greater => self.kept,
            std::cmp::Ordering::Less => Sequence::ZERO,
        };
        (self.number.min(end), end)
    }
}

/// The state of the newest epoch, for readers.
#[derive(Debug)]
pub(super) struct Newest {
    state: RwLock<Arc<EpochState>>,
    /// The generation of `state`. It can be read without the lock.
    generation: AtomicU64,
}

impl Newest {
    pub(super) fn new(head: Sequence) -> Self {
        Self {
            state: RwLock::new(Arc::new(EpochState::first(head))),
            generation: AtomicU64::new(0),
        }
    }

    fn publish(&self, state: &Arc<EpochState>) {
        let newest = Arc::clone(state);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = newest;
        self.generation.store(state.generation, Ordering::Release);
    }
}

impl Log {
    /// Returns the state of the newest epoch. A reader keeps this state until the reader switches
    /// to the next epoch.
    #[must_use]
    pub fn state(&self) -> Arc<EpochState> {
        let state = self.newest.state.read();
        Arc::clone(&state.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether `state` belongs to the newest epoch. The result is certainly false if the caller has
    /// already received data of a later epoch, from the writer or in an id that a client sent.
    #[must_use]
    pub fn is_newest(&self, state: &EpochState) -> bool {
        self.newest.generation.load(Ordering::Acquire) == state.generation
    }

    /// Locks a channel's shard for reading. Returns the locked shard, and the two limits of a query
    /// in it (see [`Horizon::within`]).
    pub(super) fn read_within(
        &self,
        key: ChannelKey,
        horizon: Horizon,
    ) -> Option<(Guard<RwLockReadGuard<'_, Shard>>, Sequence, Sequence)> {
        let shard = self.shards.read(key)?;
        let (until, end) = horizon.within(&shard);
        Some((shard, until, end))
    }
}

impl Writer {
    /// Sets the epochs that ended before the server started, oldest first. They end at ascending
    /// numbers, and there are at most [`PREVIOUS_EPOCHS_MAX`]. Must be called before the log has
    /// readers.
    pub fn set_past_epochs(&mut self, past: &[PastEpoch]) {
        debug_assert!(self.state.generation == 0 && past.len() <= PREVIOUS_EPOCHS_MAX);
        debug_assert!(past.is_sorted_by_key(|one| one.until));
        let state = Arc::new(self.state.with_past(past));
        self.log.newest.publish(&state);
        self.state = state;
    }

    /// Begins a new epoch. All publications of the old epoch must have been posted. Entries that
    /// are not valid in the new epoch are removed from the log. The remaining entries keep their
    /// ids.
    pub fn change_epoch(&mut self, change: &EpochChange) {
        debug_assert!(change.valid_until.is_none_or(|valid| valid <= change.head));
        debug_assert!(self.state.posted() == self.state.sequenced());
        debug_assert!(self.state.epoch.is_none_or(|epoch| epoch == change.from));
        let log = Arc::clone(&self.log);
        let state = Arc::new(EpochState::after(&self.state, change));
        let kept = state.kept;
        log.newest.publish(&state);
        log.rules.bound_evicted_floor(kept);
        for shard in log.shards.numbers() {
            self.clean(&log, shard, &state);
            self.drop_removed();
        }
        log.rules.cut_evicted_floor(kept);
        self.state = state;
        self.head = change.head;
        self.rewind(kept);
        self.publish_figures();
    }

    /// Removes the entries of a shard that are not valid in the new epoch, and moves the shard to
    /// the new epoch.
    fn clean(&mut self, log: &Log, number: u32, state: &EpochState) {
        let Some(mut shard) = log.shards.write_number(number) else {
            return;
        };
        for place in shard.places() {
            if let Some(channel) = shard.get_mut(place) {
                self.remove_void(channel, state.kept);
            }
            shard.drop_if_abandoned(log, place);
        }
        shard.generation = state.generation;
    }

    fn remove_void(&mut self, channel: &mut Channel, kept: Sequence) {
        let before = channel.bytes_held();
        let void = channel.cut(kept);
        if void.is_empty() {
            return;
        }
        let conflates = channel.conflates();
        let history = channel.history_mut();
        if let Some(history) = certain::some(history, "the channel had entries") {
            history.rebuild(conflates, &self.log.hasher);
        }
        let part = self.part(channel.class);
        part.bytes = part.bytes + channel.bytes_held() - before;
        part.kept -= u64::from(channel.entries().is_empty());
        for entry in &void {
            self.part(entry.class).bytes -= entry.publication.bytes_held();
        }
        self.removed.extend(void);
    }
}

impl Channel {
    /// Removes the entries after a number, as if they had never been added.
    fn cut(&mut self, kept: Sequence) -> VecDeque<Entry> {
        // If entries above `kept` have already left the log, `evicted` is above `kept` and must be
        // lowered.
        self.evicted = self.evicted.min(kept);
        let void = self.history_mut().map(|history| history.cut(kept));
        void.unwrap_or_default()
    }
}

impl History {
    fn cut(&mut self, kept: Sequence) -> VecDeque<Entry> {
        let void = self.entries.split_off(self.index_after(kept));
        if let Some(first) = void.front() {
            (self.last, self.total) = (first.previous, first.before);
        }
        self.last = self.last.min(kept);
        void
    }

    /// Frees unused capacity, and rebuilds the list of entries that are not superseded. If an epoch
    /// change has removed the entry that superseded another entry, that other entry is no longer
    /// superseded.
    pub(super) fn rebuild(&mut self, conflates: bool, hasher: &impl BuildHasher) {
        self.newest = None;
        let kept = self.entries.take_all();
        self.entries = Entries::with_room_for(kept.len());
        for mut entry in kept {
            entry.is_superseded = false;
            self.entries.push_back(entry);
            if conflates {
                self.note_newest(hasher);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Namespace, Overflow};
    use crate::frame::{Compressor, Envelope, FrameKind, Payload, Publication};
    use crate::id::ChannelName;
    use crate::time::Now;

    const SECOND: u64 = 1_000_000;

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    /// Returns a writer whose channels conflate and keep their entries for two seconds.
    fn writer() -> Writer {
        let namespace = Namespace {
            pattern: "*".into(),
            log_age_ms: Some(2_000),
            overflow: Some(Overflow::Conflate),
            ..Namespace::default()
        };
        let config = Config {
            namespace: vec![namespace],
            ..Config::default()
        };
        Writer::new(&config, Sequence::ZERO)
    }

    /// Publishes in a channel, with a conflation key, at the time `second`.
    fn publish(writer: &mut Writer, epoch: u64, number: u64, channel: &str, second: u64) {
        let (epoch, sequence) = (Epoch::new(epoch), Sequence(number));
        let (id, ledger) = (Cursor { epoch, sequence }, writer.log().ledger());
        let (payload, now) = (Payload::Text("x".into()), Now(second * SECOND));
        let one = Publication::new(id, name(channel), payload, now, ledger);
        let one = Arc::new(one.labelled(None, Some("k".into())));
        let frames = one.frames();
        let kind = FrameKind::Poll(Envelope::Full);
        frames
            .encode(&one, kind, &mut Compressor::default())
            .unwrap();
        writer.announce(sequence);
        let _removed = writer.publish(one, |_, _, _| {});
        writer.note_posted();
        writer.evict(now, u32::MAX);
    }

    fn change(from: u64, to: u64, head: u64, valid_until: Option<u64>) -> EpochChange {
        EpochChange {
            from: Epoch::new(from),
            to: Epoch::new(to),
            head: Sequence(head),
            valid_until: valid_until.map(Sequence),
        }
    }

    /// Returns the numbers and epochs of all entries.
    fn entries(writer: &Writer) -> Vec<(u64, u64)> {
        let all = writer.log().publications();
        let ids = all.iter().map(|one| one.id);
        let mut ids: Vec<_> = ids.map(|id| (id.sequence.0, id.epoch.bits())).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn void_entries_leave_the_log_and_their_numbers_come_again() {
        let mut writer = writer();
        // The numbers are not consecutive, because a storage engine may assign such numbers.
        for number in 1..=4 {
            publish(&mut writer, 1, 64 * number, "a", 0);
        }
        publish(&mut writer, 1, 300, "b", 0);
        writer.change_epoch(&change(1, 2, 130, Some(128)));
        writer.check_invariants();
        assert_eq!(entries(&writer), [(64, 1), (128, 1)]);
        assert_eq!(writer.log().channel_count(), 1);
        assert_eq!(writer.log().posted(), Sequence(130));
        for number in [192, 256] {
            publish(&mut writer, 2, number, "a", 1);
            writer.check_invariants();
        }
        let expected = [(64, 1), (128, 1), (192, 2), (256, 2)];
        assert_eq!(entries(&writer), expected);
        writer.change_epoch(&change(2, 3, 0, None));
        writer.check_invariants();
        assert!(writer.log().is_empty() && writer.log().ledger().logged() == 0);
        publish(&mut writer, 3, 1, "a", 1);
        assert_eq!(entries(&writer), [(1, 3)]);
    }

    #[test]
    fn entry_that_only_void_ones_supersede_is_listed_again() {
        let mut writer = writer();
        for number in 1..=4 {
            publish(&mut writer, 1, number, "a", 0);
        }
        assert_eq!(writer.log().listed(&name("a")), (1, 1));
        writer.change_epoch(&change(1, 2, 2, Some(2)));
        let flags = [1, 2].map(|number| writer.log().find(Sequence(number)).unwrap().is_superseded);
        assert_eq!(flags, [true, false]);
        assert_eq!(writer.log().listed(&name("a")), (1, 1));
        writer.check_invariants();
    }

    #[test]
    fn entries_of_both_epochs_are_removed_at_their_age() {
        let mut writer = writer();
        for number in 1..=3 {
            publish(&mut writer, 1, number, "a", 0);
        }
        writer.change_epoch(&change(1, 2, 1, Some(1)));
        publish(&mut writer, 2, 2, "a", 1);
        let due = writer.next_eviction().unwrap();
        assert!(Now(2 * SECOND).has_reached(due));
        writer.evict(Now(2 * SECOND), u32::MAX);
        assert_eq!(entries(&writer), [(2, 2)]);
        writer.evict(Now(3 * SECOND), u32::MAX);
        assert!(writer.log().is_empty());
        writer.check_invariants();
    }

    #[test]
    fn eviction_of_what_is_void_is_forgotten() {
        let mut writer = writer();
        publish(&mut writer, 1, 50, "a", 0);
        writer.evict(Now(9 * SECOND), u32::MAX);
        assert_eq!(writer.log().channel_count(), 0);
        writer.change_epoch(&change(1, 2, 7, Some(5)));
        writer.log().enter_all(0, &["a"]);
        let (log, state) = (writer.log(), writer.log().state());
        let evicted = log.shards.each().flat_map(|(_, shard)| {
            let evicted = shard.channels().map(|channel| channel.evicted);
            evicted.collect::<Vec<_>>()
        });
        assert_eq!(evicted.collect::<Vec<_>>(), [Sequence(5)]);
        assert_eq!(state.sequenced(), Sequence(7));
    }

    #[test]
    fn epochs_from_before_the_start_are_known_and_stay_known_after_a_change() {
        let mut writer = writer();
        publish(&mut writer, 1, 10, "a", 0);
        writer.note_lost(Sequence(4));
        let past = [(7, 3), (8, 9)].map(|(epoch, until)| PastEpoch {
            epoch: Epoch::new(epoch),
            until: Sequence(until),
        });
        writer.set_past_epochs(&past);
        let state = writer.log().state();
        let numbers = (state.sequenced(), state.posted(), state.lost_until());
        assert_eq!(numbers, (Sequence(10), Sequence(10), Sequence(4)));
        let valid = |epoch| writer.log().state().valid_until(Epoch::new(epoch));
        let expected = [Some(3), Some(9), None].map(|until| until.map(Sequence));
        assert_eq!([7, 8, 9].map(valid), expected);
        // The ids of the earlier epochs that a copy does not have are void, but were assigned.
        for (epoch, is_known) in [(7, true), (8, true), (9, false)] {
            let id = Cursor {
                epoch: Epoch::new(epoch),
                sequence: Sequence(99),
            };
            let state = writer.log().state();
            assert_eq!(
                (state.has_given_out(id), state.has_valid(id)),
                (is_known, false)
            );
        }
        publish(&mut writer, 1, 11, "a", 0);
        writer.change_epoch(&change(1, 2, 8, Some(8)));
        let valid = |epoch| writer.log().state().valid_until(Epoch::new(epoch));
        let expected = [Some(3), Some(8), Some(8)].map(|until| until.map(Sequence));
        assert_eq!([7, 8, 1].map(valid), expected);
    }

    #[test]
    fn positions_are_valid_up_to_the_oldest_change_after_their_epoch() {
        let mut writer = writer();
        publish(&mut writer, 1, 50, "a", 0);
        writer.change_epoch(&change(1, 2, 60, Some(40)));
        publish(&mut writer, 2, 70, "a", 0);
        writer.change_epoch(&change(2, 3, 65, Some(65)));
        let state = writer.log().state();
        let valid = |epoch| state.valid_until(Epoch::new(epoch));
        assert_eq!([1, 2].map(valid), [Sequence(40), Sequence(65)].map(Some));
        let id = |epoch, number| Cursor {
            epoch: Epoch::new(epoch),
            sequence: Sequence(number),
        };
        assert!(state.has_given_out(id(1, 50)) && !state.has_given_out(id(1, 51)));
        assert!(!state.has_given_out(id(9, 1)));
        writer.change_epoch(&change(3, 4, 65, None));
        let state = writer.log().state();
        assert!([1, 2, 3].iter().all(|epoch| {
            let epoch = Epoch::new(*epoch);
            state.valid_until(epoch).is_none() && state.has_given_out(id(epoch.bits(), 1))
        }));
    }
}
