//! The facts that the model of deliveries compares with: all publications, the logs of the workers,
//! and what the node has acknowledged.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fanfare::config::{ClientRules, Config, Overflow};
use fanfare::frame::Publication;
use fanfare::id::{ChannelName, Cursor, Epoch, Sequence};
use fanfare::time::Now;

use crate::check;
use crate::epochs::Epochs;
use crate::feed::LogEvent;
use crate::gap::ReportedGap;
use crate::rules::ChannelRules;

/// The progress of one worker, and the publications that have left the log.
#[derive(Clone, Debug)]
pub(crate) struct LogFacts {
    /// The last serial that the worker has processed.
    pub(crate) head: u64,
    /// The serial of the newest publication in the log. The worker may not know this publication
    /// yet.
    pub(crate) added: u64,
    /// For each channel, the serial of the newest publication that has left the log.
    pub(crate) evicted: Vec<u64>,
    /// The serial up to which all publications have left the log.
    pub(crate) tail: u64,
}

impl LogFacts {
    /// Returns the serial of the newest publication that has left the log, over all channels.
    pub(crate) fn evicted_of_any(&self) -> u64 {
        self.evicted.iter().copied().max().unwrap_or_default()
    }
}

/// All publications of the run, and the progress of the workers.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The first epoch of the run.
    pub(crate) epoch: Epoch,
    pub(crate) epochs: Epochs,
    pub(crate) names: Vec<String>,
    /// The channels in `names`, in the server's own type.
    pub(crate) channels: Vec<ChannelName>,
    /// The publications in the order of their serials, from serial 1 on. An entry is `None` if an
    /// epoch begins at its serial.
    pub(crate) publications: Vec<Option<Arc<Publication>>>,
    /// For each channel, the serials of the publications that no epoch change has discarded.
    pub(crate) by_channel: Vec<Vec<u64>>,
    /// For each channel, the serials of all publications, including discarded ones.
    ever: Vec<Vec<u64>>,
    /// Whether the epoch has changed after the last check of the log.
    pub(crate) has_new_epoch: bool,
    /// The progress of each worker, by worker number.
    pub(crate) logs: Vec<LogFacts>,
    /// The serial of the newest publication that was acknowledged to its feeder. Every worker has
    /// all publications up to this serial.
    pub(crate) acknowledged: u64,
    pub(crate) now: Now,
    /// Whether the total bounds of the log, over all channels, are so small that they cause
    /// evictions.
    pub(crate) is_tight: bool,
    /// The rules of each channel.
    pub(crate) rules: Vec<ChannelRules>,
    pub(crate) channels_per_conn: usize,
    pub(crate) heartbeat_ms: u64,
    pub(crate) config: Arc<Config>,
    /// Whether the server accepts an offer of compression.
    pub(crate) has_deflate: bool,
    /// Whether the fault phase is over.
    pub(crate) is_quiet: bool,
    /// Whether the workers drain. From then on, a request may stay unanswered.
    pub(crate) is_draining: bool,
    /// Whether an operator has closed many subscribers. From then on, the answer to a poll may be
    /// the last one of its connection.
    pub(crate) has_kicked: bool,
    /// The reconnect delays that clients received during the drain.
    pub(crate) delays: Vec<Delay>,
    /// The turns of the workers during the drain.
    pub(crate) work: Vec<Work>,
    /// The time at which the drain ended.
    pub(crate) ended_us: u64,
    /// The number of publications that peers have read.
    pub(crate) deliveries: u64,
    pub(crate) gaps: u64,
    /// The number of deliveries after which a subscription's window was full.
    pub(crate) windows_filled: u64,
    /// The number of connections that resumed at a position that their worker had not reached yet.
    pub(crate) ahead: u64,
}

/// The time that a draining server asks a client to wait before it reconnects.
#[derive(Debug)]
pub(crate) struct Delay {
    pub(crate) worker: usize,
    /// The time of the worker's last write to the connection. The worker sent the reconnect delay
    /// in that write or in an earlier one.
    pub(crate) written_us: u64,
    pub(crate) retry_ms: u64,
}

/// The period of one turn of a worker, without the wait of its poll. Only one worker runs at a
/// time.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) worker: usize,
    pub(crate) us: Range<u64>,
}

impl Facts {
    pub(crate) fn new(
        epoch: Epoch,
        config: &Arc<Config>,
        workers: usize,
        channels: usize,
        now: Now,
    ) -> Self {
        let names: Vec<String> = (0..channels).map(|number| format!("c{number}")).collect();
        let channels_named = names
            .iter()
            .map(|name| ChannelName::new(name).expect("a name"));
        let rules = names.iter().map(|name| check::rules(config, name));
        Self {
            epoch,
            epochs: Epochs::new(epoch),
            channels: channels_named.collect(),
            rules: rules.map(ChannelRules::new).collect(),
            is_tight: config.log.bytes < 1 << 26 || config.log.entries < 1_000_000,
            names,
            publications: Vec::new(),
            by_channel: vec![Vec::new(); channels],
            ever: vec![Vec::new(); channels],
            has_new_epoch: false,
            logs: vec![
                LogFacts {
                    head: 0,
                    added: 0,
                    evicted: vec![0; channels],
                    tail: 0,
                };
                workers
            ],
            acknowledged: 0,
            now,
            channels_per_conn: config.limits.channels_per_conn as usize,
            heartbeat_ms: config.heartbeat.interval_ms,
            has_deflate: config.deflate.enabled,
            config: Arc::clone(config),
            is_quiet: false,
            is_draining: false,
            has_kicked: false,
            delays: Vec::new(),
            work: Vec::new(),
            ended_us: 0,
            deliveries: 0,
            gaps: 0,
            windows_filled: 0,
            ahead: 0,
        }
    }

    /// Adds a new publication.
    pub(crate) fn add(&mut self, publication: Arc<Publication>) {
        let serial = self.position(publication.id);
        assert_eq!(serial, self.publications.len() as u64 + 1);
        let channel = self.channel(publication.channel.as_str());
        self.by_channel[channel].push(serial);
        self.ever[channel].push(serial);
        self.publications.push(Some(publication));
    }

    /// Adds the events that the sequencer has added to the log.
    pub(crate) fn add_all(&mut self, events: impl IntoIterator<Item = LogEvent>) {
        for event in events {
            match event {
                LogEvent::Publication(publication) => self.add(publication),
                LogEvent::Evicted(oldest) => self.note_evicted(&oldest),
                LogEvent::Rules(config) => {
                    for (rules, name) in self.rules.iter_mut().zip(&self.names) {
                        rules.change(check::rules(&config, name));
                    }
                }
                LogEvent::Epoch(change) => {
                    self.publications.push(None);
                    let start = self.publications.len() as u64;
                    let kept = self.epochs.change(&change, start);
                    for all in &mut self.by_channel {
                        all.retain(|serial| kept.is_some_and(|kept| *serial <= kept));
                    }
                    self.has_new_epoch = true;
                }
            }
        }
    }

    /// Records the publications that have left the log directly before an epoch change. Afterwards
    /// it is not known which of the discarded publications were still in the log.
    fn note_evicted(&mut self, oldest: &[Option<Sequence>]) {
        for (channel, oldest) in oldest.iter().enumerate() {
            let oldest = oldest.map(|oldest| self.epochs.published(oldest.0));
            let mut all = self.by_channel[channel].iter().rev();
            let gone = all.find(|serial| oldest.is_none_or(|oldest| **serial < oldest));
            for log in &mut self.logs {
                let evicted = &mut log.evicted[channel];
                *evicted = (*evicted).max(gone.copied().unwrap_or_default());
            }
        }
    }

    pub(crate) fn channel(&self, name: &str) -> usize {
        let found = self.names.iter().position(|known| known == name);
        found.unwrap_or_else(|| panic!("{name:?} is no channel"))
    }

    pub(crate) fn id(&self, sequence: u64) -> String {
        self.epochs.cursor(sequence).to_string()
    }

    /// Returns the serial of a position that the server has sent.
    pub(crate) fn position(&self, cursor: Cursor) -> u64 {
        let found = self.epochs.position(cursor);
        found.unwrap_or_else(|| panic!("{cursor} is of an unknown epoch"))
    }

    /// Returns what the configuration allows clients to do in a channel.
    pub(crate) fn client_rules(&self, channel: usize) -> ClientRules {
        self.config.client_rules(&self.channels[channel])
    }

    /// Returns the serial of an id that the server sent.
    pub(crate) fn sequence(&self, id: &str) -> u64 {
        let cursor: Cursor = id.parse().unwrap_or_else(|_| panic!("{id:?} is no id"));
        self.position(cursor)
    }

    pub(crate) fn publication(&self, sequence: u64) -> &Arc<Publication> {
        let found = self.publications.get(sequence as usize - 1);
        let found = found.and_then(Option::as_ref);
        found.unwrap_or_else(|| panic!("{sequence} was never published"))
    }

    /// Returns the serial of a channel's newest publication up to the serial `last`, or zero if the
    /// channel has none.
    pub(crate) fn newest(&self, channel: usize, last: u64) -> u64 {
        let all = &self.by_channel[channel];
        let count = all.partition_point(|sequence| *sequence <= last);
        all[..count].last().copied().unwrap_or_default()
    }

    pub(crate) fn draw_channels(&self, random: &mut fastrand::Rng) -> Vec<usize> {
        let count = random.usize(1..=self.names.len().min(self.channels_per_conn));
        let mut channels: Vec<usize> = (0..self.names.len()).collect();
        random.shuffle(&mut channels);
        channels.truncate(count);
        channels
    }

    /// Whether the newest of a channel's publications up to the serial `sequence` is older than the
    /// channel's maximum age.
    pub(crate) fn is_too_old(&self, channel: usize, sequence: u64) -> bool {
        let newest = within(&self.ever[channel], 0, sequence).last();
        newest.is_some_and(|newest| {
            let published = self.publication(*newest).published;
            let mut rules = self.rules[channel].since(published);
            rules.any(|rule| {
                let age = Duration::from_millis(rule.age_ms);
                self.now.has_reached(published.after(age))
            })
        })
    }

    /// Whether a gap begins with a publication that was removed because of its age, in a channel
    /// that keeps only the newest publication of each key. Such a gap may also contain replaced
    /// publications, but the removed publication determines its cause.
    pub(crate) fn begins_too_old(&self, gap: &ReportedGap) -> bool {
        let since = gap.since.as_deref().map_or(0, |id| self.sequence(id));
        let first = self.between(gap.channel, since, gap.until).first();
        self.rules[gap.channel].has_had(Overflow::Conflate)
            && first.is_some_and(|first| self.is_too_old(gap.channel, *first))
    }

    /// Whether the channel conflates and the log has a later publication with the same key.
    fn is_superseded(&self, log: &LogFacts, channel: usize, sequence: u64) -> bool {
        let key = self.publication(sequence).key();
        // A later publication counts even if an epoch change has discarded it. Otherwise a gap that
        // was right before the epoch change would be wrong after it.
        let later = within(&self.ever[channel], sequence, log.added);
        let mut later = later.iter();
        self.rules[channel].has_had(Overflow::Conflate)
            && key.is_some()
            && later.any(|later| self.publication(*later).key() == key)
    }

    /// Searches a range of a channel. Returns the first publication that has not expired and that
    /// no later publication with the same key replaces.
    pub(crate) fn first_newest(
        &self,
        log: &LogFacts,
        channel: usize,
        after: u64,
        last: u64,
    ) -> Option<u64> {
        let between = self.between(channel, after, last).iter().copied();
        let mut owed = between.filter(|s| !self.publication(*s).has_expired(self.now));
        owed.find(|sequence| !self.is_superseded(log, channel, *sequence))
    }

    pub(crate) fn between(&self, channel: usize, after: u64, last: u64) -> &[u64] {
        within(&self.by_channel[channel], after, last)
    }

    /// Like `between`, but includes publications that an epoch change has discarded.
    pub(crate) fn ever_between(&self, channel: usize, after: u64, last: u64) -> &[u64] {
        within(&self.ever[channel], after, last)
    }

    /// Returns the first publication in a range of a channel that has not expired. The subscriber
    /// must receive this publication.
    pub(crate) fn first_owed(&self, channel: usize, after: u64, last: u64) -> Option<u64> {
        let mut between = self.between(channel, after, last).iter().copied();
        between.find(|sequence| !self.publication(*sequence).has_expired(self.now))
    }
}

fn within(all: &[u64], after: u64, last: u64) -> &[u64] {
    let from = all.partition_point(|serial| *serial <= after);
    let to = all.partition_point(|serial| *serial <= last);
    all.get(from..to).unwrap_or_default()
}
