//! Notifications to the service manager (`sd_notify(3)`): ready, reloading, stopping, alive.
//!
//! `NOTIFY_SOCKET` names the manager's datagram socket: a path, or `@` and a name in the abstract
//! namespace. If the variable is missing or empty, nothing is sent.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager that started this process. The address is `None` if there is no service
/// manager.
#[derive(Debug, Default)]
pub struct ServiceManager {
    address: Option<SocketAddr>,
    /// Whether the last notification could not be sent. Only the first failure of a series is
    /// logged.
    is_failing: bool,
}

impl ServiceManager {
    /// Returns the service manager that `NOTIFY_SOCKET` names. An address of another kind, such as
    /// `vsock:`, is logged and ignored, because a missing notification must not prevent a start.
    #[must_use]
    pub fn from_environment() -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
        let address = address(&name).unwrap_or_else(|error| {
            tracing::warn!("the service manager is not notified: NOTIFY_SOCKET={name:?}: {error}");
            None
        });
        Self {
            address,
            is_failing: false,
        }
    }

    /// Reports that the startup is complete.
    pub fn notify_ready(&mut self, status: &str) {
        self.notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Reports that a reload has begun.
    pub fn notify_reloading(&mut self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.notify(&[NotifyState::Reloading, now]);
        }
    }

    /// Reports that the reload has ended, successfully or not.
    pub fn notify_reloaded(&mut self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// Reports that the drain has begun.
    pub fn notify_stopping(&mut self) {
        self.notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    }

    /// Reports that every worker has taken a turn after the previous notification.
    pub fn notify_alive(&mut self) {
        self.notify(&[NotifyState::Watchdog]);
    }

    fn notify(&mut self, states: &[NotifyState<'_>]) {
        let Some(address) = &self.address else { return };
        let mut message = String::new();
        for state in states {
            let written = writeln!(message, "{state}");
            debug_assert!(written.is_ok(), "writing to a string never fails");
        }
        let socket = UnixDatagram::unbound();
        let sent = socket.and_then(|socket| socket.send_to_addr(message.as_bytes(), address));
        if let Err(error) = &sent
            && !self.is_failing
        {
            tracing::warn!(%error, "cannot notify the service manager");
        }
        self.is_failing = sent.is_err();
    }
}

/// Returns the watchdog's interval if the manager has set an interval for this process. Zero counts
/// as no watchdog.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

fn address(name: &OsStr) -> io::Result<Option<SocketAddr>> {
    match name.as_bytes() {
        [] => Ok(None),
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name).map(Some),
        [b'/', ..] => SocketAddr::from_pathname(name).map(Some),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "only a path, or `@` and a name, is supported",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address_of(name: &str) -> io::Result<Option<SocketAddr>> {
        address(OsStr::new(name))
    }

    #[test]
    fn address_is_a_path_or_an_abstract_name() {
        let path = address_of("/run/notify").unwrap().unwrap();
        assert_eq!(path.as_pathname().unwrap().to_str(), Some("/run/notify"));
        let name = address_of("@a/b").unwrap().unwrap();
        assert_eq!(name.as_abstract_name(), Some(&b"a/b"[..]));
        assert!(address_of("").unwrap().is_none());
    }

    #[test]
    fn addresses_of_other_kinds_are_errors() {
        let long = format!("@{}", "x".repeat(200));
        for name in ["@", "vsock:2:1234", "vsock-stream:2:1", "notify", &long] {
            assert!(address_of(name).is_err(), "{name}");
        }
    }
}
