//! The one way into a worker: a bounded mailbox and a wake.
//!
//! Handed over are entries of the log, for channels that have subscribers on this worker, and, in
//! order with them, what a backend says to one conn or asks of the worker. A full inbox makes the
//! feed wait: a worker that lags slows the feed, not the memory. The order to drain overtakes all
//! of that, since its window is promised whatever waits here.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError};

use crate::backend::{DirectMessage, Revocation, SubscriberCounts, WatchedChannels};
use crate::config::limits::{INBOX_BATCHES_MAX, INBOX_WAIT_MS};
use crate::frame::WorkerAck;
use crate::log::{ChannelKey, Entry, assert_unlocked};
use crate::sys::wake::Wake;
use crate::time::Now;

/// An entry of the log, for the subscribers of its channel.
#[derive(Debug)]
pub struct Item {
    /// Where the worker has the channel, unless its last subscriber has left meanwhile.
    pub place: u32,
    /// The channel's key in the log.
    pub key: ChannelKey,
    /// The entry.
    pub entry: Entry,
    /// Who waits for the worker to have it.
    pub worker_ack: Option<Arc<WorkerAck>>,
}

/// Entries in the order of their numbers.
pub type Batch = Vec<Item>;

/// What a worker is sent.
#[derive(Debug)]
pub enum Mail {
    /// Say how many subscribers these channels have.
    Count(SubscriberCounts),
    /// Something for one conn.
    Direct(DirectMessage),
    /// Deliver these.
    Publish(Batch),
    /// End the conns whose token is about somebody.
    Revoke(Arc<Revocation>),
    /// Report who comes to these channels and leaves them, from now on.
    Watch {
        /// The channels.
        watch: Arc<WatchedChannels>,
        /// Where to confirm it.
        worker_ack: Arc<WorkerAck>,
    },
}

/// The order to accept no more, say goodbye to each conn, and end when none is left.
#[derive(Clone, Copy, Debug)]
pub struct DrainOrder {
    /// How many conns all workers have together: as many clients may return.
    pub conns: u64,
    /// When it was given. The window of all workers begins then, however late one of them is.
    pub given: Now,
}

/// The sending end; the feed and the main thread hold one per worker.
#[derive(Clone, Debug)]
pub struct Mailbox {
    sender: Sender<Mail>,
    drain: Arc<OnceLock<DrainOrder>>,
    wake: Arc<Wake>,
}

/// The receiving end, the worker's.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver<Mail>,
    drain: Arc<OnceLock<DrainOrder>>,
    wake: Arc<Wake>,
}

/// How a mail was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Posted {
    /// At once.
    AtOnce,
    /// After waiting for the worker to make room.
    AfterWait,
    /// Not at all: the worker has ended.
    WorkerGone,
}

/// Makes both ends. `wake` makes the worker's poll return.
#[must_use]
pub fn inbox(wake: Arc<Wake>) -> (Mailbox, Inbox) {
    let (sender, receiver) = crossbeam_channel::bounded(INBOX_BATCHES_MAX);
    let drain = Arc::default();
    let mailbox = Mailbox {
        sender,
        drain: Arc::clone(&drain),
        wake: Arc::clone(&wake),
    };
    let inbox = Inbox {
        receiver,
        drain,
        wake,
    };
    (mailbox, inbox)
}

impl Mailbox {
    /// Mails that wait. For tests that must not wait themselves.
    #[doc(hidden)]
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.sender.len()
    }

    /// Hands over a mail; waits while the inbox is full.
    pub fn post(&self, mail: Mail) -> Posted {
        self.post_and_meanwhile(mail, || {})
    }

    /// The same, with something that is done now and then during the wait.
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
    /// Has the worker turn, and see what it shares with the feed. Never waits.
    pub fn wake(&self) {
        self.wake.wake();
    }

    /// Has the worker drain. Never waits; the first order stands.
    pub fn order_drain(&self, order: DrainOrder) {
        let _given = self.drain.set(order);
        self.wake.wake();
    }
}

impl Inbox {
    /// The order to drain, if it was given.
    #[must_use]
    pub fn drain_order(&self) -> Option<DrainOrder> {
        self.drain.get().copied()
    }

    /// The next mail, if there is one.
    #[must_use]
    pub fn take(&self) -> Option<Mail> {
        self.receiver.try_recv().ok()
    }

    /// The next mail; waits for it. `None` when every mailbox is gone. For a test's stand-in: a
    /// worker sleeps in its poll.
    #[cfg(test)]
    pub(crate) fn wait(&self) -> Option<Mail> {
        self.receiver.recv().ok()
    }

    /// How often the worker was woken by a system call.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.wake.count()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}
