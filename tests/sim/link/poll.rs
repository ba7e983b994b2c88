//! A peer that polls: it sends one request after another, sometimes before the previous answer has
//! arrived.
//!
//! Each answer has its own expected deliveries, which begin at the position of the poll's request.
//! The answer's id must cover every publication and gap in the answer, and the next request begins
//! at that id. A publication counts as delivered when the peer has read it, even if the answer
//! stays incomplete.

use std::collections::VecDeque;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use fanfare::id::Cursor;

use super::history::frame_of;
use super::{Link, Service, Stage, parse_gap};
use crate::model::{ExpectedDeliveries, Facts, Observation, Requested};
use crate::wire::Head;

/// The maximum number of unanswered polls of a connection.
const AHEAD_MAX: usize = 3;

/// The polls of one connection.
#[derive(Debug, Default)]
pub(super) struct Polls {
    /// The unanswered polls, in the order in which they were sent.
    asked: VecDeque<PendingPoll>,
    answer: Option<Answer>,
    answered: u64,
    /// The number of answers that must have arrived before the end of the connection.
    due: u64,
    /// Whether the server or the client has announced that the connection closes after the current
    /// answer.
    is_last: bool,
    has_asked_to_close: bool,
}

#[derive(Debug)]
struct PendingPoll {
    requested: Requested,
    at: u64,
    /// When the poll was sent, every worker had processed all publications up to this serial.
    acknowledged: u64,
    /// For each channel, the serial of the newest publication that had left the log when the poll
    /// was sent.
    evicted: Vec<u64>,
    /// Whether the poll sends its start position, if it has one, also in `If-None-Match`.
    has_answer: bool,
}

/// An answer whose content is being read.
#[derive(Debug)]
struct Answer {
    left: usize,
    id: u64,
    has_gap: bool,
    /// Whether the beginning of the answer was parsed, so that the publications come next.
    is_open: bool,
    is_first: bool,
}

impl Link {
    /// Sends the next poll from the end of the last answer. At random, sends it before that answer
    /// has arrived.
    pub(crate) fn poll_again(&mut self, is_quiet: bool, facts: &Facts, random: &mut fastrand::Rng) {
        let polls = &self.polls;
        let is_open = !self.has_fin && !polls.is_last && !polls.has_asked_to_close;
        let is_polling = matches!(self.service, Service::Poll { .. }) && !self.has_broken_protocol;
        if !is_polling || !is_open || self.stage == Stage::Over || self.pipe.borrow().has_server_fin
        {
            return;
        }
        let is_due = polls.asked.is_empty() && (is_quiet || random.u32(0..3) > 0);
        let is_ahead = polls.asked.len() < AHEAD_MAX && random.u32(0..20) == 0;
        let goes_ahead = is_ahead && !is_quiet && !self.is_tracked;
        if is_due || goes_ahead {
            let requested = self.last_id.map_or(self.requested, Requested::After);
            self.queue_poll(requested, facts, random);
        }
    }

    pub(super) fn queue_poll(
        &mut self,
        requested: Requested,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) {
        let Service::Poll {
            is_long,
            is_kept_open,
            ..
        } = self.service
        else {
            panic!("no poll");
        };
        let (mut target, mut fields) = self.target("/poll", requested, facts, random);
        let timeout = match is_long {
            true => ["", "&timeout=1", "&timeout=2", "&timeout=600"][random.usize(0..4)],
            false => "&timeout=0",
        };
        target.push_str(timeout);
        let has_answer = random.bool();
        if let (true, Requested::After(since)) = (has_answer, requested) {
            write!(
                fields,
                "If-None-Match: \"x\", W/\"{}\"\r\n",
                facts.id(since)
            )
            .unwrap();
        }
        let version = match is_kept_open || random.u32(0..10) > 0 {
            true => "1.1",
            false => "1.0",
        };
        self.polls.has_asked_to_close |= version == "1.0";
        let request = format!("GET {target} HTTP/{version}\r\nHost: h\r\n{fields}\r\n");
        self.outgoing.extend(request.as_bytes());
        self.polls.asked.push_back(PendingPoll {
            requested,
            at: facts.logs[self.worker].head,
            acknowledged: facts.acknowledged,
            evicted: facts.logs[self.worker].evicted.clone(),
            has_answer,
        });
    }

    /// Requires that all polls sent so far are answered before the server ends.
    pub(crate) fn expect_answers(&mut self, had_time: bool) {
        if had_time && self.outgoing.is_empty() && self.pipe.borrow().is_read() {
            self.polls.due = self.polls.answered + self.polls.asked.len() as u64;
        }
    }

    pub(super) fn has_due_answers(&self) -> bool {
        self.polls.answered >= self.polls.due
    }

    pub(super) fn check_polls(&self) {
        let unanswered = &self.polls.asked;
        assert!(unanswered.is_empty(), "without an answer: {unanswered:?}");
    }

    /// Checks a poll that is still unanswered. The log must have no publication for which the poll
    /// waits, unless the answer is being sent in pieces.
    pub(crate) fn check_waiting(&self, facts: &Facts) {
        let pipe = self.pipe.borrow();
        let is_asked = self.outgoing.is_empty() && pipe.is_read() && pipe.to_peer.is_empty();
        let asked = self.polls.asked.front().filter(|_| is_asked);
        let Some(asked) = asked else {
            return;
        };
        for channel in &self.channels {
            let log = &facts.logs[self.worker];
            let since = match asked.requested {
                Requested::After(since) => since,
                Requested::First | Requested::Last(_) => log.evicted[*channel],
                _ => panic!("{asked:?} must not wait"),
            };
            let owed = facts.first_owed(*channel, since, log.head);
            assert_eq!(owed, None, "a poll from {since} waits");
        }
    }

    pub(super) fn begin_answer(&mut self, head: &Head, facts: &Facts) {
        let tag = head.field("etag").expect("an entity tag");
        let id = facts.sequence(tag.trim_matches('"'));
        let cursor: Cursor = tag.trim_matches('"').parse().expect("an id");
        assert_eq!(tag, format!("\"{cursor}\""));
        let is_last = head.field("connection") == Some("close");
        let may_close = facts.is_draining || facts.has_kicked;
        let may_end = self.has_fin || may_close || self.polls.has_asked_to_close;
        assert!(!is_last || may_end, "the server closes without a reason");
        self.polls.is_last |= is_last;
        let asked = self.polls.asked.front().expect("an answer without a poll");
        self.expected = ExpectedDeliveries::new(self.worker);
        let (requested, at, has_answer) = (asked.requested, asked.at, asked.has_answer);
        let position = match requested {
            Requested::After(position) => Some(position),
            Requested::First | Requested::Last(_) => Some(0),
            Requested::OtherEpoch | Requested::Invalid | Requested::Now => None,
        };
        if let Some(position) = position {
            for channel in self.channels.clone() {
                self.expected.start(channel, position, facts);
                self.begin(channel, position, requested, at, facts);
            }
        }
        if head.status == 304 {
            let is_short = matches!(self.service, Service::Poll { is_long: false, .. });
            assert!(is_short && has_answer && requested == Requested::After(id));
            self.finish_answer(id, true, facts);
            return;
        }
        let length = head.field("content-length").expect("a length");
        self.polls.answer = Some(Answer {
            left: length.parse().expect("a length"),
            id,
            has_gap: head.field("fanfare-gap") == Some("1"),
            is_open: false,
            is_first: true,
        });
        self.stage = Stage::Answer;
    }

    pub(super) fn take_answer(&mut self, facts: &mut Facts) -> usize {
        let mut answer = self
            .polls
            .answer
            .take()
            .expect("an answer that is being read");
        let incoming = std::mem::take(&mut self.incoming);
        let taken = if !answer.is_open {
            self.take_opening(&mut answer, &incoming, facts)
        } else if incoming.first() == Some(&b']') {
            if incoming.len() < 2 { 0 } else { 2 }
        } else {
            self.take_element(&mut answer, &incoming, facts)
        };
        answer.left = answer.left.checked_sub(taken).expect("the content-length");
        if taken == 2 && incoming.starts_with(b"]}") {
            assert_eq!(answer.left, 0, "shorter than its content-length");
            // A long poll may report a gap before its worker has processed all acknowledged
            // publications.
            let is_short = matches!(self.service, Service::Poll { is_long: false, .. });
            let is_empty = answer.is_first && (is_short || !answer.has_gap);
            self.finish_answer(answer.id, is_empty, facts);
        } else {
            self.polls.answer = Some(answer);
        }
        self.incoming = incoming;
        taken
    }

    /// Parses the part of an answer before the first publication.
    fn take_opening(&mut self, answer: &mut Answer, bytes: &[u8], facts: &mut Facts) -> usize {
        let mark = b"\"publications\":[";
        let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) else {
            return 0;
        };
        let taken = at + mark.len();
        let mut text = str::from_utf8(&bytes[..taken]).expect("text").to_owned();
        text.push_str("]}");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let id = json["id"].as_str().expect("an id");
        assert_eq!(
            facts.sequence(id),
            answer.id,
            "the content's id is not the entity tag's"
        );
        assert_eq!(json["gap"].as_bool(), Some(answer.has_gap));
        let none = Vec::new();
        let gaps = json["gaps"].as_array().unwrap_or(&none);
        assert_eq!(gaps.is_empty(), !answer.has_gap);
        let (requested, at) = self
            .polls
            .asked
            .front()
            .map(|a| (a.requested, a.at))
            .unwrap();
        for gap in gaps {
            let gap = parse_gap(gap, facts);
            let id = answer.id;
            let until = facts.epochs.same_as(id);
            assert!(gap.until <= until, "{gap:?} in an answer up to {id}");
            if !self.expected.has(gap.channel) {
                self.expected.start(gap.channel, 0, facts);
            }
            self.expected
                .note_gap_of_answer(&gap, (requested, at), id, facts);
            self.observations.push(gap.observation(facts));
            facts.gaps += 1;
        }
        if requested == Requested::Now {
            assert!(
                (at..=facts.logs[self.worker].head).contains(&answer.id),
                "{} is not a present position",
                answer.id
            );
            let position = answer.id;
            for channel in self.channels.iter().copied() {
                if !self.expected.has(channel) {
                    self.expected.start(channel, position, facts);
                }
                self.observations
                    .push(Observation::Start { channel, position });
            }
        }
        let is_all = self
            .channels
            .iter()
            .all(|channel| self.expected.has(*channel));
        assert!(is_all, "an invalid position without a gap in each channel");
        answer.is_open = true;
        taken
    }

    /// Parses one publication and the separator before it.
    fn take_element(&mut self, answer: &mut Answer, bytes: &[u8], facts: &mut Facts) -> usize {
        let separator: &[u8] = if answer.is_first { b"" } else { b"," };
        if bytes.len() <= separator.len() {
            return 0;
        }
        let element = bytes.strip_prefix(separator).expect("a separator");
        let is_full = matches!(self.service, Service::Poll { is_full: true, .. });
        let Some(sequence) = sequence_of(element, is_full, facts) else {
            return 0;
        };
        let kind = self.frame_kind();
        let [plain, marked] = [kind, kind.initial()].map(|kind| {
            let frame = frame_of(sequence, kind, facts);
            frame[1..].to_vec()
        });
        // The first `plain.len()` bytes show whether the publication has the mark `initial`.
        let Some(start) = element.get(..plain.len()) else {
            return 0;
        };
        let length = match start == plain {
            true => plain.len(),
            false => marked.len(),
        };
        let Some(element) = element.get(..length) else {
            return 0;
        };
        let whole = [b",", element].concat();
        let before = self.last_id;
        self.deliver(sequence, &whole, facts);
        // A polling client resumes at the id of the answer, not at that of a publication.
        self.last_id = before;
        answer.is_first = false;
        separator.len() + length
    }

    fn finish_answer(&mut self, id: u64, is_empty: bool, facts: &Facts) {
        let asked = self.polls.asked.pop_front().expect("asked");
        let since = match asked.requested {
            Requested::After(since) => since,
            Requested::First
            | Requested::Last(_)
            | Requested::OtherEpoch
            | Requested::Invalid
            | Requested::Now => 0,
        };
        self.expected.caught_up_position(id, since, facts);
        if is_empty && !self.polls.is_last {
            self.check_acknowledged(&asked, id, facts);
        }
        self.observations.push(Observation::Position(id));
        self.last_id = Some(self.last_id.map_or(id, |last| last.max(id)));
        self.polls.answered += 1;
        self.stage = match self.polls.is_last {
            true => Stage::Over,
            false => Stage::AwaitHead,
        };
    }
}

impl Link {
    /// Checks the id of an answer without publications. The answer must not skip a publication that
    /// was acknowledged to its feeder before the poll was sent, unless that publication has
    /// expired. `ExpectedDeliveries` checks answers with publications.
    fn check_acknowledged(&self, asked: &PendingPoll, id: u64, facts: &Facts) {
        let owed = self.channels.iter().filter_map(|channel| {
            let since = match asked.requested {
                Requested::After(since) => since,
                Requested::First | Requested::Last(_) => asked.evicted[*channel],
                Requested::OtherEpoch | Requested::Invalid | Requested::Now => return None,
            };
            facts.first_owed(*channel, since, asked.acknowledged)
        });
        let first = owed.min();
        assert!(
            first.is_none_or(|first| first <= id),
            "{asked:?} is answered with nothing up to {id}, but {first:?} was acknowledged"
        );
    }
}

/// Returns the serial of a publication in a poll's answer, or `None` until enough of its bytes have
/// arrived.
fn sequence_of(element: &[u8], is_full: bool, facts: &Facts) -> Option<u64> {
    if is_full {
        let mark = b"\"id\":\"";
        let at = element.windows(mark.len()).position(|w| w == mark)?;
        let rest = &element[at + mark.len()..];
        let end = rest.iter().position(|byte| *byte == b'"')?;
        return Some(facts.sequence(str::from_utf8(&rest[..end]).expect("an id")));
    }
    let Some(text) = element.strip_prefix(b"\"") else {
        return number(element);
    };
    let end = text.iter().position(|byte| *byte == b'"')?;
    let text = &text[..end];
    number(text).or_else(|| number(&STANDARD.decode(text).expect("base64")))
}

/// Parses the digits before a full stop.
fn number(bytes: &[u8]) -> Option<u64> {
    let end = bytes.iter().position(|byte| *byte == b'.')?;
    str::from_utf8(&bytes[..end]).ok()?.parse().ok()
}
