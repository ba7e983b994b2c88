//! SHELL: looks after the feed's path while the server runs, and says what is wrong with it.
//!
//! A socket whose file is gone goes on for those that are connected, but no feeder can connect. One
//! that the server bound is made again; one that the service manager opened is only reported, since
//! the manager would go on listening on the other. The feed's loop calls [`SocketWatch::check`].

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::listener::SocketFile;
use crate::config::limits::FAULT_REPEATED_MS;
use crate::health::{Health, Part};
use crate::sys::inode::Inode;
use crate::time::{Deadline, Now};

/// Where the feed's socket is on the file system.
#[derive(Debug)]
pub(super) enum SocketPlace {
    Bound(SocketFile),
    /// Opened by the service manager.
    Inherited {
        path: PathBuf,
        inode: Inode,
    },
    /// Opened by the service manager, where this process sees no file.
    Unseen,
}

impl SocketPlace {
    /// That of a socket which was handed to the server.
    pub(super) fn inherited(path: &Path) -> Self {
        match Inode::at_link(path) {
            Ok(inode) => Self::Inherited {
                path: path.to_path_buf(),
                inode,
            },
            Err(_unseen) => Self::Unseen,
        }
    }
}

/// What is wrong with the path.
#[derive(Debug)]
struct Fault {
    reason: String,
    /// When it goes to the log again.
    log_again: Deadline,
}

/// The feed's path under watch.
#[derive(Debug)]
pub(super) struct SocketWatch {
    place: SocketPlace,
    fault: Option<Fault>,
    health: Arc<Health>,
}

impl SocketWatch {
    pub(super) fn new(place: SocketPlace, health: Arc<Health>) -> Self {
        Self {
            place,
            fault: None,
            health,
        }
    }

    /// Whether the server bound the socket itself.
    pub(super) fn is_bound(&self) -> bool {
        matches!(self.place, SocketPlace::Bound(_))
    }

    /// Removes the socket's file if it is still the server's own.
    pub(super) fn release(&mut self) {
        self.place = SocketPlace::Unseen;
    }

    /// Looks at the path. Returns a new listener that replaces the one whose file is gone.
    pub(super) fn check(&mut self, now: Now) -> Option<UnixListener> {
        let (listener, fault) = match &mut self.place {
            SocketPlace::Bound(file) => restore(file),
            SocketPlace::Inherited { path, inode } => (None, inherited_fault(path, *inode)),
            SocketPlace::Unseen => (None, None),
        };
        self.note(fault, now);
        listener
    }

    fn note(&mut self, reason: Option<String>, now: Now) {
        self.health.set(Part::FeedSocket, reason.as_deref());
        let Some(reason) = reason else {
            if self.fault.take().is_some() {
                tracing::warn!("feeders can connect again");
            }
            return;
        };
        let is_known = self
            .fault
            .as_ref()
            .is_some_and(|fault| fault.reason == reason && !now.has_reached(fault.log_again));
        if !is_known {
            tracing::error!("{reason}");
            let log_again = now.after(Duration::from_millis(FAULT_REPEATED_MS));
            self.fault = Some(Fault { reason, log_again });
        }
    }
}

fn restore(file: &mut SocketFile) -> (Option<UnixListener>, Option<String>) {
    match file.restore() {
        Ok(None) => (None, None),
        Ok(Some(listener)) => {
            let path = file.path().display();
            tracing::warn!(%path, "the feed's socket was removed or replaced: it was made again");
            (Some(listener), None)
        }
        Err(error) => {
            let path = file.path().display();
            let reason = format!(
                "no feeder can connect: the feed's socket {path} was removed or replaced and cannot \
                 be made again: {error}"
            );
            (None, Some(reason))
        }
    }
}

fn inherited_fault(path: &Path, inode: Inode) -> Option<String> {
    let is_there = Inode::at_link(path).is_ok_and(|found| found == inode);
    (!is_there).then(|| {
        format!(
            "no feeder can connect: the feed's socket {}, which the service manager opened, was \
             removed or replaced; restart its socket unit",
            path.display()
        )
    })
}
