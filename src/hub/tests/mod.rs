//! Tests that compare hub, log and quota with a naive model.

mod loss;
mod retention;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{Namespace, Overflow};
use crate::effect::Window;
use crate::frame::{Compressor, Envelope, FrameKind, Frames, Payload, Publication};
use crate::id::Since;

const KIND: FrameKind = FrameKind::WebSocket(Envelope::Data);

fn epoch() -> Epoch {
    Epoch::new(7)
}

fn name(channel: u8) -> ChannelName {
    ChannelName::new(&format!("c{channel}")).unwrap()
}

fn publication(hub: &Node, sequence: u64, channel: u8, bytes: usize) -> Arc<Publication> {
    let id = Cursor {
        epoch: epoch(),
        sequence: Sequence(sequence),
    };
    let payload = Payload::Text("x".repeat(bytes).into());
    let (channel, ledger) = (name(channel), hub.log().ledger());
    Arc::new(Publication::new(
        id,
        channel,
        payload,
        Now(sequence),
        ledger,
    ))
}

fn after(sequence: u64) -> Since {
    Since::After(Cursor {
        epoch: epoch(),
        sequence: Sequence(sequence),
    })
}

fn hub(config: impl FnOnce(&mut Config)) -> Node {
    let mut settings = Config::default();
    config(&mut settings);
    Node::new(epoch(), Sequence::ZERO, &settings)
}

fn namespace(pattern: &str) -> Namespace {
    Namespace {
        pattern: pattern.into(),
        ..Namespace::default()
    }
}

/// Plans at most `bytes` bytes for the conn, and records that the socket accepted all of them.
fn give(hub: &mut Node, slot: u32, bytes: usize, now: Now) -> Vec<u64> {
    let mut planned = Vec::new();
    hub.plan(
        slot,
        KIND,
        now,
        bytes,
        &mut Compressor::default(),
        &mut planned,
    );
    let total = planned.iter().map(|step| step.length).sum();
    hub.advance(slot, &planned, total);
    planned
        .iter()
        .filter(|step| step.length > 0)
        .map(|step| step.sequence.0)
        .collect()
}

/// Visits all subscribers but sends them nothing, as if all sockets were full.
fn end_walks(hub: &mut Node) {
    while hub.visit() != Visit::Done {}
    hub.release_walked();
}

fn give_all(hub: &mut Node, slot: u32) -> Vec<u64> {
    let mut given = Vec::new();
    loop {
        let more = give(hub, slot, 1 << 20, Now(0));
        if more.is_empty() {
            return given;
        }
        given.extend(more);
    }
}

/// Returns each planned publication's number, whether it is in a tail, and its frame.
fn plan_of(hub: &mut Node, slot: u32, kind: FrameKind) -> Vec<(u64, bool, Vec<u8>)> {
    let (compressor, mut planned) = (&mut Compressor::default(), Vec::new());
    hub.plan(slot, kind, Now(0), 1 << 20, compressor, &mut planned);
    let steps = planned.iter();
    let steps = steps.map(|step| {
        let is_held_in_tail = matches!(step.held, serve::Held::Tail { .. });
        (step.sequence.0, is_held_in_tail, hub.frame(step).to_vec())
    });
    steps.collect()
}

#[test]
fn plan_is_repeated_for_conns_that_are_owed_the_same_until_its_tail_goes() {
    let mut hub = hub(|_| {});
    for slot in 0..4 {
        let _joined = hub.subscribe(slot, &name(0), Since::Now, Sequence::ZERO);
    }
    hub.set_window(3, &name(0), Window::new(1).unwrap());
    hub.publish(publication(&hub, 1, 0, 5), Now(0));
    let first = plan_of(&mut hub, 0, KIND);
    assert!(matches!(first.as_slice(), [(1, true, frame)] if !frame.is_empty()));
    assert_eq!(plan_of(&mut hub, 1, KIND), first);
    // The plan is made again for another kind of conn, for another position, or for a window.
    let full = plan_of(&mut hub, 1, FrameKind::WebSocket(Envelope::Full));
    assert_ne!(full, first);
    assert_eq!(give(&mut hub, 0, 1 << 20, Now(0)), [1]);
    assert_eq!(plan_of(&mut hub, 0, KIND), []);
    assert_eq!(plan_of(&mut hub, 1, KIND), first);
    hub.publish(publication(&hub, 2, 0, 5), Now(0));
    let second = plan_of(&mut hub, 0, KIND);
    assert!(matches!(second.as_slice(), [(2, true, _)]));
    assert_eq!(plan_of(&mut hub, 1, KIND).len(), 2);
    assert_eq!(
        plan_of(&mut hub, 3, KIND),
        first,
        "its window has room for one"
    );
    assert_eq!(plan_of(&mut hub, 0, KIND), second);
    end_walks(&mut hub);
    let from_log = vec![(2, false, second[0].2.clone())];
    assert_eq!(plan_of(&mut hub, 0, KIND), from_log);
}

#[test]
fn subscriber_gets_what_is_published_after_it_joined() {
    let mut hub = hub(|_| {});
    hub.publish(publication(&hub, 1, 0, 5), Now(1));
    assert!(matches!(
        hub.subscribe(4, &name(0), Since::Now, Sequence(1)),
        JoinOutcome::Joined(_)
    ));
    assert_eq!(hub.publish(publication(&hub, 2, 0, 5), Now(2)), 1);
    hub.publish(publication(&hub, 3, 1, 5), Now(3));
    hub.publish(publication(&hub, 4, 0, 5), Now(4));
    assert_eq!(
        hub.behind(4),
        Amount {
            bytes: 10,
            publications: 2
        }
    );
    assert_eq!(give_all(&mut hub, 4), [2, 4]);
    assert_eq!(hub.behind(4), Amount::default());
}

#[test]
fn several_channels_are_merged_in_sequence_order() {
    let mut hub = hub(|_| {});
    for (sequence, channel) in [(1, 0), (2, 1), (3, 2), (4, 1), (5, 0)] {
        hub.publish(publication(&hub, sequence, channel, 1), Now(0));
    }
    for channel in [1, 0, 2] {
        hub.subscribe(0, &name(channel), after(1), Sequence(5));
    }
    assert_eq!(give_all(&mut hub, 0), [2, 3, 4, 5]);
}

#[test]
fn write_that_stops_inside_a_frame_moves_the_cursor_and_hands_over_the_rest() {
    let mut hub = hub(|_| {});
    hub.subscribe(0, &name(0), Since::Now, Sequence::ZERO);
    hub.publish(publication(&hub, 1, 0, 10), Now(0));
    hub.publish(publication(&hub, 2, 0, 10), Now(0));
    let mut planned = Vec::new();
    hub.plan(
        0,
        KIND,
        Now(0),
        1000,
        &mut Compressor::default(),
        &mut planned,
    );
    let advanced = hub.advance(0, &planned, planned[0].length + 3);
    assert_eq!(advanced.delivered, 1);
    let (begun, offset) = advanced.begun.unwrap();
    assert_eq!((begun.id.sequence, offset), (Sequence(2), 3));
    assert!(!hub.is_behind(0));
}

#[test]
fn plan_keeps_to_its_budget_but_always_offers_one() {
    let mut hub = hub(|_| {});
    hub.subscribe(0, &name(0), Since::Now, Sequence::ZERO);
    for sequence in 1..=3 {
        hub.publish(publication(&hub, sequence, 0, 100), Now(0));
    }
    let mut planned = Vec::new();
    hub.plan(
        0,
        KIND,
        Now(0),
        10,
        &mut Compressor::default(),
        &mut planned,
    );
    assert_eq!(planned.len(), 1);
    hub.plan(
        0,
        KIND,
        Now(0),
        210,
        &mut Compressor::default(),
        &mut planned,
    );
    assert_eq!(planned.len(), 2);
}

#[test]
fn overflow_skips_the_oldest_to_the_byte_and_tells() {
    let mut hub = hub(|c| c.quota.behind_bytes = 25);
    hub.subscribe(0, &name(0), Since::Now, Sequence::ZERO);
    for sequence in 1..=4 {
        hub.publish(publication(&hub, sequence, 0, 10), Now(0));
    }
    assert_eq!(hub.enforce(0, Now(0)), QuotaOutcome::Skipped(2));
    assert_eq!(hub.behind(0).bytes, 20);
    let (channel, gap) = hub.take_gap(0).unwrap();
    assert_eq!(channel, name(0));
    assert_eq!(gap.since.unwrap().sequence, Sequence(0));
    assert_eq!(gap.until.sequence, Sequence(2));
    assert_eq!((gap.missed, gap.cause), (Some(2), GapCause::Slow));
    assert_eq!(hub.take_gap(0), None);
    assert_eq!(give_all(&mut hub, 0), [3, 4]);
}

#[test]
fn overflow_is_a_verdict_when_the_policy_is_to_close() {
    let mut hub = hub(|c| {
        c.quota.behind_publications = 1;
        c.quota.overflow = Overflow::Close;
    });
    hub.subscribe(0, &name(0), Since::Now, Sequence::ZERO);
    hub.publish(publication(&hub, 1, 0, 1), Now(0));
    assert_eq!(hub.enforce(0, Now(0)), QuotaOutcome::Within);
    hub.publish(publication(&hub, 2, 0, 1), Now(0));
    assert_eq!(hub.enforce(0, Now(0)), QuotaOutcome::Overflow);
}

#[test]
fn resuming_brings_the_log_whole_whatever_the_quota() {
    let mut hub = hub(|c| c.quota.behind_publications = 3);
    for sequence in 1..=20 {
        hub.publish(publication(&hub, sequence, 0, 1), Now(0));
    }
    hub.subscribe(0, &name(0), after(5), Sequence(20));
    assert_eq!(hub.enforce(0, Now(0)), QuotaOutcome::Within);
    hub.publish(publication(&hub, 21, 0, 1), Now(0));
    assert_eq!(hub.behind(0).publications, 1);
    assert_eq!(give_all(&mut hub, 0), (6..=21).collect::<Vec<_>>());
}

#[test]
fn cursor_that_fell_off_the_log_is_a_gap_and_goes_on_with_what_is_there() {
    let mut hub = hub(|c| c.log.entries = 2);
    for sequence in 1..=4 {
        hub.publish(publication(&hub, sequence, 0, 1), Now(0));
    }
    let JoinOutcome::Joined(joined) = hub.subscribe(0, &name(0), after(1), Sequence(4)) else {
        panic!("refused")
    };
    assert!(!joined.is_recovered);
    let gap = joined.gap.unwrap();
    assert_eq!(
        (gap.cause, gap.until.sequence),
        (GapCause::Expired, Sequence(2))
    );
    assert_eq!(give_all(&mut hub, 0), [3, 4]);
}

#[test]
fn overflow_on_top_of_an_eviction_does_not_claim_to_know_how_much_is_missing() {
    let mut hub = hub(|config| {
        config.quota.behind_publications = 2;
        config.log.entries = 4;
    });
    hub.subscribe(0, &name(0), Since::Now, Sequence::ZERO);
    for sequence in 1..=8 {
        hub.publish(publication(&hub, sequence, 0, 1), Now(0));
    }
    end_walks(&mut hub);
    hub.evict(Now(0), 100);
    assert_eq!(hub.enforce(0, Now(0)), QuotaOutcome::Skipped(2));
    let (_, gap) = hub.take_gap(0).unwrap();
    assert_eq!((gap.missed, gap.cause), (None, GapCause::Slow));
    assert_eq!(gap.since.unwrap().sequence, Sequence::ZERO);
    assert_eq!(gap.until.sequence, Sequence(6));
    assert_eq!(give_all(&mut hub, 0), [7, 8]);
}

#[test]
fn position_of_another_epoch_is_a_restart_and_one_never_given_out_unknown() {
    let mut hub = hub(|_| {});
    hub.publish(publication(&hub, 1, 0, 1), Now(0));
    let foreign = |sequence| {
        Since::After(Cursor {
            epoch: Epoch::new(8),
            sequence: Sequence(sequence),
        })
    };
    for (slot, since, cause) in [
        (0, foreign(1), GapCause::Restart),
        (1, foreign(u64::MAX), GapCause::Restart),
        (2, after(2), GapCause::Unknown),
        (3, after(u64::MAX), GapCause::Unknown),
        (4, Since::Unrecognised, GapCause::Unknown),
    ] {
        let JoinOutcome::Joined(joined) = hub.subscribe(slot, &name(0), since, Sequence(1)) else {
            panic!("refused")
        };
        assert_eq!(joined.gap.unwrap().cause, cause, "{since:?}");
        let (position, given) = match cause {
            GapCause::Restart => (0, vec![1]),
            _ => (1, vec![]),
        };
        assert_eq!(joined.position.sequence, Sequence(position), "{since:?}");
        assert_eq!(give_all(&mut hub, slot), given, "{since:?}");
    }
}

#[test]
fn position_of_another_epoch_misses_only_what_the_log_lacks_of_this_one() {
    let mut hub = hub(|config| {
        config.quota.behind_publications = 2;
        config.namespace = vec![Namespace {
            log_entries: Some(5),
            ..namespace("c1")
        }];
    });
    // Publication 21 is the only one in channel c2, which has no subscribers.
    for sequence in 1..=20 {
        let channel = u8::from(sequence % 2 == 1);
        hub.publish(publication(&hub, sequence, channel, 1), Now(0));
        while hub.trim(9) > 0 {}
    }
    hub.publish(publication(&hub, 21, 2, 1), Now(0));
    let epoch = Epoch::new(8);
    let since = Cursor {
        epoch,
        sequence: Sequence(9),
    };
    let all_of_c0: Vec<u64> = (2..=20).step_by(2).collect();
    let channels: [(u8, u64, &[u64]); 4] = [
        (0, 1, &all_of_c0),
        (1, 10, &[11, 13, 15, 17, 19]),
        (2, 20, &[21]),
        (3, 21, &[]),
    ];
    for (channel, until, given) in channels {
        let slot = u32::from(channel);
        let outcome = hub.subscribe(slot, &name(channel), Since::After(since), Sequence(21));
        let gap = Gap {
            since: Some(since),
            until: hub.cursor(Sequence(until)),
            missed: None,
            cause: GapCause::Restart,
        };
        let joined = Joined {
            position: gap.until,
            is_recovered: false,
            gap: Some(gap),
        };
        assert_eq!(outcome, JoinOutcome::Joined(joined), "c{channel}");
        assert_eq!(
            hub.enforce(slot, Now(0)),
            QuotaOutcome::Within,
            "it is a resume"
        );
        assert_eq!(give_all(&mut hub, slot), given, "c{channel}");
    }
}

#[test]
fn position_that_this_worker_has_not_reached_yet_is_no_gap_and_repeats_nothing() {
    let mut hub = hub(|_| {});
    hub.publish(publication(&hub, 1, 0, 1), Now(0));
    let JoinOutcome::Joined(joined) = hub.subscribe(0, &name(0), after(3), Sequence(4)) else {
        panic!("refused")
    };
    assert!(joined.is_recovered);
    for sequence in 2..=4 {
        assert_eq!(hub.is_ahead(0), sequence < 4);
        hub.publish(publication(&hub, sequence, 0, 1), Now(0));
    }
    assert_eq!(give_all(&mut hub, 0), [4]);
}

#[test]
fn cursor_before_numbers_that_may_be_lost_is_a_gap_and_goes_on_behind_them() {
    let mut hub = Node::new(epoch(), Sequence(100), &Config::default());
    hub.note_lost(Sequence(100));
    hub.publish(publication(&hub, 101, 0, 1), Now(0));
    for (slot, since) in [(0, 3), (1, 99)] {
        let JoinOutcome::Joined(joined) =
            hub.subscribe(slot, &name(0), after(since), Sequence(101))
        else {
            panic!("refused")
        };
        let gap = joined.gap.unwrap();
        assert_eq!(
            (gap.cause, gap.until.sequence),
            (GapCause::Restart, Sequence(100))
        );
        assert_eq!(give_all(&mut hub, slot), [101]);
    }
    let JoinOutcome::Joined(joined) = hub.subscribe(2, &name(0), after(100), Sequence(101)) else {
        panic!("refused")
    };
    assert!(joined.is_recovered);
}

#[test]
fn channel_goes_with_its_last_entry_and_subscriber_but_its_past_is_not_forgotten() {
    let mut hub = hub(|c| c.log.age_ms = 10);
    hub.publish(publication(&hub, 1, 0, 1), Now(0));
    assert_eq!(hub.log().channel_count(), 1);
    hub.evict(Now(1_000_000), 100);
    assert_eq!(hub.log().channel_count(), 0);
    let JoinOutcome::Joined(joined) = hub.subscribe(0, &name(0), after(0), Sequence(1)) else {
        panic!("refused")
    };
    assert_eq!(joined.gap.unwrap().cause, GapCause::Expired);
    hub.leave(0);
    assert_eq!(hub.log().channel_count(), 0);
}

#[test]
fn expired_publication_is_stepped_over_without_a_gap() {
    let mut hub = hub(|_| {});
    hub.subscribe(0, &name(0), Since::Now, Sequence::ZERO);
    let id = Cursor {
        epoch: epoch(),
        sequence: Sequence(1),
    };
    let payload = Payload::Text("x".into());
    let short = Publication::new(id, name(0), payload, Now(0), hub.log().ledger())
        .expiring(Some(Now(0).after(Duration::from_millis(5))));
    hub.publish(Arc::new(short), Now(0));
    hub.publish(publication(&hub, 2, 0, 1), Now(0));
    assert_eq!(give(&mut hub, 0, 100, Now(5_000)), [2]);
    assert_eq!(hub.take_gap(0), None);
    assert!(!hub.is_behind(0));
}

#[test]
fn walk_that_is_a_quota_behind_makes_the_next_publication_wait() {
    let mut hub = hub(|c| c.quota.behind_publications = 2);
    hub.subscribe(0, &name(0), Since::Now, Sequence::ZERO);
    assert!(hub.has_room_for(&publication(&hub, 1, 0, 1)));
    hub.publish(publication(&hub, 1, 0, 1), Now(0));
    hub.publish(publication(&hub, 2, 0, 1), Now(0));
    assert!(!hub.has_room_for(&publication(&hub, 3, 0, 1)));
    assert!(hub.has_room_for(&publication(&hub, 3, 1, 1)));
    assert_eq!(hub.visit(), Visit::Subscriber(0));
    assert!(hub.has_room_for(&publication(&hub, 3, 0, 1)));
}

#[test]
fn frames_count_for_the_log_from_their_first_use_to_their_eviction() {
    let mut hub = hub(|c| c.log.age_ms = 10);
    hub.subscribe(0, &name(0), Since::Now, Sequence::ZERO);
    hub.publish(publication(&hub, 1, 0, 1000), Now(0));
    let before = hub.log().bytes();
    give_all(&mut hub, 0);
    assert!(hub.log().bytes() >= before + 1000);
    hub.evict(Now(1_000_000), 100);
    assert_eq!(hub.log().bytes(), 0);
}

/// The record of the publications that a subscriber has received from one channel.
#[derive(Debug, Default)]
struct Record {
    /// All publications up to this number were received or are in a gap.
    seen: u64,
    window: Option<u32>,
    acknowledged: u64,
    unacknowledged: Vec<u64>,
}

#[derive(Debug, Clone)]
enum Act {
    Acknowledge {
        slot: u32,
        channel: Option<u8>,
        back: u64,
    },
    Evict,
    Walk,
    Give {
        slot: u32,
        bytes: usize,
    },
    Join {
        slot: u32,
        channel: u8,
        back: u64,
        window: u32,
    },
    Leave {
        slot: u32,
    },
    Part {
        slot: u32,
        channel: u8,
    },
    Publish {
        channel: u8,
        bytes: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let slot = 0u32..4;
    prop_oneof![
        1 => Just(Act::Evict),
        1 => Just(Act::Walk),
        4 => (slot.clone(), 1usize..200).prop_map(|(slot, bytes)| Act::Give { slot, bytes }),
        2 => (slot.clone(), 0u8..3, 0u64..30, 0u32..6)
            .prop_map(|(slot, channel, back, window)| Act::Join { slot, channel, back, window }),
        2 => (slot.clone(), proptest::option::of(0u8..3), 0u64..20)
            .prop_map(|(slot, channel, back)| Act::Acknowledge { slot, channel, back }),
        1 => slot.clone().prop_map(|slot| Act::Leave { slot }),
        1 => (slot, 0u8..3).prop_map(|(slot, channel)| Act::Part { slot, channel }),
        6 => (0u8..3, 1usize..40).prop_map(|(channel, bytes)| Act::Publish { channel, bytes }),
    ]
}

/// A model that checks every publication of a channel. Each must be delivered once and in order, be
/// in a reported gap, or be pending and within the quota.
struct Model {
    hub: Node,
    quota: Amount,
    head: u64,
    /// The channel of each publication, by sequence number.
    published: Vec<u8>,
    records: BTreeMap<(u32, u8), Record>,
}

impl Model {
    fn next_owed(&self, slot: u32, channel: u8) -> Option<u64> {
        let seen = self.records[&(slot, channel)].seen;
        (seen + 1..=self.head).find(|s| self.published[*s as usize] == channel)
    }

    fn tell_gaps(&mut self, slot: u32) {
        while let Some((channel, gap)) = self.hub.take_gap(slot) {
            let channel: u8 = channel.as_str()[1..].parse().unwrap();
            let record = self.records.get_mut(&(slot, channel)).unwrap();
            assert!(gap.since.unwrap().sequence.0 >= record.seen);
            let until = gap.until.sequence.0;
            let in_gap = (gap.since.unwrap().sequence.0 + 1..=until)
                .filter(|s| self.published[*s as usize] == channel)
                .count() as u64;
            assert!(gap.missed.is_none_or(|missed| missed == in_gap));
            record.seen = until;
        }
    }

    fn give(&mut self, slot: u32, bytes: usize) {
        self.tell_gaps(slot);
        for sequence in give(&mut self.hub, slot, bytes, Now(0)) {
            let channel = self.published[sequence as usize];
            assert_eq!(self.next_owed(slot, channel), Some(sequence), "slot {slot}");
            let record = self.records.get_mut(&(slot, channel)).unwrap();
            record.seen = sequence;
            if let Some(window) = record.window.filter(|_| sequence > record.acknowledged) {
                record.unacknowledged.push(sequence);
                assert!(record.unacknowledged.len() <= window as usize);
            }
        }
        let outcome = self.hub.enforce(slot, Now(0));
        assert_ne!(outcome, QuotaOutcome::Overflow);
        assert!(!self.hub.behind(slot).exceeds(self.quota));
    }

    fn acknowledge(&mut self, slot: u32, channel: Option<u8>, id: u64) {
        let records = self.records.iter_mut();
        let mut meant: Vec<_> = records
            .filter(|((s, c), _)| *s == slot && channel.is_none_or(|channel| *c == channel))
            .map(|(_, record)| record)
            .collect();
        let expected = match meant.as_mut_slice() {
            [record] if record.window.is_some() => {
                let size = record.window.unwrap_or_default() as usize;
                let was_closed = record.unacknowledged.len() == size;
                record.acknowledged = record.acknowledged.max(id);
                record.unacknowledged.retain(|given| *given > id);
                if was_closed && record.unacknowledged.len() < size {
                    Acknowledged::Opened
                } else {
                    Acknowledged::Taken
                }
            }
            [] | [_] => Acknowledged::NoWindow,
            [_, ..] => Acknowledged::ChannelUnclear,
        };
        let (id, head) = (self.hub.cursor(Sequence(id)), Sequence(self.head));
        let channel = channel.map(name);
        let outcome = self.hub.acknowledge(slot, channel.as_ref(), id, head);
        assert_eq!(outcome, expected);
    }

    fn perform(&mut self, act: &Act) {
        match *act {
            Act::Acknowledge {
                slot,
                channel,
                back,
            } => self.acknowledge(slot, channel, self.head.saturating_sub(back)),
            Act::Evict => {
                self.hub.trim(1000);
                self.hub.evict(Now(0), 1000);
            }
            Act::Walk => while self.hub.visit() != Visit::Done {},
            Act::Give { slot, bytes } => self.give(slot, bytes),
            Act::Join {
                slot,
                channel,
                back,
                window,
            } => {
                let since = after(self.head.saturating_sub(back));
                let outcome = self
                    .hub
                    .subscribe(slot, &name(channel), since, Sequence(self.head));
                match outcome {
                    JoinOutcome::Joined(joined) => {
                        let seen = joined.position.sequence.0;
                        let window = Window::new(window);
                        if let Some(window) = window {
                            self.hub.set_window(slot, &name(channel), window);
                        }
                        let record = Record {
                            seen,
                            window: window.map(Window::publications),
                            acknowledged: 0,
                            unacknowledged: Vec::new(),
                        };
                        assert!(self.records.insert((slot, channel), record).is_none());
                    }
                    JoinOutcome::AlreadyJoined => {
                        assert!(self.records.contains_key(&(slot, channel)));
                    }
                    JoinOutcome::ServerFull | JoinOutcome::TooManyChannels => {
                        panic!("three channels are allowed")
                    }
                }
            }
            Act::Leave { slot } => {
                self.hub.leave(slot);
                self.records.retain(|(s, _), _| *s != slot);
            }
            Act::Part { slot, channel } => {
                let was = self.records.remove(&(slot, channel)).is_some();
                assert_eq!(self.hub.unsubscribe(slot, &name(channel)), was);
            }
            Act::Publish { channel, bytes } => {
                self.head += 1;
                self.published.push(channel);
                let expected = self.records.keys().filter(|(_, c)| *c == channel).count();
                let got = self
                    .hub
                    .publish(publication(&self.hub, self.head, channel, bytes), Now(0));
                assert_eq!(got as usize, expected);
            }
        }
        self.hub.check_invariants();
    }
}

proptest! {
    #[test]
    fn hub_agrees_with_the_model(acts in proptest::collection::vec(act(), 1..300)) {
        let hub = hub(|c| {
            c.quota.behind_bytes = 120;
            c.quota.behind_publications = 8;
            c.log.entries = 16;
            c.namespace = vec![
                Namespace { log_entries: Some(2), ..namespace("c0") },
                Namespace { log_bytes: Some(60), ..namespace("c1*") },
            ];
        });
        let quota = Amount { bytes: 120, publications: 8 };
        let mut model = Model { hub, quota, head: 0, published: vec![9], records: BTreeMap::new() };
        for act in acts {
            model.perform(&act);
        }
        for slot in 0..4 {
            while model.hub.is_behind(slot) || model.hub.is_held_back(slot) {
                for channel in 0..3 {
                    model.acknowledge(slot, Some(channel), model.head);
                }
                model.give(slot, 1000);
            }
        }
        for (slot, channel) in model.records.keys() {
            prop_assert_eq!(model.next_owed(*slot, *channel), None);
        }
    }
}

#[test]
fn log_holds_a_compressed_frame_once_and_the_plain_one_for_what_would_not_shrink() {
    let mut hub = hub(|_| {});
    for slot in 0..4 {
        let _joined = hub.subscribe(slot, &name(0), Since::Now, Sequence::ZERO);
    }
    hub.publish(publication(&hub, 1, 0, 1000), Now(0));
    hub.publish(publication(&hub, 2, 0, 10), Now(0));
    let empty = hub.log().bytes();
    let deflated = FrameKind::WebSocketDeflated(Envelope::Data);
    let mut compressor = Compressor::default();
    let mut plan = |slot, kind| {
        let mut planned = Vec::new();
        hub.plan(slot, kind, Now(0), 1 << 20, &mut compressor, &mut planned);
        let lengths: Vec<usize> = planned.iter().map(|step| step.length).collect();
        let frames = planned.iter().map(|step| hub.frame(step).len());
        assert_eq!(frames.collect::<Vec<_>>(), lengths);
        let behind = hub.behind(slot).bytes;
        (lengths, hub.log().bytes() - empty, behind)
    };
    let (lengths, held, behind) = plan(0, deflated);
    assert!(lengths[0] < 100, "{lengths:?}");
    assert_eq!(lengths[1], 12);
    let bytes = lengths.iter().sum::<usize>() as u64;
    assert_eq!(held, bytes + 2 * Frames::BYTES);
    // Quotas count the bytes of payloads, whether they are compressed or not.
    assert_eq!(behind, 1010);
    assert_eq!(plan(1, deflated), (lengths, held, behind));
    // Only the long publication needs a new frame for a conn without compression. For the short
    // one, all conns share the plain frame, because compression would not make it shorter.
    let (lengths, with_plain, _) = plan(2, KIND);
    assert_eq!(lengths, [1004, 12]);
    assert_eq!(with_plain, held + 1004);
    assert_eq!(hub.evict(Now(u64::MAX / 2), u32::MAX), 2);
    assert_eq!(hub.log().bytes(), 0);
}

#[test]
fn limit_of_channels_counts_those_with_subscribers_and_refuses_only_a_further_one() {
    let mut hub = hub(|config| config.limits.channels = 2);
    hub.publish(publication(&hub, 1, 7, 5), Now(0));
    hub.publish(publication(&hub, 2, 8, 5), Now(0));
    assert_eq!(hub.log().subscribed(), 0);
    let join = |hub: &mut Node, slot, channel| {
        let outcome = hub.subscribe(slot, &name(channel), Since::Now, Sequence::ZERO);
        outcome == JoinOutcome::ServerFull
    };
    assert!(!join(&mut hub, 0, 0) && !join(&mut hub, 0, 1));
    assert!(join(&mut hub, 0, 2) && join(&mut hub, 1, 2));
    assert!(!join(&mut hub, 1, 1));
    assert!(join(&mut hub, 1, 7), "only the log has it");
    assert_eq!((hub.log().channel_count(), hub.log().subscribed()), (4, 2));
    assert!(hub.unsubscribe(0, &name(1)));
    assert!(join(&mut hub, 0, 7), "the other conn is still there");
    hub.leave(1);
    assert!(!join(&mut hub, 1, 7));
    hub.leave(0);
    hub.leave(1);
    assert_eq!((hub.log().channel_count(), hub.log().subscribed()), (2, 0));
    hub.check_invariants();
}

#[test]
fn conn_at_its_own_limit_of_channels_is_refused_for_that_although_the_server_is_full_too() {
    let mut hub = hub(|config| {
        config.limits.channels = 1;
        config.limits.channels_per_conn = 1;
    });
    let mut join = |slot, channel| hub.subscribe(slot, &name(channel), Since::Now, Sequence::ZERO);
    assert!(join(0, 0).joined().is_some());
    assert_eq!(join(0, 1), JoinOutcome::TooManyChannels);
    assert_eq!(join(0, 0), JoinOutcome::AlreadyJoined);
    assert_eq!(join(1, 1), JoinOutcome::ServerFull);
}
