//! SHELL: this module routes the workers' reports to consumers, and replies to clients.
//!
//! A consumer is a feeder that receives reports. A report is accepted when each of its consumers
//! can receive it now. Until then, this report and all later reports wait. If too many reports
//! wait, the conns that caused them are not read. A notice is a report that a client has subscribed
//! or unsubscribed. Notices wait in a separate queue. If too many notices of one conn wait, this
//! conn is not read. A consumer is closed if it reads almost nothing while clients or other
//! consumers wait for it. The feed's loop calls [`ReportRouter::turn`] in each round.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use slab::Slab;

use super::commands::StallState;
use super::consumer;
use crate::backend::{
    BackendMessage, ClientPublication, Notice, PublishOutcome, Report, SubscriberCounts,
    WatchedChannels,
};
use crate::config::limits::{FEED_ACKS_MAX, NOTICES_PASSED_MAX, REPORTS_PER_ROUND_MAX};
use crate::effect::{Audience, Reference};
use crate::feed::answer_queue::Ack;
use crate::feed::feeder::Feeder;
use crate::feed::protocol::draft::{Channels, Draft};
use crate::feed::protocol::minify::minify;
use crate::feed::protocol::refusal::Refusal;
use crate::feed::sequencer::{Acknowledge, Sequencer};
use crate::frame::Payload;
use crate::id::ConnName;
use crate::log::dedupe::{Dedupe, client_key};
use crate::metrics::FeedMetrics;
use crate::time::{Deadline, Now};
use crate::warnings::{self, Event, WarningKind, Warnings};
use crate::worker::mail::upstream::{Reports, WaitingNotice};

/// Routes reports of workers to consumers.
#[derive(Debug)]
pub(crate) struct ReportRouter {
    reports: Reports,
    /// Whether the first waiting report cannot be delivered yet, because one of its consumers has
    /// too many unsent answers.
    is_report_stuck: bool,
    scan: Scan,
    /// `waited_for` lists the slots of consumers for which clients or other consumers wait in this
    /// turn. `stalled` lists the slots of consumers with a running stall timer.
    waited_for: Vec<usize>,
    stalled: Vec<usize>,
    /// The time at which the next stalled consumer is closed. It is measured in running time, which
    /// does not advance while the process does not run.
    deadline: Option<Deadline>,
    /// The replies that need confirmations of workers or the journal, oldest first.
    pending_replies: VecDeque<PendingReply>,
    /// The idempotency keys of publications that consumers have received. They are not in the log,
    /// so their keys are forgotten at a restart.
    consumed: Dedupe<()>,
    metrics: Arc<FeedMetrics>,
    warnings: Arc<Warnings>,
}

/// The progress of the scan through the queue of notices. A notice must wait while one of its
/// consumers cannot receive it. The scan skips this notice and continues with the notices of other
/// conns. Later notices of the same conn also wait, so that they stay in order.
#[derive(Debug, Default)]
struct Scan {
    /// The position in the queue (`order`) of the next notice to examine. All earlier notices were
    /// delivered or skipped.
    next: u64,
    /// The conns of skipped notices. Later notices of these conns must wait, too.
    passed: HashSet<ConnName, RandomState>,
    notices_passed: usize,
    /// The consumers that cannot receive another notice now.
    full: Vec<usize>,
    /// Whether a notice was skipped because it must wait for an earlier report of its worker.
    awaits_report: bool,
    /// The consumers that delay a notice for another consumer, because they have too many unsent
    /// answers.
    blocking: Vec<usize>,
    /// Whether a notice waits although at least one of its consumers could receive it now.
    holds_others: bool,
    /// Whether the scan has stopped, because it has reached the end of the queue or has skipped too
    /// many notices.
    is_stuck: bool,
}

impl Scan {
    /// Whether so many notices were skipped that all later notices must wait.
    fn is_blocked(&self) -> bool {
        self.notices_passed >= NOTICES_PASSED_MAX
    }
}

/// A reply to a client. The reply is sent when the workers and the journal have sent all
/// confirmations.
#[derive(Debug)]
struct PendingReply {
    to: ConnName,
    reference: Option<Reference>,
    result: PendingResult,
}

#[derive(Debug)]
enum PendingResult {
    Count(SubscriberCounts),
    Publication(Ack),
}

impl ReportRouter {
    pub(crate) fn new(
        reports: Reports,
        metrics: Arc<FeedMetrics>,
        warnings: Arc<Warnings>,
    ) -> Self {
        Self {
            reports,
            is_report_stuck: false,
            scan: Scan::default(),
            waited_for: Vec::new(),
            stalled: Vec::new(),
            deadline: None,
            pending_replies: VecDeque::new(),
            consumed: Dedupe::new(fastrand::u64(..)),
            metrics,
            warnings,
        }
    }

    /// Whether reports or notices may be accepted now.
    pub(crate) fn has_work(&self) -> bool {
        let may_take = !self.is_report_stuck && self.pending_replies.len() < FEED_ACKS_MAX;
        may_take && !self.reports.is_empty() || !self.scan.is_stuck && self.reports.has_notices()
    }

    /// Returns the time at which the next stalled consumer is closed. It is measured in running
    /// time, which does not advance while the process does not run.
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// Routes reports and notices while the consumers have room, and adds the feeders with new
    /// bytes to `touched`. Stall timers use running time, which does not advance while the process
    /// does not run. Publications get their time from `now`.
    pub(crate) fn turn(
        &mut self,
        feeders: &mut Slab<Feeder>,
        sequencer: &mut Sequencer,
        now: Now,
        running: Now,
        touched: &mut Vec<usize>,
    ) {
        self.send_replies(sequencer);
        self.waited_for.clear();
        if self.deadline.is_some_and(|due| running.has_reached(due)) {
            // A stalled consumer has reached its deadline, but it is closed only if clients or
            // other consumers still wait for it. Notices that waited for it may have been cancelled
            // since the last scan, so the scan restarts.
            self.rescan();
        }
        self.route_reports(feeders, sequencer, now, touched);
        self.route_notices(feeders, touched);
        self.check_stall(feeders, now, running, touched);
        sequencer.post();
        // This second call is needed because the journal may have refused the batch that was just
        // posted. The refusal completes replies, but does not wake the feed later.
        self.send_replies(sequencer);
        let metrics = &self.metrics;
        let waiting = self.reports.notices_waiting();
        metrics.notices_waiting.set(waiting as u64);
        metrics
            .notices_cancelled
            .set(self.reports.notices_cancelled());
    }

    fn route_reports(
        &mut self,
        feeders: &mut Slab<Feeder>,
        sequencer: &mut Sequencer,
        now: Now,
        touched: &mut Vec<usize>,
    ) {
        self.is_report_stuck = false;
        for _ in 0..REPORTS_PER_ROUND_MAX {
            if self.pending_replies.len() >= FEED_ACKS_MAX || self.reports.front().is_none() {
                return;
            }
            // Earlier notices of the same conn are delivered first.
            let before = self.reports.notices_before_front();
            let Some(report) = self.reports.front() else {
                return;
            };
            let is_stuck = note_full(feeders, &mut self.waited_for, |feeder| {
                let is_concerned = feeder.consumes(report)
                    || before.iter().any(|notice| feeder.consumes(&notice.report));
                is_concerned && feeder.is_congested()
            });
            if is_stuck {
                self.is_report_stuck = true;
                return;
            }
            for notice in before {
                self.deliver_notice(&notice, feeders, touched);
            }
            if self.scan.awaits_report {
                self.rescan();
            }
            match self.reports.take() {
                Some(report) => self.take(report, feeders, sequencer, now, touched),
                None => debug_assert!(false, "the first report has disappeared"),
            }
        }
    }

    /// Routes notices, except the notices that must wait.
    fn route_notices(&mut self, feeders: &mut Slab<Feeder>, touched: &mut Vec<usize>) {
        let mut has_room =
            |slot: &usize| feeders.get_mut(*slot).is_none_or(Feeder::has_notice_room);
        let has_room = self.scan.full.iter().any(&mut has_room);
        let is_free = |slot: &usize| feeders.get(*slot).is_none_or(|one| !one.is_congested());
        if has_room || self.scan.blocking.iter().any(is_free) {
            self.rescan();
        }
        self.scan.is_stuck = self.scan.is_blocked();
        for _ in 0..REPORTS_PER_ROUND_MAX {
            if self.scan.is_stuck {
                break;
            }
            let Some(notice) = self.reports.notice(self.scan.next) else {
                self.scan.is_stuck = true;
                break;
            };
            if self.has_to_wait(&notice, feeders) {
                self.skip(&notice);
            } else {
                self.scan.next = notice.order + 1;
                self.deliver_notice(&notice, feeders, touched);
                if matches!(notice.report, Report::Lost(_)) {
                    // More notices may have been lost during the delivery. Their number is stored
                    // at the same position in the queue, which the scan has passed. So the scan
                    // restarts.
                    self.rescan();
                }
            }
        }
        // A stall timer is needed only if waiting notices delay clients or other consumers.
        if self.reports.has_held() || self.scan.holds_others || self.scan.is_blocked() {
            self.waited_for.extend_from_slice(&self.scan.full);
        }
    }

    fn has_to_wait(&mut self, notice: &WaitingNotice, feeders: &mut Slab<Feeder>) -> bool {
        let is_passed = match &notice.report {
            Report::Notice(notice) => self.scan.passed.contains(&notice.conn),
            _ => false,
        };
        self.scan.awaits_report |= !notice.is_due;
        let (mut has_room, mut congested, mut full) = (false, Vec::new(), Vec::new());
        for (slot, feeder) in feeders {
            if !feeder.consumes(&notice.report) {
                continue;
            }
            if feeder.has_notice_room() {
                has_room = true;
            } else {
                full.push(slot);
                if feeder.is_congested() {
                    congested.push(slot);
                }
            }
        }
        if has_room && congested.is_empty() {
            // The notice budget of a consumer has only one purpose: many notices must not delay the
            // publications to this consumer. So a consumer that exceeds its budget must not delay
            // other consumers.
            full.clear();
        }
        add_slots(&full, &mut self.scan.full);
        if has_room {
            add_slots(&congested, &mut self.scan.blocking);
        }
        let is_held_up = !full.is_empty() || is_passed && !self.scan.full.is_empty();
        self.scan.holds_others |= has_room && is_held_up;
        is_passed || !full.is_empty() || !notice.is_due
    }

    /// Skips a notice that must wait.
    fn skip(&mut self, notice: &WaitingNotice) {
        match &notice.report {
            Report::Notice(Notice { conn, .. }) => {
                self.scan.next = notice.order + 1;
                self.scan.passed.insert(*conn);
                self.scan.notices_passed += 1;
            }
            // The queue has one entry with the number of lost notices. All later notices wait until
            // this entry is delivered to all consumers.
            _ => self.scan.notices_passed = NOTICES_PASSED_MAX,
        }
        self.scan.is_stuck = self.scan.is_blocked();
    }

    /// Restarts the scan at the first notice, because there may be room for skipped notices now.
    pub(crate) fn rescan(&mut self) {
        self.scan = Scan::default();
    }

    /// Delivers a notice, unless it was cancelled.
    fn deliver_notice(
        &self,
        notice: &WaitingNotice,
        feeders: &mut Slab<Feeder>,
        touched: &mut Vec<usize>,
    ) {
        if self.reports.take_notice(notice) {
            let queue = Feeder::queue_notice;
            let consumers = deliver(&notice.report, queue, feeders, touched);
            self.count(&notice.report, consumers);
        }
    }

    /// Closes consumers that read almost nothing while clients or other consumers wait for them.
    fn check_stall(
        &mut self,
        feeders: &mut Slab<Feeder>,
        now: Now,
        running: Now,
        touched: &mut Vec<usize>,
    ) {
        for slot in &self.waited_for {
            if let Some(feeder) = feeders.get_mut(*slot) {
                feeder.start_stall_timer(running);
            }
            if !self.stalled.contains(slot) {
                self.stalled.push(*slot);
            }
        }
        self.deadline = None;
        self.stalled.retain(|slot| {
            let Some(feeder) = feeders.get_mut(*slot) else {
                return false;
            };
            let is_waited_for = self.waited_for.contains(slot);
            let state = feeder.check_stall(is_waited_for, running);
            if state == StallState::CutOff || feeder.can_write() {
                touched.push(*slot);
            }
            match state {
                StallState::CutOff => {
                    self.metrics.consumers_cut_off.increment();
                    warn_of_cut_off(&self.warnings, feeder, now);
                }
                StallState::Until(until) => {
                    self.deadline = self.deadline.into_iter().chain([until]).min();
                    return true;
                }
                StallState::Open => return true,
                StallState::Settled => {}
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
                self.queue_reply(from, reference, PendingResult::Count(counts));
            }
            Report::Publish(publication) if publication.audience == Audience::Subscribers => {
                self.broadcast(publication, sequencer, now);
            }
            Report::Publish(publication) if self.is_repeated(&publication, now) => {
                self.metrics.repeated.increment();
                answer(publication, PublishOutcome::Consumed, sequencer);
            }
            Report::Lost(_) | Report::Notice(_) | Report::Publish(_) => {
                let consumers = deliver(&report, Feeder::queue_report, feeders, touched);
                self.count(&report, consumers);
                if let Report::Publish(publication) = report {
                    let outcome = match consumers {
                        0 => PublishOutcome::NoConsumer,
                        _ => self.note_consumed(&publication, now),
                    };
                    answer(publication, outcome, sequencer);
                }
            }
        }
    }

    /// Whether consumers already have the first publication with this idempotency key.
    fn is_repeated(&mut self, publication: &ClientPublication, now: Now) -> bool {
        let key = scoped_key(publication);
        let consumed = key.and_then(|key| self.consumed.first(&publication.channel, &key, now));
        consumed.is_some()
    }

    /// Remembers the idempotency key of a publication that consumers have received.
    fn note_consumed(&mut self, publication: &ClientPublication, now: Now) -> PublishOutcome {
        if let Some(key) = scoped_key(publication) {
            self.consumed.remember(&publication.channel, &key, (), now);
        }
        PublishOutcome::Consumed
    }

    /// Assigns a number to a client's publication and sends it to the channel's subscribers.
    fn broadcast(&mut self, publication: ClientPublication, sequencer: &mut Sequencer, now: Now) {
        let key = scoped_key(&publication);
        let draft = Draft {
            channels: Channels::One(publication.channel),
            payload: Payload::Json(minify(&publication.data)),
            event: None,
            key: None,
            dedupe: key.map(String::into_boxed_str),
            ttl: None,
            traceparent: publication.traceparent,
            is_from_client: true,
        };
        let ack = sequencer.sequence(draft, Acknowledge::Yes, now);
        let reference = publication.reference;
        self.queue_reply(publication.from, reference, PendingResult::Publication(ack));
    }

    fn queue_reply(&mut self, to: ConnName, reference: Option<Reference>, result: PendingResult) {
        self.pending_replies.push_back(PendingReply {
            to,
            reference,
            result,
        });
    }

    fn count(&self, report: &Report, consumers: usize) {
        match report {
            Report::Count { .. } => {}
            Report::Lost(count) => self.metrics.notices_lost.add(*count),
            Report::Notice(_) if consumers > 0 => self.metrics.notices.increment(),
            Report::Notice(_) => {}
            Report::Publish(_) if consumers > 0 => self.metrics.consumed.increment(),
            Report::Publish(_) => self.metrics.unconsumed.increment(),
        }
    }

    /// Sends replies to clients in order. Stops at the first reply whose outcome is not known yet.
    fn send_replies(&mut self, sequencer: &mut Sequencer) {
        while let Some(reply) = self.pending_replies.pop_front() {
            let message = match &reply.result {
                PendingResult::Count(counts) => counts.first().and_then(|(channel, worker_ack)| {
                    worker_ack
                        .sum()
                        .map(|subscribers| BackendMessage::PresenceReply {
                            channel: channel.clone(),
                            subscribers,
                            reference: reply.reference.clone(),
                        })
                }),
                PendingResult::Publication(ack) => {
                    published(ack).map(|outcome| BackendMessage::PublishReply {
                        outcome,
                        reference: reply.reference.clone(),
                    })
                }
            };
            match message {
                Some(message) => sequencer.send_to_conn(reply.to, message, None),
                None => return self.pending_replies.push_front(reply),
            }
        }
    }
}

/// Returns the outcome of a client's publication. Returns `None` if the outcome is not known yet.
fn published(ack: &Ack) -> Option<PublishOutcome> {
    Some(match ack.outcome()? {
        Ok(_) => PublishOutcome::Broadcast(ack.id),
        Err(Refusal::JournalUnsynced) => PublishOutcome::Unsynced,
        Err(_) => PublishOutcome::Refused,
    })
}

/// Adds to `known` each of the slots that it does not contain yet.
fn add_slots(slots: &[usize], known: &mut Vec<usize>) {
    for slot in slots {
        if !known.contains(slot) {
            known.push(*slot);
        }
    }
}

/// Adds to `full` the slot of each feeder for which `is_full` returns true. Returns whether there
/// is such a feeder.
fn note_full(
    feeders: &mut Slab<Feeder>,
    full: &mut Vec<usize>,
    mut is_full: impl FnMut(&mut Feeder) -> bool,
) -> bool {
    let mut is_any = false;
    for (slot, feeder) in feeders {
        if is_full(feeder) {
            is_any = true;
            add_slots(&[slot], full);
        }
    }
    is_any
}

/// Queues a report for each of its consumers, and returns the number of consumers.
fn deliver(
    report: &Report,
    queue: fn(&mut Feeder, &[u8]),
    feeders: &mut Slab<Feeder>,
    touched: &mut Vec<usize>,
) -> usize {
    let mut line = None;
    let mut consumers = 0;
    for (slot, feeder) in feeders {
        if feeder.consumes(report) {
            queue(feeder, line.get_or_insert_with(|| consumer::line(report)));
            touched.push(slot);
            consumers += 1;
        }
    }
    consumers
}

fn warn_of_cut_off(warnings: &Warnings, feeder: &Feeder, now: Now) {
    let kind = WarningKind::ConsumerDisconnected;
    if warnings.admit(kind, now) {
        let pid = feeder.pid();
        let cause = "it reads next to nothing, and clients wait for it";
        warnings::log(
            kind,
            Event {
                pid,
                ..Event::new(cause)
            },
        );
    }
}

/// Returns the text under which the idempotency key of a client's publication is remembered.
fn scoped_key(publication: &ClientPublication) -> Option<String> {
    let key = publication.dedupe.as_deref()?;
    Some(client_key(publication.sub.as_deref(), key))
}

fn answer(publication: ClientPublication, outcome: PublishOutcome, sequencer: &mut Sequencer) {
    // A client that sent no reference expects no reply on success.
    if outcome != PublishOutcome::Consumed || publication.reference.is_some() {
        let reference = publication.reference;
        sequencer.send_to_conn(
            publication.from,
            BackendMessage::PublishReply { outcome, reference },
            None,
        );
    }
}

/// Returns the channels for which consumers have requested notices.
pub(crate) fn watch(feeders: &Slab<Feeder>) -> WatchedChannels {
    let consume_options = feeders
        .iter()
        .filter_map(|(_, feeder)| feeder.active_options());
    let consume_options = consume_options.filter(|consume_options| consume_options.notices);
    WatchedChannels(
        consume_options
            .flat_map(|consume_options| consume_options.patterns.iter().cloned())
            .collect(),
    )
}
