//! SHELL: opens the configured journal and turns its records into what a server starts with: a full
//! log, the memory of idempotency keys, and the journal itself.
//!
//! Every record is added to the log as it was when it was published, so that what is kept of it is
//! what the rules of its channel keep, and a gap reports exactly what was evicted.
//! Age is told by the calendar here, since no other clock outlives a restart; a calendar that was
//! set back makes publications younger, never negative.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::engine::EngineError;
use super::folder::Folder;
use super::lsm::Place;
use super::record::Record;
use super::record_writer::{Keeper, Settings};
use super::recover::{self, Replayed};
use super::state::Boot;
use super::{Journal, unix_us};
use crate::config::limits::JOURNAL_PAUSE_MS;
use crate::config::{Config, LogBounds};
use crate::frame::Publication;
use crate::frame::publication::is_reserved_event;
use crate::id::{ChannelName, Cursor, Epoch, Sequence};
use crate::log::Writer;
use crate::log::dedupe::Dedupe;
use crate::metrics::FeedMetrics;
use crate::sys::wake::Wake;
use crate::time::Now;

/// Where the system says since when it has been running.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why there is no journal although one is configured.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the journal in {} (key `journal.path`): {error}", .path.display())]
pub struct JournalError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    pub error: EngineError,
}

/// What a server with a journal starts with.
#[derive(Debug)]
pub struct Past {
    /// For the feed.
    pub kept: Kept,
    /// Writes the log, which has what the journal kept.
    pub writer: Writer,
}

/// What the feed goes on with.
#[derive(Debug)]
pub struct Kept {
    /// The journal.
    pub journal: Journal,
    /// The idempotency keys inside the window.
    pub dedupe: Dedupe,
}

/// What [`open`] needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The epoch of a journal that is new.
    pub fresh: Epoch,
    /// Seed for the memory of keys.
    pub dedupe_seed: u64,
    /// The time, on the clock that publications are measured by.
    pub now: Now,
    /// What the operator chose.
    pub config: &'a Config,
}

/// Opens the journal in a directory.
///
/// # Errors
/// When it is in use, not right, or the system refuses.
pub fn open(
    path: &Path,
    circumstances: Circumstances<'_>,
    wake: Arc<Wake>,
    metrics: Arc<FeedMetrics>,
) -> Result<Past, JournalError> {
    let refused = |error| JournalError {
        path: path.to_path_buf(),
        error,
    };
    let folder = Folder::take(path).map_err(refused)?;
    let settings = settings(circumstances.config);
    let mut collector = Collector::new(circumstances, unix_us());
    let mut each = |replayed: Replayed<'_>| collector.take(&replayed);
    let opener = Box::new(Place::new(folder));
    let keeper =
        recover::open(opener, settings, circumstances.fresh, &mut each).map_err(refused)?;
    let (writer, dedupe) = collector.finish(&keeper);
    tracing::info!(
        publications = writer.log().len(),
        head = keeper.head().0,
        "journal opened"
    );
    let journal = Journal::new(keeper, wake, metrics).map_err(|e| refused(e.into()))?;
    Ok(Past {
        kept: Kept { journal, dedupe },
        writer,
    })
}

fn settings(config: &Config) -> Settings {
    // A system that does not say is taken for one that was started anew each time.
    let boot = match std::fs::read_to_string(BOOT_ID) {
        Ok(text) => Boot::new(&text),
        Err(_) => Boot::new(&unix_us().to_string()),
    };
    let bounds = if config.namespace.is_empty() {
        config.log
    } else {
        // What a busy namespace has no use for does not push out what a quiet one keeps.
        LogBounds {
            bytes: u64::MAX,
            entries: u64::MAX,
            ..config.log
        }
    };
    Settings {
        bounds,
        bytes_max: config.journal.bytes,
        sync: config.journal.sync,
        boot,
        pause: Duration::from_millis(JOURNAL_PAUSE_MS),
    }
}

/// Collects what the log and the memory of keys would still have.
#[derive(Debug)]
pub struct Collector<'a> {
    circumstances: Circumstances<'a>,
    unix_us: u64,
    epoch: Epoch,
    /// From the first record or hole on.
    writer: Option<Writer>,
    dedupe: Dedupe,
}

impl<'a> Collector<'a> {
    /// Nothing collected; `unix_us` is the time by the calendar.
    #[must_use]
    pub fn new(circumstances: Circumstances<'a>, unix_us: u64) -> Self {
        Self {
            circumstances,
            unix_us,
            epoch: circumstances.fresh,
            writer: None,
            dedupe: Dedupe::new(circumstances.dedupe_seed),
        }
    }

    /// Takes what the journal tells.
    pub fn take(&mut self, replayed: &Replayed<'_>) {
        match replayed {
            Replayed::Epoch(epoch) => self.epoch = *epoch,
            Replayed::Record(sequence, record) => self.take_record(*sequence, record),
            Replayed::Hole(until) => {
                tracing::warn!(
                    until = until.0,
                    "publications are lost from the journal, or may be: whoever resumes from \
                     before is told of a gap"
                );
                let mut writer = Writer::new(self.circumstances.config, *until);
                writer.note_lost(*until);
                self.writer = Some(writer);
            }
        }
    }

    fn take_record(&mut self, sequence: Sequence, record: &Record<'_>) {
        let Ok(channel) = ChannelName::with_reserved(record.channel) else {
            return;
        };
        let now = self.circumstances.now;
        let age_us = self.unix_us.saturating_sub(record.published_us);
        let published = Now(now.0.saturating_sub(age_us));
        let epoch = self.epoch;
        let id = Cursor { epoch, sequence };
        if let Some(key) = record.dedupe
            && self.dedupe.first_id(&channel, key, published).is_none()
        {
            self.dedupe.remember(&channel, key, id, published);
        }
        let payload = record.payload.to_payload();
        // An earlier version may have taken a reserved type: the payload stays, without a type that
        // would make it one of the server's own events.
        let event = record.event.filter(|event| !is_reserved_event(event));
        let (event, key) = (event.map(Box::from), record.key.map(Box::from));
        let ttl = record.ttl_us.map(Duration::from_micros);
        let before = Sequence(sequence.0.saturating_sub(1));
        let config = self.circumstances.config;
        let fresh = || Writer::new(config, before);
        let writer = self.writer.get_or_insert_with(fresh);
        let ledger = writer.log().ledger();
        let publication = Publication::new(id, channel, payload, published, ledger)
            .labelled(event, key)
            .expiring(ttl.map(|ttl| published.after(ttl)));
        writer.announce(sequence);
        // No worker has subscribers yet.
        let send = |_, _, _| debug_assert!(false, "a channel has subscribers before the start");
        let _trimmed = writer.publish(Arc::new(publication), send);
        let _trimmed = writer.trim(u32::MAX);
        let _evicted = writer.evict(now, u32::MAX);
        writer.note_posted();
    }

    /// What was collected, with the journal open.
    #[must_use]
    pub fn finish(self, keeper: &Keeper) -> (Writer, Dedupe) {
        let head = keeper.head();
        let config = self.circumstances.config;
        let writer = self.writer;
        (
            writer.unwrap_or_else(|| Writer::new(config, head)),
            self.dedupe,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::PayloadRef;
    use super::*;

    #[test]
    fn replay_keeps_publications_with_reserved_names_but_not_their_type() {
        let config = Config::default();
        let circumstances = Circumstances {
            fresh: Epoch::new(1),
            dedupe_seed: 7,
            now: Now(0),
            config: &config,
        };
        let mut collector = Collector::new(circumstances, 0);
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
                payload: PayloadRef::Text("x"),
            };
            collector.take(&Replayed::Record(Sequence(sequence), record));
        }
        let writer = collector.writer.unwrap();
        for (sequence, (channel, _, expected)) in (1..).zip(cases) {
            let publication = &writer.log().find(Sequence(sequence)).unwrap().publication;
            assert_eq!(publication.channel.as_str(), channel);
            assert_eq!(publication.event(), expected);
        }
    }
}
