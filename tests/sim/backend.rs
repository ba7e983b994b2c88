//! A simulated feed with a backend. It accepts the workers' reports (notices, client publications
//! and requests for counts) late, answers them, and sends messages to conns.
//!
//! This module checks the following rules. A conn joins a channel before it leaves the channel, and
//! has left all channels when the conn ends. Every delivery has a status. A message to a conn of a
//! server that was killed reaches no conn of the next server. Each report has the subject of the
//! conn's token. When no notice is waiting, the subscriptions that the backend knows differ from
//! the real ones by at most the number of lost notices. Notices that the backend does not accept
//! delay no publication. The number of waiting notices stays within the configured limit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fanfare::backend::{
    BackendMessage, ClientPublication, CloseInfo, Delivery, DeliveryStatus, DirectMessage, Notice,
    PublishOutcome, Report, SubscriberCounts, WatchedChannels,
};
use fanfare::effect::{Audience, Reference};
use fanfare::frame::{Payload, WorkerAck};
use fanfare::id::{ChannelName, ConnName};
use fanfare::pattern::Pattern;
use fanfare::worker::mail::inbox::Mail;
use fanfare::worker::mail::upstream::{Bounds, Reports};

use crate::feed::Mailboxes;
use crate::link::DISCONNECT_CODE;
use crate::world::node::NodeWorker;

pub(crate) struct Backend {
    reports: Reports,
    /// The subscriptions that the backend knows from notices.
    subscriptions: BTreeSet<(ConnName, ChannelName)>,
    /// The conns that the backend knows from notices.
    known: Vec<ConnName>,
    /// The conns of earlier server processes.
    stale: Vec<ConnName>,
    /// The subject of each conn's token.
    subs: BTreeMap<ConnName, Option<Arc<str>>>,
    has_tokens: bool,
    is_watching: bool,
    /// Whether the backend accepts no report for a while. If only `takes_no_notices` is set, the
    /// backend accepts other reports but no notices.
    takes_nothing: bool,
    takes_no_notices: bool,
    bounds: Bounds,
    /// A random number generator of its own. Its use does not change the numbers of the other
    /// generators.
    random: fastrand::Rng,
    counts: VecDeque<(ConnName, Option<Reference>, SubscriberCounts)>,
    statuses: Vec<Arc<DeliveryStatus>>,
    /// The statuses of messages to conns of earlier server processes.
    stale_statuses: Vec<Arc<DeliveryStatus>>,
    messages_sent: BTreeMap<ConnName, u64>,
    notices_lost: u64,
}

/// Returns random bounds on waiting reports, so small that some runs reach both bounds.
pub(crate) fn draw_bounds(random: &mut fastrand::Rng) -> Bounds {
    Bounds {
        notices: [4, 1000][random.usize(0..2)],
        per_conn: random.usize(1..=4),
    }
}

impl Backend {
    pub(crate) fn new(
        reports: Reports,
        bounds: Bounds,
        has_tokens: bool,
        mailboxes: &Mailboxes,
        random: &mut fastrand::Rng,
    ) -> Self {
        let is_watching = random.bool();
        if is_watching {
            let watch = WatchedChannels(vec![Pattern::new("c*").expect("a pattern")]);
            let watch = Arc::new(watch);
            let worker_ack = Arc::new(WorkerAck::new(mailboxes.count()));
            let _ended = mailboxes.post_to_all(|| Mail::Watch {
                watched: Arc::clone(&watch),
                worker_ack: Arc::clone(&worker_ack),
            });
        }
        Self {
            reports,
            subscriptions: BTreeSet::new(),
            known: Vec::new(),
            stale: Vec::new(),
            subs: BTreeMap::new(),
            has_tokens,
            is_watching,
            takes_nothing: false,
            takes_no_notices: false,
            bounds,
            random: random.clone(),
            counts: VecDeque::new(),
            statuses: Vec::new(),
            stale_statuses: Vec::new(),
            messages_sent: BTreeMap::new(),
            notices_lost: 0,
        }
    }

    /// Returns the conns that the backend knows from notices. Some may be closed.
    pub(crate) fn known(&self) -> &[ConnName] {
        &self.known
    }

    /// Adds the conns of the previous server process to `stale`, the conns of earlier processes.
    pub(crate) fn take_over_names(&mut self, before: Self) {
        self.stale = before.stale;
        self.stale.extend(before.known);
    }

    /// At random, stops or resumes accepting reports. Also sends a message at random.
    pub(crate) fn act_at_random(&mut self, mailboxes: &Mailboxes, random: &mut fastrand::Rng) {
        self.takes_nothing ^= random.u32(0..80) == 0;
        self.takes_no_notices ^= self.random.u32(0..30) == 0;
        if random.u32(0..10) == 0 {
            self.send_at_random(mailboxes, random);
        }
    }

    pub(crate) fn end_faults(&mut self) {
        self.takes_nothing = false;
        self.takes_no_notices = false;
    }

    /// Accepts the waiting reports. Returns the channels to which clients broadcast.
    pub(crate) fn turn(
        &mut self,
        mailboxes: &Mailboxes,
        random: &mut fastrand::Rng,
    ) -> Vec<ChannelName> {
        self.send_presence_replies(mailboxes);
        let mut broadcasts = Vec::new();
        while !self.takes_nothing && mailboxes.have_room() && self.reports.front().is_some() {
            if self.random.bool() {
                self.take_notice();
            }
            for notice in self.reports.notices_before_front() {
                if self.reports.take_notice(&notice) {
                    self.note(notice.report);
                }
            }
            let report = self.reports.take();
            broadcasts.extend(report.and_then(|report| self.take(report, mailboxes, random)));
        }
        while !self.takes_nothing && !self.takes_no_notices && self.take_notice() {}
        broadcasts
    }

    fn take(
        &mut self,
        report: Report,
        mailboxes: &Mailboxes,
        random: &mut fastrand::Rng,
    ) -> Option<ChannelName> {
        match report {
            Report::Count {
                from,
                channel,
                reference,
            } => {
                let counts: SubscriberCounts =
                    [(channel, WorkerAck::new(mailboxes.count()))].into();
                for _ended in 0..mailboxes.post_to_all(|| Mail::Count(Arc::clone(&counts))) {
                    let _is_last = counts[0].1.confirm(0);
                }
                self.counts.push_back((from, reference, counts));
                None
            }
            Report::Lost(_) | Report::Notice(_) => panic!("{report:?} among reports"),
            Report::Publish(publication) => {
                self.check_sub(publication.from, publication.sub.as_ref());
                Self::answer(publication, mailboxes, random)
            }
        }
    }

    /// Accepts one notice if one is due. Skips the notices of some conns at random.
    fn take_notice(&mut self) -> bool {
        let mut passed = BTreeSet::new();
        let mut next = 0;
        while let Some(notice) = self.reports.notice(next) {
            next = notice.order + 1;
            if let Report::Notice(Notice { conn, .. }) = &notice.report
                && (!notice.is_due || passed.contains(conn) || self.random.u32(0..4) == 0)
            {
                passed.insert(*conn);
            } else if self.reports.take_notice(&notice) {
                self.note(notice.report);
                return true;
            }
        }
        // If all notices were skipped, accepts the first notice.
        let first = self.reports.notice(0).filter(|notice| notice.is_due);
        let first = first.filter(|notice| self.reports.take_notice(notice));
        first.map(|notice| self.note(notice.report)).is_some()
    }

    fn note(&mut self, report: Report) {
        match report {
            Report::Lost(count) => self.notices_lost += count,
            Report::Notice(notice) => self.note_notice(notice),
            Report::Count { .. } | Report::Publish(_) => panic!("{report:?} among notices"),
        }
    }

    /// Runs the checks that are due after a worker's turn.
    pub(crate) fn check(&self, workers: &[NodeWorker]) {
        let waiting = self.reports.notices_waiting();
        // One more notice may wait: the report of the number of lost notices.
        assert!(waiting <= self.bounds.notices + 1, "{waiting} notices wait");
        if !self.is_watching || waiting > 0 {
            return;
        }
        let truth = workers
            .iter()
            .flat_map(|node_worker| node_worker.worker.streams_in_channels());
        let truth: BTreeSet<_> = truth.map(|(conn, name)| (conn, name.clone())).collect();
        let wrong: Vec<_> = truth.symmetric_difference(&self.subscriptions).collect();
        let lost = self.notices_lost;
        assert!(wrong.len() as u64 <= lost, "{lost} lost, but {wrong:?}");
    }

    fn note_notice(&mut self, notice: Notice) {
        assert!(self.is_watching, "{notice:?} without a watch");
        let Notice {
            conn,
            sub,
            channel,
            has_subscribed,
        } = notice;
        self.check_sub(conn, sub.as_ref());
        self.known.push(conn);
        let key = (conn, channel);
        let is_right = match has_subscribed {
            true => self.subscriptions.insert(key.clone()),
            false => self.subscriptions.remove(&key),
        };
        let is_excused = self.notices_lost > 0;
        assert!(
            is_right || is_excused,
            "{key:?}: has_subscribed is {has_subscribed} twice in a row"
        );
    }

    /// Checks the subject of a report. Where tokens are required, each conn has exactly one
    /// subject.
    fn check_sub(&mut self, conn: ConnName, sub: Option<&Arc<str>>) {
        assert_eq!(sub.is_some(), self.has_tokens, "{conn}: {sub:?}");
        let before = self.subs.entry(conn).or_insert_with(|| sub.cloned());
        assert_eq!(before.as_ref(), sub, "{conn} has two subjects");
    }

    fn answer(
        publication: ClientPublication,
        mailboxes: &Mailboxes,
        random: &mut fastrand::Rng,
    ) -> Option<ChannelName> {
        assert_eq!(&*publication.data, "[1,\n2]");
        let is_broadcast = publication.audience == Audience::Subscribers;
        let outcome = match is_broadcast || random.bool() {
            true => PublishOutcome::Consumed,
            false => PublishOutcome::NoConsumer,
        };
        let reference = publication.reference;
        let message = BackendMessage::PublishReply { outcome, reference };
        post_message(publication.from, message, None, mailboxes);
        is_broadcast.then_some(publication.channel)
    }

    fn send_presence_replies(&mut self, mailboxes: &Mailboxes) {
        while mailboxes.have_room()
            && let Some((_, _, counts)) = self.counts.front()
            && let Some(subscribers) = counts[0].1.sum()
            && let Some((to, reference, counts)) = self.counts.pop_front()
        {
            let message = BackendMessage::PresenceReply {
                channel: counts[0].0.clone(),
                subscribers,
                reference,
            };
            post_message(to, message, None, mailboxes);
        }
    }

    /// Sends a message to a conn that may exist, or closes that conn.
    fn send_at_random(&mut self, mailboxes: &Mailboxes, random: &mut fastrand::Rng) {
        if !mailboxes.have_room() || self.known.is_empty() {
            return;
        }
        let is_stale = !self.stale.is_empty() && random.u32(0..8) == 0;
        let names = if is_stale { &self.stale } else { &self.known };
        let to = names[random.usize(0..names.len())];
        let message = match random.u32(0..12) {
            0 => BackendMessage::Disconnect(CloseInfo {
                code: DISCONNECT_CODE,
                reason: "enough".into(),
            }),
            _ => {
                let number = self.messages_sent.entry(to).or_default();
                *number += 1;
                BackendMessage::Payload(Payload::Text(format!("direct-{number}").into()))
            }
        };
        let status = Arc::new(DeliveryStatus::default());
        let statuses = match is_stale {
            true => &mut self.stale_statuses,
            false => &mut self.statuses,
        };
        statuses.push(Arc::clone(&status));
        post_message(to, message, Some(status), mailboxes);
    }

    /// Checks the backend after all workers have ended. `has_sent_all` means that the workers have
    /// sent all reports.
    pub(crate) fn check_end(&mut self, has_sent_all: bool) {
        while self.reports.take().is_some() {}
        while self.take_notice() {}
        let waiting = self.reports.notices_waiting();
        assert!(
            waiting == 0 || !has_sent_all,
            "{waiting} notices are never taken"
        );
        let is_excused = self.notices_lost > 0 || !has_sent_all;
        assert!(
            self.subscriptions.is_empty() || is_excused,
            "no notice that these have left: {:?}",
            self.subscriptions
        );
        let is_open = |status: &&Arc<DeliveryStatus>| status.delivery().is_none();
        assert_eq!(
            self.statuses.iter().filter(is_open).count(),
            0,
            "messages without a delivery status"
        );
        let reached = |status: &&Arc<DeliveryStatus>| status.delivery() != Some(Delivery::NoConn);
        assert_eq!(
            self.stale_statuses.iter().filter(reached).count(),
            0,
            "conns reached by a name of an earlier start"
        );
    }
}

fn post_message(
    to: ConnName,
    message: BackendMessage,
    status: Option<Arc<DeliveryStatus>>,
    mailboxes: &Mailboxes,
) {
    let unposted = status.clone();
    let direct = DirectMessage {
        to,
        message,
        status,
    };
    let is_posted = mailboxes.post(to.worker.into(), Mail::Direct(direct));
    if let Some(status) = unposted.filter(|_| !is_posted) {
        status.settle(Delivery::NoConn);
    }
}
