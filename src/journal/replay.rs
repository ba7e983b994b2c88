//! SHELL: this module opens the configured journal, and replays its records into the log and the
//! idempotency keys.
//!
//! Each record is added to the log as if it were published again. So the rules of the record's
//! channel determine whether it is kept, and gaps report exactly the evicted publications. Ages are
//! computed with the wall clock, because no other clock survives a restart. If the wall clock was
//! set back, publications appear younger, but their age is never negative.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::backup::Backups;
use super::engine::EngineError;
use super::epochs::Epochs;
use super::folder::Folder;
use super::lsm::LsmOpener;
use super::record::Record;
use super::record_writer::{RecordWriter, Retained, Settings};
use super::recover::{self, ReplayEvent};
use super::state::BootId;
use super::{Journal, unix_us};
use crate::config::Config;
use crate::config::limits::JOURNAL_PAUSE_MS;
use crate::frame::Publication;
use crate::frame::publication::is_reserved_event;
use crate::id::{ChannelName, Epoch, Sequence};
use crate::log::Writer;
use crate::log::dedupe::DedupeKeys;
use crate::metrics::FeedMetrics;
use crate::sys::wake::Wake;
use crate::time::Now;

/// The file with the kernel's boot id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The reason why the configured journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the journal in {} (key `journal.path`): {error}", .path.display())]
pub struct JournalError {
    /// The configured directory.
    pub path: PathBuf,
    /// The cause.
    pub error: EngineError,
}

/// An opened journal, and the log with the journal's publications.
#[derive(Debug)]
pub struct Recovered {
    /// The journal and the keys, which the feed uses.
    pub feed: RecoveredFeed,
    /// The writer of the log, which contains the replayed publications.
    pub writer: Writer,
    /// Makes backups of the journal while the server runs.
    pub backups: Backups,
}

/// The journal, and the idempotency keys that were replayed from it.
#[derive(Debug)]
pub struct RecoveredFeed {
    /// The journal.
    pub journal: Journal,
    /// The idempotency keys that were used within the window.
    pub dedupe: DedupeKeys,
}

/// The parameters of [`open`].
#[derive(Clone, Copy, Debug)]
pub struct OpenContext<'a> {
    /// The epoch of a new journal, or of a journal that is a copy.
    pub fresh: Epoch,
    /// The seed of the hashes of idempotency keys.
    pub dedupe_seed: u64,
    /// The current time on the clock of publications.
    pub now: Now,
    /// The server's configuration.
    pub config: &'a Config,
}

/// Opens the journal in a directory.
///
/// # Errors
/// Returns a [`JournalError`] if the directory is in use, damaged or foreign, or if a system call
/// fails.
pub fn open(
    path: &Path,
    context: OpenContext<'_>,
    wake: Arc<Wake>,
    metrics: Arc<FeedMetrics>,
) -> Result<Recovered, JournalError> {
    let refused = |error| JournalError {
        path: path.to_path_buf(),
        error,
    };
    let folder = Folder::take(path).map_err(refused)?;
    let settings = settings(context.config);
    let mut collector = Collector::new(context, unix_us());
    let mut each = |replayed: ReplayEvent<'_>| collector.take(&replayed);
    let opener = Box::new(LsmOpener::new(folder));
    let record_writer =
        recover::open(opener, settings, context.fresh, &mut each).map_err(refused)?;
    let (writer, dedupe) = collector.finish(&record_writer);
    tracing::info!(
        publications = writer.log().len(),
        head = record_writer.head().0,
        "journal opened"
    );
    let source = Arc::clone(record_writer.source());
    let backups = Backups::new(source, path.to_path_buf());
    let journal = Journal::new(record_writer, wake, metrics).map_err(|e| refused(e.into()))?;
    Ok(Recovered {
        feed: RecoveredFeed { journal, dedupe },
        writer,
        backups,
    })
}

/// Returns the kernel's boot id.
pub(super) fn boot_id() -> BootId {
    // Without a boot id, each start counts as a reboot.
    match std::fs::read_to_string(BOOT_ID) {
        Ok(text) => BootId::new(&text),
        Err(_) => BootId::new(&unix_us().to_string()),
    }
}

fn settings(config: &Config) -> Settings {
    let Retained { bounds, bytes_max } = Retained::new(config);
    Settings {
        bounds,
        bytes_max,
        sync: config.journal.sync,
        boot: boot_id(),
        pause: Duration::from_millis(JOURNAL_PAUSE_MS),
    }
}

/// Replays records into the log and the idempotency keys.
#[derive(Debug)]
pub struct Collector<'a> {
    context: OpenContext<'a>,
    unix_us: u64,
    epochs: Epochs,
    /// The writer of the log; `None` before the first record or loss is replayed.
    writer: Option<Writer>,
    dedupe: DedupeKeys,
    /// The number of records that cannot be replayed, because no channel can have their name.
    unreplayed: u64,
}

impl<'a> Collector<'a> {
    /// Creates an empty collector. `unix_us` is the wall-clock time.
    #[must_use]
    pub fn new(context: OpenContext<'a>, unix_us: u64) -> Self {
        Self {
            context,
            unix_us,
            epochs: Epochs::new(context.fresh),
            writer: None,
            dedupe: DedupeKeys::new(context.dedupe_seed),
            unreplayed: 0,
        }
    }

    /// Handles one event of the replay.
    pub fn take(&mut self, replayed: &ReplayEvent<'_>) {
        match replayed {
            ReplayEvent::Epochs(epochs) => self.epochs = (*epochs).clone(),
            ReplayEvent::Record(sequence, record) => self.take_record(*sequence, record),
            ReplayEvent::Lost { after, until } => {
                let [first, last] = [after.next(), *until].map(|number| self.epochs.id(number));
                tracing::warn!(
                    %first,
                    %last,
                    "publications are lost from the journal, or may be: a client that resumes from \
                     an earlier id receives a gap"
                );
                self.writer(*until).note_lost(*until);
            }
        }
    }

    /// Returns the writer of the log. If there is none yet, creates it with an empty log after the
    /// number `before`.
    fn writer(&mut self, before: Sequence) -> &mut Writer {
        let config = self.context.config;
        let fresh = || Writer::new(config, before);
        self.writer.get_or_insert_with(fresh)
    }

    fn take_record(&mut self, sequence: Sequence, record: &Record<'_>) {
        let Ok(channel) = ChannelName::with_reserved(record.channel) else {
            self.unreplayed += 1;
            return;
        };
        let now = self.context.now;
        let age_us = self.unix_us.saturating_sub(record.published_us);
        let published = Now(now.0.saturating_sub(age_us));
        let id = self.epochs.id(sequence);
        if let Some(key) = record.dedupe
            && let keys = self.dedupe.of(record.is_from_client)
            && keys.first(&channel, key, published).is_none()
        {
            keys.remember(&channel, key, id, published);
        }
        let payload = record.payload.to_payload();
        // An earlier version may have accepted a reserved event type. The payload is kept without
        // the event type, so that clients cannot mistake it for an event of the server.
        let event = record.event.filter(|event| !is_reserved_event(event));
        let (event, key) = (event.map(Box::from), record.key.map(Box::from));
        let ttl = record.ttl_us.map(Duration::from_micros);
        let before = Sequence(sequence.0.saturating_sub(1));
        let writer = self.writer(before);
        let ledger = writer.log().ledger();
        let publication = Publication::new(id, channel, payload, published, ledger)
            .labelled(event, key)
            .traced(record.traceparent.map(Box::new))
            .expiring(ttl.map(|ttl| published.after(ttl)));
        writer.announce(sequence);
        // The server has not started yet, so no channel has subscribers.
        let send = |_, _, _| debug_assert!(false, "a channel has subscribers before the start");
        let _trimmed = writer.publish(Arc::new(publication), send);
        let _trimmed = writer.trim(u32::MAX);
        let _evicted = writer.evict(now, u32::MAX);
        writer.note_posted();
    }

    /// Returns the replayed log and keys.
    #[must_use]
    pub fn finish(self, record_writer: &RecordWriter) -> (Writer, DedupeKeys) {
        if self.unreplayed > 0 {
            tracing::warn!(
                records = self.unreplayed,
                "records of the journal are not replayed: their channels have invalid names"
            );
        }
        let (head, config) = (record_writer.head(), self.context.config);
        let writer = self.writer;
        let mut writer = writer.unwrap_or_else(|| Writer::new(config, head));
        writer.skip_to(head);
        writer.log().rules().forget_published();
        writer.set_past_epochs(record_writer.epochs().past());
        (writer, self.dedupe)
    }
}

#[cfg(test)]
mod tests {
    use super::super::on_disk::{append, checked, copied, id, open, take};
    use super::super::record::PayloadRef;
    use super::*;
    use crate::config::limits::PREVIOUS_EPOCHS_MAX;
    use crate::id::Cursor;

    /// Checks a journal, then starts from it, and compares the results. Appends a record. Returns
    /// the number of publications.
    fn start_as_checked(path: &Path, fresh: u64) -> u64 {
        let report = checked(path);
        let config = Config::default();
        let context = OpenContext {
            fresh: Epoch::new(fresh),
            dedupe_seed: 7,
            now: Now(0),
            config: &config,
        };
        let mut collector = Collector::new(context, 0);
        let mut lost = Vec::new();
        let opener = Box::new(LsmOpener::new(take(path)));
        let mut writer = recover::open(opener, settings(&config), context.fresh, &mut |event| {
            collector.take(&event);
            if let ReplayEvent::Lost { after, until } = event {
                lost.push((after.next(), until));
            }
        })
        .unwrap();
        let (log, _) = collector.finish(&writer);
        assert_eq!(log.log().len(), report.publications);
        let publications = log.log().publications();
        let mut ids: Vec<_> = publications.iter().map(|one| one.id).collect();
        ids.sort_unstable_by_key(|id| id.sequence);
        assert_eq!(ids.first().copied(), report.first);
        assert_eq!(
            (log.head(), log.log().posted()),
            (writer.head(), writer.head())
        );
        assert_eq!(writer.head(), report.head);
        let holes = report.holes.iter();
        let holes = holes.map(|hole| (hole.first.sequence, hole.last.sequence));
        assert!(holes.eq(lost.iter().copied()), "{report:?}");
        let state = log.log().state();
        let lost_until = lost.last().map(|(_, until)| *until);
        assert_eq!(state.lost_until(), lost_until.unwrap_or_default());
        for id in ids {
            assert!(id.epoch == writer.epoch() || state.has_valid(id), "{id}");
        }
        for past in &report.past {
            assert_eq!(state.valid_until(past.epoch), Some(past.until));
        }
        if report.is_copy {
            let next = Cursor {
                sequence: report.last.sequence.next(),
                ..report.last
            };
            assert!(state.has_valid(report.last) && !state.has_valid(next));
            assert_eq!(writer.epoch(), context.fresh);
        }
        append(&mut writer, 3);
        writer.close().unwrap();
        report.publications
    }

    #[test]
    fn start_has_what_the_check_reports_also_before_a_hole() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        let (mut writer, _, _) = open(&path, 7);
        (0..9).for_each(|_| append(&mut writer, 100));
        drop(writer);
        let log = path.join("store/0.jnl");
        let whole = std::fs::read(&log).unwrap();
        let written = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        std::fs::write(&log, &whole[..written - 20]).unwrap();
        let copy = copied(&path, "copy");
        for path in [path, copy] {
            // The loss is first at the end of the journal, and later in the middle.
            assert_eq!([(); 3].map(|()| start_as_checked(&path, 8)), [8, 9, 10]);
        }
    }

    #[test]
    fn copy_of_many_copies_knows_the_latest_epochs() {
        let place = tempfile::tempdir().unwrap();
        let mut path = place.path().join("0");
        let (mut writer, _, _) = open(&path, 0);
        append(&mut writer, 1);
        writer.close().unwrap();
        let count = PREVIOUS_EPOCHS_MAX as u64 + 3;
        for fresh in 1..=count {
            path = copied(&path, &fresh.to_string());
            let report = checked(&path);
            assert!(report.is_copy);
            assert_eq!(start_as_checked(&path, fresh), fresh);
            // The publications of forgotten epochs have ids of the oldest epoch that is known.
            let oldest = fresh.saturating_sub(PREVIOUS_EPOCHS_MAX as u64);
            assert_eq!(report.first, Some(id(oldest, 1)));
        }
        let (_, epochs, _) = open(&path, 99);
        assert_eq!(epochs.past().len(), PREVIOUS_EPOCHS_MAX);
    }

    #[test]
    fn replay_keeps_publications_with_reserved_names_without_their_event_type() {
        let config = Config::default();
        let context = OpenContext {
            fresh: Epoch::new(1),
            dedupe_seed: 7,
            now: Now(0),
            config: &config,
        };
        let mut collector = Collector::new(context, 0);
        let cases = [
            ("a", "note", Some("note")),
            ("a", "fanfare.disconnect", None),
            ("fanfare:stats", "e", Some("e")),
            ("prices:*", "e", Some("e")),
        ];
        for (sequence, (channel, event, _)) in (1..).zip(cases) {
            let record = Record {
                published_us: 0,
                ttl_us: None,
                channel,
                event: Some(event),
                key: None,
                dedupe: None,
                is_from_client: false,
                traceparent: None,
                payload: PayloadRef::Text("x"),
            };
            collector.take(&ReplayEvent::Record(Sequence(sequence), record));
        }
        let writer = collector.writer.unwrap();
        for (sequence, (channel, _, expected)) in (1..).zip(cases) {
            let publication = &writer.log().find(Sequence(sequence)).unwrap().publication;
            assert_eq!(publication.channel.as_str(), channel);
            assert_eq!(publication.event(), expected);
        }
    }
}
