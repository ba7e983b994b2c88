//! Conflation: who is far behind is given only the newest publication of each key.
//!
//! Where a channel's policy says so, a publication supersedes the one before it of the same channel
//! and key: one flag in the log's entry, set when its successor is appended. A conn that is further
//! behind than its quota steps over such entries until it has caught up, and is told so; one that
//! keeps up never meets this. A conn that comes back further behind than its quota is treated the
//! same, since what it missed need not be sent to it first and superseded on the way.
//!
//! What has not been superseded is listed by channel, so that neither stepping over nor counting
//! costs more for what has been. Called by [`super::serve`], [`super::quota`] and, for every entry
//! that comes or goes, by the hub.

use std::collections::BTreeSet;
use std::hash::BuildHasher as _;

use foldhash::quality::RandomState;
use hashbrown::hash_table::{Entry as Place, HashTable};

use super::log::{Entry, Log};
use super::member::Subscription;
use super::{Amount, Channel, ChannelIndex, GapCause, Hub};
use crate::config::Overflow;
use crate::id::Sequence;

/// Bytes of memory for a place in the list, in nodes that are at least half full.
const PLACE_BYTES: u64 = 2 * size_of::<(ChannelIndex, Sequence)>() as u64;
/// Bytes of memory for a key, in a table that doubles as it grows.
const KEY_BYTES: u64 = 2 * (size_of::<Sequence>() as u64 + 1);

/// The entries, of channels whose policy is to conflate, that nothing supersedes.
#[derive(Clone, Debug, Default)]
pub(super) struct Newest {
    /// In the order of their channel.
    places: BTreeSet<(ChannelIndex, Sequence)>,
    /// Those with a key, found by channel and key. Both are read from the log.
    keys: HashTable<Sequence>,
    hasher: RandomState,
}

impl Newest {
    /// Bytes of memory held.
    pub(super) fn bytes(&self) -> u64 {
        self.places.len() as u64 * PLACE_BYTES + self.keys.len() as u64 * KEY_BYTES
    }

    /// Takes in a channel's newest entry. Returns which one it supersedes.
    pub(super) fn add(&mut self, log: &Log, sequence: Sequence) -> Option<Sequence> {
        let Self {
            places,
            keys,
            hasher,
        } = self;
        let entry = log.get(sequence)?;
        places.insert((entry.channel, sequence));
        let key = entry.publication.key.as_deref()?;
        let has_same = |known: &Sequence| {
            log.get(*known).is_some_and(|known| {
                known.channel == entry.channel && known.publication.key.as_deref() == Some(key)
            })
        };
        let rehash = |known: &Sequence| log.get(*known).map_or(0, |known| hash(hasher, known));
        match keys.entry(hash(hasher, entry), has_same, rehash) {
            Place::Occupied(mut known) => {
                let superseded = std::mem::replace(known.get_mut(), sequence);
                places.remove(&(entry.channel, superseded));
                Some(superseded)
            }
            Place::Vacant(place) => {
                place.insert(sequence);
                None
            }
        }
    }

    /// Forgets an entry that has left the log.
    pub(super) fn remove(&mut self, entry: &Entry) {
        let sequence = entry.publication.id.sequence;
        if self.places.remove(&(entry.channel, sequence))
            && entry.publication.key.is_some()
            && let Ok(place) = self
                .keys
                .find_entry(hash(&self.hasher, entry), |known| *known == sequence)
        {
            place.remove();
        }
    }

    /// Those of a channel from a number on.
    fn from(
        &self,
        channel: ChannelIndex,
        sequence: Sequence,
    ) -> impl Iterator<Item = Sequence> + '_ {
        let range = (channel, sequence)..=(channel, Sequence(u64::MAX));
        self.places.range(range).map(|(_, sequence)| *sequence)
    }

    pub(super) fn shrink_to_fit(&mut self, log: &Log) {
        let hasher = &self.hasher;
        self.keys
            .shrink_to_fit(|known| log.get(*known).map_or(0, |known| hash(hasher, known)));
    }
}

fn hash(hasher: &RandomState, entry: &Entry) -> u64 {
    hasher.hash_one((entry.channel, entry.publication.key.as_deref()))
}

impl Hub {
    /// Publications that were stepped over because newer ones superseded them, over all conns.
    #[must_use]
    pub fn conflated_total(&self) -> u64 {
        self.conflated_total
    }

    /// Notes an entry that has been appended.
    pub(super) fn note_key(&mut self, index: ChannelIndex, sequence: Sequence) {
        if self.conflates(index)
            && let Some(superseded) = self.newest.add(&self.log, sequence)
        {
            self.log.supersede(superseded);
        }
    }

    /// Steps over what is superseded of what the conn in a slot is owed next, if it conflates.
    pub(super) fn step_over_superseded(&mut self, slot: u32) {
        // Nearly always: no channel conflates, or none has anything to do it with.
        if self.newest.places.is_empty() {
            return;
        }
        if self.replays.contains_key(&slot) && self.owed(slot).exceeds(self.quota) {
            self.begin_conflation(slot);
        }
        if !self.conflating.contains(&slot) {
            return;
        }
        self.note_evicted(slot);
        for index in 0..self.subscriptions(slot).len() {
            let subscription = self.subscriptions(slot).get(index).copied();
            let Some((until, count)) = subscription.and_then(|s| self.superseded_run(s)) else {
                continue;
            };
            self.conflated_total += count;
            self.skip(slot, index, until, Some(count), GapCause::Conflated);
        }
    }

    /// The conn in a slot is further behind than its quota. False if it conflates already or has no
    /// channel to do it on.
    pub(super) fn begin_conflation(&mut self, slot: u32) -> bool {
        let mut subscriptions = self.subscriptions(slot).iter();
        let may = subscriptions.any(|subscription| {
            self.conflates(subscription.channel) && self.successor_of(*subscription).is_some()
        });
        may && self.conflating.insert(slot)
    }

    /// From now on the conn in a slot is given everything again, if it has caught up.
    pub(super) fn end_conflation(&mut self, slot: u32) {
        if self.conflating.contains(&slot) {
            let mut subscriptions = self.subscriptions(slot).iter();
            if !subscriptions.any(|subscription| self.successor_of(*subscription).is_some()) {
                self.conflating.remove(&slot);
            }
        }
    }

    /// What the conn in a slot is owed of a channel after a position, when it conflates. Looks at
    /// each publication, of which a conn that is held to its quota is not owed many more.
    pub(super) fn newest_after(&self, subscription: Subscription) -> Amount {
        let Subscription {
            channel, position, ..
        } = subscription;
        let newest = self.newest.from(channel, position.next());
        let amounts = newest
            .filter_map(|sequence| self.log.get(sequence))
            .map(|entry| Amount {
                bytes: entry.publication.payload_bytes(),
                publications: 1,
            });
        amounts.fold(Amount::default(), Amount::plus)
    }

    /// Whether who is far behind on a channel steps over what is superseded.
    pub(super) fn conflates(&self, index: ChannelIndex) -> bool {
        let channel = self.channels.get(index.0 as usize);
        let rule = |channel: &Channel| self.rules.overflow(channel.rule);
        channel.map(rule) == Some(Overflow::Conflate)
    }

    /// The superseded entries that a subscription stands before: where they end and how many they
    /// are.
    fn superseded_run(&self, subscription: Subscription) -> Option<(Sequence, u64)> {
        let next = self.log.get(self.successor_of(subscription)?)?;
        if !next.is_superseded {
            return None;
        }
        let mut newest = self
            .newest
            .from(subscription.channel, next.publication.id.sequence);
        // What supersedes an entry leaves the log after it.
        let newest = self.log.get(newest.next()?)?;
        Some((newest.previous, newest.ordinal - next.ordinal))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, Namespace};
    use crate::frame::{Encoder, Envelope, FrameKind, Payload, Publication};
    use crate::hub::{Gap, Verdict};
    use crate::id::{ChannelName, Cursor, Epoch, Since};
    use crate::time::Now;

    const QUOTA: u64 = 4;

    fn cursor(sequence: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new(7),
            sequence: Sequence(sequence),
        }
    }

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    /// A hub in which everything is conflated, but for `plain`.
    fn hub(change: impl FnOnce(&mut Config)) -> Hub {
        let mut config = Config::default();
        config.quota.behind_publications = QUOTA;
        config.namespace = vec![
            Namespace {
                pattern: "*".into(),
                overflow: Some(Overflow::Conflate),
                ..Namespace::default()
            },
            Namespace {
                pattern: "plain".into(),
                ..Namespace::default()
            },
        ];
        change(&mut config);
        Hub::new(Epoch::new(7), Sequence::ZERO, &config)
    }

    /// One publication for each word, which is its key; `-` is none.
    fn publish(hub: &mut Hub, channel: &str, keys: &str) {
        for key in keys.split_whitespace() {
            let id = Cursor {
                sequence: hub.log.expected(),
                ..cursor(0)
            };
            let payload = Payload::Text("x".into());
            let mut publication = Publication::new(id, name(channel), payload, Now(0));
            publication.key = (key != "-").then(|| key.into());
            hub.publish(Arc::new(publication), Now(0));
            hub.check_invariants();
        }
    }

    fn subscribe(hub: &mut Hub, channel: &str, since: Since) {
        let head = hub.head;
        let _joined = hub.subscribe(0, &name(channel), since, head);
    }

    /// What the conn is told and given until nothing is left, as flush would do it.
    fn serve(hub: &mut Hub) -> (Vec<Gap>, Vec<u64>) {
        let (mut gaps, mut given, mut planned) = (Vec::new(), Vec::new(), Vec::new());
        let kind = FrameKind::WebSocket(Envelope::Data);
        loop {
            gaps.extend(std::iter::from_fn(|| hub.take_gap(0)).map(|(_, gap)| gap));
            let encoder = &mut Encoder::default();
            hub.plan(0, kind, Now(0), 1 << 20, encoder, &mut planned);
            if planned.is_empty() {
                return (gaps, given);
            }
            given.extend(planned.iter().map(|step| step.sequence.0));
            hub.advance(0, &planned, usize::MAX / 2);
        }
    }

    fn conflated(since: u64, until: u64, missed: u64) -> Gap {
        Gap {
            since: Some(cursor(since)),
            until: cursor(until),
            missed: Some(missed),
            cause: GapCause::Conflated,
        }
    }

    #[test]
    fn who_keeps_up_has_everything() {
        let mut hub = hub(|_| {});
        subscribe(&mut hub, "c", Since::Now);
        publish(&mut hub, "c", "a a a a");
        assert_eq!(hub.enforce(0, Now(0)), Verdict::Within);
        assert_eq!(serve(&mut hub), (Vec::new(), vec![1, 2, 3, 4]));
    }

    #[test]
    fn who_is_over_its_quota_has_the_newest_of_each_key_in_order_and_is_told() {
        let mut hub = hub(|_| {});
        subscribe(&mut hub, "c", Since::Now);
        publish(&mut hub, "c", "a b - a a b c");
        assert_eq!(hub.enforce(0, Now(0)), Verdict::Within, "no need to skip");
        assert_eq!(hub.behind(0).publications, 4);
        let (gaps, given) = serve(&mut hub);
        assert_eq!(given, [3, 5, 6, 7]);
        assert_eq!(gaps, [conflated(0, 2, 2), conflated(3, 4, 1)]);
        assert_eq!(hub.conflated_total(), 3);
    }

    #[test]
    fn more_keys_than_the_quota_allows_are_skipped_oldest_first() {
        let mut hub = hub(|_| {});
        subscribe(&mut hub, "c", Since::Now);
        publish(&mut hub, "c", "a b c a d b e f");
        assert_eq!(hub.enforce(0, Now(0)), Verdict::Skipped(2), "c and a");
        assert_eq!(hub.behind(0).publications, QUOTA);
        let (gaps, given) = serve(&mut hub);
        assert_eq!(given, [5, 6, 7, 8]);
        let slow = Gap {
            cause: GapCause::Slow,
            ..conflated(0, 4, 4)
        };
        assert_eq!(gaps, [slow]);
    }

    #[test]
    fn who_has_caught_up_has_everything_again() {
        let mut hub = hub(|_| {});
        subscribe(&mut hub, "c", Since::Now);
        publish(&mut hub, "c", "a a a a a");
        assert_eq!(hub.enforce(0, Now(0)), Verdict::Within);
        assert_eq!(serve(&mut hub), (vec![conflated(0, 4, 4)], vec![5]));
        publish(&mut hub, "c", "a a a");
        assert_eq!(serve(&mut hub), (Vec::new(), vec![6, 7, 8]));
        assert!(hub.conflating.is_empty());
    }

    #[test]
    fn stalled_conn_is_told_one_gap_however_long_it_stalls() {
        let mut hub = hub(|config| config.log.entries = 6);
        subscribe(&mut hub, "c", Since::Now);
        for _ in 0..20 {
            publish(&mut hub, "c", "a b");
            assert_eq!(hub.enforce(0, Now(0)), Verdict::Within);
            hub.evict(Now(0), 100);
        }
        assert_eq!(serve(&mut hub), (vec![conflated(0, 38, 38)], vec![39, 40]));
    }

    #[test]
    fn resume_from_further_than_the_quota_is_conflated_and_one_from_nearer_is_not() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "c", "a b a b a b");
        subscribe(&mut hub, "c", Since::After(cursor(1)));
        assert_eq!(serve(&mut hub), (vec![conflated(1, 4, 3)], vec![5, 6]));
        hub.leave(0);
        subscribe(&mut hub, "c", Since::After(cursor(2)));
        assert_eq!(serve(&mut hub), (Vec::new(), vec![3, 4, 5, 6]));
    }

    #[test]
    fn channel_with_another_policy_is_never_conflated() {
        let mut hub = hub(|_| {});
        subscribe(&mut hub, "plain", Since::Now);
        subscribe(&mut hub, "c", Since::Now);
        publish(&mut hub, "plain", "a a a");
        publish(&mut hub, "c", "a a a");
        assert_eq!(hub.enforce(0, Now(0)), Verdict::Within);
        assert_eq!(
            serve(&mut hub),
            (vec![conflated(0, 5, 2)], vec![1, 2, 3, 6])
        );
        assert_eq!(hub.newest.bytes(), PLACE_BYTES + KEY_BYTES);
    }

    #[test]
    fn same_key_in_another_channel_supersedes_nothing() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "c", "a");
        publish(&mut hub, "d", "a");
        let is_superseded = |n| hub.log.get(Sequence(n)).unwrap().is_superseded;
        assert_eq!((is_superseded(1), is_superseded(2)), (false, false));
    }

    #[test]
    fn keys_go_with_the_log() {
        let mut hub = hub(|_| {});
        for _ in 0..100 {
            publish(&mut hub, "c", "a b - a c");
        }
        hub.shrink_to(0);
        assert_eq!(hub.newest.keys.len(), 3);
        assert_eq!(hub.newest.places.len(), 103, "and those without");
        hub.evict(Now(u64::MAX / 2), u32::MAX);
        assert_eq!(hub.log_bytes(), 0);
        publish(&mut hub, "c", "a a");
        assert_eq!(hub.newest.keys.len(), 1);
    }
}
