//! Tests of subscribers whose position is before numbers that may be lost.

use super::*;

/// What a subscriber receives.
#[derive(Debug, PartialEq)]
enum Event {
    Publications(Vec<u64>),
    Gap(Gap),
}

use Event::Publications;

fn cursor(sequence: u64) -> Cursor {
    Cursor {
        epoch: epoch(),
        sequence: Sequence(sequence),
    }
}

fn gap(since: u64, until: u64, missed: Option<u64>, cause: GapCause) -> Event {
    Event::Gap(Gap {
        since: Some(cursor(since)),
        until: cursor(until),
        missed,
        cause,
    })
}

fn lost(since: u64, until: u64) -> Event {
    gap(since, until, None, GapCause::Restart)
}

/// Creates a hub as after a start, with a log that lacks the numbers 6 to 100 and 103 to 200.
/// Channel c1 has number 3, and channel c0 has all others.
fn hub_after_losses(config: impl FnOnce(&mut Config)) -> Node {
    let mut hub = hub(config);
    for (numbers, lost_until) in [(1..=5, 100), (101..=102, 200), (201..=202, 0)] {
        for number in numbers {
            let channel = u8::from(number == 3);
            hub.publish(publication(&hub, number, channel, 1), Now(0));
        }
        if lost_until > 0 {
            hub.note_lost(Sequence(lost_until));
        }
    }
    hub
}

/// Subscribes the conn in slot 0, and serves it until nothing is pending. Returns what it receives.
fn resume(hub: &mut Node, channel: u8, since: Since) -> (Joined, Vec<Event>) {
    let sequenced = hub.sequenced();
    let outcome = hub.subscribe(0, &name(channel), since, sequenced);
    let JoinOutcome::Joined(joined) = outcome else {
        panic!("{outcome:?}");
    };
    hub.check_invariants();
    let mut events: Vec<_> = joined.gap.map(Event::Gap).into_iter().collect();
    events.extend(serve(hub));
    (joined, events)
}

fn serve(hub: &mut Node) -> Vec<Event> {
    let (mut events, mut planned) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let gaps = std::iter::from_fn(|| hub.take_gap(0)).map(|(_, gap)| Event::Gap(gap));
        events.extend(gaps);
        let compressor = &mut Compressor::default();
        hub.plan(0, KIND, Now(0), 1 << 20, compressor, &mut planned);
        if !planned.is_empty() {
            let numbers = planned.iter().map(|step| step.sequence.0);
            events.push(Publications(numbers.collect()));
            hub.advance(0, &planned, usize::MAX / 2);
            hub.check_invariants();
        } else if !hub.take_found_loss() {
            assert!(!hub.is_behind(0));
            return events;
        }
    }
    panic!("the subscriber receives nothing, but a loss is pending: {events:?}");
}

#[test]
fn publications_between_losses_are_received_and_each_loss_is_one_gap() {
    let after_first = [lost(5, 100), Publications(vec![101, 102])];
    let after_second = [lost(102, 200), Publications(vec![201, 202])];
    let from_2 = [Publications(vec![4, 5])].into_iter();
    for (since, expected) in [
        (2, from_2.chain(after_first).chain(after_second).collect()),
        (50, vec![lost(50, 100), Publications(vec![101, 102])]),
        (101, vec![Publications(vec![102])]),
        (102, vec![]),
        (150, vec![lost(150, 200), Publications(vec![201, 202])]),
    ] {
        let expected: Vec<_> = match since {
            50..150 => expected
                .into_iter()
                .chain([lost(102, 200), Publications(vec![201, 202])])
                .collect(),
            _ => expected,
        };
        let mut hub = hub_after_losses(|_| {});
        let (joined, events) = resume(&mut hub, 0, after(since));
        assert_eq!(events, expected, "since {since}");
        assert!(!joined.is_recovered);
    }
    let mut hub = hub_after_losses(|_| {});
    let (joined, events) = resume(&mut hub, 0, after(200));
    assert!(joined.is_recovered);
    assert_eq!(events, [Publications(vec![201, 202])]);
}

#[test]
fn loss_is_reported_in_a_channel_without_later_publications() {
    let received = |channel, since| resume(&mut hub_after_losses(|_| {}), channel, after(since)).1;
    assert_eq!(received(1, 1), [Publications(vec![3]), lost(3, 200)]);
    assert_eq!(received(1, 3), [lost(3, 200)]);
    assert_eq!(received(2, 1), [lost(1, 200)]);
    assert_eq!(received(2, 200), []);
    // The next publication does not repeat the gap.
    let mut hub = hub_after_losses(|_| {});
    resume(&mut hub, 1, after(1));
    hub.publish(publication(&hub, 203, 1, 1), Now(0));
    assert_eq!(serve(&mut hub), [Publications(vec![203])]);
    // A subscriber without a position receives no gap.
    assert_eq!(resume(&mut hub, 2, Since::Now).1, []);
}

#[test]
fn loss_before_evicted_publications_is_one_gap_with_them() {
    let mut hub = hub_after_losses(|config| config.log.entries = 1);
    hub.evict(Now(0), 100);
    let (_, events) = resume(&mut hub, 0, after(2));
    assert_eq!(events, [lost(2, 201), Publications(vec![202])]);
}

#[test]
fn gap_of_a_slow_subscriber_that_covers_a_loss_has_no_number() {
    let mut hub = hub_after_losses(|config| config.quota.behind_publications = 2);
    let _joined = hub.subscribe(0, &name(0), after(101), Sequence(202));
    for number in 203..=205 {
        hub.publish(publication(&hub, number, 0, 1), Now(0));
    }
    assert_eq!(hub.enforce(0, Now(0)), QuotaOutcome::Skipped(4));
    let expected = [
        gap(101, 203, None, GapCause::Slow),
        Publications(vec![204, 205]),
    ];
    assert_eq!(serve(&mut hub), expected);
}

#[test]
fn publications_before_a_loss_are_received_by_a_subscriber_that_skips_superseded_ones() {
    let mut hub = hub(|config| {
        config.quota.behind_publications = 1;
        config.namespace = vec![Namespace {
            overflow: Some(Overflow::Conflate),
            ..namespace("*")
        }];
    });
    for number in [1, 2, 3, 101, 102, 103] {
        if number == 101 {
            hub.note_lost(Sequence(100));
        }
        let id = cursor(number);
        let (payload, ledger) = (Payload::Text("x".into()), hub.log().ledger());
        let one = Publication::new(id, name(0), payload, Now(0), ledger);
        let one = one.labelled(None, Some("k".into()));
        hub.publish(Arc::new(one), Now(0));
    }
    let (_, events) = resume(&mut hub, 0, after(1));
    let expected = [
        Publications(vec![2]),
        Publications(vec![3]),
        // The loss, and the two superseded publications after it.
        lost(3, 102),
        Publications(vec![103]),
    ];
    assert_eq!(events, expected);
}

#[test]
fn poll_receives_the_part_of_a_gap_up_to_its_position() {
    let mut hub = hub_after_losses(|_| {});
    let _joined = hub.subscribe(0, &name(0), after(5), Sequence(202));
    let gaps: Vec<_> = std::iter::from_fn(|| hub.take_gap(0)).collect();
    let whole = Gap {
        since: Some(cursor(5)),
        until: cursor(100),
        missed: None,
        cause: GapCause::Restart,
    };
    assert_eq!(gaps, []);
    let gaps = || vec![(name(0), whole)];
    assert_eq!(hub.cut_gaps(0, gaps(), cursor(5)), []);
    assert_eq!(hub.take_gap(0), Some((name(0), whole)), "it is kept");
    let part = Gap {
        until: cursor(50),
        ..whole
    };
    assert_eq!(hub.cut_gaps(0, gaps(), cursor(50)), [(name(0), part)]);
}

/// Checks what a subscriber has received after the position `since`. `expected` has the
/// publications that the log has. `missing` has all other numbers that must be in a gap.
fn check_received(events: &[Event], since: u64, expected: &[u64], missing: &[u64]) {
    let (mut received, mut gaps, mut position) = (Vec::<u64>::new(), Vec::new(), since);
    for event in events {
        match event {
            Publications(numbers) => {
                received.extend(numbers);
                position = *numbers.last().unwrap();
            }
            Event::Gap(gap) => {
                let range = gap.since.unwrap().sequence.0..gap.until.sequence.0;
                assert!(range.start >= position && !range.is_empty(), "{events:?}");
                position = range.end;
                gaps.push(range);
            }
        }
    }
    assert_eq!(received, expected, "{events:?}");
    let covers = |gap: &std::ops::Range<u64>, number: u64| gap.contains(&(number - 1));
    for number in missing {
        assert!(
            gaps.iter().any(|gap| covers(gap, *number)),
            "{number}: {events:?}"
        );
    }
    for gap in &gaps {
        assert!(
            !expected.iter().any(|number| covers(gap, *number)),
            "{gap:?}: {events:?}"
        );
        assert!(
            missing.iter().any(|number| covers(gap, *number)),
            "{gap:?}: {events:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn gaps_cover_exactly_what_is_lost_or_evicted(
        // Each item is a publication in one of three channels, or a loss of one to three numbers.
        items in proptest::collection::vec(0u64..6, 1..30),
        entries in proptest::option::of(2u64..9),
    ) {
        let mut hub = hub(|config| {
            if let Some(entries) = entries {
                config.namespace = vec![Namespace { log_entries: Some(entries), ..namespace("*") }];
            }
        });
        let (mut published, mut lost, mut head) = (Vec::new(), Vec::new(), 0);
        for item in items {
            if let Ok(channel @ 0..3) = u8::try_from(item) {
                head += 1;
                hub.publish(publication(&hub, head, channel, 1), Now(0));
                while hub.trim(9) > 0 {}
                published.push((channel, head));
            } else {
                lost.extend(head + 1..=head + item - 2);
                head += item - 2;
                hub.note_lost(Sequence(head));
            }
        }
        for (channel, since) in (0..3).flat_map(|channel| (0..=head).map(move |at| (channel, at))) {
            let of_channel = published.iter().filter(|one| one.0 == channel && one.1 > since);
            let of_channel = of_channel.map(|one| one.1);
            let is_kept = |number: &u64| hub.log().find(Sequence(*number)).is_some();
            let (expected, evicted): (Vec<u64>, Vec<u64>) = of_channel.partition(is_kept);
            let lost = lost.iter().copied().filter(|number| *number > since);
            let missing: Vec<u64> = evicted.into_iter().chain(lost).collect();
            let (_, events) = resume(&mut hub, channel, after(since));
            check_received(&events, since, &expected, &missing);
            hub.leave(0);
        }
    }
}
