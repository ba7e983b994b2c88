//! SHELL: this module writes warnings about events that clients, backends or a busy machine cause.
//!
//! An attacker could cause such events all the time, so the lines of each [`WarningKind`] are
//! limited ([`WARNINGS_PER_SECOND_MAX`]). One more line contains the number of suppressed lines. A
//! line never contains a token, a cookie or a payload, and the log escapes control characters.
//! Workers and the feed call this module. It does not block them, because the log has a bounded
//! queue.

mod suppressed;

use std::net::SocketAddr;

use suppressed::Suppressed;

use crate::config::limits::WARNINGS_PER_SECOND_MAX;
use crate::id::ConnName;
use crate::proxy::Source;
use crate::time::Now;
use crate::time::window_limiter::{Admitted, WindowLimiter};

/// The kinds of warnings whose lines are limited. Each kind has its own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarningKind {
    /// No consumer wants a client's publication, or too many publications wait.
    BackendUnreachable,
    /// A consumer is disconnected because it does not read.
    ConsumerDisconnected,
    /// A connection is refused or closed because of a limit on clients, or because its peer is not
    /// a trusted proxy.
    LimitReached,
    /// A process of another user has connected to the operator's socket.
    OperatorRefused,
    /// A connection, subscription or feeder is refused because the server is full or has no
    /// resources left.
    ServerFull,
    /// A client does not read as fast as publications arrive.
    SlowReader,
    /// A TLS handshake or a TLS record is invalid.
    TlsFailed,
    /// A client's token is missing, invalid, or does not allow what the client asks for.
    TokenRefused,
    /// A worker is late.
    WorkerLate,
}

impl WarningKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::BackendUnreachable,
        Self::ConsumerDisconnected,
        Self::LimitReached,
        Self::OperatorRefused,
        Self::ServerFull,
        Self::SlowReader,
        Self::TlsFailed,
        Self::TokenRefused,
        Self::WorkerLate,
    ];

    /// Returns the name of the kind, which is the value of `kind` in log lines.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::BackendUnreachable => "backend_unreachable",
            Self::ConsumerDisconnected => "consumer_disconnected",
            Self::LimitReached => "limit_reached",
            Self::OperatorRefused => "operator_refused",
            Self::ServerFull => "server_full",
            Self::SlowReader => "slow_reader",
            Self::TlsFailed => "tls_failed",
            Self::TokenRefused => "token_refused",
            Self::WorkerLate => "worker_late",
        }
    }

    /// Returns the sentence with which each line of the kind begins.
    fn sentence(self) -> &'static str {
        match self {
            Self::BackendUnreachable => "no backend takes what clients publish",
            Self::ConsumerDisconnected => "a consumer was disconnected",
            Self::LimitReached => "refused because of a limit",
            Self::OperatorRefused => "a request of an operator was refused",
            Self::ServerFull => "refused because the server is full",
            Self::SlowReader => "a client reads too slowly",
            Self::TlsFailed => "TLS failed",
            Self::TokenRefused => "a client's token was refused",
            Self::WorkerLate => "a worker is late",
        }
    }
}

/// The event that a line describes. Absent values are not in the line.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The worker that has found the event, or that is late.
    pub worker: Option<u16>,
    /// The name of the connection, as backends know it.
    pub connection: Option<ConnName>,
    /// The address of the connection's peer. Behind a proxy, this is the proxy.
    pub peer: Option<SocketAddr>,
    /// The client that a trusted proxy has named.
    pub client: Option<Source>,
    /// The process at the other end of the feed's socket or the operator's socket.
    pub pid: Option<i32>,
    /// The reason, in the server's own words.
    pub cause: &'a str,
}

impl<'a> Event<'a> {
    /// Makes an event of which only the cause is known.
    #[must_use]
    pub fn new(cause: &'a str) -> Self {
        Self {
            worker: None,
            connection: None,
            peer: None,
            client: None,
            pid: None,
            cause,
        }
    }
}

/// The limits on warnings, which all threads share.
#[derive(Debug, Default)]
pub struct Warnings {
    limiters: [WindowLimiter; WarningKind::ALL.len()],
    suppressed: Suppressed,
}

impl Warnings {
    /// Whether a line of this kind may be written now. An event beyond the limit is counted as
    /// suppressed. If the log's level excludes warnings, returns false and counts nothing. Call it
    /// before the values of the line are collected, because this call is cheap.
    #[must_use]
    pub fn admit(&self, kind: WarningKind, now: Now) -> bool {
        if !tracing::enabled!(tracing::Level::WARN) {
            return false;
        }
        let Some(limiter) = self.limiters.get(kind as usize) else {
            debug_assert!(false, "{kind:?} has no limiter");
            return false;
        };
        match limiter.admit(now, WARNINGS_PER_SECOND_MAX) {
            Admitted::First => log_suppressed(kind, self.suppressed.take(kind)),
            Admitted::Next => {}
            Admitted::Suppressed => {
                self.suppressed.count(kind);
                return false;
            }
        }
        true
    }

    /// Writes the number of lines that were suppressed in a window that has ended. Called once per
    /// window, because the next line of a kind may never come.
    pub fn report_suppressed(&self, now: Now) {
        for (kind, limiter) in WarningKind::ALL.into_iter().zip(&self.limiters) {
            if limiter.has_ended(now) {
                log_suppressed(kind, self.suppressed.take(kind));
            }
        }
    }

    /// Returns the number of lines that were suppressed until now.
    #[must_use]
    pub fn suppressed_total(&self) -> u64 {
        let totals = WarningKind::ALL.map(|kind| self.suppressed.total(kind));
        totals.iter().sum()
    }
}

/// Writes the line of an event for which [`Warnings::admit`] has returned true.
pub fn log(kind: WarningKind, event: Event<'_>) {
    tracing::warn!(
        kind = kind.label(),
        cause = event.cause,
        peer = event.peer.map(tracing::field::display),
        client = event.client.map(tracing::field::display),
        connection = event.connection.map(tracing::field::display),
        worker = event.worker,
        pid = event.pid,
        "{}",
        kind.sentence()
    );
}

fn log_suppressed(kind: WarningKind, suppressed: u64) {
    if suppressed > 0 {
        tracing::warn!(
            kind = kind.label(),
            suppressed,
            "{suppressed} more warnings of this kind were suppressed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_in_the_order_of_their_limiters_and_have_different_names() {
        let mut names = Vec::new();
        for (index, kind) in WarningKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            assert!(!names.contains(&kind.label()));
            names.push(kind.label());
        }
    }
}
