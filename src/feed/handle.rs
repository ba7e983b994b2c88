//! SHELL: how the rest of the server starts and stops the feed.
//!
//! A [`Feed`] is a path already taken: feeders may connect and wait. [`Feed::spawn`] gives it its
//! thread, [`FeedHandle`] ends it. The loop itself is in [`super`].

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::FeedLoop;
use super::listener::{self, FeedError};
use super::socket_watch::SocketPlace;
use crate::config::Config;
use crate::config::limits::FEEDERS_MAX;
use crate::health::Health;
use crate::id::Epoch;
use crate::journal::replay::RecoveredFeed;
use crate::log::Writer;
use crate::metrics::FeedMetrics;
use crate::sys::clock::Clock;
use crate::sys::wake::Wake;
use crate::worker::mail::inbox::Mailbox;
use crate::worker::mail::upstream::Reports;

/// A socket on which feeders can connect already, but nobody accepts yet.
#[derive(Debug)]
pub struct Feed {
    /// Before the listener: the file is ours to remove only as long as that lives.
    pub(super) place: SocketPlace,
    pub(super) listener: UnixListener,
    path: PathBuf,
}

/// What the feed's thread works with.
#[derive(Debug)]
pub struct FeedParts {
    /// The epoch of all ids.
    pub epoch: Epoch,
    /// Writes the log.
    pub writer: Writer,
    /// The journal and what it remembers, if there is one.
    pub recovered: Option<RecoveredFeed>,
    /// One for each worker.
    pub mailboxes: Vec<Mailbox>,
    /// What the workers report.
    pub reports: Reports,
    /// By which a worker says that its confirmation was the last.
    pub wake: Arc<Wake>,
    /// The feed's counters.
    pub metrics: Arc<FeedMetrics>,
    /// Where a socket or a journal that is gone is reported.
    pub health: Arc<Health>,
    /// What the operator chose.
    pub config: Arc<Config>,
    /// The process's clock.
    pub clock: Clock,
}

/// The running feed.
#[derive(Debug)]
pub struct FeedHandle {
    stop: Arc<AtomicBool>,
    wake: Arc<Wake>,
    thread: JoinHandle<()>,
}

/// Checks that the configured path can be taken, whether or not another server has it now. Makes
/// nothing. Returns everything for which [`bind`] would fail.
#[must_use]
pub fn check(config: &Config) -> Vec<FeedError> {
    let access = listener::access(config).err();
    let path = listener::check_path(&config.feed).err();
    access.into_iter().chain(path).collect()
}

/// Takes the configured path.
///
/// # Errors
/// When somebody listens there, when something else has that name, or when the system refuses.
pub fn bind(config: &Config) -> Result<Feed, FeedError> {
    let (listener, file) = listener::listen(config)?;
    Ok(Feed {
        place: SocketPlace::Bound(file),
        listener,
        path: config.feed.clone(),
    })
}

impl Feed {
    /// Uses a socket that listens already (socket activation). Its file stays when the feed stops.
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

    /// Where feeders connect.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no descriptor or no thread left.
    pub fn spawn(self, parts: FeedParts) -> io::Result<FeedHandle> {
        self.spawn_for(parts, FEEDERS_MAX)
    }

    pub(super) fn spawn_for(self, parts: FeedParts, feeders_max: usize) -> io::Result<FeedHandle> {
        let stop = Arc::new(AtomicBool::new(false));
        let wake = Arc::clone(&parts.wake);
        let feed_loop = FeedLoop::new(self, parts, feeders_max, Arc::clone(&stop))?;
        let thread = thread::Builder::new()
            .name(String::from("fanfare-feed"))
            .spawn(move || feed_loop.run())?;
        Ok(FeedHandle { stop, wake, thread })
    }
}

impl FeedHandle {
    /// Asks the feed to stop: no new feeders, what was written to it is published, answers go out,
    /// all within [`LINGER_MS`](crate::config::limits::LINGER_MS). Returns at once.
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
