//! SHELL: the feed is the local Unix socket on which publications are received.
//!
//! One thread serves all feeders. [`protocol`] performs no I/O. It decodes bytes, which may be
//! split at any position, into drafts and commands. `answer_queue` and `http_answers` perform no
//! I/O either. The other modules are shell: `accept` accepts feeders, `feeder` handles one
//! connection, and `backends` handles consumers and their commands. `sequencer` numbers
//! publications and posts batches to the workers. This file contains the loop. In each round, the
//! loop reads each ready feeder once, so that no feeder starves another. If the inbox of a worker
//! is full, the loop blocks and reads no feeder, so that memory does not fill up.
//!
//! The feed limits its memory. A feeder buffers at most one line or body and the bytes of one read.
//! There are limits on the feeder's answers and acknowledgements. There are also limits on the
//! number of feeders and on the size of batches and inboxes.

mod accept;
mod answer_queue;
mod backends;
mod feeder;
mod feeder_socket;
mod handle;
mod http_answers;
pub mod protocol;
mod sequencer;
mod socket_watch;

#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use self::backends::reports::{self, ReportRouter};
use self::feeder::{Feeder, Intake, TurnOutcome};
use self::sequencer::{Sequencer, SequencerStart};
use self::socket_watch::SocketWatch;
use crate::certain;
use crate::config::Config;
use crate::config::limits::{FILES_CHECK_MS, LINGER_MS};
use crate::health::{Health, Part};
use crate::id::{Cursor, Sequence};
use crate::log::dedupe::DedupeKeys;
use crate::metrics::FeedMetrics;
use crate::sys::clock::Clock;
use crate::sys::wake::Wake;
use crate::time::running::Running;
use crate::time::{Deadline, Now};
use crate::warnings::Warnings;

pub use self::handle::{Feed, FeedChange, FeedHandle, FeedParts, bind, check, key_of};

const LISTENER: Token = Token(usize::MAX - 1);
const WAKE: Token = Token(usize::MAX - 2);
/// The maximum number of readiness events per poll.
const READINESS_MAX: usize = 256;

#[derive(Debug)]
struct FeedLoop {
    poll: Poll,
    socket: SocketWatch,
    /// The listener; `None` while the feed stops.
    listener: Option<UnixListener>,
    check_files_at: Deadline,
    health: Arc<Health>,
    /// Whether the backlog may contain a connection.
    is_acceptable: bool,
    accept_again: Option<Deadline>,
    /// The time after which a pause in accepting feeders is logged again.
    log_pause_at: Option<Deadline>,
    feeders: Slab<Feeder>,
    feeders_max: usize,
    /// The slots of feeders with work to do: `ready` is for the next round, `round` for this round.
    ready: Vec<usize>,
    round: Vec<usize>,
    intake: Intake,
    reports: ReportRouter,
    metrics: Arc<FeedMetrics>,
    warnings: Arc<Warnings>,
    config: Arc<Config>,
    clock: Clock,
    /// The time when the last poll returned.
    now: Now,
    /// The clock of stall timers, which does not advance while the process does not run.
    running: Running,
    wake: Arc<Wake>,
    stop: Arc<AtomicBool>,
    /// Changes of the bounds of the log and of the journal, which reloads have ordered.
    changes: Receiver<FeedChange>,
    stop_deadline: Option<Deadline>,
}

impl FeedLoop {
    fn new(
        feed: Feed,
        parts: FeedParts,
        feeders_max: usize,
        stop: Arc<AtomicBool>,
        changes: Receiver<FeedChange>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        adopt(&poll, &feed.listener)?;
        register(&poll, &parts.wake, WAKE, Interest::READABLE)?;
        let metrics = parts.metrics;
        let start = match parts.recovered {
            Some(recovered) => SequencerStart {
                head: recovered.journal.head(),
                dedupe: recovered.dedupe,
                journal: Some(recovered.journal),
            },
            None => SequencerStart {
                head: Cursor {
                    epoch: parts.epoch,
                    sequence: Sequence::ZERO,
                },
                dedupe: DedupeKeys::new(fastrand::u64(..)),
                journal: None,
            },
        };
        let sequencer = Sequencer::new(
            start,
            parts.writer,
            parts.mailboxes,
            parts.clock,
            Arc::clone(&metrics),
            Arc::clone(&parts.warnings),
        )
        .traced_by(parts.tracer);
        Ok(Self {
            poll,
            socket: SocketWatch::new(feed.place, Arc::clone(&parts.health)),
            listener: Some(feed.listener),
            check_files_at: parts.clock.now().after(Duration::ZERO),
            health: parts.health,
            is_acceptable: true,
            accept_again: None,
            log_pause_at: None,
            feeders: Slab::new(),
            feeders_max,
            ready: Vec::new(),
            round: Vec::new(),
            intake: Intake::new(sequencer, Arc::clone(&metrics)),
            reports: ReportRouter::new(
                parts.reports,
                Arc::clone(&metrics),
                Arc::clone(&parts.warnings),
            ),
            metrics,
            warnings: parts.warnings,
            config: parts.config,
            clock: parts.clock,
            now: parts.clock.now(),
            running: Running::new(parts.clock.now()),
            wake: parts.wake,
            stop,
            changes,
            stop_deadline: None,
        })
    }

    fn run(mut self) {
        let mut readiness = Events::with_capacity(READINESS_MAX);
        while !self.has_stopped() {
            let timeout = self.timeout(self.clock.now());
            let polled = self.poll.poll(&mut readiness, timeout);
            self.now = self.clock.now();
            self.running.advance(self.now, timeout);
            match polled {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the feed cannot poll its sockets and stops");
                    break;
                }
            }
            self.note_readiness(&readiness);
            self.expire();
            self.intake.sequencer.take_changes(&self.changes);
            self.intake.sequencer.evict_if_due(self.now);
            self.check_files();
            self.turn_feeders();
            self.turn_reports();
            self.accept();
            if self.stop_deadline.is_none() && self.stop.load(Ordering::Acquire) {
                self.begin_stop();
            }
        }
        for feeder in self.feeders.drain() {
            feeder.close();
        }
        self.metrics.feeders.set(0);
        self.intake.sequencer.close();
    }

    fn has_stopped(&self) -> bool {
        self.stop_deadline.is_some_and(|deadline| {
            self.feeders.is_empty() || self.clock.now().has_reached(deadline)
        })
    }

    fn timeout(&self, now: Now) -> Option<Duration> {
        let is_accepting = self.is_acceptable && self.accept_again.is_none();
        if !self.ready.is_empty() || is_accepting || self.reports.has_work() {
            return Some(Duration::ZERO);
        }
        let lingering = self
            .feeders
            .iter()
            .filter_map(|(_, feeder)| feeder.deadline());
        let due = lingering
            .chain(self.accept_again)
            .chain(self.stop_deadline)
            .chain(self.intake.sequencer.next_eviction())
            .chain([self.check_files_at]);
        let due = due.min().map(|deadline| deadline.remaining(now));
        let stall = self.reports.deadline().map(|deadline| {
            let left = deadline.remaining(self.running.at(now));
            left.min(self.running.sleep_max())
        });
        due.into_iter().chain(stall).min()
    }

    /// Records which sockets the kernel reports as ready. Other methods read and write these
    /// sockets later.
    fn note_readiness(&mut self, readiness: &Events) {
        for event in readiness {
            match event.token() {
                LISTENER => self.is_acceptable = self.listener.is_some(),
                WAKE => {
                    self.wake.acknowledge();
                    self.queue_where(Feeder::is_waiting);
                }
                Token(slot) => {
                    if let Some(feeder) = self.feeders.get_mut(slot) {
                        let known = &mut feeder.socket;
                        known.is_readable |= event.is_readable() || event.is_read_closed();
                        known.is_read_closed |= event.is_read_closed();
                        known.is_writable |= event.is_writable() || event.is_write_closed();
                        known.is_hung_up |= event.is_write_closed();
                        queue(feeder, slot, &mut self.ready);
                    }
                }
            }
        }
    }

    fn expire(&mut self) {
        let now = self.now;
        if self
            .accept_again
            .is_some_and(|again| now.has_reached(again))
        {
            self.accept_again = None;
        }
        self.queue_where(|feeder| feeder.deadline().is_some_and(|due| now.has_reached(due)));
    }

    /// Checks at intervals that the socket and the journal's files still exist.
    fn check_files(&mut self) {
        let now = self.now;
        if !now.has_reached(self.check_files_at) {
            return;
        }
        self.check_files_at = now.after(Duration::from_millis(FILES_CHECK_MS));
        let sequencer = &mut self.intake.sequencer;
        sequencer.check_journal();
        let failure = sequencer.journal_failure();
        let reason = failure.map(|reason| format!("the journal refuses publications: {reason}"));
        self.health.set(Part::Journal, reason.as_deref());
        if self.stop_deadline.is_some() {
            return;
        }
        let adopt = |listener: &UnixListener| adopt(&self.poll, listener);
        if let Some(listener) = self.socket.check(now, adopt) {
            self.replace_listener(listener);
        }
    }

    /// Replaces the listener. Before that, accepts the connections in the backlog of the old
    /// listener.
    fn replace_listener(&mut self, listener: UnixListener) {
        self.is_acceptable = true;
        let Some(old) = self.listener.replace(listener) else {
            return;
        };
        while let Ok((stream, _)) = old.accept() {
            self.admit(stream);
        }
        let fd = old.as_raw_fd();
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd)) {
            tracing::debug!(%error, "the feed's replaced socket was not registered");
        }
    }

    fn queue_where(&mut self, condition: impl Fn(&Feeder) -> bool) {
        for (slot, feeder) in &mut self.feeders {
            if condition(feeder) {
                queue(feeder, slot, &mut self.ready);
            }
        }
    }

    /// Runs one turn of each feeder with work to do.
    fn turn_feeders(&mut self) {
        std::mem::swap(&mut self.ready, &mut self.round);
        while let Some(slot) = self.round.pop() {
            let Some(feeder) = self.feeders.get_mut(slot) else {
                continue;
            };
            feeder.is_queued = false;
            match feeder.turn(&mut self.intake, self.clock.now()) {
                TurnOutcome::Again => queue(feeder, slot, &mut self.ready),
                TurnOutcome::Closed => {
                    self.remove(slot);
                    continue;
                }
                TurnOutcome::Wait => {}
            }
            self.watch_for_room(slot);
        }
    }

    /// Asks epoll to report free space in the send buffer of a feeder's socket, but only while the
    /// server waits for this space. Otherwise the loop would wake needlessly each time that a
    /// feeder reads an answer.
    fn watch_for_room(&mut self, slot: usize) {
        let feeder = self.feeders.get_mut(slot);
        let Some(feeder) = certain::some(feeder, "the feeder has had its turn") else {
            return;
        };
        let is_awaited = feeder.awaits_room();
        if is_awaited == feeder.socket.is_room_reported {
            return;
        }
        let interest = match is_awaited {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        let fd = feeder.as_raw_fd();
        let registry = self.poll.registry();
        match registry.reregister(&mut SourceFd(&fd), Token(slot), interest) {
            Ok(()) => feeder.socket.is_room_reported = is_awaited,
            Err(error) => {
                debug_assert!(false, "{error}");
                tracing::error!(%error, "cannot wait for room in a feeder's socket");
                self.remove(slot);
            }
        }
    }

    /// Routes the workers' reports to consumers, and replies to clients.
    fn turn_reports(&mut self) {
        self.update_watched_channels();
        let mut touched = Vec::new();
        let sequencer = &mut self.intake.sequencer;
        self.reports.turn(
            &mut self.feeders,
            sequencer,
            self.now,
            self.running.now(),
            &mut touched,
        );
        for slot in touched {
            if let Some(feeder) = self.feeders.get_mut(slot) {
                queue(feeder, slot, &mut self.ready);
            }
        }
    }

    /// Informs the workers of the channels for which consumers want notices of subscriptions.
    /// Workers report notices only for these channels.
    fn update_watched_channels(&mut self) {
        let Some(worker_ack) = self.intake.consumers_changed.take() else {
            return;
        };
        self.reports.rescan();
        let consumers = self
            .feeders
            .iter()
            .filter(|(_, f)| f.active_options().is_some());
        self.metrics.consumers.set(consumers.count() as u64);
        let watch = Arc::new(reports::watch(&self.feeders));
        self.intake.sequencer.watch(&watch, &worker_ack);
        if worker_ack.sum().is_some() {
            self.queue_where(Feeder::is_waiting);
        }
    }

    fn remove(&mut self, slot: usize) {
        let feeder = self.feeders.try_remove(slot);
        let Some(feeder) = certain::some(feeder, "a feeder is removed once") else {
            return;
        };
        // Closing the descriptor does not remove it from the poll if another descriptor table
        // contains a copy.
        let fd = feeder.as_raw_fd();
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd)) {
            tracing::debug!(%error, "a feeder was not registered");
        }
        if feeder.is_consumer() {
            let _unused = self.intake.note_consumers_changed();
        }
        feeder.close();
        self.metrics.feeders.decrement();
    }

    fn begin_stop(&mut self) {
        self.stop_deadline = Some(self.clock.now().after(Duration::from_millis(LINGER_MS)));
        self.is_acceptable = false;
        let is_bound = self.socket.is_bound();
        // The socket's file is removed before the listener is closed. After the close, another file
        // could have the socket's inode.
        self.socket.release();
        if let Some(listener) = self.listener.take()
            && is_bound
        {
            // The listener is shut down, because other descriptor tables may contain copies of it.
            // These copies must not queue connections that are never accepted. An inherited
            // listener is not shut down, because the next server uses it.
            if let Err(error) = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both) {
                tracing::debug!(%error, "the feed's listener cannot be shut down");
            }
        }
        for (slot, feeder) in &mut self.feeders {
            feeder.begin_stop();
            queue(feeder, slot, &mut self.ready);
        }
    }
}

/// Registers a listener with the poll.
fn adopt(poll: &Poll, listener: &UnixListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    register(poll, listener, LISTENER, Interest::READABLE)
}

fn register(
    poll: &Poll,
    source: &impl AsRawFd,
    token: Token,
    interest: Interest,
) -> io::Result<()> {
    let fd = source.as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&fd), token, interest)
}

fn queue(feeder: &mut Feeder, slot: usize, ready: &mut Vec<usize>) {
    if !feeder.is_queued {
        feeder.is_queued = true;
        ready.push(slot);
    }
}
