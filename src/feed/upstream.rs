//! SHELL: what workers report, on its way to consumers and back to the clients.
//!
//! A report is taken when everybody whom it is for has room. While somebody has not, it and all
//! behind it wait, in the end with the clients they came from. Notices wait apart from reports, for
//! a smaller room of their own, and with the clients too. A consumer that makes others wait and
//! reads next to nothing is cut off. The loop in [`super`] calls in every round.

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use super::answers::Ack;
use super::consumer;
use super::dialogue::Judgement;
use super::draft::{Channels, Draft};
use super::feeder::Feeder;
use super::minify::minify;
use super::refusal::Refusal;
use super::sequencer::{Awaited, Sequencer};
use crate::config::limits::{FEED_ACKS_MAX, REPORTS_PER_ROUND_MAX};
use crate::dialogue::{ClientPublication, Counts, Published, Report, Saying, Watch};
use crate::effect::{Audience, Reference};
use crate::frame::Payload;
use crate::id::ConnName;
use crate::metrics::FeedMetrics;
use crate::time::{Deadline, Now};
use crate::worker::upstream::{Reports, Waiting};

/// The feed's end of the way upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    reports: Reports,
    /// Whether the report in front, and the first notice, wait for consumers or for each other.
    is_report_stuck: bool,
    is_notice_stuck: bool,
    /// Consumers that others wait for in this turn, and those they have waited for.
    waited_for: Vec<usize>,
    judged: Vec<usize>,
    /// When the next of them is cut off, in running time.
    deadline: Option<Deadline>,
    /// Clients that wait for workers, oldest first.
    owed: VecDeque<Owed>,
    metrics: Arc<FeedMetrics>,
}

/// What a client is told when workers have confirmed.
#[derive(Debug)]
struct Owed {
    to: ConnName,
    reference: Option<Reference>,
    what: Awaiting,
}

#[derive(Debug)]
enum Awaiting {
    Count(Counts),
    Publication(Ack),
}

impl Upstream {
    pub(super) fn new(reports: Reports, metrics: Arc<FeedMetrics>) -> Self {
        Self {
            reports,
            is_report_stuck: false,
            is_notice_stuck: false,
            waited_for: Vec::new(),
            judged: Vec::new(),
            deadline: None,
            owed: VecDeque::new(),
            metrics,
        }
    }

    /// Whether there is something to take that was not there in vain a moment ago.
    pub(super) fn has_news(&self) -> bool {
        let may_take = !self.is_report_stuck && self.owed.len() < FEED_ACKS_MAX;
        may_take && !self.reports.is_empty() || !self.is_notice_stuck && self.reports.has_notices()
    }

    /// When a consumer is cut off that has read next to nothing by then, in running time.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// Takes reports and notices, as far as there is room, and says which feeders have something to
    /// write. Patience with a consumer is measured in running time, which a stop of the server does
    /// not use up; publications have their age by `now`.
    pub(super) fn turn(
        &mut self,
        feeders: &mut Slab<Feeder>,
        sequencer: &mut Sequencer,
        now: Now,
        running: Now,
        touched: &mut Vec<usize>,
    ) {
        self.settle(sequencer);
        self.waited_for.clear();
        self.take_reports(feeders, sequencer, now, touched);
        self.take_notices(feeders, touched);
        self.judge(feeders, running, touched);
        sequencer.post();
        // Nobody wakes the feed for what the journal has refused.
        self.settle(sequencer);
        let metrics = &self.metrics;
        let waiting = self.reports.notices_waiting();
        metrics.notices_waiting.set(waiting as u64);
        metrics
            .notices_cancelled
            .set(self.reports.notices_cancelled());
    }

    fn take_reports(
        &mut self,
        feeders: &mut Slab<Feeder>,
        sequencer: &mut Sequencer,
        now: Now,
        touched: &mut Vec<usize>,
    ) {
        self.is_report_stuck = false;
        for _ in 0..REPORTS_PER_ROUND_MAX {
            if self.owed.len() >= FEED_ACKS_MAX || self.reports.front().is_none() {
                return;
            }
            // What its conn has caused before comes first.
            let before = self.reports.notices_before_front();
            let Some(report) = self.reports.front() else {
                return;
            };
            let has_room = note_full(feeders, &mut self.waited_for, |feeder| {
                let is_concerned = feeder.consumes(report)
                    || before.iter().any(|notice| feeder.consumes(&notice.report));
                is_concerned && feeder.is_congested()
            });
            if !has_room {
                self.is_report_stuck = true;
                return;
            }
            for notice in before {
                self.take_notice(&notice, feeders, touched);
            }
            if let Some(report) = self.reports.take() {
                self.take(report, feeders, sequencer, now, touched);
            }
        }
    }

    fn take_notices(&mut self, feeders: &mut Slab<Feeder>, touched: &mut Vec<usize>) {
        self.is_notice_stuck = false;
        for _ in 0..REPORTS_PER_ROUND_MAX {
            let Some(notice) = self.reports.notice() else {
                self.is_notice_stuck = self.reports.has_notices();
                return;
            };
            let has_room = note_full(feeders, &mut self.waited_for, |feeder| {
                feeder.consumes(&notice.report) && !feeder.has_notice_room()
            });
            if !has_room {
                self.is_notice_stuck = true;
                return;
            }
            self.take_notice(&notice, feeders, touched);
        }
    }

    /// Hands a notice out, unless it was undone meanwhile.
    fn take_notice(&self, notice: &Waiting, feeders: &mut Slab<Feeder>, touched: &mut Vec<usize>) {
        if self.reports.take_notice(notice) {
            let owe = Feeder::owe_notice;
            let consumers = hand_out(&notice.report, owe, feeders, touched);
            self.note(&notice.report, consumers);
        }
    }

    /// Cuts off consumers that make others wait and read next to nothing.
    fn judge(&mut self, feeders: &mut Slab<Feeder>, running: Now, touched: &mut Vec<usize>) {
        for slot in &self.waited_for {
            if let Some(feeder) = feeders.get_mut(*slot) {
                feeder.begin_patience(running);
            }
            if !self.judged.contains(slot) {
                self.judged.push(*slot);
            }
        }
        self.deadline = None;
        self.judged.retain(|slot| {
            let Some(feeder) = feeders.get_mut(*slot) else {
                return false;
            };
            let is_waited_for = self.waited_for.contains(slot);
            let judgement = feeder.judge(is_waited_for, running);
            if judgement == Judgement::CutOff || feeder.can_write() {
                touched.push(*slot);
            }
            match judgement {
                Judgement::CutOff => self.metrics.consumers_cut_off.increment(),
                Judgement::Until(until) => {
                    self.deadline = self.deadline.into_iter().chain([until]).min();
                    return true;
                }
                Judgement::Open => return true,
                Judgement::Settled => {}
            }
            false
        });
    }

    fn take(
        &mut self,
        report: Report,
        feeders: &mut Slab<Feeder>,
        sequencer: &mut Sequencer,
        now: Now,
        touched: &mut Vec<usize>,
    ) {
        match report {
            Report::Count {
                from,
                channel,
                reference,
            } => {
                let counts = sequencer.count([channel]);
                self.owe(from, reference, Awaiting::Count(counts));
            }
            Report::Publish(publication) if publication.audience == Audience::Subscribers => {
                self.broadcast(publication, sequencer, now);
            }
            Report::Lost(_) | Report::Notice(_) | Report::Publish(_) => {
                let consumers = hand_out(&report, Feeder::owe_report, feeders, touched);
                self.note(&report, consumers);
                if let Report::Publish(publication) = report {
                    answer(publication, consumers, sequencer);
                }
            }
        }
    }

    /// A client's publication for the channel's subscribers gets its number like any other.
    fn broadcast(&mut self, publication: ClientPublication, sequencer: &mut Sequencer, now: Now) {
        let draft = Draft {
            channels: Channels::One(publication.channel),
            payload: Payload::Json(minify(&publication.data)),
            event: None,
            key: None,
            dedupe: None,
            ttl: None,
        };
        let ack = sequencer.sequence(draft, Awaited::Yes, now);
        let reference = publication.reference;
        self.owe(publication.from, reference, Awaiting::Publication(ack));
    }

    fn owe(&mut self, to: ConnName, reference: Option<Reference>, what: Awaiting) {
        self.owed.push_back(Owed {
            to,
            reference,
            what,
        });
    }

    fn note(&self, report: &Report, consumers: usize) {
        match report {
            Report::Count { .. } => {}
            Report::Lost(count) => self.metrics.notices_lost.add(*count),
            Report::Notice(_) if consumers > 0 => self.metrics.notices.increment(),
            Report::Notice(_) => {}
            Report::Publish(_) if consumers > 0 => self.metrics.consumed.increment(),
            Report::Publish(_) => self.metrics.unconsumed.increment(),
        }
    }

    /// Tells clients what became of what they asked, in order, up to the first that is open.
    fn settle(&mut self, sequencer: &mut Sequencer) {
        while let Some(owed) = self.owed.pop_front() {
            let saying = match &owed.what {
                Awaiting::Count(counts) => counts.first().and_then(|(channel, receipt)| {
                    receipt.subscribers().map(|subscribers| Saying::Counted {
                        channel: channel.clone(),
                        subscribers,
                        reference: owed.reference.clone(),
                    })
                }),
                Awaiting::Publication(ack) => published(ack).map(|outcome| Saying::Published {
                    outcome,
                    reference: owed.reference.clone(),
                }),
            };
            match saying {
                Some(saying) => sequencer.say(owed.to, saying, None),
                None => return self.owed.push_front(owed),
            }
        }
    }
}

/// What a client is told of its publication; `None` while that is open.
fn published(ack: &Ack) -> Option<Published> {
    Some(match ack.outcome()? {
        Ok(_) => Published::Broadcast(ack.id),
        Err(Refusal::JournalUnsynced) => Published::Unsynced,
        Err(_) => Published::Refused,
    })
}

/// Whether no consumer is full; notes those that are.
fn note_full(
    feeders: &mut Slab<Feeder>,
    waited_for: &mut Vec<usize>,
    mut is_full: impl FnMut(&mut Feeder) -> bool,
) -> bool {
    let before = waited_for.len();
    let full = feeders
        .iter_mut()
        .filter_map(|(slot, feeder)| is_full(feeder).then_some(slot));
    waited_for.extend(full);
    waited_for.len() == before
}

/// Gives a report to everybody whom it is for, and says to how many.
fn hand_out(
    report: &Report,
    owe: fn(&mut Feeder, &[u8]),
    feeders: &mut Slab<Feeder>,
    touched: &mut Vec<usize>,
) -> usize {
    let mut line = None;
    let mut consumers = 0;
    for (slot, feeder) in feeders {
        if feeder.consumes(report) {
            owe(feeder, line.get_or_insert_with(|| consumer::line(report)));
            touched.push(slot);
            consumers += 1;
        }
    }
    consumers
}

fn answer(publication: ClientPublication, consumers: usize, sequencer: &mut Sequencer) {
    let outcome = match consumers {
        0 => Published::NoConsumer,
        _ => Published::Consumed,
    };
    // Without a reference success is not told, and need not be sent.
    if consumers == 0 || publication.reference.is_some() {
        let reference = publication.reference;
        sequencer.say(
            publication.from,
            Saying::Published { outcome, reference },
            None,
        );
    }
}

/// The channels whose comings and goings consumers want to know.
pub(super) fn watch(feeders: &Slab<Feeder>) -> Watch {
    let wants = feeders.iter().filter_map(|(_, feeder)| feeder.wants());
    let wants = wants.filter(|wants| wants.notices);
    Watch(
        wants
            .flat_map(|wants| wants.patterns.iter().cloned())
            .collect(),
    )
}
