//! What each subscriber must have seen or been told: the truth to hold the wire against.
//!
//! [`Facts`] has everything that was published; a [`Ledger`] has, for one connection, how far each
//! of its subscriptions has got. Every publication after a subscription's start is delivered once
//! and in order, or lies in a gap that was told with the right ends and count, or had expired. A
//! panic is a finding. Knows neither bytes nor sockets.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fanfare::config::{ClientRules, Config, Overflow, Retention};
use fanfare::frame::Publication;
use fanfare::id::{ChannelName, Cursor, Epoch};
use fanfare::time::Now;

use crate::check;
use crate::epochs::Epochs;
use crate::feed::Fresh;
pub(crate) use crate::gap::{Told, check_start};
use crate::history::History;

/// How far one worker is, and what has left the log.
#[derive(Clone, Debug)]
pub(crate) struct LogFacts {
    /// Everything up to here has been taken in.
    pub(crate) head: u64,
    /// The newest publication in the log, which the worker need not know yet.
    pub(crate) added: u64,
    /// The newest publication that has left it, by channel.
    pub(crate) evicted: Vec<u64>,
    /// Everything up to here has left it.
    pub(crate) tail: u64,
}

impl LogFacts {
    /// The newest publication that has left the log, of any channel.
    pub(crate) fn evicted_of_any(&self) -> u64 {
        self.evicted.iter().copied().max().unwrap_or_default()
    }
}

/// Everything that was published, and how far the workers are.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The first one.
    pub(crate) epoch: Epoch,
    pub(crate) epochs: Epochs,
    pub(crate) names: Vec<String>,
    /// The same, as the server has them.
    pub(crate) channels: Vec<ChannelName>,
    /// By serial, from 1; none where an epoch begins.
    pub(crate) publications: Vec<Option<Arc<Publication>>>,
    /// Serials of what is not void, by channel.
    pub(crate) by_channel: Vec<Vec<u64>>,
    /// Serials of everything that ever was, by channel.
    ever: Vec<Vec<u64>>,
    /// The epoch has changed since the log was looked at.
    pub(crate) has_new_epoch: bool,
    /// By worker.
    pub(crate) logs: Vec<LogFacts>,
    /// All receipts up to here are complete: a feeder knows that every worker has these.
    pub(crate) acknowledged: u64,
    pub(crate) now: Now,
    /// The log may be full for all channels together.
    pub(crate) is_tight: bool,
    /// What holds for each channel.
    pub(crate) rules: Vec<Retention>,
    pub(crate) channels_per_conn: usize,
    pub(crate) heartbeat_ms: u64,
    /// What the operator chose.
    pub(crate) config: Arc<Config>,
    /// Compression is agreed to when it is offered.
    pub(crate) has_deflate: bool,
    /// The chaos is over.
    pub(crate) is_calm: bool,
    /// The worker has been told to stop, so nobody can count on an answer.
    pub(crate) is_draining: bool,
    /// The delays in the goodbyes of the drain.
    pub(crate) delays: Vec<Delay>,
    /// What the workers did in the drain.
    pub(crate) work: Vec<Work>,
    /// When the drain was over.
    pub(crate) ended_us: u64,
    /// Publications that a peer has read, over all.
    pub(crate) deliveries: u64,
    pub(crate) gaps: u64,
    /// How often a client had as much unacknowledged as its window allows.
    pub(crate) windows_filled: u64,
    /// Connections that began at a position that their worker had not reached.
    pub(crate) ahead: u64,
}

/// How long a client has to stay away.
#[derive(Debug)]
pub(crate) struct Delay {
    pub(crate) worker: usize,
    /// When the worker wrote it, or something after it.
    pub(crate) written_us: u64,
    pub(crate) retry_ms: u64,
}

/// A turn of a worker, without its wait. In a life only one worker works at a time.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) worker: usize,
    pub(crate) us: Range<u64>,
}

impl Facts {
    /// Nothing has been published yet.
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
            rules: rules.collect(),
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
            is_calm: false,
            is_draining: false,
            delays: Vec::new(),
            work: Vec::new(),
            ended_us: 0,
            deliveries: 0,
            gaps: 0,
            windows_filled: 0,
            ahead: 0,
        }
    }

    /// Something has its number.
    pub(crate) fn add(&mut self, publication: Arc<Publication>) {
        let serial = self.position(publication.id);
        assert_eq!(serial, self.publications.len() as u64 + 1);
        let channel = self.channel(publication.channel.as_str());
        self.by_channel[channel].push(serial);
        self.ever[channel].push(serial);
        self.publications.push(Some(publication));
    }

    /// What has happened in the log.
    pub(crate) fn add_all(&mut self, fresh: impl IntoIterator<Item = Fresh>) {
        for fresh in fresh {
            match fresh {
                Fresh::Publication(publication) => self.add(publication),
                Fresh::Epoch(change) => {
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

    pub(crate) fn channel(&self, name: &str) -> usize {
        let found = self.names.iter().position(|known| known == name);
        found.unwrap_or_else(|| panic!("{name:?} is no channel"))
    }

    pub(crate) fn id(&self, sequence: u64) -> String {
        self.epochs.cursor(sequence).to_string()
    }

    /// The serial of a position that the server has named.
    pub(crate) fn position(&self, cursor: Cursor) -> u64 {
        let found = self.epochs.position(cursor);
        found.unwrap_or_else(|| panic!("the epoch of {cursor}"))
    }

    /// What clients may do in a channel.
    pub(crate) fn client_rules(&self, channel: usize) -> ClientRules {
        self.config.client_rules(&self.channels[channel])
    }

    /// The serial of an id that the server sent.
    pub(crate) fn sequence(&self, id: &str) -> u64 {
        let cursor: Cursor = id.parse().unwrap_or_else(|_| panic!("{id:?} is no id"));
        self.position(cursor)
    }

    pub(crate) fn publication(&self, sequence: u64) -> &Arc<Publication> {
        let found = self.publications.get(sequence as usize - 1);
        let found = found.and_then(Option::as_ref);
        found.unwrap_or_else(|| panic!("{sequence} was never published"))
    }

    /// The newest publication of a channel up to one; zero if there is none.
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

    /// Whether a publication is older than its channel keeps any.
    pub(crate) fn is_too_old(&self, channel: usize, sequence: u64) -> bool {
        let age = Duration::from_millis(self.rules[channel].age_ms);
        let newest = within(&self.ever[channel], 0, sequence).last();
        newest.is_some_and(|newest| {
            let published = self.publication(*newest).published;
            self.now.has_reached(published.after(age))
        })
    }

    /// Whether a gap begins with what its channel keeps no longer, and may go on with what later
    /// publications supersede: a real loss decides about the cause of both.
    pub(crate) fn begins_too_old(&self, told: &Told) -> bool {
        let since = told.since.as_deref().map_or(0, |id| self.sequence(id));
        let first = self.between(told.channel, since, told.until).first();
        self.rules[told.channel].overflow == Overflow::Conflate
            && first.is_some_and(|first| self.is_too_old(told.channel, *first))
    }

    /// Whether a later publication that is in a log stands for this one.
    fn is_superseded(&self, log: &LogFacts, channel: usize, sequence: u64) -> bool {
        let key = self.publication(sequence).key();
        // A gap that was told of it stays true to what was known then.
        let later = within(&self.ever[channel], sequence, log.added);
        let mut later = later.iter();
        self.rules[channel].overflow == Overflow::Conflate
            && key.is_some()
            && later.any(|later| self.publication(*later).key() == key)
    }

    /// The first publication of a channel after one and up to another that nothing stands for.
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

    /// The same with what is void.
    pub(crate) fn ever_between(&self, channel: usize, after: u64, last: u64) -> &[u64] {
        within(&self.ever[channel], after, last)
    }

    /// The first publication of a channel after one and up to another that is owed whatever time it
    /// was served.
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

/// Where a subscriber asked to be served from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    After(u64),
    /// Everything that the log has.
    First,
    /// A position of another epoch.
    Foreign,
    /// So many of the newest that the log has.
    Last(u32),
    /// Beyond the head, or no id at all.
    Nonsense,
    Now,
}

impl Ask {
    /// The cause of the gap that a subscriber receives whose position is of no use.
    pub(crate) fn foreign_cause(self) -> Option<&'static str> {
        match self {
            Self::Foreign => Some("restart"),
            Self::Nonsense => Some("unknown"),
            Self::After(_) | Self::First | Self::Last(_) | Self::Now => None,
        }
    }

    /// History, of more than most channels have or less.
    pub(crate) fn draw_history(random: &mut fastrand::Rng) -> Self {
        match random.u32(0..6) {
            0..3 => Self::First,
            3..5 => Self::Last(random.u32(1..10)),
            _ => Self::Last([70, u32::MAX][random.usize(0..2)]),
        }
    }
}

/// What a client learns that comes back and goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    Gap {
        channel: usize,
        since: Option<u64>,
        until: u64,
    },
    /// Everything up to here has come.
    Position(u64),
    Publication(u64),
    /// A subscription begins here, behind a gap if one is told.
    Start {
        channel: usize,
        position: u64,
    },
}

#[derive(Debug)]
struct Subscription {
    /// Everything up to here was delivered, told or had expired.
    last: u64,
    /// Up to here it may be given what the connection is already past.
    catch_up: u64,
    /// Up to here there were publications when it began.
    there: u64,
    window: Option<Window>,
    /// It asked for that.
    history: Option<History>,
}

impl Subscription {
    /// Where the epoch begins in which its position is void, if that is known: one that asked for
    /// history may be anywhere.
    fn restart(&self, facts: &Facts) -> Option<u64> {
        let restart = facts.epochs.restart(self.last);
        restart.filter(|_| self.last > 0)
    }

    /// What is void need not be acknowledged.
    fn forget_void(&mut self, facts: &Facts) {
        if let Some(window) = &mut self.window {
            let is_valid = |given: &u64| facts.epochs.restart(*given).is_none();
            window.unacknowledged.retain(is_valid);
        }
    }

    /// After here every publication is owed.
    fn owed_after(&self, facts: &Facts) -> u64 {
        let excused = self.history.as_ref().map(|history| history.excused(facts));
        self.last.max(excused.unwrap_or_default())
    }
}

/// What a client has not acknowledged yet.
#[derive(Debug)]
struct Window {
    size: usize,
    unacknowledged: VecDeque<u64>,
    /// It has said that it is done with everything up to here.
    said: u64,
    /// From here it would come back: the part of that which it was given.
    acknowledged: u64,
}

/// How far one connection's subscriptions have got.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The worker that serves the connection.
    worker: usize,
    subscriptions: BTreeMap<usize, Subscription>,
    /// The newest id given on the connection.
    pub(crate) newest: u64,
    /// Gaps are not told on this connection, so holes say nothing.
    pub(crate) is_blind: bool,
}

impl Ledger {
    pub(crate) fn new(worker: usize) -> Self {
        Self {
            worker,
            subscriptions: BTreeMap::new(),
            newest: 0,
            is_blind: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.subscriptions.len()
    }

    pub(crate) fn has(&self, channel: usize) -> bool {
        self.subscriptions.contains_key(&channel)
    }

    pub(crate) fn start(&mut self, channel: usize, position: u64, facts: &Facts) {
        let catch_up = self.newest;
        let subscription = Subscription {
            last: position,
            catch_up,
            there: facts.logs[self.worker].added,
            window: None,
            history: None,
        };
        let before = self.subscriptions.insert(channel, subscription);
        assert!(before.is_none(), "channel {channel} was subscribed before");
    }

    /// The last publication that was there when a subscription began.
    pub(crate) fn there(&self, channel: usize) -> u64 {
        let subscription = self.subscriptions.get(&channel);
        subscription.map_or(0, |subscription| subscription.there)
    }

    /// The subscription that has just begun brings this history first, or none.
    pub(crate) fn set_history(&mut self, channel: usize, history: Option<History>, facts: &Facts) {
        let subscription = self.of(channel);
        if let Some(history) = &history {
            history.check_start(subscription.last, facts);
        }
        subscription.history = history;
    }

    /// Whether a channel's subscription asked for history and nothing has come of it yet.
    pub(crate) fn is_unbegun(&self, channel: usize) -> bool {
        let subscription = self.subscriptions.get(&channel);
        let history = subscription.and_then(|of| of.history.as_ref());
        history.is_some_and(History::is_unbegun)
    }

    /// The subscription that has just begun has this window, or none.
    pub(crate) fn set_window(&mut self, channel: usize, size: Option<u32>) {
        let subscription = self.of(channel);
        subscription.window = size.map(|size| Window {
            size: size as usize,
            unacknowledged: VecDeque::new(),
            said: 0,
            acknowledged: subscription.last,
        });
    }

    pub(crate) fn has_window(&self, channel: usize) -> bool {
        let subscription = self.subscriptions.get(&channel);
        subscription.is_some_and(|subscription| subscription.window.is_some())
    }

    fn windows(&self) -> impl Iterator<Item = (usize, &Window)> {
        let all = self.subscriptions.iter();
        all.filter_map(|(channel, of)| Some((*channel, of.window.as_ref()?)))
    }

    pub(crate) fn windowed_channels(&self) -> Vec<usize> {
        self.windows().map(|(channel, _)| channel).collect()
    }

    pub(crate) fn unacknowledged(&self, channel: usize) -> Vec<u64> {
        let window = self.windows().find(|(of, _)| *of == channel);
        window.map_or_else(Vec::new, |(_, window)| {
            window.unacknowledged.iter().copied().collect()
        })
    }

    pub(crate) fn is_full(&self, channel: usize) -> bool {
        let mut windows = self.windows();
        windows.any(|(of, window)| of == channel && window.unacknowledged.len() == window.size)
    }

    /// The channel that an acknowledgement without a name is for.
    pub(crate) fn only_channel(&self) -> Option<usize> {
        let only = self.subscriptions.keys().next();
        only.copied().filter(|_| self.len() == 1)
    }

    /// The client is done with everything up to an id of a channel.
    pub(crate) fn acknowledge(&mut self, channel: usize, id: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&channel)
            && let Some(window) = &mut subscription.window
        {
            window.unacknowledged.retain(|given| *given > id);
            window.said = window.said.max(id);
            window.acknowledged = window.acknowledged.max(id.min(subscription.last));
        }
    }

    /// How far a client got in each channel that has lost what it had not acknowledged.
    pub(crate) fn acknowledged(&self) -> Vec<(usize, u64)> {
        let windows = self.windows();
        windows
            .map(|(of, window)| (of, window.acknowledged))
            .collect()
    }

    pub(crate) fn stop(&mut self, channel: usize) {
        let before = self.subscriptions.remove(&channel);
        assert!(before.is_some(), "channel {channel} was not subscribed");
    }

    fn of(&mut self, channel: usize) -> &mut Subscription {
        let found = self.subscriptions.get_mut(&channel);
        found.unwrap_or_else(|| panic!("channel {channel} is not subscribed"))
    }

    /// A publication was read from the wire, marked as initial or not where that can be seen.
    pub(crate) fn deliver(&mut self, sequence: u64, mark: Option<bool>, facts: &Facts) {
        let name = facts.publication(sequence).channel.as_str();
        let channel = facts.channel(name);
        let (newest, is_blind) = (self.newest, self.is_blind);
        let subscription = self.of(channel);
        assert!(
            sequence > subscription.last,
            "{sequence} of {name} after {}",
            subscription.last
        );
        assert!(
            sequence > newest || sequence <= subscription.catch_up || subscription.window.is_some(),
            "{sequence} of {name} on a connection that is at {newest}"
        );
        let restart = subscription.restart(facts);
        assert!(
            is_blind || restart.is_none_or(|restart| sequence < restart),
            "{sequence} of {name} after {}, which is void, and no gap",
            subscription.last
        );
        let lost = facts.first_owed(channel, subscription.owed_after(facts), sequence - 1);
        assert!(
            is_blind || lost.is_none(),
            "{lost:?} of {name} was lost before {sequence}"
        );
        match &mut subscription.history {
            Some(history) => history.deliver(sequence, mark, facts),
            None => assert_ne!(mark, Some(true), "{sequence} of {name} is no history"),
        }
        subscription.last = sequence;
        if let Some(window) = &mut subscription.window {
            if sequence <= window.said {
                window.acknowledged = sequence;
            } else {
                window.unacknowledged.push_back(sequence);
            }
            assert!(
                window.unacknowledged.len() <= window.size,
                "{sequence} of {name}: {window:?}"
            );
        }
        self.newest = newest.max(sequence);
    }

    /// A gap in mid-stream was told.
    pub(crate) fn gap(&mut self, told: &Told, facts: &Facts) {
        let log = &facts.logs[self.worker];
        let name = &facts.names[told.channel];
        let subscription = self.of(told.channel);
        let since = facts.sequence(told.since.as_deref().expect("where a live gap begins"));
        assert!(
            since >= subscription.last,
            "{told:?} but {name} is at {}",
            subscription.last
        );
        let lost = facts.first_owed(told.channel, subscription.owed_after(facts), since);
        assert_eq!(lost, None, "{told:?}: lost before it");
        if let Some(history) = &mut subscription.history {
            history.gap(told, facts);
        }
        assert!(since < told.until, "{told:?} is empty");
        told.check_void(None, facts);
        let missing = told.missing(since, facts);
        // A worker on which a channel is new does not know where the channel's loss ends.
        let is_vague = told.cause == "expired" && told.missed.is_none()
            || told.cause == "restart"
            || facts.epochs.is_beginning(told.until);
        assert!(
            is_vague || missing.last() == Some(&told.until),
            "{told:?} ends at no publication of {name}"
        );
        match (told.cause.as_str(), told.missed) {
            (cause @ ("conflated" | "slow"), Some(missed)) => {
                let owed = missing
                    .iter()
                    .filter(|s| !facts.publication(**s).has_expired(facts.now))
                    .filter(|s| facts.epochs.restart(**s).is_none());
                let range = owed.count() as u64..=missing.len() as u64;
                assert!(
                    range.contains(&missed) && missed > 0,
                    "{told:?}: {range:?} are missing"
                );
                let newest = facts.first_newest(log, told.channel, since, told.until);
                assert!(
                    cause == "slow" || newest.is_none(),
                    "{told:?}: nothing supersedes {newest:?}"
                );
            }
            ("slow", None) => {
                let evicted = log.evicted_of_any();
                assert!(evicted > since, "{told:?}: nothing was evicted");
            }
            ("expired", None) => {
                // What is known of a channel that was dropped and is made again is no better.
                let evicted = log.evicted_of_any();
                assert!(evicted > since, "{told:?}: nothing was evicted");
                let newest = facts.first_newest(log, told.channel, evicted, told.until);
                assert_eq!(newest, None, "{told:?} is in the log");
            }
            ("restart", None) => {
                assert!(told.until <= facts.publications.len() as u64, "{told:?}");
                subscription.forget_void(facts);
            }
            _ => panic!("{told:?}: cause and count"),
        }
        subscription.last = told.until;
    }

    /// A gap in a poll's answer was told, which is found on joining or later.
    pub(crate) fn gap_of_answer(
        &mut self,
        told: &Told,
        (ask, at): (Ask, u64),
        answer: u64,
        facts: &Facts,
    ) {
        let log = &facts.logs[self.worker];
        let subscription = self.of(told.channel);
        if ask.foreign_cause().is_none() {
            told.check_void(Some(answer), facts);
        }
        let is_conflated = told.cause == "conflated";
        assert!(
            is_conflated || told.missed.is_none(),
            "{told:?}: cannot be known"
        );
        let asked = match ask {
            Ask::After(asked) => asked,
            Ask::First | Ask::Last(_) | Ask::Foreign | Ask::Nonsense | Ask::Now => 0,
        };
        match (ask, told.cause.as_str()) {
            (Ask::After(_) | Ask::First | Ask::Last(_), "conflated") => {
                let since = facts.sequence(told.since.as_deref().expect("where it begins"));
                assert!(since >= asked && since < told.until, "{told:?}");
                let lost = facts.first_owed(told.channel, subscription.owed_after(facts), since);
                assert_eq!(lost, None, "{told:?}: lost before it");
                let newest = facts.first_newest(log, told.channel, since, told.until);
                assert_eq!(newest, None, "{told:?}: nothing supersedes it");
                let missing = told.missing(since, facts);
                // The log may have lost the part that counts before the gap is cut.
                let is_lost = told.missed.is_none() && log.evicted[told.channel] > told.until;
                // What is void counts only if the gap was found before.
                let valid = facts.between(told.channel, since, told.until).len() as u64;
                let range = valid..=missing.len() as u64;
                let is_exact = told.missed.is_some_and(|missed| range.contains(&missed));
                assert!(is_exact || is_lost, "{told:?}: {missing:?} are missing");
            }
            (ask, cause) if ask.foreign_cause() == Some(cause) => {
                told.check_foreign_end(at, log, facts);
            }
            (_, "restart") if facts.epochs.have_changed() => {
                assert!(told.until <= facts.publications.len() as u64, "{told:?}");
            }
            (Ask::After(_) | Ask::First | Ask::Last(_), "expired") => {
                let since = facts.sequence(told.since.as_deref().expect("where it begins"));
                assert!(since >= asked && since < told.until, "{told:?}");
                let lost = facts.first_owed(told.channel, subscription.owed_after(facts), since);
                assert_eq!(lost, None, "{told:?}: lost before it");
                // What it knows of a channel that came back is no better than that.
                let evicted = log.evicted_of_any();
                let newest = facts.first_newest(log, told.channel, evicted, told.until);
                assert!(
                    told.until <= evicted || newest.is_none(),
                    "{told:?} is in the log"
                );
            }
            _ => panic!("{told:?} to {ask:?}"),
        }
        if let Some(history) = &mut subscription.history {
            history.gap(told, facts);
        }
        subscription.last = told.until;
    }

    /// The server says that the connection has everything up to here.
    /// It may have come from a faster one, up to `since`.
    pub(crate) fn caught_up(&mut self, head: u64, since: u64, facts: &Facts) {
        let published = facts.logs[self.worker].head;
        // The gap of a new epoch may end after what this worker has taken in, if the client came
        // from a faster one.
        let reported = self.subscriptions.values().map(|one| one.last).max();
        let reported = reported.filter(|_| facts.epochs.have_changed());
        let most = published.max(since).max(reported.unwrap_or(0));
        assert!(head <= most, "{head} is not published yet");
        assert!(
            head >= self.newest,
            "the id went back from {} to {head}",
            self.newest
        );
        for (channel, subscription) in &self.subscriptions {
            let restart = subscription.restart(facts);
            assert!(
                restart.is_none_or(|restart| head < restart),
                "channel {channel} is caught up to {head} from {}, which is void, without a gap",
                subscription.last
            );
            let lost = facts.first_owed(*channel, subscription.owed_after(facts), head);
            assert_eq!(lost, None, "channel {channel} is not caught up to {head}");
        }
        self.newest = head;
    }

    /// A channel with where its subscription stands and the first publication that is owed, if any.
    pub(crate) fn owed(&self, facts: &Facts) -> Option<(usize, u64, u64)> {
        self.owed_until(facts.logs[self.worker].head, facts)
    }

    /// The same of the publications up to one.
    pub(crate) fn owed_until(&self, last: u64, facts: &Facts) -> Option<(usize, u64, u64)> {
        if self.is_blind {
            return None;
        }
        self.subscriptions
            .iter()
            .find_map(|(channel, subscription)| {
                let owed = facts.first_owed(*channel, subscription.owed_after(facts), last)?;
                Some((*channel, subscription.last, owed))
            })
    }

    /// Nothing is on its way any more, so nothing may be owed.
    pub(crate) fn check_complete(&self, facts: &Facts, pipe: u32) {
        if let Some((channel, last, owed)) = self.owed(facts) {
            panic!("pipe {pipe}: channel {channel} stands at {last} and {owed} is still owed");
        }
        let mut all = self.subscriptions.values();
        let void = all.find(|one| one.restart(facts).is_some());
        let is_told = self.is_blind || void.is_none();
        assert!(is_told, "pipe {pipe}: {void:?} is void, and no gap");
    }
}
