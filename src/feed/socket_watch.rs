//! SHELL: this module checks the path of the feed's socket while the server runs, and reports
//! faults.
//!
//! If a socket's file is removed, connected feeders are still served, but no other feeder can
//! connect. If the server bound the socket, the server creates the socket again. If the service
//! manager opened the socket, the fault is only reported. The reason is that the manager would keep
//! listening on the old socket. The feed's loop calls [`SocketWatch::check`].

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::limits::FAULT_REPEATED_MS;
use crate::health::{Health, Part};
use crate::sys::inode::Inode;
use crate::sys::socket_file::SocketFile;
use crate::time::{Deadline, Now};

/// The location of the feed's socket in the file system.
#[derive(Debug)]
pub(super) enum SocketPlace {
    Bound(SocketFile),
    /// The service manager opened the socket.
    Inherited {
        path: PathBuf,
        inode: Inode,
    },
    /// The service manager opened the socket, but this process cannot find the socket's file.
    Unseen,
}

impl SocketPlace {
    /// Returns the location of an inherited socket.
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

/// A fault of the socket's path.
#[derive(Debug)]
struct Fault {
    reason: String,
    /// The time after which the fault is logged again.
    log_again: Deadline,
}

/// Checks the path of the feed's socket.
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

    /// Removes the socket's file if the file still belongs to this server.
    pub(super) fn release(&mut self) {
        self.place = SocketPlace::Unseen;
    }

    /// Checks the path. If the socket's file is missing, creates a new listener, prepares this
    /// listener with `adopt`, and returns it.
    pub(super) fn check(
        &mut self,
        now: Now,
        adopt: impl FnOnce(&UnixListener) -> io::Result<()>,
    ) -> Option<UnixListener> {
        let (listener, fault) = match &mut self.place {
            SocketPlace::Bound(file) => restore(file, adopt),
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
                tracing::warn!("the feed's socket and its lock file are in place again");
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

fn restore(
    file: &mut SocketFile,
    adopt: impl FnOnce(&UnixListener) -> io::Result<()>,
) -> (Option<UnixListener>, Option<String>) {
    match file.restore(adopt) {
        Ok(None) => (None, None),
        Ok(Some(listener)) => {
            let path = file.path().display();
            tracing::warn!(%path, "the feed's socket was removed or replaced: it was made again");
            (Some(listener), None)
        }
        Err(error) => {
            let path = file.path().display();
            if file.is_there() {
                let reason = format!(
                    "another server could replace the feed's socket {path}: its lock file was \
                     removed or replaced and cannot be locked again: {error}"
                );
                return (None, Some(reason));
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::Clock;
    use crate::sys::socket_file::{self, SocketAccess};

    /// Returns a listener on `feed.sock` in a folder, a watch that checks the listener's path, and
    /// the [`Health`] to which the watch reports faults.
    fn watched(folder: &Path) -> (UnixListener, SocketWatch, Arc<Health>) {
        let path = folder.join("feed.sock");
        let (listener, file) = socket_file::listen(&path, SocketAccess::OWNER).unwrap();
        let health = Arc::new(Health::default());
        let watch = SocketWatch::new(SocketPlace::Bound(file), Arc::clone(&health));
        (listener, watch, health)
    }

    #[test]
    fn listener_that_cannot_be_used_is_a_fault_until_one_can() {
        let place = tempfile::tempdir().unwrap();
        let (_listener, mut watch, health) = watched(place.path());
        let now = Clock::start().now();
        std::fs::remove_file(place.path().join("feed.sock")).unwrap();
        for _ in 0..2 {
            let refused = watch.check(now, |_| Err(io::ErrorKind::StorageFull.into()));
            assert!(refused.is_none());
            let reasons = health.reasons();
            let reason = reasons.first().unwrap();
            assert!(reason.starts_with("no feeder can connect: "), "{reason}");
            assert!(
                reason.contains("cannot wait for connections on"),
                "{reason}"
            );
        }
        let _listener = watch.check(now, |_| Ok(())).unwrap();
        assert!(health.reasons().is_empty());
    }

    #[test]
    fn lock_that_another_process_has_taken_is_a_fault_of_its_own() {
        let place = tempfile::tempdir().unwrap();
        let (_listener, mut watch, health) = watched(place.path());
        let now = Clock::start().now();
        let lock_path = place.path().join("feed.sock.lock");
        std::fs::remove_file(&lock_path).unwrap();
        let theirs = std::fs::File::create(&lock_path).unwrap();
        theirs.lock().unwrap();
        assert!(watch.check(now, |_| Ok(())).is_none());
        let reasons = health.reasons();
        let reason = reasons.first().unwrap();
        assert!(
            reason.starts_with("another server could replace the feed's socket "),
            "{reason}"
        );
        assert!(!reason.contains("no feeder can connect"), "{reason}");
        drop(theirs);
        assert!(watch.check(now, |_| Ok(())).is_none());
        assert!(health.reasons().is_empty());
    }
}
