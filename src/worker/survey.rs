//! survey: answers questions of operators about this worker's conns and channels, and closes conns
//! for an operator.
//!
//! A worker may have a million conns, so a question is answered over several turns, with a budget
//! of work for each turn. The list is not a snapshot: a conn may open, close or change in the
//! meantime.

use std::cmp::Reverse;

use super::Worker;
use super::mail::survey::{ConnFilter, Question, Survey, SurveyAnswer, SurveyedConn};
use super::wire::net::Net;
use crate::backend::CloseInfo;
use crate::certain;
use crate::config::limits::SURVEY_WORK_PER_TURN_MAX;
use crate::effect::ConnSort;
use crate::id::{ChannelName, ConnId};
use crate::largest::Largest;
use crate::pattern::Pattern;
use crate::proxy::Source;

/// The maximum number of channels that a row names.
const FIRST_CHANNELS: usize = 3;
/// The work of a question to the kernel about a socket, in units of [`SURVEY_WORK_PER_TURN_MAX`].
const KERNEL_WORK: u32 = 16;
/// The work of ending a conn.
const KICK_WORK: u32 = 16;

/// The questions of operators.
#[derive(Debug)]
pub(super) struct Surveys {
    /// The question that is being answered.
    current: Option<Box<Surveying>>,
    pub(super) work_per_turn: u32,
}

impl Default for Surveys {
    fn default() -> Self {
        Self {
            current: None,
            work_per_turn: SURVEY_WORK_PER_TURN_MAX,
        }
    }
}

/// A question that is being answered.
#[derive(Debug)]
struct Surveying {
    survey: Survey,
    /// The next slot or index to examine.
    next: usize,
    /// The work that is left in this turn.
    work: Work,
    /// The number of matching conns so far.
    matched: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No state beyond [`Surveying::matched`].
    None,
    /// The numbers of subscribers of the first channels.
    Counts(Vec<u32>),
    /// The largest channels so far, by number of subscribers.
    Channels(Largest<(u32, Reverse<ChannelName>), ()>),
    /// The first conns so far.
    Conns(Largest<u64, ConnId>),
    /// The first conns, of which the last ones do not have a row yet.
    Rows {
        left: Vec<(u64, ConnId)>,
        rows: Vec<SurveyedConn>,
    },
}

impl Surveying {
    fn new(survey: Survey) -> Self {
        let state = match &survey.question {
            Question::Largest { limit, .. } => State::Channels(Largest::new(*limit)),
            Question::List { limit, .. } => State::Conns(Largest::new(*limit)),
            Question::Count(_) => State::Counts(Vec::new()),
            Question::Kick { .. } | Question::Ping => State::None,
        };
        Self {
            survey,
            next: 0,
            work: Work::default(),
            matched: 0,
            state,
        }
    }

    /// Returns the next slot or index to examine, and counts the work for it. Returns `None` at the
    /// end, or if no work is left in this turn. `end` is above every slot.
    fn take_next(&mut self, end: usize) -> Option<usize> {
        if self.work.is_done() || self.next >= end {
            return None;
        }
        self.work.add(1);
        self.next += 1;
        Some(self.next - 1)
    }
}

/// The work that is left in a turn. The last step of a turn may exceed it, so that each turn makes
/// progress.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    left: u32,
}

impl Work {
    fn add(&mut self, units: u32) {
        self.left = self.left.saturating_sub(units);
    }

    fn is_done(self) -> bool {
        self.left == 0
    }
}

impl<N: Net> Worker<N> {
    /// Whether a question is being answered or waits.
    pub(super) fn has_survey(&self) -> bool {
        self.surveys.current.is_some() || self.parts.inbox.has_survey()
    }

    /// Works on the answer to an operator's question. Sends the answer when it is complete.
    pub(super) fn survey(&mut self) {
        let surveying = match self.surveys.current.take() {
            Some(surveying) => surveying,
            None if !self.parts.inbox.has_survey() => return,
            None => match self.parts.inbox.take_survey() {
                Some(survey) => Box::new(Surveying::new(survey)),
                None => return,
            },
        };
        self.surveys.current = self.answer_survey(surveying);
    }

    /// Works on an answer. Returns the question if the answer is not complete.
    fn answer_survey(&mut self, mut surveying: Box<Surveying>) -> Option<Box<Surveying>> {
        let question = surveying.survey.question.clone();
        surveying.work.left = self.surveys.work_per_turn;
        let answer = match question {
            Question::Ping => Some(SurveyAnswer::Pong),
            Question::Count(channels) => self.count(&mut surveying, &channels),
            Question::Kick { filter, close_info } => {
                self.kick(&mut surveying, &filter, &close_info)
            }
            Question::Largest { pattern, .. } => {
                self.find_largest(&mut surveying, pattern.as_ref())
            }
            Question::List { filter, sort, .. } => self.list(&mut surveying, &filter, sort),
        };
        let Some(answer) = answer else {
            return Some(surveying);
        };
        // The operator may have stopped to wait.
        let _sent = surveying
            .survey
            .answers
            .try_send((self.parts.number, answer));
        None
    }

    fn count(&self, surveying: &mut Surveying, names: &[ChannelName]) -> Option<SurveyAnswer> {
        while let Some(index) = surveying.take_next(names.len()) {
            if let (Some(name), State::Counts(counts)) = (names.get(index), &mut surveying.state) {
                counts.push(self.hub.subscribers_of(name));
            }
        }
        let State::Counts(counts) = &mut surveying.state else {
            debug_assert!(false, "the question has another state");
            return Some(SurveyAnswer::Counts(Vec::new()));
        };
        let is_done = surveying.next >= names.len();
        is_done.then(|| SurveyAnswer::Counts(std::mem::take(counts)))
    }

    fn kick(
        &mut self,
        surveying: &mut Surveying,
        filter: &ConnFilter,
        close_info: &CloseInfo,
    ) -> Option<SurveyAnswer> {
        while let Some(id) = self.next_match(surveying, filter) {
            if self.disconnect(id, close_info) {
                surveying.work.add(KICK_WORK);
                surveying.matched += 1;
            }
        }
        let is_done = surveying.next >= self.conns.end();
        is_done.then_some(SurveyAnswer::Kicked(surveying.matched))
    }

    fn find_largest(
        &self,
        surveying: &mut Surveying,
        pattern: Option<&Pattern>,
    ) -> Option<SurveyAnswer> {
        let end = self.hub.channels_end();
        while let Some(place) = surveying.take_next(end) {
            if let Some((name, subscribers)) = self.hub.channel_at(place)
                && pattern.is_none_or(|pattern| pattern.matches(name))
                && let State::Channels(largest) = &mut surveying.state
            {
                largest.offer_with(
                    |(last, Reverse(last_name))| {
                        subscribers.cmp(last).then_with(|| last_name.cmp(name))
                    },
                    || ((subscribers, Reverse(name.clone())), ()),
                );
            }
        }
        if surveying.next < end {
            return None;
        }
        let State::Channels(largest) = &mut surveying.state else {
            debug_assert!(false, "the question has another state");
            return Some(SurveyAnswer::Channels(Vec::new()));
        };
        let largest = std::mem::replace(largest, Largest::new(0));
        let sorted = largest.into_sorted().into_iter();
        let channels = sorted.map(|((subscribers, Reverse(name)), ())| (name, subscribers));
        Some(SurveyAnswer::Channels(channels.collect()))
    }

    fn list(
        &self,
        surveying: &mut Surveying,
        filter: &ConnFilter,
        sort: ConnSort,
    ) -> Option<SurveyAnswer> {
        if let State::Rows { .. } = surveying.state {
            return self.make_rows(surveying);
        }
        while let Some(id) = self.next_match(surveying, filter) {
            surveying.matched += 1;
            let rank = self.rank(id, sort, &mut surveying.work);
            if let State::Conns(first) = &mut surveying.state {
                first.offer(rank, id);
            }
        }
        if surveying.next >= self.conns.end()
            && let State::Conns(first) = &mut surveying.state
        {
            let first = std::mem::replace(first, Largest::new(0));
            let mut left = first.into_sorted();
            left.reverse();
            surveying.state = State::Rows {
                left,
                rows: Vec::new(),
            };
        }
        None
    }

    fn make_rows(&self, surveying: &mut Surveying) -> Option<SurveyAnswer> {
        let State::Rows { left, rows } = &mut surveying.state else {
            debug_assert!(false, "the question has another state");
            return None;
        };
        while !surveying.work.is_done()
            && let Some((rank, id)) = left.pop()
        {
            // The row has the peer's address and the number of unacknowledged bytes.
            surveying.work.add(2 * KERNEL_WORK);
            self.add_subscriptions(id.slot, &mut surveying.work);
            // A conn that was freed in the meantime has no row.
            rows.extend(self.describe(id, rank));
        }
        left.is_empty().then(|| SurveyAnswer::Conns {
            conns: std::mem::take(rows),
            matched: surveying.matched,
            open: self.conns.len() as u64,
        })
    }

    /// Returns the next conn that matches. Returns `None` at the end, or if no work is left in this
    /// turn.
    fn next_match(&self, surveying: &mut Surveying, filter: &ConnFilter) -> Option<ConnId> {
        let end = self.conns.end();
        if let Some(name) = filter.name {
            let is_first = surveying.next < end;
            surveying.next = end;
            let named = self.find(name).filter(|_| is_first);
            return named.filter(|id| self.matches(*id, filter, &mut surveying.work));
        }
        while let Some(slot) = surveying.take_next(end) {
            if let Some(id) = self.id_in(certain::to_u32(slot))
                && self.matches(id, filter, &mut surveying.work)
            {
                return Some(id);
            }
        }
        None
    }

    /// Adds the work for each subscription of a conn.
    fn add_subscriptions(&self, slot: u32, work: &mut Work) {
        work.add(certain::to_u32(self.hub.subscription_count(slot)));
    }

    fn matches(&self, id: ConnId, filter: &ConnFilter, work: &mut Work) -> bool {
        let Some(slot) = self.conns.get(id.slot as usize) else {
            return false;
        };
        if slot.is_closing
            || filter
                .transport
                .is_some_and(|transport| transport != slot.conn.transport())
            || self.unsent_bytes(id.slot) < filter.unsent
        {
            return false;
        }
        if filter.behind > 0 {
            self.add_subscriptions(id.slot, work);
            if self.hub.owed(id.slot).publications < filter.behind {
                return false;
            }
        }
        if let Some(channel) = &filter.channel {
            self.add_subscriptions(id.slot, work);
            if !self.hub.channels_of(id.slot).any(|name| name == channel) {
                return false;
            }
        }
        if let Some(sub) = &filter.sub
            && self.sub(id).as_deref() != Some(&**sub)
        {
            return false;
        }
        let Some(network) = &filter.network else {
            return true;
        };
        work.add(KERNEL_WORK);
        let client = self.peers.client(id.slot).map(Source::first_address);
        let peer = self.net.peer_address(&slot.socket).map(|peer| peer.ip());
        let mut addresses = client.into_iter().chain(peer);
        addresses.any(|address| network.contains(address))
    }

    fn rank(&self, id: ConnId, sort: ConnSort, work: &mut Work) -> u64 {
        match sort {
            ConnSort::Behind => {
                self.add_subscriptions(id.slot, work);
                self.hub.owed(id.slot).publications
            }
            ConnSort::Channels => self.hub.subscription_count(id.slot) as u64,
            ConnSort::Silent => self.silent_ms(id.slot),
            ConnSort::Unsent => self.unsent_bytes(id.slot),
            ConnSort::Connection => {
                let place = u64::from(self.parts.number) << 32 | u64::from(id.slot);
                u64::MAX - place
            }
        }
    }

    fn unsent_bytes(&self, slot: u32) -> u64 {
        let conn = self.conns.get(slot as usize).map(|slot| &slot.conn);
        let own = conn.map_or(0, |conn| conn.outbox().bytes());
        (own + self.filters.unsent(slot).len()) as u64
    }

    fn silent_ms(&self, slot: u32) -> u64 {
        let conn = self.conns.get(slot as usize).map(|slot| &slot.conn);
        let silence = conn.map(|conn| conn.silence(self.running.now()));
        silence.map_or(0, |silence| certain::to_u64(silence.as_millis()))
    }

    fn describe(&self, id: ConnId, rank: u64) -> Option<SurveyedConn> {
        let slot = self.conns.get(id.slot as usize)?;
        if slot.generation != id.generation || slot.is_closing {
            return None;
        }
        let peer = self.net.peer_address(&slot.socket);
        let own = peer.map(|peer| Source::from(peer.ip()));
        let client = self.peers.client(id.slot);
        let channels = self.hub.channels_of(id.slot);
        Some(SurveyedConn {
            rank,
            name: self.name(id),
            peer,
            client: client.filter(|client| Some(*client) != own),
            transport: slot.conn.transport(),
            is_secure: self.filters.has(id.slot),
            is_ending: slot.conn.is_ending(),
            sub: self.sub(id),
            channels: self.hub.subscription_count(id.slot) as u64,
            first_channels: channels.take(FIRST_CHANNELS).cloned().collect(),
            behind: self.hub.owed(id.slot),
            unsent_bytes: self.unsent_bytes(id.slot),
            unacknowledged_bytes: self.net.unacknowledged_bytes(&slot.socket).into(),
            silent_ms: self.silent_ms(id.slot),
        })
    }
}
