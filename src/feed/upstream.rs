//! SHELL: what workers report, on its way to consumers and back to the clients.
//!
//! A report is taken when everybody whom it is for has room. While somebody has not, it and all
//! behind it wait, in the end with the clients they came from; a consumer that makes everybody wait
//! for too long is cut off. The loop in [`super`] calls in every round.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::answers::Ack;
use super::consumer;
use super::draft::{Channels, Draft};
use super::feeder::Feeder;
use super::minify::minify;
use super::refusal::Refusal;
use super::sequencer::{Awaited, Sequencer};
use crate::config::limits::{CONSUMER_STALL_MS, FEED_ACKS_MAX, REPORTS_PER_ROUND_MAX};
use crate::dialogue::{ClientPublication, Counts, Published, Report, Saying, Watch};
use crate::effect::{Audience, Reference};
use crate::frame::Payload;
use crate::id::ConnName;
use crate::metrics::FeedMetrics;
use crate::time::{Deadline, Now};
use crate::worker::upstream::Reports;

/// The feed's end of the way upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    reports: Reports,
    /// A report that somebody has no room for, and until when he may take to make some.
    stuck: Option<(Report, Deadline)>,
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
            stuck: None,
            owed: VecDeque::new(),
            metrics,
        }
    }

    /// Whether there is something to take that was not there in vain a moment ago.
    pub(super) fn has_news(&self) -> bool {
        self.stuck.is_none() && self.owed.len() < FEED_ACKS_MAX && !self.reports.is_empty()
    }

    /// When a consumer is cut off that still has no room, in running time.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.stuck.as_ref().map(|(_, deadline)| *deadline)
    }

    /// Takes reports, as far as there is room, and says which feeders have something to write.
    /// Patience with a consumer is measured in running time, which a stop of the server does not
    /// use up; publications have their age by `now`.
    pub(super) fn turn(
        &mut self,
        feeders: &mut Slab<Feeder>,
        sequencer: &mut Sequencer,
        now: Now,
        running: Now,
        touched: &mut Vec<usize>,
    ) {
        self.settle(sequencer);
        for _ in 0..REPORTS_PER_ROUND_MAX {
            if self.owed.len() >= FEED_ACKS_MAX {
                break;
            }
            let stuck = self.stuck.take();
            let (report, deadline) = match stuck {
                Some((report, deadline)) => (report, deadline),
                None => match self.reports.take() {
                    Some(report) => {
                        let patience = Duration::from_millis(CONSUMER_STALL_MS);
                        (report, running.after(patience))
                    }
                    None => break,
                },
            };
            if self.has_room(&report, feeders, running.has_reached(deadline), touched) {
                self.take(report, feeders, sequencer, now, touched);
            } else {
                self.stuck = Some((report, deadline));
                break;
            }
        }
        sequencer.post();
        // Nobody wakes the feed for what the journal has refused.
        self.settle(sequencer);
    }

    /// Whether everybody whom a report is for has room for it. Who has not is cut off when it is
    /// too late.
    fn has_room(
        &self,
        report: &Report,
        feeders: &mut Slab<Feeder>,
        is_too_late: bool,
        touched: &mut Vec<usize>,
    ) -> bool {
        let mut has_room = true;
        for (slot, feeder) in feeders {
            if feeder.consumes(report) && feeder.is_congested() {
                if is_too_late {
                    feeder.cut_off();
                    touched.push(slot);
                    self.metrics.consumers_cut_off.increment();
                } else {
                    has_room = false;
                }
            }
        }
        has_room
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
                let consumers = hand_out(&report, feeders, touched);
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

/// Gives a report to everybody whom it is for, and says to how many.
fn hand_out(report: &Report, feeders: &mut Slab<Feeder>, touched: &mut Vec<usize>) -> usize {
    let mut line = None;
    let mut consumers = 0;
    for (slot, feeder) in feeders {
        if feeder.consumes(report) {
            feeder.owe_report(line.get_or_insert_with(|| consumer::line(report)));
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
