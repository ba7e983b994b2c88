//! What the service manager is told (`sd_notify(3)`): ready, stopping, alive.
//!
//! Without a service manager there is nobody to tell, and nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// Startup is complete.
pub fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What may change without a restart is read again.
pub fn notify_reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// It has been read.
pub fn notify_reloaded() {
    notify(&[NotifyState::Ready]);
}

/// The server drains.
pub fn notify_stopping() {
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("telling everybody goodbye"),
    ]);
}

/// Every worker is alive.
pub fn notify_alive() {
    notify(&[NotifyState::Watchdog]);
}

/// How often the manager wants to hear that we are alive, if it does.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
