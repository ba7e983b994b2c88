//! warn: writes warnings about conns and about this worker.
//!
//! The limit on warnings is checked first, so a suppressed warning costs no system call. The
//! address of a peer is not stored. The kernel is asked for it when a line is written.

use std::fmt;
use std::time::Duration;

use super::Worker;
use super::admission::guard::AdmissionError;
use super::wire::net::Net;
use crate::backend::{BackendMessage, PublishOutcome};
use crate::effect::CloseReason;
use crate::hub::{Gap, GapCause};
use crate::id::{ChannelName, ConnId};
use crate::proxy::TooMany;
use crate::warnings::{self, Event, WarningKind};

/// The cause of the warning about a client that does not read.
pub(super) const NOT_READ: &str = "closed: its socket accepted no bytes for two heartbeats";

impl<N: Net> Worker<N> {
    /// Writes a warning about a conn, unless too many of its kind were written.
    pub(super) fn warn(&self, id: ConnId, kind: WarningKind, cause: &dyn fmt::Display) {
        if !self.parts.warnings.admit(kind, self.now) {
            return;
        }
        let slot = self.conns.get(id.slot as usize);
        let slot = slot.filter(|slot| slot.generation == id.generation);
        let peer = slot.and_then(|slot| self.net.peer_address(&slot.socket));
        let cause = cause.to_string();
        let event = Event {
            worker: Some(self.parts.number),
            connection: Some(self.name(id)),
            peer,
            client: self.peers.client(id.slot),
            ..Event::new(&cause)
        };
        warnings::log(kind, event);
    }

    /// Writes a warning about a connection that is refused before it has a slot.
    pub(super) fn warn_of_refused(&self, socket: &N::Socket, refused: AdmissionError) {
        let kind = kind_of(refused);
        if !self.parts.warnings.admit(kind, self.now) {
            return;
        }
        let event = Event {
            worker: Some(self.parts.number),
            peer: self.net.peer_address(socket),
            ..Event::new(cause_of(refused))
        };
        warnings::log(kind, event);
    }

    /// Writes a warning that a conn's proxy has named a client with too many conns.
    pub(super) fn warn_of_too_many(&self, id: ConnId, too_many: TooMany) {
        let refused = AdmissionError::Source(too_many);
        self.warn(id, kind_of(refused), &cause_of(refused));
    }

    /// Writes a warning about this worker, which is not about one conn.
    pub(super) fn warn_of_worker(&self, kind: WarningKind, cause: &dyn fmt::Display) {
        if self.parts.warnings.admit(kind, self.now) {
            let cause = cause.to_string();
            let event = Event {
                worker: Some(self.parts.number),
                ..Event::new(&cause)
            };
            warnings::log(kind, event);
        }
    }

    /// Writes a warning that this turn was late. `elapsed` is the time since the last turn, and
    /// `sleep` is the time for which the worker asked to sleep.
    pub(super) fn warn_late(&self, elapsed: Duration, sleep: Option<Duration>) {
        let late_ms = elapsed
            .saturating_sub(sleep.unwrap_or_default())
            .as_millis();
        let cause = format_args!(
            "{late_ms} ms late: the process was stopped, had no processor or had too much to do"
        );
        self.warn_of_worker(WarningKind::WorkerLate, &cause);
    }

    /// Writes a warning if a gap begins because its subscriber was too slow.
    pub(super) fn warn_of_gap(&self, id: ConnId, channel: &ChannelName, gap: &Gap) {
        if gap.cause != GapCause::Slow {
            return;
        }
        let cause = SlowGap {
            channel: channel.as_str(),
            missed: gap.missed,
        };
        self.warn(id, WarningKind::SlowReader, &cause);
    }

    /// Writes a warning if the reason for which a conn is closed concerns the operator. `is_ending`
    /// is the conn's state before it is closed. Closes because of [`CloseReason::Overflow`] and of
    /// errors of the socket do not call this function.
    pub(super) fn warn_of_close(&self, id: ConnId, reason: CloseReason, is_ending: bool) {
        let is_writable = self
            .conns
            .get(id.slot as usize)
            .is_some_and(|slot| slot.is_writable);
        match reason {
            CloseReason::CrowdedOut => {
                let cause = "closed: too many connections without a request head \
                    (limits.pending_conns)";
                self.warn(id, WarningKind::LimitReached, &cause);
            }
            // The client has not answered a ping, although its socket may have room. Then the
            // client is gone, and not slow.
            CloseReason::Idle if is_writable => {}
            CloseReason::Idle => {
                let cause = match is_ending {
                    true => NOT_READ,
                    false => "closed: it did not read a response in time (limits.request_head_ms)",
                };
                self.warn(id, WarningKind::SlowReader, &cause);
            }
            CloseReason::HeadTimeout if self.filters.is_handshaking(id.slot) => {
                let cause = "the handshake was not complete in time (tls.handshake_ms)";
                self.warn(id, WarningKind::TlsFailed, &cause);
            }
            _ => {}
        }
    }

    /// Writes a warning if a client's publication was dropped because no consumer takes it.
    pub(super) fn warn_of_reply(&self, id: ConnId, message: &BackendMessage) {
        let BackendMessage::PublishReply { outcome, .. } = message else {
            return;
        };
        let cause = match outcome {
            PublishOutcome::NoConsumer => "no consumer wants the channel of a publication",
            PublishOutcome::Busy => "too many publications wait for the feed or for a consumer",
            PublishOutcome::Broadcast(_)
            | PublishOutcome::Consumed
            | PublishOutcome::Refused
            | PublishOutcome::Unsynced => return,
        };
        self.warn(id, WarningKind::BackendUnreachable, &cause);
    }
}

/// The cause of the warning about a gap.
struct SlowGap<'a> {
    channel: &'a str,
    /// The number of missing publications, if it is known.
    missed: Option<u64>,
}

impl fmt::Display for SlowGap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channel, missed } = self;
        match missed {
            Some(missed) => write!(f, "a gap of {missed} publications of channel {channel}"),
            None => write!(f, "a gap of unknown size in channel {channel}"),
        }
    }
}

/// Refusals that a single client can cause have a kind of their own. So they cannot suppress the
/// warnings about the server itself.
fn kind_of(refused: AdmissionError) -> WarningKind {
    match refused {
        AdmissionError::Full | AdmissionError::Memory => WarningKind::ServerFull,
        AdmissionError::Source(_) | AdmissionError::Untrusted => WarningKind::LimitReached,
    }
}

fn cause_of(refused: AdmissionError) -> &'static str {
    match refused {
        AdmissionError::Full => "the worker is full (limits.conns, or LimitNOFILE= if that is 0)",
        AdmissionError::Memory => "the server is short of memory (limits.memory_bytes)",
        AdmissionError::Source(TooMany::Conns) => {
            "too many connections from one address (limits.conns_per_source)"
        }
        AdmissionError::Source(TooMany::Connects) => {
            "too many new connections from one address \
             (limits.connects_per_second_per_source)"
        }
        AdmissionError::Untrusted => {
            "the listener expects PROXY headers, and the peer is not in proxy.trusted"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_of_unknown_size_has_no_number() {
        for (missed, expected) in [
            (Some(3), "a gap of 3 publications of channel a"),
            (None, "a gap of unknown size in channel a"),
        ] {
            let channel = "a";
            assert_eq!(SlowGap { channel, missed }.to_string(), expected);
        }
    }
}
