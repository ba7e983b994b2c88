//! A simulated operator, who asks the workers questions and closes conns at random.
//!
//! This module checks the following rules. A worker answers every question within a few turns, even
//! if it does only little work for it in each turn. A list is no longer than requested. A question
//! to close one conn closes at most this conn. On a quiet node, a list names exactly the conns that
//! are open, with all their subscriptions.

use std::collections::BTreeSet;
use std::sync::Arc;

use crossbeam_channel::{Receiver, TryRecvError};
use fanfare::backend::CloseInfo;
use fanfare::effect::{ConnSort, ConnTransport};
use fanfare::id::{ChannelName, ConnName};
use fanfare::pattern::Pattern;
use fanfare::worker::mail::survey::{ConnFilter, Question, Survey, SurveyAnswer};

use crate::feed::Mailboxes;
use crate::link::DISCONNECT_CODE;
use crate::world::node::NodeWorker;

/// The maximum number of turns until a worker has answered a question, per conn and question.
const TURNS_MAX: u64 = 3;

const SORTS: [ConnSort; 5] = [
    ConnSort::Behind,
    ConnSort::Channels,
    ConnSort::Silent,
    ConnSort::Unsent,
    ConnSort::Connection,
];
/// The transports whose subscribers the operator closes.
const KICKED: [ConnTransport; 3] = [
    ConnTransport::EventStream,
    ConnTransport::Poll,
    ConnTransport::WebSocket,
];
const TRANSPORTS: [ConnTransport; 4] = [
    ConnTransport::EventStream,
    ConnTransport::Poll,
    ConnTransport::Request,
    ConnTransport::WebSocket,
];

/// A question that was sent to one worker.
#[derive(Debug)]
struct Asked {
    question: Question,
    answers: Receiver<(u16, SurveyAnswer)>,
    worker: usize,
    /// The number of turns of the worker when the question was sent.
    turns: u64,
}

/// The operator.
#[derive(Debug)]
pub(crate) struct Operator {
    /// A random number generator of its own, so that the operator changes no other number.
    random: fastrand::Rng,
    asked: Vec<Asked>,
    /// Whether the operator closes all subscribers of a channel or of a transport in this run.
    kicks_many: bool,
    /// Whether such a question was sent.
    pub(crate) has_kicked_many: bool,
}

impl Operator {
    pub(crate) fn new(random: &fastrand::Rng) -> Self {
        let mut random = random.clone();
        Self {
            kicks_many: random.u32(0..3) == 0,
            random,
            asked: Vec::new(),
            has_kicked_many: false,
        }
    }

    /// Forgets the questions to a server that was killed.
    pub(crate) fn forget(&mut self) {
        self.asked.clear();
    }

    /// Asks one worker a question, at random. `known` are conns that may exist.
    pub(crate) fn ask_at_random(
        &mut self,
        workers: &[NodeWorker],
        known: &[ConnName],
        mailboxes: &Mailboxes,
    ) {
        if self.random.u32(0..40) > 0 {
            return;
        }
        let question = self.draw_question(known);
        let worker = self.random.usize(0..workers.len());
        self.ask(question, worker, workers, mailboxes);
    }

    fn draw_question(&mut self, known: &[ConnName]) -> Question {
        let limit = self.random.usize(1..6);
        let kinds = if self.kicks_many { 12 } else { 5 };
        match self.random.u32(0..kinds) {
            0 => {
                let count = self.random.usize(0..6);
                Question::Count((0..count).map(|_| self.draw_channel()).collect())
            }
            1 => Question::Ping,
            2 => Question::Largest {
                pattern: self.draw_pattern(),
                limit,
            },
            3 if !known.is_empty() => kick(ConnFilter {
                name: Some(known[self.random.usize(0..known.len())]),
                ..ConnFilter::default()
            }),
            5.. => {
                self.has_kicked_many = true;
                let is_by_channel = self.random.bool();
                let transport = KICKED[self.random.usize(0..KICKED.len())];
                kick(ConnFilter {
                    channel: is_by_channel.then(|| self.draw_channel()),
                    transport: (!is_by_channel).then_some(transport),
                    ..ConnFilter::default()
                })
            }
            _ => Question::List {
                filter: Arc::new(self.draw_filter()),
                sort: SORTS[self.random.usize(0..SORTS.len())],
                limit,
            },
        }
    }

    /// Draws a channel, which may have no subscribers or may not exist.
    fn draw_channel(&mut self) -> ChannelName {
        let name = format!("c{}", self.random.u32(0..5));
        ChannelName::new(&name).expect("a name")
    }

    fn draw_pattern(&mut self) -> Option<Pattern> {
        let text = ["*", "c*", "c1", "other*"];
        let drawn = text.get(self.random.usize(0..=text.len()))?;
        Some(Pattern::new(drawn).expect("a pattern"))
    }

    fn draw_filter(&mut self) -> ConnFilter {
        let has_channel = self.random.bool();
        let transport = TRANSPORTS.get(self.random.usize(0..8)).copied();
        ConnFilter {
            channel: has_channel.then(|| self.draw_channel()),
            transport,
            behind: self.random.u64(0..2),
            unsent: self.random.u64(0..2),
            ..ConnFilter::default()
        }
    }

    fn ask(
        &mut self,
        question: Question,
        worker: usize,
        workers: &[NodeWorker],
        mailboxes: &Mailboxes,
    ) {
        let (answers_in, answers) = crossbeam_channel::bounded(1);
        let survey = Survey {
            question: question.clone(),
            answers: answers_in,
        };
        if mailboxes.ask(worker, survey) {
            let turns = workers[worker].metrics.turns.value();
            self.asked.push(Asked {
                question,
                answers,
                worker,
                turns,
            });
        }
    }

    /// Checks the answers that have arrived, and that the others are not late.
    pub(crate) fn check(&mut self, workers: &[NodeWorker]) {
        let count = self.asked.len() as u64;
        self.asked.retain(|asked| {
            match asked.answers.try_recv() {
                Ok((worker, answer)) => {
                    assert_eq!(usize::from(worker), asked.worker);
                    check_answer(&asked.question, &answer);
                    return false;
                }
                Err(TryRecvError::Disconnected) => panic!("dropped without an answer: {asked:?}"),
                Err(TryRecvError::Empty) => {}
            }
            let worker = &workers[asked.worker];
            let passed = worker.metrics.turns.value() - asked.turns;
            let slots = worker.worker.conn_count() as u64 + 64;
            let is_late = passed > TURNS_MAX * slots * count;
            assert!(!is_late, "not answered in {passed} turns: {asked:?}");
            !worker.has_ended
        });
    }

    /// Asks a worker for a list of all its conns.
    pub(crate) fn ask_for_conns(
        worker: usize,
        mailboxes: &Mailboxes,
    ) -> Receiver<(u16, SurveyAnswer)> {
        let (answers_in, answers) = crossbeam_channel::bounded(1);
        let survey = Survey {
            question: Question::List {
                filter: Arc::default(),
                sort: ConnSort::Connection,
                limit: 1000,
            },
            answers: answers_in,
        };
        assert!(mailboxes.ask(worker, survey), "the queue has room");
        answers
    }
}

fn kick(filter: ConnFilter) -> Question {
    Question::Kick {
        filter: Arc::new(filter),
        close_info: Arc::new(CloseInfo {
            code: DISCONNECT_CODE,
            reason: "enough".into(),
        }),
    }
}

fn check_answer(question: &Question, answer: &SurveyAnswer) {
    match (question, answer) {
        (Question::Count(names), SurveyAnswer::Counts(counts)) => {
            assert_eq!(names.len(), counts.len());
        }
        (Question::Ping, SurveyAnswer::Pong) => {}
        (Question::Largest { limit, pattern }, SurveyAnswer::Channels(channels)) => {
            assert!(channels.len() <= *limit);
            let mut names = channels.iter().map(|(name, _)| name);
            let matches = |name| pattern.as_ref().is_none_or(|pattern| pattern.matches(name));
            assert!(names.all(matches), "{channels:?} for {pattern:?}");
            assert!(channels.is_sorted_by(|a, b| a.1 >= b.1), "{channels:?}");
        }
        (Question::Kick { filter, .. }, SurveyAnswer::Kicked(count)) => {
            assert!(filter.name.is_none() || *count <= 1);
        }
        (Question::List { limit, .. }, SurveyAnswer::Conns { conns, matched, .. }) => {
            assert!(conns.len() <= *limit && conns.len() as u64 <= *matched);
            assert!(conns.is_sorted_by(|a, b| a.rank >= b.rank), "{conns:?}");
            let names: BTreeSet<ConnName> = conns.iter().map(|conn| conn.name).collect();
            assert_eq!(names.len(), conns.len(), "a conn is listed twice");
        }
        _ => panic!("{answer:?} does not answer {question:?}"),
    }
}
