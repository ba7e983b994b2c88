//! The model of the messages that each subscriber must receive. The messages on the wire are
//! compared with this model.
//!
//! [`Facts`] has all publications. [`ExpectedDeliveries`] has the position of each subscription of
//! one connection. Every publication after the start of a subscription must be delivered once and
//! in order, be in a gap with the right ends and count, or have expired. A failed check panics. The
//! model does not depend on bytes or sockets.

use std::collections::{BTreeMap, VecDeque};

pub(crate) use crate::facts::{Delay, Facts, LogFacts, Work};
pub(crate) use crate::gap::{ReportedGap, check_start};
use crate::history::History;

/// The start position that a client requests for a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requested {
    After(u64),
    /// The position before all publications in the log.
    First,
    /// A position of another epoch.
    OtherEpoch,
    /// The newest publications in the log. The value is the number of publications that the client
    /// requests.
    Last(u32),
    /// A position after the newest publication, or text that is not an id.
    Invalid,
    Now,
}

impl Requested {
    /// If the server cannot use the requested position, returns the cause of the gap that it
    /// reports.
    pub(crate) fn unusable_cause(self) -> Option<&'static str> {
        match self {
            Self::OtherEpoch => Some("restart"),
            Self::Invalid => Some("unknown"),
            Self::After(_) | Self::First | Self::Last(_) | Self::Now => None,
        }
    }

    /// Returns a random request for history: for all publications, for a few, or for more than most
    /// channels have.
    pub(crate) fn draw_history(random: &mut fastrand::Rng) -> Self {
        match random.u32(0..6) {
            0..3 => Self::First,
            3..5 => Self::Last(random.u32(1..10)),
            _ => Self::Last([70, u32::MAX][random.usize(0..2)]),
        }
    }
}

/// A message that changes the position at which the client resumes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Observation {
    Gap {
        channel: usize,
        since: Option<u64>,
        until: u64,
    },
    /// The position of a client that has received everything up to this serial.
    Position(u64),
    Publication(u64),
    /// A subscription begins at this position. If the subscription begins with a gap, that gap ends
    /// at this position.
    Start {
        channel: usize,
        position: u64,
    },
}

#[derive(Debug)]
struct Subscription {
    /// The subscription's position. Each publication up to this serial was delivered, is in a gap
    /// or had expired.
    last: u64,
    /// The newest id on the connection when the subscription began, as a serial. The subscription
    /// may still deliver publications up to this serial, although the connection already has a
    /// newer id.
    catch_up: u64,
    /// The newest publication in the log when the subscription began.
    newest_at_start: u64,
    window: Option<Window>,
    /// The expected history, if the client requested one.
    history: Option<History>,
}

impl Subscription {
    /// If an epoch change has discarded the subscription's position, returns the first serial of
    /// the new epoch. Otherwise returns `None`, also if a subscription with history has no position
    /// yet. The beginning of an epoch is the position of the last publication that the epoch keeps,
    /// so it is discarded only if that publication is.
    fn restart(&self, facts: &Facts) -> Option<u64> {
        let restart = facts.epochs.restart(facts.epochs.last_before(self.last));
        restart.filter(|_| self.last > 0)
    }

    /// An epoch change discards publications. Removes these from the window, because they need no
    /// acknowledgement.
    fn forget_void(&mut self, facts: &Facts) {
        if let Some(window) = &mut self.window {
            let is_valid = |given: &u64| facts.epochs.restart(*given).is_none();
            window.unacknowledged.retain(is_valid);
        }
    }

    /// Returns the serial after which every publication must be delivered.
    fn owed_after(&self, facts: &Facts) -> u64 {
        let not_owed_until = self
            .history
            .as_ref()
            .map(|history| history.not_owed_until(facts));
        self.last.max(not_owed_until.unwrap_or_default())
    }
}

/// A subscription's window, and the deliveries that the client has not acknowledged.
#[derive(Debug)]
struct Window {
    size: usize,
    unacknowledged: VecDeque<u64>,
    /// The newest id that the client has acknowledged.
    last_ack: u64,
    /// The position at which the client would resume: the newest delivered publication up to
    /// `last_ack`.
    acknowledged: u64,
}

/// The position of each subscription of one connection, and the publications that the connection
/// must still receive.
#[derive(Debug)]
pub(crate) struct ExpectedDeliveries {
    /// The worker that serves the connection.
    worker: usize,
    subscriptions: BTreeMap<usize, Subscription>,
    /// The newest id delivered on the connection.
    pub(crate) newest: u64,
    /// Whether the connection receives no gap notifications. If so, a missing publication is not an
    /// error.
    pub(crate) gets_no_gaps: bool,
}

impl ExpectedDeliveries {
    pub(crate) fn new(worker: usize) -> Self {
        Self {
            worker,
            subscriptions: BTreeMap::new(),
            newest: 0,
            gets_no_gaps: false,
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
            newest_at_start: facts.logs[self.worker].added,
            window: None,
            history: None,
        };
        let before = self.subscriptions.insert(channel, subscription);
        assert!(before.is_none(), "channel {channel} was subscribed before");
    }

    /// Returns the newest publication that was in the log when a subscription began.
    pub(crate) fn newest_at_start(&self, channel: usize) -> u64 {
        let subscription = self.subscriptions.get(&channel);
        subscription.map_or(0, |subscription| subscription.newest_at_start)
    }

    /// Sets the history of a subscription that has just begun.
    pub(crate) fn set_history(&mut self, channel: usize, history: Option<History>, facts: &Facts) {
        let subscription = self.of(channel);
        if let Some(history) = &history {
            history.check_start(subscription.last, facts);
        }
        subscription.history = history;
    }

    /// Whether the client requested history for a channel and has received neither a publication
    /// nor a gap there.
    pub(crate) fn has_not_begun(&self, channel: usize) -> bool {
        let subscription = self.subscriptions.get(&channel);
        let history = subscription.and_then(|of| of.history.as_ref());
        history.is_some_and(History::has_not_begun)
    }

    /// Sets the window of a subscription that has just begun.
    pub(crate) fn set_window(&mut self, channel: usize, size: Option<u32>) {
        let subscription = self.of(channel);
        subscription.window = size.map(|size| Window {
            size: size as usize,
            unacknowledged: VecDeque::new(),
            last_ack: 0,
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

    /// Returns the channel to which an acknowledgement without a channel applies: the only
    /// subscribed channel.
    pub(crate) fn only_channel(&self) -> Option<usize> {
        let only = self.subscriptions.keys().next();
        only.copied().filter(|_| self.len() == 1)
    }

    /// Records that the client has acknowledged all publications of a channel up to `id`.
    pub(crate) fn acknowledge(&mut self, channel: usize, id: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&channel)
            && let Some(window) = &mut subscription.window
        {
            window.unacknowledged.retain(|given| *given > id);
            window.last_ack = window.last_ack.max(id);
            window.acknowledged = window.acknowledged.max(id.min(subscription.last));
        }
    }

    /// Returns each channel that has a window, and the position at which a client would resume in
    /// it.
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

    /// Checks a publication that the client has read. `mark` says whether the publication is marked
    /// as initial, and is `None` if this kind of frame has no such mark.
    pub(crate) fn deliver(&mut self, sequence: u64, mark: Option<bool>, facts: &Facts) {
        let name = facts.publication(sequence).channel.as_str();
        let channel = facts.channel(name);
        let (newest, gets_no_gaps) = (self.newest, self.gets_no_gaps);
        let subscription = self.of(channel);
        assert!(
            sequence > subscription.last,
            "{sequence} of {name} after {}",
            subscription.last
        );
        assert!(
            sequence > newest || sequence <= subscription.catch_up || subscription.window.is_some(),
            "{sequence} of {name} on a connection whose newest id is {newest}"
        );
        let restart = subscription.restart(facts);
        assert!(
            gets_no_gaps || restart.is_none_or(|restart| sequence < restart),
            "{sequence} of {name} after {}, which is void, without a gap",
            subscription.last
        );
        let lost = facts.first_owed(channel, subscription.owed_after(facts), sequence - 1);
        assert!(
            gets_no_gaps || lost.is_none(),
            "{lost:?} of {name} was lost before {sequence}"
        );
        match &mut subscription.history {
            Some(history) => history.deliver(sequence, mark, facts),
            None => assert_ne!(
                mark,
                Some(true),
                "{sequence} of {name} is marked without history"
            ),
        }
        subscription.last = sequence;
        if let Some(window) = &mut subscription.window {
            if sequence <= window.last_ack {
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

    /// Checks a gap that was reported after the subscription began.
    pub(crate) fn note_gap(&mut self, gap: &ReportedGap, facts: &Facts) {
        let log = &facts.logs[self.worker];
        let name = &facts.names[gap.channel];
        let subscription = self.of(gap.channel);
        let since = facts.sequence(gap.since.as_deref().expect("where a live gap begins"));
        assert!(
            since >= subscription.last,
            "{gap:?}, but {name} is at {}",
            subscription.last
        );
        let lost = facts.first_owed(gap.channel, subscription.owed_after(facts), since);
        assert_eq!(lost, None, "{gap:?}: a loss before it");
        if let Some(history) = &mut subscription.history {
            history.note_gap(gap, facts);
        }
        assert!(since < gap.until, "{gap:?} is empty");
        gap.check_void(None, facts);
        let missing = gap.missing(since, facts);
        // If the channel is new to the worker, the worker does not know which publication of the
        // channel was lost last. Then the gap need not end at a publication.
        let is_vague = gap.cause == "expired" && gap.missed.is_none()
            || gap.cause == "restart"
            || facts.epochs.is_beginning(gap.until);
        assert!(
            is_vague || missing.last() == Some(&gap.until),
            "{gap:?} ends at no publication of {name}"
        );
        match (gap.cause.as_str(), gap.missed) {
            (cause @ ("conflated" | "slow"), Some(missed)) => {
                let owed = missing
                    .iter()
                    .filter(|s| !facts.publication(**s).has_expired(facts.now))
                    .filter(|s| facts.epochs.restart(**s).is_none());
                let range = owed.count() as u64..=missing.len() as u64;
                assert!(
                    range.contains(&missed) && missed > 0,
                    "{gap:?}: counts {missed}, not one of {range:?}"
                );
                let newest = facts.first_newest(log, gap.channel, since, gap.until);
                assert!(
                    cause == "slow" || newest.is_none(),
                    "{gap:?}: no publication supersedes {newest:?}"
                );
            }
            ("slow", None) => {
                let evicted = log.evicted_of_any();
                assert!(evicted > since, "{gap:?}: nothing was evicted");
            }
            ("expired", None) => {
                // For a channel that was dropped and created again, only the newest eviction over
                // all channels is known.
                let evicted = log.evicted_of_any();
                assert!(evicted > since, "{gap:?}: nothing was evicted");
                let newest = facts.first_newest(log, gap.channel, evicted, gap.until);
                assert_eq!(newest, None, "{gap:?} covers what is in the log");
            }
            ("restart", None) => {
                assert!(gap.until <= facts.publications.len() as u64, "{gap:?}");
                subscription.forget_void(facts);
            }
            _ => panic!("{gap:?}: this cause with this count"),
        }
        subscription.last = gap.until;
    }

    /// Checks a gap in the answer to a poll. The worker found the gap when the poll began, or
    /// later.
    pub(crate) fn note_gap_of_answer(
        &mut self,
        gap: &ReportedGap,
        (requested, at): (Requested, u64),
        answer: u64,
        facts: &Facts,
    ) {
        let log = &facts.logs[self.worker];
        let subscription = self.of(gap.channel);
        if requested.unusable_cause().is_none() {
            gap.check_void(Some(answer), facts);
        }
        let is_conflated = gap.cause == "conflated";
        assert!(
            is_conflated || gap.missed.is_none(),
            "{gap:?}: a count that the server cannot know"
        );
        let asked = match requested {
            Requested::After(asked) => asked,
            Requested::First
            | Requested::Last(_)
            | Requested::OtherEpoch
            | Requested::Invalid
            | Requested::Now => 0,
        };
        match (requested, gap.cause.as_str()) {
            (Requested::After(_) | Requested::First | Requested::Last(_), "conflated") => {
                let since = facts.sequence(gap.since.as_deref().expect("where it begins"));
                assert!(since >= asked && since < gap.until, "{gap:?}");
                let lost = facts.first_owed(gap.channel, subscription.owed_after(facts), since);
                assert_eq!(lost, None, "{gap:?}: a loss before it");
                let newest = facts.first_newest(log, gap.channel, since, gap.until);
                assert_eq!(newest, None, "{gap:?}: no publication supersedes it");
                let missing = gap.missing(since, facts);
                // A gap has no count if it was shortened and its publications had already left the
                // log.
                let is_lost = gap.missed.is_none() && log.evicted[gap.channel] > gap.until;
                // The count may include publications that an epoch change has discarded.
                let valid = facts.between(gap.channel, since, gap.until).len() as u64;
                let range = valid..=missing.len() as u64;
                let is_exact = gap.missed.is_some_and(|missed| range.contains(&missed));
                assert!(is_exact || is_lost, "{gap:?}: {missing:?} are in it");
            }
            (requested, cause) if requested.unusable_cause() == Some(cause) => {
                gap.check_unusable_end(at, log, facts);
            }
            (_, "restart") if facts.epochs.have_changed() => {
                assert!(gap.until <= facts.publications.len() as u64, "{gap:?}");
            }
            (Requested::After(_) | Requested::First | Requested::Last(_), "expired") => {
                let since = facts.sequence(gap.since.as_deref().expect("where it begins"));
                assert!(since >= asked && since < gap.until, "{gap:?}");
                let lost = facts.first_owed(gap.channel, subscription.owed_after(facts), since);
                assert_eq!(lost, None, "{gap:?}: a loss before it");
                // For a channel that was dropped and created again, only the newest eviction over
                // all channels is known.
                let evicted = log.evicted_of_any();
                let newest = facts.first_newest(log, gap.channel, evicted, gap.until);
                assert!(
                    gap.until <= evicted || newest.is_none(),
                    "{gap:?} covers what is in the log"
                );
            }
            _ => panic!("{gap:?} for {requested:?}"),
        }
        if let Some(history) = &mut subscription.history {
            history.note_gap(gap, facts);
        }
        subscription.last = gap.until;
    }

    /// Checks a position that the server sent. The connection must have received all publications
    /// up to this position. `since` is a position that the client received earlier from another
    /// worker. That worker may have processed more publications than the worker of this connection.
    pub(crate) fn caught_up_position(&mut self, head: u64, since: u64, facts: &Facts) {
        let published = facts.logs[self.worker].head;
        // After an epoch change, a gap may end after the newest publication that this worker has
        // processed, if another worker had processed more.
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

    /// Searches for a channel with an undelivered publication. Returns the channel, the position of
    /// its subscription, and the serial of the first undelivered publication.
    pub(crate) fn owed(&self, facts: &Facts) -> Option<(usize, u64, u64)> {
        self.owed_until(facts.logs[self.worker].head, facts)
    }

    /// Like `owed`, but considers only publications up to the serial `last`.
    pub(crate) fn owed_until(&self, last: u64, facts: &Facts) -> Option<(usize, u64, u64)> {
        if self.gets_no_gaps {
            return None;
        }
        self.subscriptions
            .iter()
            .find_map(|(channel, subscription)| {
                let owed = facts.first_owed(*channel, subscription.owed_after(facts), last)?;
                Some((*channel, subscription.last, owed))
            })
    }

    /// Checks that every publication was delivered, is in a gap or has expired. Called when no
    /// bytes are in transit.
    pub(crate) fn check_complete(&self, facts: &Facts, pipe: u32) {
        if let Some((channel, last, owed)) = self.owed(facts) {
            panic!("pipe {pipe}: channel {channel} is at {last} and {owed} is owed");
        }
        let mut all = self.subscriptions.values();
        let void = all.find(|one| one.restart(facts).is_some());
        let is_reported = self.gets_no_gaps || void.is_none();
        assert!(
            is_reported,
            "pipe {pipe}: {void:?} is at a void position, without a gap"
        );
    }
}
