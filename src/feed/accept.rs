//! SHELL: accepts the connections of feeders.
//!
//! The number of feeders is limited. If a connection cannot be accepted, accepting pauses. If no
//! feeder is connected at that time, `/readyz` reports the fault. The feed's loop calls this module
//! when the listener is ready.

use std::io::{self, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mio::{Interest, Token};

use super::feeder::Feeder;
use super::{FeedLoop, answer_queue, queue, register};
use crate::config::limits::{ACCEPT_PAUSE_MS, ACCEPTS_PER_TURN_MAX, FAULT_REPEATED_MS};
use crate::health::Part;
use crate::sys::peer::PeerProcess;
use crate::warnings::{self, Event, WarningKind};

impl FeedLoop {
    pub(super) fn accept(&mut self) {
        if !self.is_acceptable || self.accept_again.is_some() {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN_MAX {
            let Some(listener) = &self.listener else {
                return;
            };
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => {
                        self.is_acceptable = false;
                        return self.health.set(Part::FeedDescriptors, None);
                    }
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                    _ => return self.pause_accepting(&error),
                },
            }
        }
    }

    /// Stops accepting feeders for a while after an error. Without this pause, a connection in the
    /// backlog would keep the listener ready, and the loop would spin.
    fn pause_accepting(&mut self, error: &io::Error) {
        let now = self.clock.now();
        if self.log_pause_at.is_none_or(|due| now.has_reached(due)) {
            tracing::warn!(%error, "cannot accept feeders for now");
            let repeated = Duration::from_millis(FAULT_REPEATED_MS);
            self.log_pause_at = Some(now.after(repeated));
        }
        if self.feeders.is_empty() {
            let reason = format!("no feeder can connect: {error}");
            self.health.set(Part::FeedDescriptors, Some(&reason));
        }
        self.metrics.accept_pauses.increment();
        let pause = Duration::from_millis(ACCEPT_PAUSE_MS);
        self.accept_again = Some(now.after(pause));
    }

    fn warn_of_refused(&self, stream: &UnixStream) {
        let kind = WarningKind::ServerFull;
        if self.warnings.admit(kind, self.clock.now()) {
            let pid = PeerProcess::of(stream).ok().and_then(|peer| peer.pid);
            let most = self.feeders_max;
            let cause = format!("{most} feeders are connected, which is the limit");
            let event = Event {
                pid,
                ..Event::new(&cause)
            };
            warnings::log(kind, event);
        }
    }

    pub(super) fn admit(&mut self, stream: UnixStream) {
        if self.feeders.len() >= self.feeders_max {
            self.metrics.feeders_refused.increment();
            self.warn_of_refused(&stream);
            return refuse(stream);
        }
        let admitted = Feeder::new(stream, self.config.limits).and_then(|feeder| {
            let entry = self.feeders.vacant_entry();
            let slot = entry.key();
            register(&self.poll, &feeder, Token(slot), Interest::READABLE)?;
            queue(entry.insert(feeder), slot, &mut self.ready);
            Ok(())
        });
        match admitted {
            Ok(()) => {
                self.metrics.feeders.increment();
                self.metrics.feeders_accepted.increment();
            }
            Err(error) => tracing::warn!(%error, "cannot admit a feeder"),
        }
    }
}

fn refuse(mut stream: UnixStream) {
    let line = answer_queue::error_line(0, "too_many_feeders", "too many feeders are connected");
    // The write does not block, because the send buffer of a new connection is empty and has space
    // for the refusal. A failed write is harmless, because the peer has closed the connection
    // already.
    let sent = stream
        .set_nonblocking(true)
        .and_then(|()| stream.write_all(&line));
    if let Err(error) = sent {
        tracing::debug!(%error, "cannot send the refusal to a feeder over the limit");
    }
}
