//! Tests of the sequencer.

use super::*;
use crate::config::limits::INBOX_BATCHES_MAX;
use crate::config::{Config, JournalSync, LogBounds};
use crate::feed::protocol::command::publication;
use crate::feed::protocol::draft::NameCache;
use crate::id::Epoch;
use crate::journal::commit_state::CommitState;
use crate::journal::fake::{FakeStore, Faults};
use crate::journal::record_writer::Settings;
use crate::journal::recover::{ReplayEvent, open};
use crate::journal::state::BootId;
use crate::sys::wake::Wake;
use crate::worker::mail::inbox::{Inbox, Item, inbox};

fn sequencer() -> (Sequencer, Inbox) {
    let (mailbox, inbox) = inbox(Arc::new(Wake::new().unwrap()));
    let metrics = Arc::new(FeedMetrics::default());
    let start = SequencerStart {
        head: Cursor {
            epoch: Epoch::new(1),
            sequence: Sequence::ZERO,
        },
        dedupe: DedupeKeys::new(7),
        journal: None,
    };
    let writer = Writer::new(&Config::default(), Sequence::ZERO);
    writer.log().enter_all(0, &["a", "b", "c", "d"]);
    let (mailboxes, clock) = (vec![mailbox], Clock::start());
    let sequencer = Sequencer::new(start, writer, mailboxes, clock, metrics, Arc::default());
    (sequencer, inbox)
}

fn settings(sync: JournalSync, boot: &str) -> Settings {
    Settings {
        bounds: LogBounds::default(),
        bytes_max: u64::MAX,
        pause: std::time::Duration::ZERO,
        sync,
        boot: BootId::new(boot),
    }
}

/// Returns a sequencer with a journal on this store.
fn journalled(store: &FakeStore, sync: JournalSync) -> (Sequencer, Inbox) {
    let (mut sequencer, inbox) = sequencer();
    let opener = Box::new(store.clone());
    let record_writer = open(opener, settings(sync, "x"), Epoch::new(1), &mut |_| {}).unwrap();
    let wake = Arc::new(Wake::new().unwrap());
    let metrics = Arc::clone(&sequencer.metrics);
    let journal = Journal::new(record_writer, wake, metrics).unwrap();
    sequencer.head = journal.head();
    sequencer.journal = Some(journal);
    (sequencer, inbox)
}

#[test]
fn refused_batch_is_not_posted_and_its_numbers_and_keys_are_free_again() {
    let store = FakeStore::new(1);
    let (mut sequencer, inbox) = journalled(&store, JournalSync::Always);
    let keyed = r#"{"channel":["a","b"],"data":1,"dedupe":"k"}"#;
    store.set_room(10);
    let refused = sequencer.sequence(draft(keyed), Acknowledge::Yes, Now(0));
    let repeat = sequencer.sequence(draft(keyed), Acknowledge::Yes, Now(0));
    let plain = sequencer.sequence(
        draft(r#"{"channel":"a","data":2}"#),
        Acknowledge::No,
        Now(0),
    );
    sequencer.post();
    for ack in [refused, repeat, plain] {
        assert_eq!(ack.commit.unwrap().state(), CommitState::Refused);
    }
    assert!(inbox.is_empty());
    assert_eq!(sequencer.metrics.journal_failing.value(), 1);
    store.set_room(usize::MAX);
    let taken = sequencer.sequence(draft(keyed), Acknowledge::Yes, Now(0));
    sequencer.post();
    assert_eq!(taken.commit.unwrap().state(), CommitState::Committed);
    assert_eq!(taken.id.sequence, Sequence(2));
    assert_eq!(received(&inbox).len(), 2);
    assert_eq!(sequencer.metrics.journal_failing.value(), 0);
}

#[test]
fn refusal_in_the_middle_of_a_line_of_many_channels_skips_no_number() {
    let store = FakeStore::new(1);
    let (mut sequencer, inbox) = journalled(&store, JournalSync::Always);
    let names: Vec<_> = (0..BATCH_PUBLICATIONS_MAX)
        .map(|n| format!("\"c{n}\""))
        .collect();
    let many = format!(
        "{{\"channel\":[{}],\"data\":1,\"dedupe\":\"k\"}}",
        names.join(",")
    );
    let one = sequencer.sequence(
        draft(r#"{"channel":"a","data":1}"#),
        Acknowledge::No,
        Now(0),
    );
    store.set_room(10);
    let ack = sequencer.sequence(draft(&many), Acknowledge::Yes, Now(0));
    sequencer.post();
    assert_eq!(one.commit.unwrap().state(), CommitState::Refused);
    assert_eq!(ack.commit.unwrap().state(), CommitState::Refused);
    assert!(inbox.is_empty());
    store.set_room(usize::MAX);
    let ack = sequencer.sequence(draft(&many), Acknowledge::Yes, Now(0));
    assert_eq!(ack.id.sequence.0, BATCH_PUBLICATIONS_MAX as u64);
}

#[test]
fn failed_sync_is_reported_until_the_system_is_rebooted() {
    for sync in [JournalSync::Always, JournalSync::Batch] {
        let store = FakeStore::new(1);
        let (mut sequencer, inbox) = journalled(&store, sync);
        let mut publish = |faults: Faults| {
            store.set_faults(faults);
            let json = r#"{"channel":"a","data":1}"#;
            let ack = sequencer.sequence(draft(json), Acknowledge::Yes, Now(0));
            sequencer.post();
            let commit = ack.commit.unwrap();
            while matches!(commit.state(), CommitState::Pending | CommitState::Written) {
                std::thread::yield_now();
            }
            (commit.state(), received(&inbox).len())
        };
        let failing = Faults {
            sync_errors: 1000,
            ..Faults::default()
        };
        let first = match sync {
            JournalSync::Always => (CommitState::Refused, 0),
            JournalSync::Batch | JournalSync::Os => (CommitState::Unsynced, 1),
        };
        assert_eq!(publish(failing), first);
        // After the failed sync, the store's log may have a hole: a page that was not written. The
        // batch that is synced now comes after this hole.
        assert_eq!(publish(Faults::default()), (CommitState::Unsynced, 1));
        assert_eq!(publish(Faults::default()), (CommitState::Unsynced, 1));
        drop(sequencer);
        store.lose_power();
        let mut lost_until = None;
        let started = settings(sync, "y");
        let record_writer = open(Box::new(store), started, Epoch::new(1), &mut |replayed| {
            if let ReplayEvent::Lost { until, .. } = replayed {
                lost_until = Some(until);
            }
        });
        let record_writer = record_writer.unwrap();
        assert!(
            !record_writer.has_unsynced()
                && lost_until.is_some_and(|lost_until| lost_until >= Sequence(3))
        );
    }
}

#[test]
fn acknowledgement_waits_for_the_sync_of_its_batch() {
    let store = FakeStore::new(1);
    let (mut sequencer, inbox) = journalled(&store, JournalSync::Batch);
    let ack = sequencer.sequence(
        draft(r#"{"channel":"a","data":1}"#),
        Acknowledge::Yes,
        Now(0),
    );
    let commit = ack.commit.unwrap();
    assert_eq!(commit.state(), CommitState::Pending);
    sequencer.post();
    assert_eq!(received(&inbox).len(), 1);
    // `close` waits until the sync thread has ended.
    sequencer.close();
    assert_eq!(commit.state(), CommitState::Committed);
    assert!(store.syncs() > 0);
}

fn draft(json: &str) -> Draft {
    publication(json, &mut NameCache::default()).unwrap().0
}

fn received(inbox: &Inbox) -> Vec<(u64, String)> {
    let mut publications = Vec::new();
    while let Some(Mail::Publish(batch)) = inbox.take() {
        for Item { entry, .. } in batch {
            let channel = entry.publication.channel.as_str().to_owned();
            publications.push((entry.sequence().0, channel));
        }
    }
    publications
}

#[test]
fn numbers_are_contiguous_over_all_channels() {
    let (mut sequencer, inbox) = sequencer();
    for json in [
        r#"{"channel":"a","data":1}"#,
        r#"{"channel":["b","c"],"data":1}"#,
        r#"{"channel":["d"],"data":1}"#,
    ] {
        let _ack = sequencer.sequence(draft(json), Acknowledge::No, Now(0));
    }
    sequencer.post();
    let names = received(&inbox);
    let expected = [(1, "a"), (2, "b"), (3, "c"), (4, "d")];
    assert_eq!(names, expected.map(|(id, name)| (id, name.to_owned())));
}

#[test]
fn repetition_is_acknowledged_with_the_first_id_and_not_posted() {
    let (mut sequencer, inbox) = sequencer();
    let json = r#"{"channel":"a","data":1,"dedupe":"k"}"#;
    let first = sequencer.sequence(draft(json), Acknowledge::Yes, Now(0));
    let repeat = sequencer.sequence(draft(json), Acknowledge::Yes, Now(1));
    assert_eq!(repeat.id, first.id);
    assert!(repeat.worker_ack.is_none());
    assert_eq!(sequencer.metrics.repeated.value(), 1);
    let both = r#"{"channel":["a","b"],"data":1,"dedupe":"k"}"#;
    let partly = sequencer.sequence(draft(both), Acknowledge::Yes, Now(2));
    assert_eq!(partly.id.sequence, Sequence(2));
    sequencer.post();
    assert_eq!(received(&inbox).len(), 2);
}

#[test]
fn acknowledgement_of_several_channels_has_the_sum_of_their_subscribers() {
    let (mut sequencer, inbox) = sequencer();
    let json = r#"{"channel":["a","b"],"data":1}"#;
    let ack = sequencer.sequence(draft(json), Acknowledge::Yes, Now(0));
    sequencer.post();
    let Some(Mail::Publish(batch)) = inbox.take() else {
        panic!("a batch")
    };
    for item in batch {
        item.worker_ack.unwrap().confirm(3);
    }
    assert_eq!(ack.worker_ack.unwrap().sum(), Some(6));
}

fn published(sequencer: &mut Sequencer, json: &str) -> Cursor {
    sequencer.sequence(draft(json), Acknowledge::No, Now(0)).id
}

#[test]
fn epoch_change_posts_the_old_batch_and_continues_with_new_numbers() {
    let (mut sequencer, inbox) = sequencer();
    for _ in 0..3 {
        published(&mut sequencer, r#"{"channel":"a","data":1}"#);
    }
    let begin = Cursor {
        epoch: Epoch::new(2),
        sequence: Sequence(2),
    };
    sequencer.change_epoch(begin, Some(Sequence(1)));
    assert_eq!(received(&inbox).len(), 3);
    assert_eq!(sequencer.writer.log().len(), 1);
    assert!(inbox.wakes() > 0);
    let id = published(&mut sequencer, r#"{"channel":"a","data":2}"#);
    assert_eq!((id.epoch, id.sequence), (begin.epoch, Sequence(3)));
    sequencer.post();
    assert_eq!(received(&inbox), [(3, "a".to_owned())]);
}

#[test]
fn repetition_is_recognised_after_an_epoch_change_only_if_the_first_is_valid() {
    let (mut sequencer, inbox) = sequencer();
    let keyed = |key: u32| format!("{{\"channel\":\"a\",\"data\":1,\"dedupe\":\"{key}\"}}");
    let first = [1, 2].map(|key| published(&mut sequencer, &keyed(key)));
    let begin = Cursor {
        epoch: Epoch::new(2),
        sequence: Sequence(64),
    };
    sequencer.change_epoch(begin, Some(Sequence(1)));
    assert_eq!(published(&mut sequencer, &keyed(1)), first[0]);
    assert_eq!(published(&mut sequencer, &keyed(2)).sequence, Sequence(65));
    sequencer.change_epoch(begin, None);
    assert_eq!(published(&mut sequencer, &keyed(1)).sequence, Sequence(65));
    sequencer.post();
    assert_eq!(received(&inbox).len(), 4);
}

#[test]
fn large_batch_is_cut() {
    let (mut sequencer, inbox) = sequencer();
    for _ in 0..BATCH_PUBLICATIONS_MAX + 1 {
        let one = draft(r#"{"channel":"a","data":1}"#);
        let _ack = sequencer.sequence(one, Acknowledge::No, Now(0));
    }
    let Some(Mail::Publish(batch)) = inbox.take() else {
        panic!("a batch")
    };
    assert_eq!(batch.len(), BATCH_PUBLICATIONS_MAX);
    assert!(inbox.is_empty());
    sequencer.post();
    assert_eq!(received(&inbox).len(), 1);
}

#[test]
fn full_inbox_blocks_the_sequencer() {
    let (mut sequencer, inbox) = sequencer();
    for number in 0..INBOX_BATCHES_MAX {
        let one = draft(&format!("{{\"channel\":\"a\",\"data\":{number}}}"));
        let _ack = sequencer.sequence(one, Acknowledge::No, Now(0));
        sequencer.post();
    }
    let last = draft(r#"{"channel":"a","data":1}"#);
    let _ack = sequencer.sequence(last, Acknowledge::No, Now(0));
    let metrics = Arc::clone(&sequencer.metrics);
    let waiting = std::thread::spawn(move || sequencer.post());
    // The sequencer counts the publication before it blocks. The test waits for that count before
    // it drains the inbox.
    while metrics.publications.value() <= INBOX_BATCHES_MAX as u64 {
        std::thread::yield_now();
    }
    let mut batches = 0;
    while inbox.wait().is_some() {
        batches += 1;
    }
    waiting.join().unwrap();
    assert_eq!(batches, INBOX_BATCHES_MAX + 1);
}

#[test]
fn stopped_worker_does_not_block_the_sequencer() {
    let (mut sequencer, inbox) = sequencer();
    drop(inbox);
    let one = draft(r#"{"channel":"a","data":1}"#);
    let ack = sequencer.sequence(one, Acknowledge::Yes, Now(0));
    sequencer.post();
    assert_eq!(ack.worker_ack.unwrap().sum(), Some(0));
}
