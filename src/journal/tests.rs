//! The keeper on a store that fails, fills up and forgets, under seeds; and what opening makes of
//! it.

use std::io::ErrorKind;

use fastrand::Rng;

use super::engine::Opener as _;
use super::fake::{FakeStore, Faults};
use super::record::PayloadRef;
use super::record_writer::Settings;
use super::recover::{Replayed, open};
use super::state::{Boot, Mark};
use super::*;
use crate::config::LogBounds;
use crate::config::limits::JOURNAL_CHUNK_BYTES;
use crate::id::{Epoch, Sequence};

/// How many seeds each property is tried with.
const SEEDS: u64 = 400;

fn settings(sync: JournalSync, boot: &str) -> Settings {
    Settings {
        bounds: LogBounds::default(),
        bytes_max: JOURNAL_CHUNK_BYTES,
        sync,
        boot: Boot::new(boot),
        pause: Duration::ZERO,
    }
}

/// What a start told, in order.
#[derive(Debug, Default)]
struct Told {
    texts: Vec<(u64, String)>,
    hole: Option<u64>,
}

fn start(store: &FakeStore, settings: Settings) -> Result<(Keeper, Told), EngineError> {
    let mut told = Told::default();
    let mut each = |replayed: Replayed<'_>| match replayed {
        Replayed::Record(sequence, record) => {
            if let PayloadRef::Text(text) = record.payload {
                told.texts.push((sequence.0, text.to_owned()));
            }
        }
        Replayed::Hole(until) => told.hole = Some(until.0),
        Replayed::Epoch(_) => {}
    };
    let opener = Box::new(store.clone());
    let keeper = open(opener, settings, Epoch::new(7), &mut each)?;
    Ok((keeper, told))
}

fn stage(keeper: &mut Keeper, text: &str) {
    let is_staged = keeper.stage(&Record {
        published_us: 1,
        ttl_us: None,
        channel: "a",
        event: None,
        key: None,
        dedupe: None,
        payload: PayloadRef::Text(text),
    });
    assert!(is_staged);
}

/// A batch of one.
fn append(keeper: &mut Keeper, text: &str) -> Result<u64, EngineError> {
    stage(keeper, text);
    keeper.append()
}

#[test]
fn journal_goes_on_where_it_ended() {
    for sync in [JournalSync::Always, JournalSync::Batch, JournalSync::Os] {
        let store = FakeStore::new(1);
        let (mut keeper, told) = start(&store, settings(sync, "x")).unwrap();
        assert!(told.texts.is_empty() && told.hole.is_none());
        append(&mut keeper, "one").unwrap();
        append(&mut keeper, "two").unwrap();
        // The process is killed.
        drop(keeper);
        let (mut keeper, told) = start(&store, settings(sync, "x")).unwrap();
        assert_eq!(told.texts, [(1, "one".to_owned()), (2, "two".to_owned())]);
        assert_eq!((keeper.head(), told.hole), (Sequence(2), None));
        append(&mut keeper, "three").unwrap();
        keeper.close().unwrap();
        store.lose_power();
        let (keeper, told) = start(&store, settings(sync, "y")).unwrap();
        assert_eq!(told.texts.len(), 3);
        assert_eq!((keeper.head(), told.hole), (Sequence(3), None));
        assert_eq!(store.chunks_len(), 1);
    }
}

#[test]
fn numbers_that_may_have_been_given_out_and_lost_are_left_out() {
    let store = FakeStore::new(1);
    let (mut keeper, _) = start(&store, settings(JournalSync::Os, "x")).unwrap();
    append(&mut keeper, "one").unwrap();
    let ceiling = keeper.ceiling();
    drop(keeper);
    store.lose_power();
    let (mut keeper, told) = start(&store, settings(JournalSync::Os, "y")).unwrap();
    assert_eq!(told.hole, Some(ceiling.0));
    assert_eq!(keeper.head(), ceiling);
    append(&mut keeper, "after").unwrap();
    drop(keeper);
    // The hole is told again by the next start, in its place.
    let (keeper, told) = start(&store, settings(JournalSync::Os, "y")).unwrap();
    let after = (ceiling.0 + 1, "after".to_owned());
    assert_eq!(told.texts.last(), Some(&after));
    assert_eq!(
        told.hole,
        told.texts
            .first()
            .filter(|one| **one != after)
            .and(Some(ceiling.0))
    );
    assert_eq!(keeper.head().0, ceiling.0 + 1);
}

#[test]
fn crash_between_the_steps_of_a_start_reuses_no_number() {
    let store = FakeStore::new(1);
    let (mut keeper, _) = start(&store, settings(JournalSync::Batch, "x")).unwrap();
    append(&mut keeper, "one").unwrap();
    let ceiling = keeper.ceiling();
    drop(keeper);
    store.lose_power();
    // Two starts that got no further than to be ready.
    drop(start(&store, settings(JournalSync::Batch, "y")).unwrap());
    let (keeper, _) = start(&store, settings(JournalSync::Batch, "y")).unwrap();
    assert_eq!(keeper.head(), ceiling);
}

#[test]
fn full_store_refuses_a_batch_and_takes_the_next_when_there_is_room() {
    let store = FakeStore::new(1);
    let (mut keeper, _) = start(&store, settings(JournalSync::Always, "x")).unwrap();
    append(&mut keeper, "one").unwrap();
    store.set_room(20);
    let refused = append(&mut keeper, "two").unwrap_err();
    assert!(matches!(&refused, EngineError::Io(e) if e.kind() == ErrorKind::StorageFull));
    assert_eq!(keeper.head(), Sequence(1));
    assert!(append(&mut keeper, "two").is_err());
    store.set_room(usize::MAX);
    append(&mut keeper, "three").unwrap();
    drop(keeper);
    let (_, told) = start(&store, settings(JournalSync::Always, "x")).unwrap();
    assert_eq!(told.texts, [(1, "one".to_owned()), (2, "three".to_owned())]);
}

#[test]
fn refused_batch_that_turns_up_is_left_behind_once_the_store_is_open_again() {
    for seed in 0..20 {
        let store = FakeStore::new(seed);
        let (mut keeper, _) = start(&store, settings(JournalSync::Os, "x")).unwrap();
        append(&mut keeper, "one").unwrap();
        store.set_room(40);
        stage(&mut keeper, "two");
        stage(&mut keeper, "three");
        keeper.append().unwrap_err();
        store.set_room(usize::MAX);
        append(&mut keeper, "four").unwrap();
        drop(keeper);
        let (_, told) = start(&store, settings(JournalSync::Os, "x")).unwrap();
        assert_eq!(told.texts, [(1, "one".to_owned()), (2, "four".to_owned())]);
        assert_eq!(told.hole, None);
    }
}

#[test]
fn store_that_has_failed_is_left_alone_for_a_while() {
    let store = FakeStore::new(1);
    let slow = Settings {
        pause: Duration::from_secs(3600),
        ..settings(JournalSync::Os, "x")
    };
    let (mut keeper, _) = start(&store, slow).unwrap();
    store.set_room(0);
    append(&mut keeper, "one").unwrap_err();
    store.set_room(usize::MAX);
    let refused = append(&mut keeper, "one").unwrap_err();
    assert!(matches!(refused, EngineError::Broken), "{refused}");
    assert!(keeper.close().is_err());
}

#[test]
fn store_is_not_opened_again_while_somebody_still_has_it() {
    let store = FakeStore::new(1);
    let (mut keeper, _) = start(&store, settings(JournalSync::Os, "x")).unwrap();
    let engine = keeper.engine();
    store.set_room(0);
    append(&mut keeper, "one").unwrap_err();
    store.set_room(usize::MAX);
    let refused = append(&mut keeper, "one").unwrap_err();
    assert!(matches!(refused, EngineError::Broken), "{refused}");
    drop(engine);
    append(&mut keeper, "one").unwrap();
}

#[test]
fn batches_that_the_store_has_lost_are_a_hole_and_their_numbers_are_not_given_out_again() {
    for left in 0..3 {
        let store = FakeStore::new(1);
        let (mut keeper, _) = start(&store, settings(JournalSync::Always, "x")).unwrap();
        for text in ["one", "two", "three"] {
            append(&mut keeper, text).unwrap();
        }
        drop(keeper);
        store.cut(left);
        let (mut keeper, told) = start(&store, settings(JournalSync::Always, "x")).unwrap();
        assert_eq!(told.texts.len(), left);
        assert!(told.hole.unwrap() >= 3);
        append(&mut keeper, "after").unwrap();
        assert!(keeper.head() > Sequence(3));
    }
}

#[test]
fn lost_state_is_an_error_and_a_store_that_lost_everything_begins_anew() {
    let store = FakeStore::new(1);
    let (mut keeper, _) = start(&store, settings(JournalSync::Always, "x")).unwrap();
    append(&mut keeper, "one").unwrap();
    drop(keeper);
    store.forget_state();
    let error = start(&store, settings(JournalSync::Always, "x")).unwrap_err();
    assert!(matches!(error, EngineError::Damaged(_)), "{error}");
    let other = FakeStore::new(1);
    let engine = other.open().unwrap();
    engine
        .put_mark(Mark {
            sequence: Sequence(9),
            is_doubtful: false,
        })
        .unwrap();
    drop(engine);
    let (keeper, told) = start(&other, settings(JournalSync::Always, "x")).unwrap();
    assert_eq!((keeper.head(), told.hole), (Sequence::ZERO, None));
}

#[test]
fn chunks_go_when_neither_log_nor_keys_can_have_anything_of_them() {
    let store = FakeStore::new(1);
    let small = Settings {
        bounds: LogBounds {
            entries: 10,
            ..LogBounds::default()
        },
        bytes_max: 64 * JOURNAL_CHUNK_BYTES,
        ..settings(JournalSync::Os, "x")
    };
    let (mut keeper, _) = start(&store, small).unwrap();
    let text = "x".repeat(1024 * 1024);
    for _ in 0..100 {
        append(&mut keeper, &text).unwrap();
    }
    assert_eq!(store.chunks_len(), 2);
    drop(keeper);
    let (_, told) = start(&store, small).unwrap();
    assert!(told.texts.len() >= 10);
    assert_eq!(told.texts.last().unwrap().0, 100);
}

#[test]
fn oldest_chunks_go_when_the_store_would_hold_too_much() {
    let store = FakeStore::new(1);
    let tight = Settings {
        bytes_max: 3 * JOURNAL_CHUNK_BYTES,
        ..settings(JournalSync::Os, "x")
    };
    let (mut keeper, _) = start(&store, tight).unwrap();
    let text = "x".repeat(1024 * 1024);
    for _ in 0..100 {
        append(&mut keeper, &text).unwrap();
        assert!(store.bytes() <= tight.bytes_max, "{}", store.bytes());
    }
    drop(keeper);
    let (keeper, told) = start(&store, tight).unwrap();
    assert_eq!(keeper.head(), Sequence(100));
    assert_eq!(told.texts.last().unwrap().0, 100);
    assert!(told.texts.len() >= 30);
}

#[test]
fn store_whose_files_are_gone_is_refused_until_they_are_back() {
    for sync in [JournalSync::Always, JournalSync::Batch, JournalSync::Os] {
        let store = FakeStore::new(1);
        let (mut keeper, _) = start(&store, settings(sync, "x")).unwrap();
        append(&mut keeper, "one").unwrap();
        keeper.check().unwrap();
        store.set_removed(true);
        let found = keeper.check().unwrap_err();
        assert!(matches!(found, EngineError::Removed(_)), "{found}");
        assert!(found.to_string().contains("restart the server"), "{found}");
        let refused = append(&mut keeper, "two").unwrap_err();
        assert!(matches!(refused, EngineError::Removed(_)), "{refused}");
        assert!(!keeper.is_doubtful());
        store.set_removed(false);
        append(&mut keeper, "three").unwrap();
        drop(keeper);
        let (_, told) = start(&store, settings(sync, "y")).unwrap();
        let expected = [(1, "one".to_owned()), (2, "three".to_owned())];
        assert_eq!(told.texts, expected);
    }
}

#[test]
fn check_that_is_not_possible_keeps_the_store() {
    let store = FakeStore::new(1);
    let mut journal = journal(&store);
    store.set_unchecked();
    for _ in 0..3 {
        journal.check_now();
        assert_eq!(journal.failure(), None);
        assert!(write(&mut journal));
    }
    store.set_removed(true);
    journal.check_now();
    assert!(journal.failure().unwrap().contains("removed"));
    // It was let go, and without a descriptor it cannot be opened.
    store.set_unchecked();
    assert!(!write(&mut journal));
    assert!(!journal.keeper.is_doubtful());
    store.set_removed(false);
    journal.check_now();
    assert!(write(&mut journal));
}

#[test]
fn chunk_that_cannot_be_begun_without_a_descriptor_leaves_no_doubt() {
    let store = FakeStore::new(1);
    let (mut keeper, _) = start(&store, settings(JournalSync::Always, "x")).unwrap();
    let text = "x".repeat(1024 * 1024);
    for _ in 0..JOURNAL_CHUNK_BYTES / text.len() as u64 {
        append(&mut keeper, &text).unwrap();
    }
    store.set_unchecked();
    let refused = append(&mut keeper, "refused").unwrap_err();
    assert!(matches!(refused, EngineError::Io(_)), "{refused}");
    store.set_removed(false);
    append(&mut keeper, "one").unwrap();
    assert!(!keeper.is_doubtful());
}

#[test]
fn stop_writes_nothing_where_files_are_gone() {
    let store = FakeStore::new(1);
    let (mut keeper, _) = start(&store, settings(JournalSync::Batch, "x")).unwrap();
    append(&mut keeper, "one").unwrap();
    let syncs = store.syncs();
    store.set_removed(true);
    let refused = keeper.close().unwrap_err();
    assert!(matches!(refused, EngineError::Removed(_)), "{refused}");
    assert_eq!(store.syncs(), syncs);
}

fn journal(store: &FakeStore) -> Journal {
    let (keeper, _) = start(store, settings(JournalSync::Always, "x")).unwrap();
    Journal::new(keeper, Arc::new(Wake::new().unwrap()), Arc::default()).unwrap()
}

/// Stages a batch of one and writes it.
fn write(journal: &mut Journal) -> bool {
    let _commit = journal.commit();
    stage(&mut journal.keeper, "text");
    journal.append()
}

#[test]
fn failure_lasts_until_the_files_are_back_without_a_batch() {
    let store = FakeStore::new(1);
    let mut journal = journal(&store);
    assert!(write(&mut journal) && journal.failure().is_none());
    store.set_removed(true);
    for _ in 0..3 {
        journal.check_now();
        assert!(journal.failure().unwrap().contains("removed"));
        assert_eq!(journal.metrics.journal_failing.value(), 1);
        assert!(!write(&mut journal));
    }
    store.set_removed(false);
    journal.check_now();
    assert_eq!(journal.failure(), None);
    assert_eq!(journal.metrics.journal_failing.value(), 0);
    assert!(write(&mut journal));
}

#[test]
fn batch_is_written_only_after_a_check_that_is_due() {
    let store = FakeStore::new(1);
    let mut journal = journal(&store);
    store.set_removed(true);
    journal.checked -= Duration::from_millis(FILES_CHECK_MS);
    assert!(!write(&mut journal));
    assert!(journal.failure().unwrap().contains("removed"));
}

#[test]
fn full_store_counts_as_failing_until_a_batch_is_written_or_none_comes_for_a_while() {
    let store = FakeStore::new(1);
    let mut journal = journal(&store);
    store.set_room(0);
    assert!(!write(&mut journal));
    // It could be opened, but that does not show that it has room.
    journal.check_now();
    assert!(journal.failure().is_some());
    journal.failure.as_mut().unwrap().refused -= Duration::from_millis(JOURNAL_QUIET_MS);
    journal.check_now();
    assert_eq!(journal.failure(), None);
    assert!(!write(&mut journal) && journal.failure().is_some());
    store.set_room(usize::MAX);
    assert!(write(&mut journal) && journal.failure().is_none());
    // Files that are removed meanwhile are another reason.
    store.set_room(0);
    assert!(!write(&mut journal));
    store.set_removed(true);
    assert!(!write(&mut journal));
    assert!(journal.failure().unwrap().contains("removed"));
}

/// What a run appended, what of it was acknowledged as durable, and how it ended.
struct Run {
    appended: Vec<(u64, String)>,
    durable: u64,
}

fn run(keeper: &mut Keeper, rng: &mut Rng, told: &Told, store: &FakeStore) -> Run {
    let mut run = Run {
        appended: told.texts.clone(),
        durable: told.texts.last().map_or(0, |last| last.0),
    };
    for batch in 0..rng.u64(..40) {
        let mut batch_texts = Vec::new();
        for index in 0..rng.u64(1..4) {
            let text = format!("{batch}/{index}/{}", rng.u64(..));
            stage(keeper, &text);
            batch_texts.push((keeper.head().0 + 1 + index, text));
        }
        let is_removed = rng.u8(..20) == 0;
        store.set_removed(is_removed);
        let is_noticed = rng.bool() && keeper.check().is_err() && is_removed;
        let appended = keeper.append();
        store.set_removed(false);
        if appended.is_err() {
            continue;
        }
        assert!(!is_noticed, "appended to a store whose files are gone");
        run.appended.extend(batch_texts);
        let is_synced = match keeper.settings.sync {
            JournalSync::Always => true,
            JournalSync::Os => false,
            JournalSync::Batch => {
                rng.bool() && {
                    let synced = keeper.engine().is_some_and(|engine| engine.sync().is_ok());
                    if !synced {
                        keeper.doubt();
                    }
                    synced
                }
            }
        };
        // Only the store knows; the keeper has to suspect it whenever it is so.
        assert!(keeper.is_doubtful() || !store.is_doomed());
        if is_synced && !keeper.is_doubtful() {
            run.durable = keeper.head().0;
        }
    }
    run
}

/// After any crash: a prefix of what was appended, all that was durable, nothing invented, and no
/// number given out twice.
#[test]
fn crash_at_any_point_leaves_a_prefix_with_all_that_was_durable() {
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let store = FakeStore::new(rng.u64(..));
        let sync = [JournalSync::Always, JournalSync::Batch, JournalSync::Os][rng.usize(..3)];
        let mut boot = 0_u64;
        let (mut keeper, mut told) = start(&store, settings(sync, "0")).unwrap();
        for _ in 0..4 {
            store.set_faults(Faults {
                write_errors: rng.u32(..100),
                sync_errors: rng.u32(..100),
            });
            let run = run(&mut keeper, &mut rng, &told, &store);
            store.set_faults(Faults::default());
            let is_doubtful = keeper.is_doubtful();
            let given_out = keeper.head();
            let is_failing = keeper.engine().is_none();
            drop(keeper);
            let has_lost_power = rng.bool();
            if has_lost_power {
                store.lose_power();
                boot += 1;
            }
            (keeper, told) = start(&store, settings(sync, &boot.to_string())).unwrap();
            let is_whole = !has_lost_power || (sync == JournalSync::Always && !is_doubtful);
            check(
                &run,
                &told,
                (is_whole, is_doubtful, is_failing),
                given_out,
                seed,
            );
            assert!(
                keeper.head() >= given_out,
                "seed {seed}: a number comes twice"
            );
        }
    }
}

fn check(
    run: &Run,
    told: &Told,
    (is_whole, is_doubtful, is_failing): (bool, bool, bool),
    given_out: Sequence,
    seed: u64,
) {
    let common = told.texts.len().min(run.appended.len());
    assert_eq!(told.texts[..common], run.appended[..common], "seed {seed}");
    // A batch that was refused at last may turn up, since nobody has opened the store again.
    assert!(
        is_failing || told.texts.len() <= run.appended.len(),
        "seed {seed}: a refused batch came back"
    );
    let last = told.texts.last().map_or(0, |last| last.0);
    if !is_doubtful {
        assert!(last >= run.durable, "seed {seed}: {last} < {}", run.durable);
    }
    if is_whole {
        assert!(told.texts.len() >= run.appended.len(), "seed {seed}");
    }
    if told.texts.len() < run.appended.len() {
        assert!(
            told.hole >= Some(given_out.0),
            "seed {seed}: nobody is told"
        );
    }
}
