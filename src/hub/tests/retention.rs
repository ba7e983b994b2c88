//! Tests of the limits of the log: which entries the log keeps and evicts, and what the subscribers
//! of a hub then receive.

use std::sync::Arc;

use super::super::*;
use crate::config::Namespace;
use crate::frame::{Compressor, Envelope, FrameKind, Frames, Hold, Payload, Publication};
use crate::id::Since;
use crate::time::Deadline;

const MS: u64 = 1_000;

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

fn hub(namespaces: Vec<Namespace>, change: impl FnOnce(&mut Config)) -> Node {
    let mut config = Config {
        namespace: namespaces,
        ..Config::default()
    };
    change(&mut config);
    Node::new(Epoch::new(7), Sequence::ZERO, &config)
}

fn namespace(pattern: &str, change: impl FnOnce(&mut Namespace)) -> Namespace {
    let mut namespace = Namespace {
        pattern: pattern.into(),
        ..Namespace::default()
    };
    change(&mut namespace);
    namespace
}

fn publish(hub: &mut Node, channel: &str, bytes: usize, at_ms: u64) -> u64 {
    let id = Cursor {
        epoch: Epoch::new(7),
        sequence: hub.log().sequenced().next(),
    };
    let payload = Payload::Text("x".repeat(bytes).into());
    let now = Now(at_ms * MS);
    let publication = Publication::new(id, name(channel), payload, now, hub.log().ledger());
    hub.publish(Arc::new(publication), now);
    id.sequence.0
}

fn held(hub: &Node) -> Vec<u64> {
    let all = 1..hub.log().sequenced().next().0;
    all.filter(|sequence| hub.log().find(Sequence(*sequence)).is_some())
        .collect()
}

/// Returns the numbers of the publications that the conn in a slot receives.
fn give(hub: &mut Node, slot: u32) -> Vec<u64> {
    let (mut planned, compressor) = (Vec::new(), &mut Compressor::default());
    let kind = FrameKind::WebSocket(Envelope::Data);
    hub.plan(slot, kind, Now(0), 1 << 20, compressor, &mut planned);
    hub.advance(slot, &planned, usize::MAX / 2);
    planned.iter().map(|step| step.sequence.0).collect()
}

fn walk(hub: &mut Node) {
    while hub.visit() != Visit::Done {}
}

#[test]
fn channel_keeps_its_newest_entries_and_leaves_others_theirs() {
    let mut hub = hub(vec![namespace("a*", |n| n.log_entries = Some(2))], |_| {});
    for channel in ["a1", "b", "a1", "a2", "a1", "b", "a1"] {
        publish(&mut hub, channel, 1, 0);
    }
    assert_eq!(held(&hub), [2, 4, 5, 6, 7]);
    assert_ne!(hub.next_eviction(), Some(Deadline(0)));
    hub.check_invariants();
}

#[test]
fn channel_keeps_its_newest_bytes_but_its_newest_publication_in_any_case() {
    let mut hub = hub(vec![namespace("a", |n| n.log_bytes = Some(25))], |_| {});
    for bytes in [10, 10, 10] {
        publish(&mut hub, "a", bytes, 0);
    }
    assert_eq!(held(&hub), [2, 3]);
    publish(&mut hub, "a", 26, 0);
    assert_eq!(held(&hub), [4]);
}

#[test]
fn cursor_before_dropped_entries_receives_a_gap_and_others_do_not() {
    let mut hub = hub(vec![namespace("a", |n| n.log_entries = Some(1))], |_| {});
    for channel in ["a", "b", "a", "a"] {
        publish(&mut hub, channel, 1, 0);
    }
    hub.trim(100);
    let mut join = |slot, channel: &str, sequence| {
        let since = Since::After(Cursor {
            epoch: Epoch::new(7),
            sequence: Sequence(sequence),
        });
        match hub.subscribe(slot, &name(channel), since, Sequence(4)) {
            JoinOutcome::Joined(joined) => joined,
            other => panic!("{other:?}"),
        }
    };
    let gap = join(0, "a", 2).gap.unwrap();
    assert_eq!(gap.cause, GapCause::Expired);
    assert_eq!(gap.until.sequence, Sequence(3));
    assert_eq!(join(1, "a", 3).gap, None);
    assert_eq!(join(2, "b", 0).gap, None);
    assert_eq!(join(3, "a", 4).gap, None);
}

#[test]
fn nothing_is_taken_from_subscribers_that_are_still_to_be_visited() {
    let mut hub = hub(vec![namespace("a", |n| n.log_entries = Some(1))], |_| {});
    let _joined = hub.subscribe(0, &name("a"), Since::Now, Sequence::ZERO);
    for _ in 0..5 {
        publish(&mut hub, "a", 1, 0);
    }
    assert_eq!(held(&hub), [5], "the log keeps what its bounds allow");
    assert!(hub.visit() == Visit::Subscriber(0));
    assert_eq!(hub.take_gap(0), None);
    walk(&mut hub);
    // Even if the log evicts all entries because of their age, the subscriber still receives them.
    hub.evict(Now(u64::MAX / 2), 100);
    assert_eq!(give(&mut hub, 0), [1, 2, 3, 4, 5]);
    publish(&mut hub, "a", 1, 0);
    publish(&mut hub, "a", 1, 0);
    walk(&mut hub);
    hub.release_walked();
    // The hub held entry 6 only until all conns with writable sockets were served.
    assert_eq!(
        hub.take_gap(0).map(|(_, gap)| gap.cause),
        Some(GapCause::Expired)
    );
    assert_eq!(give(&mut hub, 0), [7]);
}

#[test]
fn ages_end_without_traffic_and_each_at_its_time() {
    let short = namespace("short", |n| n.log_age_ms = Some(100));
    let long = namespace("long", |n| n.log_age_ms = Some(500));
    let mut hub = hub(vec![short, long], |c| c.log.age_ms = 1_000);
    for (at_ms, channel) in [(0, "other"), (10, "long"), (20, "short"), (30, "short")] {
        publish(&mut hub, channel, 1, at_ms);
    }
    let mut ends = Vec::new();
    hub.evict(Now(30 * MS), 100);
    while let Some(due) = hub.next_eviction() {
        assert_eq!(hub.evict(Now(due.0 - 1), 100), 0);
        assert_eq!(hub.evict(Now(due.0), 100), 1);
        ends.push((due.0 / MS, held(&hub)));
    }
    assert_eq!(
        ends,
        [
            (120, vec![1, 2, 4]),
            (130, vec![1, 2]),
            (510, vec![1]),
            (1_000, vec![]),
        ]
    );
    assert_eq!((hub.channel_count(), hub.log_bytes()), (0, 0));
}

#[test]
fn busy_channel_takes_no_room_from_what_others_keep() {
    let last_only = namespace("fast", |n| n.log_entries = Some(1));
    let mut hub = hub(vec![last_only], |c| c.log.entries = 3);
    for channel in ["slow", "fast", "fast", "fast", "fast"] {
        publish(&mut hub, channel, 1, 0);
    }
    assert_eq!(hub.evict(Now(0), 100), 0);
    assert_eq!(held(&hub), [1, 5]);
}

#[test]
fn eviction_that_ends_at_its_budget_goes_on_at_once() {
    let mut hub = hub(Vec::new(), |c| c.log.entries = 1);
    for channel in ["a", "b", "c", "d"] {
        publish(&mut hub, channel, 1, 0);
    }
    assert_eq!(hub.evict(Now(0), 2), 2);
    assert_eq!(hub.next_eviction(), Some(Deadline(0)));
    assert_eq!(hub.evict(Now(0), 2), 1);
    assert_ne!(hub.next_eviction(), Some(Deadline(0)));
}

#[test]
fn channel_that_came_and_went_in_one_namespace_says_nothing_of_another() {
    let short = namespace("short*", |n| n.log_age_ms = Some(10));
    let mut hub = hub(vec![short], |_| {});
    publish(&mut hub, "short1", 1, 0);
    assert_eq!(hub.evict(Now(10 * MS), 100), 1);
    let since = Since::After(Cursor {
        epoch: Epoch::new(7),
        sequence: Sequence::ZERO,
    });
    for (slot, channel, has_gap) in [(0, "short1", true), (1, "short2", true), (2, "x", false)] {
        let outcome = hub.subscribe(slot, &name(channel), since, Sequence(1));
        let JoinOutcome::Joined(joined) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(joined.gap.is_some(), has_gap, "{channel}");
    }
}

#[test]
fn position_sinks_with_the_age_of_its_channels() {
    let short = namespace("short", |n| n.log_age_ms = Some(100));
    let mut hub = hub(vec![short], |_| {});
    let _joined = hub.subscribe(0, &name("short"), Since::Now, Sequence::ZERO);
    let _joined = hub.subscribe(1, &name("long"), Since::Now, Sequence::ZERO);
    publish(&mut hub, "other", 1, 0);
    let sinks = |slot, at_ms| hub.nears_eviction(slot, Sequence::ZERO, Now(at_ms * MS));
    assert_eq!(
        [sinks(0, 49), sinks(0, 50), sinks(1, 50)],
        [false, true, false]
    );
}

/// Creates a hub with ten publications of 1,000 bytes that a subscriber has received.
fn hub_of_ten() -> Node {
    let mut hub = hub(Vec::new(), |c| c.log.bytes = 20_000);
    let _joined = hub.subscribe(0, &name("c"), Since::Now, Sequence::ZERO);
    for _ in 0..10 {
        publish(&mut hub, "c", 1_000, 0);
    }
    give(&mut hub, 0);
    let_go(&mut hub);
    hub
}

/// Visits all subscribers, and releases the entries that the hub held for them.
fn let_go(hub: &mut Node) {
    walk(hub);
    hub.release_planned();
    hub.release_walked();
}

/// Returns the numbers of the entries that have encodings.
fn encoded(hub: &Node) -> Vec<u64> {
    hub.check_invariants();
    let all = held(hub).into_iter();
    let publication = |number| hub.log().find(Sequence(number)).unwrap().publication;
    all.filter(|number| publication(*number).made_frames().is_some())
        .collect()
}

#[test]
fn encodings_have_a_quarter_of_the_log_and_the_oldest_go_first() {
    let mut hub = hub_of_ten();
    let each = Frames::BYTES + 1_004;
    assert_eq!(hub.log().ledger().logged(), 10 * each);
    assert_eq!(hub.next_eviction(), Some(Deadline(0)));
    let bytes = hub.log_bytes();
    assert_eq!(hub.evict(Now(0), u32::MAX), 0, "no publication is lost");
    assert_eq!(encoded(&hub), [8, 9, 10]);
    assert_eq!(hub.log().ledger().logged(), 3 * each);
    assert_eq!(bytes - hub.log_bytes(), 7 * each);
    assert_ne!(hub.next_eviction(), Some(Deadline(0)));
    let resident = hub.log().ledger().resident();
    // A subscriber that resumes needs old frames, which are encoded again. The limit on encoded
    // frames still applies.
    let start = Cursor {
        epoch: Epoch::new(7),
        sequence: Sequence(2),
    };
    let _joined = hub.subscribe(1, &name("c"), Since::After(start), Sequence(10));
    assert_eq!(give(&mut hub, 1), [3, 4, 5, 6, 7, 8, 9, 10]);
    hub.evict(Now(0), u32::MAX);
    assert_eq!(encoded(&hub), [8, 9, 10]);
    assert_eq!(
        hub.log().ledger().resident(),
        resident + 5 * each,
        "the plan holds them"
    );
    hub.release_planned();
    assert_eq!(hub.log().ledger().resident(), resident);
}

#[test]
fn encodings_are_dropped_in_steps_until_none_is_left_to_drop() {
    let mut hub = hub_of_ten();
    hub.evict(Now(0), 2);
    assert_eq!(encoded(&hub).len(), 8);
    assert_eq!(hub.next_eviction(), Some(Deadline(0)));
    hub.evict(Now(0), 5);
    assert_eq!(encoded(&hub).len(), 3);
    assert_ne!(hub.next_eviction(), Some(Deadline(0)));
}

#[test]
fn encodings_leave_the_log_with_their_entries_and_stay_with_a_walk_and_a_conn() {
    let mut hub = hub(vec![namespace("c", |n| n.log_entries = Some(1))], |_| {});
    let _joined = hub.subscribe(0, &name("c"), Since::Now, Sequence::ZERO);
    publish(&mut hub, "c", 1_000, 0);
    publish(&mut hub, "c", 1_000, 0);
    assert_eq!(held(&hub), [2]);
    let (mut planned, compressor) = (Vec::new(), &mut Compressor::default());
    let kind = FrameKind::WebSocket(Envelope::Data);
    hub.plan(0, kind, Now(0), 1 << 20, compressor, &mut planned);
    let each = Frames::BYTES + 1_004;
    assert_eq!(
        hub.log().ledger().logged(),
        each,
        "the first has left the log"
    );
    let begun = hub.encoded(&planned[0]).unwrap();
    let conn = Hold::new(begun.frames);
    assert_eq!(hub.log().ledger().pinned(), each);
    hub.advance(0, &planned, usize::MAX / 2);
    let_go(&mut hub);
    assert_eq!(conn.wire(kind).len(), 1_004);
    drop(conn);
    assert_eq!(hub.log().ledger().pinned(), 0);
    assert_eq!(encoded(&hub), [2]);
}

#[test]
fn walks_hold_a_part_of_the_log_before_the_rest_waits() {
    let mut hub = hub(Vec::new(), |c| c.log.bytes = 16 * 4_000);
    for (slot, channel) in (0..).zip(["a", "b", "c"]) {
        let _joined = hub.subscribe(slot, &name(channel), Since::Now, Sequence::ZERO);
    }
    publish(&mut hub, "a", 3_000, 0);
    publish(&mut hub, "b", 100, 0);
    let index = hub.named(&name("c")).unwrap();
    let (key, place) = (index.key, hub.log().place_in(0, &name("c")).unwrap());
    let has_room = |hub: &mut Node, bytes: usize| {
        let id = Cursor {
            epoch: Epoch::new(7),
            sequence: Sequence(9),
        };
        let payload = Payload::Text("x".repeat(bytes).into());
        let ledger = hub.log().ledger();
        let publication = Publication::new(id, name("c"), payload, Now(0), ledger);
        let entry = Entry {
            publication: Arc::new(publication),
            before: Amount::default(),
            previous: Sequence::ZERO,
            is_superseded: false,
            class: crate::log::Class::Feeders,
        };
        let hub: &mut Hub = hub;
        let has_room = hub.has_room_for(place, key, &entry);
        assert_eq!(hub.is_full(), !has_room);
        has_room
    };
    assert!(has_room(&mut hub, 100));
    assert!(!has_room(&mut hub, 1_000));
    let_go(&mut hub);
    // If the hub holds no other entries, it accepts even an entry that exceeds the limit.
    assert!(has_room(&mut hub, 5_000));
    hub.check_invariants();
}

#[test]
fn each_of_very_many_channels_keeps_its_one_entry_within_the_bound() {
    const CHANNELS: u64 = 20_000;
    let last_only = namespace("*", |n| n.log_entries = Some(1));
    let mut unbounded = hub(vec![], |c| c.log.bytes = 1 << 40);
    for number in 0..CHANNELS {
        publish(&mut unbounded, &format!("c{number:05}"), 10, 0);
    }
    let bound = unbounded.log_bytes();
    let mut hub = hub(vec![last_only], |c| c.log.bytes = 2 * bound);
    for round in 0..3 {
        for number in 0..CHANNELS {
            publish(&mut hub, &format!("c{number:05}"), 10, round);
        }
        hub.trim(u32::MAX);
        assert_eq!(hub.evict(Now(round), u32::MAX), 0, "round {round}");
        assert_eq!(hub.log().len(), CHANNELS);
    }
    // The crate's documentation states the memory of a channel whose name and payload have 111
    // bytes together. In this test they have 6 + 10 = 16 bytes, so 111 - 16 bytes are added to the
    // measured memory of a channel.
    let each = bound / CHANNELS + 111 - 16;
    assert!(each <= 440, "{each} bytes for a channel with one entry");
    // The log's order list may contain one unused element for each entry.
    let most = bound + bound / 10;
    assert!(hub.log_bytes() <= most, "{} of {bound}", hub.log_bytes());
    publish(&mut hub, "one:too:many", 2 * bound as usize, 3);
    assert!(hub.evict(Now(3), u32::MAX) > 0);
    assert!(hub.log_bytes() <= 2 * bound);
}

/// Each message reserves 64 numbers, most of which are unused. So the numbers are not contiguous.
#[test]
fn numbers_may_have_holes() {
    let last_two = namespace("a", |n| n.log_entries = Some(2));
    let mut hub = hub(vec![last_two], |_| {});
    let publish = |hub: &mut Node, channel: &str, number: u64| {
        let (epoch, sequence) = (Epoch::new(7), Sequence(number));
        let (payload, ledger) = (Payload::Text("x".into()), hub.log().ledger());
        let id = Cursor { epoch, sequence };
        let publication = Publication::new(id, name(channel), payload, Now(0), ledger);
        hub.publish(Arc::new(publication), Now(0));
        hub.check_invariants();
    };
    for (number, channel) in [(64, "a"), (65, "b"), (192, "a"), (256, "b"), (640, "a")] {
        publish(&mut hub, channel, number);
    }
    assert_eq!(held(&hub), [65, 192, 256, 640]);
    let after = |number| {
        Since::After(Cursor {
            epoch: Epoch::new(7),
            sequence: Sequence(number),
        })
    };
    // A client may resume from a number that no publication has.
    for (slot, position, given) in [
        (0, 100, vec![192, 640]),
        (1, 192, vec![640]),
        (2, 639, vec![640]),
    ] {
        let joined = hub.subscribe(slot, &name("a"), after(position), Sequence(640));
        assert!(matches!(joined, JoinOutcome::Joined(joined) if joined.gap.is_none()));
        assert_eq!(give(&mut hub, slot), given, "from {position}");
    }
    let JoinOutcome::Joined(joined) = hub.subscribe(3, &name("a"), after(63), Sequence(640)) else {
        panic!("refused")
    };
    assert_eq!(joined.gap.unwrap().until.sequence, Sequence(64));
    publish(&mut hub, "a", 1024);
    assert_eq!(give(&mut hub, 0), [1024]);
    hub.evict(Now(u64::MAX / 2), 100);
    assert_eq!(hub.log().len(), 0);
}

#[test]
fn channels_in_which_clients_broadcast_take_no_more_than_their_share() {
    let chat = namespace("chat:*", |n| {
        n.client_publish = Some(crate::config::ClientPublish::Broadcast);
    });
    let mut hub = hub(vec![chat], |c| c.log.bytes = 1 << 20);
    for _ in 0..10 {
        publish(&mut hub, "orders", 1_000, 0);
    }
    for number in 0..2_000 {
        publish(&mut hub, &format!("chat:{}", number % 7), 1_000, 0);
        hub.evict(Now(0), 100);
        assert!(hub.log_bytes() < 600_000, "a half and the orders");
    }
    assert!(hub.log_bytes() > 500_000);
    assert_eq!(held(&hub)[..10], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    hub.check_invariants();
    // Publications of feeders may use the whole log, not only half of it.
    for _ in 0..2_000 {
        publish(&mut hub, "orders", 1_000, 0);
        hub.evict(Now(0), 100);
    }
    assert!(hub.log_bytes() > 1_000_000);
    hub.check_invariants();
}

#[test]
fn entries_that_a_late_hub_holds_are_delivered_although_earlier_ones_were_evicted() {
    let mut config = Config {
        namespace: vec![namespace("c", |n| n.log_entries = Some(1))],
        ..Config::default()
    };
    config.quota.behind_bytes = 10;
    let (epoch, head) = (Epoch::new(7), Sequence::ZERO);
    let mut writer = crate::log::Writer::new(&config, head);
    let mut hub = Hub::new(Arc::clone(writer.log()), 0, epoch, head, &config);
    let mut sent = Vec::new();
    // The hub has a quota of 10 bytes. So it does not hold the first publication, which has 99
    // bytes.
    for (number, bytes) in [(1, 99), (2, 1), (3, 1)] {
        let id = Cursor {
            epoch,
            sequence: Sequence(number),
        };
        let payload = Payload::Text("x".repeat(bytes).into());
        let one = Publication::new(id, name("c"), payload, Now(0), writer.log().ledger());
        writer.announce(id.sequence);
        writer.publish(Arc::new(one), |interest, key, entry| {
            sent.push((interest.place, key, entry));
        });
        writer.note_posted();
        if number == 1 {
            let _joined = hub.subscribe(0, &name("c"), Since::Now, id.sequence);
        }
    }
    for (place, key, entry) in sent {
        hub.take(place, key, entry, Now(0));
    }
    let (channel, gap) = hub.take_gap(0).unwrap();
    assert_eq!((channel, gap.until.sequence), (name("c"), Sequence(1)));
    assert_eq!((hub.take_gap(0), hub.head().sequence), (None, Sequence(3)));
    let (mut planned, compressor) = (Vec::new(), &mut Compressor::default());
    let kind = FrameKind::WebSocket(Envelope::Data);
    hub.plan(0, kind, Now(0), 1 << 20, compressor, &mut planned);
    let planned: Vec<_> = planned.iter().map(|step| step.sequence.0).collect();
    assert_eq!(planned, [2, 3]);
}
