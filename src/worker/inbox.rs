//! The one way into a worker: a bounded mailbox and a wake.
//!
//! Handed over are references to publications that are already sequenced and, in order with them,
//! what a backend says to one conn or asks of the worker. A full inbox makes the feed wait: a
//! worker that lags slows the feed, not the memory. The order to drain overtakes all of that, since
//! its window is promised whatever waits here.

use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::config::limits::INBOX_BATCHES_MAX;
use crate::dialogue::{Counts, Direct, Revocation, Watch};
use crate::frame::{Publication, Receipt};
use crate::sys::wake::Wake;
use crate::time::Now;

/// Publications in sequence order, without holes.
pub type Batch = Arc<[Arc<Publication>]>;

/// What a worker is sent.
#[derive(Debug)]
pub enum Mail {
    /// Say how many subscribers these channels have.
    Count(Counts),
    /// Something for one conn.
    Direct(Direct),
    /// Append these to the log and deliver them.
    Publish(Batch),
    /// End the conns whose token is about somebody.
    Revoke(Arc<Revocation>),
    /// Report who comes to these channels and leaves them, from now on.
    Watch {
        /// The channels.
        watch: Arc<Watch>,
        /// Where to confirm it.
        receipt: Arc<Receipt>,
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
        wake,
    };
    (mailbox, Inbox { receiver, drain })
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
        let posted = match self.sender.try_send(mail) {
            Ok(()) => Posted::AtOnce,
            Err(TrySendError::Disconnected(_)) => Posted::WorkerGone,
            Err(TrySendError::Full(mail)) => {
                self.wake.wake();
                self.sender
                    .send(mail)
                    .map_or(Posted::WorkerGone, |()| Posted::AfterWait)
            }
        };
        self.wake.wake();
        posted
    }
}

impl Mailbox {
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

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}
