//! SHELL: this module starts and stops the feed.
//!
//! A [`Feed`] is a bound socket: feeders can connect, and their connections wait in the socket's
//! backlog. [`Feed::spawn`] starts the thread, and [`FeedHandle`] stops it. The loop itself is in
//! [`super`].

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::Sender;

use super::FeedLoop;
use super::socket_watch::SocketPlace;
use crate::config::Config;
use crate::config::limits::FEEDERS_MAX;
use crate::health::Health;
use crate::id::Epoch;
use crate::journal::record_writer::Retained;
use crate::journal::replay::RecoveredFeed;
use crate::log::{RuleChange, Writer};
use crate::metrics::FeedMetrics;
use crate::spans::Tracer;
use crate::sys::clock::Clock;
use crate::sys::socket_file::{self, SocketAccess, SocketFileError};
use crate::sys::wake::Wake;
use crate::warnings::Warnings;
use crate::worker::mail::inbox::Mailbox;
use crate::worker::mail::upstream::Reports;

/// A bound socket that does not accept connections yet.
#[derive(Debug)]
pub struct Feed {
    /// Declared before the listener, so that this field is dropped first. The socket's file may be
    /// removed only while the listener is open.
    pub(super) place: SocketPlace,
    pub(super) listener: UnixListener,
    path: PathBuf,
}

/// The objects that the feed's thread needs.
#[derive(Debug)]
pub struct FeedParts {
    /// The epoch of all ids.
    pub epoch: Epoch,
    /// The writer of the log.
    pub writer: Writer,
    /// The journal and the state that was replayed from it; `None` if no journal is configured.
    pub recovered: Option<RecoveredFeed>,
    /// The mailboxes, one per worker.
    pub mailboxes: Vec<Mailbox>,
    /// The reports of the workers.
    pub reports: Reports,
    /// Wakes the feed, for example when the last confirmation of an acknowledgement has arrived.
    pub wake: Arc<Wake>,
    /// The feed's counters.
    pub metrics: Arc<FeedMetrics>,
    /// The health report, which receives failures of the socket or the journal.
    pub health: Arc<Health>,
    /// The limits on warnings.
    pub warnings: Arc<Warnings>,
    /// Decides which publications have a span; `None` if tracing is off.
    pub tracer: Option<Tracer>,
    /// The server's configuration.
    pub config: Arc<Config>,
    /// The process's clock.
    pub clock: Clock,
}

/// The bounds of the log and of the journal that a reload changes.
#[derive(Debug)]
pub struct FeedChange {
    /// The change of the log's rules.
    pub rules: RuleChange,
    /// The bounds of the journal.
    pub journal: Retained,
}

/// The running feed.
#[derive(Debug)]
pub struct FeedHandle {
    stop: Arc<AtomicBool>,
    changes: Sender<FeedChange>,
    wake: Arc<Wake>,
    thread: JoinHandle<()>,
}

/// Checks whether the configured path can be bound, even if another server uses the path now.
/// Creates nothing. Returns all reasons why [`bind`] would fail.
#[must_use]
pub fn check(config: &Config) -> Vec<SocketFileError> {
    let access = SocketAccess::parse(&config.feed_mode, &config.feed_group).err();
    let path = socket_file::check_path(&config.feed).err();
    access.into_iter().chain(path).collect()
}

/// Returns the configuration key that an error of the feed's socket concerns.
#[must_use]
pub fn key_of(error: &SocketFileError) -> &'static str {
    match error {
        SocketFileError::BadMode(_) => "feed_mode",
        SocketFileError::UnknownGroup(_) => "feed_group",
        SocketFileError::ForeignDirectory { .. }
        | SocketFileError::InUse { .. }
        | SocketFileError::Locked { .. }
        | SocketFileError::NotAFile { .. }
        | SocketFileError::NotASocket { .. }
        | SocketFileError::Replaced { .. }
        | SocketFileError::System { .. } => "feed",
    }
}

/// Binds the configured path.
///
/// # Errors
/// Returns a [`SocketFileError`] if another process listens on the path, if the path is not a
/// socket, or if a system call fails.
pub fn bind(config: &Config) -> Result<Feed, SocketFileError> {
    let access = SocketAccess::parse(&config.feed_mode, &config.feed_group)?;
    let (listener, file) = socket_file::listen(&config.feed, access)?;
    Ok(Feed {
        place: SocketPlace::Bound(file),
        listener,
        path: config.feed.clone(),
    })
}

impl Feed {
    /// Creates a feed from an inherited listener (socket activation). The socket's file is not
    /// removed when the feed stops.
    #[must_use]
    pub fn from_listener(listener: UnixListener) -> Self {
        let address = listener.local_addr().ok();
        let path = address.and_then(|address| address.as_pathname().map(Path::to_path_buf));
        let path = path.unwrap_or_default();
        Self {
            place: SocketPlace::inherited(&path),
            listener,
            path,
        }
    }

    /// Returns the path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the feed's thread.
    ///
    /// # Errors
    /// Returns an error if no descriptor or no thread is available.
    pub fn spawn(self, parts: FeedParts) -> io::Result<FeedHandle> {
        self.spawn_for(parts, FEEDERS_MAX)
    }

    pub(super) fn spawn_for(self, parts: FeedParts, feeders_max: usize) -> io::Result<FeedHandle> {
        let stop = Arc::new(AtomicBool::new(false));
        let wake = Arc::clone(&parts.wake);
        let (changes, ordered) = crossbeam_channel::unbounded();
        let feed_loop = FeedLoop::new(self, parts, feeders_max, Arc::clone(&stop), ordered)?;
        let thread = thread::Builder::new()
            .name(String::from("fanfare-feed"))
            .spawn(move || feed_loop.run())?;
        Ok(FeedHandle {
            stop,
            changes,
            wake,
            thread,
        })
    }
}

impl FeedHandle {
    /// Orders the feed to change the bounds of the log and of the journal, and returns immediately.
    pub fn change(&self, change: FeedChange) {
        if self.changes.send(change).is_err() {
            tracing::error!("the feed has ended, so the log keeps its bounds");
        }
        self.wake.wake();
    }

    /// Requests the feed to stop, and returns immediately. The feed then accepts no new feeders.
    /// Within [`LINGER_MS`](crate::config::limits::LINGER_MS), it publishes the publications that
    /// it has already received, and sends the answers.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.wake();
    }

    /// Waits until the feed has stopped.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the feed's thread has panicked");
        }
    }
}
