//! Binds the operator's socket, and starts the thread that serves it.

use std::io;
use std::mem;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::StartError;
use crate::admin::FigureSources;
use crate::config::limits::{JOURNAL_BACKUP_STOP_MS, OPERATOR_ORDERS_MAX};
use crate::config::problem::Origins;
use crate::config::report::{self, EffectiveKey};
use crate::config::{AdminSocket, Config};
use crate::journal::backup::Backups;
use crate::logs::LogHandle;
use crate::operator::execute::Operated;
use crate::operator::{self, MainOrder, Operator, OperatorHandle};
use crate::sys::clock::Clock;
use crate::worker::mail::inbox::Mailbox;

/// Binds the operator's socket, unless the configuration turns it off. If the configuration does
/// not name a path, a path that cannot be bound is only a warning: the server can run without the
/// socket.
pub(super) fn bind(config: &Config, feed: &Path) -> Result<Option<Operator>, StartError> {
    match &config.admin_socket {
        AdminSocket::Off => Ok(None),
        AdminSocket::Path(path) => {
            let bound = operator::bind(path).map(Some);
            bound.map_err(StartError::AdminSocket)
        }
        // An abstract or unnamed socket of a service manager has no place in the file system.
        AdminSocket::BesideFeed if feed.as_os_str().is_empty() => Ok(None),
        AdminSocket::BesideFeed => match operator::bind(&operator::default_path(feed)) {
            Ok(operator) => Ok(Some(operator)),
            Err(error) => {
                tracing::warn!("there is no socket for operators (key `admin_socket`): {error}");
                Ok(None)
            }
        },
    }
}

/// Returns the keys of the configuration, as operators see them.
fn effective(running: &Config, configured: &Config, origins: &Origins) -> Vec<EffectiveKey> {
    let keys = report::effective(running, configured, origins);
    keys.unwrap_or_else(|error| {
        tracing::error!(%error, "the configuration cannot be shown to operators");
        Vec::new()
    })
}

/// What the main thread shares with operators.
#[derive(Debug)]
pub(super) struct Operators {
    /// The backups of operators; `None` without a journal.
    backups: Option<Backups>,
    /// Requests for the main thread.
    orders: Receiver<MainOrder>,
    /// Keeps the channel open if there is no socket.
    _orders_in: Sender<MainOrder>,
    /// The configuration that operators see.
    effective: Arc<Mutex<Vec<EffectiveKey>>>,
    logs: LogHandle,
    socket: Socket,
}

/// The operator's socket.
#[derive(Debug)]
enum Socket {
    /// There is none.
    None,
    /// The socket is bound. Connections wait until it is served.
    Bound(Box<(Operator, Operated)>),
    /// A thread serves the socket. The handle removes the socket's file on drop.
    Served { _handle: OperatorHandle },
}

impl Operators {
    pub(super) fn new(
        operator: Option<Operator>,
        figures: &Arc<FigureSources>,
        mailboxes: Vec<Mailbox>,
        backups: Option<Backups>,
        logs: LogHandle,
        clock: Clock,
    ) -> Self {
        let (orders_in, orders) = crossbeam_channel::bounded(OPERATOR_ORDERS_MAX);
        let effective = Arc::default();
        let operated = Operated {
            figures: Arc::clone(figures),
            mailboxes,
            backups: backups.clone(),
            clock,
            config: Arc::clone(&effective),
            logs: logs.clone(),
            orders: orders_in.clone(),
        };
        Self {
            backups,
            orders,
            _orders_in: orders_in,
            effective,
            logs,
            socket: operator.map_or(Socket::None, |operator| {
                Socket::Bound(Box::new((operator, operated)))
            }),
        }
    }

    /// Starts the thread that serves the socket, if there is one.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        if let Socket::Bound(bound) = mem::replace(&mut self.socket, Socket::None) {
            let (operator, operated) = *bound;
            let _handle = operator.spawn(operated)?;
            self.socket = Socket::Served { _handle };
        }
        Ok(())
    }

    /// Returns the requests that the main thread has to carry out.
    pub(super) fn orders(&self) -> &Receiver<MainOrder> {
        &self.orders
    }

    /// Refuses further backups. A running backup continues.
    pub(super) fn refuse_backups(&self) {
        if let Some(backups) = &self.backups {
            backups.refuse();
        }
    }

    /// Ends the running backup.
    pub(super) fn stop_backup(&self) {
        if let Some(backups) = &self.backups {
            backups.stop();
        }
    }

    /// Waits until the backup that was stopped has removed its files and the operator has an
    /// answer. The wait is bounded, because the disk of the copy may not respond.
    pub(super) fn wait_for_backup(&self) {
        let Some(backups) = &self.backups else { return };
        if let Some(path) = backups.wait(Duration::from_millis(JOURNAL_BACKUP_STOP_MS)) {
            let path = path.display();
            tracing::warn!(%path, "a backup has not ended in time: remove the incomplete copy");
        }
    }

    /// Sets the configuration that operators see. `configured` is the configuration that was read
    /// last, with its `origins`.
    pub(super) fn set_config(&self, running: &Config, configured: &Config, origins: &Origins) {
        let keys = effective(running, configured, origins);
        *self
            .effective
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Sets the log level of a new configuration.
    pub(super) fn set_log_level(&self, level: &str) {
        if let Err(error) = self.logs.set_level(level) {
            tracing::error!(%error, "the log level has not changed");
        }
    }
}
