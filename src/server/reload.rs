//! Reads the files of a new configuration, and puts the configuration into use.
//!
//! Reading may wait for FIFOs, so it happens in a [`ReloadReader`], which any thread can use while
//! the server runs. If there is a problem, nothing changes.

use std::sync::Arc;
use std::time::SystemTime;

use super::Server;
use super::credentials::{Credentials, Material};
use super::threads;
use crate::config::changes::Reloaded;
use crate::config::problem::Origins;
use crate::config::validate::Invalid;
use crate::config::{Config, Listen};
use crate::feed::FeedChange;
use crate::journal::record_writer::Retained;
use crate::log::Log;

/// Reads the certificates and keys of a new configuration. Belongs to the configuration in use when
/// it was created.
#[derive(Debug)]
pub struct ReloadReader {
    config: Arc<Config>,
    credentials: Credentials,
    log: Arc<Log>,
    has_inherited: bool,
}

/// A new configuration that can be used, with the content of its files.
#[derive(Debug)]
pub struct ReadReload {
    reloaded: Reloaded,
    material: Material,
    /// The change of the log and of the journal; `None` if their keys have not changed.
    feed_change: Option<FeedChange>,
    latest: Config,
}

impl ReloadReader {
    /// Checks the `latest` configuration, and reads its certificates and keys.
    ///
    /// # Errors
    /// Returns an entry for each file that cannot be read or used, and for each new value that
    /// contradicts a value which needs a restart.
    pub fn read(&self, latest: Config) -> Result<ReadReload, Vec<Invalid>> {
        let mut reloaded = self.config.reloaded(&latest).map_err(|found| vec![found])?;
        if self.has_inherited {
            reloaded.keep_listen(&self.config);
        }
        reloaded.config.validate()?;
        let unusable = threads::check_added(&self.config.listen, &reloaded.config.listen);
        if !unusable.is_empty() {
            return Err(unusable);
        }
        let material = self.credentials.read(&reloaded.config)?;
        let feed_change = self.feed_change(&reloaded).map_err(|found| vec![found])?;
        Ok(ReadReload {
            reloaded,
            material,
            feed_change,
            latest,
        })
    }

    fn feed_change(&self, reloaded: &Reloaded) -> Result<Option<FeedChange>, Invalid> {
        let concerns_feed = |key: &String| {
            let keys = ["journal.bytes", "namespace", "quota.overflow"];
            key.starts_with("log.") || keys.contains(&key.as_str())
        };
        if !reloaded.changed.iter().any(concerns_feed) {
            return Ok(None);
        }
        let rules = self.log.rules().change(&reloaded.config);
        let rules = rules.map_err(|error| Invalid::new("namespace", error.to_string()))?;
        let journal = Retained::new(&reloaded.config);
        Ok(Some(FeedChange { rules, journal }))
    }
}

impl Server {
    /// Returns a reader for the next reload.
    #[must_use]
    pub fn reload_reader(&self) -> ReloadReader {
        ReloadReader {
            config: Arc::clone(&self.config),
            credentials: self.credentials.clone(),
            log: Arc::clone(&self.figures.log),
            has_inherited: self.listening.is_inherited,
        }
    }

    /// Uses the values of a new configuration that a running server can change, and its
    /// certificates and keys for new connections and tokens. Operators see the configuration with
    /// its `origins`. Returns the keys that have changed, and the keys that need a restart. `read`
    /// must be from a reader that was created after the previous call.
    pub fn apply_reload(&mut self, read: ReadReload, origins: &Origins) -> Reloaded {
        let ReadReload {
            reloaded,
            material,
            feed_change,
            latest,
        } = read;
        self.credentials.replace(material);
        if let Some(change) = feed_change {
            self.feed.change(change);
        }
        let level = &reloaded.config.logging.level;
        if *level != self.config.logging.level {
            self.operators.set_log_level(level);
        }
        self.update_addresses(&reloaded.config.listen);
        self.config = Arc::new(reloaded.config.clone());
        self.set_limits();
        for worker in &self.workers {
            worker.mailbox.order_config(Arc::clone(&self.config));
        }
        self.operators.set_config(&self.config, &latest, origins);
        self.note_reload(true);
        reloaded
    }

    /// Updates the addresses for clients. An address whose port the system chose stays as it is.
    fn update_addresses(&mut self, latest: &[Listen]) {
        if self.listening.is_inherited {
            return;
        }
        let addresses = &mut self.listening.addresses;
        let configured = self.config.listen.iter();
        let mut bound: Vec<_> = configured.zip(std::mem::take(addresses)).collect();
        let of = |listen: &Listen| {
            let mut known = bound.iter();
            let known = known.position(|(configured, _)| configured.address == listen.address);
            let known = known.map(|at| bound.remove(at).1.address);
            let address = known.unwrap_or(listen.address);
            Listen { address, ..*listen }
        };
        *addresses = latest.iter().map(of).collect();
    }

    /// Counts a failed reload in the metrics.
    pub fn note_failed_reload(&self) {
        self.note_reload(false);
    }

    /// Applies the limits of the configuration that no worker owns.
    fn set_limits(&mut self) {
        let (figures, limits) = (&self.figures, &self.config.limits);
        figures.config.replace(Arc::clone(&self.config));
        figures.log.set_channels_max(limits);
        if let Some(sources) = &figures.guard.sources {
            sources.set_limits(limits);
        }
        if let Some(silent) = &figures.guard.silent {
            silent.set_most(limits.pending_conns);
        }
        self.memory_watch.set_limit(limits.memory_bytes);
    }

    fn note_reload(&self, is_success: bool) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let unix_s = since.map_or(0, |since| since.as_secs());
        self.figures.reloads.note(is_success, unix_s);
    }
}
