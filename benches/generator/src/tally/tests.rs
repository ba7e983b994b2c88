//! Tests of the tally: each kind of fault is detected, and a correct stream has no faults.

use super::*;

fn expectation(ids: IdRule, start: Start, role: Role) -> Expectation {
    Expectation {
        stride: Stride::new(0, 1),
        role,
        start,
        ids,
        now_ns: 5_000_000,
    }
}

fn publication(number: u64) -> ClientEvent {
    ClientEvent::Publication {
        stamp: Some(Stamp {
            number,
            due_ns: 2_000_000,
        }),
        sequence: Some(number),
    }
}

fn reader() -> Expectation {
    expectation(IdRule::Numbers, Start::First, Role::Reader)
}

/// Subscribes a connection at `position` and passes the events `all` to it. Returns its tally, and
/// the number of publications that were received, reported in gaps, or lost.
fn tally_of(expectation: &Expectation, position: u64, all: &[ClientEvent]) -> (Tally, u64) {
    let mut tally = Tally::default();
    let mut checker = SequenceChecker::default();
    let ready = ClientEvent::Subscribed {
        sequence: Some(position),
    };
    checker.note(ready, expectation, &mut tally);
    let accounted = all
        .iter()
        .map(|event| checker.note(*event, expectation, &mut tally))
        .sum();
    (tally, accounted)
}

#[test]
fn stream_in_order_is_clean_and_timed() {
    let (tally, accounted) = tally_of(&reader(), 0, &[1, 2, 3].map(publication));
    assert!(tally.faults.is_clean());
    assert_eq!((tally.delivered, accounted, tally.timed()), (3, 3, 3));
    assert_eq!(tally.last_us(), [3000, 3000, 3000]);
    assert!(tally.latency_us(0.5).abs_diff(3000) < 4);
}

#[test]
fn each_fault_is_counted_as_its_kind() {
    let faults = |numbers: &[u64]| {
        let all: Vec<ClientEvent> = numbers.iter().copied().map(publication).collect();
        tally_of(&reader(), 0, &all).0.faults
    };
    assert_eq!(faults(&[1, 3]).lost, 1);
    assert_eq!(faults(&[2]).lost, 1);
    assert_eq!(faults(&[1, 2, 2]).duplicates, 1);
    let swapped = faults(&[1, 3, 2]);
    assert_eq!((swapped.lost, swapped.reordered), (1, 1));
    assert_eq!(faults(&[1, 2, 3, 1]).reordered, 1);
    let wrong = ClientEvent::Publication {
        stamp: Some(Stamp {
            number: 1,
            due_ns: 0,
        }),
        sequence: Some(2),
    };
    assert_eq!(tally_of(&reader(), 0, &[wrong]).0.faults.wrong_ids, 1);
}

#[test]
fn gap_covers_the_numbers_that_it_names() {
    let gap = ClientEvent::Gap { until: Some(3) };
    let covered = [publication(1), gap, publication(4)];
    let (tally, accounted) = tally_of(&reader(), 0, &covered);
    assert!(tally.faults.is_clean());
    assert_eq!((tally.gaps.readers, tally.gaps.skipped), (1, 2));
    assert_eq!(accounted, 4);
    let beyond = [publication(1), gap, publication(5)];
    assert_eq!(tally_of(&reader(), 0, &beyond).0.faults.lost, 1);
}

#[test]
fn gap_covers_one_jump_where_ids_are_not_numbers() {
    let gap = ClientEvent::Gap { until: Some(999) };
    let expectation = expectation(IdRule::Rising, Start::First, Role::Stalled);
    let all = [gap, publication(3), publication(5)];
    let (tally, _) = tally_of(&expectation, 0, &all);
    assert_eq!((tally.gaps.impaired, tally.gaps.skipped), (1, 2));
    assert_eq!(
        (tally.faults.lost, tally.delivered, tally.timed()),
        (1, 0, 0)
    );
}

#[test]
fn churning_connection_starts_after_its_position() {
    let expectation = expectation(IdRule::Numbers, Start::Position, Role::Churning);
    assert!(
        tally_of(&expectation, 6, &[publication(7)])
            .0
            .faults
            .is_clean()
    );
    assert_eq!(
        tally_of(&expectation, 6, &[publication(8)]).0.faults.lost,
        1
    );
    assert_eq!(
        tally_of(&expectation, 6, &[publication(6)])
            .0
            .faults
            .duplicates,
        1
    );
}

#[test]
fn foreign_publications_only_need_rising_ids() {
    let expectation = expectation(IdRule::Rising, Start::Anywhere, Role::Reader);
    let foreign = |sequence| ClientEvent::Publication {
        stamp: None,
        sequence: Some(sequence),
    };
    let (tally, _) = tally_of(&expectation, 10, &[12, 20, 21].map(foreign));
    assert!(tally.faults.is_clean());
    assert_eq!((tally.foreign, tally.delivered, tally.timed()), (3, 3, 0));
    let (tally, _) = tally_of(&expectation, 10, &[12, 11].map(foreign));
    assert_eq!(tally.faults.reordered, 1);
}

#[test]
fn poll_continues_from_its_response_whose_position_never_falls() {
    let answered = |sequence| ClientEvent::PollAnswered {
        position: format!("00000000000a-{sequence}").parse().unwrap(),
    };
    let all = [publication(1), answered(1), answered(1), publication(2)];
    let (tally, accounted) = tally_of(&reader(), 0, &all);
    assert!(tally.faults.is_clean());
    assert_eq!((tally.answers, accounted), (2, 2));
    let back = [publication(1), publication(2), answered(1), publication(2)];
    let (tally, _) = tally_of(&reader(), 0, &back);
    assert_eq!((tally.faults.wrong_ids, tally.faults.duplicates), (1, 1));
    let stalled = expectation(IdRule::Numbers, Start::First, Role::Stalled);
    assert_eq!(tally_of(&stalled, 0, &[answered(1)]).0.answers, 0);
}

#[test]
fn strides_divide_the_numbers_between_channels() {
    let stride = Stride::new(1, 3);
    let numbers: Vec<u64> = (0..)
        .scan(0, |last, _: u32| {
            *last = stride.after(*last);
            Some(*last)
        })
        .take(3)
        .collect();
    assert_eq!(numbers, [2, 5, 8]);
    assert_eq!(
        [0, 1, 2, 4, 5].map(|number| stride.count_to(number)),
        [0, 0, 1, 1, 2]
    );
    let expectation = Expectation { stride, ..reader() };
    let (tally, accounted) = tally_of(&expectation, 0, &[2, 5, 11].map(publication));
    assert_eq!((tally.faults.lost, accounted), (1, 4));
}

#[test]
fn sums_of_threads_keep_the_longest_time() {
    let (mut one, _) = tally_of(&reader(), 0, &[publication(1)]);
    let late = Expectation {
        now_ns: 9_000_000,
        ..reader()
    };
    let (other, _) = tally_of(&late, 0, &[1, 2].map(publication));
    one.add(&other);
    assert_eq!(one.last_us(), [7000, 7000]);
    assert_eq!((one.delivered, one.timed()), (3, 3));
}
