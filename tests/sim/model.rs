//! What each subscriber must have seen or been told: the truth to hold the wire against.
//!
//! [`Facts`] has everything that was published; a [`Ledger`] has, for one connection, how far each
//! of its subscriptions has got. Every publication after a subscription's start is delivered once
//! and in order, or lies in a gap that was told with the right ends and count, or had expired. A
//! panic is a finding. Knows neither bytes nor sockets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanfare::config::{ClientRules, Config, Overflow, Retention};
use fanfare::frame::Publication;
use fanfare::id::{ChannelName, Cursor, Epoch, Sequence};
use fanfare::time::Now;

use crate::check;
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
    fn evicted_of_any(&self) -> u64 {
        self.evicted.iter().copied().max().unwrap_or_default()
    }
}

/// Everything that was published, and how far the workers are.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) epoch: Epoch,
    pub(crate) names: Vec<String>,
    /// The same, as the server has them.
    pub(crate) channels: Vec<ChannelName>,
    /// By sequence number, from 1.
    pub(crate) publications: Vec<Arc<Publication>>,
    /// Sequence numbers, by channel.
    pub(crate) by_channel: Vec<Vec<u64>>,
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
    /// When the worker wrote it, or something after it.
    pub(crate) written_us: u64,
    pub(crate) retry_ms: u64,
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
            channels: channels_named.collect(),
            rules: rules.collect(),
            is_tight: config.log.bytes < 1 << 26 || config.log.entries < 1_000_000,
            names,
            publications: Vec::new(),
            by_channel: vec![Vec::new(); channels],
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
            ended_us: 0,
            deliveries: 0,
            gaps: 0,
            windows_filled: 0,
            ahead: 0,
        }
    }

    /// Something has its number.
    pub(crate) fn add(&mut self, publication: Arc<Publication>) {
        let sequence = publication.id.sequence.0;
        assert_eq!(sequence, self.publications.len() as u64 + 1);
        let channel = self.channel(publication.channel.as_str());
        self.by_channel[channel].push(sequence);
        self.publications.push(publication);
    }

    /// Several have their numbers.
    pub(crate) fn add_all(&mut self, publications: impl IntoIterator<Item = Arc<Publication>>) {
        for publication in publications {
            self.add(publication);
        }
    }

    pub(crate) fn channel(&self, name: &str) -> usize {
        let found = self.names.iter().position(|known| known == name);
        found.unwrap_or_else(|| panic!("{name:?} is no channel"))
    }

    pub(crate) fn id(&self, sequence: u64) -> String {
        let cursor = Cursor {
            epoch: self.epoch,
            sequence: Sequence(sequence),
        };
        cursor.to_string()
    }

    /// What clients may do in a channel.
    pub(crate) fn client_rules(&self, channel: usize) -> ClientRules {
        self.config.client_rules(&self.channels[channel])
    }

    /// The sequence number in an id that the server sent.
    pub(crate) fn sequence(&self, id: &str) -> u64 {
        let cursor: Cursor = id.parse().unwrap_or_else(|_| panic!("{id:?} is no id"));
        assert_eq!(cursor.epoch, self.epoch, "the epoch of {id}");
        cursor.sequence.0
    }

    pub(crate) fn publication(&self, sequence: u64) -> &Arc<Publication> {
        let found = self.publications.get(sequence as usize - 1);
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
        let published = self.publication(sequence).published;
        self.now.has_reached(published.after(age))
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
        let later = self.between(channel, sequence, log.added);
        let mut later = later.iter();
        self.rules[channel].overflow == Overflow::Conflate
            && key.is_some()
            && later.any(|later| self.publication(*later).key() == key)
    }

    /// The first publication of a channel after one and up to another that nothing stands for.
    fn first_newest(&self, log: &LogFacts, channel: usize, after: u64, last: u64) -> Option<u64> {
        let between = self.between(channel, after, last).iter().copied();
        let mut owed = between.filter(|s| !self.publication(*s).has_expired(self.now));
        owed.find(|sequence| !self.is_superseded(log, channel, *sequence))
    }

    pub(crate) fn between(&self, channel: usize, after: u64, last: u64) -> &[u64] {
        let all = &self.by_channel[channel];
        let from = all.partition_point(|sequence| *sequence <= after);
        let to = all.partition_point(|sequence| *sequence <= last);
        all.get(from..to).unwrap_or_default()
    }

    /// The first publication of a channel after one and up to another that is owed whatever time it
    /// was served.
    pub(crate) fn first_owed(&self, channel: usize, after: u64, last: u64) -> Option<u64> {
        let mut between = self.between(channel, after, last).iter().copied();
        between.find(|sequence| !self.publication(*sequence).has_expired(self.now))
    }
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

/// A gap as it was told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) channel: usize,
    pub(crate) since: Option<String>,
    pub(crate) until: u64,
    pub(crate) missed: Option<u64>,
    pub(crate) cause: String,
}

impl Told {
    /// Where it begins, if that is a position of this epoch.
    fn begins(&self, facts: &Facts) -> Option<u64> {
        let since: Option<Cursor> = self.since.as_ref()?.parse().ok();
        since
            .filter(|since| since.epoch == facts.epoch)
            .map(|since| since.sequence.0)
    }

    pub(crate) fn seen(&self, facts: &Facts) -> Seen {
        Seen::Gap {
            channel: self.channel,
            since: self.begins(facts),
            until: self.until,
        }
    }

    /// A gap because of a position that is of no use ends where the cause says. What the log has of
    /// this epoch is not missing to a client that comes from another one.
    fn check_foreign_end(&self, at: u64, log: &LogFacts, facts: &Facts) {
        match self.cause.as_str() {
            "restart" => {
                let evicted = log.evicted[self.channel];
                let newest = facts.first_newest(log, self.channel, evicted, self.until);
                assert_eq!(newest, None, "{self:?} is in the log");
                assert!(self.until <= log.head, "{self:?}");
            }
            _ => assert!((at..=log.head).contains(&self.until), "{self:?}"),
        }
    }
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

    /// Whether a publication was there when a subscription began.
    pub(crate) fn was_there(&self, channel: usize, sequence: u64) -> bool {
        let subscription = self.subscriptions.get(&channel);
        subscription.is_some_and(|subscription| sequence <= subscription.there)
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
        let missing = facts.between(told.channel, since, told.until);
        // A worker on which a channel is new does not know where the channel's loss ends.
        let is_vague = told.cause == "expired" && told.missed.is_none();
        assert!(
            is_vague || missing.last() == Some(&told.until),
            "{told:?} ends at no publication of {name}"
        );
        match (told.cause.as_str(), told.missed) {
            (cause @ ("conflated" | "slow"), Some(missed)) => {
                let owed = missing
                    .iter()
                    .filter(|s| !facts.publication(**s).has_expired(facts.now));
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
            _ => panic!("{told:?}: cause and count"),
        }
        subscription.last = told.until;
    }

    /// A gap in a poll's answer was told, which is found on joining or later.
    pub(crate) fn gap_of_answer(&mut self, told: &Told, ask: Ask, at: u64, facts: &Facts) {
        let log = &facts.logs[self.worker];
        let subscription = self.of(told.channel);
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
                let missing = facts.between(told.channel, since, told.until);
                // The log may have lost the part that counts before the gap is cut.
                let is_lost = told.missed.is_none() && log.evicted[told.channel] > told.until;
                let is_exact = told.missed == Some(missing.len() as u64);
                assert!(is_exact || is_lost, "{told:?}: {missing:?} are missing");
            }
            (ask, cause) if ask.foreign_cause() == Some(cause) => {
                told.check_foreign_end(at, log, facts);
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
        assert!(head <= published.max(since), "{head} is not published yet");
        assert!(
            head >= self.newest,
            "the id went back from {} to {head}",
            self.newest
        );
        for (channel, subscription) in &self.subscriptions {
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
    }
}

/// Whether a subscription at a worker that asked for something may start here, and so.
pub(crate) fn check_start(
    worker: usize,
    ask: Ask,
    asked_at: u64,
    position: u64,
    gap: Option<&Told>,
    facts: &Facts,
) {
    let log = &facts.logs[worker];
    let at = (ask, position, gap);
    let Some(told) = gap else {
        return match ask {
            Ask::After(since) => assert_eq!(position, since, "{at:?}: not where it asked"),
            Ask::Foreign | Ask::Nonsense => panic!("{at:?}: no gap"),
            Ask::Now => assert!((asked_at..=log.head).contains(&position), "{at:?}"),
            // Its history says where.
            Ask::First | Ask::Last(_) => assert!(position <= log.head, "{at:?}"),
        };
    };
    assert_eq!(told.until, position, "{at:?}: goes on elsewhere");
    assert_eq!(told.missed, None, "{at:?}: cannot be known");
    match ask {
        Ask::After(since) => {
            assert_eq!(told.cause, "expired", "{at:?}");
            assert_eq!(told.since, Some(facts.id(since)), "{at:?}");
            assert!(
                since < position && position <= log.evicted_of_any(),
                "{at:?}"
            );
        }
        Ask::Foreign | Ask::Nonsense => {
            assert_eq!(Some(&*told.cause), ask.foreign_cause(), "{at:?}");
            told.check_foreign_end(asked_at, log, facts);
        }
        Ask::First | Ask::Last(_) | Ask::Now => panic!("{at:?}: a gap before it begins"),
    }
}
