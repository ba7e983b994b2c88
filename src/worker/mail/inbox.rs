//! The bounded inbox of a worker. Adding a message (*posting mail*) wakes the worker.
//!
//! The feed posts entries of the log for channels that have subscribers on this worker. Messages
//! and requests of backends are posted to the same queue, so their order is kept. A full inbox
//! blocks the feed, so a worker that lags cannot use more and more memory. The order to drain and a
//! new configuration are not in this queue, so they overtake all mail. The order to drain must not
//! wait, because the maximum duration of a drain starts when the order is given.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError};

use super::survey::Survey;
use crate::backend::{DirectMessage, Revocation, SubscriberCounts, WatchedChannels};
use crate::config::Config;
use crate::config::limits::{INBOX_BATCHES_MAX, INBOX_WAIT_MS, SURVEYS_MAX};
use crate::frame::WorkerAck;
use crate::log::{ChannelKey, Entry, assert_unlocked};
use crate::spans::PublicationSpan;
use crate::sys::wake::Wake;
use crate::time::Now;
use crate::worker::reloadable::Reloadable;

/// An entry of the log, sent to a worker that has subscribers of the entry's channel.
#[derive(Debug)]
pub struct Item {
    /// The index of the channel on this worker when the entry was sent. If the channel's last
    /// subscriber has left since then, the index may belong to another channel.
    pub place: u32,
    /// The channel's key in the log.
    pub key: ChannelKey,
    /// The entry of the log.
    pub entry: Entry,
    /// The worker confirms this acknowledgement after it has processed the entry.
    pub worker_ack: Option<Arc<WorkerAck>>,
    /// The publication's span, if the publication is sampled.
    pub span: Option<Arc<PublicationSpan>>,
}

/// Entries in the order of their sequence numbers.
pub type Batch = Vec<Item>;

/// A message to a worker.
#[derive(Debug)]
pub enum Mail {
    /// Count the subscribers of these channels.
    Count(SubscriberCounts),
    /// Deliver a message to one conn.
    Direct(DirectMessage),
    /// Deliver these entries.
    Publish(Batch),
    /// Close the conns whose token has the revoked subject.
    Revoke(Arc<Revocation>),
    /// From now on, report when conns subscribe to these channels or unsubscribe.
    Watch {
        /// The channels to watch.
        watched: Arc<WatchedChannels>,
        /// The worker confirms this acknowledgement when it has begun to report subscriptions to
        /// these channels.
        worker_ack: Arc<WorkerAck>,
    },
}

/// The order to drain: stop listening, send each conn a goodbye, and end when no conn is left.
#[derive(Clone, Copy, Debug)]
pub struct DrainOrder {
    /// The number of conns of all workers, which is the number of clients that may reconnect.
    pub conns: u64,
    /// The time at which the order was given. The maximum duration of the drain starts at this time
    /// on all workers, even on a worker that reads the order late.
    pub given: Now,
}

/// The sending end of an inbox. The feed and the main thread have one mailbox for each worker.
#[derive(Clone, Debug)]
pub struct Mailbox {
    sender: Sender<Mail>,
    config: Arc<ConfigSlot>,
    surveys: Sender<Survey>,
    drain: Arc<OnceLock<DrainOrder>>,
    wake: Arc<Wake>,
}

/// The receiving end of an inbox, for the worker.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver<Mail>,
    config: Arc<ConfigSlot>,
    /// The generation of the configuration that was taken last.
    config_taken: u64,
    surveys: Receiver<Survey>,
    drain: Arc<OnceLock<DrainOrder>>,
    wake: Arc<Wake>,
}

/// The newest configuration that was ordered. A worker that is late skips the earlier ones.
#[derive(Debug)]
struct ConfigSlot {
    newest: Reloadable<Option<Arc<Config>>>,
    /// The number of configurations that were ordered. A worker reads this number in each turn, and
    /// takes the lock only if the number has changed.
    generation: AtomicU64,
}

/// The result of posting a message to an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Posted {
    /// The inbox had room for the message.
    AtOnce,
    /// The inbox was full, and the call waited until there was room.
    AfterWait,
    /// The mail was dropped because the worker has ended.
    WorkerGone,
}

/// The result of asking a worker a question of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum AskOutcome {
    /// The worker will answer the question.
    Queued,
    /// The question was dropped because too many questions wait.
    QueueFull,
    /// The question was dropped because the worker has ended.
    WorkerGone,
}

/// Creates both ends of an inbox. `wake` wakes the worker from its poll.
#[must_use]
pub fn inbox(wake: Arc<Wake>) -> (Mailbox, Inbox) {
    let (sender, receiver) = crossbeam_channel::bounded(INBOX_BATCHES_MAX);
    let config = Arc::new(ConfigSlot {
        newest: Reloadable::new(None),
        generation: AtomicU64::new(0),
    });
    let (surveys_in, surveys) = crossbeam_channel::bounded(SURVEYS_MAX);
    let drain = Arc::default();
    let mailbox = Mailbox {
        sender,
        config: Arc::clone(&config),
        surveys: surveys_in,
        drain: Arc::clone(&drain),
        wake: Arc::clone(&wake),
    };
    let inbox = Inbox {
        receiver,
        config,
        config_taken: 0,
        surveys,
        drain,
        wake,
    };
    (mailbox, inbox)
}

impl Mailbox {
    /// Returns the number of messages in the inbox. For tests that must not block.
    #[doc(hidden)]
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.sender.len()
    }

    /// Posts mail. Blocks while the inbox is full.
    pub fn post(&self, mail: Mail) -> Posted {
        self.post_and_meanwhile(mail, || {})
    }

    /// Posts mail. Blocks while the inbox is full, and meanwhile calls `act` at regular intervals.
    pub fn post_and_meanwhile(&self, mail: Mail, mut act: impl FnMut()) -> Posted {
        assert_unlocked();
        let mut posted = Posted::AtOnce;
        let mut unsent = match self.sender.try_send(mail) {
            Ok(()) => None,
            Err(TrySendError::Disconnected(_)) => return Posted::WorkerGone,
            Err(TrySendError::Full(mail)) => Some(mail),
        };
        while let Some(mail) = unsent.take() {
            posted = Posted::AfterWait;
            self.wake.wake();
            let wait = Duration::from_millis(INBOX_WAIT_MS);
            match self.sender.send_timeout(mail, wait) {
                Ok(()) => {}
                Err(SendTimeoutError::Disconnected(_)) => return Posted::WorkerGone,
                Err(SendTimeoutError::Timeout(mail)) => {
                    act();
                    unsent = Some(mail);
                }
            }
        }
        self.wake.wake();
        posted
    }
}

impl Mailbox {
    /// Wakes the worker, which then reads the state that it shares with the feed. Never blocks.
    pub fn wake(&self) {
        self.wake.wake();
    }

    /// Gives the worker a new configuration, which replaces a configuration that the worker has not
    /// taken. The worker uses it from its next turn on. Never blocks.
    pub fn order_config(&self, config: Arc<Config>) {
        self.config.newest.replace(Some(config));
        self.config.generation.fetch_add(1, Ordering::Release);
        self.wake.wake();
    }

    /// Asks the worker a question of an operator. Never blocks.
    pub fn ask(&self, survey: Survey) -> AskOutcome {
        let outcome = match self.surveys.try_send(survey) {
            Ok(()) => AskOutcome::Queued,
            Err(TrySendError::Full(_)) => AskOutcome::QueueFull,
            Err(TrySendError::Disconnected(_)) => AskOutcome::WorkerGone,
        };
        self.wake.wake();
        outcome
    }

    /// Orders the worker to drain. Never blocks. Later orders are ignored.
    pub fn order_drain(&self, order: DrainOrder) {
        let _given = self.drain.set(order);
        self.wake.wake();
    }
}

impl Inbox {
    /// Returns the order to drain, or `None` if no order was issued.
    #[must_use]
    pub fn drain_order(&self) -> Option<DrainOrder> {
        self.drain.get().copied()
    }

    /// Returns the newest configuration if one was ordered since the previous call. If an order
    /// comes during the call, the next call may return the same configuration again.
    #[must_use]
    pub fn take_config(&mut self) -> Option<Arc<Config>> {
        let generation = self.config.generation.load(Ordering::Acquire);
        if generation == self.config_taken {
            return None;
        }
        self.config_taken = generation;
        self.config.newest.current()
    }

    /// Removes and returns the next question of an operator, or returns `None` if there is none.
    #[must_use]
    pub fn take_survey(&self) -> Option<Survey> {
        self.surveys.try_recv().ok()
    }

    /// Whether a question of an operator waits.
    #[must_use]
    pub fn has_survey(&self) -> bool {
        !self.surveys.is_empty()
    }

    /// Removes and returns the next message, or returns `None` if the inbox is empty.
    #[must_use]
    pub fn take(&self) -> Option<Mail> {
        self.receiver.try_recv().ok()
    }

    /// Waits for the next message. Returns `None` if every mailbox was dropped. Only tests call
    /// this function, because a worker waits in its poll instead.
    #[cfg(test)]
    pub(crate) fn wait(&self) -> Option<Mail> {
        self.receiver.recv().ok()
    }

    /// Returns how many times the worker was woken with a system call.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.wake.count()
    }

    /// Whether the inbox is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_configuration_is_taken_once_and_replaces_earlier_ones() {
        let (mailbox, mut inbox) = inbox(Arc::new(Wake::new().unwrap()));
        assert!(inbox.take_config().is_none());
        for round in 1..=2 {
            let configs = [(); 3].map(|()| Arc::new(Config::default()));
            for config in &configs {
                mailbox.clone().order_config(Arc::clone(config));
            }
            let [first, second, newest] = configs;
            let taken = inbox.take_config().unwrap();
            assert!(Arc::ptr_eq(&taken, &newest), "round {round}");
            assert!(inbox.take_config().is_none());
            let counts = [first, second].map(|config| Arc::strong_count(&config));
            assert_eq!(counts, [1, 1], "earlier configurations are freed");
        }
    }
}
