//! Tests of the record writer on a store with seeded faults, and of the recovery after each fault.

use std::io::ErrorKind;

use fastrand::Rng;

use super::engine::Opener as _;
use super::fake::{FakeStore, Faults};
use super::on_disk::record;
use super::record::PayloadRef;
use super::record_writer::Settings;
use super::recover::{ReplayEvent, open};
use super::state::{BootId, Mark};
use super::*;
use crate::config::LogBounds;
use crate::config::limits::JOURNAL_CHUNK_BYTES;
use crate::id::{Epoch, Sequence};

/// The number of random seeds with which each property is tested.
const SEEDS: u64 = 400;

fn settings(sync: JournalSync, boot: &str) -> Settings {
    Settings {
        bounds: LogBounds::default(),
        bytes_max: JOURNAL_CHUNK_BYTES,
        sync,
        boot: BootId::new(boot),
        pause: Duration::ZERO,
    }
}

/// The result of reading the journal at a start: the records, and the number up to which
/// publications may be lost.
#[derive(Debug, Default)]
struct Replay {
    texts: Vec<(u64, String)>,
    lost_until: Option<u64>,
}

fn start(store: &FakeStore, settings: Settings) -> Result<(RecordWriter, Replay), EngineError> {
    let mut replay = Replay::default();
    let mut each = |replayed: ReplayEvent<'_>| match replayed {
        ReplayEvent::Record(sequence, record) => {
            if let PayloadRef::Text(text) = record.payload {
                replay.texts.push((sequence.0, text.to_owned()));
            }
        }
        ReplayEvent::Lost { until, .. } => replay.lost_until = Some(until.0),
        ReplayEvent::Epochs(_) => {}
    };
    let opener = Box::new(store.clone());
    let record_writer = open(opener, settings, Epoch::new(7), &mut each)?;
    Ok((record_writer, replay))
}

fn stage(record_writer: &mut RecordWriter, text: &str) {
    let is_staged = record_writer.stage(&record(text));
    assert!(is_staged);
}

/// Appends a batch of one record.
fn append(record_writer: &mut RecordWriter, text: &str) -> Result<u64, EngineError> {
    stage(record_writer, text);
    record_writer.append()
}

#[test]
fn journal_continues_after_its_last_record() {
    for sync in [JournalSync::Always, JournalSync::Batch, JournalSync::Os] {
        let store = FakeStore::new(1);
        let (mut record_writer, replay) = start(&store, settings(sync, "x")).unwrap();
        assert!(replay.texts.is_empty() && replay.lost_until.is_none());
        append(&mut record_writer, "one").unwrap();
        append(&mut record_writer, "two").unwrap();
        // The process is killed.
        drop(record_writer);
        let (mut record_writer, replay) = start(&store, settings(sync, "x")).unwrap();
        assert_eq!(replay.texts, [(1, "one".to_owned()), (2, "two".to_owned())]);
        assert_eq!(
            (record_writer.head(), replay.lost_until),
            (Sequence(2), None)
        );
        append(&mut record_writer, "three").unwrap();
        record_writer.close().unwrap();
        store.lose_power();
        let (record_writer, replay) = start(&store, settings(sync, "y")).unwrap();
        assert_eq!(replay.texts.len(), 3);
        assert_eq!(
            (record_writer.head(), replay.lost_until),
            (Sequence(3), None)
        );
        assert_eq!(store.chunks_len(), 1);
    }
}

#[test]
fn numbers_that_may_have_been_assigned_and_lost_are_skipped() {
    let store = FakeStore::new(1);
    let (mut record_writer, _) = start(&store, settings(JournalSync::Os, "x")).unwrap();
    append(&mut record_writer, "one").unwrap();
    let ceiling = record_writer.ceiling();
    drop(record_writer);
    store.lose_power();
    let (mut record_writer, replay) = start(&store, settings(JournalSync::Os, "y")).unwrap();
    assert_eq!(replay.lost_until, Some(ceiling.0));
    assert_eq!(record_writer.head(), ceiling);
    append(&mut record_writer, "after").unwrap();
    drop(record_writer);
    // The next start reports the same loss again.
    let (record_writer, replay) = start(&store, settings(JournalSync::Os, "y")).unwrap();
    let after = (ceiling.0 + 1, "after".to_owned());
    assert_eq!(replay.texts.last(), Some(&after));
    assert_eq!(
        replay.lost_until,
        replay
            .texts
            .first()
            .filter(|one| **one != after)
            .and(Some(ceiling.0))
    );
    assert_eq!(record_writer.head().0, ceiling.0 + 1);
}

#[test]
fn crash_between_the_steps_of_a_start_reuses_no_number() {
    let store = FakeStore::new(1);
    let (mut record_writer, _) = start(&store, settings(JournalSync::Batch, "x")).unwrap();
    append(&mut record_writer, "one").unwrap();
    let ceiling = record_writer.ceiling();
    drop(record_writer);
    store.lose_power();
    // The journal is started twice, without a publication in between.
    drop(start(&store, settings(JournalSync::Batch, "y")).unwrap());
    let (record_writer, _) = start(&store, settings(JournalSync::Batch, "y")).unwrap();
    assert_eq!(record_writer.head(), ceiling);
}

#[test]
fn full_store_refuses_a_batch_and_takes_the_next_when_there_is_room() {
    let store = FakeStore::new(1);
    let (mut record_writer, _) = start(&store, settings(JournalSync::Always, "x")).unwrap();
    append(&mut record_writer, "one").unwrap();
    store.set_room(20);
    let refused = append(&mut record_writer, "two").unwrap_err();
    assert!(matches!(&refused, EngineError::Io(e) if e.kind() == ErrorKind::StorageFull));
    assert_eq!(record_writer.head(), Sequence(1));
    assert!(append(&mut record_writer, "two").is_err());
    store.set_room(usize::MAX);
    append(&mut record_writer, "three").unwrap();
    drop(record_writer);
    let (_, replay) = start(&store, settings(JournalSync::Always, "x")).unwrap();
    assert_eq!(
        replay.texts,
        [(1, "one".to_owned()), (2, "three".to_owned())]
    );
}

#[test]
fn refused_batch_that_appears_later_is_ignored_after_the_store_is_reopened() {
    for seed in 0..20 {
        let store = FakeStore::new(seed);
        let (mut record_writer, _) = start(&store, settings(JournalSync::Os, "x")).unwrap();
        append(&mut record_writer, "one").unwrap();
        store.set_room(40);
        stage(&mut record_writer, "two");
        stage(&mut record_writer, "three");
        record_writer.append().unwrap_err();
        store.set_room(usize::MAX);
        append(&mut record_writer, "four").unwrap();
        drop(record_writer);
        let (_, replay) = start(&store, settings(JournalSync::Os, "x")).unwrap();
        assert_eq!(
            replay.texts,
            [(1, "one".to_owned()), (2, "four".to_owned())]
        );
        assert_eq!(replay.lost_until, None);
    }
}

#[test]
fn failed_store_is_not_reopened_during_the_pause() {
    let store = FakeStore::new(1);
    let slow = Settings {
        pause: Duration::from_secs(3600),
        ..settings(JournalSync::Os, "x")
    };
    let (mut record_writer, _) = start(&store, slow).unwrap();
    store.set_room(0);
    append(&mut record_writer, "one").unwrap_err();
    store.set_room(usize::MAX);
    let refused = append(&mut record_writer, "one").unwrap_err();
    assert!(matches!(refused, EngineError::Broken), "{refused}");
    assert!(record_writer.close().is_err());
}

#[test]
fn store_is_not_reopened_while_its_engine_is_in_use() {
    let store = FakeStore::new(1);
    let (mut record_writer, _) = start(&store, settings(JournalSync::Os, "x")).unwrap();
    let engine = record_writer.engine();
    store.set_room(0);
    append(&mut record_writer, "one").unwrap_err();
    store.set_room(usize::MAX);
    let refused = append(&mut record_writer, "one").unwrap_err();
    assert!(matches!(refused, EngineError::Broken), "{refused}");
    drop(engine);
    append(&mut record_writer, "one").unwrap();
}

#[test]
fn lost_batches_are_reported_and_their_numbers_are_not_assigned_again() {
    for left in 0..3 {
        let store = FakeStore::new(1);
        let (mut record_writer, _) = start(&store, settings(JournalSync::Always, "x")).unwrap();
        for text in ["one", "two", "three"] {
            append(&mut record_writer, text).unwrap();
        }
        drop(record_writer);
        store.cut(left);
        let (mut record_writer, replay) =
            start(&store, settings(JournalSync::Always, "x")).unwrap();
        assert_eq!(replay.texts.len(), left);
        assert!(replay.lost_until.unwrap() >= 3);
        append(&mut record_writer, "after").unwrap();
        assert!(record_writer.head() > Sequence(3));
    }
}

#[test]
fn lost_state_is_an_error_and_an_empty_store_becomes_a_new_journal() {
    let store = FakeStore::new(1);
    let (mut record_writer, _) = start(&store, settings(JournalSync::Always, "x")).unwrap();
    append(&mut record_writer, "one").unwrap();
    drop(record_writer);
    store.forget_state();
    let error = start(&store, settings(JournalSync::Always, "x")).unwrap_err();
    assert!(matches!(error, EngineError::Damaged(_)), "{error}");
    let other = FakeStore::new(1);
    let engine = other.open().unwrap();
    engine
        .put_mark(Mark {
            sequence: Sequence(9),
            has_unsynced: false,
        })
        .unwrap();
    drop(engine);
    let error = start(&other, settings(JournalSync::Always, "x")).unwrap_err();
    assert!(matches!(error, EngineError::Damaged(_)), "{error}");
    other.open().unwrap().put_mark(Mark::default()).unwrap();
    let (record_writer, replay) = start(&other, settings(JournalSync::Always, "x")).unwrap();
    assert_eq!(
        (record_writer.head(), replay.lost_until),
        (Sequence::ZERO, None)
    );
}

#[test]
fn chunks_are_removed_when_neither_log_nor_keys_need_them() {
    let store = FakeStore::new(1);
    let small = Settings {
        bounds: LogBounds {
            entries: 10,
            ..LogBounds::default()
        },
        bytes_max: 64 * JOURNAL_CHUNK_BYTES,
        ..settings(JournalSync::Os, "x")
    };
    let (mut record_writer, _) = start(&store, small).unwrap();
    let text = "x".repeat(1024 * 1024);
    for _ in 0..100 {
        append(&mut record_writer, &text).unwrap();
    }
    assert_eq!(store.chunks_len(), 2);
    drop(record_writer);
    let (_, replay) = start(&store, small).unwrap();
    assert!(replay.texts.len() >= 10);
    assert_eq!(replay.texts.last().unwrap().0, 100);
}

#[test]
fn oldest_chunks_are_removed_above_the_bound_of_bytes() {
    let store = FakeStore::new(1);
    let tight = Settings {
        bytes_max: 3 * JOURNAL_CHUNK_BYTES,
        ..settings(JournalSync::Os, "x")
    };
    let (mut record_writer, _) = start(&store, tight).unwrap();
    let text = "x".repeat(1024 * 1024);
    for _ in 0..100 {
        append(&mut record_writer, &text).unwrap();
        assert!(store.bytes() <= tight.bytes_max, "{}", store.bytes());
    }
    drop(record_writer);
    let (record_writer, replay) = start(&store, tight).unwrap();
    assert_eq!(record_writer.head(), Sequence(100));
    assert_eq!(replay.texts.last().unwrap().0, 100);
    assert!(replay.texts.len() >= 30);
}

#[test]
fn batches_are_refused_while_files_are_missing() {
    for sync in [JournalSync::Always, JournalSync::Batch, JournalSync::Os] {
        let store = FakeStore::new(1);
        let (mut record_writer, _) = start(&store, settings(sync, "x")).unwrap();
        append(&mut record_writer, "one").unwrap();
        record_writer.check().unwrap();
        store.set_removed(true);
        let found = record_writer.check().unwrap_err();
        assert!(matches!(found, EngineError::Removed(_)), "{found}");
        assert!(found.to_string().contains("restart the server"), "{found}");
        let refused = append(&mut record_writer, "two").unwrap_err();
        assert!(matches!(refused, EngineError::Removed(_)), "{refused}");
        assert!(!record_writer.has_unsynced());
        store.set_removed(false);
        append(&mut record_writer, "three").unwrap();
        drop(record_writer);
        let (_, replay) = start(&store, settings(sync, "y")).unwrap();
        let expected = [(1, "one".to_owned()), (2, "three".to_owned())];
        assert_eq!(replay.texts, expected);
    }
}

#[test]
fn check_that_fails_itself_keeps_the_store_open() {
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
    // The check has closed the store because of the removed files. Without a free descriptor, the
    // store cannot be opened again.
    store.set_unchecked();
    assert!(!write(&mut journal));
    assert!(!journal.record_writer.has_unsynced());
    store.set_removed(false);
    journal.check_now();
    assert!(write(&mut journal));
}

#[test]
fn lack_of_a_descriptor_for_a_new_chunk_is_not_a_failed_sync() {
    let store = FakeStore::new(1);
    let (mut record_writer, _) = start(&store, settings(JournalSync::Always, "x")).unwrap();
    let text = "x".repeat(1024 * 1024);
    for _ in 0..JOURNAL_CHUNK_BYTES / text.len() as u64 {
        append(&mut record_writer, &text).unwrap();
    }
    store.set_unchecked();
    let refused = append(&mut record_writer, "refused").unwrap_err();
    assert!(matches!(refused, EngineError::Io(_)), "{refused}");
    store.set_removed(false);
    append(&mut record_writer, "one").unwrap();
    assert!(!record_writer.has_unsynced());
}

#[test]
fn stop_writes_nothing_while_files_are_missing() {
    let store = FakeStore::new(1);
    let (mut record_writer, _) = start(&store, settings(JournalSync::Batch, "x")).unwrap();
    append(&mut record_writer, "one").unwrap();
    let syncs = store.syncs();
    store.set_removed(true);
    let refused = record_writer.close().unwrap_err();
    assert!(matches!(refused, EngineError::Removed(_)), "{refused}");
    assert_eq!(store.syncs(), syncs);
}

fn journal(store: &FakeStore) -> Journal {
    let (record_writer, _) = start(store, settings(JournalSync::Always, "x")).unwrap();
    Journal::new(
        record_writer,
        Arc::new(Wake::new().unwrap()),
        Arc::default(),
    )
    .unwrap()
}

/// Stages a batch of one record, and writes the batch.
fn write(journal: &mut Journal) -> bool {
    let _commit = journal.commit();
    stage(&mut journal.record_writer, "text");
    journal.append()
}

#[test]
fn failure_ends_when_the_files_are_back_even_without_a_batch() {
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
fn due_check_runs_before_a_batch_is_written() {
    let store = FakeStore::new(1);
    let mut journal = journal(&store);
    store.set_removed(true);
    journal.checked -= Duration::from_millis(FILES_CHECK_MS);
    assert!(!write(&mut journal));
    assert!(journal.failure().unwrap().contains("removed"));
}

#[test]
fn full_store_counts_as_failing_until_a_batch_is_written_or_a_quiet_time_passes() {
    let store = FakeStore::new(1);
    let mut journal = journal(&store);
    store.set_room(0);
    assert!(!write(&mut journal));
    // The store can be opened without free space. So opening it again does not end the failure.
    journal.check_now();
    assert!(journal.failure().is_some());
    journal.failure.as_mut().unwrap().refused -= Duration::from_millis(JOURNAL_QUIET_MS);
    journal.check_now();
    assert_eq!(journal.failure(), None);
    assert!(!write(&mut journal) && journal.failure().is_some());
    store.set_room(usize::MAX);
    assert!(write(&mut journal) && journal.failure().is_none());
    // If files are removed while the store is full, the reported reason changes to the removal.
    store.set_room(0);
    assert!(!write(&mut journal));
    store.set_removed(true);
    assert!(!write(&mut journal));
    assert!(journal.failure().unwrap().contains("removed"));
}

/// The records that a run appended, and the number of the last record that was acknowledged as
/// durable.
struct Run {
    appended: Vec<(u64, String)>,
    durable: u64,
}

fn run(record_writer: &mut RecordWriter, rng: &mut Rng, replay: &Replay, store: &FakeStore) -> Run {
    let mut run = Run {
        appended: replay.texts.clone(),
        durable: replay.texts.last().map_or(0, |last| last.0),
    };
    for batch in 0..rng.u64(..40) {
        let mut batch_texts = Vec::new();
        for index in 0..rng.u64(1..4) {
            let text = format!("{batch}/{index}/{}", rng.u64(..));
            stage(record_writer, &text);
            batch_texts.push((record_writer.head().0 + 1 + index, text));
        }
        let is_removed = rng.u8(..20) == 0;
        store.set_removed(is_removed);
        let is_noticed = rng.bool() && record_writer.check().is_err() && is_removed;
        let appended = record_writer.append();
        store.set_removed(false);
        if appended.is_err() {
            continue;
        }
        assert!(!is_noticed, "appended to a store whose files are gone");
        run.appended.extend(batch_texts);
        let is_synced = match record_writer.settings.sync {
            JournalSync::Always => true,
            JournalSync::Os => false,
            JournalSync::Batch => {
                rng.bool() && {
                    let synced = record_writer
                        .engine()
                        .is_some_and(|engine| engine.sync().is_ok());
                    if !synced {
                        record_writer.mark_unsynced();
                    }
                    synced
                }
            }
        };
        // Only the fake store knows whether a power failure would lose a write because of a failed
        // sync. If it would, the record writer must report a failed sync.
        assert!(record_writer.has_unsynced() || !store.is_doomed());
        if is_synced && !record_writer.has_unsynced() {
            run.durable = record_writer.head().0;
        }
    }
    run
}

/// After any crash, the journal contains a prefix of the appended records and nothing else. The
/// prefix includes all durable records. No number is assigned twice.
#[test]
fn crash_at_any_point_leaves_a_prefix_with_all_that_was_durable() {
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let store = FakeStore::new(rng.u64(..));
        let sync = [JournalSync::Always, JournalSync::Batch, JournalSync::Os][rng.usize(..3)];
        let mut boot = 0_u64;
        let (mut record_writer, mut replay) = start(&store, settings(sync, "0")).unwrap();
        for _ in 0..4 {
            store.set_faults(Faults {
                write_errors: rng.u32(..100),
                sync_errors: rng.u32(..100),
            });
            let run = run(&mut record_writer, &mut rng, &replay, &store);
            store.set_faults(Faults::default());
            let has_unsynced = record_writer.has_unsynced();
            let given_out = record_writer.head();
            let is_failing = record_writer.engine().is_none();
            drop(record_writer);
            let has_lost_power = rng.bool();
            if has_lost_power {
                store.lose_power();
                boot += 1;
            }
            (record_writer, replay) = start(&store, settings(sync, &boot.to_string())).unwrap();
            let is_whole = !has_lost_power || (sync == JournalSync::Always && !has_unsynced);
            check(
                &run,
                &replay,
                (is_whole, has_unsynced, is_failing),
                given_out,
                seed,
            );
            assert!(
                record_writer.head() >= given_out,
                "seed {seed}: a number is assigned twice"
            );
        }
    }
}

fn check(
    run: &Run,
    replay: &Replay,
    (is_whole, has_unsynced, is_failing): (bool, bool, bool),
    given_out: Sequence,
    seed: u64,
) {
    let common = replay.texts.len().min(run.appended.len());
    assert_eq!(
        replay.texts[..common],
        run.appended[..common],
        "seed {seed}"
    );
    // The last refused batch may appear, because the store was not reopened after the refusal.
    assert!(
        is_failing || replay.texts.len() <= run.appended.len(),
        "seed {seed}: a refused batch came back"
    );
    let last = replay.texts.last().map_or(0, |last| last.0);
    if !has_unsynced {
        assert!(last >= run.durable, "seed {seed}: {last} < {}", run.durable);
    }
    if is_whole {
        assert!(replay.texts.len() >= run.appended.len(), "seed {seed}");
    }
    if replay.texts.len() < run.appended.len() {
        assert!(
            replay.lost_until >= Some(given_out.0),
            "seed {seed}: no loss is reported"
        );
    }
}
